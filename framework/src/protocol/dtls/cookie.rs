//! Stateless cookies: a peer proves that it receives what is sent to its address (RFC 6347 §4.2.1).
//!
//! # Security
//!
//! A cookie is an HMAC-SHA256 under a secret that only this process knows, over everything that makes a
//! handshake this peer's:
//!
//! * the *local and the peer's address and port*. RFC 6347 §4.2.1 puts the client's address into its own
//!   example, and leaving it out is the classic mistake: the cookie then proves that somebody somewhere
//!   received an answer, and one cookie opens the server to every forged source. The local address keeps
//!   listeners apart that share a jar;
//! * the *version, random and session id*, which a client must repeat unchanged in the hello that returns the cookie
//!   (RFC 6347 §4.2.1). A harvested cookie is thus of no use for another handshake. What follows the cookie is not
//!   in it, because it may be in a later fragment (see [`hello`](super::hello)).
//!
//! Each part has a fixed length or is preceded by its length, and the whole by a tag of its own: no two
//! inputs share an encoding. An IPv4 peer counts as one whether an `AF_INET` or an `AF_INET6` socket has seen
//! it, because the two hellos of an exchange may arrive on different sockets.
//!
//! The secret changes every period, and cookies made under the *previous* one stay good for another, so that
//! no exchange fails at the change: a cookie lives between one and two periods. Both secrets are random from
//! the start. An implementation that began with an empty previous secret accepted cookies that anyone could
//! compute (CVE-2026-54887); here an all-zero secret is refused outright. A jar that was rotated a whole
//! period late has no previous secret at all, rather than one that has outlived its time.
//!
//! A *shared* jar has the secrets of a file (see [`SharedKeys`](crate::SharedKeys)), so that another process with the
//! same file verifies its cookies, on the same address: one that several hosts answer for. It does not rotate by
//! itself, for the others would not know when. When its secrets are replaced, the one that made cookies
//! until then is *retired*: accepted for one period more, so that no exchange under way fails, however often they are
//! replaced meanwhile (the last 16 are kept).
//!
//! Comparison takes constant time. A cookie is 32 bytes, because some clients store no more (RFC 4347 set
//! that limit).
//!
//! What a cookie does not prove: that the peer is honest. Whoever reads packets on the path can answer for
//! the peer. The admission limits are for those who do own their addresses.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::hello::ClientHello;
use crate::address::canonical::canonical;
use crate::codec::{Malformed, Reader, Writer};

/// A cookie as it is sent.
pub type Cookie = [u8; 32];

type HmacSha256 = Hmac<Sha256>;

/// Distinguishes these HMACs from any other use of the same secret.
const DOMAIN: &[u8; 16] = b"peeloff cookie 1";

/// Secrets that were replaced and are still accepted, at most: each makes a forged cookie cost one HMAC more.
const MAX_RETIRED: usize = 16;

/// Makes and verifies cookies. The key schedules are precomputed, so that a flood costs as little as it can.
pub struct CookieJar {
    current: Secret,
    previous: Option<Secret>,
    /// What made cookies before the secrets were replaced, and until when those are good; the oldest first.
    retired: Vec<(Secret, Instant)>,
    period: Duration,
    /// When the current secret became that; `None` where it is shared.
    rotated: Option<Instant>,
}

/// What [`CookieJar::verify`] finds in a hello.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum CookieVerdict {
    /// The cookie is this jar's, made for this peer and this handshake.
    Valid(AddressProven),
    /// There is no cookie: a first hello, to be answered with a HelloVerifyRequest.
    Absent,
    /// The cookie is forged, stolen or out of date. RFC 6347 §4.2.1 has it treated as absent.
    Invalid,
}

/// Proof that a cookie was verified. Only [`CookieJar::verify`] makes one and it cannot be copied: a
/// handshake that wants one as an argument cannot be begun without the check.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct AddressProven(());

impl CookieJar {
    /// A jar with two secrets, both from a secure random source and independent of each other. `current`
    /// becomes due for replacement `period` after `now`.
    ///
    /// # Panics
    ///
    /// If a secret is all zeros, or both are the same: a random source does not do that.
    pub fn new(current: &[u8; 32], previous: &[u8; 32], period: Duration, now: Instant) -> CookieJar {
        assert_ne!(current, previous, "two cookie secrets are the same");
        let (current, previous) = (keyed(current), Some(keyed(previous)));
        CookieJar { current, previous, retired: Vec::new(), period, rotated: Some(now) }
    }

    /// A jar with secrets that other processes have too, and that are never due for replacement.
    ///
    /// # Panics
    ///
    /// If a secret is all zeros.
    pub fn shared(current: &[u8; 32], previous: Option<&[u8; 32]>, period: Duration) -> CookieJar {
        let previous = previous.map(keyed);
        CookieJar { current: keyed(current), previous, retired: Vec::new(), period, rotated: None }
    }

    /// Whether other processes have the secrets too.
    pub fn is_shared(&self) -> bool {
        self.rotated.is_none()
    }

    /// Takes the secrets of `fresh`. Cookies made under the present one are accepted for a period more.
    pub fn replace(&mut self, fresh: CookieJar, now: Instant) {
        let old = std::mem::replace(self, fresh);
        let same = old.current.secret == self.current.secret;
        self.retired = old.retired;
        if !same {
            self.retire(old.current, now);
        }
    }

    /// Goes on to accept a secret for a period.
    fn retire(&mut self, secret: Secret, now: Instant) {
        if let Some(until) = now.checked_add(self.period) {
            self.retired.push((secret, until));
            let excess = self.retired.len().saturating_sub(MAX_RETIRED);
            self.retired.drain(..excess);
        }
    }

    /// Writes the secrets that are accepted, the oldest first, for another process.
    pub(super) fn save(&self, out: &mut Writer) {
        let retired = self.retired.iter().map(|(secret, _)| secret);
        for Secret { secret, .. } in retired.chain(&self.previous).chain([&self.current]) {
            out.option(Some(secret), |out, secret| out.raw(&secret[..]));
        }
        out.flag(false);
    }

    /// Accepts what another process accepts, whose [`save`](Self::save) wrote this, for a period.
    pub(super) fn restore(&mut self, from: &mut Reader<'_>, now: Instant) -> Result<(), Malformed> {
        while let Some(secret) = from.option(|from| from.raw(32))? {
            let secret: &[u8; 32] = secret.try_into().map_err(|_| Malformed)?;
            if *secret == [0; 32] {
                return Err(Malformed);
            }
            self.retire(keyed(secret), now);
        }
        Ok(())
    }

    /// Lets go of a secret that was replaced a period ago.
    pub fn forget_retired(&mut self, now: Instant) {
        self.retired.retain(|(_, until)| now < *until);
    }

    /// Whether a secret has served its time, so that [`forget_retired`](Self::forget_retired) and then
    /// [`rotate`](Self::rotate) are to be called before the next cookie is made or verified.
    pub fn rotation_due(&self, now: Instant) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= self.period;
        self.rotated.is_some_and(over) || self.retired.first().is_some_and(|(_, until)| now >= *until)
    }

    /// Makes `fresh` the current secret and the current one the previous. A late rotation does not lengthen
    /// anything: the next one is due when it would have been anyhow. One that is late by a whole period
    /// leaves no previous secret. One that is too early, or of a shared jar, does nothing.
    ///
    /// # Panics
    ///
    /// If `fresh` is all zeros.
    pub fn rotate(&mut self, fresh: &[u8; 32], now: Instant) {
        let Some(rotated) = self.rotated else { return };
        let age = now.saturating_duration_since(rotated);
        if age < self.period {
            return;
        }
        let outlived = age >= self.period.saturating_mul(2);
        let retired = std::mem::replace(&mut self.current, keyed(fresh));
        self.previous = (!outlived).then_some(retired);
        self.rotated = Some(if outlived { now } else { rotated + self.period });
    }

    /// The cookie of `hello`, sent by `peer` to `local`. The cookie that the hello may carry does not matter.
    pub fn make(&self, local: SocketAddr, peer: SocketAddr, hello: &ClientHello<'_>) -> Cookie {
        bind(&self.current, local, peer, hello).finalize().into_bytes().into()
    }

    /// Whether `hello`, sent by `peer` to `local`, carries a cookie that was made for it.
    pub fn verify(&self, local: SocketAddr, peer: SocketAddr, hello: &ClientHello<'_>) -> CookieVerdict {
        if hello.cookie.is_empty() {
            return CookieVerdict::Absent;
        }
        let made_with = |key| bind(key, local, peer, hello).verify_slice(hello.cookie).is_ok();
        let retired = self.retired.iter().map(|(key, _)| key);
        if made_with(&self.current) || self.previous.iter().chain(retired).any(made_with) {
            CookieVerdict::Valid(AddressProven(()))
        } else {
            CookieVerdict::Invalid
        }
    }
}

impl fmt::Debug for CookieJar {
    /// Leaves the secrets out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieJar").field("period", &self.period).finish_non_exhaustive()
    }
}

/// A secret, and its key schedule.
#[derive(Clone)]
struct Secret {
    mac: HmacSha256,
    /// For the process that takes the server over. In memory of its own, because what moves leaves copies behind.
    secret: Box<Zeroizing<[u8; 32]>>,
}

fn keyed(secret: &[u8; 32]) -> Secret {
    assert_ne!(*secret, [0; 32], "a cookie secret is all zeros");
    let mut kept = Box::new(Zeroizing::new([0; 32]));
    kept.copy_from_slice(secret);
    let mac = HmacSha256::new_from_slice(secret).expect("HMAC takes keys of any length");
    Secret { mac, secret: kept }
}

/// A copy of `key` that has taken in all that a cookie is bound to.
fn bind(
    Secret { mac, .. }: &Secret,
    local: SocketAddr,
    peer: SocketAddr,
    hello: &ClientHello<'_>,
) -> HmacSha256 {
    let mut mac = mac.clone();
    mac.update(DOMAIN);
    mac.update(&encoded(local));
    mac.update(&encoded(peer));
    mac.update(&hello.client_version.to_be_bytes());
    mac.update(hello.random);
    mac.update(&(hello.session_id.len() as u32).to_be_bytes());
    mac.update(hello.session_id);
    mac
}

/// An address in 23 bytes: family, address, port, and the scope of a link-local one.
fn encoded(address: SocketAddr) -> [u8; 23] {
    let address = canonical(address);
    let (family, ip, scope) = match address {
        SocketAddr::V4(v4) => (4, v4.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(v6) => (6, *v6.ip(), v6.scope_id()),
    };
    let mut bytes = [0; 23];
    bytes[0] = family;
    bytes[1..17].copy_from_slice(&ip.octets());
    bytes[17..19].copy_from_slice(&address.port().to_be_bytes());
    bytes[19..].copy_from_slice(&scope.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::dtls::hello::{FirstDatagram, classify, samples};

    const PERIOD: Duration = Duration::from_secs(60);

    fn jar(now: Instant) -> CookieJar {
        CookieJar::new(&[1; 32], &[2; 32], PERIOD, now)
    }

    fn addresses() -> (SocketAddr, SocketAddr) {
        ("192.0.2.1:4433".parse().unwrap(), "198.51.100.7:50000".parse().unwrap())
    }

    fn parsed(datagram: &[u8]) -> ClientHello<'_> {
        match classify(datagram) {
            FirstDatagram::ClientHello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// The cookie that `jar` makes for a hello, and a datagram that returns it.
    fn exchange(jar: &CookieJar) -> Vec<u8> {
        let (local, peer) = addresses();
        samples::hello(&jar.make(local, peer, &parsed(&samples::hello(&[]))))
    }

    fn is_valid(jar: &CookieJar, local: SocketAddr, peer: SocketAddr, datagram: &[u8]) -> bool {
        matches!(jar.verify(local, peer, &parsed(datagram)), CookieVerdict::Valid(_))
    }

    #[test]
    fn secrets_are_wiped_when_they_are_dropped() {
        fn is_wiped<T: zeroize::ZeroizeOnDrop>() {}
        // HMAC keeps two of these, which have hashed the secret, and nothing else of it.
        is_wiped::<Sha256>();
    }

    #[test]
    fn a_returned_cookie_is_valid_and_a_first_hello_has_none() {
        let jar = jar(Instant::now());
        let (local, peer) = addresses();
        assert!(is_valid(&jar, local, peer, &exchange(&jar)));
        assert_eq!(jar.verify(local, peer, &parsed(&samples::hello(&[]))), CookieVerdict::Absent);
    }

    #[test]
    fn a_cookie_is_bound_to_both_addresses_and_ports() {
        let jar = jar(Instant::now());
        let (local, peer) = addresses();
        let datagram = exchange(&jar);
        for other in ["192.0.2.2:4433", "192.0.2.1:4434", "[2001:db8::1]:4433"] {
            assert!(!is_valid(&jar, other.parse().unwrap(), peer, &datagram));
        }
        for other in ["198.51.100.8:50000", "198.51.100.7:50001", "[2001:db8::1]:50000"] {
            assert!(!is_valid(&jar, local, other.parse().unwrap(), &datagram));
        }
        assert!(!is_valid(&jar, peer, local, &datagram));
    }

    #[test]
    fn bytes_that_move_from_one_field_to_the_next_change_the_cookie() {
        let jar = jar(Instant::now());
        let (local, peer) = addresses();
        let datagram = samples::hello(&[]);
        let hello = parsed(&datagram);
        let mut random = *hello.random;
        random[31] = 1;
        let short = ClientHello { random: &random, session_id: &[2], ..hello };
        let long = ClientHello { session_id: &[1, 2], ..hello };
        assert_ne!(jar.make(local, peer, &long), jar.make(local, peer, &short));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        let jar = jar(Instant::now());
        let mapped = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (local, peer) = (mapped("[::ffff:192.0.2.1]:4433"), mapped("[::ffff:198.51.100.7]:50000"));
        assert!(is_valid(&jar, local, peer, &exchange(&jar)));
    }

    #[test]
    fn the_scope_matters_for_link_local_peers_only() {
        let jar = jar(Instant::now());
        let (local, _) = addresses();
        let datagram = samples::hello(&[]);
        let cookie = |peer: &str| jar.make(local, peer.parse().unwrap(), &parsed(&datagram));
        assert_ne!(cookie("[fe80::1%1]:5"), cookie("[fe80::1%2]:5"));
        assert_eq!(cookie("[2001:db8::1%1]:5"), cookie("[2001:db8::1]:5"));
    }

    #[test]
    fn cookies_of_another_length_are_invalid() {
        let jar = jar(Instant::now());
        let (local, peer) = addresses();
        let cookie = jar.make(local, peer, &parsed(&samples::hello(&[])));
        let long = [&cookie[..], &[0]].concat();
        for other in [&cookie[..31], &cookie[..1], &long, &[0; 255]] {
            assert_eq!(jar.verify(local, peer, &parsed(&samples::hello(other))), CookieVerdict::Invalid);
        }
    }

    #[test]
    fn a_cookie_lives_through_one_rotation_and_not_through_two() {
        let start = Instant::now();
        let mut jar = jar(start);
        let (local, peer) = addresses();
        let datagram = exchange(&jar);
        assert!(!jar.rotation_due(start + PERIOD - Duration::from_nanos(1)));
        assert!(jar.rotation_due(start + PERIOD));
        jar.rotate(&[3; 32], start + PERIOD);
        assert!(!jar.rotation_due(start + PERIOD));
        assert!(is_valid(&jar, local, peer, &datagram));
        jar.rotate(&[4; 32], start + PERIOD * 2);
        assert!(!is_valid(&jar, local, peer, &datagram));
    }

    #[test]
    fn a_rotation_that_comes_a_period_late_leaves_no_previous_secret() {
        let start = Instant::now();
        let mut jar = jar(start);
        let (local, peer) = addresses();
        let datagram = exchange(&jar);
        jar.rotate(&[3; 32], start + PERIOD * 2);
        assert!(!is_valid(&jar, local, peer, &datagram));
        assert!(is_valid(&jar, local, peer, &exchange(&jar)));
    }

    #[test]
    fn a_late_rotation_keeps_to_the_schedule() {
        let start = Instant::now();
        let mut jar = jar(start);
        jar.rotate(&[3; 32], start + PERIOD.mul_f32(1.5));
        assert!(!jar.rotation_due(start + PERIOD.mul_f32(1.9)));
        assert!(jar.rotation_due(start + PERIOD * 2));
    }

    #[test]
    fn the_previous_secret_of_a_new_jar_is_the_given_one() {
        let now = Instant::now();
        let (local, peer) = addresses();
        let older = CookieJar::new(&[2; 32], &[9; 32], PERIOD, now);
        assert!(is_valid(&jar(now), local, peer, &exchange(&older)));
        let empty_key = HmacSha256::new_from_slice(&[]).unwrap();
        let first = samples::hello(&[]);
        let forged = bind(&Secret { mac: empty_key, secret: Box::default() }, local, peer, &parsed(&first))
            .finalize()
            .into_bytes();
        assert!(!is_valid(&jar(now), local, peer, &samples::hello(&forged)));
    }

    #[test]
    fn jars_with_the_same_shared_secrets_take_each_others_cookies() {
        let now = Instant::now();
        let (local, peer) = addresses();
        let one = CookieJar::shared(&[1; 32], None, PERIOD);
        let next = CookieJar::shared(&[2; 32], Some(&[1; 32]), PERIOD);
        let last = CookieJar::shared(&[3; 32], Some(&[2; 32]), PERIOD);
        let datagram = exchange(&one);
        assert!(is_valid(&CookieJar::shared(&[1; 32], None, PERIOD), local, peer, &datagram));
        assert!(is_valid(&next, local, peer, &datagram));
        assert!(!is_valid(&last, local, peer, &datagram));
        assert!(one.is_shared() && !one.rotation_due(now + PERIOD * 100));
    }

    #[test]
    fn a_secret_that_was_replaced_is_good_for_a_period_more() {
        let now = Instant::now();
        let (local, peer) = addresses();
        let mut jar = jar(now);
        let datagram = exchange(&jar);
        jar.replace(CookieJar::shared(&[3; 32], None, PERIOD), now);
        jar.replace(CookieJar::shared(&[3; 32], None, PERIOD), now);
        jar.forget_retired(now + PERIOD - Duration::from_nanos(1));
        assert!(is_valid(&jar, local, peer, &datagram));
        assert!(jar.rotation_due(now + PERIOD));
        jar.forget_retired(now + PERIOD);
        assert!(!is_valid(&jar, local, peer, &datagram));
        assert!(!jar.rotation_due(now + PERIOD));
    }

    #[test]
    #[should_panic(expected = "all zeros")]
    fn an_all_zero_secret_is_refused() {
        let _ = CookieJar::new(&[1; 32], &[0; 32], PERIOD, Instant::now());
    }
}
