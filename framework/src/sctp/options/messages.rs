//! Options for sending, fragmentation, acknowledgement and delivery of messages.

use std::io;
use std::time::Duration;

use super::{Options, from_milliseconds, nonzero, nonzero_milliseconds};
use crate::sctp::{Reliability, SendInfo};
use crate::sys::sctp::abi::*;
use crate::sys::sctp::control::policy;

/// Which messages may be delivered in interleaved parts (SCTP_FRAGMENT_INTERLEAVE, RFC 6458 §8.1.20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FragmentInterleave {
    /// No messages: after one part of a message the rest of it follows.
    None,
    /// Messages of different associations.
    Associations,
    /// Messages of different streams too. Linux does not support this level and returns `Associations`; use
    /// [`set_interleaving_supported`](Options::set_interleaving_supported) there.
    Streams,
}

/// Delay of acknowledgements (SCTP_DELAYED_SACK, RFC 6458 §8.1.19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DelayedSack {
    /// Acknowledgements are not delayed.
    Off,
    /// An acknowledgement is delayed until one of two limits is reached.
    Until {
        /// The delay, at most 500 ms.
        delay: Duration,
        /// The number of packets, at least 2.
        packets: u32,
    },
}

/// A policy of partial reliability, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// [`Reliability::Lifetime`]
    Lifetime,
    /// [`Reliability::Retransmissions`]
    Retransmissions,
    /// [`Reliability::Priority`]
    Priority,
    /// All three policies together.
    All,
}

/// Counts of abandoned messages (RFC 7496 §4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PrStatus {
    /// Messages abandoned before any part was transmitted.
    pub unsent: u64,
    /// Messages abandoned after a transmission.
    pub sent: u64,
}

/// # Messages
impl Options<'_> {
    /// Returns whether small messages are sent at once (SCTP_NODELAY, RFC 6458 §8.1.5).
    pub fn nodelay(&self) -> io::Result<bool> {
        self.get_flag(SCTP_NODELAY)
    }

    /// Sets the value of [`nodelay`](Self::nodelay).
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.set_flag(SCTP_NODELAY, on)
    }

    /// Returns whether a message longer than a packet is refused (EMSGSIZE) instead of fragmented
    /// (SCTP_DISABLE_FRAGMENTS, RFC 6458 §8.1.11).
    pub fn disable_fragments(&self) -> io::Result<bool> {
        self.get_flag(SCTP_DISABLE_FRAGMENTS)
    }

    /// Sets the value of [`disable_fragments`](Self::disable_fragments).
    pub fn set_disable_fragments(&self, on: bool) -> io::Result<()> {
        self.set_flag(SCTP_DISABLE_FRAGMENTS, on)
    }

    /// Returns which messages may be delivered in interleaved parts (SCTP_FRAGMENT_INTERLEAVE, RFC 6458 §8.1.20).
    pub fn fragment_interleave(&self) -> io::Result<FragmentInterleave> {
        Ok(match self.get_number(SCTP_FRAGMENT_INTERLEAVE)? {
            0 => FragmentInterleave::None,
            1 => FragmentInterleave::Associations,
            _ => FragmentInterleave::Streams,
        })
    }

    /// Sets the value of [`fragment_interleave`](Self::fragment_interleave).
    pub fn set_fragment_interleave(&self, level: FragmentInterleave) -> io::Result<()> {
        let level: u32 = match level {
            FragmentInterleave::None => 0,
            FragmentInterleave::Associations => 1,
            FragmentInterleave::Streams => 2,
        };
        self.set(SCTP_FRAGMENT_INTERLEAVE, &level)
    }

    /// Returns the number of bytes from which on a message is delivered before it is complete
    /// (SCTP_PARTIAL_DELIVERY_POINT, RFC 6458 §8.1.21); `None`: only when the receive buffer is full.
    pub fn partial_delivery_point(&self) -> io::Result<Option<u32>> {
        let bytes = self.get_number(SCTP_PARTIAL_DELIVERY_POINT)?;
        Ok((bytes != 0).then_some(bytes))
    }

    /// Sets the value of [`partial_delivery_point`](Self::partial_delivery_point). Fails with EINVAL for more than half
    /// of the receive buffer.
    pub fn set_partial_delivery_point(&self, bytes: Option<u32>) -> io::Result<()> {
        self.set(SCTP_PARTIAL_DELIVERY_POINT, &bytes.map_or(Ok(0), nonzero)?)
    }

    /// Returns the maximum number of bytes of a message in one chunk (SCTP_MAXSEG, RFC 6458 §8.1.16); `None`: as many
    /// as the path MTU allows.
    pub fn max_segment(&self) -> io::Result<Option<u32>> {
        let bytes = self.get_value(SCTP_MAXSEG)?;
        Ok((bytes != 0).then_some(bytes))
    }

    /// Sets the value of [`max_segment`](Self::max_segment).
    pub fn set_max_segment(&self, bytes: Option<u32>) -> io::Result<()> {
        self.set_value(SCTP_MAXSEG, bytes.map_or(Ok(0), nonzero)?)
    }

    /// Returns the options for messages that are sent with plain write(2) and send(2) (SCTP_DEFAULT_SNDINFO, RFC 6458
    /// §8.1.31, and SCTP_DEFAULT_PRINFO). [`Socket::send`](crate::sctp::Socket::send) and its variants always pass
    /// their own.
    pub fn default_send_info(&self) -> io::Result<SendInfo> {
        let question =
            sctp_sndinfo { snd_sid: 0, snd_flags: 0, snd_ppid: 0, snd_context: 0, snd_assoc_id: self.id() };
        let answer = self.get(SCTP_DEFAULT_SNDINFO, question)?;
        Ok(SendInfo {
            stream: answer.snd_sid,
            ppid: u32::from_be(answer.snd_ppid),
            unordered: answer.snd_flags & SCTP_UNORDERED != 0,
            reliability: self.default_reliability()?,
            context: answer.snd_context,
        })
    }

    /// Sets the value of [`default_send_info`](Self::default_send_info). Sets both options, because on Linux the first
    /// resets the policy of the second.
    pub fn set_default_send_info(&self, info: &SendInfo) -> io::Result<()> {
        let value = sctp_sndinfo {
            snd_sid: info.stream,
            snd_flags: if info.unordered { SCTP_UNORDERED } else { 0 },
            snd_ppid: info.ppid.to_be(),
            snd_context: info.context,
            snd_assoc_id: self.id(),
        };
        self.set(SCTP_DEFAULT_SNDINFO, &value)?;
        self.set_default_reliability(info.reliability)
    }

    /// Returns the reliability of messages that are sent with plain write(2) and send(2) (SCTP_DEFAULT_PRINFO, RFC 6458
    /// §8.1.32).
    pub fn default_reliability(&self) -> io::Result<Reliability> {
        let question = sctp_default_prinfo { pr_assoc_id: self.id(), pr_value: 0, pr_policy: 0 };
        let answer = self.get(SCTP_DEFAULT_PRINFO, question)?;
        Ok(match answer.pr_policy {
            SCTP_PR_SCTP_TTL => Reliability::Lifetime(from_milliseconds(answer.pr_value)),
            SCTP_PR_SCTP_RTX => Reliability::Retransmissions(answer.pr_value),
            SCTP_PR_SCTP_PRIO => Reliability::Priority(answer.pr_value),
            _ => Reliability::Reliable,
        })
    }

    /// Sets the value of [`default_reliability`](Self::default_reliability).
    pub fn set_default_reliability(&self, reliability: Reliability) -> io::Result<()> {
        let (pr_policy, pr_value) = policy(reliability);
        self.set(SCTP_DEFAULT_PRINFO, &sctp_default_prinfo { pr_assoc_id: self.id(), pr_value, pr_policy })
    }

    /// Returns whether messages may be abandoned (SCTP_PR_SUPPORTED, RFC 7496 §4.5); for an association, whether the
    /// peer supports that too.
    pub fn partial_reliability_supported(&self) -> io::Result<bool> {
        self.get_value(SCTP_PR_SUPPORTED).map(|value| value != 0)
    }

    /// Sets the value of [`partial_reliability_supported`](Self::partial_reliability_supported) for future
    /// associations.
    pub fn set_partial_reliability_supported(&self, on: bool) -> io::Result<()> {
        self.set_value(SCTP_PR_SUPPORTED, on.into())
    }

    /// Returns the counts of abandoned messages of an association (SCTP_PR_ASSOC_STATUS, RFC 7496 §4.4).
    pub fn pr_association_status(&self, policy: Policy) -> io::Result<PrStatus> {
        self.pr_status(SCTP_PR_ASSOC_STATUS, 0, policy)
    }

    /// Returns the counts of abandoned messages of a stream (SCTP_PR_STREAM_STATUS, RFC 7496 §4.3).
    pub fn pr_stream_status(&self, stream: u16, policy: Policy) -> io::Result<PrStatus> {
        self.pr_status(SCTP_PR_STREAM_STATUS, stream, policy)
    }

    fn pr_status(&self, name: i32, stream: u16, policy: Policy) -> io::Result<PrStatus> {
        let question = sctp_prstatus {
            sprstat_assoc_id: self.id(),
            sprstat_sid: stream,
            sprstat_policy: match policy {
                Policy::Lifetime => SCTP_PR_SCTP_TTL,
                Policy::Retransmissions => SCTP_PR_SCTP_RTX,
                Policy::Priority => SCTP_PR_SCTP_PRIO,
                Policy::All => SCTP_PR_SCTP_ALL,
            },
            sprstat_abandoned_unsent: 0,
            sprstat_abandoned_sent: 0,
        };
        let answer = self.get(name, question)?;
        Ok(PrStatus { unsent: answer.sprstat_abandoned_unsent, sent: answer.sprstat_abandoned_sent })
    }

    /// Returns whether messages come with a [`MessageInfo`](crate::sctp::MessageInfo) and their association
    /// (SCTP_RECVRCVINFO, RFC 6458 §8.1.29).
    pub fn receive_message_info(&self) -> io::Result<bool> {
        self.get_flag(SCTP_RECVRCVINFO)
    }

    /// Sets the value of [`receive_message_info`](Self::receive_message_info). It is on by default for a
    /// [`Socket`](crate::sctp::Socket).
    pub fn set_receive_message_info(&self, on: bool) -> io::Result<()> {
        self.set_flag(SCTP_RECVRCVINFO, on)
    }

    /// Returns whether messages come with a [`NextInfo`](crate::sctp::NextInfo) if a further message has already
    /// arrived (SCTP_RECVNXTINFO, RFC 6458 §8.1.30).
    pub fn receive_next_info(&self) -> io::Result<bool> {
        self.get_flag(SCTP_RECVNXTINFO)
    }

    /// Sets the value of [`receive_next_info`](Self::receive_next_info).
    pub fn set_receive_next_info(&self, on: bool) -> io::Result<()> {
        self.set_flag(SCTP_RECVNXTINFO, on)
    }

    /// Returns the value of [`MessageInfo::context`](crate::sctp::MessageInfo::context) for received messages
    /// (SCTP_CONTEXT, RFC 6458 §8.1.25).
    pub fn context(&self) -> io::Result<u32> {
        self.get_value(SCTP_CONTEXT)
    }

    /// Sets the value of [`context`](Self::context).
    pub fn set_context(&self, context: u32) -> io::Result<()> {
        self.set_value(SCTP_CONTEXT, context)
    }

    /// Returns the delay of acknowledgements (SCTP_DELAYED_SACK, RFC 6458 §8.1.19).
    pub fn delayed_sack(&self) -> io::Result<DelayedSack> {
        let question = sctp_sack_info { sack_assoc_id: self.id(), sack_delay: 0, sack_freq: 0 };
        let answer = self.get(SCTP_DELAYED_SACK, question)?;
        Ok(match (answer.sack_delay, answer.sack_freq) {
            (0, _) | (_, 1) => DelayedSack::Off,
            (delay, packets) => DelayedSack::Until { delay: from_milliseconds(delay), packets },
        })
    }

    /// Sets the value of [`delayed_sack`](Self::delayed_sack).
    pub fn set_delayed_sack(&self, sack: DelayedSack) -> io::Result<()> {
        let (sack_delay, sack_freq) = match sack {
            DelayedSack::Off => (0, 1),
            DelayedSack::Until { packets: 1, .. } => return Err(io::ErrorKind::InvalidInput.into()),
            DelayedSack::Until { delay, packets } => (nonzero_milliseconds(delay)?, nonzero(packets)?),
        };
        self.set(SCTP_DELAYED_SACK, &sctp_sack_info { sack_assoc_id: self.id(), sack_delay, sack_freq })
    }

    /// Returns the maximum number of packets in one burst (SCTP_MAX_BURST, RFC 6458 §8.1.24); `None`: no limit.
    pub fn max_burst(&self) -> io::Result<Option<u32>> {
        let packets = self.get_value(SCTP_MAX_BURST)?;
        Ok((packets != 0).then_some(packets))
    }

    /// Sets the value of [`max_burst`](Self::max_burst).
    pub fn set_max_burst(&self, packets: Option<u32>) -> io::Result<()> {
        self.set_value(SCTP_MAX_BURST, packets.map_or(Ok(0), nonzero)?)
    }

    /// Returns whether routers may mark packets instead of dropping them (SCTP_ECN_SUPPORTED, RFC 3168).
    pub fn ecn_supported(&self) -> io::Result<bool> {
        self.get_value(SCTP_ECN_SUPPORTED).map(|value| value != 0)
    }

    /// Sets the value of [`ecn_supported`](Self::ecn_supported) for future associations.
    pub fn set_ecn_supported(&self, on: bool) -> io::Result<()> {
        self.set_value(SCTP_ECN_SUPPORTED, on.into())
    }
}
