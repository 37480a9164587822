//! Notifications of rare events, each provoked in the kernel. What makes an association fail to start is in
//! `sctp_messages`.

#[path = "support/network.rs"]
#[allow(dead_code)]
mod network;
mod support;

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{self, channel};
use std::time::Duration;

use network::{netem_to, run_in_own_network};
use peeloff::sctp::{
    ErrorCause, MessageInfo, Notification, NotificationKind, PathState, PathThresholds, SendInfo, Settings,
};
use peeloff::{Callbacks, EndKind, EndReason, Error, Event, HandlerError, Message, Peer, PeerEvents, Sender};
use socket2::{Domain, Protocol, Type};
use support::{DEADLINE, Running, echo, exchange};

/// The protocol number of SCTP.
const SCTP: i32 = 132;

/// Opens a socket that receives every SCTP packet, and can send its own (raw(7)).
fn raw() -> socket2::Socket {
    let raw = socket2::Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(SCTP))).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    raw.bind(&any.into()).unwrap();
    raw.set_read_timeout(Some(DEADLINE)).unwrap();
    raw
}

/// Returns ports and verification tag of the next packet to this port that has a tag (RFC 9260 §3.1).
fn common_header(raw: &socket2::Socket, port: u16) -> [u8; 8] {
    loop {
        let mut packet = [0; 2048];
        let _ = { raw }.read(&mut packet).unwrap();
        let header = usize::from(packet[0] & 0xf) * 4;
        let header: [u8; 8] = packet[header..header + 8].try_into().unwrap();
        if header[2..4] == port.to_be_bytes() && header[4..] != [0; 4] {
            return header;
        }
    }
}

/// Computes CRC32c (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_error_chunk_of_the_peer_is_a_notification_with_its_cause() {
    let (report, reports) = channel();
    let report = Mutex::new(report);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        peer.sctp().unwrap().subscribe(NotificationKind::RemoteError, true)?;
        let mut buffer = [0; 64];
        while let Some(mut sctp) = peer.sctp() {
            match sctp.recv_event(&mut buffer)? {
                Some(Event::Message(len, _)) => peer.send(&buffer[..len])?,
                Some(Event::Notification(told)) => report.lock().unwrap().send(told).unwrap(),
                Some(_) | None => break,
            }
        }
        Ok(())
    };
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder, handler);
    let raw = raw();
    let mut peer = running.connect();
    exchange(&mut peer, b"hello");
    // The packet comes in the peer's name: an ERROR chunk (type 9) with cause 1, invalid stream identifier, for
    // stream 7.
    let mut packet = common_header(&raw, running.address().port()).to_vec();
    packet.extend([0; 4]);
    packet.extend([9, 0, 0, 12, 0, 1, 0, 8, 0, 7, 0, 0]);
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    raw.send_to(&packet, &SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    match reports.recv_timeout(DEADLINE).unwrap() {
        Notification::RemoteError { error, data, .. } => {
            assert_eq!((error, &data[..]), (ErrorCause::new(1), &[0, 7, 0, 0][..]));
        }
        other => panic!("{other:?}"),
    }
    // The error has not ended the association.
    exchange(&mut peer, b"still there");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn the_rest_of_a_message_that_never_comes_is_a_notification_and_is_counted() {
    let mut settings = Settings::default();
    settings.max_message = 8 << 20;
    let (hold, held) = channel::<()>();
    let held = Mutex::new(held);
    let (report, reports) = channel();
    let report = Mutex::new(report);
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        let mut sctp = peer.sctp().unwrap();
        sctp.subscribe(NotificationKind::PartialDelivery, true)?;
        // From here on, messages are delivered in parts.
        sctp.options()?.set_partial_delivery_point(Some(4000))?;
        sctp.send(b"ready", &SendInfo::default())?;
        // Nothing is read until the peer has gone, so that the message cannot arrive completely.
        held.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        let mut buffer = vec![0; 8 << 20];
        let told = match peer.sctp().unwrap().recv_event(&mut buffer)? {
            Some(Event::Notification(told)) => told,
            other => panic!("{other:?}"),
        };
        report.lock().unwrap().send(told).unwrap();
        while peer.recv(&mut buffer)?.is_some() {}
        Ok(())
    };
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder.sctp(settings.clone()), handler);
    let mut peer = running.client().sctp(settings).connect(running.url()).unwrap();
    assert_eq!(peer.recv_timeout(&mut [0; 64], DEADLINE).unwrap(), Some(5));
    let on_five = SendInfo::default().stream(5);
    peer.sctp().unwrap().send(&vec![7; 6 << 20], &on_five).unwrap();
    // As much of it as the server's buffer accepts has arrived.
    support::until("the window is full", || {
        let status = peer.sctp()?.options().ok()?.status().ok()?;
        (status.peer_window < 2000).then_some(())
    });
    peer.sctp().unwrap().abort(b"changed my mind");
    hold.send(()).unwrap();
    match reports.recv_timeout(DEADLINE).unwrap() {
        Notification::PartialDelivery { aborted, stream, .. } => assert!(aborted, "stream {stream}"),
        other => panic!("{other:?}"),
    }
    let stats = running.until("it ends", |stats| stats.peers == 0);
    assert_eq!((stats.ended(EndKind::Aborted), stats.messages_cut_off, stats.messages_received), (1, 1, 0));
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_path_is_potentially_failed_before_it_is_lost() {
    if run_in_own_network("a_path_is_potentially_failed_before_it_is_lost") {
        return;
    }
    let mut settings = Settings::default();
    settings.dead_after = Some(Duration::from_secs(6));
    let url = "sctp://127.0.0.1,127.0.0.2:0";
    // The server gives up much later than the client's path fails: its heartbeats are answered to the address
    // that is cut off, and after too many of them its kernel would abort the association.
    let running = Running::with(url, |builder| builder, echo);
    // The client has addresses of its own, so that answers to it do not go to the server's addresses.
    let local: [SocketAddr; 2] = ["127.0.0.3:0".parse().unwrap(), "127.0.0.4:0".parse().unwrap()];
    let client = running.client().sctp(settings).bind(local[0]).bind(local[1]);
    let mut peer = client.connect(running.url()).unwrap();
    exchange(&mut peer, b"before");
    let mut sctp = peer.sctp().unwrap();
    let primary = {
        let options = sctp.options().unwrap();
        options.set_expose_potentially_failed(true).unwrap();
        let thresholds =
            PathThresholds { max_retransmissions: 3, potentially_failed: 1, primary_switchover: None };
        options.set_path_thresholds(None, thresholds).unwrap();
        options.primary().unwrap()
    };
    sctp.subscribe(NotificationKind::PathChanged, true).unwrap();
    netem_to(&[&primary.ip().to_string()], "loss 100%");
    sctp.send(b"into the void", &SendInfo::default()).unwrap();
    let mut states = Vec::new();
    let mut buffer = [0; 64];
    while states.last() != Some(&PathState::Unreachable) {
        match sctp.recv_event_timeout(&mut buffer, DEADLINE).unwrap() {
            Some(Event::Notification(Notification::PathChanged { address, state, .. })) => {
                if address == primary {
                    states.push(state);
                }
            }
            // This is the echo, over the other path.
            Some(Event::Message(..)) => {}
            other => panic!("{other:?}, {states:?}"),
        }
    }
    assert_eq!(states, [PathState::PotentiallyFailed, PathState::Unreachable]);
}

/// Records events, and answers on the same stream.
struct Replies(Mutex<mpsc::Sender<String>>);

impl Replies {
    fn note(&self, line: String) {
        self.0.lock().unwrap().send(line).unwrap();
    }
}

impl PeerEvents for Replies {
    type State = ();

    fn open(&self, peer: &Sender) -> Result<(), HandlerError> {
        let streams = peer.sctp_options(|options| options.status()).unwrap()?.outbound_streams;
        self.note(format!("{streams} streams"));
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        let MessageInfo { stream, ppid, unordered, .. } = message.info().unwrap();
        self.note(format!("{} bytes on {stream} as {ppid}, unordered: {unordered}", message.len()));
        Ok(peer.send_with(&message, &message.reply())?)
    }

    fn notifications(&self) -> &[NotificationKind] {
        &[NotificationKind::PeerShutDown]
    }

    fn notification(&self, (): &mut (), _: &Sender, told: &Notification) -> Result<(), HandlerError> {
        self.note(format!("{told:?}"));
        Ok(())
    }

    fn close(&self, (): (), peer: &Sender, reason: EndReason) {
        assert!(peer.sctp_options(|_| ()).is_none());
        self.note(reason.kind().to_string());
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn callbacks_see_streams_identifiers_and_notifications() {
    let (notes, lines) = channel();
    let handler = Callbacks::new(Replies(Mutex::new(notes)));
    let settings = Settings::default().streams(7);
    let running = Running::with("sctp://127.0.0.1:0", |builder| builder.sctp(settings.clone()), handler);
    let line = || lines.recv_timeout(DEADLINE).unwrap();
    let mut peer = running.client().sctp(settings.clone()).connect(running.url()).unwrap();
    for (how, seen) in [
        (SendInfo::default().stream(3).ppid(77), "3 bytes on 3 as 77, unordered: false"),
        (SendInfo::default().stream(6).unordered(true), "3 bytes on 6 as 0, unordered: true"),
    ] {
        peer.sctp().unwrap().send(b"abc", &how).unwrap();
        assert_eq!(peer.recv_timeout(&mut [0; 8], DEADLINE).unwrap(), Some(3));
        assert_eq!(peer.message_info().unwrap().reply(), how);
        if how.stream == 3 {
            assert_eq!(line(), "7 streams");
        }
        assert_eq!(line(), seen);
    }
    peer.close();
    let told = line();
    assert!(told.starts_with("PeerShutDown"), "{told}");
    assert_eq!(line(), "closed_by_peer");
}
