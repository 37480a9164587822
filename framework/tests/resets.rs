//! Connections that the server gives up although messages wait for their peers: the messages are dropped, and a reset
//! tells the peer that some are missing.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Sender as Tell, channel};
use std::sync::{Arc, Mutex};

use peeloff::{
    Callbacks, EndKind, EndReason, Error, Framing, HandlerError, Message, PeerEvents, PostOutcome, Sender,
    ServerBuilder, SocketRole, TcpSettings,
};
use socket2::SockRef;
use support::{DEADLINE, Running, post_until_queued};

/// How many messages are put into the outbox.
const WAITING: u32 = 100;

/// The longest message that the server accepts, in bytes.
const LONGEST: usize = 10_000;

/// Why the server gives up.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// A callback returns [`Error::SendBufferFull`].
    Callback,
    /// A message finds the outbox full.
    Outbox,
    /// The peer sends a message that is too long.
    LongMessage,
}

const CAUSES: [Cause; 3] = [Cause::Callback, Cause::Outbox, Cause::LongMessage];

/// Reports each peer, and gives up at its first message.
struct GivesUp(Mutex<Tell<Sender>>);

impl PeerEvents for GivesUp {
    type State = ();

    fn open(&self, peer: &Sender) -> Result<(), HandlerError> {
        self.0.lock().unwrap().send(peer.clone())?;
        Ok(())
    }

    fn message(&self, (): &mut (), _: &Sender, _: Message<'_>) -> Result<(), HandlerError> {
        Err(Error::SendBufferFull.into())
    }
}

fn settings() -> TcpSettings {
    let mut settings = TcpSettings::default();
    settings.framing = Framing::LengthPrefixed;
    settings.max_message = LONGEST;
    settings
}

/// Makes the server give up a peer for whom messages wait. Returns how many messages had left the outbox before; the
/// last of them wait for room on the connection.
fn give_up(running: &Running, sender: &Sender, cause: Cause, send: impl FnOnce(&[u8])) -> u64 {
    let posted = post_until_queued(sender, WAITING);
    match cause {
        Cause::Callback => send(b"enough"),
        Cause::LongMessage => send(&[b'x'; LONGEST + 1]),
        Cause::Outbox => {
            let message: Arc<[u8]> = Arc::from(&[0; 8000][..]);
            let mut outcomes = std::iter::repeat_with(|| sender.post(&message));
            assert_eq!(
                outcomes.find(|outcome| *outcome != PostOutcome::Queued),
                Some(PostOutcome::Disconnected)
            );
        }
    }
    let stats = running.until("it is given up", |stats| stats.peers == 0);
    let kind = if matches!(cause, Cause::LongMessage) { EndKind::MessageRefused } else { EndKind::TooSlow };
    assert_eq!((stats.ended(kind), stats.ended_total()), (1, 1), "{cause:?}: {stats:?}");
    // Some of the waiting messages may have left meanwhile, because buffers of the kernel may grow.
    assert!(stats.messages_dropped > 0, "{cause:?}: {stats:?}");
    assert!(stats.messages_sent + stats.messages_dropped >= u64::from(posted), "{cause:?}: {stats:?}");
    stats.messages_sent
}

/// Starts servers with threads and with loops, and has one give up a peer for each cause.
fn each_way(url: &str, check: impl Fn(&Running, &dyn Fn() -> Sender, Cause)) {
    for (loops, cause) in [false, true].into_iter().flat_map(|loops| CAUSES.map(|cause| (loops, cause))) {
        let (came, arrivals) = channel();
        let events = GivesUp(Mutex::new(came));
        let configure = |builder: ServerBuilder| {
            builder.tcp(settings()).socket_options(|socket| match socket.role() {
                // A buffer of a fixed size does not grow, so the outbox stays full.
                SocketRole::Peer => SockRef::from(socket).set_send_buffer_size(64 << 10),
                _ => Ok(()),
            })
        };
        let running = match loops {
            true => Running::with_events(url, configure, events),
            false => Running::with(url, configure, Callbacks::new(events)),
        };
        check(&running, &|| arrivals.recv_timeout(DEADLINE).unwrap(), cause);
    }
}

#[test]
fn a_connection_that_is_given_up_is_reset_and_loses_what_waits() {
    each_way("tcp://127.0.0.1:0", |running, arrival, cause| {
        let mut client = TcpStream::connect(running.address()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let sent = give_up(running, &arrival(), cause, |message| {
            // One write, because the server may reset the connection as soon as it knows the length.
            let mut prefixed = u32::try_from(message.len()).unwrap().to_be_bytes().to_vec();
            if message.len() <= LONGEST {
                prefixed.extend_from_slice(message);
            }
            client.write_all(&prefixed).unwrap();
        });
        let (mut bytes, mut buffer) = (0, vec![0; 65_536]);
        let end = loop {
            match client.read(&mut buffer) {
                Ok(0) => panic!("{cause:?}: a clean end after {bytes} bytes"),
                Ok(len) => bytes += len,
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{cause:?}: {end}");
        assert!(bytes < sent as usize * 8004, "{cause:?}: {bytes} bytes of {sent} messages");
    });
}

#[test]
fn a_tls_connection_that_is_given_up_is_reset_without_a_close_notify_and_loses_what_waits() {
    each_way("tls://127.0.0.1:0", |running, arrival, cause| {
        let mut sends = TcpSettings::default();
        sends.framing = Framing::LengthPrefixed;
        let mut client = running.client().tcp(sends).connect(running.url()).unwrap();
        let sender = client.sender();
        let sent = give_up(running, &arrival(), cause, |message| sender.send(message).unwrap());
        let (mut messages, mut buffer) = (0, vec![0; 65_536]);
        let end = loop {
            match client.recv_timeout(&mut buffer, DEADLINE) {
                Ok(Some(_)) => messages += 1,
                other => break other,
            }
        };
        assert!(matches!(end, Err(Error::Ended(EndReason::Aborted(_)))), "{cause:?}: {end:?}");
        assert!(messages < sent, "{cause:?}: {messages} of {sent} messages");
    });
}
