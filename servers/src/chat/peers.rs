//! The chat as callbacks of a server: a peer of any transport is a member.

use std::sync::Arc;

use peeloff::sctp::SendInfo;
use peeloff::{EndReason, HandlerError, Message, PeerEvents, PostOutcome, Scheme, Sender};

use crate::chat::conversation::{Conversation, Flow};
use crate::chat::hub::{Hub, Outlet};
use crate::chat::line::Line;
use crate::chat::proof::{COMMAND, UnverifiedPeer};

/// Serves the rooms of a [`Hub`] to peers.
pub struct Chat {
    /// The rooms.
    pub hub: Arc<Hub<PeerOutlet>>,
    /// Whether each room has an SCTP stream of its own.
    pub room_streams: bool,
    /// The number of stream pairs with a TLS session on `sctp+tls://`.
    pub tls_streams: u16,
}

/// Delivers lines to a member over its association.
pub struct PeerOutlet(Sender);

impl PeerOutlet {
    /// Returns the sender of the association.
    pub fn sender(&self) -> &Sender {
        &self.0
    }
}

impl Outlet for PeerOutlet {
    fn deliver(&self, line: &Line, stream: u16) {
        let how = SendInfo::default().stream(stream);
        // The framework counts dropped lines. A member whose association has ended leaves by itself.
        if self.0.post_with(line.bytes(), &how) == PostOutcome::Unsendable {
            tracing::debug!(peer = %self.0.peer_address(), stream, "a line cannot be sent");
        }
    }
}

/// A member, or a peer on plain UDP that has not proven its address yet.
#[derive(Default)]
pub struct Guest {
    unverified: UnverifiedPeer,
    conversation: Option<Conversation<PeerOutlet>>,
}

impl PeerEvents for Chat {
    type State = Guest;

    fn open(&self, peer: &Sender) -> Result<Guest, HandlerError> {
        let conversation = peer.proof_token().is_none().then(|| self.begin(peer));
        Ok(Guest { conversation, ..Guest::default() })
    }

    fn message(&self, guest: &mut Guest, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        match (&mut guest.conversation, peer.proof_token()) {
            (Some(conversation), _) => {
                take(conversation, peer, message);
            }
            (None, Some(token)) => {
                // If the question is lost, the next message causes the same answer.
                let _ = peer.try_send(guest.unverified.hear(&message, token));
            }
            (None, None) => {
                let conversation = guest.conversation.insert(self.begin(peer));
                let mut said = guest.unverified.said().into_iter();
                // Stop if one of the messages says goodbye.
                said.all(|message| take(conversation, peer, Message::new(&message, None)) == Flow::GoesOn);
            }
        }
        Ok(())
    }

    fn message_refused(&self, guest: &mut Guest, _: &Sender, _: usize) -> Result<(), HandlerError> {
        guest.conversation.iter().for_each(Conversation::refuse_long);
        Ok(())
    }

    fn save(&self, guest: &Guest, peer: &Sender) -> Option<Vec<u8>> {
        Some(match &guest.conversation {
            Some(conversation) => {
                let news = self.hub.hold_news();
                [b"m", news.as_bytes(), b"\n", conversation.save(peer.now()).as_bytes()].concat()
            }
            None => [b"n".to_vec(), guest.unverified.save()].concat(),
        })
    }

    fn restore(&self, saved: &[u8], peer: &Sender) -> Result<Guest, HandlerError> {
        let none = || HandlerError::from("this member cannot go on here");
        match saved.split_first() {
            Some((b'm', saved)) => {
                let (news, saved) = std::str::from_utf8(saved)?.split_once('\n').ok_or_else(none)?;
                self.hub.resume_news(news);
                let outlet = PeerOutlet(peer.clone());
                let conversation =
                    Conversation::resume(&self.hub, outlet, saved, peer.now()).ok_or_else(none)?;
                Ok(Guest { conversation: Some(conversation), ..Guest::default() })
            }
            Some((b'n', saved)) => {
                Ok(Guest { unverified: UnverifiedPeer::resume(saved), conversation: None })
            }
            _ => Err(none()),
        }
    }

    fn close(&self, mut guest: Guest, _: &Sender, reason: EndReason) {
        if reason == EndReason::HandedOver {
            guest.conversation.iter_mut().for_each(Conversation::end_here);
        }
    }

    fn draining(&self, guest: &mut Guest, peer: &Sender) -> Result<(), HandlerError> {
        guest.conversation.iter_mut().for_each(Conversation::end_of_server);
        peer.close();
        Ok(())
    }
}

impl Chat {
    fn begin(&self, peer: &Sender) -> Conversation<PeerOutlet> {
        Conversation::begin(&self.hub, PeerOutlet(peer.clone()), self.streams(peer))
    }

    /// Returns how many streams rooms may have with this peer, in addition to stream 0.
    fn streams(&self, peer: &Sender) -> u16 {
        if !self.room_streams {
            return 0;
        }
        let Some(status) = peer.sctp_options(|options| options.status()) else { return 0 };
        let both = status.map_or(1, |status| status.inbound_streams.min(status.outbound_streams));
        let usable = if peer.scheme() == Scheme::SctpTls { both.min(self.tls_streams) } else { both };
        usable.saturating_sub(1)
    }
}

fn take(conversation: &mut Conversation<PeerOutlet>, peer: &Sender, message: Message<'_>) -> Flow {
    // The question was asked more than once, and this is another answer to it.
    if peer.scheme() == Scheme::Udp && message.starts_with(COMMAND.as_bytes()) {
        return Flow::GoesOn;
    }
    let stream = message.info().map_or(0, |info| info.stream);
    let flow = conversation.take(&message, stream, peer.now());
    if flow == Flow::Ends {
        peer.close();
    }
    flow
}

#[cfg(test)]
mod tests;
