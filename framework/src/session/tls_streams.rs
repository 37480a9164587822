//! TLS 1.2 and 1.3 over SCTP (RFC 3436): a session for each pair of streams that is to be used.
//!
//! Each stream is a sequence of bytes to TLS; a record is sent as one message, so that messages keep their
//! boundaries. Stream 0 comes first, and a peer that proves to be somebody else on a further one is
//! turned away. There is no order to lose and nothing to give up: unordered and partially reliable
//! messages are refused (RFC 3436 §2.1).

use std::collections::{BTreeMap, VecDeque};

use openssl::ssl::SslContext;

use super::dtls::{Facts, Read};
use super::engine::{Carrier, Engine};
use super::handshake::Failure;
use super::secure::{Action, Written};
use crate::error::EndReason;
use crate::sctp::{MessageInfo, Reliability, SendInfo};

/// One side of an association.
pub(crate) struct TlsStreams {
    context: SslContext,
    /// Stream pairs that may have a session.
    streams: u16,
    sessions: BTreeMap<u16, Session>,
    server: bool,
    actions: VecDeque<Action>,
    /// Streams on which something came that has not been read, in that order.
    heard: VecDeque<u16>,
    /// Why it is over.
    broken: Option<String>,
}

struct Session {
    engine: Engine,
    complete: bool,
    /// What came with the last message.
    info: MessageInfo,
    /// Bytes that came before the handshake was complete.
    early: usize,
}

/// Bytes of a handshake: a certificate chain, and what belongs to it.
const MAX_HANDSHAKE: usize = 128 * 1024;

impl Session {
    fn new(engine: Engine) -> Self {
        Self { engine, complete: false, info: MessageInfo::default(), early: 0 }
    }
}

impl TlsStreams {
    /// The server's side, with so many streams at most.
    pub(crate) fn accept(context: &SslContext, streams: u16) -> Result<Self, Failure> {
        let mut side = Self::new(context, streams, true);
        side.open(0)?;
        Ok(side)
    }

    /// The client's side, with so many streams; `name` is who the server must prove to be.
    pub(crate) fn connect(context: &SslContext, name: &str, streams: u16) -> Result<Self, Failure> {
        let mut side = Self::new(context, streams, false);
        for stream in 0..streams.max(1) {
            let engine = Engine::connect(context, name, Carrier::Bytes)?;
            side.sessions.insert(stream, Session::new(engine));
        }
        Ok(side)
    }

    fn new(context: &SslContext, streams: u16, server: bool) -> Self {
        Self {
            context: context.clone(),
            streams: streams.max(1),
            sessions: BTreeMap::new(),
            server,
            actions: VecDeque::new(),
            heard: VecDeque::new(),
            broken: None,
        }
    }

    fn open(&mut self, stream: u16) -> Result<(), Failure> {
        let engine = Engine::accept(&self.context, Carrier::Bytes)?;
        self.sessions.insert(stream, Session::new(engine));
        Ok(())
    }

    /// Goes on with the handshakes; `true` when those are complete that have to be: all of a client's,
    /// the first of a server's. Those behind the first begin when it is complete.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        if let Some(why) = &self.broken {
            return Err(Failure::Ended(EndReason::HandshakeFailed(why.clone())));
        }
        for stream in 0..self.streams {
            let Some(session) = self.sessions.get_mut(&stream) else { continue };
            if session.complete {
                continue;
            }
            let stepped = session.engine.step();
            self.collect(stream);
            if !stepped? {
                // A further one may be under way already, on the server's side.
                if stream == 0 {
                    return Ok(false);
                }
                continue;
            }
            if let Some(session) = self.sessions.get_mut(&stream) {
                session.complete = true;
            }
            self.compare(stream)?;
        }
        Ok(self.server || self.sessions.values().all(|session| session.complete))
    }

    /// The peer must be the same on every stream.
    fn compare(&self, stream: u16) -> Result<(), Failure> {
        let identity =
            |stream: u16| self.sessions.get(&stream).map(|session| session.engine.facts().identity);
        if identity(stream) == identity(0) {
            return Ok(());
        }
        let why = format!("the peer is somebody else on stream {stream}");
        Err(Failure::Ended(EndReason::HandshakeFailed(why)))
    }

    /// Takes a message of the peer. What comes on a further stream before the first is through (they
    /// may overtake each other) waits for that.
    pub(crate) fn receive(&mut self, message: &[u8], info: MessageInfo) {
        let stream = info.stream;
        if !self.sessions.contains_key(&stream) && (stream >= self.streams || self.open(stream).is_err()) {
            self.broken.get_or_insert(format!("stream {stream} has no TLS session"));
        }
        let Some(session) = self.sessions.get_mut(&stream) else { return };
        session.info = info;
        session.engine.feed(message.to_vec());
        if !session.complete {
            session.early += message.len();
            if session.early > MAX_HANDSHAKE {
                self.broken.get_or_insert(format!("the handshake on stream {stream} is too long"));
            }
        }
        if !self.heard.contains(&stream) {
            self.heard.push_back(stream);
        }
    }

    /// Reads the next message of what was received, and what came with it.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        loop {
            let Some(&stream) = self.heard.front() else {
                return (self.nothing(), MessageInfo::default());
            };
            // A further stream's handshake goes on between messages.
            if self.sessions.get(&stream).is_some_and(|session| !session.complete)
                && let Err(failure) = self.step()
            {
                self.broken.get_or_insert(failure.to_string());
            }
            let session = self.sessions.get_mut(&stream).filter(|session| session.complete);
            if let (None, Some(session)) = (&self.broken, session) {
                let (read, info) = (session.engine.read(buffer), session.info);
                self.collect(stream);
                if !matches!(read, Read::Nothing) {
                    return (read, info);
                }
            }
            self.heard.pop_front();
        }
    }

    fn nothing(&self) -> Read {
        match &self.broken {
            Some(why) => Read::Broken(why.clone()),
            None => Read::Nothing,
        }
    }

    /// Encrypts a message on its stream.
    pub(crate) fn write(&mut self, message: &[u8], how: &SendInfo) -> Written {
        let session = self.sessions.get_mut(&how.stream).filter(|session| session.complete);
        let Some(session) = session.filter(|_| !how.unordered && how.reliability == Reliability::Reliable)
        else {
            return Written::NoSuchStream;
        };
        if let Err(why) = session.engine.write(message) {
            return Written::Broken(why);
        }
        while let Some(record) = session.engine.next_outgoing() {
            self.actions.push_back(Action::Send(record, *how));
        }
        Written::Done
    }

    /// Says goodbye on every stream.
    pub(crate) fn close(&mut self) {
        let streams: Vec<u16> = self.sessions.keys().copied().collect();
        for stream in streams {
            if let Some(session) = self.sessions.get_mut(&stream) {
                session.engine.close();
            }
            self.collect(stream);
        }
    }

    /// The next thing to do.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What the handshake of stream 0 settled.
    pub(crate) fn facts(&self) -> Facts {
        self.sessions.get(&0).map(|session| session.engine.facts()).unwrap_or_default()
    }

    fn collect(&mut self, stream: u16) {
        let Some(session) = self.sessions.get_mut(&stream) else { return };
        while let Some(record) = session.engine.next_outgoing() {
            self.actions.push_back(Action::Send(record, SendInfo { stream, ..SendInfo::default() }));
        }
    }
}
