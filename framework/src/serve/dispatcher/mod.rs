//! The thread that strangers meet: it reads the listeners, decides, and never blocks on anything but
//! its own epoll.

pub mod child;
mod guard;
mod hands;
mod listener;
#[cfg(all(test, shuttle))]
mod model;
mod sctp;
pub(crate) mod tcp;
mod udp;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::hands::RESERVED_FDS;
use self::hands::{Hands, THREAD_RETRY};
pub(crate) use self::listener::UdpListener;
use self::sctp::Sctp;
pub(crate) use self::sctp::SctpListener;
use self::tcp::Tcp;
pub(crate) use self::tcp::TcpListener;
use self::udp::Udp;
use crate::observe::log_limited;
use crate::serve::mailbox::{Inlet, Letter, MAX_LETTERS};
use crate::serve::shared::Shared;
use crate::serve::worker::pool::Pool;
use crate::sys::epoll::{Epoll, READABLE};
use crate::sys::sync::atomic::Ordering;

/// Token of the wake-up; UDP listeners count from 0, TCP ones from [`tcp::TOKENS`], SCTP ones from
/// [`sctp::TOKENS`], guarded children have [`guard::TOKENS`].
const WAKE: u64 = u64::MAX;

/// The dispatcher thread's state.
pub(crate) struct Dispatcher {
    epoll: Epoll,
    inlet: Inlet,
    udp: Udp,
    sctp: Sctp,
    tcp: Tcp,
    hands: Hands,
}

impl Dispatcher {
    /// With its listeners, which are bound.
    pub(crate) fn new(
        shared: Arc<Shared>,
        inlet: Inlet,
        pool: Pool,
        udp: Vec<UdpListener>,
        sctp: Vec<SctpListener>,
        tcp: Vec<TcpListener>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(inlet.wake.as_fd(), READABLE, WAKE)?;
        let udp = Udp::new(&shared, &epoll, udp)?;
        let sctp = Sctp::new(&shared, &epoll, sctp)?;
        let tcp = Tcp::new(&shared, &epoll, tcp)?;
        let hands = Hands::new(shared, pool)?;
        Ok(Self { epoll, inlet, udp, sctp, tcp, hands })
    }

    /// Runs until the mailbox says stop. This is the dispatcher thread's whole life.
    pub(crate) fn run(mut self) {
        let mut tokens = Vec::new();
        while !self.hands.shared.mailbox.stop.load(Ordering::Acquire) {
            tokens.clear();
            if let Err(error) = self.epoll.wait(&mut tokens, self.timeout()) {
                log_limited!(error, %error, "the dispatcher cannot wait");
                std::thread::park_timeout(THREAD_RETRY);
            }
            for &token in &tokens {
                match token {
                    WAKE => self.inlet.wake.reset(),
                    token if guard::is_guarded(token) => self.hands.guarded(token),
                    token if token & sctp::TOKENS != 0 => self.sctp.ready(token, &mut self.hands),
                    token if token & tcp::TOKENS != 0 => self.tcp.ready(token, &self.epoll, &mut self.hands),
                    token => self.udp.ready(token as usize, &self.epoll, &mut self.hands),
                }
            }
            for _ in 0..MAX_LETTERS {
                match self.inlet.letters.try_recv() {
                    Ok(Letter::Stray(stray)) => self.udp.stray(stray, &self.epoll, &mut self.hands),
                    Ok(Letter::Restarted(restarted)) => self.sctp.restarted(restarted, &mut self.hands),
                    Err(_) => break,
                }
            }
            let now = Instant::now();
            self.hands.tick(&self.epoll, now);
            self.tcp.tick(&self.epoll, now);
            self.udp.tick(&self.epoll, now, &mut self.hands);
        }
        self.hands.shared.counters.listeners.store(0, Ordering::Relaxed);
    }

    fn timeout(&self) -> Option<Duration> {
        let deadlines = [self.hands.next_deadline(), self.tcp.next_deadline(), self.udp.next_deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}
