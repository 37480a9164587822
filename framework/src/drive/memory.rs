//! A session whose messages stay in this process, with the limits of the protocol that it simulates.

use std::sync::Arc;

use crate::address::Scheme;
use crate::net::sink::Sink;
use crate::net::udp;
use crate::protocol::{RECORD_MAX, Sent};
use crate::sctp::{Reliability, SendInfo, Settings};

/// The session of a protocol whose messages have boundaries.
pub(crate) struct MemorySession {
    sink: Arc<Sink>,
    scheme: Scheme,
    /// The size of the longest message, in bytes.
    pub(super) max_message: usize,
    /// The number of streams to the peer, on SCTP.
    streams: u16,
}

impl MemorySession {
    pub(crate) fn new(sink: Arc<Sink>, scheme: Scheme, peer_is_v4: bool, settings: &Settings) -> Self {
        let max_message = match scheme {
            Scheme::Udp => udp::longest(peer_is_v4),
            Scheme::Sctp => settings.max_message,
            _ => RECORD_MAX,
        };
        let streams = match scheme {
            Scheme::SctpTls => settings.tls_streams.min(settings.streams),
            _ => settings.streams,
        };
        Self { sink, scheme, max_message, streams }
    }

    /// Sends one message; never blocks.
    pub(super) fn send(&self, message: &[u8], how: &SendInfo) -> Sent {
        // TLS over SCTP requires ordered and reliable delivery on a stream.
        let is_ordered = !how.unordered && how.reliability == Reliability::Reliable;
        if self.scheme.is_sctp() && how.stream >= self.streams
            || self.scheme == Scheme::SctpTls && !is_ordered
        {
            return Sent::NoSuchStream;
        }
        self.sink.send(message, how)
    }

    /// Returns the size of the shortest message, in bytes.
    pub(super) fn min_message(&self) -> usize {
        usize::from(self.scheme != Scheme::Udp)
    }
}
