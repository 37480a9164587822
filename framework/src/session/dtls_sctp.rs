//! DTLS 1.2 over SCTP (RFC 6083), above an OpenSSL that knows nothing of SCTP.
//!
//! 1. Handshake, change_cipher_spec and alert records go on stream 0, ordered, with identifier 0.
//!    SCTP delivers, so no timer sends anything again.
//! 2. As soon as there is a master secret, 64 bytes exported from it become the next shared key of
//!    SCTP-AUTH (§4.8).
//! 3. Before its change_cipher_spec a side waits until everything it sent is acknowledged; behind it
//!    the new key is active. So Finished is the first that is authenticated with it.
//! 4. When both sides have finished the old key is deleted.
//! 5. Application data goes on any stream, one record a message. It may overtake on the way, also the
//!    Finished before it: see [`Window`].
//! 6. close_notify waits until everything before it is acknowledged (§4.7).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use openssl::ssl::SslContext;

use super::dtls::{Facts, Read};
use super::engine::{Carrier, Engine};
use super::handshake::Failure;
use super::secure::{Action, Written};
use super::window::Window;
use crate::sctp::{MessageInfo, SendInfo};

/// The exporter's label (RFC 6083 §4.8), and with the NUL that old OpenSSLs take with it.
const LABEL: &str = "EXPORTER_DTLS_OVER_SCTP";
const LABEL_WITH_NUL: &str = "EXPORTER_DTLS_OVER_SCTP\0";

/// How long a missing record is waited for.
const HOLD: Duration = Duration::from_secs(10);

/// Application data that came before the handshake was complete.
const MAX_EARLY: usize = 256;

/// Record types (RFC 5246 §6.2.1), and the length of their header (RFC 6347 §4.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;
const HEADER: usize = 13;

/// One side of an association.
pub(crate) struct DtlsSctp {
    engine: Engine,
    window: Window,
    actions: VecDeque<Action>,
    /// [`Action::AwaitDry`] was given out.
    waiting: bool,
    label: &'static str,
    key: Key,
    complete: bool,
    closed: bool,
    /// Application data that came too early, with its sequence number.
    early: Vec<(u64, Vec<u8>, MessageInfo)>,
    /// What came with the record that was fed last.
    info: MessageInfo,
}

/// How far the change of keys has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// There is none yet.
    None,
    /// This one was added.
    Added(u16),
}

/// The shared key that every association starts with: the empty one.
const FIRST_KEY: u16 = 0;

impl DtlsSctp {
    /// The server's side.
    pub(crate) fn accept(context: &SslContext, label_with_nul: bool) -> Result<Self, Failure> {
        Ok(Self::over(Engine::accept(context, Carrier::Records)?, label_with_nul))
    }

    /// The client's side; `name` is who the server must prove to be.
    pub(crate) fn connect(context: &SslContext, name: &str, label_with_nul: bool) -> Result<Self, Failure> {
        Ok(Self::over(Engine::connect(context, name, Carrier::Records)?, label_with_nul))
    }

    fn over(engine: Engine, label_with_nul: bool) -> Self {
        Self {
            engine,
            window: Window::new(HOLD),
            actions: VecDeque::new(),
            waiting: false,
            label: if label_with_nul { LABEL_WITH_NUL } else { LABEL },
            key: Key::None,
            complete: false,
            closed: false,
            early: Vec::new(),
            info: MessageInfo::default(),
        }
    }

    /// Goes on with the handshake; `true` when it is complete.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        if self.complete {
            return Ok(true);
        }
        let mut stepped = self.engine.step();
        while let Ok(false) = stepped
            && let Some((record, _)) = self.window.take()
        {
            self.engine.feed(record);
            stepped = self.engine.step();
        }
        if self.key == Key::None && self.engine.has_secret() {
            let key = self.engine.export(self.label)?;
            self.key = Key::Added(FIRST_KEY + 1);
            self.actions.push_back(Action::AddKey(FIRST_KEY + 1, key));
        }
        self.collect();
        let complete = stepped?;
        if complete {
            self.complete = true;
            if let Key::Added(number) = self.key {
                self.actions.push_back(Action::DeleteKey(number - 1));
            }
        }
        Ok(complete)
    }

    /// Makes actions of what OpenSSL wrote that is no application data.
    fn collect(&mut self) {
        while let Some(written) = self.engine.next_outgoing() {
            for record in records(&written) {
                let change = record[0] == CHANGE_CIPHER_SPEC;
                if change {
                    self.actions.push_back(Action::AwaitDry);
                }
                self.actions.push_back(Action::Send(record.to_vec(), SendInfo::default()));
                if change && let Key::Added(number) = self.key {
                    self.actions.push_back(Action::ActivateKey(number));
                }
            }
        }
    }

    /// Takes a message of the peer: one record, or several.
    pub(crate) fn receive(&mut self, message: &[u8], info: MessageInfo, now: Instant) {
        for record in records(message) {
            let epoch = u16::from_be_bytes([record[3], record[4]]);
            let sequence = record[5..11].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            match epoch {
                // Only a handshake has these.
                0 if !self.complete => self.engine.feed(record.to_vec()),
                1 if !self.complete && record[0] == APPLICATION_DATA => {
                    // More is lost, and waited for as long as any record is.
                    self.early
                        .extend((self.early.len() < MAX_EARLY).then(|| (sequence, record.to_vec(), info)));
                }
                1 => {
                    self.window.offer(sequence, record.to_vec(), info, now);
                }
                _ => {}
            }
        }
        if self.complete {
            for (sequence, record, info) in std::mem::take(&mut self.early) {
                self.window.offer(sequence, record, info, now);
            }
        }
    }

    /// Reads the next message of what was received, and what came with it.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> (Read, MessageInfo) {
        if !self.early.is_empty() {
            let now = Instant::now();
            for (sequence, record, info) in std::mem::take(&mut self.early) {
                self.window.offer(sequence, record, info, now);
            }
        }
        loop {
            let read = self.engine.read(buffer);
            self.collect();
            if !matches!(read, Read::Nothing) {
                return (read, self.info);
            }
            let Some((record, info)) = self.window.take() else { return (Read::Nothing, self.info) };
            self.info = info;
            self.engine.feed(record);
        }
    }

    /// Encrypts a message: one record, sent as it asks to be.
    pub(crate) fn write(&mut self, message: &[u8], how: &SendInfo) -> Written {
        if let Err(why) = self.engine.write(message) {
            return Written::Broken(why);
        }
        while let Some(record) = self.engine.next_outgoing() {
            let how = if record.first() == Some(&APPLICATION_DATA) { *how } else { SendInfo::default() };
            self.actions.push_back(Action::Send(record, how));
        }
        Written::Done
    }

    /// Says goodbye, once everything before it has arrived.
    pub(crate) fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.actions.push_back(Action::AwaitDry);
            self.engine.close();
            self.collect();
        }
    }

    /// The next thing to do; none while something is waited for.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        if self.waiting {
            return None;
        }
        let action = self.actions.pop_front();
        self.waiting = action == Some(Action::AwaitDry);
        action
    }

    /// Everything that was sent is acknowledged.
    pub(crate) fn dry(&mut self) {
        self.waiting = false;
    }

    /// When to give up waiting for records.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.window.deadline()
    }

    /// Waits no longer for records that are missing; returns how many those are.
    pub(crate) fn give_up(&mut self, now: Instant) -> u64 {
        self.window.give_up(now);
        self.window.take_given_up()
    }

    /// What the handshake settled.
    pub(crate) fn facts(&self) -> Facts {
        self.engine.facts()
    }
}

/// The whole records in these bytes; what follows them is no record.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let len = HEADER + usize::from(u16::from_be_bytes([header[11], header[12]]));
        let record = bytes.get(..len)?;
        bytes = &bytes[len..];
        Some(record)
    })
}
