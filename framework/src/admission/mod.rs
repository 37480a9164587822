//! Admission: decides from counts and rates whether a new peer is accepted.
//!
//! [`PeerCounts::admit`] checks the limits from the general to the specific: all peers, those of one local address,
//! those of one source, those of one prefix, and last the rate of new peers of a prefix. The first limit that is reached
//! is the [`Refusal`]; a peer that passes all of them is booked until [`PeerCounts::release`]. Memory is bounded: the
//! tables hold at most one entry per live source, and the rates are kept in a [`RateTable`] of constant size.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::Instant;

mod prefix;
mod rate;

pub use prefix::Prefix;
pub use rate::RateTable;

use rate::HashKey;

use crate::address::canonical::canonical;
use crate::config::setters;

/// Limits on the number of peers and on the rate of new ones.
///
/// A quiet DTLS peer takes about 21 KiB of memory and 16 KiB of kernel stack if it has a thread of its own, and about
/// 5 KiB on an event loop whose peers share a socket. Messages in kernel buffers and allocations of the handler come on
/// top. In every field, 0 admits no peer, and the type's `MAX` means no limit.
///
/// ```
/// # use peeloff::Limits;
/// let limits = Limits::default().max_peers(2000);
/// assert_eq!(limits.max_peers_per_source, 256);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum number of peers. Default: 8192, which is 280 MiB of quiet DTLS peers with threads, their stacks in the
    /// kernel included (35 KiB each, measured with 1,000 peers).
    ///
    /// Each peer has a thread: above about 28,000, raise the kernel's `kernel.pid_max` and `vm.max_map_count`; above
    /// 4,915, raise the `TasksMax` of a systemd unit.
    pub max_peers: usize,
    /// Maximum number of peers of one local address and port. Default: 4096, which is 140 MiB of such peers.
    ///
    /// For each datagram of an unknown peer the kernel walks a list of all these sockets. This took 12.1 µs at 1,000
    /// sockets, 151 µs at 5,000 and 676 µs at 15,000 in the measurement in `stress/RESULTS.md`. To serve more peers,
    /// more ports or addresses are better than a higher limit.
    pub max_peers_per_local_address: usize,
    /// Maximum number of peers of one source address (an IPv4 /32 or an IPv6 /128). Default: 256, which is 9 MiB of
    /// such peers.
    pub max_peers_per_source: usize,
    /// Maximum number of peers of one network (an IPv4 /24 or an IPv6 /56). Default: 1024, which is 35 MiB of such
    /// peers.
    ///
    /// Many providers give a /56 to one subscriber, so a limit per IPv6 address alone would not limit a subscriber.
    pub max_peers_per_prefix: usize,
    /// Maximum number of peers that have not completed their handshake. Default: 1024, which is 90 MiB.
    ///
    /// Each of them has already proven its address; before that, nothing is stored for it.
    pub max_half_open: usize,
    /// Maximum number of connections to one [proxied](crate::ServerBuilder::listen_proxied) listener whose PROXY header
    /// is incomplete. At the limit the oldest one of that listener is evicted. These connections do not count as
    /// handshakes, and the limits per source do not apply to them, because all connections of a proxy come from one
    /// address. Default: 512.
    pub max_awaiting_header: usize,
    /// Sustained rate of new peers per second and network (/24 or /56). Default: 100.
    pub new_peers_per_second: u32,
    /// Maximum burst of new peers of one network (/24 or /56). Default: 200.
    ///
    /// The memory for all rates together is constant: 32 KiB.
    pub new_peers_burst: u32,
    /// Whether loopback peers (127.0.0.0/8 and ::1), such as proxies and tests, are exempt from the limits per source,
    /// per prefix and on the rate. The other limits apply to every peer. Default: true.
    pub exempt_loopback: bool,
}

setters!(Limits {
    max_peers: usize,
    max_peers_per_local_address: usize,
    max_peers_per_source: usize,
    max_peers_per_prefix: usize,
    max_half_open: usize,
    max_awaiting_header: usize,
    new_peers_per_second: u32,
    new_peers_burst: u32,
    exempt_loopback: bool
});

impl Limits {
    /// No limits: for measurements, and as a base for setting only some limits.
    pub const UNLIMITED: Limits = Limits {
        max_peers: usize::MAX,
        max_peers_per_local_address: usize::MAX,
        max_peers_per_source: usize::MAX,
        max_peers_per_prefix: usize::MAX,
        max_half_open: usize::MAX,
        max_awaiting_header: usize::MAX,
        new_peers_per_second: u32::MAX,
        new_peers_burst: u32::MAX,
        exempt_loopback: true,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_peers: 8192,
            max_peers_per_local_address: 4096,
            max_peers_per_source: 256,
            max_peers_per_prefix: 1024,
            max_half_open: 1024,
            max_awaiting_header: 512,
            new_peers_per_second: 100,
            new_peers_burst: 200,
            exempt_loopback: true,
        }
    }
}

/// Reason why a new peer was refused. It gets no answer; the refusal is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// [`Limits::max_peers`] is reached.
    MaxPeers,
    /// [`Limits::max_peers_per_local_address`] is reached.
    MaxPeersPerLocalAddress,
    /// [`Limits::max_peers_per_source`] is reached.
    MaxPeersPerSource,
    /// [`Limits::max_peers_per_prefix`] is reached.
    MaxPeersPerPrefix,
    /// [`Limits::max_half_open`] is reached, or [`Limits::max_awaiting_header`] is 0.
    MaxHalfOpen,
    /// New peers of the network come faster than [`Limits::new_peers_per_second`].
    Rate,
    /// The handler refused the peer.
    Handler,
    /// The server is shutting down.
    Draining,
    /// The process or the system has no file descriptor left.
    NoFileDescriptor,
    /// No thread could be started.
    NoThread,
    /// The kernel has no memory for another socket.
    NoBuffers,
    /// The hook for socket options ([`ServerBuilder::socket_options`](crate::ServerBuilder::socket_options)) failed.
    SocketOptions,
}

impl Refusal {
    /// All reasons.
    pub const ALL: &'static [Refusal] = &[
        Refusal::MaxPeers,
        Refusal::MaxPeersPerLocalAddress,
        Refusal::MaxPeersPerSource,
        Refusal::MaxPeersPerPrefix,
        Refusal::MaxHalfOpen,
        Refusal::Rate,
        Refusal::Handler,
        Refusal::Draining,
        Refusal::NoFileDescriptor,
        Refusal::NoThread,
        Refusal::NoBuffers,
        Refusal::SocketOptions,
    ];

    /// Returns the position in [`ALL`](Self::ALL), for an array of counters.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Returns a short name in snake case, for labels of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::MaxPeers => "max_peers",
            Refusal::MaxPeersPerLocalAddress => "max_peers_per_local_address",
            Refusal::MaxPeersPerSource => "max_peers_per_source",
            Refusal::MaxPeersPerPrefix => "max_peers_per_prefix",
            Refusal::MaxHalfOpen => "max_half_open",
            Refusal::Rate => "rate",
            Refusal::Handler => "handler",
            Refusal::Draining => "draining",
            Refusal::NoFileDescriptor => "no_file_descriptor",
            Refusal::NoThread => "no_thread",
            Refusal::NoBuffers => "no_buffers",
            Refusal::SocketOptions => "socket_options",
        }
    }
}

/// Writes the limit in parentheses in the spelling of configuration files: the field of [`Limits`] with hyphens.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::MaxPeers => "too many peers in all (max-peers)",
            Refusal::MaxPeersPerLocalAddress => {
                "too many peers on this local address (max-peers-per-local-address)"
            }
            Refusal::MaxPeersPerSource => "too many peers from this address (max-peers-per-source)",
            Refusal::MaxPeersPerPrefix => "too many peers from this network (max-peers-per-prefix)",
            Refusal::MaxHalfOpen => "too many handshakes under way (max-half-open)",
            Refusal::Rate => "new peers from this network come too fast (new-peers-per-second)",
            Refusal::Handler => "refused by the handler",
            Refusal::Draining => "shutting down",
            Refusal::NoFileDescriptor => "no file descriptor left",
            Refusal::NoThread => "no thread can be started",
            Refusal::NoBuffers => "no memory for another socket",
            Refusal::SocketOptions => "the options of its socket could not be set",
        })
    }
}

/// Counts the live peers for every limit. It belongs to one dispatcher; peers that it has admitted must be released to
/// it.
#[derive(Debug)]
pub struct PeerCounts {
    limits: Limits,
    total: usize,
    half_open: usize,
    per_local_address: Counts<SocketAddr>,
    per_source: Counts<Prefix>,
    per_prefix: Counts<Prefix>,
    rates: RateTable,
}

impl PeerCounts {
    /// Returns counts of no peers. `key` comes from a secure random source, so that peers cannot choose which table
    /// slots they use.
    pub fn new(limits: Limits, key: (u64, u64)) -> PeerCounts {
        let key = HashKey(key.0, key.1);
        PeerCounts {
            limits,
            total: 0,
            half_open: 0,
            per_local_address: Counts::new(key),
            per_source: Counts::new(key),
            per_prefix: Counts::new(key),
            rates: RateTable::new(limits.new_peers_per_second, limits.new_peers_burst, (key.0, key.1)),
        }
    }

    /// Books `peer` of `local`, unless a limit is reached. Does not check [`Limits::max_half_open`]; see
    /// [`begin_handshake`](Self::begin_handshake).
    ///
    /// A refusal changes nothing; in particular it does not count towards the rate.
    ///
    /// # Errors
    ///
    /// The limit that was reached.
    pub fn admit(&mut self, local: SocketAddr, peer: SocketAddr, now: Instant) -> Result<(), Refusal> {
        self.check_place(local)?;
        self.check_source(peer, now)?;
        self.book(local, peer);
        Ok(())
    }

    /// Books a peer like [`admit`](Self::admit), but one that shares a socket, so the limit per local address does not
    /// apply.
    ///
    /// # Errors
    ///
    /// The limit that was reached.
    pub fn admit_sharing(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        below(self.total, self.limits.max_peers, Refusal::MaxPeers)?;
        self.check_source(peer, now)?;
        self.book(local, peer);
        Ok(())
    }

    /// Books a connection of a proxy like [`admit`](Self::admit), without the limits that depend on the source.
    ///
    /// # Errors
    ///
    /// The limit that was reached.
    pub fn admit_proxy(&mut self, local: SocketAddr, proxy: SocketAddr) -> Result<(), Refusal> {
        self.check_place(local)?;
        self.book(local, proxy);
        Ok(())
    }

    /// Books `peer` in place of its proxy, unless one of its limits is reached; in that case nothing changes.
    ///
    /// # Errors
    ///
    /// The limit that was reached.
    pub fn transfer(
        &mut self,
        local: SocketAddr,
        proxy: SocketAddr,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.check_source(peer, now)?;
        self.release(local, proxy);
        self.book(local, peer);
        Ok(())
    }

    fn check_place(&self, local: SocketAddr) -> Result<(), Refusal> {
        below(self.total, self.limits.max_peers, Refusal::MaxPeers)?;
        let here = self.per_local_address.get(&canonical(local));
        below(here, self.limits.max_peers_per_local_address, Refusal::MaxPeersPerLocalAddress)
    }

    fn check_source(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Refusal> {
        let limits = &self.limits;
        if limits.exempt_loopback && peer.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let (_, source, prefix) = keys(peer, peer);
        below(self.per_source.get(&source), limits.max_peers_per_source, Refusal::MaxPeersPerSource)?;
        below(self.per_prefix.get(&prefix), limits.max_peers_per_prefix, Refusal::MaxPeersPerPrefix)?;
        if self.rates.allow(prefix, now) { Ok(()) } else { Err(Refusal::Rate) }
    }

    /// Books exempt peers as well, so that the counts stay correct when the exemption changes.
    fn book(&mut self, local: SocketAddr, peer: SocketAddr) {
        let (local, source, prefix) = keys(local, peer);
        self.total += 1;
        self.per_local_address.add(local);
        self.per_source.add(source);
        self.per_prefix.add(prefix);
    }

    /// Books a peer that another process has admitted, regardless of the limits.
    pub fn book_transferred(&mut self, local: SocketAddr, peer: SocketAddr) {
        self.book(local, peer);
    }

    /// Removes `peer` of `local`, once for each time that it was admitted.
    pub fn release(&mut self, local: SocketAddr, peer: SocketAddr) {
        let (local, source, prefix) = keys(local, peer);
        debug_assert!(self.total > 0, "released a peer that was not admitted");
        self.total = self.total.saturating_sub(1);
        self.per_local_address.remove(local);
        self.per_source.remove(source);
        self.per_prefix.remove(prefix);
    }

    /// Counts one more handshake under way, unless [`Limits::max_half_open`] is reached.
    ///
    /// # Errors
    ///
    /// [`Refusal::MaxHalfOpen`].
    pub fn begin_handshake(&mut self) -> Result<(), Refusal> {
        below(self.half_open, self.limits.max_half_open, Refusal::MaxHalfOpen)?;
        self.half_open += 1;
        Ok(())
    }

    /// Counts one handshake less, regardless of how it ended.
    pub fn end_handshake(&mut self) {
        debug_assert!(self.half_open > 0, "ended a handshake that was not begun");
        self.half_open = self.half_open.saturating_sub(1);
    }

    /// Changes the limits. Peers above a lowered limit stay; a changed rate grants every network a new burst.
    pub fn set_limits(&mut self, limits: Limits) {
        self.rates.set_rate(limits.new_peers_per_second, limits.new_peers_burst);
        self.limits = limits;
    }

    /// Returns the current limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the number of live peers.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Returns the number of handshakes under way.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// Returns the number of live peers of a local address.
    pub fn at_local_address(&self, local: SocketAddr) -> usize {
        self.per_local_address.get(&canonical(local))
    }

    /// Returns whether no peer is booked and no table has an entry.
    #[cfg(any(test, feature = "test-support"))]
    pub fn is_empty(&self) -> bool {
        let PeerCounts { total, half_open, per_local_address, per_source, per_prefix, limits: _, rates: _ } =
            self;
        *total == 0
            && *half_open == 0
            && per_local_address.0.is_empty()
            && per_source.0.is_empty()
            && per_prefix.0.is_empty()
    }
}

/// Returns the three keys under which a peer is counted.
fn keys(local: SocketAddr, peer: SocketAddr) -> (SocketAddr, Prefix, Prefix) {
    (canonical(local), Prefix::host(peer.ip()), Prefix::network(peer.ip()))
}

fn below(count: usize, limit: usize, refusal: Refusal) -> Result<(), Refusal> {
    // A count never reaches `MAX`, so `MAX` means no limit.
    if count < limit { Ok(()) } else { Err(refusal) }
}

/// Counters that are removed at zero.
#[derive(Debug)]
struct Counts<K>(HashMap<K, usize, HashKey>);

impl<K: Eq + Hash> Counts<K> {
    fn new(key: HashKey) -> Counts<K> {
        Counts(HashMap::with_hasher(key))
    }

    fn get(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    fn remove(&mut self, key: K) {
        if let Entry::Occupied(mut entry) = self.0.entry(key) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Admits one peer after the other to 192.0.2.1:5, until one is refused.
    fn fill(peer_counts: &mut PeerCounts, peers: &[&str]) -> Result<(), Refusal> {
        let now = Instant::now();
        peers.iter().try_for_each(|peer| peer_counts.admit(at("192.0.2.1:5"), at(peer), now))
    }

    #[test]
    fn each_limit_refuses_under_its_own_name() {
        let peers = ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.1:3"];
        for (limits, refusal) in [
            (Limits { max_peers: 2, ..Limits::UNLIMITED }, Refusal::MaxPeers),
            (
                Limits { max_peers_per_local_address: 2, ..Limits::UNLIMITED },
                Refusal::MaxPeersPerLocalAddress,
            ),
            (Limits { max_peers_per_source: 2, ..Limits::UNLIMITED }, Refusal::MaxPeersPerSource),
            (Limits { max_peers_per_prefix: 2, ..Limits::UNLIMITED }, Refusal::MaxPeersPerPrefix),
            (Limits { new_peers_per_second: 1, new_peers_burst: 2, ..Limits::UNLIMITED }, Refusal::Rate),
        ] {
            let mut peer_counts = PeerCounts::new(limits, (1, 2));
            assert_eq!(fill(&mut peer_counts, &peers), Err(refusal));
            assert_eq!(peer_counts.total(), 2);
        }
    }

    #[test]
    fn a_limit_of_zero_admits_no_peer_and_the_maximum_admits_all() {
        let peer = ["198.51.100.1:1"; 300];
        for limits in [
            Limits { max_peers: 0, ..Limits::UNLIMITED },
            Limits { max_peers_per_local_address: 0, ..Limits::UNLIMITED },
            Limits { max_peers_per_source: 0, ..Limits::UNLIMITED },
            Limits { max_peers_per_prefix: 0, ..Limits::UNLIMITED },
            Limits { new_peers_per_second: 0, ..Limits::UNLIMITED },
            Limits { new_peers_burst: 0, ..Limits::UNLIMITED },
        ] {
            assert!(fill(&mut PeerCounts::new(limits, (1, 2)), &peer[..1]).is_err(), "{limits:?}");
        }
        assert_eq!(fill(&mut PeerCounts::new(Limits::UNLIMITED, (1, 2)), &peer), Ok(()));
    }

    #[test]
    fn a_source_has_its_own_count_inside_its_prefix() {
        let limits = Limits { max_peers_per_source: 1, max_peers_per_prefix: 2, ..Limits::UNLIMITED };
        let mut peer_counts = PeerCounts::new(limits, (1, 2));
        assert_eq!(fill(&mut peer_counts, &["198.51.100.1:1", "198.51.100.2:1", "[2001:db8::1]:1"]), Ok(()));
        assert_eq!(fill(&mut peer_counts, &["[::ffff:198.51.100.1]:2"]), Err(Refusal::MaxPeersPerSource));
        assert_eq!(fill(&mut peer_counts, &["198.51.100.99:1"]), Err(Refusal::MaxPeersPerPrefix));
    }

    #[test]
    fn loopback_is_exempt_from_all_but_the_totals() {
        let narrow = Limits {
            max_peers_per_source: 0,
            max_peers_per_prefix: 0,
            new_peers_per_second: 0,
            max_peers: 3,
            ..Limits::UNLIMITED
        };
        let peers = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.9.9.9]:1"];
        let mut peer_counts = PeerCounts::new(narrow, (1, 2));
        assert_eq!(fill(&mut peer_counts, &peers), Ok(()));
        assert_eq!(fill(&mut peer_counts, &["127.0.0.1:2"]), Err(Refusal::MaxPeers));
        let mut strict = PeerCounts::new(Limits { exempt_loopback: false, ..narrow }, (1, 2));
        for peer in peers {
            assert_eq!(fill(&mut strict, &[peer]), Err(Refusal::MaxPeersPerSource));
        }
    }

    #[test]
    fn a_released_peer_is_no_longer_counted() {
        let mut peer_counts = PeerCounts::new(Limits::UNLIMITED, (1, 2));
        let peers = ["198.51.100.1:1", "198.51.100.1:2", "[2001:db8::1]:1", "127.0.0.1:1"];
        fill(&mut peer_counts, &peers).unwrap();
        peer_counts.begin_handshake().unwrap();
        assert_eq!(peer_counts.at_local_address(at("[::ffff:192.0.2.1]:5")), 4);
        for peer in peers {
            assert!(!peer_counts.is_empty());
            peer_counts.release(at("192.0.2.1:5"), at(peer));
        }
        peer_counts.end_handshake();
        assert!(peer_counts.is_empty());
    }

    #[test]
    fn a_refusal_books_nothing_and_costs_no_rate() {
        let limits =
            Limits { max_peers: 1, new_peers_per_second: 1, new_peers_burst: 2, ..Limits::UNLIMITED };
        let mut peer_counts = PeerCounts::new(limits, (1, 2));
        assert_eq!(fill(&mut peer_counts, &["198.51.100.1:1"]), Ok(()));
        for _ in 0..10 {
            assert_eq!(fill(&mut peer_counts, &["198.51.100.1:2"]), Err(Refusal::MaxPeers));
        }
        peer_counts.release(at("192.0.2.1:5"), at("198.51.100.1:1"));
        assert!(peer_counts.is_empty());
        assert_eq!(fill(&mut peer_counts, &["198.51.100.1:2"]), Ok(()));
    }

    #[test]
    fn handshakes_have_a_limit_of_their_own() {
        let mut peer_counts = PeerCounts::new(Limits { max_half_open: 1, ..Limits::UNLIMITED }, (1, 2));
        assert_eq!(peer_counts.begin_handshake(), Ok(()));
        assert_eq!(peer_counts.begin_handshake(), Err(Refusal::MaxHalfOpen));
        peer_counts.end_handshake();
        assert_eq!((peer_counts.begin_handshake(), peer_counts.half_open()), (Ok(()), 1));
    }

    #[test]
    fn new_limits_hold_for_the_next_peer() {
        let mut peer_counts = PeerCounts::new(Limits::UNLIMITED, (1, 2));
        fill(&mut peer_counts, &["198.51.100.1:1", "198.51.100.1:2"]).unwrap();
        peer_counts.set_limits(Limits { max_peers: 1, ..Limits::UNLIMITED });
        assert_eq!(fill(&mut peer_counts, &["203.0.113.1:1"]), Err(Refusal::MaxPeers));
        assert_eq!((peer_counts.total(), peer_counts.limits().max_peers), (2, 1));
        peer_counts.set_limits(Limits::UNLIMITED);
        assert_eq!(fill(&mut peer_counts, &["203.0.113.1:1"]), Ok(()));
    }

    #[test]
    fn the_rate_recovers_with_time() {
        let limits = Limits { new_peers_per_second: 10, new_peers_burst: 1, ..Limits::UNLIMITED };
        let mut peer_counts = PeerCounts::new(limits, (1, 2));
        let (local, peer, now) = (at("192.0.2.1:5"), at("198.51.100.1:1"), Instant::now());
        assert_eq!(peer_counts.admit(local, peer, now), Ok(()));
        assert_eq!(peer_counts.admit(local, peer, now), Err(Refusal::Rate));
        assert_eq!(peer_counts.admit(local, peer, now + Duration::from_millis(100)), Ok(()));
    }

    #[test]
    fn refusals_are_numbered_and_named_without_a_gap() {
        for (index, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(refusal.index(), index);
            assert!(!refusal.to_string().is_empty());
        }
        let names: std::collections::HashSet<_> =
            Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
