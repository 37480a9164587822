//! The echo server's handler, which sends every message back; on SCTP it uses the stream that the message came
//! on.

use std::net::SocketAddr;

use peeloff::{
    Error, HandlerError, Message, Peer, PeerEvents, PeerHandler, Scheme, Sender, Server, ServerBuilder,
    StartError,
};

use crate::serving::Serve;

/// Starts an echo server with threads or event loops.
///
/// # Errors
///
/// The same as those of [`ServerBuilder::start`].
pub fn start(builder: ServerBuilder, serve: Serve) -> Result<Server, StartError> {
    match serve {
        Serve::Threads => builder.start(Echo),
        Serve::Loops => builder.start_events(Echo),
    }
}

/// Sends every message back to its sender. As a handler it waits until the peer accepts the echo; as callbacks it
/// leaves echoes in the peer's outbox.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl PeerHandler for Echo {
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        let mut message = Vec::new();
        // A message that is too long is an error too. Its sender waits for an echo, and the abort or reset tells
        // it that there will be none.
        while peer.recv_into(&mut message)?.is_some() {
            may_be_lost(peer.reply(&message), peer.scheme(), peer.peer_address())?;
        }
        Ok(())
    }
}

impl PeerEvents for Echo {
    type State = ();

    fn open(&self, _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn save(&self, (): &(), _: &Sender) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn restore(&self, _: &[u8], _: &Sender) -> Result<(), HandlerError> {
        Ok(())
    }

    fn message(&self, (): &mut (), peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        let sent = match peer.send_with(&message, &message.reply()) {
            // The outbox is full, and its policy is to keep the queued messages.
            Err(Error::SendBufferFull) => Ok(()),
            sent => sent,
        };
        Ok(may_be_lost(sent, peer.scheme(), peer.peer_address())?)
    }
}

/// Over UDP and DTLS an echo that cannot be sent is dropped, because any datagram can be lost. The other
/// transports guarantee delivery, so a peer that does not accept its echo is disconnected.
fn may_be_lost(sent: Result<(), Error>, scheme: Scheme, peer: SocketAddr) -> Result<(), Error> {
    match sent {
        Err(error) if !error.is_fatal() && !scheme.is_reliable() => {
            tracing::debug!(%peer, %error, "message not echoed");
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use peeloff::testing::Pair;
    use peeloff::{Callbacks, EndReason, Framing, TcpSettings};

    use super::*;

    #[test]
    fn every_message_comes_back() {
        for &scheme in Scheme::ALL {
            let prefixed = TcpSettings::default().framing(Framing::LengthPrefixed);
            let pair = || Pair::new(scheme).tcp(prefixed.clone());
            for remote in [pair().serve(Echo), pair().serve(Callbacks::new(Echo))] {
                for size in [1, 3000, 16_384] {
                    let message = vec![size as u8; size];
                    remote.send(&message);
                    assert!(remote.recv() == Some(message), "{scheme}: {size}");
                }
            }
        }
    }

    #[test]
    fn an_echo_without_room_is_lost_or_ends_the_peer_by_what_the_transport_promises() {
        for &scheme in Scheme::ALL {
            let settings = TcpSettings::default().max_pending(0);
            let remote = Pair::new(scheme).tcp(settings).serve(Echo);
            remote.set_room(0);
            for _ in 0..2 {
                remote.send("no room");
                remote.elapse(peeloff::Timeouts::default().send);
            }
            remote.close();
            let expected = match scheme {
                Scheme::Udp => EndReason::Idle,
                Scheme::Dtls => EndReason::ClosedByPeer,
                _ => EndReason::TooSlow,
            };
            assert_eq!(remote.wait_for_end(), Some(expected), "{scheme}");
            assert_eq!(remote.recv(), None);
        }
    }

    #[test]
    fn a_message_that_is_too_long_ends_the_peer() {
        let lines = TcpSettings::default().framing(Framing::Lines).max_message(8);
        let remote = Pair::new(Scheme::Tcp).tcp(lines).serve(Echo);
        remote.send("fits");
        remote.send("does not fit");
        assert_eq!(remote.recv().unwrap(), b"fits");
        assert_eq!(remote.wait_for_end(), Some(EndReason::MessageRefused { limit: 8 }));
    }
}
