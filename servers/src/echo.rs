//! The handler that sends every message back, on SCTP on the stream that it came on.

use peeloff::{Error, Peer, PeerHandler};

/// Sends every message back to whoever sent it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl PeerHandler for Echo {
    fn handle(&self, peer: &mut Peer) -> Result<(), Error> {
        // Most messages fit one packet of an Ethernet; the buffer grows for peers that send longer
        // ones.
        let mut buffer = vec![0; 2048];
        loop {
            match peer.recv(&mut buffer) {
                Ok(Some(length)) => send_back(peer, &buffer[..length])?,
                Ok(None) => return Ok(()),
                Err(Error::BufferTooSmall { needed }) => buffer.resize(needed, 0),
                // A message that is too long is one of these: its sender waits for an echo, and learns by an abort or a
                // reset that none will come.
                Err(error) => return Err(error),
            }
        }
    }
}

/// Over UDP and DTLS an echo that cannot go out is lost, as any datagram may be. The other transports promise that every
/// message arrives, so a peer that does not take its echo is disconnected.
fn send_back(peer: &mut Peer, message: &[u8]) -> Result<(), Error> {
    match peer.reply(message) {
        Err(error) if !error.is_fatal() && !peer.scheme().is_reliable() => {
            tracing::debug!(peer = %peer.peer_address(), %error, "message not echoed");
            Ok(())
        }
        result => result,
    }
}
