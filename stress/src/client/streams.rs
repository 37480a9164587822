//! Clients on TCP and TLS, each with a socket, in an epoll loop.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Instant;

use mio::{Events, Poll};
use openssl::ssl::SslSession;

use super::link::{Link, Received};
use super::{ClientDriver, Dialer, Event, Retransmissions, wait};

/// The clients and their poll.
pub(super) struct Streams {
    dialer: Dialer,
    links: Vec<Option<Link>>,
    free: VecDeque<usize>,
    poll: Poll,
    events: Events,
    /// Whether handshakes stop after their first step.
    stall: bool,
    /// Bytes of a message.
    len: usize,
    buffer: Vec<u8>,
}

impl Streams {
    pub(super) fn new(dialer: Dialer) -> io::Result<Self> {
        Ok(Self {
            dialer,
            links: Vec::new(),
            free: VecDeque::new(),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            stall: false,
            len: 1,
            buffer: Vec::new(),
        })
    }

    /// Handles the events of a client. Returns false if the client has ended.
    fn handle_events(&mut self, index: usize, each: &mut dyn FnMut(usize, Event<'_>)) -> bool {
        let Some(Some(link)) = self.links.get_mut(index) else { return true };
        if !link.is_open() {
            match link.step() {
                Ok(_) if self.stall => {
                    each(index, Event::Stalled);
                    return true;
                }
                Ok(false) => return true,
                Ok(true) => each(index, Event::Open { resumed: link.is_resumed() }),
                Err(why) => {
                    each(index, Event::Ended(why.to_string(), Retransmissions::default()));
                    return false;
                }
            }
        }
        if let Err(why) = link.flush() {
            each(index, Event::Ended(why.to_string(), Retransmissions::default()));
            return false;
        }
        loop {
            match link.receive(&mut self.buffer, self.len) {
                Received::Message => each(index, Event::Message(&self.buffer)),
                Received::Nothing => return true,
                Received::Ended => {
                    let why = "the server closed the connection".to_owned();
                    each(index, Event::Ended(why, Retransmissions::default()));
                    return false;
                }
            }
        }
    }

    fn take(&mut self, index: usize) -> Option<Link> {
        let link = self.links.get_mut(index)?.take()?;
        self.free.push_back(index);
        Some(link)
    }
}

impl ClientDriver for Streams {
    fn begin(&mut self, session: Option<&SslSession>) -> io::Result<usize> {
        let link = Link::begin(&self.dialer, session)?;
        let index = self.free.pop_front().unwrap_or(self.links.len());
        link.register(self.poll.registry(), index)?;
        if index == self.links.len() {
            self.links.push(None);
        }
        self.links[index] = Some(link);
        Ok(index)
    }

    fn send(&mut self, index: usize, message: &[u8]) -> io::Result<()> {
        match self.links.get_mut(index) {
            Some(Some(link)) => link.send(message),
            _ => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn wait(&mut self, due: Option<Instant>, each: &mut dyn FnMut(usize, Event<'_>)) -> io::Result<()> {
        wait(&mut self.poll, &mut self.events, due)?;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let index = event.token().0;
            if !self.handle_events(index, each) {
                drop(self.take(index));
            }
        }
        self.events = events;
        Ok(())
    }

    fn close(&mut self, index: usize) {
        if let Some(link) = self.take(index) {
            link.close();
        }
    }

    fn expect(&mut self, len: usize) {
        self.len = len.max(1);
    }

    fn is_full(&self, index: usize) -> bool {
        matches!(self.links.get(index), Some(Some(link)) if link.is_full())
    }

    fn stall(&mut self) {
        self.stall = true;
    }
}
