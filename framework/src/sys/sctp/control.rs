//! SCTP's control messages as plain bytes: metadata of received messages, and options of sent ones (RFC 6458 §5.3).

use std::net::IpAddr;
use std::time::Duration;

use super::abi::*;
use crate::sctp::{AssocId, MessageInfo, NextInfo, Reliability, SendInfo};
use crate::sys::control::{self, HEADER};

/// The content of the control messages of a received message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveInfo {
    /// SCTP_RCVINFO: the metadata of this message, and its association.
    pub message: Option<(MessageInfo, i32)>,
    /// SCTP_NXTINFO: the metadata of the next message.
    pub next: Option<NextInfo>,
}

/// Parses a control buffer. Messages of other kinds, truncated messages and wrong lengths are skipped.
pub fn receive_info(mut control: &[u8]) -> ReceiveInfo {
    let mut info = ReceiveInfo::default();
    while let Some((level, kind, data, rest)) = control::next(control) {
        match (level, kind) {
            (IPPROTO_SCTP, SCTP_RCVINFO) => info.message = rcvinfo(data).or(info.message),
            (IPPROTO_SCTP, SCTP_NXTINFO) => info.next = nxtinfo(data).or(info.next),
            _ => {}
        }
        control = rest;
    }
    info
}

/// Parses `struct sctp_rcvinfo { u16 sid, ssn, flags; u32 ppid, tsn, cumtsn, context; i32 assoc_id; }`, with two bytes
/// of padding after the flags.
fn rcvinfo(data: &[u8]) -> Option<(MessageInfo, i32)> {
    let data: &[u8; 28] = data.first_chunk()?;
    let message = MessageInfo {
        stream: half(data, 0),
        ppid: u32::from_be(word(data, 8)),
        unordered: half(data, 4) & SCTP_UNORDERED != 0,
        ssn: half(data, 2),
        tsn: word(data, 12),
        cumulative_tsn: word(data, 16),
        context: word(data, 20),
    };
    Some((message, word(data, 24).cast_signed()))
}

/// Parses `struct sctp_nxtinfo { u16 sid, flags; u32 ppid, length; i32 assoc_id; }`.
fn nxtinfo(data: &[u8]) -> Option<NextInfo> {
    let data: &[u8; 16] = data.first_chunk()?;
    let flags = half(data, 2);
    Some(NextInfo {
        stream: half(data, 0),
        ppid: u32::from_be(word(data, 4)),
        unordered: flags & SCTP_UNORDERED != 0,
        notification: flags & SCTP_NOTIFICATION != 0,
        len: word(data, 8),
        association: AssocId::from_raw(word(data, 12).cast_signed()),
    })
}

fn half<const N: usize>(data: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes([data[at], data[at + 1]])
}

fn word<const N: usize>(data: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

/// Room for the control messages of one sent message: SNDINFO, PRINFO, AUTHINFO and five addresses.
pub(crate) const SEND_SPACE: usize = 256;

/// Control messages under construction, with the alignment that the kernel requires.
#[repr(C, align(8))]
pub(crate) struct SendControl {
    bytes: [u8; SEND_SPACE],
    len: usize,
}

impl SendControl {
    /// Writes SCTP_SNDINFO and SCTP_PRINFO. The latter is written for a reliable message too, because otherwise Linux
    /// takes the value of the socket's default as the lifetime, regardless of the policy that the value is for.
    pub(crate) fn new(association: i32, info: &SendInfo, flags: u16) -> Self {
        let mut control = Self { bytes: [0; SEND_SPACE], len: 0 };
        let flags = if info.unordered { flags | SCTP_UNORDERED } else { flags };
        let mut data = [0; 16];
        data[..2].copy_from_slice(&info.stream.to_ne_bytes());
        data[2..4].copy_from_slice(&flags.to_ne_bytes());
        data[4..8].copy_from_slice(&info.ppid.to_be_bytes());
        data[8..12].copy_from_slice(&info.context.to_ne_bytes());
        data[12..].copy_from_slice(&association.to_ne_bytes());
        control.push(SCTP_SNDINFO, &data);
        let (policy, value) = policy(info.reliability);
        let mut data = [0; 8];
        data[..2].copy_from_slice(&policy.to_ne_bytes());
        data[4..].copy_from_slice(&value.to_ne_bytes());
        control.push(SCTP_PRINFO, &data);
        control
    }

    /// Writes SCTP_AUTHINFO: the number of the key that authenticates this message.
    pub(crate) fn key(&mut self, number: u16) {
        self.push(SCTP_AUTHINFO, &number.to_ne_bytes());
    }

    /// Writes SCTP_DSTADDRV4 or SCTP_DSTADDRV6: an additional address of a peer that is not associated yet. Returns
    /// whether there was room.
    pub(crate) fn destination(&mut self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.push(SCTP_DSTADDRV4, &v4.octets()),
            IpAddr::V6(v6) => self.push(SCTP_DSTADDRV6, &v6.octets()),
        }
    }

    /// Returns the bytes that have been written.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, kind: i32, data: &[u8]) -> bool {
        let Some(out) = self.bytes.get_mut(self.len..).filter(|out| out.len() >= HEADER + data.len()) else {
            return false;
        };
        self.len += control::write(IPPROTO_SCTP, kind, data, out);
        true
    }
}

/// Returns the policy and the value for `reliability`. A lifetime is rounded up to whole milliseconds and is never 0,
/// which would mean no limit.
pub(crate) fn policy(reliability: Reliability) -> (u16, u32) {
    match reliability {
        Reliability::Reliable => (SCTP_PR_SCTP_NONE, 0),
        Reliability::Lifetime(time) => (SCTP_PR_SCTP_TTL, milliseconds(time).max(1)),
        Reliability::Retransmissions(count) => (SCTP_PR_SCTP_RTX, count),
        Reliability::Priority(priority) => (SCTP_PR_SCTP_PRIO, priority),
    }
}

/// Returns whole milliseconds, rounded up so that a positive time is never 0.
pub(crate) fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn messages(mut control: &[u8]) -> Vec<(i32, i32, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some((level, kind, data, rest)) = control::next(control) {
            all.push((level, kind, data.to_vec()));
            control = rest;
        }
        all
    }

    fn message(kind: i32, data: &[u8]) -> Vec<u8> {
        let mut out = [0; 64];
        let len = control::write(IPPROTO_SCTP, kind, data, &mut out);
        out[..len].to_vec()
    }

    fn rcvinfo_bytes() -> Vec<u8> {
        let halves = [5_u16, 7, SCTP_UNORDERED, 0].map(u16::to_ne_bytes).concat();
        let words = [46_u32.to_be_bytes(), 100_u32.to_ne_bytes(), 99_u32.to_ne_bytes(), 3_u32.to_ne_bytes()];
        [halves, words.concat(), 12_i32.to_ne_bytes().to_vec()].concat()
    }

    fn nxtinfo_bytes() -> Vec<u8> {
        let halves = [6_u16, SCTP_NOTIFICATION].map(u16::to_ne_bytes).concat();
        [halves, 47_u32.to_be_bytes().to_vec(), 1000_u32.to_ne_bytes().to_vec(), vec![9, 0, 0, 0]].concat()
    }

    #[test]
    fn receive_information_is_read_field_by_field() {
        let control =
            [message(SCTP_NXTINFO, &nxtinfo_bytes()), message(SCTP_RCVINFO, &rcvinfo_bytes())].concat();
        let info = receive_info(&control);
        let message = MessageInfo {
            stream: 5,
            ppid: 46,
            unordered: true,
            ssn: 7,
            tsn: 100,
            cumulative_tsn: 99,
            context: 3,
        };
        assert_eq!(info.message, Some((message, 12)));
        let next = info.next.unwrap();
        assert_eq!((next.stream, next.ppid, next.len), (6, 47, 1000));
        assert!(next.notification && !next.unordered);
    }

    #[test]
    fn a_truncated_message_tells_nothing() {
        for whole in [message(SCTP_RCVINFO, &rcvinfo_bytes()), message(SCTP_NXTINFO, &nxtinfo_bytes())] {
            let len = usize::from_ne_bytes(*whole.first_chunk().unwrap());
            for cut in 0..len {
                assert_eq!(receive_info(&whole[..cut]), ReceiveInfo::default(), "cut at {cut}");
            }
            for short in 0..len - HEADER {
                let mut lie = whole.clone();
                lie[..8].copy_from_slice(&(HEADER + short).to_ne_bytes());
                assert_eq!(receive_info(&lie), ReceiveInfo::default(), "data of {short}");
            }
        }
    }

    #[test]
    fn control_messages_have_the_layout_that_the_kernel_reads() {
        let info = SendInfo {
            stream: 5,
            ppid: 46,
            unordered: true,
            reliability: Reliability::Lifetime(Duration::from_micros(1500)),
            context: 3,
        };
        let mut control = SendControl::new(12, &info, SCTP_EOF);
        control.key(9);
        assert!(control.destination([127, 0, 0, 2].into()));
        let sndinfo = [
            [5_u16, SCTP_UNORDERED | SCTP_EOF].map(u16::to_ne_bytes).concat(),
            46_u32.to_be_bytes().to_vec(),
            [3_u32, 12].map(u32::to_ne_bytes).concat(),
        ];
        let prinfo = [[SCTP_PR_SCTP_TTL, 0].map(u16::to_ne_bytes).concat(), 2_u32.to_ne_bytes().to_vec()];
        assert_eq!(
            messages(control.as_bytes()),
            [
                (IPPROTO_SCTP, SCTP_SNDINFO, sndinfo.concat()),
                (IPPROTO_SCTP, SCTP_PRINFO, prinfo.concat()),
                (IPPROTO_SCTP, SCTP_AUTHINFO, 9_u16.to_ne_bytes().to_vec()),
                (IPPROTO_SCTP, SCTP_DSTADDRV4, vec![127, 0, 0, 2]),
            ]
        );
    }

    #[test]
    fn there_is_room_for_five_more_addresses_and_no_overflow() {
        let mut control = SendControl::new(0, &SendInfo::default(), 0);
        control.key(1);
        let room = (0..100).take_while(|_| control.destination([0; 16].into())).count();
        assert_eq!(room, 5);
        assert!(control.as_bytes().len() <= SEND_SPACE);
    }
}
