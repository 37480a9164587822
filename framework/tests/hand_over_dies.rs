//! A new process that ends right after it was told to serve: the old process serves the peers again.

mod support;

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::{env, thread};

use peeloff::{
    Client, HandOverError, HandlerError, Message, Peer, PeerEvents, Predecessor, Sender, Server,
    ServerBuilder, hand_over_sockets,
};
use support::{DEADLINE, exchange};

const NAME: &str = "peers_of_a_new_process_that_dies_at_its_first_message_go_on_in_the_old_one";
/// Set in the new process: the URL of the server, and the address of the test.
const ROLE: &str = "PEELOFF_TEST_DIES";
const KEY: &[u8] = b"0123456789abcdef";
/// More messages than a loop queues before it sends them.
const FINAL_WORDS: usize = 200;

struct Echo;

impl PeerEvents for Echo {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        Ok(peer.send(&message)?)
    }

    fn save(&self, (): &(), _: &Sender) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn restore(&self, _: &[u8], _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// The callbacks of the new process.
struct Dies {
    test: UdpSocket,
    told: Once,
}

impl PeerEvents for Dies {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, _: Message<'_>) -> Result<(), HandlerError> {
        for _ in 0..FINAL_WORDS {
            peer.send(b"from the new process")?;
        }
        std::process::abort();
    }

    fn restore(&self, _: &[u8], _: &Sender) -> Result<(), HandlerError> {
        self.told.call_once(|| {
            self.test.send(b"the old process stands still").unwrap();
            self.test.recv(&mut [0; 8]).unwrap();
        });
        Ok(())
    }
}

fn builder(url: &str) -> ServerBuilder {
    Server::builder().listen(url).psk(|_| Some(KEY.to_vec())).event_loops(2)
}

/// The new process. It has the socket of the hand-over as its standard input.
fn die(role: &str) {
    let (url, test) = role.split_once(' ').unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(test).unwrap();
    let predecessor = Predecessor::ask(peeloff::inherited_descriptor(0).unwrap()).unwrap();
    let dies = Dies { test: socket, told: Once::new() };
    // A spare thread would continue the loop while the callback sends, and the process would report that it serves.
    let builder = builder(url).spare_threads(0);
    let _server = builder.take_over(predecessor).start_events(dies).unwrap();
    loop {
        thread::park();
    }
}

#[test]
fn peers_of_a_new_process_that_dies_at_its_first_message_go_on_in_the_old_one() {
    if let Ok(role) = env::var(ROLE) {
        return die(&role);
    }
    let server = builder("dtls://127.0.0.1:0").start_events(Echo).unwrap();
    let url = server.addresses()[0].to_string();
    let client = || Client::builder().psk(b"a", KEY).timeout(DEADLINE);
    let mut peers: Vec<Peer> = (0..3).map(|_| client().connect(&*url).unwrap()).collect();
    peers.iter_mut().for_each(|peer| exchange(peer, b"before"));
    let (give, take) = hand_over_sockets().unwrap();
    let test = UdpSocket::bind("127.0.0.1:0").unwrap();
    test.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([NAME, "--exact"]).env(ROLE, format!("{url} {}", test.local_addr().unwrap()));
    let mut process = command.stdin(Stdio::from(take)).stdout(Stdio::null()).spawn().unwrap();
    // Only the process has its end of the socket from now on.
    drop(command);
    let handle = server.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let (_, new) = test.recv_from(&mut [0; 64]).unwrap();
    // This waits in the kernel until the new process reads it.
    peers[0].send(b"the first message").unwrap();
    test.send_to(b"go on", new).unwrap();
    let error = giving.join().unwrap().expect_err("the new process does not serve");
    assert!(matches!(error, HandOverError::Gone), "{error:?}");
    assert!(!process.wait().unwrap().success());
    // The new process has used numbers of records. The client takes none of them twice.
    peers[0].send(b"back").unwrap();
    let (mut buffer, mut from_new) = ([0; 64], 0);
    loop {
        let len = peers[0].recv_timeout(&mut buffer, DEADLINE).unwrap().expect("the peer lives");
        match &buffer[..len] {
            b"from the new process" => from_new += 1,
            b"back" => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(from_new > 0);
    peers.iter_mut().for_each(|peer| exchange(peer, b"still the same"));
    let stats = server.handle().stats();
    assert_eq!((stats.peers, stats.records_forged, stats.ended_total()), (3, 0, 0));
    // The next new process is better.
    let (give, take) = hand_over_sockets().unwrap();
    let handle = server.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let _new = builder(&url).take_over(Predecessor::ask(take).unwrap()).start_events(Echo).unwrap();
    assert_eq!(giving.join().unwrap().unwrap().peers, 3);
    peers.iter_mut().for_each(|peer| exchange(peer, b"in the new process"));
}
