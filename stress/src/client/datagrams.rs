//! What OpenSSL reads and writes on UDP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::UdpSocket;

/// A connected UDP socket below a client's DTLS. It keeps the flight that was sent last, for OpenSSL would send it again before
/// it looks whether the answer is there: a client whose thread was busy with others would say again what nobody missed.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    flight: Vec<Box<[u8]>>,
    /// Something came since the last write: the next one begins a flight. What begins none leaves the last one as it is.
    fresh: bool,
    /// Datagrams sent again.
    pub(super) again: u64,
    /// Whether anything came since this was cleared.
    pub(super) came: bool,
    /// The handshake is over, and what is sent is no flight any more.
    pub(super) is_open: bool,
}

impl Datagrams {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, flight: Vec::new(), fresh: false, again: 0, came: false, is_open: false }
    }

    /// Sends the last flight again.
    pub(super) fn resend(&mut self) {
        for datagram in &self.flight {
            // It is UDP: what is lost is sent again by whoever misses it.
            let _ = self.socket.send(datagram);
        }
        self.again += self.flight.len() as u64;
    }
}

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.recv(buffer) {
                // An empty one would look like the end.
                Ok(0) => {}
                Ok(len) => {
                    (self.came, self.fresh) = (true, true);
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
        if !self.is_open {
            if std::mem::take(&mut self.fresh) {
                self.flight.clear();
            }
            self.flight.push(datagram.into());
        }
        match self.socket.send(datagram) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_flight_is_sent_again_until_the_next_begins() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        server.connect(client.local_addr().unwrap()).unwrap();
        server.set_nonblocking(true).unwrap();
        let arrived = || {
            let mut buffer = [0; 8];
            std::iter::from_fn(|| server.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec()))
                .collect::<Vec<_>>()
        };
        let mut datagrams = Datagrams::new(client);
        let answer = |datagrams: &mut Datagrams| {
            server.send(b"answer").unwrap();
            assert_eq!(datagrams.read(&mut [0; 8]).unwrap(), 6);
        };

        datagrams.write_all(b"one").unwrap();
        datagrams.write_all(b"two").unwrap();
        assert_eq!(arrived(), [b"one", b"two"]);
        // What comes and begins no flight, such as something that was said twice.
        answer(&mut datagrams);
        datagrams.resend();
        assert_eq!(arrived(), [b"one", b"two"]);
        datagrams.write_all(b"three").unwrap();
        datagrams.write_all(b"four").unwrap();
        arrived();
        datagrams.resend();
        assert_eq!((arrived(), datagrams.again), (vec![b"three".to_vec(), b"four".to_vec()], 4));
        // A message is no flight.
        datagrams.is_open = true;
        answer(&mut datagrams);
        datagrams.write_all(b"message").unwrap();
        arrived();
        datagrams.resend();
        assert_eq!(arrived(), [&b"three"[..], b"four"]);
    }
}
