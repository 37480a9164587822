//! A connected UDP socket under a session: plain sends, and the `Read + Write` that OpenSSL's
//! handshake records go through.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::Socket;

use super::Sent;
use super::dtls::NextRecord;
use crate::protocol::alert::Alert;
use crate::protocol::dtls::hello::Record;
use crate::sys::errno::{is_icmp, is_memory};
use crate::sys::message;

/// Sends one datagram; never blocks. A pending ICMP error is reported by the kernel *instead* of
/// sending, so the call is made again behind it.
pub(crate) fn send(socket: &Socket, datagram: &[u8]) -> Sent {
    let mut attempts = 0;
    loop {
        let Err(error) = message::send(socket.as_fd(), datagram) else { return Sent::Done };
        attempts += 1;
        match error.kind() {
            io::ErrorKind::WouldBlock => return Sent::Full,
            io::ErrorKind::Interrupted => {}
            _ if is_memory(&error) => return Sent::Full,
            // EMSGSIZE is an ICMP report once, and this datagram's own size twice.
            _ if is_icmp(&error) && attempts < 3 => {}
            _ if error.raw_os_error() == Some(libc::EMSGSIZE) => return Sent::TooLarge,
            // Nobody there, no route, forbidden by a firewall: as good as lost on the way.
            _ if is_icmp(&error) => return Sent::Done,
            _ => return Sent::Broken(error.to_string()),
        }
    }
}

/// What OpenSSL reads from and writes to. Trusted code (it is called from C): a read gives one
/// datagram or WouldBlock, a write takes one datagram and always claims success, because a DTLS
/// record that is not sent is a record lost on the way, and a parked one is CVE-2026-84782.
pub(crate) struct DatagramIo {
    socket: Arc<Socket>,
    /// The datagram to read next.
    incoming: Vec<u8>,
    /// Datagrams written since the last one was fed.
    flight: Vec<Box<[u8]>>,
    fresh: bool,
    /// Datagrams written in all.
    pub(super) written: u64,
    /// What follows the last record that was written in epoch 1; `None` while there is none.
    pub(super) next_record: Option<NextRecord>,
    /// The number of the next record in clear.
    next_in_clear: u64,
}

impl DatagramIo {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            incoming: Vec::new(),
            flight: Vec::new(),
            fresh: false,
            written: 0,
            next_record: None,
            next_in_clear: 0,
        }
    }

    /// Exchanges the datagram to be read with `datagram`, so that its memory goes back and forth
    /// instead of being copied. Call it a second time after the read.
    pub(super) fn swap(&mut self, datagram: &mut Vec<u8>) {
        std::mem::swap(&mut self.incoming, datagram);
        self.fresh = true;
    }

    /// Gives out the socket and the datagrams of our last flight.
    pub(super) fn take_flight(&mut self) -> (Arc<Socket>, Vec<Box<[u8]>>) {
        (Arc::clone(&self.socket), std::mem::take(&mut self.flight))
    }

    /// Notes the numbers of the records that OpenSSL writes: ours go on from there.
    fn note_numbers(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while let Ok((record, behind)) = Record::split(rest) {
            if record.epoch == 0 {
                self.next_in_clear = record.sequence + 1;
            } else {
                let explicit = record.body.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                self.next_record =
                    Some(NextRecord { sequence: record.sequence + 1, nonce: explicit.wrapping_add(1) });
            }
            rest = behind;
        }
    }

    /// Sends a datagram that is not OpenSSL's.
    pub(super) fn send(&self, datagram: &[u8]) {
        let _ = send(&self.socket, datagram);
    }

    /// Sends a fatal alert in clear. After a ChangeCipherSpec the peer would take none.
    pub(super) fn send_alert(&mut self, alert: Alert) {
        if self.next_record.is_none() {
            self.send(&alert.in_clear(self.next_in_clear));
            self.next_in_clear += 1;
        }
    }

    /// Sends the last flight again, byte for byte.
    pub(super) fn resend(&self) {
        for datagram in &self.flight {
            let _ = send(&self.socket, datagram);
        }
    }
}

impl Read for DatagramIo {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // An empty datagram is never fed: it would look like the end of a stream.
        if self.incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = self.incoming.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.incoming[..len]);
        self.incoming.clear();
        Ok(len)
    }
}

impl Write for DatagramIo {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.fresh) {
            self.flight.clear();
        }
        self.flight.push(datagram.into());
        self.written += 1;
        self.note_numbers(datagram);
        let _ = send(&self.socket, datagram);
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
