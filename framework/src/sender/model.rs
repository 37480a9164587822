//! Models, under shuttle, a slow peer to which several threads post while its worker sends waiting messages, or ends.
//!
//! The association, the worker's [`Peer`] and its transport are the real ones, over a pair of Unix sockets with the
//! smallest possible buffer. The tests show that the worker is woken for all work that only the worker does.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::address::Scheme;
use crate::config::Timeouts;
use crate::net::Transport;
use crate::net::udp::UdpTransport;
use crate::outbox::OutboxLimits;
use crate::peer::{Opened, Parts, Peer};
use crate::sys::sync::atomic::{AtomicBool, AtomicUsize};
use crate::sys::sync::model::{explore, poll};
use crate::sys::sync::{Mutex, thread};
use crate::tls::HandshakeSummary;

const POSTERS: u8 = 2;
const EACH: u8 = 4;
/// The kernel's buffer has room for one of these.
const LENGTH: usize = 4000;
const BOUND: usize = 2;

/// Makes a peer over one of two sockets. Returns also the other socket, and the association, by which threads send.
fn peer(overflow: Overflow) -> (Peer, Socket, Arc<Association>) {
    let (here, there) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    here.set_send_buffer_size(1).unwrap();
    there.set_nonblocking(true).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let bound = OutboxLimits { max_messages: BOUND, overflow, ..OutboxLimits::default() };
    let association =
        Arc::new(Association::new(Scheme::Udp, address, address, Arc::default()).with_outbox(bound));
    let socket = Arc::new(here);
    let transport = UdpTransport::new(
        Arc::clone(&socket),
        association.info(),
        Arc::clone(&association.attention),
        Arc::clone(&association.counters),
        None,
    );
    let opened = Opened {
        transport: Transport::Udp(Box::new(transport)),
        session: Session::Plain(socket.into()),
        summary: HandshakeSummary::default(),
    };
    let timeouts = Timeouts::default();
    let parts = Parts { association: Arc::clone(&association), opened, timeouts, owner: None, driven: false };
    (Peer::open(parts), there, association)
}

/// The results of a run.
struct Outcome {
    /// The results of the posts of each poster.
    posted: Vec<Vec<PostOutcome>>,
    /// The poster and the number of each message that reached the peer.
    arrived: Vec<(u8, u8)>,
    end: EndReason,
}

/// Runs the posters, the worker and the reader. Unless `closes`, the association ends once all messages that were not
/// dropped have arrived.
fn run(overflow: Overflow, closes: bool) -> Outcome {
    let (mut peer, there, association) = peer(overflow);
    let sender = peer.sender();
    let worker = thread::spawn(move || {
        while let Ok(Some(_)) = peer.recv(&mut [0; 16]) {}
        peer.finish()
    });
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let (expected, over) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::new(AtomicBool::new(false)));
    let reader = {
        let (arrived, expected, over) = (Arc::clone(&arrived), Arc::clone(&expected), Arc::clone(&over));
        let association = Arc::clone(&association);
        let there = std::os::unix::net::UnixDatagram::from(OwnedFd::from(there));
        thread::spawn(move || {
            let mut buffer = [0; LENGTH];
            poll(|| {
                let done = over.load(Ordering::Acquire);
                assert!(association.outbox.lock().len() <= BOUND);
                match there.recv(&mut buffer) {
                    Ok(LENGTH) => {
                        arrived.lock().push((buffer[0], buffer[1]));
                        None
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let all = arrived.lock().len() == expected.load(Ordering::Acquire);
                        (done || all).then_some(())
                    }
                    Ok(0) => Some(()),
                    other => panic!("{other:?}"),
                }
            });
            there
        })
    };
    let posters: Vec<_> = (0..POSTERS)
        .map(|poster| {
            let sender = sender.clone();
            thread::spawn(move || {
                let post = |number| {
                    let mut message = [0; LENGTH];
                    (message[0], message[1]) = (poster, number);
                    sender.post(&Arc::from(message))
                };
                (0..EACH).map(post).collect::<Vec<_>>()
            })
        })
        .collect();
    if closes {
        sender.close();
    }
    let posted: Vec<Vec<PostOutcome>> = posters.into_iter().map(|poster| poster.join().unwrap()).collect();
    let disconnects = posted.iter().flatten().any(|posted| *posted == PostOutcome::Disconnected);
    if !closes && !disconnects {
        let dropped = association.dropped.load(Ordering::Relaxed) as usize;
        expected.store(usize::from(POSTERS * EACH) - dropped, Ordering::Release);
    } else {
        poll(|| sender.is_ended().then_some(()));
    }
    let end = if closes || disconnects {
        let end = worker.join().unwrap();
        over.store(true, Ordering::Release);
        reader.join().unwrap();
        end
    } else {
        // The reader would never end if a message were left and no thread were woken for it.
        reader.join().unwrap();
        sender.close();
        worker.join().unwrap()
    };
    assert_eq!(sender.post(&Arc::from([0; LENGTH])), PostOutcome::Ended);
    assert!(association.outbox.lock().is_empty());
    let arrived = std::mem::take(&mut *arrived.lock());
    // Each message is counted once.
    let refused = posted.iter().flatten().filter(|posted| **posted == PostOutcome::Ended).count();
    let (sent, dropped) =
        (association.sent.load(Ordering::Relaxed), association.dropped.load(Ordering::Relaxed));
    assert_eq!(sent, arrived.len() as u64);
    assert_eq!(sent + dropped + refused as u64, u64::from(POSTERS * EACH), "{posted:?}");
    for poster in 0..POSTERS {
        let numbers: Vec<u8> =
            arrived.iter().filter(|(by, _)| *by == poster).map(|(_, number)| *number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "out of order: {arrived:?}");
    }
    Outcome { posted, arrived, end }
}

impl Outcome {
    /// Returns the messages whose post had one of these results.
    fn with_result(&self, of: &[PostOutcome]) -> Vec<(u8, u8)> {
        let numbered = (0..).zip(&self.posted).flat_map(|(poster, all)| {
            (0..).zip(all).map(move |(number, posted)| ((poster, number), *posted))
        });
        numbered.filter(|(_, posted)| of.contains(posted)).map(|(message, _)| message).collect()
    }

    fn sorted(&self) -> Vec<(u8, u8)> {
        let mut arrived = self.arrived.clone();
        arrived.sort_unstable();
        arrived
    }
}

#[test]
fn sent_and_queued_messages_arrive_and_dropped_ones_do_not() {
    explore(700, || {
        let outcome = run(Overflow::DropNewest, false);
        assert_eq!(outcome.sorted(), outcome.with_result(&[PostOutcome::Sent, PostOutcome::Queued]));
        assert_eq!(outcome.end, EndReason::ClosedByUs);
    });
}

#[test]
fn the_last_message_arrives_where_older_ones_make_room() {
    explore(700, || {
        let outcome = run(Overflow::DropOldest, false);
        // One of the posters' last messages was the last message of all.
        assert!((0..POSTERS).any(|poster| outcome.arrived.contains(&(poster, EACH - 1))));
        assert_eq!(outcome.end, EndReason::ClosedByUs);
    });
}

#[test]
fn a_peer_that_is_too_slow_is_disconnected_once() {
    explore(700, || {
        let outcome = run(Overflow::Disconnect, false);
        let disconnected = !outcome.with_result(&[PostOutcome::Disconnected]).is_empty();
        assert_eq!(outcome.end, if disconnected { EndReason::TooSlow } else { EndReason::ClosedByUs });
        assert!(outcome.with_result(&[PostOutcome::Dropped]).is_empty());
        if !disconnected {
            assert_eq!(outcome.arrived.len(), usize::from(POSTERS * EACH));
        }
    });
}

#[test]
fn every_thread_that_posts_sees_the_end() {
    explore(700, || {
        let outcome = run(Overflow::DropNewest, true);
        assert_eq!(outcome.end, EndReason::ClosedByUs);
        assert!(outcome.with_result(&[PostOutcome::Disconnected, PostOutcome::Unsendable]).is_empty());
        // A message whose post returned `Sent` arrives in any case.
        let arrived = outcome.sorted();
        assert!(outcome.with_result(&[PostOutcome::Sent]).iter().all(|message| arrived.contains(message)));
        // Once a post has returned `Ended`, all later posts of the same thread do.
        for posted in &outcome.posted {
            let ended =
                posted.iter().position(|posted| *posted == PostOutcome::Ended).unwrap_or(posted.len());
            assert!(posted[ended..].iter().all(|posted| *posted == PostOutcome::Ended));
        }
    });
}
