//! The clients' side: some threads (rayon's), each with a share of the clients, so that 100,000 of them cost little beside the
//! server that is measured.
//!
//! On UDP and DTLS a few sockets carry all of them ([`hub`](self)): each client has an address of its own in 127.0.0.0/8. OpenSSL
//! makes the handshakes, and then a client is what the product's record layer needs: some 2 KiB. On TCP and TLS each client
//! has a socket, in an epoll loop. SCTP goes by peeloff's own [`Client`](peeloff::Client), a thread each ([`threads`]).
//!
//! * [`visits`]: clients that come, say something, and stay or leave.
//! * [`talk`]: clients that are there and talk.
//! * [`fan`]: one that speaks, and many that hear it.
//! * [`slow`]: clients that begin and do not go on, or do not read.

mod carriers;
mod dialer;
pub mod fan;
mod hub;
mod link;
pub mod slow;
mod streams;
pub mod talk;
pub mod threads;
pub mod visits;

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use openssl::ssl::SslSession;

pub use dialer::Dialer;
pub(crate) use hub::sockets::Sockets;

/// How often what is overdue is looked for, and how late Ctrl-C may be noticed.
const LOOK: Duration = Duration::from_millis(100);

/// What happened to a client.
#[derive(Debug)]
enum Event<'a> {
    /// The client is connected and can send messages.
    Open {
        /// It resumed the session of an earlier client.
        resumed: bool,
    },
    /// A whole message came.
    Message(&'a [u8]),
    /// The handshake stopped where it was to stop.
    Stalled,
    /// The client is gone for this reason; it had sent this again.
    Ended(String, Again),
}

/// What a client sent again in its handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Again {
    /// Datagrams.
    datagrams: u32,
    /// A second passed without an answer, at least once.
    timer: bool,
}

/// Clients of one thread, and what carries them. A client has an index, which a later client may get when this one is gone.
trait Carrier: Send {
    /// Begins a client. What becomes of it, [`wait`](Self::wait) says.
    fn begin(&mut self, session: Option<&SslSession>) -> io::Result<usize>;

    /// Sends a message of an open client, at the latest when [`wait`](Self::wait) is called.
    fn send(&mut self, index: usize, message: &[u8]) -> io::Result<()>;

    /// Sends what is queued, waits for something to happen until `due`, for [`LOOK`] at most, and says what happened.
    fn wait(&mut self, due: Option<Instant>, each: &mut dyn FnMut(usize, Event<'_>)) -> io::Result<()>;

    /// Sends what is queued.
    fn flush(&mut self) {}

    /// Forgets a client, which says goodbye where its protocol has a word for that.
    fn close(&mut self, index: usize);

    /// What the client sent again so far.
    fn again(&self, _index: usize) -> Again {
        Again::default()
    }

    /// Datagrams for clients that the kernel dropped, because the clients did not read in time.
    fn dropped(&self) -> u64 {
        0
    }

    /// Messages have so many bytes from now on, which streams have to know.
    fn expect(&mut self, _len: usize) {}

    /// Whether some of what a client sent waits for room.
    fn is_full(&self, _index: usize) -> bool {
        false
    }

    /// Handshakes stop behind the first answer from now on.
    fn stall(&mut self);
}

/// Clients of one target, those that are connected, in shares of a thread each.
pub struct Clients {
    shares: Vec<Share>,
}

struct Share {
    carrier: Box<dyn Carrier>,
    /// The indices of those that are connected, in the order in which they came.
    present: Vec<usize>,
}

impl Clients {
    fn of(carriers: Vec<Box<dyn Carrier>>) -> Self {
        Self { shares: carriers.into_iter().map(|carrier| Share { carrier, present: Vec::new() }).collect() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shares.iter().map(|share| share.present.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Datagrams for clients that the kernel dropped, because the clients did not read in time.
    pub fn dropped(&self) -> u64 {
        self.shares.iter().map(|share| share.carrier.dropped()).sum()
    }

    /// Has all leave and say goodbye. Dropping them says nothing.
    pub fn close(mut self) {
        for Share { carrier, present } in &mut self.shares {
            present.drain(..).for_each(|index| carrier.close(index));
            carrier.flush();
        }
    }
}

/// Waits for events until `due`. The last millisecond is spent turning, because epoll's clock has no finer one and a
/// message that leaves late would count as the server's lateness.
fn wait(poll: &mut Poll, events: &mut Events, due: Option<Instant>) -> io::Result<()> {
    let left = due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()).min(LOOK));
    let time = if left < Duration::from_micros(1500) && due.is_some() {
        Duration::ZERO
    } else {
        left - Duration::from_millis(1).min(left)
    };
    match poll.poll(events, Some(time)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            // Nobody clears what an interrupted wait left there.
            events.clear();
            Ok(())
        }
        outcome => outcome,
    }
}
