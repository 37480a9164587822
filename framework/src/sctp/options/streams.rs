//! Options of streams: reset, addition and scheduling (RFC 6525, RFC 8260).

use std::io;

use super::Options;
use crate::sys::sctp::abi::*;
use crate::sys::sctp::set_bytes;

/// Which requests to change streams the peer and this side may make (SCTP_ENABLE_STREAM_RESET, RFC 6525 §6.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamRequests {
    /// Requests to reset streams.
    pub reset_streams: bool,
    /// Requests to reset the association.
    pub reset_association: bool,
    /// Requests to add streams.
    pub add_streams: bool,
}

/// The direction of the streams to reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetDirection {
    /// The streams of the peer's messages.
    Inbound,
    /// The streams of this side's messages.
    Outbound,
    /// Both.
    Both,
}

/// Chooses the stream of the next message (SCTP_STREAM_SCHEDULER, RFC 8260 §4.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamScheduler {
    /// The stream of the oldest message (SCTP_SS_FCFS).
    FirstComeFirstServed,
    /// The stream with the smallest number set with
    /// [`set_stream_scheduler_value`](Options::set_stream_scheduler_value) (SCTP_SS_PRIO).
    Priority,
    /// The streams take turns (SCTP_SS_RR).
    RoundRobin,
    /// The stream that has sent the fewest bytes (SCTP_SS_FC, fair capacity, RFC 8260 §3.4); Linux 6.4 and later.
    FairCapacity,
    /// The same, weighted with the numbers of [`set_stream_scheduler_value`](Options::set_stream_scheduler_value)
    /// (SCTP_SS_WFQ, weighted fair queueing, RFC 8260 §3.5); Linux 6.4 and later.
    WeightedFair,
    /// A scheduler that this library does not know, by its number.
    Other(u32),
}

/// # Streams
impl Options<'_> {
    /// Returns whether streams may be reset and added at all (SCTP_RECONFIG_SUPPORTED, RFC 6525); for an association,
    /// whether the peer supports that too.
    pub fn reconfig_supported(&self) -> io::Result<bool> {
        self.get_value(SCTP_RECONFIG_SUPPORTED).map(|value| value != 0)
    }

    /// Sets the value of [`reconfig_supported`](Self::reconfig_supported) for future associations.
    pub fn set_reconfig_supported(&self, on: bool) -> io::Result<()> {
        self.set_value(SCTP_RECONFIG_SUPPORTED, on.into())
    }

    /// Returns which requests are allowed (SCTP_ENABLE_STREAM_RESET, RFC 6525 §6.3.1).
    pub fn stream_requests(&self) -> io::Result<StreamRequests> {
        let value = self.get_value(SCTP_ENABLE_STREAM_RESET)?;
        Ok(StreamRequests {
            reset_streams: value & SCTP_ENABLE_RESET_STREAM_REQ != 0,
            reset_association: value & SCTP_ENABLE_RESET_ASSOC_REQ != 0,
            add_streams: value & SCTP_ENABLE_CHANGE_ASSOC_REQ != 0,
        })
    }

    /// Sets which requests are allowed.
    pub fn enable_stream_requests(&self, requests: StreamRequests) -> io::Result<()> {
        let mut value = 0;
        for (on, flag) in [
            (requests.reset_streams, SCTP_ENABLE_RESET_STREAM_REQ),
            (requests.reset_association, SCTP_ENABLE_RESET_ASSOC_REQ),
            (requests.add_streams, SCTP_ENABLE_CHANGE_ASSOC_REQ),
        ] {
            if on {
                value |= flag;
            }
        }
        self.set_value(SCTP_ENABLE_STREAM_RESET, value)
    }

    /// Resets these streams to sequence number 0 (SCTP_RESET_STREAMS, RFC 6525 §6.3.2); an empty list stands for all
    /// streams. [`Notification::StreamsReset`](crate::sctp::Notification) reports the outcome. Fails with ENOPROTOOPT
    /// without [`set_reconfig_supported`](Self::set_reconfig_supported) on both sides, with EINPROGRESS during another
    /// request, and with EAGAIN while a stream has unsent messages.
    pub fn reset_streams(&self, direction: ResetDirection, streams: &[u16]) -> io::Result<()> {
        let flags = match direction {
            ResetDirection::Inbound => SCTP_STREAM_RESET_INCOMING,
            ResetDirection::Outbound => SCTP_STREAM_RESET_OUTGOING,
            ResetDirection::Both => SCTP_STREAM_RESET_INCOMING | SCTP_STREAM_RESET_OUTGOING,
        };
        let count = u16::try_from(streams.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // struct sctp_reset_streams { i32 assoc_id; u16 flags, number_streams, stream_list[]; }
        let mut value = self.id().to_ne_bytes().to_vec();
        value.extend(flags.to_ne_bytes());
        value.extend(count.to_ne_bytes());
        value.extend(streams.iter().flat_map(|stream| stream.to_ne_bytes()));
        set_bytes(self.fd, SCTP_RESET_STREAMS, &value)
    }

    /// Resets all streams and the transmission sequence numbers (SCTP_RESET_ASSOC, RFC 6525 §6.3.3). Fails on Linux
    /// with EBUSY while sent data is not acknowledged; otherwise with the errors of
    /// [`reset_streams`](Self::reset_streams).
    pub fn reset_association(&self) -> io::Result<()> {
        self.set(SCTP_RESET_ASSOC, &self.id())
    }

    /// Requests more streams (SCTP_ADD_STREAMS, RFC 6525 §6.3.4).
    /// [`Notification::StreamsAdded`](crate::sctp::Notification) reports the outcome. Fails with the errors of
    /// [`reset_streams`](Self::reset_streams).
    pub fn add_streams(&self, inbound: u16, outbound: u16) -> io::Result<()> {
        let value =
            sctp_add_streams { sas_assoc_id: self.id(), sas_instrms: inbound, sas_outstrms: outbound };
        self.set(SCTP_ADD_STREAMS, &value)
    }

    /// Returns whether long messages of different streams may be interleaved on the wire (SCTP_INTERLEAVING_SUPPORTED,
    /// RFC 8260 §4.3.1); for an association, whether they are.
    pub fn interleaving_supported(&self) -> io::Result<bool> {
        self.get_value(SCTP_INTERLEAVING_SUPPORTED).map(|value| value != 0)
    }

    /// Sets the value of [`interleaving_supported`](Self::interleaving_supported) for future associations. Fails with
    /// EPERM unless the sysctl net.sctp.intl_enable is on and
    /// [`set_fragment_interleave`](Self::set_fragment_interleave) is not `None`.
    pub fn set_interleaving_supported(&self, on: bool) -> io::Result<()> {
        self.set_value(SCTP_INTERLEAVING_SUPPORTED, on.into())
    }

    /// Returns the stream scheduler (SCTP_STREAM_SCHEDULER, RFC 8260 §4.3.2).
    pub fn stream_scheduler(&self) -> io::Result<StreamScheduler> {
        Ok(match self.get_value(SCTP_STREAM_SCHEDULER)? {
            0 => StreamScheduler::FirstComeFirstServed,
            1 => StreamScheduler::Priority,
            2 => StreamScheduler::RoundRobin,
            3 => StreamScheduler::FairCapacity,
            4 => StreamScheduler::WeightedFair,
            other => StreamScheduler::Other(other),
        })
    }

    /// Sets the value of [`stream_scheduler`](Self::stream_scheduler).
    pub fn set_stream_scheduler(&self, scheduler: StreamScheduler) -> io::Result<()> {
        let number = match scheduler {
            StreamScheduler::FirstComeFirstServed => 0,
            StreamScheduler::Priority => 1,
            StreamScheduler::RoundRobin => 2,
            StreamScheduler::FairCapacity => 3,
            StreamScheduler::WeightedFair => 4,
            StreamScheduler::Other(number) => number,
        };
        self.set_value(SCTP_STREAM_SCHEDULER, number)
    }

    /// Returns the scheduler's value of a stream, such as its priority (SCTP_STREAM_SCHEDULER_VALUE, RFC 8260 §4.3.3).
    pub fn stream_scheduler_value(&self, stream: u16) -> io::Result<u16> {
        let question = sctp_stream_value { assoc_id: self.id(), stream_id: stream, stream_value: 0 };
        self.get(SCTP_STREAM_SCHEDULER_VALUE, question).map(|answer| answer.stream_value)
    }

    /// Sets the value of [`stream_scheduler_value`](Self::stream_scheduler_value). Fails with EINVAL if the scheduler
    /// has no such value.
    pub fn set_stream_scheduler_value(&self, stream: u16, value: u16) -> io::Result<()> {
        let value = sctp_stream_value { assoc_id: self.id(), stream_id: stream, stream_value: value };
        self.set(SCTP_STREAM_SCHEDULER_VALUE, &value)
    }
}
