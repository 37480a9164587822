//! The clients' side: a few threads (of rayon), each with a share of the clients, so that 100,000 clients cost
//! little beside the server that is measured.
//!
//! On UDP and DTLS a few sockets carry all clients ([`hub`](self)), and each client has an address of its own in
//! 127.0.0.0/8. OpenSSL runs the handshakes; afterwards a client is only what the product's record layer needs,
//! about 2 KiB. On TCP and TLS each client has a socket in an epoll loop. On SCTP each client is peeloff's own
//! [`Client`](peeloff::Client) with a thread ([`threads`]).
//!
//! * [`load`]: clients that connect, send messages, and stay or disconnect.
//! * [`talk`]: connected clients that send messages.
//! * [`fan`]: one client that sends, and many that receive.
//! * [`slow`]: clients that never finish their handshake, or do not read.

mod dialer;
mod drivers;
pub mod fan;
mod hub;
mod link;
pub mod load;
pub mod slow;
mod streams;
pub mod talk;
pub mod threads;

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use openssl::ssl::SslSession;

pub use dialer::Dialer;
pub(crate) use hub::sockets::Sockets;

/// How often overdue clients are checked. Ctrl-C is noticed after this time at the latest.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// An event of a client.
#[derive(Debug)]
enum Event<'a> {
    /// The client is connected and can send messages.
    Open {
        /// Whether it resumed the session of an earlier client.
        resumed: bool,
    },
    /// A complete message has arrived.
    Message(&'a [u8]),
    /// The handshake has stopped at the intended step.
    Stalled,
    /// The client has ended for this reason, after these retransmissions.
    Ended(String, Retransmissions),
}

/// A client's retransmissions in its handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Retransmissions {
    /// The number of datagrams.
    datagrams: u32,
    /// Whether a second passed without an answer, at least once.
    timer: bool,
}

/// Drives the clients of one thread on their sockets. Each client has an index, which another client may get after
/// this one has ended.
trait ClientDriver: Send {
    /// Starts a client. [`wait`](Self::wait) reports its events.
    fn begin(&mut self, session: Option<&SslSession>) -> io::Result<usize>;

    /// Sends a message of an open client, at the latest when [`wait`](Self::wait) is called.
    fn send(&mut self, index: usize, message: &[u8]) -> io::Result<()>;

    /// Sends the queued data, waits for events until `due` or for [`CHECK_INTERVAL`] at most, and reports the events.
    fn wait(&mut self, due: Option<Instant>, each: &mut dyn FnMut(usize, Event<'_>)) -> io::Result<()>;

    /// Sends the queued data.
    fn flush(&mut self) {}

    /// Removes a client, and sends close_notify if its protocol has it.
    fn close(&mut self, index: usize);

    /// Returns the client's retransmissions so far.
    fn retransmissions(&self, _index: usize) -> Retransmissions {
        Retransmissions::default()
    }

    /// Returns how many datagrams for clients the kernel dropped because the clients did not read in time.
    fn dropped(&self) -> u64 {
        0
    }

    /// Sets the size of messages, which streams need to know.
    fn expect(&mut self, _len: usize) {}

    /// Returns whether bytes of a client wait for space in its send buffer.
    fn is_full(&self, _index: usize) -> bool {
        false
    }

    /// Makes all later handshakes stop after the first answer.
    fn stall(&mut self);
}

/// The connected clients of one target, divided among threads.
pub struct Clients {
    shares: Vec<Share>,
}

/// The clients of one thread.
struct Share {
    driver: Box<dyn ClientDriver>,
    /// The indices of the connected clients, in the order in which they connected.
    connected: Vec<usize>,
}

impl Clients {
    fn of(drivers: Vec<Box<dyn ClientDriver>>) -> Self {
        Self { shares: drivers.into_iter().map(|driver| Share { driver, connected: Vec::new() }).collect() }
    }

    /// Returns the number of clients.
    pub fn len(&self) -> usize {
        self.shares.iter().map(|share| share.connected.len()).sum()
    }

    /// Returns whether there are no clients.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many datagrams for clients the kernel dropped because the clients did not read in time.
    pub fn dropped(&self) -> u64 {
        self.shares.iter().map(|share| share.driver.dropped()).sum()
    }

    /// Disconnects all clients with a close_notify. Dropping them sends nothing.
    pub fn close(mut self) {
        for Share { driver, connected } in &mut self.shares {
            connected.drain(..).for_each(|index| driver.close(index));
            driver.flush();
        }
    }
}

/// Waits for events until `due`. Spins for the last millisecond, because epoll's clock is not finer and a message
/// that leaves late would count as latency of the server.
fn wait(poll: &mut Poll, events: &mut Events, due: Option<Instant>) -> io::Result<()> {
    let left =
        due.map_or(CHECK_INTERVAL, |due| due.saturating_duration_since(Instant::now()).min(CHECK_INTERVAL));
    let time = if left < Duration::from_micros(1500) && due.is_some() {
        Duration::ZERO
    } else {
        left - Duration::from_millis(1).min(left)
    };
    match poll.poll(events, Some(time)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            // After an interrupted wait, the events of the previous one would still be there.
            events.clear();
            Ok(())
        }
        outcome => outcome,
    }
}
