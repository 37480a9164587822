//! In a resumed handshake the client sends the last flight (RFC 5246 §7.3). If it is lost, the server repeats its
//! own flight, and the client must answer, whatever its program does meanwhile.

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use faulty::{Fate, FaultyPath, has_change_cipher_spec};
use peeloff::{Client, Peer, Timeouts};
use support::{DEADLINE, Running, exchange, until};

/// A server, and a client that has a session to resume. Its next last flight will be lost a given number of
/// times.
struct Lossy {
    server: Running,
    client: Client,
    path: FaultyPath,
    /// The number of last flights that will still be lost.
    losses: Arc<AtomicUsize>,
}

impl Lossy {
    fn new(losses: usize) -> Self {
        // The server is as patient as the clients.
        let mut timeouts = Timeouts::default();
        timeouts.handshake = DEADLINE;
        let server = Running::echo_with("dtls://127.0.0.1:0", |builder| builder.timeouts(timeouts));
        let left = Arc::new(AtomicUsize::new(0));
        let losing = Arc::clone(&left);
        let path = FaultyPath::to(server.address(), move |_, to_server, datagram| {
            let lost = to_server
                && has_change_cipher_spec(datagram)
                && losing
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_ok();
            if lost { Fate::Drop } else { Fate::Pass }
        });
        let client = server.client();
        let mut first = client.connect(path.url()).unwrap();
        exchange(&mut first, b"a session to resume");
        first.close();
        server.until("the first association ends", |stats| stats.peers == 0);
        left.store(losses, Ordering::SeqCst);
        Self { server, client, path, losses: left }
    }

    /// Resumes. The client considers the handshake complete, and the server does not.
    fn resume(&self) -> Peer {
        let peer = self.client.connect(self.path.url()).unwrap();
        assert!(peer.is_resumed());
        peer
    }

    /// Sends from time to time until the server has received a message of the second association.
    fn send_until_heard(&self, mut send: impl FnMut()) {
        let heard = || self.server.stats().messages_received > 1;
        let mut count = 0;
        until("a message of the resumed session reaches the server", || {
            if count % 20 == 0 {
                send();
            }
            count += 1;
            heard().then_some(())
        });
        assert_eq!(self.losses.load(Ordering::SeqCst), 0, "nothing was lost");
        assert_eq!(self.server.stats().handshakes, 2);
    }
}

#[test]
fn a_client_that_only_sends_repeats_its_lost_last_flight() {
    for losses in [1, 2] {
        let lossy = Lossy::new(losses);
        let mut peer = lossy.resume();
        lossy.send_until_heard(|| peer.send(b"only sent").unwrap());
        // The datagrams that arrived meanwhile do not disturb a read.
        exchange_among_echoes(&mut peer);
    }
}

#[test]
fn a_client_of_which_another_thread_sends_repeats_its_lost_last_flight() {
    let lossy = Lossy::new(1);
    let peer = lossy.resume();
    let sender = peer.sender();
    lossy.send_until_heard(|| sender.try_send(b"only sent").unwrap());
    drop(peer);

    let lossy = Lossy::new(1);
    let mut peer = lossy.resume();
    let (sender, message) = (peer.sender(), Arc::from(&b"only posted"[..]));
    lossy.send_until_heard(|| _ = sender.post(&message));
    exchange_among_echoes(&mut peer);
}

/// Sends a message and reads until it comes back. Echoes of earlier messages may come first.
fn exchange_among_echoes(peer: &mut Peer) {
    peer.send(b"the last one").unwrap();
    let mut buffer = [0; 64];
    while peer.recv_timeout(&mut buffer, DEADLINE).unwrap() != Some(12) {}
    assert_eq!(&buffer[..12], b"the last one");
}

#[test]
fn a_client_that_neither_sends_nor_reads_finds_its_session_whole_when_it_reads() {
    let lossy = Lossy::new(1);
    let mut peer = lossy.resume();
    peer.send(b"hello").unwrap();
    // The server's first repetition waits in the client's socket.
    lossy.server.until("the server repeats its flight", |stats| stats.retransmissions >= 1);
    let mut buffer = [0; 64];
    assert_eq!(peer.recv_timeout(&mut buffer, DEADLINE).unwrap(), Some(5));
    assert_eq!(&buffer[..5], b"hello");
}
