//! The dispatcher thread: it reads the listeners and admits or refuses new peers. It blocks only in epoll_wait(2).

mod adopted;
mod assigner;
mod busy;
pub mod child;
mod listener;
#[cfg(all(test, shuttle))]
mod model;
mod sctp;
pub(crate) mod tcp;
mod token;
mod udp;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::adopted::Adopted;
pub(crate) use self::assigner::RESERVED_FDS;
use self::assigner::{Assigner, THREAD_RETRY};
pub(crate) use self::listener::UdpListener;
use self::sctp::Sctp;
pub(crate) use self::sctp::SctpListener;
use self::tcp::Tcp;
pub(crate) use self::tcp::TcpListener;
use self::token::Token;
use self::udp::Udp;
use crate::observe::log_limited;
use crate::serve::handover::gate::{Gate, Verdict};
use crate::serve::loops::Loops;
use crate::serve::mailbox::{DispatcherMessage, MAX_MESSAGES, MailboxReceiver};
use crate::serve::shared::Shared;
use crate::serve::worker::Job;
use crate::serve::worker::pool::Pool;
use crate::sys::epoll::{Epoll, READABLE};
use crate::sys::sync::atomic::Ordering;

/// The dispatcher thread's state.
pub(crate) struct Dispatcher {
    epoll: Epoll,
    mailbox: MailboxReceiver,
    udp: Udp,
    sctp: Sctp,
    tcp: Tcp,
    assigner: Assigner,
}

impl Dispatcher {
    /// Makes the dispatcher of these listeners, which are bound.
    pub(crate) fn new(
        shared: Arc<Shared>,
        mailbox: MailboxReceiver,
        pool: Arc<Pool<Job>>,
        loops: Option<Arc<Loops>>,
        udp: Vec<UdpListener>,
        sctp: Vec<SctpListener>,
        tcp: Vec<TcpListener>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(mailbox.wake.as_fd(), READABLE, Token::Wake.into())?;
        let udp = Udp::new(&shared, &epoll, udp)?;
        let sctp = Sctp::new(&shared, &epoll, sctp)?;
        let tcp = Tcp::new(&shared, &epoll, tcp)?;
        let assigner = Assigner::new(shared, pool, loops)?;
        Ok(Self { epoll, mailbox, udp, sctp, tcp, assigner })
    }

    /// Runs until the mailbox says stop. The dispatcher thread does nothing else.
    pub(crate) fn run(mut self) {
        let mut tokens = Vec::new();
        self.sctp.begin(&mut self.assigner);
        while !self.assigner.shared.mailbox.stop.load(Ordering::Acquire) {
            tokens.clear();
            self.assigner.shared.counters.dispatcher.begin_wait();
            if let Err(error) = self.epoll.wait(&mut tokens, self.timeout()) {
                log_limited!(error, %error, "the dispatcher cannot wait");
                std::thread::park_timeout(THREAD_RETRY);
            }
            let began = Instant::now();
            self.assigner.shared.counters.dispatcher.begin(began);
            for &token in &tokens {
                match Token::from(token) {
                    Token::Wake => self.mailbox.wake.reset(),
                    Token::Udp(index) => self.udp.ready(index, &self.epoll, &mut self.assigner),
                    Token::Tcp(index) => self.tcp.ready(index, &self.epoll, &mut self.assigner),
                    Token::Sctp(index) => self.sctp.ready(index, &mut self.assigner),
                }
            }
            for _ in 0..MAX_MESSAGES {
                match self.mailbox.messages.try_recv() {
                    Ok(DispatcherMessage::Stray(stray)) => {
                        self.udp.stray(stray, &self.epoll, &mut self.assigner)
                    }
                    Ok(DispatcherMessage::Pause(gate)) => self.pause(&gate),
                    Ok(DispatcherMessage::Restarted(restarted)) => {
                        self.sctp.restarted(restarted, &mut self.assigner)
                    }
                    Err(_) => break,
                }
            }
            let now = Instant::now();
            if !tokens.is_empty() {
                self.assigner.shared.counters.dispatcher_round.observe(now - began);
            }
            self.assigner.tick(now);
            self.tcp.tick(&self.epoll, now);
            self.udp.tick(&self.epoll, now, &mut self.assigner);
        }
        self.assigner.shared.counters.dispatcher.begin_wait();
    }

    /// Pauses while the listeners are handed over, and continues with them or without them.
    fn pause(&mut self, gate: &Gate) {
        // The datagrams of a peer that already has a child must not be read by another process.
        self.udp.read_all_holding(&self.epoll, &mut self.assigner);
        if gate.wait() == Verdict::Resume {
            return;
        }
        self.tcp.give_up(&self.epoll);
        self.sctp.give_up(&self.epoll, &mut self.assigner);
        self.udp.give_up(&self.epoll, &mut self.assigner);
    }

    fn timeout(&self) -> Option<Duration> {
        let deadlines = [self.assigner.next_deadline(), self.tcp.next_deadline(), self.udp.next_deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}
