//! A ClientHello on an association's own socket: the peer lost its state and begins anew from the
//! same address and port, or somebody forges one (RFC 6347 §4.2.8).
//!
//! The answer is as stateless as the dispatcher's: without a valid cookie a HelloVerifyRequest, and
//! the association goes on as if nothing had been; with one, the peer owns the address and the old
//! association ends. The hello then goes to the dispatcher, which opens the new one.

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
use crate::protocol::dtls::spent::{Fate, Spent};

/// The cookie secrets, for the dispatcher and all workers, and which hellos have been answered by an association. Reads of
/// the secrets share; a rotation takes microseconds once in [`Timeouts::cookie_period`].
pub(crate) struct Cookies {
    jar: RwLock<CookieJar>,
    spent: Mutex<Spent>,
    period: Duration,
}

impl Cookies {
    /// With shared secrets, or with some from OpenSSL's random source.
    pub(crate) fn new(
        timeouts: &Timeouts,
        shared: Option<&SharedKeys>,
        now: Instant,
    ) -> Result<Self, openssl::error::ErrorStack> {
        let jar = match shared {
            Some(keys) => shared_jar(keys, timeouts.cookie_period),
            None => CookieJar::new(&*secret()?, &*secret()?, timeouts.cookie_period, now),
        };
        Ok(Self { jar: RwLock::new(jar), spent: Mutex::new(Spent::new(now)), period: timeouts.cookie_period })
    }

    /// Takes these shared secrets, or random ones instead of shared ones. Cookies made until now stay good for a
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

    /// Writes the secrets, for the process that takes the server over.
    pub(crate) fn save(&self, out: &mut Writer) {
        self.jar.read().save(out);
    }

    /// Accepts the cookies of another process, whose [`save`](Self::save) wrote this, for a period.
    pub(crate) fn restore(&self, from: &mut Reader<'_>, now: Instant) -> Result<(), Malformed> {
        self.jar.write().restore(from, now)
    }

    /// Checks the cookie of a hello, and says what to answer to one that has no valid cookie.
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
            return match self.spent.lock().fate(local, peer, hello.random, now) {
                Some(Fate::Over) => Checked::Spent,
                Some(Fate::Refused(alert)) => Checked::Refused(alert),
                None => Checked::Valid(proof),
            };
        }
        let refused = matches!(verdict, CookieVerdict::Invalid);
        // A cookie that was refused in a second hello was not ours, or is long expired. A new
        // challenge would have to carry a message number that OpenSSL's listener cannot take up.
        let reply = if refused && hello.message_sequence > 0 {
            None
        } else {
            hello::hello_verify_request(hello, datagram_len, &jar.make(local, peer, hello))
        };
        Checked::Unproven { refused, reply }
    }

    /// The association that began with a hello of this random is over: the same hello opens no other.
    pub(crate) fn spend(&self, local: SocketAddr, peer: SocketAddr, random: &[u8; 32], now: Instant) {
        self.spent.lock().note(local, peer, random, Fate::Over, now);
    }

    /// The client of this hello was refused with this alert: the same hello opens no association.
    pub(crate) fn refuse(
        &self,
        local: SocketAddr,
        peer: SocketAddr,
        random: &[u8; 32],
        alert: Alert,
        now: Instant,
    ) {
        self.spent.lock().note(local, peer, random, Fate::Refused(alert), now);
    }

    fn rotate_if_due(&self, now: Instant) {
        if !self.jar.read().rotation_due(now) {
            return;
        }
        let mut jar = self.jar.write();
        jar.forget_retired(now);
        if jar.rotation_due(now) {
            // Without randomness the old secrets stay: worse than new ones, better than known ones.
            if let Ok(fresh) = secret() {
                jar.rotate(&fresh, now);
            }
        }
    }
}

/// What [`Cookies::check`] found.
pub(crate) enum Checked {
    /// The sender has received what we sent to its address.
    Valid(crate::protocol::dtls::cookie::AddressProven),
    /// It has, and the association that it began with this hello is over.
    Spent,
    /// It has, and was refused with this alert.
    Refused(Alert),
    /// It has not, as far as we know.
    Unproven {
        /// There was a cookie, and it is not one of ours.
        refused: bool,
        /// The challenge, where there is one to send.
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

/// What an association needs to know to tell a restarted peer from a repeated datagram.
pub(crate) struct Restart {
    cookies: Arc<Cookies>,
    random: [u8; 32],
    local: SocketAddr,
    peer: SocketAddr,
}

/// What a datagram on an association's socket is, as far as beginnings go.
pub(crate) enum Verdict {
    /// No ClientHello.
    NotAHello,
    /// The hello that this association began with, or an earlier one, again.
    Duplicate,
    /// A new hello without a cookie: send this.
    Challenge([u8; HELLO_VERIFY_REQUEST_LEN]),
    /// A new hello that deserves no answer.
    Ignore,
    /// A new hello with a valid cookie.
    Restarted,
}

impl Restart {
    /// For an association between these addresses that began with a hello of this random.
    pub(crate) fn new(cookies: Arc<Cookies>, random: [u8; 32], local: SocketAddr, peer: SocketAddr) -> Self {
        Self { cookies, random, local, peer }
    }

    /// The peer's address is another one from now on.
    pub(crate) fn follow(&mut self, peer: SocketAddr) {
        self.peer = peer;
    }

    /// Looks at a datagram that arrived between the association's addresses.
    pub(crate) fn check(&self, datagram: &[u8], now: Instant) -> Verdict {
        // Content type handshake, epoch 0: everything else is decided here, cheaply.
        if datagram.first() != Some(&hello::HANDSHAKE) || datagram.get(3..5) != Some(&[0, 0]) {
            return Verdict::NotAHello;
        }
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
            Checked::Spent => Verdict::Duplicate,
            Checked::Unproven { reply: Some(reply), .. } => Verdict::Challenge(reply),
            Checked::Refused(_) | Checked::Unproven { reply: None, .. } => Verdict::Ignore,
        }
    }
}
