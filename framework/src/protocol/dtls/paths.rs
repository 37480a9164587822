//! Decides whether datagrams to a peer go to a new address from which it was heard (RFC 9146 §6, RFC 9853).
//!
//! 1. A record verifies, is newer than all others, and came from an address other than the current one. If both sides
//!    have agreed on return routability checks, that address becomes the *candidate* and gets a path_challenge.
//! 2. Until the candidate answers, it is sent at most three times the bytes that came from it. Further datagrams go to
//!    the current address.
//! 3. A path_response from the candidate with the cookie of a challenge makes it the current address.
//! 4. A path_drop, a newer record from the current address, or no answer for three seconds leaves the current address
//!    unchanged.
//!
//! Without return routability checks the address follows at once or never, depending on the options.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::codec::{Malformed, Reader, Writer};

/// Types of messages (RFC 9853 §4).
const PATH_CHALLENGE: u8 = 0;
const PATH_RESPONSE: u8 = 1;
const PATH_DROP: u8 = 2;

/// How long to wait for an answer if the round trip time is unknown (RFC 9853 §5.5).
const PATIENCE: Duration = Duration::from_secs(1);
/// Maximum number of challenges to one candidate; each is sent when the one before was not answered.
const MAX_CHALLENGES: usize = 3;
/// How many times the bytes received from an address may be sent to it before it has answered.
const AMPLIFICATION: u64 = 3;

/// A message of the return routability check, as it is sent.
pub(crate) type Check = [u8; 9];

type Cookie = [u8; 8];

/// A received message of the return routability check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A challenge, with the response to send to its source.
    Challenge(Check),
    Response(Cookie),
    Drop(Cookie),
    /// An unknown type, which is ignored, or a malformed message.
    Other,
}

impl Message {
    pub(crate) fn parse(message: &[u8]) -> Self {
        let Some((&[kind], cookie)) = message.split_first_chunk() else { return Self::Other };
        let Ok(cookie) = cookie.try_into() else { return Self::Other };
        match kind {
            PATH_CHALLENGE => Self::Challenge(check(PATH_RESPONSE, cookie)),
            PATH_RESPONSE => Self::Response(cookie),
            PATH_DROP => Self::Drop(cookie),
            _ => Self::Other,
        }
    }
}

fn check(kind: u8, cookie: Cookie) -> Check {
    let mut message = [kind; 9];
    message[1..].copy_from_slice(&cookie);
    message
}

/// How the address of a peer may change.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Both sides have agreed on return routability checks.
    pub(crate) checks: bool,
    /// Without checks: whether the address follows nevertheless.
    pub(crate) follows_unchecked: bool,
    /// The random secret of this session, from which cookies are made.
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

/// Decision about an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No change.
    Stay,
    /// No change, because the new address may not be followed.
    Refuse,
    /// This is the peer's address from now on.
    Follow(SocketAddr),
    /// Send this to the address, if [`Paths::may_send`] permits it.
    Challenge(SocketAddr, Check),
}

/// The addresses of one peer apart from its current one.
pub(crate) struct Paths {
    policy: Policy,
    /// The number of cookies made so far.
    cookies: u64,
    candidate: Option<Candidate>,
    /// The last address that was not followed.
    refused: Option<SocketAddr>,
}

/// An address that is being checked.
struct Candidate {
    address: SocketAddr,
    /// Bytes received from it, and bytes sent to it.
    received: u64,
    sent: u64,
    challenges: Vec<Cookie>,
    /// When the next challenge is due, or when the check fails.
    due: Instant,
}

impl Paths {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, cookies: 0, candidate: None, refused: None }
    }

    /// Writes the state for another process.
    pub(super) fn save(&self, now: Instant, out: &mut Writer) {
        let Self { policy: Policy { checks, follows_unchecked, secret }, cookies, candidate, refused } = self;
        out.flag(*checks);
        out.flag(*follows_unchecked);
        out.raw(&secret[..]);
        out.u64(*cookies);
        out.option(*refused, Writer::address);
        out.option(candidate.as_ref(), |out, candidate| {
            out.address(candidate.address);
            out.u64(candidate.received);
            out.u64(candidate.sent);
            out.duration(candidate.due.saturating_duration_since(now));
            candidate
                .challenges
                .iter()
                .for_each(|cookie| out.option(Some(cookie), |out, cookie| out.raw(cookie)));
            out.flag(false);
        });
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(super) fn restore(from: &mut Reader<'_>, now: Instant) -> Result<Self, Malformed> {
        let (checks, follows_unchecked) = (from.flag()?, from.flag()?);
        let mut secret = Zeroizing::new([0; 32]);
        secret.copy_from_slice(from.raw(32)?);
        let policy = Policy { checks, follows_unchecked, secret };
        let (cookies, refused) = (from.u64()?, from.option(Reader::address)?);
        let candidate = from.option(|from| {
            let (address, received, sent) = (from.address()?, from.u64()?, from.u64()?);
            let due = now.checked_add(from.duration()?).ok_or(Malformed)?;
            let mut challenges = Vec::new();
            while let Some(cookie) = from.option(Reader::array)? {
                challenges.push(cookie);
            }
            Ok(Candidate { address, received, sent, challenges, due })
        })?;
        Ok(Self { policy, cookies, candidate, refused })
    }

    /// Handles an authentic record from this address (`None` is the current one), in a datagram of which `bytes` have
    /// not been counted yet. `newest`: no newer record has arrived.
    pub(crate) fn handle_record(
        &mut self,
        from: Option<SocketAddr>,
        bytes: usize,
        newest: bool,
        now: Instant,
    ) -> Verdict {
        let Some(from) = from else {
            // The peer still uses its current address.
            return match newest && self.candidate.take().is_some() {
                true => Verdict::Refuse,
                false => Verdict::Stay,
            };
        };
        if let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.address == from) {
            candidate.received += bytes as u64;
            return Verdict::Stay;
        }
        if !newest {
            return Verdict::Stay;
        }
        if !self.policy.checks {
            return match self.policy.follows_unchecked {
                true => Verdict::Follow(from),
                // Counted once.
                false if self.refused.replace(from) == Some(from) => Verdict::Stay,
                false => Verdict::Refuse,
            };
        }
        let cookie = self.cookie();
        self.candidate = Some(Candidate {
            address: from,
            received: bytes as u64,
            sent: 0,
            challenges: vec![cookie],
            due: now + PATIENCE,
        });
        Verdict::Challenge(from, check(PATH_CHALLENGE, cookie))
    }

    /// Handles a path_response or a path_drop from this address (`None` is the current one).
    pub(crate) fn answered(&mut self, from: Option<SocketAddr>, message: Message) -> Verdict {
        let has = |candidate: &Candidate, cookie| candidate.challenges.contains(&cookie);
        let Some(candidate) = &self.candidate else { return Verdict::Stay };
        let verdict = match message {
            Message::Response(cookie) if has(candidate, cookie) && from == Some(candidate.address) => {
                Verdict::Follow(candidate.address)
            }
            Message::Drop(cookie) if has(candidate, cookie) => Verdict::Refuse,
            _ => return Verdict::Stay,
        };
        self.candidate = None;
        verdict
    }

    /// Returns the destination of a datagram of this many bytes: the candidate while it may be sent more, otherwise
    /// `None`, the current address. The datagram counts as sent.
    pub(crate) fn destination(&mut self, bytes: usize) -> Option<SocketAddr> {
        let address = self.candidate.as_ref()?.address;
        self.may_send(address, bytes).then_some(address)
    }

    /// Returns whether a datagram of this many bytes may be sent to this address. If so, it counts as sent.
    pub(crate) fn may_send(&mut self, to: SocketAddr, bytes: usize) -> bool {
        let Some(candidate) = self.candidate.as_mut().filter(|candidate| candidate.address == to) else {
            return false;
        };
        let sent = candidate.sent + bytes as u64;
        let may = sent <= candidate.received.saturating_mul(AMPLIFICATION);
        if may {
            candidate.sent = sent;
        }
        may
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.candidate.as_ref().map(|candidate| candidate.due)
    }

    /// Handles an expired timer.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Verdict {
        let Some(candidate) = self.candidate.as_ref().filter(|candidate| now >= candidate.due) else {
            return Verdict::Stay;
        };
        if candidate.challenges.len() >= MAX_CHALLENGES {
            self.candidate = None;
            return Verdict::Refuse;
        }
        let (address, cookie) = (candidate.address, self.cookie());
        if let Some(candidate) = &mut self.candidate {
            candidate.challenges.push(cookie);
            candidate.due = now + PATIENCE;
        }
        Verdict::Challenge(address, check(PATH_CHALLENGE, cookie))
    }

    /// Makes a cookie that only its receiver can know.
    fn cookie(&mut self) -> Cookie {
        self.cookies += 1;
        // HMAC takes keys of any length, so this cannot fail.
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.policy.secret).expect("HMAC takes keys of any length");
        mac.update(&self.cookies.to_be_bytes());
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&mac.finalize().into_bytes()[..8]);
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(checks: bool, follows_unchecked: bool) -> Paths {
        Paths::new(Policy { checks, follows_unchecked, secret: Zeroizing::new([7; 32]) })
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4433))
    }

    fn challenged(verdict: &Verdict) -> Message {
        let Verdict::Challenge(_, check) = verdict else { panic!("{verdict:?}") };
        let Message::Challenge(response) = Message::parse(check) else { panic!("{check:?}") };
        Message::parse(&response)
    }

    #[test]
    fn without_checks_the_newest_record_alone_decides_as_the_option_says() {
        let now = Instant::now();
        let mut follows = paths(false, true);
        assert_eq!(follows.handle_record(Some(address(2)), 50, false, now), Verdict::Stay);
        assert_eq!(follows.handle_record(Some(address(2)), 50, true, now), Verdict::Follow(address(2)));
        let mut stays = paths(false, false);
        assert_eq!(stays.handle_record(Some(address(2)), 50, true, now), Verdict::Refuse);
        assert_eq!(stays.handle_record(Some(address(2)), 50, true, now), Verdict::Stay, "it is counted once");
        assert_eq!(stays.destination(1), None);
    }

    #[test]
    fn a_new_address_is_followed_once_it_answers_a_challenge_from_there() {
        let now = Instant::now();
        let mut paths = paths(true, false);
        assert_eq!(paths.handle_record(Some(address(2)), 50, false, now), Verdict::Stay);
        let response = challenged(&paths.handle_record(Some(address(2)), 50, true, now));
        assert_eq!(paths.answered(None, response), Verdict::Stay, "from the current address");
        assert_eq!(paths.answered(Some(address(3)), response), Verdict::Stay, "from a third one");
        assert_eq!(paths.answered(Some(address(2)), Message::Response([0; 8])), Verdict::Stay);
        assert_eq!(paths.answered(Some(address(2)), response), Verdict::Follow(address(2)));
        assert_eq!(paths.answered(Some(address(2)), response), Verdict::Stay);
        assert_eq!(paths.next_timeout(), None);
    }

    #[test]
    fn a_candidate_is_sent_three_times_what_came_from_it_until_it_answers() {
        let now = Instant::now();
        let mut paths = paths(true, false);
        challenged(&paths.handle_record(Some(address(2)), 50, true, now));
        assert!(paths.may_send(address(2), 60) && !paths.may_send(address(3), 1));
        assert_eq!(paths.destination(90), Some(address(2)));
        assert_eq!(paths.destination(1), None);
        assert_eq!(paths.handle_record(Some(address(2)), 10, false, now), Verdict::Stay);
        assert_eq!(paths.destination(30), Some(address(2)));
        assert_eq!(paths.destination(1), None);
    }

    #[test]
    fn a_candidate_is_given_up_after_three_challenges_without_an_answer() {
        let mut now = Instant::now();
        let mut paths = paths(true, false);
        let first = challenged(&paths.handle_record(Some(address(2)), 50, true, now));
        assert_eq!(paths.handle_timeout(now), Verdict::Stay);
        for _ in 1..MAX_CHALLENGES {
            now = paths.next_timeout().unwrap();
            assert_ne!(challenged(&paths.handle_timeout(now)), first, "each has a cookie of its own");
        }
        now = paths.next_timeout().unwrap();
        assert_eq!(paths.handle_timeout(now), Verdict::Refuse);
        assert_eq!(paths.answered(Some(address(2)), first), Verdict::Stay, "too late");
        challenged(&paths.handle_record(Some(address(2)), 50, true, now));
    }

    #[test]
    fn a_late_answer_to_an_earlier_challenge_counts() {
        let now = Instant::now();
        let mut paths = paths(true, false);
        let first = challenged(&paths.handle_record(Some(address(2)), 50, true, now));
        challenged(&paths.handle_timeout(now + PATIENCE));
        assert_eq!(paths.answered(Some(address(2)), first), Verdict::Follow(address(2)));
    }

    #[test]
    fn a_check_under_way_goes_on_in_another_process() {
        let now = Instant::now();
        let mut paths = paths(true, false);
        let first = challenged(&paths.handle_record(Some(address(2)), 50, true, now));
        assert!(paths.may_send(address(2), 100));
        let mut out = Writer::new();
        paths.save(now, &mut out);
        let mut from = Reader::new(out.finish().unwrap());
        let mut other = Paths::restore(&mut from, now).unwrap();
        assert_eq!(from.end(), Ok(()));
        assert!(other.may_send(address(2), 50) && !other.may_send(address(2), 1));
        assert_eq!(other.next_timeout(), paths.next_timeout());
        assert_ne!(challenged(&other.handle_timeout(now + PATIENCE)), first, "a cookie is used once");
        assert_eq!(other.answered(Some(address(2)), first), Verdict::Follow(address(2)));
    }

    #[test]
    fn a_drop_or_a_newer_record_from_the_current_address_ends_the_check() {
        let now = Instant::now();
        let mut paths = paths(true, false);
        let Message::Response(cookie) = challenged(&paths.handle_record(Some(address(2)), 50, true, now))
        else {
            unreachable!()
        };
        assert_eq!(paths.answered(None, Message::Drop([0; 8])), Verdict::Stay);
        assert_eq!(paths.answered(None, Message::Drop(cookie)), Verdict::Refuse);
        challenged(&paths.handle_record(Some(address(2)), 50, true, now));
        assert_eq!(paths.handle_record(None, 50, false, now), Verdict::Stay);
        assert_eq!(paths.handle_record(None, 50, true, now), Verdict::Refuse);
        assert_eq!((paths.next_timeout(), paths.destination(1)), (None, None));
    }

    #[test]
    fn messages_that_are_not_known_are_ignored() {
        for message in [&[][..], &[0], &[0; 8], &[0; 10], &[3, 1, 2, 3, 4, 5, 6, 7, 8]] {
            assert_eq!(Message::parse(message), Message::Other);
        }
        let challenge = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(Message::parse(&challenge), Message::Challenge([1, 1, 2, 3, 4, 5, 6, 7, 8]));
    }
}
