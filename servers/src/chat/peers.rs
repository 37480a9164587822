//! The chat as the handler of a server: a peer of any transport is a member.

use std::sync::Arc;
use std::time::Instant;

use peeloff::sctp::SendInfo;
use peeloff::{Error, Peer, PeerHandler, Posted, Scheme, Sender};

use crate::chat::conversation::{Conversation, Flow};
use crate::chat::hub::{Hub, Outlet};
use crate::chat::line::Line;
use crate::chat::proof::{COMMAND, await_proof};

/// Serves the rooms of a [`Hub`] to peers.
pub struct Chat {
    /// The rooms.
    pub hub: Arc<Hub<PeerOutlet>>,
    /// Whether rooms have streams of their own on SCTP.
    pub room_streams: bool,
    /// Stream pairs that have a TLS session on `sctp+tls://`.
    pub tls_streams: u16,
}

/// Reaches a member over its association.
pub struct PeerOutlet(Sender);

impl PeerOutlet {
    /// The association's.
    pub fn sender(&self) -> &Sender {
        &self.0
    }
}

impl Outlet for PeerOutlet {
    fn deliver(&self, line: &Line, stream: u16) {
        let how = SendInfo { stream, ..SendInfo::default() };
        // What is dropped is counted by the framework, and whose association is over leaves by itself.
        if self.0.post_with(line.bytes(), &how) == Posted::Unsendable {
            tracing::debug!(peer = %self.0.peer_address(), stream, "a line cannot be sent");
        }
    }
}

impl PeerHandler for Chat {
    fn handle(&self, peer: &mut Peer) -> Result<(), Error> {
        let Some(said) = await_proof(peer)? else { return Ok(()) };
        let outlet = PeerOutlet(peer.sender());
        let mut conversation = Conversation::begin(&self.hub, outlet, self.streams(peer));
        for message in said {
            if take(&mut conversation, peer, &message) == Flow::Ends {
                return Ok(());
            }
        }
        let mut buffer = vec![0; 2048];
        loop {
            let flow = match peer.recv(&mut buffer) {
                Ok(Some(length)) => take(&mut conversation, peer, &buffer[..length]),
                Ok(None) => {
                    if peer.is_draining() && peer.end_reason().is_none() {
                        conversation.end_of_server();
                    }
                    return Ok(());
                }
                Err(Error::BufferTooSmall { needed }) => {
                    // For this message only: a peer that once sent a long one is as small as others.
                    let mut large = vec![0; needed];
                    match peer.recv(&mut large)? {
                        Some(length) => take(&mut conversation, peer, &large[..length]),
                        None => return Ok(()),
                    }
                }
                Err(Error::MessageRefused { .. }) => {
                    conversation.refuse_long();
                    Flow::GoesOn
                }
                Err(error) => return Err(error),
            };
            if flow == Flow::Ends {
                return Ok(());
            }
        }
    }
}

impl Chat {
    /// How many streams rooms may have with this peer, beside stream 0.
    fn streams(&self, peer: &mut Peer) -> u16 {
        if !self.room_streams {
            return 0;
        }
        let scheme = peer.scheme();
        let Some(sctp) = peer.sctp() else { return 0 };
        let status = sctp.options().ok().and_then(|options| options.status().ok());
        let both = status.map_or(1, |status| status.inbound_streams.min(status.outbound_streams));
        let usable = if scheme == Scheme::SctpTls { both.min(self.tls_streams) } else { both };
        usable.saturating_sub(1)
    }
}

fn take(conversation: &mut Conversation<PeerOutlet>, peer: &Peer, message: &[u8]) -> Flow {
    // The question was asked, and is answered, more than once.
    if peer.scheme() == Scheme::Udp && message.starts_with(COMMAND.as_bytes()) {
        return Flow::GoesOn;
    }
    let stream = peer.message_info().map_or(0, |info| info.stream);
    conversation.take(message, stream, Instant::now())
}
