//! What still runs when a shutdown returns.

mod support;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use peeloff::{
    Callbacks, Client, EndReason, HandlerError, Message, PeerEvents, Sender, Server, ServerBuilder, Sockets,
};
use support::{DEADLINE, exchange, until};

const PEERS: usize = 3;

/// Echoes, and calls this last.
struct Echo<F>(F);

impl<F: Fn() + Send + Sync + 'static> PeerEvents for Echo<F> {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send(&message)?)
    }

    fn close(&self, (): (), _: &Sender, _: EndReason) {
        (self.0)();
    }
}

/// Calls with each way to serve on each transport.
fn each(mut call: impl FnMut(&str, Option<Sockets>)) {
    for url in ["udp://127.0.0.1:0", "tcp://127.0.0.1:0"] {
        for threads in [None, Some(Sockets::PerPeer), Some(Sockets::Shared)] {
            call(url, threads);
        }
    }
}

/// Starts on loops, or on threads with such sockets.
fn start(url: &str, threads: Option<Sockets>, events: impl PeerEvents) -> Server {
    let builder: ServerBuilder = Server::builder().listen(url);
    match threads {
        None => builder.event_loops(2).start_events(events).unwrap(),
        Some(sockets) => builder.sockets(sockets).start(Callbacks::new(events)).unwrap(),
    }
}

#[test]
fn callbacks_of_peers_that_ended_have_returned_when_a_shutdown_returns() {
    each(|url, threads| {
        let closed = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&closed);
        // Longer than a shutdown waits for threads without a reason.
        let close = move || {
            thread::sleep(Duration::from_millis(1500));
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let server = start(url, threads, Echo(close));
        let connect = || Client::builder().timeout(DEADLINE).connect(&server.addresses()[0]).unwrap();
        let mut peers: Vec<_> = (0..PEERS).map(|_| connect()).collect();
        peers.iter_mut().for_each(|peer| exchange(peer, b"hello"));
        let report = server.handle().shutdown(DEADLINE);
        assert_eq!(
            (report.peers, report.finished, report.abandoned),
            (PEERS, PEERS, 0),
            "{url}, {threads:?}"
        );
        assert_eq!(closed.load(Ordering::SeqCst), PEERS, "{url}, {threads:?}");
    });
}

#[test]
fn a_last_callback_that_does_not_return_is_left_behind() {
    each(|url, threads| {
        let (_release, released) = channel::<()>();
        let (begun, released) = (Arc::<AtomicBool>::default(), Mutex::new(released));
        let begins = Arc::clone(&begun);
        let close = move || {
            begins.store(true, Ordering::SeqCst);
            // It ends with the test.
            let _ = released.lock().unwrap().recv();
        };
        let server = start(url, threads, Echo(close));
        let mut peer = Client::builder().timeout(DEADLINE).connect(&server.addresses()[0]).unwrap();
        exchange(&mut peer, b"hello");
        let [sender] = server.handle().peers().try_into().unwrap();
        sender.close();
        until("the last callback", || begun.load(Ordering::SeqCst).then_some(()));
        let report = server.handle().shutdown(Duration::ZERO);
        assert_eq!((report.peers, report.stopped, report.abandoned), (0, 0, 1), "{url}, {threads:?}");
    });
}
