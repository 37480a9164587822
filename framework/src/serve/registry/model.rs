//! Models peers that connect and leave at the same moment, under shuttle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::EndKind;
use crate::address::{Address, Scheme};
use crate::net::attention::Delivery;
use crate::sys::sync::Mutex;
use crate::sys::sync::model::{choose, explore, poll};
use crate::sys::sync::thread;

/// A registry, and the counters of its listener.
type World = Arc<(Registry, ByListener)>;

fn world(limits: Limits) -> World {
    let address = Address::from_socket(Scheme::Udp, addresses().0);
    Arc::new((Registry::new(limits, (1, 2)), ByListener::new(&[address])))
}

fn addresses() -> (SocketAddr, SocketAddr) {
    ("192.0.2.1:1".parse().unwrap(), "198.51.100.7:2".parse().unwrap())
}

fn association(listeners: &ByListener) -> Arc<Association> {
    let (local, peer) = addresses();
    Arc::new(Association::new(Scheme::Udp, local, peer, Arc::clone(listeners.of_udp(local))))
}

fn spawn(
    world: &World,
    run: impl FnOnce(&(Registry, ByListener)) + Send + 'static,
) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || run(&world))
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

fn assert_empty((registry, _): &(Registry, ByListener)) {
    let table = registry.table.lock();
    assert!(table.associations.is_empty() && table.peer_counts.is_empty());
}

#[test]
fn one_association_at_a_time_has_the_addresses_and_the_cap_holds() {
    const CAP: usize = 2;
    explore(2000, || {
        let world = world(Limits { max_peers: CAP, ..Limits::UNLIMITED });
        let come_and_go = |(registry, listeners): &(Registry, ByListener)| {
            let (local, peer) = addresses();
            for _ in 0..2 {
                if registry.book(local, peer, true).is_err() {
                    continue;
                }
                let association = association(listeners);
                if !registry.insert(&association) {
                    registry.release(local, peer);
                    continue;
                }
                let found = registry.find(local, peer).expect("nobody else removes it");
                assert_eq!(found.id, association.id, "another one took its addresses");
                registry.remove(&association, &EndReason::ClosedByUs);
                assert!(registry.find(local, peer).is_none_or(|found| found.id != association.id));
                // A second, late removal must not remove a successor.
                registry.remove(&association, &EndReason::ClosedByUs);
            }
        };
        let mut threads: Vec<_> = (0..3).map(|_| spawn(&world, move |world| come_and_go(world))).collect();
        threads.push(spawn(&world, |(registry, _)| {
            for _ in 0..4 {
                let table = registry.table.lock();
                assert!(table.peer_counts.total() <= CAP && table.associations.len() <= 1);
                assert!(table.peer_counts.total() >= table.associations.len());
            }
        }));
        join(threads);
        assert_empty(&world);
    });
}

#[test]
fn a_delivered_datagram_reaches_its_association_or_is_returned() {
    const DATAGRAMS: u8 = 6;
    explore(2000, || {
        let world = world(Limits::UNLIMITED);
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        // The worker of each association takes some of the datagrams that arrive, and ends.
        let served = Arc::clone(&seen);
        let serve = move |world: &World, association: Arc<Association>| {
            let seen = Arc::clone(&served);
            spawn(world, move |(registry, _)| {
                let take = |item: InboxItem| {
                    assert_eq!(item.payload[1..], association.id.as_u64().to_ne_bytes(), "another's");
                    assert!(seen.lock().insert(item.payload[0]), "twice");
                };
                for _ in 0..choose(4) {
                    association.attention.take_delivered().into_iter().for_each(take);
                }
                registry.remove(&association, &EndReason::ClosedByUs).into_iter().for_each(take);
                assert_eq!(association.attention.deliver(InboxItem::datagram(&[]), false), Delivery::Gone);
            })
        };
        // The dispatcher always uses the same addresses.
        let (local, peer) = addresses();
        let mut workers = Vec::new();
        for number in 0..DATAGRAMS {
            poll(|| {
                let association = world.0.find(local, peer).unwrap_or_else(|| {
                    world.0.book(local, peer, true).unwrap();
                    let association = association(&world.1);
                    assert!(world.0.insert(&association));
                    workers.push(serve(&world, Arc::clone(&association)));
                    association
                });
                let payload = [&[number][..], &association.id.as_u64().to_ne_bytes()].concat();
                (association.attention.deliver(InboxItem::datagram(&payload), false) == Delivery::Queued)
                    .then_some(())
            });
        }
        join(workers);
        assert_eq!(seen.lock().len(), usize::from(DATAGRAMS), "lost");
        assert_empty(&world);
    });
}

#[test]
fn a_handshake_that_is_evicted_while_it_ends_gives_its_place_back_once() {
    const CAP: usize = 2;
    explore(2000, || {
        let world = world(Limits { max_half_open: CAP, ..Limits::UNLIMITED });
        let all: Arc<Vec<_>> = Arc::new((0..4).map(|_| association(&world.1)).collect());
        let mut threads: Vec<_> = (0..all.len())
            .map(|index| {
                let all = Arc::clone(&all);
                // Each new peer finds room, or a handshake to evict.
                spawn(&world, move |(registry, _)| {
                    let mine = &all[index];
                    registry.begin_handshake(mine).unwrap();
                    registry.end_handshake(mine);
                    assert!(!mine.attention.half_open.load(Ordering::Acquire));
                    registry.end_handshake(mine);
                })
            })
            .collect();
        let watched = Arc::clone(&all);
        threads.push(spawn(&world, move |(registry, _)| {
            for _ in 0..3 {
                let table = registry.table.lock();
                let open =
                    |association: &&Arc<Association>| association.attention.half_open.load(Ordering::Acquire);
                let flagged = watched.iter().filter(open).count();
                assert!(flagged == table.peer_counts.half_open() && flagged <= CAP);
            }
        }));
        join(threads);
        assert_empty(&world);
    });
}

#[test]
fn an_end_is_counted_in_the_instant_in_which_its_place_is_free() {
    explore(500, || {
        let world = world(Limits::UNLIMITED);
        let association = association(&world.1);
        let (local, peer) = addresses();
        world.0.book(local, peer, true).unwrap();
        world.0.begin_handshake(&association).unwrap();
        assert!(world.0.insert(&association));
        let leave = spawn(&world, move |(registry, _)| {
            registry.remove(&association, &EndReason::HandlerFailed);
        });
        let watch = spawn(&world, |(registry, listeners)| {
            for _ in 0..4 {
                let stats = registry.stats(listeners).remove(0);
                let ended = stats.ended(EndKind::HandlerFailed);
                assert_eq!((stats.peers, stats.half_open), (1 - ended, 1 - ended));
            }
        });
        join(vec![leave, watch]);
        assert_empty(&world);
    });
}

#[test]
fn a_drain_reaches_every_association_and_no_peer_is_admitted_after_it() {
    explore(2000, || {
        let world = world(Limits::UNLIMITED);
        let mut threads: Vec<_> = (0..2u16)
            .map(|number| {
                spawn(&world, move |(registry, _)| {
                    let (local, mut peer) = addresses();
                    peer.set_port(number + 10);
                    if let Err(refusal) = registry.book(local, peer, true) {
                        assert_eq!(refusal, Refusal::Draining);
                        return;
                    }
                    if choose(2) == 0 {
                        return registry.release(local, peer);
                    }
                    let association = Arc::new(Association::new(Scheme::Udp, local, peer, Arc::default()));
                    assert!(registry.insert(&association));
                    // A worker ends when its association is drained.
                    poll(|| (association.attention.signals() & signal::DRAIN != 0).then_some(()));
                    registry.remove(&association, &EndReason::ClosedByUs);
                })
            })
            .collect();
        threads.push(spawn(&world, |(registry, _)| {
            registry.drain(Drain::BreakOff);
            assert!(registry.wait_until_empty(Instant::now() + Duration::from_secs(3600)));
            let (local, peer) = addresses();
            assert_eq!(registry.book(local, peer, true), Err(Refusal::Draining));
        }));
        join(threads);
        assert_empty(&world);
    });
}

/// Opens a peer while the server drains: the peer gets the signal for the drain when its handshake is complete.
/// `broken_off` is the signal that may come before that, or late, when it is ignored.
fn drain_while_a_peer_opens(drain: Drain, broken_off: u8) {
    explore(2000, move || {
        let world = world(Limits::UNLIMITED);
        let (local, peer) = addresses();
        let opens = spawn(&world, move |(registry, listeners)| {
            if registry.book(local, peer, true).is_err() {
                return;
            }
            let association = association(listeners);
            registry.begin_handshake(&association).unwrap();
            assert!(registry.insert(&association));
            assert_eq!(association.attention.signals() & !broken_off, 0);
            registry.end_handshake(&association);
            poll(|| (association.attention.signals() & !broken_off == signal::DRAIN).then_some(()));
            registry.remove(&association, &EndReason::ClosedByUs);
        });
        let drains = spawn(&world, move |(registry, _)| {
            registry.drain(drain);
            assert!(registry.wait_until_empty(Instant::now() + Duration::from_secs(3600)));
        });
        join(vec![opens, drains]);
        assert_empty(&world);
    });
}

#[test]
fn a_peer_whose_handshake_a_drain_spares_is_told_of_the_drain_after_it() {
    drain_while_a_peer_opens(Drain::Finish, 0);
}

#[test]
fn a_peer_whose_handshake_is_complete_before_a_drain_breaks_it_off_is_drained_and_not_stopped() {
    drain_while_a_peer_opens(Drain::BreakOff, signal::BREAK_OFF);
}

#[test]
fn counts_never_decrease_while_peers_come_talk_and_go() {
    const PEERS: u16 = 3;
    explore(2000, || {
        let world = world(Limits::UNLIMITED);
        let mut threads: Vec<_> = (0..PEERS)
            .map(|number| {
                spawn(&world, move |(registry, listeners)| {
                    let (local, mut peer) = addresses();
                    peer.set_port(number + 10);
                    registry.book(local, peer, true).unwrap();
                    let counters = Arc::clone(listeners.of_udp(local));
                    let association = Arc::new(Association::new(Scheme::Udp, local, peer, counters));
                    assert!(registry.insert(&association));
                    association.count_received(1);
                    registry.remove(&association, &EndReason::ClosedByUs);
                })
            })
            .collect();
        threads.push(spawn(&world, |(registry, listeners)| {
            let mut before = 0;
            for _ in 0..3 {
                let received: u64 =
                    registry.stats(listeners).iter().map(|stats| stats.messages_received).sum();
                assert!(before <= received && received <= u64::from(PEERS));
                before = received;
            }
        }));
        join(threads);
        let (registry, listeners) = &*world;
        let received: u64 = registry.stats(listeners).iter().map(|stats| stats.messages_received).sum();
        assert_eq!(received, u64::from(PEERS));
        assert_empty(&world);
    });
}
