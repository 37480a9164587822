//! TLS 1.2 and 1.3 over the streams of an SCTP association (RFC 3436): a separate session for each pair of streams with
//! one number. The streams must be ordered and reliable.
//!
//! 1. Stream 0 is secured first; the association is secured when that handshake is complete.
//! 2. A client begins the handshake of a further stream with its first message there. The peer must prove the same
//!    identity as on stream 0.
//! 3. Each write of OpenSSL becomes one message: a flight, or 4096 bytes of a longer one. Application data of up to
//!    16,384 bytes becomes one record, so that boundaries are kept.
//! 4. Further streams may overtake stream 0's last flight; such early messages wait.
//! 5. The association is closed when every open stream is closed.

use std::collections::{BTreeMap, VecDeque};

use openssl::ssl::SslContext;

use super::action::{Action, Refused};
use crate::error::EndReason;
use crate::protocol::exporter::{Exporter, RefusedExport};
use crate::protocol::{RECORD_MAX, Read};
use crate::sctp::{MessageInfo, Reliability, SendInfo};
use crate::tls::engine::{Engine, Framing};
use crate::tls::{Failure, HandshakeSummary};

/// Maximum number of bytes that may wait for stream 0: a few ClientHellos on each of many streams.
const MAX_EARLY: usize = 256 * 1024;

/// The sessions of one association. Used by one thread at a time.
pub(crate) struct TlsStreams {
    context: SslContext,
    /// The name that the server must prove; `None` on a server.
    client: Option<Client>,
    streams: u16,
    sessions: BTreeMap<u16, StreamSession>,
    /// Streams that may have data to read, in round-robin order.
    ready: VecDeque<u16>,
    /// Messages of further streams that overtook stream 0's handshake.
    early: Vec<(Vec<u8>, MessageInfo)>,
    early_bytes: usize,
    actions: VecDeque<Action>,
    summary: HandshakeSummary,
    closed: bool,
    broken: Option<String>,
}

struct Client {
    name: Option<String>,
}

struct StreamSession {
    engine: Engine,
    state: State,
    /// Messages that have not been fed yet, so that each keeps its metadata.
    inbox: VecDeque<(Vec<u8>, MessageInfo)>,
    /// The metadata of the message that was fed last.
    info: MessageInfo,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Handshake,
    Open,
    /// The peer's close_notify has arrived.
    Closed,
}

impl TlsStreams {
    /// Makes the server's side, for streams below `streams`.
    pub(crate) fn accept(context: &SslContext, streams: u16) -> Result<Self, Failure> {
        let mut sessions = Self::new(context, None, streams);
        sessions.begin(0)?;
        Ok(sessions)
    }

    /// Makes the client's side, with stream 0's ClientHello to send.
    pub(crate) fn connect(context: &SslContext, name: Option<&str>, streams: u16) -> Result<Self, Failure> {
        let mut sessions = Self::new(context, Some(Client { name: name.map(str::to_owned) }), streams);
        sessions.begin(0)?;
        sessions.step(0)?;
        Ok(sessions)
    }

    fn new(context: &SslContext, client: Option<Client>, streams: u16) -> Self {
        Self {
            context: context.clone(),
            client,
            streams: streams.max(1),
            sessions: BTreeMap::new(),
            ready: VecDeque::new(),
            early: Vec::new(),
            early_bytes: 0,
            actions: VecDeque::new(),
            summary: HandshakeSummary::default(),
            closed: false,
            broken: None,
        }
    }

    fn begin(&mut self, stream: u16) -> Result<(), Failure> {
        let engine = match &self.client {
            Some(client) => Engine::connect(&self.context, client.name.as_deref(), Framing::Bytes)?,
            None => Engine::accept(&self.context, Framing::Bytes)?,
        };
        let info = MessageInfo { stream, ..MessageInfo::default() };
        let session = StreamSession { engine, state: State::Handshake, inbox: VecDeque::new(), info };
        self.sessions.insert(stream, session);
        Ok(())
    }

    /// Handles one SCTP message. Returns `true` when stream 0's handshake is complete. After that, [`read`](Self::read)
    /// reports errors.
    pub(crate) fn receive(&mut self, message: &[u8], info: MessageInfo) -> Result<bool, Failure> {
        if self.is_complete() {
            self.handle_message(message, info);
            return Ok(true);
        }
        self.check(info).map_err(Failure::of)?;
        if info.stream != 0 {
            self.early_bytes += message.len();
            if self.early_bytes > MAX_EARLY {
                return Err(Failure::of("the peer sent too much before stream 0 was secured"));
            }
            self.early.push((message.to_vec(), info));
            return Ok(false);
        }
        self.feed(message, info);
        self.step(0)?;
        if self.is_complete() {
            self.summary = self.sessions[&0].engine.summary();
            for (message, info) in std::mem::take(&mut self.early) {
                self.handle_message(&message, info);
            }
        }
        Ok(self.is_complete())
    }

    /// Checks the metadata of a message.
    fn check(&self, info: MessageInfo) -> Result<(), String> {
        let stream = info.stream;
        if stream >= self.streams {
            return Err(format!(
                "the peer used stream {stream}, but only {} streams are secured",
                self.streams
            ));
        }
        if info.unordered {
            return Err(format!(
                "the peer sent an unordered message on stream {stream}, which TLS cannot read"
            ));
        }
        Ok(())
    }

    /// Handles a message after stream 0's handshake.
    fn handle_message(&mut self, message: &[u8], info: MessageInfo) {
        if self.broken.is_some() {
            return;
        }
        if let Err(why) = self.check(info).and_then(|()| self.handle_message_on(info.stream, message, info)) {
            self.broken = Some(why);
        }
    }

    fn handle_message_on(&mut self, stream: u16, message: &[u8], info: MessageInfo) -> Result<(), String> {
        let state = self.sessions.get(&stream).map(|session| session.state);
        match state {
            Some(State::Handshake) => {}
            Some(State::Open) => {
                if let Some(session) = self.sessions.get_mut(&stream) {
                    session.inbox.push_back((message.to_vec(), info));
                }
                self.wake(stream);
                return Ok(());
            }
            Some(State::Closed) => return Ok(()),
            None if self.client.is_some() => {
                return Err(format!(
                    "the server began a handshake on stream {stream}, which only a client may do"
                ));
            }
            None if self.closed => return Ok(()),
            None => self.begin(stream).map_err(|failure| text(stream, failure))?,
        }
        self.feed(message, info);
        if self.step(stream).map_err(|failure| text(stream, failure))? {
            // Different identities on different streams do not belong to one peer.
            if self.sessions[&stream].engine.summary().identity != self.summary.identity {
                return Err(format!("the peer's identity on stream {stream} differs from that on stream 0"));
            }
            self.wake(stream);
        }
        Ok(())
    }

    fn wake(&mut self, stream: u16) {
        if !self.ready.contains(&stream) {
            self.ready.push_back(stream);
        }
    }

    fn feed(&mut self, message: &[u8], info: MessageInfo) {
        if let Some(session) = self.sessions.get_mut(&info.stream) {
            session.engine.feed(message);
            session.info = info;
        }
    }

    /// Runs one step of a stream's handshake. Returns `true` when it is complete.
    fn step(&mut self, stream: u16) -> Result<bool, Failure> {
        let Some(session) = self.sessions.get_mut(&stream) else { return Ok(false) };
        let stepped = session.engine.step();
        if let Ok(true) = stepped {
            session.state = State::Open;
        }
        self.queue_outgoing(stream, None);
        if stream == 0 && matches!(stepped, Ok(true)) {
            self.wake(0);
        }
        stepped
    }

    /// Makes a message of each write of OpenSSL. With `data`, the last one is application data.
    fn queue_outgoing(&mut self, stream: u16, data: Option<SendInfo>) {
        let Some(session) = self.sessions.get_mut(&stream) else { return };
        let written = session.engine.take_outgoing();
        let last = written.len().saturating_sub(1);
        for (index, payload) in written.into_iter().enumerate() {
            let own = SendInfo { stream, ..SendInfo::default() };
            let info = data.filter(|_| index == last).unwrap_or(own);
            self.actions.push_back(Action::Send { payload, info });
        }
    }

    /// Returns whether stream 0 is secured.
    pub(crate) fn is_complete(&self) -> bool {
        self.sessions.get(&0).is_some_and(|session| session.state != State::Handshake)
    }

    /// Begins the handshakes of a client's further streams once stream 0 is secured. Returns `true` when all streams
    /// are open; a server does not wait for further streams.
    pub(crate) fn open_all(&mut self) -> Result<bool, Failure> {
        if let Some(why) = &self.broken {
            return Err(Failure::of(why.as_str()));
        }
        if self.client.is_none() || !self.is_complete() {
            return Ok(self.is_complete());
        }
        for stream in 1..self.streams {
            if !self.sessions.contains_key(&stream) {
                self.begin(stream)?;
                self.step(stream)?;
            }
        }
        Ok((0..self.streams).all(|stream| self.is_open(stream)))
    }

    /// Returns whether messages can be sent on `stream`.
    pub(crate) fn is_open(&self, stream: u16) -> bool {
        self.sessions.get(&stream).is_some_and(|session| session.state == State::Open)
    }

    /// Returns the source of exported keying material.
    pub(crate) fn exporter(&self) -> Result<Exporter<'_>, RefusedExport> {
        let session = self.sessions.get(&0).ok_or(RefusedExport::NoSession)?;
        Ok(Exporter::OpenSsl(session.engine.ssl()))
    }

    /// Returns the results of stream 0's handshake.
    pub(crate) fn summary(&self) -> HandshakeSummary {
        self.summary.clone()
    }

    /// Reads the next message of any stream, with its metadata.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        while let (None, Some(&stream)) = (&self.broken, self.ready.front()) {
            let Some(session) = self.sessions.get_mut(&stream) else { break };
            let read = session.engine.read(buffer);
            let info = session.info;
            let next = match read {
                Read::Nothing if session.engine.is_drained() => session.inbox.pop_front(),
                _ => None,
            };
            self.queue_outgoing(stream, None);
            match read {
                Read::Nothing => match next {
                    Some((message, info)) => self.feed(&message, info),
                    None => drop(self.ready.pop_front()),
                },
                Read::Closed => {
                    self.ready.pop_front();
                    if let Some(session) = self.sessions.get_mut(&stream) {
                        session.state = State::Closed;
                    }
                    if !self.sessions.values().any(|session| session.state == State::Open) {
                        return (Read::Closed, info);
                    }
                }
                Read::Broken(why) => self.broken = Some(format!("stream {stream}: {why}")),
                Read::Message(_) | Read::Long(_) | Read::TooLong | Read::Restarted(_) => {
                    self.ready.rotate_left(1);
                    return (read, info);
                }
            }
        }
        match &self.broken {
            Some(why) => (Read::Broken(why.clone()), MessageInfo::default()),
            None => (Read::Nothing, MessageInfo::default()),
        }
    }

    /// Returns whether [`read`](Self::read) may find more.
    pub(crate) fn has_more(&self) -> bool {
        self.broken.is_some() || (self.is_complete() && !self.ready.is_empty())
    }

    /// Encrypts one message into one record. A client begins the stream's handshake if it has not begun yet.
    pub(crate) fn write(&mut self, message: &[u8], info: SendInfo) -> Result<(), Refused> {
        if let Some(why) = &self.broken {
            return Err(Refused::Broken(why.clone()));
        }
        let stream = info.stream;
        match message.len() {
            _ if self.closed => return Err(Refused::Closed),
            _ if stream >= self.streams => return Err(Refused::NoSuchStream { streams: self.streams }),
            _ if info.unordered => return Err(Refused::Unordered),
            _ if info.reliability != Reliability::Reliable => return Err(Refused::Unreliable),
            0 => return Err(Refused::Empty),
            len if len > RECORD_MAX => return Err(Refused::TooLong { limit: RECORD_MAX }),
            _ => {}
        }
        if !self.is_complete() {
            return Err(Refused::NotOpen);
        }
        let written = match self.sessions.get_mut(&stream) {
            Some(session) if session.state == State::Handshake => return Err(Refused::NotOpen),
            Some(session) => session.engine.write(message),
            None if self.client.is_some() => {
                let begun = self.begin(stream).and_then(|()| self.step(stream));
                begun.map_err(|failure| Refused::Broken(text(stream, failure)))?;
                return Err(Refused::NotOpen);
            }
            None => return Err(Refused::NotOpen),
        };
        self.queue_outgoing(stream, written.is_ok().then_some(info));
        written.map_err(Refused::Broken)
    }

    /// Queues a close_notify on every open stream.
    pub(crate) fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let streams: Vec<u16> = self.sessions.keys().copied().collect();
        for stream in streams {
            if let Some(session) = self.sessions.get_mut(&stream)
                && session.state != State::Handshake
            {
                session.engine.close();
                self.queue_outgoing(stream, None);
            }
        }
    }

    /// Makes further streams use another context, for tests.
    #[cfg(test)]
    pub(super) fn change_context(&mut self, context: &SslContext) {
        self.context = context.clone();
    }

    #[cfg(test)]
    pub(super) fn engine(&mut self, stream: u16) -> &mut Engine {
        &mut self.sessions.get_mut(&stream).unwrap().engine
    }

    /// Returns the next action.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Has no effect: nothing here waits for acknowledgements.
    pub(crate) fn dry(&mut self) {}
}

/// Returns why a further stream failed, which ends the whole association.
fn text(stream: u16, failure: Failure) -> String {
    match failure {
        Failure::Ended(EndReason::HandshakeFailed(why)) | Failure::Unverified(why) => {
            format!("stream {stream}: {why}")
        }
        failure => format!("stream {stream}: {failure}"),
    }
}
