//! The DTLS handshake of one association: datagrams, timeouts and the time go in, datagrams come out.
//!
//! 1. A server starts with the ClientHello whose cookie the dispatcher verified. Missing fragments are collected; then
//!    the complete message is passed to `DTLSv1_listen`, which keeps the record. A client starts with nothing.
//! 2. OpenSSL runs one step; it writes a flight or waits for a datagram.
//! 3. Each datagram is filtered and fed, and OpenSSL runs another step.
//! 4. The retransmission timer uses the caller's monotonic clock (1 s, doubling: RFC 6347 §4.2.4.1). OpenSSL's own
//!    timer uses the wall clock, so if OpenSSL does not retransmit when it should, the recorded flight is sent again
//!    unchanged.
//! 5. After the first and the second timeout the datagrams get smaller (1400, 1200, 548 bytes), because the path may
//!    drop large ones silently.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::ssl::{ShutdownState, Ssl, SslContext, SslRef, SslStream};

use super::assembly::{HelloAssembly, VerifiedHello};
use super::datagrams::Datagrams;
use super::filter::{self, Filtered};
use super::hello::{HANDSHAKE, Record, TLS12_CID};
use super::restart::{Restart, Verdict, may_be_hello};
use super::session::Session;
use super::translation::{Translated, Translation};
use crate::error::EndReason;
use crate::observe::{Counters, bump};
use crate::protocol::alert::Alert;
use crate::sys::ossl;
use crate::tls::context::connection_ids::{self, Offer, agreed};
use crate::tls::context::psk;
use crate::tls::handshake::{broken, client_ssl, progress, server_ssl};
use crate::tls::{Failure, HandshakeSummary, Resume};

/// Sizes of handshake datagrams without IP and UDP headers: Ethernet minus a tunnel, then the IPv6 minimum minus
/// headers, then the size that every IPv4 host can reassemble (RFC 6347 §4.1.1.1).
const MTUS: [u16; 3] = [1400, 1200, 548];

/// Time until the first retransmission (RFC 6347 §4.2.4.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a handshake continues after an alert that anyone can forge.
const ALERT_GRACE: Duration = Duration::from_secs(2);

/// Maximum number of records of the next epoch that are accepted before that epoch has begun. It applies separately to
/// handshake records, each of which OpenSSL keeps in a buffer of 16 KiB (CVE-2026-54874), and to other records. A
/// client sends one Finished, possibly reordered or repeated, and a client that resumes may send data after it.
const MAX_EARLY_RECORDS: usize = 8;

/// A handshake under way. After each call, including a failed one, the caller sends the datagrams of
/// [`poll_transmit`](Self::poll_transmit), which may include an alert.
pub(crate) struct Handshake {
    stream: SslStream<Datagrams>,
    /// Distinguishes a peer that restarts from one that repeats a datagram; `None` for a client.
    restart: Option<Restart>,
    counters: Arc<Counters>,
    /// The client's hello until OpenSSL gets it, which happens when no fragment is missing.
    hello: Option<HelloAssembly>,
    /// Records that overtook the end of the handshake. OpenSSL does not get them.
    early: VecDeque<Box<[u8]>>,
    /// The number of handshake records of the next epoch that OpenSSL got.
    early_finished: usize,
    /// Translates between OpenSSL and a peer that may use connection IDs; `None` if this side does not use them.
    translation: Option<Translation>,
    /// A record with our connection ID failed authentication.
    is_unreadable: bool,
    /// The first unencrypted alert.
    alert: Option<u8>,
    /// The interval of the retransmission timer, the number of its timeouts, and its next timeout.
    interval: Duration,
    timeouts: usize,
    resend_at: Instant,
    /// When the handshake fails if it is not complete.
    deadline: Instant,
}

impl Handshake {
    /// Makes the server's side, which fails at `deadline` if it is not complete by then. `offer` is the answer to a
    /// client that offers connection IDs.
    ///
    /// # Errors
    ///
    /// OpenSSL could not allocate memory.
    pub(crate) fn accept(
        context: &SslContext,
        hello: VerifiedHello,
        offer: Option<Offer>,
        restart: Restart,
        counters: Arc<Counters>,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let handshake = Self::over(server_ssl(context)?, offer, counters, deadline)?;
        Ok(Self { restart: Some(restart), hello: Some(hello.assembly), ..handshake })
    }

    /// Makes the client's side; `name` is the name that the server must prove.
    ///
    /// # Errors
    ///
    /// The name is invalid, or OpenSSL could not allocate memory.
    pub(crate) fn connect(
        context: &SslContext,
        name: Option<&str>,
        resume: Option<&Resume<'_>>,
        offer: Option<Offer>,
        counters: Arc<Counters>,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        Self::over(client_ssl(context, name, resume)?, offer, counters, deadline)
    }

    fn over(
        mut ssl: Ssl,
        offer: Option<Offer>,
        counters: Arc<Counters>,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let translation = offer.as_ref().map(|offer| Translation::new(offer.cid.clone()));
        if let Some(offer) = offer {
            connection_ids::offer(&mut ssl, offer).map_err(broken)?;
        }
        let mut stream = SslStream::new(ssl, Datagrams::default()).map_err(broken)?;
        ossl::set_mtu(&mut stream, MTUS[0]);
        Ok(Self {
            stream,
            restart: None,
            counters,
            hello: None,
            early: VecDeque::new(),
            early_finished: 0,
            translation,
            is_unreadable: false,
            alert: None,
            interval: FIRST_TIMEOUT,
            timeouts: 0,
            resend_at: deadline,
            deadline,
        })
    }

    /// Begins the handshake. Returns `true` if it is complete.
    ///
    /// # Errors
    ///
    /// OpenSSL does not accept the hello.
    pub(crate) fn start(&mut self, now: Instant) -> Result<bool, Failure> {
        self.rearm(now);
        self.pass_hello_to_openssl()?;
        self.advance(now)
    }

    /// Restarts the timer, as for each new flight.
    fn rearm(&mut self, now: Instant) {
        self.interval = FIRST_TIMEOUT;
        self.resend_at = now + FIRST_TIMEOUT;
    }

    /// Passes the client's hello to OpenSSL once it is complete.
    fn pass_hello_to_openssl(&mut self) -> Result<(), Failure> {
        let Some(hello) = self.hello.take_if(|hello| hello.is_whole()) else { return Ok(()) };
        self.stream.get_mut().swap(&mut hello.record());
        if !ossl::dtls_listen(&mut self.stream) {
            let why = ErrorStack::get();
            let why = why.errors().first().and_then(|error| error.reason());
            let why = why.unwrap_or("OpenSSL does not take the ClientHello").to_owned();
            let alert = Alert::DECODE_ERROR.in_clear(hello.record_sequence());
            self.stream.get_mut().outgoing.push_back(alert.as_slice().into());
            return Err(Failure::Ended(EndReason::HandshakeFailed(why)));
        }
        Ok(())
    }

    /// Handles a datagram of the peer, and returns its memory in `datagram`. Returns `true` when the handshake is
    /// complete.
    ///
    /// # Errors
    ///
    /// The handshake has failed, or the peer restarted.
    pub(crate) fn handle_datagram(&mut self, datagram: &mut Vec<u8>, now: Instant) -> Result<bool, Failure> {
        if !self.is_of_this_handshake(datagram, now)? {
            return Ok(false);
        }
        if let Some(hello) = &mut self.hello {
            hello.add(datagram);
            self.pass_hello_to_openssl()?;
            return self.advance(now);
        }
        match filter::filter(datagram, self.cid_len()) {
            Filtered::Pass { len } => {
                datagram.truncate(len);
                self.refuse_too_long_chain(datagram)?;
                if !self.set_early_records_aside(datagram) {
                    bump(&self.counters.records_dropped);
                }
                if !datagram.is_empty() {
                    self.stream.get_mut().swap(datagram);
                    if self.advance(now)? {
                        return Ok(true);
                    }
                }
                self.translate(now)
            }
            Filtered::PlaintextAlert { level: 2, description } => {
                bump(&self.counters.plaintext_alerts);
                self.alert.get_or_insert(description);
                self.deadline = self.deadline.min(now + ALERT_GRACE);
                Ok(false)
            }
            _ => {
                bump(&self.counters.records_dropped);
                Ok(false)
            }
        }
    }

    /// Returns the length of the connection ID in the peer's records.
    fn cid_len(&self) -> usize {
        self.translation.as_ref().map_or(0, Translation::cid_len)
    }

    /// Feeds OpenSSL the handshake messages in the peer's records with a connection ID, if their keys are known.
    fn translate(&mut self, now: Instant) -> Result<bool, Failure> {
        while let Some(translation) = &mut self.translation
            && let Some(translated) = translation.next(self.stream.ssl())
        {
            match translated {
                Translated::Handshake(mut record) if self.early_finished < MAX_EARLY_RECORDS => {
                    self.early_finished += 1;
                    self.stream.get_mut().swap(&mut record);
                    if self.advance(now)? {
                        return Ok(true);
                    }
                    continue;
                }
                Translated::Other(record) if self.early.len() < MAX_EARLY_RECORDS => {
                    self.early.push_back(record);
                    continue;
                }
                Translated::Forged => self.is_unreadable = true,
                _ => {}
            }
            bump(&self.counters.records_dropped);
        }
        Ok(false)
    }

    /// Checks for a hello of a restarted peer. Returns `false` if the datagram needs no further handling.
    fn is_of_this_handshake(&mut self, datagram: &mut Vec<u8>, now: Instant) -> Result<bool, Failure> {
        let Some(restart) = self.restart.as_ref().filter(|_| may_be_hello(datagram)) else { return Ok(true) };
        match restart.check(datagram, now) {
            Verdict::NotAHello => return Ok(true),
            // A repetition of the first fragment; further fragments may follow it in the datagram.
            Verdict::Duplicate if self.hello.is_some() => return Ok(true),
            Verdict::Duplicate => bump(&self.counters.duplicate_hellos),
            Verdict::Challenge(reply) => {
                bump(&self.counters.restarts_challenged);
                self.stream.get_mut().outgoing.push_back(reply.as_slice().into());
            }
            Verdict::Ignore => {}
            Verdict::Restarted => return Err(Failure::Restarted(std::mem::take(datagram))),
        }
        Ok(false)
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn next_timeout(&self) -> Instant {
        self.resend_at.min(self.deadline)
    }

    /// Handles expired timers. Returns `true` when the handshake is complete.
    ///
    /// # Errors
    ///
    /// The handshake has failed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<bool, Failure> {
        if now >= self.deadline {
            return Err(Failure::Ended(self.why_incomplete()));
        }
        if now < self.resend_at {
            return Ok(false);
        }
        if self.hello.is_some() {
            // Nothing has been sent that could be retransmitted; the client retransmits.
            self.resend_at = now + self.interval;
            return Ok(false);
        }
        self.timeouts += 1;
        self.interval *= 2;
        self.resend_at = now + self.interval;
        bump(&self.counters.retransmissions);
        if let Some(mtu) = MTUS.get(self.timeouts) {
            ossl::set_mtu(&mut self.stream, *mtu);
        }
        let written = self.stream.get_ref().written;
        let complete = self.step()?;
        if self.stream.get_ref().written == written {
            self.stream.get_mut().repeat();
        }
        Ok(complete)
    }

    /// Returns the next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Box<[u8]>> {
        self.stream.get_mut().outgoing.pop_front()
    }

    /// Aborts the handshake and queues an alert for the peer.
    pub(crate) fn abort(&mut self) {
        self.stream.get_mut().push_alert(Alert::INTERNAL_ERROR);
    }

    /// Returns whether the server has sent a record in the epoch after the handshake's, so it has keys.
    fn has_written_finished(&self) -> bool {
        self.stream.get_ref().next_record.is_some()
    }

    /// Returns the most likely cause of a handshake that was not complete in time.
    fn why_incomplete(&self) -> EndReason {
        if let Some(alert) = self.alert {
            return EndReason::HandshakeFailed(Alert(alert).to_string());
        }
        let ssl = self.stream.ssl();
        // A Finished that does not verify is dropped silently (RFC 6347 §4.1.2.7). With a pre-shared key it almost
        // always means that the two sides have different keys.
        match psk::identity_in_use(ssl) {
            Some(identity)
                if ssl.is_server()
                    && (self.early_finished > 0 || self.is_unreadable)
                    && has_changed_cipher_spec(ssl) =>
            {
                EndReason::HandshakeFailed(format!(
                    "the client's Finished does not verify: it probably has another pre-shared key for {identity}"
                ))
            }
            Some(identity) if !ssl.is_server() && self.has_written_finished() => {
                EndReason::HandshakeFailed(format!(
                    "the server answered and did not complete the handshake: it probably has another pre-shared key \
                     for {identity}"
                ))
            }
            _ => EndReason::HandshakeTimedOut,
        }
    }

    /// Fails if this datagram begins a certificate chain that is longer than the limit. OpenSSL drops fragments of such
    /// a message silently.
    fn refuse_too_long_chain(&mut self, datagram: &[u8]) -> Result<(), Failure> {
        const CERTIFICATE: u8 = 11;
        let limit = ossl::max_cert_list(self.stream.ssl());
        let mut rest = datagram;
        while let Ok((record, behind)) = Record::split_with(rest, self.cid_len()) {
            if let (0, HANDSHAKE, &[CERTIFICATE, a, b, c, ..]) =
                (record.epoch, record.content_type, record.body)
            {
                let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                if len <= limit {
                    return Ok(());
                }
                self.stream.get_mut().push_alert(Alert::ILLEGAL_PARAMETER);
                let why = format!(
                    "the peer's certificate chain has {len} bytes, more than the {limit} that are accepted"
                );
                return Err(Failure::Ended(EndReason::HandshakeFailed(why)));
            }
            rest = behind;
        }
        Ok(())
    }

    /// Removes the records from the datagram that only the open session can read, and keeps them for it. OpenSSL gets
    /// only a few handshake records of the next epoch. Returns `false` if records were dropped.
    fn set_early_records_aside(&mut self, datagram: &mut Vec<u8>) -> bool {
        let (mut at, mut all_kept) = (0, true);
        let has_cid = agreed(self.stream.ssl()).is_some_and(|agreed| !agreed.offer.cid.is_empty());
        while let Ok((record, _)) = Record::split_with(&datagram[at..], self.cid_len()) {
            let end = at + record.wire_len();
            let (belongs_to_handshake, kept) = match (record.epoch, record.content_type) {
                (0, _) => (true, true),
                (_, TLS12_CID) => {
                    let translation = self.translation.as_mut();
                    let keep =
                        |translation: &mut Translation| translation.keep(record.cid, &datagram[at..end]);
                    all_kept &= translation.is_some_and(keep);
                    datagram.drain(at..end);
                    continue;
                }
                // RFC 9146 §3: the peer must put our connection ID into its records.
                _ if has_cid => (false, false),
                (_, HANDSHAKE) => (true, self.early_finished < MAX_EARLY_RECORDS),
                _ => (false, self.early.len() < MAX_EARLY_RECORDS),
            };
            all_kept &= kept;
            match belongs_to_handshake {
                true if kept => {
                    self.early_finished += usize::from(record.epoch != 0);
                    at = end;
                    continue;
                }
                false if kept => self.early.push_back(datagram[at..end].into()),
                _ => {}
            }
            datagram.drain(at..end);
        }
        all_kept
    }

    /// Runs a step of OpenSSL, unless it waits for the hello. A new flight restarts the timer.
    fn advance(&mut self, now: Instant) -> Result<bool, Failure> {
        if self.hello.is_some() {
            return Ok(false);
        }
        let written = self.stream.get_ref().written;
        let complete = self.step()?;
        if self.stream.get_ref().written != written {
            self.rearm(now);
        }
        Ok(complete)
    }

    /// Runs one step of OpenSSL. Returns `true` when the handshake is complete.
    fn step(&mut self) -> Result<bool, Failure> {
        let written = self.stream.get_ref().written;
        let stepped = progress(&mut self.stream);
        self.send_step();
        // OpenSSL rejects some malformed messages without an alert.
        if stepped.is_err() && self.stream.get_ref().written == written {
            self.stream.get_mut().push_alert(Alert::DECODE_ERROR);
        }
        stepped
    }

    /// Queues the datagrams that OpenSSL wrote in its last step.
    fn send_step(&mut self) {
        let mtu = usize::from(MTUS[self.timeouts.min(MTUS.len() - 1)]);
        for datagram in self.stream.get_mut().take_step() {
            let translated = match &mut self.translation {
                Some(translation) => translation.outgoing(self.stream.ssl(), datagram, mtu),
                None => vec![datagram],
            };
            for datagram in translated {
                self.stream.get_mut().send(&datagram);
            }
        }
    }

    /// Completes the handshake: frees OpenSSL's session and hands over to the record layer.
    ///
    /// # Errors
    ///
    /// The record layer does not support the cipher suite, or OpenSSL could not allocate memory.
    pub(crate) fn finish(mut self) -> Result<(Session, HandshakeSummary), Failure> {
        self.early.extend(self.translation.take().map(Translation::into_pending).unwrap_or_default());
        let io = self.stream.get_mut();
        let (flight, next) = (io.take_flight(), io.next_record.unwrap_or_default());
        let ssl = self.stream.ssl();
        let summary = HandshakeSummary::of(ssl);
        // The sender of the last flight keeps it: the server, or the client of a resumed session (RFC 6347 §4.2.4, RFC
        // 5246 §7.3).
        let flight = if ssl.is_server() != ssl.session_reused() { flight } else { Vec::new() };
        if summary.connection_ids {
            bump(&self.counters.connection_ids);
        }
        let session = Session::take_over(ssl, next, self.early, flight, self.restart, self.counters)?;
        // Otherwise OpenSSL considers the session broken, and it could not be resumed.
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
        Ok((session, summary))
    }
}

/// Returns whether a server has read its client's ChangeCipherSpec, which precedes the Finished.
fn has_changed_cipher_spec(ssl: &SslRef) -> bool {
    ssl.state_string_long().contains("read change cipher spec")
}
