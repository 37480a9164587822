//! Clients on UDP and DTLS. A few sockets carry thousands of clients. A connected client is a small struct; only
//! clients in a handshake have an OpenSSL session.

mod handshake;
mod session;
pub(super) mod sockets;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, ErrorKind};
use std::time::Instant;

use openssl::ssl::SslSession;

use self::handshake::{Handshake, Step};
use self::session::{Received, Session};
use self::sockets::Sockets;
use super::{CHECK_INTERVAL, ClientDriver, Dialer, Event, Retransmissions};

/// The number of closed clients whose addresses are not reused yet, because the server may still know them.
const RESTING: usize = 60_000;

/// The largest number of bytes that are read ahead of the clients: as much as the sockets hold.
const MOST_READ: usize = 64 << 20;

/// One client.
enum Client {
    /// A client on plain UDP.
    Plain,
    UnderWay(Box<Handshake>),
    Open(Box<Session>),
}

/// Clients and their sockets.
pub(super) struct Hub {
    dialer: Dialer,
    sockets: Sockets,
    clients: Vec<Option<Client>>,
    /// Closed clients, in the order in which they were closed.
    free: VecDeque<usize>,
    /// Clients that are open from the start, and that have not been reported yet.
    open: Vec<usize>,
    /// When flights are retransmitted. An answered flight has a later time than its entry here.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// How many answers each handshake processes.
    answers: u32,
    datagram: Vec<u8>,
    inbox: Inbox,
}

/// Datagrams that were read and that their clients have not processed yet.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    /// The client of each datagram, and where the datagram ends in the bytes.
    ends: Vec<(usize, usize)>,
    /// The number of datagrams that were processed.
    taken: usize,
    /// When the sockets were empty after these datagrams. A flight without an answer by then is overdue.
    read: Option<Instant>,
}

impl Inbox {
    fn push(&mut self, client: usize, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.ends.push((client, self.bytes.len()));
    }

    /// Copies the next datagram, and returns its client.
    fn pop(&mut self, datagram: &mut Vec<u8>) -> Option<usize> {
        let (client, end) = *self.ends.get(self.taken)?;
        let start = self.taken.checked_sub(1).map_or(0, |before| self.ends[before].1);
        datagram.clear();
        datagram.extend_from_slice(&self.bytes[start..end]);
        self.taken += 1;
        Some(client)
    }

    fn is_empty(&self) -> bool {
        self.taken == self.ends.len()
    }

    /// Empties the inbox. Keeps its memory, unless it is large.
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(1 << 20);
        self.ends.clear();
        self.taken = 0;
    }
}

impl Hub {
    pub(super) fn new(dialer: Dialer) -> io::Result<Self> {
        Ok(Self {
            sockets: Sockets::new(dialer.address)?,
            dialer,
            clients: Vec::new(),
            free: VecDeque::new(),
            open: Vec::new(),
            timers: BinaryHeap::new(),
            answers: u32::MAX,
            datagram: Vec::new(),
            inbox: Inbox::default(),
        })
    }

    /// Passes the datagram in the buffer to a handshake, sends its flight, and reports the result.
    fn advance_handshake(
        &mut self,
        index: usize,
        mut handshake: Box<Handshake>,
        now: Instant,
        each: &mut dyn FnMut(usize, Event<'_>),
    ) {
        let (step, retransmissions) =
            (handshake.handle_datagram(&self.datagram, now), handshake.retransmissions);
        handshake.outgoing().for_each(|datagram| self.sockets.send(index, &datagram));
        let outcome = match step {
            Ok(Step::Complete) => handshake.finish().map(Some),
            Ok(step) => {
                if let Some(due) = handshake.due() {
                    self.timers.push(Reverse((due, index)));
                }
                self.clients[index] = Some(Client::UnderWay(handshake));
                if matches!(step, Step::Stalled) {
                    each(index, Event::Stalled);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some((session, resumed))) => {
                self.clients[index] = Some(Client::Open(Box::new(session)));
                each(index, Event::Open { resumed });
            }
            Err(why) => {
                each(index, Event::Ended(why.to_string(), retransmissions));
                self.release(index);
            }
        }
    }

    /// Passes the datagram in the buffer to its client.
    fn handle_datagram(&mut self, index: usize, now: Instant, each: &mut dyn FnMut(usize, Event<'_>)) {
        match self.clients.get_mut(index) {
            Some(Some(Client::Plain)) => each(index, Event::Message(&self.datagram)),
            Some(Some(Client::Open(session))) => {
                match session.open(&mut self.datagram, |message| each(index, Event::Message(message))) {
                    Received::Nothing => {}
                    Received::Missed => {
                        session.retransmit().iter().for_each(|datagram| self.sockets.send(index, datagram));
                    }
                    Received::Ended(why) => {
                        each(index, Event::Ended(why, session.retransmissions));
                        self.forget(index);
                    }
                }
            }
            Some(client @ Some(Client::UnderWay(_))) => {
                if let Some(Client::UnderWay(handshake)) = client.take() {
                    self.advance_handshake(index, handshake, now, each);
                }
            }
            // The client has been closed, or the datagram belongs to no client.
            Some(None) | None => {}
        }
    }

    /// Reads all datagrams that have arrived, which takes much less time than processing them. A client whose
    /// answer waits behind those of other clients therefore does not retransmit, and one without an answer does.
    fn read_ahead(&mut self) -> io::Result<()> {
        while self.inbox.bytes.len() < MOST_READ {
            let count = self.sockets.receive()?;
            if count == 0 {
                self.inbox.read = Some(Instant::now());
                break;
            }
            for number in 0..count {
                if let Some(index) = self.sockets.take(number, &mut self.datagram) {
                    self.inbox.push(index, &self.datagram);
                }
            }
        }
        Ok(())
    }

    /// Retransmits the flights that had no answer by then.
    fn retransmit_overdue(&mut self, now: Instant) {
        while let Some(&Reverse((due, index))) = self.timers.peek().filter(|Reverse((due, _))| *due <= now) {
            self.timers.pop();
            let Some(Some(Client::UnderWay(handshake))) = self.clients.get_mut(index) else { continue };
            if handshake.due() != Some(due) {
                continue;
            }
            handshake.retransmit(now);
            handshake.outgoing().for_each(|datagram| self.sockets.send(index, &datagram));
            self.timers.extend(handshake.due().map(|due| Reverse((due, index))));
        }
    }

    fn forget(&mut self, index: usize) {
        if self.clients.get_mut(index).is_some_and(|client| client.take().is_some()) {
            self.release(index);
        }
    }

    /// Keeps the number of a closed client unused for a while.
    fn release(&mut self, index: usize) {
        self.sockets.release(index);
        self.free.push_back(index);
    }
}

impl ClientDriver for Hub {
    fn begin(&mut self, session: Option<&SslSession>) -> io::Result<usize> {
        let index = match self.free.len() > RESTING {
            true => self.free.pop_front().unwrap_or_default(),
            false => self.clients.len(),
        };
        self.sockets.open(index)?;
        let client = match self.dialer.context() {
            None => {
                self.open.push(index);
                Client::Plain
            }
            Some(context) => {
                let now = Instant::now();
                let mut handshake = Box::new(Handshake::new(context, session, self.answers, now)?);
                handshake.outgoing().for_each(|datagram| self.sockets.send(index, &datagram));
                self.timers.extend(handshake.due().map(|due| Reverse((due, index))));
                Client::UnderWay(handshake)
            }
        };
        if index == self.clients.len() {
            self.clients.push(None);
        }
        self.clients[index] = Some(client);
        Ok(index)
    }

    fn send(&mut self, index: usize, message: &[u8]) -> io::Result<()> {
        match self.clients.get_mut(index) {
            Some(Some(Client::Plain)) => self.sockets.send(index, message),
            Some(Some(Client::Open(session))) => {
                self.datagram.clear();
                session.seal(message, &mut self.datagram).map_err(|why| io::Error::other(why.to_string()))?;
                self.sockets.send(index, &self.datagram);
            }
            _ => return Err(ErrorKind::NotConnected.into()),
        }
        Ok(())
    }

    fn wait(&mut self, due: Option<Instant>, each: &mut dyn FnMut(usize, Event<'_>)) -> io::Result<()> {
        let now = Instant::now();
        let due = if self.open.is_empty() { due } else { Some(now) };
        for index in std::mem::take(&mut self.open) {
            each(index, Event::Open { resumed: false });
        }
        if self.inbox.is_empty() {
            self.sockets.wait(due)?;
            self.read_ahead()?;
        }
        let (mut now, end) = (Instant::now(), now + CHECK_INTERVAL);
        while let Some(index) = self.inbox.pop(&mut self.datagram) {
            self.handle_datagram(index, now, each);
            now = Instant::now();
            if now >= end && !self.inbox.is_empty() {
                self.sockets.flush();
                return Ok(());
            }
        }
        self.inbox.clear();
        if let Some(read) = self.inbox.read.take() {
            self.retransmit_overdue(read);
        }
        self.sockets.flush();
        Ok(())
    }

    fn flush(&mut self) {
        self.sockets.flush();
    }

    fn close(&mut self, index: usize) {
        if let Some(Some(Client::Open(session))) = self.clients.get_mut(index) {
            self.datagram.clear();
            session.close_notify(&mut self.datagram);
            self.sockets.send(index, &self.datagram);
        }
        self.forget(index);
    }

    fn retransmissions(&self, index: usize) -> Retransmissions {
        match self.clients.get(index) {
            Some(Some(Client::UnderWay(handshake))) => handshake.retransmissions,
            Some(Some(Client::Open(session))) => session.retransmissions,
            _ => Retransmissions::default(),
        }
    }

    fn stall(&mut self) {
        self.answers = 1;
    }

    fn dropped(&self) -> u64 {
        self.sockets.dropped()
    }
}
