//! Errors that handlers return: every type is accepted, and the cause decides how the association ends.

mod support;

use std::error::Error as StdError;
use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Sender as Notes, channel};

use peeloff::{
    Callbacks, EndKind, EndReason, Error, HandlerError, Message, Peer, PeerEvents, PeerHandler, Sender,
    Stats, TrySendError,
};
use support::{DEADLINE, Running, until};

/// An error type of the user's.
#[derive(Debug, thiserror::Error)]
#[error("the order was not saved")]
struct OrderError(#[source] HandlerError);

/// Returns the counters after a peer has sent a message to `handler` and closed.
fn served(url: &str, handler: impl PeerHandler) -> Stats {
    let running = Running::with(url, |builder| builder, handler);
    let mut peer = running.connect();
    peer.send(b"order").unwrap();
    peer.close();
    running.until("it ends", |stats| stats.ended_total() == 1)
}

fn wait_for_the_end(peer: &mut Peer) -> Result<(), Error> {
    let mut message = Vec::new();
    while peer.recv_into(&mut message)?.is_some() {}
    Ok(())
}

/// Returns the error of a send to a peer that has closed.
fn ended(peer: &mut Peer) -> Error {
    wait_for_the_end(peer).unwrap();
    peer.send(b"saved").unwrap_err()
}

/// Fails with an error of its own, whatever the peer does.
struct Own;

impl PeerHandler for Own {
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        peer.recv_into(&mut Vec::new())?;
        Err(OrderError("no disk".into()))?
    }
}

#[test]
fn an_error_of_any_type_is_one_of_the_handlers() {
    fn no_disk() -> Result<(), OrderError> {
        Err(OrderError("no disk".into()))
    }
    fn number(_: &mut Peer) -> Result<(), HandlerError> {
        "many".parse::<u8>()?;
        Ok(())
    }
    let found = [
        served("dtls://127.0.0.1:0", Own),
        served("dtls://127.0.0.1:0", |_: &mut Peer| no_disk()),
        served("dtls://127.0.0.1:0", |_: &mut Peer| -> Result<(), HandlerError> { Ok(no_disk()?) }),
        served("dtls://127.0.0.1:0", |_: &mut Peer| Err::<(), _>("in words")),
        served("dtls://127.0.0.1:0", |_: &mut Peer| -> io::Result<()> {
            Err(io::ErrorKind::NotFound.into())
        }),
        served("dtls://127.0.0.1:0", |_: &mut Peer| -> Result<(), Error> {
            Err(io::Error::from(io::ErrorKind::NotFound))?
        }),
        served("dtls://127.0.0.1:0", number),
        // A message that is too long is the handler's fault.
        served("dtls://127.0.0.1:0", |peer: &mut Peer| -> Result<(), Error> {
            Ok(peer.sender().try_send(&[0; 70_000][..])?)
        }),
    ];
    for (number, stats) in found.iter().enumerate() {
        assert_eq!(
            (stats.ended(EndKind::HandlerFailed), stats.handler_errors),
            (1, 1),
            "{number}: {stats:?}"
        );
    }
}

#[test]
fn an_error_that_the_end_of_the_association_caused_is_none_of_the_handlers() {
    let found = [
        served("dtls://127.0.0.1:0", |peer: &mut Peer| Err::<(), _>(ended(peer))),
        served("dtls://127.0.0.1:0", |peer: &mut Peer| Err::<(), _>(OrderError(ended(peer).into()))),
        served("dtls://127.0.0.1:0", |peer: &mut Peer| Err::<(), _>(io::Error::from(ended(peer)))),
        served("dtls://127.0.0.1:0", |peer: &mut Peer| -> Result<(), HandlerError> {
            wait_for_the_end(peer)?;
            Ok(peer.sender().try_send("saved")?)
        }),
        served("dtls://127.0.0.1:0", |peer: &mut Peer| -> Result<(), Error> {
            wait_for_the_end(peer)?;
            Ok(peer.sender().try_send(&b"saved"[..])?)
        }),
        served("dtls://127.0.0.1:0", |peer: &mut Peer| {
            let cause = OrderError(io::Error::other(ended(peer)).into());
            Err::<(), _>(io::Error::other(cause))
        }),
    ];
    for (number, stats) in found.iter().enumerate() {
        assert_eq!((stats.ended(EndKind::ClosedByPeer), stats.handler_errors), (1, 0), "{number}: {stats:?}");
    }
}

#[test]
fn an_error_or_a_panic_after_the_peer_has_left_counts_too() {
    fn fail(peer: &mut Peer) -> Result<(), HandlerError> {
        wait_for_the_end(peer)?;
        Err(OrderError("no disk".into()))?
    }
    fn panic(peer: &mut Peer) -> Result<(), HandlerError> {
        wait_for_the_end(peer)?;
        panic!("a panic of a handler, as it is to be")
    }
    for (handler, failures) in [(fail as fn(&mut Peer) -> Result<(), HandlerError>, (1, 0)), (panic, (0, 1))]
    {
        let running = Running::with("dtls://127.0.0.1:0", |builder| builder, handler);
        running.connect().close();
        let stats =
            running.until("it is counted", |stats| (stats.handler_errors, stats.handler_panics) == failures);
        assert_eq!((stats.ended(EndKind::ClosedByPeer), stats.ended_total()), (1, 1), "{stats:?}");
    }
}

#[test]
fn a_full_send_buffer_ends_the_association_of_a_peer_that_is_too_slow() {
    struct Talker(Mutex<Notes<EndReason>>);
    impl PeerEvents for Talker {
        type State = ();
        fn open(&self, _: &Sender) -> Result<(), HandlerError> {
            Ok(())
        }
        fn message(&self, (): &mut (), peer: &Sender, _: Message<'_>) -> Result<(), HandlerError> {
            loop {
                peer.try_send([5; 10_000])?;
            }
        }
        fn close(&self, (): (), _: &Sender, reason: EndReason) {
            self.0.lock().unwrap().send(reason).unwrap();
        }
    }
    let (told, reasons) = channel();
    let running =
        Running::with("tcp://127.0.0.1:0", |builder| builder, Callbacks::new(Talker(Mutex::new(told))));
    let mut peer = running.connect();
    peer.send(b"talk").unwrap();
    assert_eq!(reasons.recv_timeout(DEADLINE).unwrap(), EndReason::TooSlow);
    let stats = running.until("it ends", |stats| stats.peers == 0);
    assert_eq!((stats.ended(EndKind::TooSlow), stats.handler_errors), (1, 0), "{stats:?}");
}

#[test]
fn messages_that_were_not_sent_are_returned_with_the_reason() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let mut peer = running.connect();
    let sender = peer.sender();
    let TrySendError { message, error } = sender.try_send(vec![7; 20_000]).unwrap_err();
    assert_eq!(message, [7; 20_000]);
    assert!(matches!(error, Error::MessageTooLarge { size: 20_000, limit: 16_384 }), "{error}");
    peer.close();
    let failed = sender.try_send(String::from("secret")).unwrap_err();
    let source = failed.source().unwrap().downcast_ref();
    assert!(matches!(source, Some(Error::Ended(EndReason::ClosedByUs))), "{source:?}");
    assert!(!format!("{failed:?} {failed}").contains("secret"));
    assert_eq!(failed.message, "secret");
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Writes to [`LOG`].
struct Logger;

impl io::Write for Logger {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_line_names_the_error_and_its_causes() {
    tracing_subscriber::fmt().with_ansi(false).with_writer(|| Logger).init();
    let fail = |_: &mut Peer| Err::<(), _>(OrderError(io::Error::other("the disk is full").into()));
    let running = Running::with("udp://127.0.0.1:0", |builder| builder, fail);
    // Only one line a second is written, and other tests may use it up.
    let line = until("it is logged", || {
        running.connect().send(b"order").unwrap();
        let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
        log.lines().find(|line| line.contains("the disk is full")).map(str::to_owned)
    });
    assert!(line.contains("WARN"), "{line}");
    assert!(line.contains("a handler returned an error"), "{line}");
    assert!(line.contains("peer=127.0.0.1:"), "{line}");
    assert!(line.contains("error=the order was not saved: the disk is full"), "{line}");
}
