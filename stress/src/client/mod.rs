//! The clients' side: some threads (rayon's), each with an epoll loop over its share of the clients, so that
//! thousands of them cost little beside the server that is measured. It is OpenSSL without peeloff, on UDP, DTLS, TCP
//! and TLS; SCTP goes by peeloff's own [`Client`](peeloff::Client), a thread each ([`threads`]).
//!
//! * [`visits`]: clients that come, say something, and stay or leave.
//! * [`talk`]: clients that are there and talk.
//! * [`fan`]: one that speaks, and many that hear it.
//! * [`slow`]: clients that begin and do not go on, or do not read.

mod datagrams;
pub mod fan;
mod link;
pub mod slow;
pub mod talk;
pub mod threads;
pub mod visits;

pub use link::{Dialer, Link, Received};

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Events, Poll};

/// How often what is overdue is looked for, and how late Ctrl-C may be noticed.
const LOOK: Duration = Duration::from_millis(100);

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
