//! A connected UDP socket under a session: plain sends, and the `Read + Write` that OpenSSL's
//! records go through.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::Socket;

use super::Sent;
use crate::sys::message;
use crate::transport::udp::{is_icmp, is_memory};

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
    /// What the last writes came to, for the caller to look at and reset.
    pub(super) outcome: Sent,
    /// Datagrams written since the last one was fed, while a handshake runs.
    flight: Option<Vec<Box<[u8]>>>,
    fresh: bool,
    /// Datagrams written in all.
    pub(super) written: u64,
}

impl DatagramIo {
    /// With a flight recorder running.
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            incoming: Vec::new(),
            outcome: Sent::Done,
            flight: Some(Vec::new()),
            fresh: false,
            written: 0,
        }
    }

    /// Exchanges the datagram to be read with `datagram`, so that its memory goes back and forth
    /// instead of being copied. Call it a second time after the read.
    pub(super) fn swap(&mut self, datagram: &mut Vec<u8>) {
        std::mem::swap(&mut self.incoming, datagram);
        self.fresh = true;
    }

    /// The datagrams of our last flight.
    pub(super) fn flight(&self) -> &[Box<[u8]>] {
        self.flight.as_deref().unwrap_or_default()
    }

    /// Ends the recording and gives the last flight out.
    pub(super) fn take_flight(&mut self) -> Vec<Box<[u8]>> {
        self.incoming = Vec::new();
        self.flight.take().unwrap_or_default()
    }

    /// Sends a datagram that is not OpenSSL's.
    pub(super) fn send(&self, datagram: &[u8]) {
        let _ = send(&self.socket, datagram);
    }

    /// Sends the last flight again, byte for byte.
    pub(super) fn resend(&mut self) {
        for datagram in self.flight() {
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
        if let Some(flight) = &mut self.flight {
            if std::mem::take(&mut self.fresh) {
                flight.clear();
            }
            flight.push(datagram.into());
        }
        self.written += 1;
        match send(&self.socket, datagram) {
            Sent::Done => {}
            other => self.outcome = other,
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
