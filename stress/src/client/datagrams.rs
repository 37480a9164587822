//! What OpenSSL reads and writes on UDP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::UdpSocket;

/// A connected UDP socket below a client's DTLS.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) socket: UdpSocket,
    /// Whether a timer ran out and nothing has come since: what is written then goes out again.
    pub(super) late: bool,
    /// Datagrams sent again.
    pub(super) again: u64,
    /// Whether anything came since this was cleared.
    pub(super) came: bool,
}

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.recv(buffer) {
                // An empty one would look like the end.
                Ok(0) => {}
                Ok(len) => {
                    (self.late, self.came) = (false, true);
                    return Ok(len);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Write for Datagrams {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.again += u64::from(self.late);
        match self.socket.send(datagram) {
            // It is UDP: what is lost is sent again by whoever misses it.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(datagram.len())
            }
            outcome => outcome,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
