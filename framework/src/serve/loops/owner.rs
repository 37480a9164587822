//! The owner of the associations of peers that share a loop's sockets.

use std::sync::Arc;

use super::mailbox::{LoopMailbox, LoopMessage};
use super::token::Token;
use crate::association::Association;
use crate::error::EndReason;
use crate::observe::bump;
use crate::peer::{AssociationOwner, ForSuccessor};
use crate::protocol::dtls::session::Move;
use crate::serve::shared::Shared;

/// Informs the loop and the registry when one of the loop's associations moves or ends.
pub(super) struct LoopOwner {
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Arc<LoopMailbox>,
}

impl AssociationOwner for LoopOwner {
    fn handler_started(&self) {
        self.shared.handler_started();
    }

    fn peer_became_quiet(&self) {
        self.shared.peer_became_quiet();
    }

    fn change_peer_address(&self, association: &Association, to: Move) -> bool {
        let follows = self.shared.registry.change_peer_address(association, to);
        if let (true, Some(token)) = (follows, Token::of(association)) {
            self.mailbox.send(LoopMessage::Moved(token, to.to));
        }
        follows
    }

    fn handler_outlives_association(&self) {
        self.shared.handler_outlives_association();
    }

    fn handler_returned(&self) {
        self.shared.handler_returned();
    }

    fn association_ended(
        &self,
        association: &Association,
        reason: &EndReason,
        for_successor: Option<ForSuccessor>,
    ) {
        let token = Token::of(association);
        let strays = self.shared.release_addresses(association, reason, for_successor);
        // The loop gets this message first, so that the datagrams below do not find the old association.
        token.map(|token| self.mailbox.send(LoopMessage::Left(token)));
        for stray in strays {
            if !self.mailbox.send(LoopMessage::Stray(stray, None)) {
                bump(&association.counters.strays_lost);
            }
        }
    }
}
