//! Stateless cookies: with a cookie a peer proves that it receives datagrams at its address (RFC 6347 §4.2.1).
//!
//! # Security
//!
//! A cookie is an HMAC-SHA256 under a secret of this process, over everything that identifies the peer's handshake:
//!
//! * the *local and the peer's address and port*. RFC 6347 §4.2.1 includes the client's address in its own example, and
//!   omitting it is the classic mistake: the cookie then proves only that some host received an answer, and one cookie
//!   opens the server to every forged source. The local address separates listeners that share a jar;
//! * the *version, random and session id*, which a client must repeat unchanged in the hello that returns the cookie
//!   (RFC 6347 §4.2.1). So a harvested cookie is useless for another handshake. Fields after the cookie are not
//!   included, because they may be in a later fragment (see [`hello`](super::hello)).
//!
//! Each part has a fixed length or is preceded by its length, and the whole input begins with its own tag, so no two
//! inputs have the same encoding. An IPv4 peer has one encoding for `AF_INET` and `AF_INET6` sockets, because the two
//! hellos of an exchange may arrive on different sockets.
//!
//! The secret changes every period, and cookies made with the *previous* secret are accepted for another period, so
//! that no exchange fails at the change: a cookie is valid for one to two periods. Both secrets are random from the
//! start. An implementation that began with an empty previous secret accepted cookies that anyone could compute
//! (CVE-2026-54887); this one refuses an all-zero secret. A jar that is rotated a whole period late drops its previous
//! secret instead of keeping it too long.
//!
//! A *shared* jar has the secrets of a file (see [`SharedKeys`](crate::SharedKeys)), so that another process with the
//! same file accepts its cookies at the same address, one that several hosts serve. It does not rotate by itself,
//! because the other processes would not know when. When its secrets are replaced, the current one is *retired*:
//! accepted for one more period, so that no exchange under way fails, however often secrets are replaced meanwhile (the
//! last 16 are kept).
//!
//! Comparison takes constant time. A cookie has 32 bytes, because some clients store no more (RFC 4347 set that limit).
//!
//! A cookie does not prove that the peer is honest. An attacker who reads packets on the path can answer for the peer.
//! The admission limits cover peers that do own their addresses.

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

/// Maximum number of replaced secrets that are still accepted: for each of them, a forged cookie costs one more HMAC.
const MAX_RETIRED: usize = 16;

/// Makes and verifies cookies. The key schedules are precomputed to keep the cost of a flood low.
pub struct CookieJar {
    current: Secret,
    previous: Option<Secret>,
    /// Replaced secrets, and until when each is accepted; the oldest first.
    retired: Vec<(Secret, Instant)>,
    period: Duration,
    /// When the current secret was set; `None` for a shared jar.
    rotated: Option<Instant>,
}

/// Result of [`CookieJar::verify`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum CookieVerdict {
    /// This jar made the cookie for this peer and this handshake.
    Valid(AddressProven),
    /// There is no cookie: this is a first hello, to be answered with a HelloVerifyRequest.
    Absent,
    /// The cookie is forged, stolen or expired. According to RFC 6347 §4.2.1 it is treated as absent.
    Invalid,
}

/// Proof that a cookie was verified. Only [`CookieJar::verify`] makes one, and it cannot be copied, so a handshake that
/// requires it as an argument cannot begin without the check.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct AddressProven(());

impl CookieJar {
    /// Makes a jar with two secrets, both from a secure random source and independent of each other. `current` has to
    /// be replaced `period` after `now`.
    ///
    /// # Panics
    ///
    /// If a secret is all zeros, or if both are equal: a random source does not produce that.
    pub fn new(current: &[u8; 32], previous: &[u8; 32], period: Duration, now: Instant) -> CookieJar {
        assert_ne!(current, previous, "two cookie secrets are the same");
        let (current, previous) = (keyed(current), Some(keyed(previous)));
        CookieJar { current, previous, retired: Vec::new(), period, rotated: Some(now) }
    }

    /// Makes a jar with secrets that other processes have too, and that never have to be replaced.
    ///
    /// # Panics
    ///
    /// If a secret is all zeros.
    pub fn shared(current: &[u8; 32], previous: Option<&[u8; 32]>, period: Duration) -> CookieJar {
        let previous = previous.map(keyed);
        CookieJar { current: keyed(current), previous, retired: Vec::new(), period, rotated: None }
    }

    /// Returns whether other processes have the secrets too.
    pub fn is_shared(&self) -> bool {
        self.rotated.is_none()
    }

    /// Takes the secrets of `fresh`. Cookies made with the current secret are accepted for one more period.
    pub fn replace(&mut self, fresh: CookieJar, now: Instant) {
        let old = std::mem::replace(self, fresh);
        let same = old.current.secret == self.current.secret;
        self.retired = old.retired;
        if !same {
            self.retire(old.current, now);
        }
    }

    /// Accepts a replaced secret for one more period.
    fn retire(&mut self, secret: Secret, now: Instant) {
        if let Some(until) = now.checked_add(self.period) {
            self.retired.push((secret, until));
            let excess = self.retired.len().saturating_sub(MAX_RETIRED);
            self.retired.drain(..excess);
        }
    }

    /// Writes the accepted secrets, the oldest first, for another process.
    pub(super) fn save(&self, out: &mut Writer) {
        let retired = self.retired.iter().map(|(secret, _)| secret);
        for Secret { secret, .. } in retired.chain(&self.previous).chain([&self.current]) {
            out.option(Some(secret), |out, secret| out.raw(&secret[..]));
        }
        out.flag(false);
    }

    /// Accepts the secrets of another process, as written by its [`save`](Self::save), for one period.
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

    /// Drops the secrets that were replaced at least a period ago.
    pub fn forget_retired(&mut self, now: Instant) {
        self.retired.retain(|(_, until)| now < *until);
    }

    /// Returns whether a secret has expired, so that [`forget_retired`](Self::forget_retired) and then
    /// [`rotate`](Self::rotate) must be called before the next cookie is made or verified.
    pub fn rotation_due(&self, now: Instant) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= self.period;
        self.rotated.is_some_and(over) || self.retired.first().is_some_and(|(_, until)| now >= *until)
    }

    /// Makes `fresh` the current secret and the current secret the previous one. A late rotation does not shift the
    /// schedule: the next one is due at its original time. A rotation that is late by a whole period leaves no previous
    /// secret. A rotation that is too early, or of a shared jar, has no effect.
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

    /// Returns the cookie for `hello`, sent by `peer` to `local`. A cookie in the hello is ignored.
    pub fn make(&self, local: SocketAddr, peer: SocketAddr, hello: &ClientHello<'_>) -> Cookie {
        bind(&self.current, local, peer, hello).finalize().into_bytes().into()
    }

    /// Verifies that `hello`, sent by `peer` to `local`, has a cookie that was made for it.
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
    /// Omits the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieJar").field("period", &self.period).finish_non_exhaustive()
    }
}

/// A secret and its key schedule.
#[derive(Clone)]
struct Secret {
    mac: HmacSha256,
    /// Kept for a process that takes over the server. It is boxed, because moving it would leave copies behind.
    secret: Box<Zeroizing<[u8; 32]>>,
}

fn keyed(secret: &[u8; 32]) -> Secret {
    assert_ne!(*secret, [0; 32], "a cookie secret is all zeros");
    let mut kept = Box::new(Zeroizing::new([0; 32]));
    kept.copy_from_slice(secret);
    let mac = HmacSha256::new_from_slice(secret).expect("HMAC takes keys of any length");
    Secret { mac, secret: kept }
}

/// Returns a copy of the MAC that has processed everything that a cookie is bound to.
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

/// Encodes an address in 23 bytes: family, address, port, and the scope of a link-local address.
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
