//! Handles a ClientHello on an association's own socket: the peer lost its state and restarts from the same address and
//! port, or an attacker forged the hello (RFC 6347 §4.2.8).
//!
//! The answer is as stateless as the dispatcher's. Without a valid cookie, a HelloVerifyRequest is sent and the
//! association continues unchanged. With a valid cookie, the peer owns the address, and the old association ends. The
//! hello then goes to the dispatcher, which opens the new association.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use zeroize::Zeroizing;

use crate::codec::{Malformed, Reader, Writer};
use crate::config::Timeouts;
use crate::credentials::SharedKeys;
use crate::protocol::alert::Alert;
use crate::protocol::dtls::cookie::{CookieJar, CookieVerdict};
use crate::protocol::dtls::hello::{self, ClientHello, FirstDatagram, HELLO_VERIFY_REQUEST_LEN};
use crate::protocol::dtls::recent_hellos::{HelloOutcome, RecentHellos};

/// Returns whether a datagram may begin with a ClientHello: it has a handshake record of epoch 0. The test is cheap.
pub(crate) fn may_be_hello(datagram: &[u8]) -> bool {
    datagram.first() == Some(&hello::HANDSHAKE) && datagram.get(3..5) == Some(&[0, 0])
}

/// The cookie secrets, for the dispatcher and all workers, and the hellos whose outcome is known. Readers share the
/// lock on the secrets; a rotation holds it for microseconds, once per [`Timeouts::cookie_period`].
pub(crate) struct Cookies {
    jar: RwLock<CookieJar>,
    recent_hellos: Mutex<RecentHellos>,
    period: Duration,
}

impl Cookies {
    /// Uses shared secrets, or random ones from OpenSSL.
    pub(crate) fn new(
        timeouts: &Timeouts,
        shared: Option<&SharedKeys>,
        now: Instant,
    ) -> Result<Self, openssl::error::ErrorStack> {
        let jar = match shared {
            Some(keys) => shared_jar(keys, timeouts.cookie_period),
            None => CookieJar::new(&*secret()?, &*secret()?, timeouts.cookie_period, now),
        };
        Ok(Self {
            jar: RwLock::new(jar),
            recent_hellos: Mutex::new(RecentHellos::new(now)),
            period: timeouts.cookie_period,
        })
    }

    /// Takes these shared secrets, or random ones in place of shared ones. Cookies made before stay valid for one
    /// period, so that no exchange under way fails.
    pub(crate) fn replace(
        &self,
        shared: Option<&SharedKeys>,
        now: Instant,
    ) -> Result<(), openssl::error::ErrorStack> {
        let fresh = match shared {
            Some(keys) => shared_jar(keys, self.period),
            None if self.jar.read().is_shared() => CookieJar::new(&*secret()?, &*secret()?, self.period, now),
            None => return Ok(()),
        };
        self.jar.write().replace(fresh, now);
        Ok(())
    }

    /// Writes the secrets for the process that takes over the server.
    pub(crate) fn save(&self, out: &mut Writer) {
        self.jar.read().save(out);
    }

    /// Accepts the cookies of another process, as written by its [`save`](Self::save), for one period.
    pub(crate) fn restore(&self, from: &mut Reader<'_>, now: Instant) -> Result<(), Malformed> {
        self.jar.write().restore(from, now)
    }

    /// Checks the cookie of a hello, and determines the answer if there is no valid cookie.
    pub(crate) fn check(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        hello: &ClientHello<'_>,
        datagram_len: usize,
        now: Instant,
    ) -> Checked {
        self.rotate_if_due(now);
        let jar = self.jar.read();
        let verdict = jar.verify(local, peer, hello);
        if let CookieVerdict::Valid(proof) = verdict {
            drop(jar);
            return match self.recent_hellos.lock().outcome(local, peer, hello.random, now) {
                Some(HelloOutcome::Over) => Checked::AlreadyEnded,
                Some(HelloOutcome::Refused(alert)) => Checked::Refused(alert),
                None => Checked::Valid(proof),
            };
        }
        let refused = matches!(verdict, CookieVerdict::Invalid);
        // An invalid cookie in a second hello is from another server, or it expired long ago. A new challenge would
        // need a message number that OpenSSL's listener cannot continue from.
        let reply = if refused && hello.message_sequence > 0 {
            None
        } else {
            hello::hello_verify_request(hello, datagram_len, &jar.make(local, peer, hello))
        };
        Checked::Unproven { refused, reply }
    }

    /// Notes that the association that began with a hello of this random has ended: the same hello opens no other
    /// association.
    pub(crate) fn note_ended(&self, local: SocketAddr, peer: SocketAddr, random: &[u8; 32], now: Instant) {
        self.recent_hellos.lock().note(local, peer, random, HelloOutcome::Over, now);
    }

    /// Notes that the client of this hello was refused with this alert: the same hello opens no association.
    pub(crate) fn note_refused(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        random: &[u8; 32],
        alert: Alert,
        now: Instant,
    ) {
        self.recent_hellos.lock().note(local, peer, random, HelloOutcome::Refused(alert), now);
    }

    fn rotate_if_due(&self, now: Instant) {
        if !self.jar.read().rotation_due(now) {
            return;
        }
        let mut jar = self.jar.write();
        jar.forget_retired(now);
        if jar.rotation_due(now) {
            // Without random bytes the old secrets stay; expired secrets are better than predictable ones.
            if let Ok(fresh) = secret() {
                jar.rotate(&fresh, now);
            }
        }
    }
}

/// Result of [`Cookies::check`].
pub(crate) enum Checked {
    /// The sender has received the cookie that was sent to its address.
    Valid(crate::protocol::dtls::cookie::AddressProven),
    /// The same, but the association that it began with this hello has ended.
    AlreadyEnded,
    /// The same, but the client was refused with this alert.
    Refused(Alert),
    /// The sender has not proven its address.
    Unproven {
        /// The hello has a cookie, which is invalid.
        refused: bool,
        /// The HelloVerifyRequest to send, if any.
        reply: Option<[u8; HELLO_VERIFY_REQUEST_LEN]>,
    },
}

fn shared_jar(keys: &SharedKeys, period: Duration) -> CookieJar {
    let previous = keys.previous.as_ref().map(|keys| &keys.cookie);
    CookieJar::shared(&keys.current.cookie, previous, period)
}

fn secret() -> Result<Zeroizing<[u8; 32]>, openssl::error::ErrorStack> {
    let mut secret = Zeroizing::new([0; 32]);
    openssl::rand::rand_bytes(&mut *secret)?;
    Ok(secret)
}

/// State that an association needs to distinguish a restarted peer from a repeated datagram.
pub(crate) struct Restart {
    cookies: Arc<Cookies>,
    random: [u8; 32],
    local: SocketAddr,
    peer: SocketAddr,
}

/// Result of [`Restart::check`] for a datagram on an association's socket.
pub(crate) enum Verdict {
    /// The datagram is not a ClientHello.
    NotAHello,
    /// A repetition of the hello that this association began with, or of an earlier one.
    Duplicate,
    /// A new hello without a cookie; send this answer.
    Challenge([u8; HELLO_VERIFY_REQUEST_LEN]),
    /// A new hello that gets no answer.
    Ignore,
    /// A new hello with a valid cookie.
    Restarted,
}

impl Restart {
    /// Makes the state of an association between these addresses that began with a hello of this random.
    pub(crate) fn new(cookies: Arc<Cookies>, random: [u8; 32], local: SocketAddr, peer: SocketAddr) -> Self {
        Self { cookies, random, local, peer }
    }

    /// Notes the peer's new address.
    pub(crate) fn set_peer_address(&mut self, peer: SocketAddr) {
        self.peer = peer;
    }

    /// Checks a datagram that arrived between the association's addresses.
    pub(crate) fn check(&self, datagram: &[u8], now: Instant) -> Verdict {
        let hello = match hello::classify(datagram) {
            FirstDatagram::ClientHello(hello) => hello,
            FirstDatagram::HelloTooShort => return Verdict::Ignore,
            _ => return Verdict::NotAHello,
        };
        if *hello.random == self.random {
            return Verdict::Duplicate;
        }
        match self.cookies.check(self.local, self.peer, &hello, datagram.len(), now) {
            Checked::Valid(_) => Verdict::Restarted,
            Checked::AlreadyEnded => Verdict::Duplicate,
            Checked::Unproven { reply: Some(reply), .. } => Verdict::Challenge(reply),
            Checked::Refused(_) | Checked::Unproven { reply: None, .. } => Verdict::Ignore,
        }
    }
}
