//! A peeled-off SCTP socket that one worker reads.
//!
//! As on UDP, the worker blocks in recvmsg(2). While the association continues, it must not be woken by
//! `shutdown(SHUT_RD)`, after which Linux acknowledges and discards arriving data; a notification wakes it without that
//! ([`Attention::raise`]). A message that arrives in parts is reassembled here, up to a limit. The end of an
//! association is reported first by a notification and then by an error of the read.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::stall::Stall;
use super::wait::{Arrival, ReadTimeout, place};
use crate::address::Scheme;
use crate::error::EndReason;
use crate::net::attention::Attention;
use crate::net::attention::{InboxItem, signal};
use crate::observe::{Counters, bump, log_limited};
use crate::protocol::Sent;
use crate::sctp::{
    AssociationState, MessageInfo, Notification, NotificationKind, Options, PathState, SendInfo, Settings,
};
use crate::sys::errno::is_memory;
use crate::sys::message::DATAGRAM_MAX;
use crate::sys::sctp::abi::SCTP_ABORT;
use crate::sys::sctp::{self as sys, Received};

/// Maximum number of messages of different streams that are reassembled at the same time (I-DATA, RFC 8260).
const MAX_PARTIAL: usize = 64;

/// A peeled-off socket whose peer restarted, on its way to the dispatcher.
pub(crate) struct Restarted {
    pub(crate) socket: Arc<Socket>,
    pub(crate) scheme: Scheme,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// The worker's end of an association's socket.
pub(crate) struct SctpTransport {
    socket: Arc<Socket>,
    peer: SocketAddr,
    attention: Arc<Attention>,
    counters: Arc<Counters>,
    timeout: ReadTimeout,
    reassembly: Reassembly,
    /// The metadata of the last message.
    pub(crate) info: MessageInfo,
    stall: Option<Stall>,
    /// Notifications that the handler has subscribed to.
    wanted: Vec<NotificationKind>,
    /// The rest of a notification that did not fit is being discarded.
    skipping: bool,
    /// Why the association has ended; data in the inbox is delivered first.
    pub(crate) end: Option<EndReason>,
}

impl SctpTransport {
    pub(crate) fn new(
        socket: Arc<Socket>,
        peer: SocketAddr,
        attention: Arc<Attention>,
        counters: Arc<Counters>,
        settings: &Settings,
    ) -> Self {
        attention.wake_by_notification(&socket);
        if settings.dynamic_addresses {
            // On Linux a peeled-off socket does not inherit this setting.
            let _ = Options::of(&*socket).set_asconf_supported(true);
        }
        Self {
            socket,
            peer,
            attention,
            counters,
            timeout: ReadTimeout::default(),
            reassembly: Reassembly::new(settings.max_message),
            stall: settings.dead_after.map(Stall::new),
            info: MessageInfo::default(),
            wanted: Vec::new(),
            skipping: false,
            end: None,
        }
    }

    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Returns the length of the longest message that is reassembled, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.reassembly.limit
    }

    /// Sets whether the handler receives these notifications.
    pub(crate) fn subscribe(&mut self, kind: NotificationKind, wanted: bool) {
        self.wanted.retain(|known| *known != kind);
        if wanted {
            self.wanted.push(kind);
        }
    }

    /// Returns when to [check](Self::is_stalled) whether the peer acknowledges anything, given that `sent` messages
    /// have been sent.
    pub(crate) fn next_stall_check(&mut self, sent: u64, now: Instant) -> Option<Instant> {
        self.stall.as_mut()?.deadline(sent, now)
    }

    /// Returns whether the peer has acknowledged nothing for too long.
    pub(crate) fn is_stalled(&mut self, messages: u64, now: Instant) -> bool {
        let Some(stall) = &mut self.stall else { return false };
        check_for_stall(&self.socket, stall, messages, now)
    }

    /// Waits for one complete message, beginning with those of the inbox. Its bytes go to `first`, and the rest to
    /// `overflow`; [`info`](Self::info) is its metadata. Blocks until `deadline`. Data that has already arrived is
    /// delivered even if the deadline has passed.
    pub(crate) fn recv(
        &mut self,
        first: &mut [u8],
        overflow: &mut Vec<u8>,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Arrival {
        while self.attention.signals() & signal::INBOX != 0
            && let Some(InboxItem { payload, info, complete, notification, .. }) =
                self.attention.take_delivered()
        {
            if notification {
                if let Some(arrival) = self.handle_notification(payload.len(), complete, &[], &payload) {
                    return arrival;
                }
                continue;
            }
            if let Some(arrival) = self.add_part(&payload, &[], info, complete, first, overflow) {
                return arrival;
            }
        }
        let mut now = now;
        for _ in 0..MAX_READS {
            if let Some(end) = &self.end {
                return Arrival::Over(end.clone());
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            let wait = left != Some(Duration::ZERO);
            if wait {
                self.timeout.set(&self.socket, left);
            }
            match sys::recv(self.socket.as_fd(), first, overflow, wait) {
                Ok(received) if received.notification => {
                    if let Some(arrival) =
                        self.handle_notification(received.len, received.complete, first, overflow)
                    {
                        return arrival;
                    }
                }
                Ok(Received { len: 0, .. }) => return self.shut_down(),
                Ok(Received { len, complete, info, .. }) => {
                    let info = info.map(|(info, _)| info).unwrap_or_default();
                    if complete && self.reassembly.is_empty() && len <= self.reassembly.limit {
                        self.info = info;
                        return Arrival::Message(len);
                    }
                    let head = first[..len.min(first.len())].to_vec();
                    let rest = std::mem::take(overflow);
                    let arrival = self.add_part(&head, &rest, info, complete, first, overflow);
                    if arrival.is_some() {
                        return arrival.unwrap_or(Arrival::Woken);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait {
                        return Arrival::TimedOut;
                    }
                }
                Err(error) => {
                    if let Some(arrival) = self.handle_read_error(&error) {
                        return arrival;
                    }
                }
            }
            now = Instant::now();
        }
        // For example, an endless sequence of message parts: the caller has to check signals and deadlines.
        Arrival::Woken
    }

    /// Handles a socket that was shut down for reading, which happens only at the end of an association.
    fn shut_down(&self) -> Arrival {
        if self.attention.signals() & signal::FINAL != 0 {
            return Arrival::Woken;
        }
        Arrival::Over(EndReason::Shutdown)
    }

    /// Adds a part of a message. Returns the message if it is complete, or that it is too long.
    fn add_part(
        &mut self,
        head: &[u8],
        rest: &[u8],
        info: MessageInfo,
        complete: bool,
        first: &mut [u8],
        overflow: &mut Vec<u8>,
    ) -> Option<Arrival> {
        match self.reassembly.add(head, rest, info, complete) {
            Added::Incomplete => None,
            Added::Complete(message, info) => {
                self.info = info;
                Some(Arrival::Message(place(&message, first, overflow)))
            }
            Added::TooLong => Some(Arrival::TooLong),
        }
    }

    /// Handles a notification. Returns `None` if the handler does not need it.
    fn handle_notification(
        &mut self,
        len: usize,
        complete: bool,
        first: &[u8],
        overflow: &[u8],
    ) -> Option<Arrival> {
        // This is the rest of a notification that was too long, or one that is too long now. The buffer has 64 KiB.
        if self.skipping || !complete {
            if !self.skipping {
                bump(&self.counters.notifications_too_long);
            }
            self.skipping = !complete;
            return None;
        }
        let head = &first[..len.min(first.len())];
        let parsed = if overflow.is_empty() {
            Notification::parse(head)
        } else {
            Notification::parse(&[head, overflow].concat())
        };
        let Ok(notification) = parsed else {
            bump(&self.counters.notifications_malformed);
            return None;
        };
        let kind = notification.kind();
        self.apply_notification(&notification);
        if kind.is_some_and(|kind| self.wanted.contains(&kind)) {
            return Some(Arrival::Notification(Box::new(notification)));
        }
        if kind != Some(NotificationKind::SenderDry) {
            return None;
        }
        // A thread requested one such notification. If the subscription stayed on, each acknowledgement would cause
        // one.
        let _ = Options::of(&*self.socket).subscribe(NotificationKind::SenderDry, false);
        Some(Arrival::Dry)
    }

    /// Applies the effect of a notification on the association.
    fn apply_notification(&mut self, notification: &Notification) {
        let mut end = end_by(notification);
        match notification {
            Notification::AssociationChanged { state, .. } => match state {
                AssociationState::Up | AssociationState::ShutDown => {}
                AssociationState::Restarted => bump(&self.counters.sctp_restarts),
                AssociationState::Lost => {
                    bump(&self.counters.sctp_lost);
                    // An ABORT without a cause, for example from a host that no longer knows the association.
                    let error =
                        self.socket.take_error().ok().flatten().and_then(|error| error.raw_os_error());
                    if end == Some(EndReason::Unreachable) && error == Some(libc::ECONNRESET) {
                        end = Some(aborted());
                    }
                }
                AssociationState::CannotStart => bump(&self.counters.sctp_cannot_start),
                _ => bump(&self.counters.notifications_unknown),
            },
            Notification::PeerShutDown { .. } => bump(&self.counters.sctp_shutdowns),
            Notification::PartialDelivery { stream, .. } => {
                self.reassembly.forget(*stream as u16);
                bump(&self.counters.messages_cut_off);
            }
            Notification::PathChanged { address, state, .. } => {
                let peer = self.peer;
                if *state == PathState::Unreachable {
                    bump(&self.counters.paths_lost);
                    log_limited!(info, %peer, %address, "a path to a peer is lost");
                }
            }
            Notification::Unknown { .. } => bump(&self.counters.notifications_unknown),
            _ => {}
        }
        if end.is_some() {
            self.end = end;
        }
    }

    /// Handles an error of a read. Returns `None` if the caller should read again, otherwise why the association ends.
    fn handle_read_error(&mut self, error: &io::Error) -> Option<Arrival> {
        if error.kind() == io::ErrorKind::Interrupted {
            return None;
        }
        if is_memory(error) {
            bump(&self.counters.out_of_memory);
            std::thread::yield_now();
            return None;
        }
        Some(Arrival::Over(match error.raw_os_error() {
            Some(libc::ENOTCONN) => EndReason::ClosedByPeer,
            Some(libc::ECONNRESET) => aborted(),
            Some(libc::ETIMEDOUT) => EndReason::Unreachable,
            Some(libc::ECONNABORTED) => EndReason::ClosedByUs,
            _ => EndReason::Io(error.kind()),
        }))
    }

    /// Discards the unread data, because a close with unread data aborts the association, and the peer would lose the
    /// last messages from this side. Nothing more arrives after this.
    pub(crate) fn discard(&self) {
        crate::sys::message::shutdown_read(&*self.socket);
        let mut scratch = Vec::with_capacity(DATAGRAM_MAX);
        for _ in 0..MAX_DISCARDED {
            match sys::recv(self.socket.as_fd(), &mut [], &mut scratch, false) {
                Ok(Received { len: 0, .. }) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// Returns whether a peer that was sent `messages` messages has acknowledged nothing for too long.
pub(crate) fn check_for_stall(socket: &Socket, stall: &mut Stall, messages: u64, now: Instant) -> bool {
    let options = Options::of(socket);
    let (unacknowledged, sent) = match (options.status(), options.counters()) {
        (Ok(status), Ok(counters)) => {
            (u64::from(status.unacknowledged), counters.ordered_sent + counters.unordered_sent)
        }
        // The association has ended, which the next read reports.
        _ => (0, 0),
    };
    stall.check(messages, sent.saturating_sub(unacknowledged), unacknowledged, now)
}

/// Returns the reason for an abort by the peer without a cause.
fn aborted() -> EndReason {
    EndReason::Aborted("no reason given".to_owned())
}

/// Maximum number of reads in one call that return nothing to the caller.
const MAX_READS: usize = 64;

/// Returns why the association has ended, if this notification reports its end.
pub(crate) fn end_by(notification: &Notification) -> Option<EndReason> {
    match notification {
        Notification::AssociationChanged { state, .. } => match state {
            AssociationState::Restarted => Some(EndReason::Replaced),
            AssociationState::Lost => Some(loss(notification)),
            AssociationState::CannotStart => Some(EndReason::Unreachable),
            AssociationState::ShutDown => Some(EndReason::ClosedByPeer),
            _ => None,
        },
        // The peer's messages have all arrived, and it accepts no more.
        Notification::PeerShutDown { .. } => Some(EndReason::ClosedByPeer),
        _ => None,
    }
}

/// Returns why an association was lost.
pub(crate) fn loss(notification: &Notification) -> EndReason {
    match notification.cause() {
        Some(cause) => EndReason::Aborted(cause),
        None => EndReason::Unreachable,
    }
}

/// Maximum number of reads that discard data at the end: a receive buffer full of small messages.
const MAX_DISCARDED: usize = 1 << 16;

/// Messages of which only some parts have arrived. A part is what one read returned.
struct Reassembly {
    limit: usize,
    bytes: usize,
    messages: Vec<Partial>,
}

struct Partial {
    stream: u16,
    unordered: bool,
    info: MessageInfo,
    /// `None` if the message was too long and is being discarded.
    bytes: Option<Vec<u8>>,
}

/// Result of adding a part.
#[derive(Debug, PartialEq, Eq)]
enum Added {
    /// No complete message yet.
    Incomplete,
    /// A complete message, and the metadata of its first part.
    Complete(Vec<u8>, MessageInfo),
    /// The end of a message that was longer than the limit.
    TooLong,
}

impl Reassembly {
    fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, messages: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds a part of a message, in two pieces. The limit applies to all incomplete messages together.
    fn add(&mut self, head: &[u8], rest: &[u8], info: MessageInfo, complete: bool) -> Added {
        let key = |partial: &Partial| (partial.stream, partial.unordered);
        let found = self.messages.iter().position(|partial| key(partial) == (info.stream, info.unordered));
        let index = found.unwrap_or_else(|| {
            if self.messages.len() >= MAX_PARTIAL {
                let oldest = self.messages.remove(0);
                self.bytes -= oldest.bytes.map_or(0, |bytes| bytes.len());
            }
            let (stream, unordered) = (info.stream, info.unordered);
            self.messages.push(Partial { stream, unordered, info, bytes: Some(Vec::new()) });
            self.messages.len() - 1
        });
        let partial = &mut self.messages[index];
        if let Some(bytes) = &mut partial.bytes {
            let more = head.len() + rest.len();
            if self.bytes + more > self.limit {
                self.bytes -= bytes.len();
                partial.bytes = None;
            } else {
                self.bytes += more;
                bytes.extend_from_slice(head);
                bytes.extend_from_slice(rest);
            }
        }
        if !complete {
            return Added::Incomplete;
        }
        let partial = self.messages.swap_remove(index);
        match partial.bytes {
            Some(bytes) => {
                self.bytes -= bytes.len();
                Added::Complete(bytes, partial.info)
            }
            None => Added::TooLong,
        }
    }

    /// Drops the incomplete messages of this stream, because the kernel abandoned the rest.
    fn forget(&mut self, stream: u16) {
        for partial in self.messages.extract_if(.., |partial| partial.stream == stream) {
            self.bytes -= partial.bytes.map_or(0, |bytes| bytes.len());
        }
    }
}

/// Aborts the association (RFC 9260 §9.1) and sends the peer the reason.
pub(crate) fn abort(socket: &Socket, reason: &[u8]) {
    let _ = send(socket, reason, &SendInfo::default(), SCTP_ABORT);
}

/// Sends one message; never blocks.
pub(crate) fn send(socket: &Socket, message: &[u8], info: &SendInfo, flags: u16) -> Sent {
    loop {
        let Err(error) = sys::send(socket.as_fd(), message, 0, info, flags) else { return Sent::Done };
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN) => return Sent::Full,
            _ if is_memory(&error) => return Sent::Full,
            Some(libc::EMSGSIZE) => return Sent::TooLarge,
            Some(libc::EINVAL) => return Sent::NoSuchStream,
            _ if is_over(&error) => return Sent::Gone,
            _ => return Sent::Broken(EndReason::Io(error.kind())),
        }
    }
}

/// Returns whether the association has ended or is about to end; messages that arrived before can still be read.
fn is_over(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EPIPE
                | libc::ENOTCONN
                | libc::ESHUTDOWN
                | libc::ECONNRESET
                | libc::ECONNABORTED
                | libc::ETIMEDOUT
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(stream: u16) -> MessageInfo {
        MessageInfo { stream, ..MessageInfo::default() }
    }

    #[test]
    fn a_message_is_put_together_from_its_parts_also_between_those_of_others() {
        let mut parts = Reassembly::new(100);
        assert_eq!(parts.add(b"ab", b"c", on(1), false), Added::Incomplete);
        assert_eq!(parts.add(b"xy", b"", on(2), false), Added::Incomplete);
        assert_eq!(parts.add(b"d", b"", on(1), true), Added::Complete(b"abcd".to_vec(), on(1)));
        assert_eq!(parts.add(b"z", b"", on(2), true), Added::Complete(b"xyz".to_vec(), on(2)));
        assert!(parts.is_empty());
        assert_eq!(parts.bytes, 0);
    }

    #[test]
    fn a_message_above_the_limit_is_refused_once_and_the_next_one_is_whole() {
        let mut parts = Reassembly::new(5);
        assert_eq!(parts.add(b"abc", b"", on(0), false), Added::Incomplete);
        assert_eq!(parts.add(b"def", b"", on(0), false), Added::Incomplete);
        assert_eq!(parts.add(b"ghi", b"", on(0), true), Added::TooLong);
        assert_eq!(parts.add(b"12345", b"", on(0), true), Added::Complete(b"12345".to_vec(), on(0)));
        assert_eq!(parts.bytes, 0);
    }

    #[test]
    fn messages_that_the_kernel_gives_up_are_dropped_and_the_number_of_partial_messages_is_bounded() {
        let mut parts = Reassembly::new(1000);
        parts.add(b"lost", b"", on(3), false);
        parts.forget(3);
        assert!(parts.is_empty());
        assert_eq!(parts.bytes, 0);
        for stream in 0..2 * MAX_PARTIAL as u16 {
            parts.add(b"x", b"", on(stream), false);
        }
        assert_eq!((parts.messages.len(), parts.bytes), (MAX_PARTIAL, MAX_PARTIAL));
    }

    /// The tests pass notifications in, so the socket need not be an SCTP socket.
    fn transport() -> SctpTransport {
        use socket2::{Domain, Type};
        let socket = Arc::new(Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap());
        let address = "127.0.0.1:1".parse().unwrap();
        SctpTransport::new(socket, address, Arc::default(), Arc::default(), &Settings::default())
    }

    fn notice(transport: &mut SctpTransport, bytes: &[u8], complete: bool) -> Option<Arrival> {
        let (first, overflow) = bytes.split_at(bytes.len().min(7));
        let mut buffer = [0; 7];
        buffer[..first.len()].copy_from_slice(first);
        transport.handle_notification(bytes.len(), complete, &buffer, overflow)
    }

    #[test]
    fn a_notification_that_is_cut_unknown_or_too_long_is_counted_and_nothing_else() {
        let mut transport = transport();
        let header = |kind: u16, len: u32| [&kind.to_ne_bytes()[..], &[0; 2], &len.to_ne_bytes()].concat();
        let dry = [header(0x8009, 12), vec![0; 4]].concat();
        assert!(notice(&mut transport, &dry[..11], true).is_none());
        assert!(notice(&mut transport, &header(0x8777, 8), true).is_none());
        // What follows the part that was cut belongs to it.
        assert!(notice(&mut transport, &dry, false).is_none());
        assert!(notice(&mut transport, &dry, false).is_none());
        assert!(notice(&mut transport, &dry, true).is_none());
        assert!(matches!(notice(&mut transport, &dry, true), Some(Arrival::Dry)));
        let stats = transport.counters.snapshot();
        let counted =
            (stats.notifications_malformed, stats.notifications_unknown, stats.notifications_too_long);
        assert_eq!(counted, (1, 1, 1));
        assert_eq!(transport.end, None);
    }

    #[test]
    fn the_reason_of_an_end_is_kept_until_it_is_asked_for() {
        let lost = |info: &[u8]| {
            let fields = [1u16, 0, 64, 64, 0, 0].iter().flat_map(|field| field.to_ne_bytes());
            let body: Vec<u8> = fields.chain(info.iter().copied()).collect();
            let len = 8 + body.len() as u32;
            [&0x8001u16.to_ne_bytes()[..], &[0; 2], &len.to_ne_bytes(), &body].concat()
        };
        for (info, end) in [
            (&b""[..], EndReason::Unreachable),
            (b"\x00\x0c\x00\x08busy", EndReason::Aborted("busy".to_owned())),
        ] {
            let mut transport = transport();
            assert!(notice(&mut transport, &lost(info), true).is_none());
            assert_eq!(transport.end, Some(end));
        }
    }
}
