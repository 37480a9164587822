//! Two servers, and a relay between them that cuts off the messages of the old one.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::channel::{Channel, Frame, pair};
use crate::codec::Writer;
use crate::error::{HandOverError, StartError};
use crate::{
    Client, HandedOver, HandlerError, Message, Peer, PeerEvents, Predecessor, Sender, Server, ServerBuilder,
};

const PATIENCE: Duration = Duration::from_secs(60);
const KEY: &[u8] = b"0123456789abcdef";
const PEERS: usize = 4;

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
        Some(b"state".to_vec())
    }

    fn restore(&self, saved: &[u8], _: &Sender) -> Result<(), HandlerError> {
        assert_eq!(saved, b"state");
        Ok(())
    }
}

fn builder(url: &str) -> ServerBuilder {
    Server::builder().listen(url).psk(|_| Some(KEY.to_vec())).event_loops(2)
}

fn exchange(peer: &mut Peer, message: &[u8]) {
    peer.send(message).unwrap();
    let mut answer = [0; 64];
    let len = peer.recv_timeout(&mut answer, PATIENCE).unwrap().unwrap();
    assert_eq!(&answer[..len], message);
}

/// Returns how much of a message of the old process is passed on. `None` closes both connections instead.
type Cut = fn(usize, usize, &[u8]) -> Option<usize>;

/// Passes on the messages of one side until either side ends. Returns the number of messages.
fn pass(from: Channel, to: Channel, number: usize, cut: Option<Cut>) -> JoinHandle<usize> {
    thread::spawn(move || {
        let (mut frame, mut out) = (Frame::new(), Writer::new());
        let mut passed = 0;
        while from.recv(&mut frame, Some(PATIENCE)).is_ok() {
            let (kind, rest) = frame.read();
            let message = [&[kind][..], rest.rest()].concat();
            let len = cut.map_or(Some(message.len()), |cut| cut(number, passed, &message));
            passed += 1;
            let Some(len) = len else { break };
            out.clear();
            out.raw(&message[..len]);
            let descriptors: Vec<_> = frame.descriptors.iter().map(AsFd::as_fd).collect();
            if to.send(&out, &descriptors, PATIENCE).is_err() {
                break;
            }
        }
        from.close();
        to.close();
        passed
    })
}

/// Hands a server over, with a relay between the processes.
fn hand_over(
    old: &Server,
    number: usize,
    cut: Cut,
) -> (Result<Server, StartError>, Result<HandedOver, HandOverError>, usize) {
    let ((give, near), (far, take)) = (pair().unwrap(), pair().unwrap());
    let both = |socket: OwnedFd| {
        let copy = socket.try_clone().unwrap();
        (Channel::new(socket).unwrap(), Channel::new(copy).unwrap())
    };
    let ((near, near_back), (far, far_back)) = (both(near), both(far));
    let (down, up) = (pass(near, far, number, Some(cut)), pass(far_back, near_back, 0, None));
    let handle = old.handle();
    let giving = thread::spawn(move || handle.hand_over(give));
    let url = old.addresses()[0].to_string();
    let new = Predecessor::ask(take)
        .map_err(StartError::TakeOver)
        .and_then(|predecessor| builder(&url).take_over(predecessor).start_events(Echo));
    let given = giving.join().unwrap();
    if new.is_err() {
        up.join().unwrap();
        return (new, given, down.join().unwrap());
    }
    (new, given, 0)
}

#[test]
fn the_old_process_continues_when_any_message_is_cut_off_or_missing() {
    for url in ["dtls://127.0.0.1:0", "udp://127.0.0.1:0"] {
        let old = builder(url).start_events(Echo).unwrap();
        let mut peers: Vec<Peer> = (0..PEERS)
            .map(|_| Client::builder().psk(b"a", KEY).connect(&old.addresses()[0]).unwrap())
            .collect();
        peers.iter_mut().for_each(|peer| exchange(peer, b"before"));
        // WELCOME, LISTENER, SECRETS, the peers, END; GO comes after the answer.
        let messages = 4 + PEERS;
        let missing: Cut = |number, at, message| (at != number).then_some(message.len());
        let cut_off: Cut = |number, at, message| {
            Some(if at == number { (message.len() - 1).min(message.len() / 2 + 1) } else { message.len() })
        };
        let lacks_a_byte: Cut =
            |number, at, message| Some(if at == number { message.len() - 1 } else { message.len() });
        for cut in [missing, cut_off, lacks_a_byte] {
            for number in 0..messages {
                let (new, given, came) = hand_over(&old, number, cut);
                let error = new.expect_err("the new process starts with half of what it needs");
                assert!(matches!(error, StartError::TakeOver(_)), "{number}: {error:?}");
                assert!(given.is_err() && came > number, "{url} {number}: {given:?}");
                peers.iter_mut().for_each(|peer| exchange(peer, b"still the same"));
            }
        }
        let (new, given, _) = hand_over(&old, usize::MAX, missing);
        let new = new.unwrap();
        assert_eq!(given.unwrap().peers, PEERS);
        peers.iter_mut().for_each(|peer| exchange(peer, b"after"));
        assert_eq!(new.handle().stats().peers, PEERS as u64);
        assert_eq!(old.handle().stats().peers, 0);
    }
}
