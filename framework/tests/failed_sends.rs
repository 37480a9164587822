//! A send that finds the socket broken ends the association for the reason that the kernel gives, whichever thread
//! sends.

mod support;

use std::net::Shutdown;
use std::sync::mpsc::{Receiver, Sender as Tell, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

use peeloff::{
    Callbacks, EndKind, EndReason, Error, HandlerError, Message, Peer, PeerEvents, PostOutcome, Sender,
    ServerBuilder, SocketRole, Sockets,
};
use socket2::{SockRef, Socket};
use support::{DEADLINE, Running, exchange};

const PLAIN_AND_DTLS: [&str; 2] = ["udp://127.0.0.1:0", "dtls://127.0.0.1:0"];
const TCP_AND_TLS: [&str; 2] = ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"];

/// Echoes, and reports each peer and the reason of its end.
struct Reporter {
    came: Mutex<Tell<Sender>>,
    ended: Mutex<Tell<EndReason>>,
}

impl Reporter {
    fn new() -> (Self, Receiver<Sender>, Receiver<EndReason>) {
        let ((came, arrivals), (ended, ends)) = (channel(), channel());
        (Self { came: Mutex::new(came), ended: Mutex::new(ended) }, arrivals, ends)
    }
}

impl PeerEvents for Reporter {
    type State = ();

    fn open(&self, peer: &Sender) -> Result<(), HandlerError> {
        self.came.lock().unwrap().send(peer.clone())?;
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send(&message)?)
    }

    fn close(&self, (): (), _: &Sender, reason: EndReason) {
        let _ = self.ended.lock().unwrap().send(reason);
    }
}

/// A duplicate of the last peer's socket.
#[derive(Clone, Default)]
struct LastSocket(Arc<Mutex<Option<Socket>>>);

impl LastSocket {
    /// Gives each peer a socket of its own, and keeps a duplicate of it.
    fn keep(&self, builder: ServerBuilder) -> ServerBuilder {
        let Self(kept) = self.clone();
        builder.sockets(Sockets::PerPeer).socket_options(move |socket| {
            if socket.role() == SocketRole::Peer {
                *kept.lock().unwrap() = Some(SockRef::from(socket).try_clone()?);
            }
            Ok(())
        })
    }

    /// Makes every later send on the socket fail with EPIPE.
    fn break_it(&self) {
        let socket = self.0.lock().unwrap().take().expect("a peer's socket");
        socket.shutdown(Shutdown::Write).unwrap();
    }
}

const BROKEN: EndReason = EndReason::Io(io::ErrorKind::BrokenPipe);

#[test]
fn a_sender_that_finds_a_broken_socket_gets_the_reason_and_so_do_the_peers_callbacks() {
    type Send = fn(&Sender);
    let sends: [Send; 3] = [
        |sender| {
            let failed = sender.send(b"lost").unwrap_err();
            assert!(matches!(&failed, Error::Ended(reason) if *reason == BROKEN), "{failed}");
        },
        |sender| {
            let failed = sender.try_send(b"lost").unwrap_err();
            assert_eq!(failed.message, b"lost");
            assert!(matches!(&failed.error, Error::Ended(reason) if *reason == BROKEN), "{failed:?}");
        },
        |sender| assert_eq!(sender.post(&Arc::from(&b"lost"[..])), PostOutcome::Ended),
    ];
    for url in PLAIN_AND_DTLS {
        for (loops, send) in [false, true].into_iter().flat_map(|loops| sends.map(|send| (loops, send))) {
            let (events, arrivals, ends) = Reporter::new();
            let socket = LastSocket::default();
            let running = match loops {
                true => Running::with_events(url, |builder| socket.keep(builder), events),
                false => Running::with(url, |builder| socket.keep(builder), Callbacks::new(events)),
            };
            let mut client = running.connect();
            exchange(&mut client, b"hello");
            let sender = arrivals.recv_timeout(DEADLINE).unwrap();
            socket.break_it();
            send(&sender);
            assert_eq!(sender.end_reason(), Some(&BROKEN), "{url}");
            // The callbacks end without another event on the socket.
            assert_eq!(ends.recv_timeout(DEADLINE).unwrap(), BROKEN, "{url}, loops: {loops}");
            let stats = running.until("no peer is left", |stats| stats.peers == 0);
            assert_eq!((stats.ended(EndKind::Io), stats.handler_errors), (1, 0), "{url}: {stats:?}");
        }
    }
}

#[test]
fn a_handler_that_sends_on_a_broken_socket_gets_the_reason_from_its_send_and_its_next_receive() {
    for url in PLAIN_AND_DTLS {
        let (failed, failures) = channel();
        let failed = Mutex::new(failed);
        let socket = LastSocket::default();
        let handlers = socket.clone();
        let handler = move |peer: &mut Peer| -> Result<(), Error> {
            peer.recv(&mut [0; 64])?;
            handlers.break_it();
            let outcomes = (peer.send(b"lost"), peer.recv(&mut [0; 64]));
            failed.lock().unwrap().send(outcomes).unwrap();
            Ok(())
        };
        let running = Running::with(url, |builder| socket.keep(builder), handler);
        running.connect().send(b"hello").unwrap();
        let (sent, received) = failures.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(&sent, Err(Error::Ended(reason)) if *reason == BROKEN), "{url}: {sent:?}");
        assert!(matches!(&received, Err(Error::Ended(reason)) if *reason == BROKEN), "{url}: {received:?}");
        running.until("it is counted", |stats| stats.ended(EndKind::Io) == 1);
    }
}

/// How a peer that takes nothing is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serve {
    /// The handler waits for another thread, which sends and finds the failure.
    OthersSend,
    /// The handler sends and finds the failure.
    HandlerSends,
    /// The handler receives, and its thread sends what the peer did not take. Either finds the failure.
    HandlerReceives,
}

/// Static, because the stack of a handler is small.
static BULK: [u8; 60_000] = [7; 60_000];

/// Sends until that fails for another reason than a full buffer.
fn send_until_ended(mut send: impl FnMut(&[u8]) -> Result<(), Error>) -> Error {
    loop {
        match send(&BULK) {
            Ok(()) => {}
            Err(Error::SendBufferFull) => thread::park_timeout(Duration::from_millis(5)),
            Err(error) => return error,
        }
    }
}

/// Serves a peer that reads nothing, until the kernel gives it up. Returns what the sending thread got, if a
/// particular thread sends, and what the handler then receives.
fn give_up(url: &str, serve: Serve) -> (Option<Error>, Result<Option<usize>, Error>, Running) {
    let ((came, arrivals), (go_on, waits)) = (channel(), channel());
    let (tell, told) = channel();
    let (came, waits, tell) = (Mutex::new(came), Mutex::new(waits), Mutex::new(tell));
    let handler = move |peer: &mut Peer| -> Result<(), Error> {
        came.lock().unwrap().send(peer.sender()).unwrap();
        let mut failed = None;
        match serve {
            Serve::OthersSend => waits.lock().unwrap().recv_timeout(DEADLINE).unwrap(),
            Serve::HandlerSends => failed = Some(send_until_ended(|message| peer.send(message))),
            Serve::HandlerReceives => while peer.sender().try_send(&BULK).is_ok() {},
        }
        tell.lock().unwrap().send((failed, peer.recv(&mut [0; 64]))).unwrap();
        Ok(())
    };
    let configure = |builder: ServerBuilder| {
        builder.socket_options(|socket| match socket.role() {
            // The kernel gives up a peer that has taken nothing for so long (TCP_USER_TIMEOUT, tcp(7)).
            SocketRole::Peer => SockRef::from(socket).set_tcp_user_timeout(Some(Duration::from_millis(100))),
            _ => Ok(()),
        })
    };
    let running = Running::with(url, configure, handler);
    let _deaf = running.connect();
    let sender = arrivals.recv_timeout(DEADLINE).unwrap();
    let mut failed = None;
    if serve == Serve::OthersSend {
        failed = Some(send_until_ended(|message| Ok(sender.try_send(message)?)));
        go_on.send(()).unwrap();
    }
    let (handlers, received) = told.recv_timeout(DEADLINE).unwrap();
    (failed.or(handlers), received, running)
}

#[test]
fn a_connection_that_the_kernel_gives_up_is_unreachable_whichever_call_finds_that_first() {
    for url in TCP_AND_TLS {
        for serve in [Serve::OthersSend, Serve::HandlerSends, Serve::HandlerReceives] {
            let (failed, received, running) = give_up(url, serve);
            if serve != Serve::HandlerReceives {
                assert!(
                    matches!(failed, Some(Error::Ended(EndReason::Unreachable))),
                    "{url} {serve:?}: {failed:?}"
                );
            }
            assert!(
                matches!(received, Err(Error::Ended(EndReason::Unreachable))),
                "{url} {serve:?}: {received:?}"
            );
            let stats = running.until("no peer is left", |stats| stats.peers == 0);
            assert_eq!(stats.ended(EndKind::Unreachable), 1, "{url} {serve:?}: {stats:?}");
        }
    }
}
