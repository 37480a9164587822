//! The DTLS handshake of one association, on the thread that will serve it.
//!
//! 1. A server starts with the ClientHello whose cookie the dispatcher verified. Fragments that are missing are collected;
//!    then the whole message is replayed through `DTLSv1_listen`, which keeps the record. A client starts with nothing.
//! 2. OpenSSL is stepped; it writes a flight or wants a datagram.
//! 3. The wait ends with a datagram (filtered, fed, step again), with the retransmission timer
//!    (1 s, doubling: RFC 6347 §4.2.4.1), with a signal, or with the deadline. Timers run on the
//!    monotonic clock; OpenSSL's own is wall clock, so where it does not send when it should, the
//!    recorded flight is sent again as it was.
//! 4. After the first and second timeout the datagrams get smaller (1400, 1200, 548 bytes): the path
//!    may drop large ones in silence.
//! 5. The last flight is kept until the peer shows that it has it. Where a session is resumed that is the client's
//!    (RFC 5246 §7.3), and what it says next may overtake it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::ssl::{ShutdownState, Ssl, SslContext, SslRef, SslStream};
use socket2::Socket;

use super::datagram::DatagramIo;
use super::dtls::DtlsSession;
use crate::association::{Association, signal};
use crate::error::EndReason;
use crate::net::Arrival;
use crate::net::udp::UdpTransport;
use crate::observe::{Counters, bump};
use crate::protocol::alert::Alert;
use crate::protocol::dtls::assembly::HelloAssembly;
use crate::protocol::dtls::cookie::AddressProven;
use crate::protocol::dtls::filter::{self, Filtered};
use crate::protocol::dtls::hello::{ClientHello, HANDSHAKE, Record};
use crate::protocol::dtls::restart::{Restart, Verdict};
use crate::sys::sync::atomic::Ordering;
use crate::sys::{message::DATAGRAM_MAX, ossl};
use crate::tls::context::psk;
use crate::tls::handshake::{broken, client_ssl, progress, server_ssl};
use crate::tls::{Facts, Failure, Resume};

/// Handshake datagrams without IP and UDP headers: Ethernet less a tunnel, then the IPv6 minimum
/// less headers, then what every IPv4 host reassembles (RFC 6347 §4.1.1.1).
const MTUS: [u16; 3] = [1400, 1200, 548];

/// First retransmission after this (RFC 6347 §4.2.4.1).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a handshake goes on after an alert that anybody can have forged.
const ALERT_GRACE: Duration = Duration::from_secs(2);

/// Records of the next epoch that are taken before it has begun: so many of the handshake, each of which OpenSSL keeps in a
/// buffer of 16 KiB (CVE-2026-54874), and so many others. A client sends one Finished, reordered or again, and one that
/// resumes may send data behind it.
const MAX_EARLY_RECORDS: usize = 8;

/// A ClientHello whose sender proved its address; only a verified cookie makes one. Fragments of it may still be missing.
pub(crate) struct VerifiedHello {
    assembly: HelloAssembly,
    random: [u8; 32],
}

impl VerifiedHello {
    /// The proof is what [`CookieJar::verify`](crate::protocol::dtls::cookie::CookieJar::verify) gave for this hello, which was
    /// parsed from this datagram. `None` where it was not.
    pub(crate) fn new(datagram: &[u8], hello: &ClientHello<'_>, _proof: AddressProven) -> Option<Self> {
        Some(Self { assembly: HelloAssembly::begin(datagram)?, random: *hello.random })
    }

    /// The hello's random.
    pub(crate) fn random(&self) -> [u8; 32] {
        self.random
    }

    /// The number of its record.
    pub(crate) fn record_sequence(&self) -> u64 {
        self.assembly.record_sequence()
    }

    /// Whether no fragment of the hello is to follow.
    pub(crate) fn is_whole(&self) -> bool {
        self.assembly.is_whole()
    }
}

/// A handshake under way.
pub(crate) struct Handshake {
    stream: SslStream<DatagramIo>,
    /// The client's hello while fragments of it are missing. OpenSSL has seen nothing then.
    hello: Option<HelloAssembly>,
    /// Records that overtook the end of the handshake. OpenSSL never sees them.
    early: VecDeque<Box<[u8]>>,
    /// Handshake records of the next epoch that were fed so far.
    early_finished: usize,
    /// The first alert that came in clear.
    alert: Option<u8>,
}

impl Handshake {
    /// The server's side.
    pub(crate) fn accept(
        context: &SslContext,
        socket: Arc<Socket>,
        hello: VerifiedHello,
    ) -> Result<Self, Failure> {
        let mut handshake = Self::over(server_ssl(context)?, socket)?;
        match hello.is_whole() {
            true => handshake.listen(&hello.assembly)?,
            false => handshake.hello = Some(hello.assembly),
        }
        Ok(handshake)
    }

    /// Gives OpenSSL the hello, which is whole.
    fn listen(&mut self, hello: &HelloAssembly) -> Result<(), Failure> {
        self.stream.get_mut().swap(&mut hello.record());
        if !ossl::dtls_listen(self.stream.ssl()) {
            let why = ErrorStack::get();
            let why = why.errors().first().and_then(|error| error.reason());
            let why = why.unwrap_or("OpenSSL does not take the ClientHello").to_owned();
            self.stream.get_ref().send(&Alert::DECODE_ERROR.in_clear(hello.record_sequence()));
            return Err(Failure::Ended(EndReason::HandshakeFailed(why)));
        }
        Ok(())
    }

    /// The client's side; `name` is who the server must prove to be.
    pub(crate) fn connect(
        context: &SslContext,
        socket: Arc<Socket>,
        name: Option<&str>,
        resume: Option<&Resume<'_>>,
    ) -> Result<Self, Failure> {
        Self::over(client_ssl(context, name, resume)?, socket)
    }

    fn over(ssl: Ssl, socket: Arc<Socket>) -> Result<Self, Failure> {
        ossl::set_mtu(&ssl, MTUS[0]);
        let stream = SslStream::new(ssl, DatagramIo::new(socket)).map_err(broken)?;
        Ok(Self { stream, hello: None, early: VecDeque::new(), early_finished: 0, alert: None })
    }

    /// Runs the handshake to its end; blocks until then, at most until `deadline`. `restart` tells
    /// what to do with a ClientHello that begins anew; a client has none.
    pub(crate) fn complete(
        mut self,
        transport: &mut UdpTransport,
        association: &Association,
        counters: &Arc<Counters>,
        restart: Option<&Restart>,
        deadline: Instant,
    ) -> Result<(DtlsSession, Facts), Failure> {
        let mut deadline = deadline;
        let mut timeout = FIRST_TIMEOUT;
        let mut timeouts = 0;
        let mut datagram = Vec::with_capacity(DATAGRAM_MAX);
        if self.hello.is_none() && self.step()? {
            return self.finish(association, counters);
        }
        let mut now = Instant::now();
        let mut resend_at = now + timeout;
        loop {
            let signals = association.signals();
            let shutdown = signals & (signal::CLOSE | signal::STOP | signal::DRAIN) != 0;
            if shutdown || signals & signal::EVICT != 0 {
                self.stream.get_mut().send_alert(Alert::INTERNAL_ERROR);
                return Err(Failure::Ended(if shutdown { EndReason::Shutdown } else { EndReason::Evicted }));
            }
            if now >= deadline {
                return Err(Failure::Ended(self.why_incomplete()));
            }
            let until = resend_at.min(deadline);
            let arrival = transport.recv(&mut [], &mut datagram, now, Some(until));
            now = Instant::now();
            match arrival {
                Arrival::Message(_) => {
                    let written = self.stream.get_ref().written;
                    let fed = self.feed(&mut datagram, association, counters, restart)?;
                    if fed == Fed::Alert {
                        deadline = deadline.min(now + ALERT_GRACE);
                    }
                    if fed == Fed::Records && self.step()? {
                        return self.finish(association, counters);
                    }
                    if self.stream.get_ref().written != written {
                        // A new flight has a new timer.
                        timeout = FIRST_TIMEOUT;
                        resend_at = now + timeout;
                    }
                }
                Arrival::Woken | Arrival::TooLong | Arrival::Notification(_) | Arrival::Dry => {}
                Arrival::TimedOut if now >= deadline => {}
                // Nothing was sent that could be sent again; the client does.
                Arrival::TimedOut if self.hello.is_some() => resend_at = now + timeout,
                Arrival::TimedOut => {
                    timeouts += 1;
                    timeout *= 2;
                    resend_at = now + timeout;
                    bump(&counters.retransmissions);
                    if self.retransmit(timeouts)? {
                        return self.finish(association, counters);
                    }
                }
                Arrival::Over(reason) => return Err(Failure::Ended(reason)),
            }
        }
    }

    /// Says what the peer's part was in a handshake that was not complete in time.
    fn why_incomplete(&self) -> EndReason {
        if let Some(alert) = self.alert {
            return EndReason::HandshakeFailed(Alert(alert).to_string());
        }
        let ssl = self.stream.ssl();
        // A Finished that does not verify is dropped in silence (RFC 6347 §4.1.2.7). With a pre-shared key it nearly
        // always means that the two sides have different keys.
        match psk::identity_in_use(ssl) {
            Some(identity) if ssl.is_server() && self.early_finished > 0 && has_changed_cipher_spec(ssl) => {
                EndReason::HandshakeFailed(format!(
                    "the client's Finished does not verify: it probably has another pre-shared key for {identity}"
                ))
            }
            Some(identity) if !ssl.is_server() && self.stream.get_ref().next_record.is_some() => {
                EndReason::HandshakeFailed(format!(
                    "the server answered and did not complete the handshake: it probably has another pre-shared key \
                     for {identity}"
                ))
            }
            _ => EndReason::HandshakeTimedOut,
        }
    }

    /// Looks for a certificate chain in this datagram that is longer than the limit: its length and the limit, in bytes.
    /// OpenSSL drops fragments of such a message without a word.
    fn too_long_chain(&self, datagram: &[u8]) -> Option<(usize, usize)> {
        const CERTIFICATE: u8 = 11;
        let limit = ossl::max_cert_list(self.stream.ssl());
        let mut rest = datagram;
        while let Ok((record, behind)) = Record::split(rest) {
            if let (0, HANDSHAKE, &[CERTIFICATE, a, b, c, ..]) =
                (record.epoch, record.content_type, record.body)
            {
                let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                return (len > limit).then_some((len, limit));
            }
            rest = behind;
        }
        None
    }

    /// Filters and feeds one datagram.
    fn feed(
        &mut self,
        datagram: &mut Vec<u8>,
        association: &Association,
        counters: &Counters,
        restart: Option<&Restart>,
    ) -> Result<Fed, Failure> {
        if let Some(restart) = restart {
            match restart.check(datagram, association.local, association.peer) {
                Verdict::NotAHello => {}
                // The first fragment again, with others behind it perhaps.
                Verdict::Duplicate if self.hello.is_some() => {}
                Verdict::Duplicate => {
                    bump(&counters.duplicate_hellos);
                    return Ok(Fed::Nothing);
                }
                Verdict::Challenge(reply) => {
                    bump(&counters.restarts_challenged);
                    self.stream.get_ref().send(&reply);
                    return Ok(Fed::Nothing);
                }
                Verdict::Ignore => return Ok(Fed::Nothing),
                Verdict::Restarted => {
                    return Err(Failure::Restarted(std::mem::take(datagram)));
                }
            }
        }
        if let Some(mut hello) = self.hello.take() {
            hello.add(datagram);
            return match hello.is_whole() {
                true => self.listen(&hello).map(|()| Fed::Records),
                false => {
                    self.hello = Some(hello);
                    Ok(Fed::Nothing)
                }
            };
        }
        match filter::filter(datagram) {
            Filtered::Pass { len } => {
                datagram.truncate(len);
                if let Some((len, limit)) = self.too_long_chain(datagram) {
                    self.stream.get_mut().send_alert(Alert::ILLEGAL_PARAMETER);
                    let why = format!(
                        "the peer's certificate chain has {len} bytes, more than the {limit} that are accepted"
                    );
                    return Err(Failure::Ended(EndReason::HandshakeFailed(why)));
                }
                if !self.set_early_records_aside(datagram) {
                    bump(&counters.records_dropped);
                }
                if datagram.is_empty() {
                    return Ok(Fed::Nothing);
                }
                self.stream.get_mut().swap(datagram);
                Ok(Fed::Records)
            }
            Filtered::PlaintextAlert { level: 2, description } => {
                bump(&counters.plaintext_alerts);
                self.alert.get_or_insert(description);
                Ok(Fed::Alert)
            }
            _ => {
                bump(&counters.records_dropped);
                Ok(Fed::Nothing)
            }
        }
    }

    /// Takes those records out of the datagram that only the open session can read, and keeps them for it. Of those of
    /// the next epoch that belong to the handshake OpenSSL gets a few. `false` where some were dropped.
    fn set_early_records_aside(&mut self, datagram: &mut Vec<u8>) -> bool {
        let (mut at, mut all_kept) = (0, true);
        while let Ok((record, _)) = Record::split(&datagram[at..]) {
            let end = at + record.wire_len();
            let (belongs_to_handshake, kept) = match (record.epoch, record.content_type) {
                (0, _) => (true, true),
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

    /// One step of OpenSSL's; `true` when the handshake is complete.
    fn step(&mut self) -> Result<bool, Failure> {
        let written = self.stream.get_ref().written;
        let stepped = progress(&mut self.stream);
        // OpenSSL gives up on some malformed messages without an alert.
        if stepped.is_err() && self.stream.get_ref().written == written {
            self.stream.get_mut().send_alert(Alert::DECODE_ERROR);
        }
        stepped
    }

    /// The timer fired: smaller datagrams, and the flight again.
    fn retransmit(&mut self, timeouts: usize) -> Result<bool, Failure> {
        if let Some(mtu) = MTUS.get(timeouts) {
            ossl::set_mtu(self.stream.ssl(), *mtu);
        }
        let written = self.stream.get_ref().written;
        let complete = self.step()?;
        if self.stream.get_ref().written == written {
            self.stream.get_mut().resend();
        }
        Ok(complete)
    }

    /// OpenSSL has done its part: its session is freed, and the record layer takes over.
    fn finish(
        mut self,
        association: &Association,
        counters: &Arc<Counters>,
    ) -> Result<(DtlsSession, Facts), Failure> {
        let (socket, flight) = self.stream.get_mut().take_flight();
        let next = self.stream.get_ref().next_record.unwrap_or_default();
        let ssl = self.stream.ssl();
        let facts = Facts::of(ssl);
        let session = DtlsSession::take_over(ssl, next, self.early, socket, Arc::clone(counters))?;
        // Whoever sent the last flight keeps it: the server, or the client where a session is resumed (RFC 6347 §4.2.4, RFC
        // 5246 §7.3).
        match ssl.is_server() != ssl.session_reused() {
            true => {
                association.keep_last_flight(flight);
                association.answers_in_send.store(!ssl.is_server(), Ordering::Relaxed);
            }
            false => association.confirm(),
        }
        // Otherwise OpenSSL takes the session for a broken one, and it could not be resumed.
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
        Ok((session, facts))
    }
}

/// Whether a server has read its client's ChangeCipherSpec, behind which the Finished comes.
fn has_changed_cipher_spec(ssl: &SslRef) -> bool {
    ssl.state_string_long().contains("read change cipher spec")
}

/// What became of a datagram.
#[derive(PartialEq, Eq)]
enum Fed {
    /// OpenSSL has records to look at.
    Records,
    /// A fatal alert in clear: perhaps the peer's, perhaps forged.
    Alert,
    /// Nothing.
    Nothing,
}
