//! Datagrams in memory, which OpenSSL's DTLS handshake reads and writes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use super::hello::Record;
use super::takeover::NextRecord;
use crate::protocol::alert::Alert;

/// Both directions. Called from C, so it must obey this contract: a read returns one datagram or WouldBlock, and a
/// write takes one datagram.
#[derive(Default)]
pub(super) struct Datagrams {
    /// The datagram to read next.
    incoming: Vec<u8>,
    /// Datagrams that OpenSSL wrote in the current step.
    step: Vec<Vec<u8>>,
    /// Datagrams to send.
    pub(super) outgoing: VecDeque<Box<[u8]>>,
    /// Datagrams written since the last one was fed.
    flight: Vec<Box<[u8]>>,
    fresh: bool,
    /// The total number of datagrams written.
    pub(super) written: u64,
    /// The numbers after the last record that was written in epoch 1; `None` before the first.
    pub(super) next_record: Option<NextRecord>,
    /// The number of the next unencrypted record.
    next_in_clear: u64,
}

impl Datagrams {
    /// Exchanges the datagram to read for `datagram`, so that its memory is reused instead of copied.
    pub(super) fn swap(&mut self, datagram: &mut Vec<u8>) {
        std::mem::swap(&mut self.incoming, datagram);
        self.fresh = true;
    }

    /// Takes the datagrams that OpenSSL wrote in its last step.
    pub(super) fn take_step(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.step)
    }

    /// Queues a datagram of our flight.
    pub(super) fn send(&mut self, datagram: &[u8]) {
        if std::mem::take(&mut self.fresh) {
            self.flight.clear();
        }
        self.flight.push(datagram.into());
        self.outgoing.push_back(datagram.into());
    }

    /// Takes the datagrams of our last flight.
    pub(super) fn take_flight(&mut self) -> Vec<Box<[u8]>> {
        std::mem::take(&mut self.flight)
    }

    /// Queues the last flight again, byte for byte.
    pub(super) fn repeat(&mut self) {
        self.outgoing.extend(self.flight.iter().cloned());
    }

    /// Queues an unencrypted fatal alert. After a ChangeCipherSpec the peer would not accept one.
    pub(super) fn push_alert(&mut self, alert: Alert) {
        if self.next_record.is_none() {
            self.outgoing.push_back(alert.in_clear(self.next_in_clear).as_slice().into());
            self.next_in_clear += 1;
        }
    }

    /// Notes the numbers of the records that OpenSSL writes; our own records continue from there.
    fn note_numbers(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while let Ok((record, behind)) = Record::split(rest) {
            if record.epoch == 0 {
                self.next_in_clear = record.sequence + 1;
            } else {
                self.next_record = Some(NextRecord::after(&record));
            }
            rest = behind;
        }
    }
}

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // An empty datagram is never fed, because it would look like the end of a stream.
        if self.incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = self.incoming.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.incoming[..len]);
        self.incoming.clear();
        Ok(len)
    }
}

impl Write for Datagrams {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.step.push(datagram.to_vec());
        self.written += 1;
        self.note_numbers(datagram);
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
