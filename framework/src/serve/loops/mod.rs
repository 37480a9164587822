//! Event loops: a few threads that serve many peers. Each loop has its own UDP socket for each listener.
//!
//! The kernel delivers the datagrams of one address to the same socket of a group (SO_REUSEPORT), so each peer belongs
//! to one loop. Callbacks run on the loop's thread. A callback that blocks takes a spare thread, and delays only its
//! own peer.

mod entry;
mod event_loop;
mod handover;
mod mailbox;
#[cfg(all(test, shuttle))]
mod model;
mod monitor;
mod monitor_waker;
mod owner;
mod pause;
mod slots;
mod token;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::entry::Context;
use self::event_loop::{Common, Loop, Task};
pub(crate) use self::event_loop::{SocketId, Staying};
pub(crate) use self::handover::TransferredPeer;
use self::mailbox::{LoopMailbox, LoopMessage};
use self::monitor_waker::MonitorWaker;
use self::owner::LoopOwner;
use super::shared::Shared;
use super::worker::Job;
use super::worker::pool::{Pool, Threads};
use crate::events::AnyEvents;
use crate::net::shared::{SharedListener, SharedSocket};
use crate::sys::eventfd::EventFd;
use crate::sys::sync::atomic::{AtomicUsize, Ordering};
use crate::sys::sync::channel::Sender;
use crate::sys::sync::spawn;

/// Stack of the monitor, in bytes.
const MONITOR_STACK: usize = 64 << 10;

/// The numbers and the properties of the loops' threads.
pub(crate) struct Settings {
    /// The number of loops.
    pub(crate) loops: usize,
    /// The number of threads that callbacks may hold up before a loop has to wait.
    pub(crate) spares: usize,
    pub(crate) stack_size: usize,
    /// Whether the loops are paused at first, until [`resume`](Loops::resume).
    pub(crate) paused: bool,
}

/// The loops of a server.
pub(crate) struct Loops {
    loops: Vec<Arc<Loop>>,
    common: Arc<Common>,
    /// Selects the loop that gets the next peer with its own socket.
    next: AtomicUsize,
    /// Whether the loops run callbacks, rather than only hand datagrams to threads.
    drives: bool,
}

impl Loops {
    /// Starts loops that serve these listeners. `running` is dropped when the last of them has ended.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        events: Option<&Arc<dyn AnyEvents>>,
        listeners: Vec<SharedListener>,
        settings: &Settings,
        workers: &Arc<Pool<Job>>,
        running: &Arc<Sender<()>>,
    ) -> io::Result<Self> {
        let threads = Threads {
            name: "peeloff-l",
            gauge: |counters| &counters.loop_threads,
            stack_size: settings.stack_size,
            batch: false,
            idle: shared.timeouts.worker_idle,
            most: (settings.loops + settings.spares) as u64,
        };
        let mailboxes: Result<_, io::Error> =
            (0..settings.loops).map(|_| LoopMailbox::new().map(Arc::new)).collect();
        let common = Arc::new(Common {
            mailboxes: mailboxes?,
            spares: Pool::new(Arc::clone(&shared.counters), threads),
            workers: Arc::clone(workers),
            monitor: MonitorWaker::default(),
        });
        let fulls: Vec<_> =
            (0..settings.loops).map(|_| EventFd::new().map(Arc::new)).collect::<Result<_, _>>()?;
        let mut sockets: Vec<Vec<Arc<SharedSocket>>> = vec![Vec::new(); settings.loops];
        for SharedListener { sockets: bound, scheme, address, number } in listeners {
            let counters = shared.counted(scheme, address);
            // A group that came from another process may have another number of sockets than there are loops.
            for (index, socket) in (0..=u8::MAX).zip(bound) {
                let (on, place) = (usize::from(index) % settings.loops, (number, index));
                let full = Arc::clone(&fulls[on]);
                sockets[on].push(Arc::new(SharedSocket::new(socket, scheme, address, place, full, counters)));
            }
        }
        let mut loops = Vec::new();
        for (number, (sockets, full)) in (0..).zip(sockets.into_iter().zip(fulls)) {
            let mailbox = Arc::clone(&common.mailboxes[usize::from(number)]);
            let owner = Arc::new(LoopOwner { shared: Arc::clone(shared), mailbox });
            let context = Context { shared: Arc::clone(shared), events: events.cloned(), owner };
            let common = Arc::clone(&common);
            let running = Arc::clone(running);
            let made = Loop::new(number, context, common, full, sockets, running, settings.paused)?;
            loops.push(Arc::new(made));
        }
        let started = Self { loops, common, next: AtomicUsize::new(0), drives: events.is_some() };
        for on in &started.loops {
            started.common.spares.submit(Task::Run(Arc::clone(on))).map_err(|(_, error)| error)?;
        }
        let (common, loops) = (Arc::clone(&started.common), started.loops.clone());
        spawn("peeloff-mon", MONITOR_STACK, Box::new(move || monitor::run(&common.monitor, &loops)))?;
        Ok(started)
    }

    /// Gives a peer with its own socket to a loop. Returns the job if peers have threads.
    pub(crate) fn place(&self, job: Job) -> Option<Job> {
        if !self.drives {
            return Some(job);
        }
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len();
        self.common.mailboxes[next].send(LoopMessage::New(Box::new(job)));
        None
    }

    /// Returns how long each loop has been busy with its present round.
    pub(crate) fn busy_for(&self, now: Instant) -> impl Iterator<Item = Duration> {
        self.loops.iter().map(move |on| on.busy_since.busy_for(now))
    }

    /// Tells the loops to end.
    pub(crate) fn stop(&self) {
        self.loops.iter().for_each(|on| on.stop());
        self.common.monitor.stop();
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns the default number of loops: one for each processor that this process may use.
pub(crate) fn default_loops() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(256)
}
