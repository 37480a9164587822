//! The owner of the associations of peers that share a loop's sockets.

use std::sync::Arc;

use super::mailbox::{LoopMailbox, LoopMessage};
use super::token::Token;
use crate::association::Association;
use crate::error::EndReason;
use crate::observe::bump;
use crate::peer::{AssociationOwner, Leftover};
use crate::protocol::dtls::session::Move;
use crate::serve::shared::Shared;

/// Informs the loop and the registry when one of the loop's associations moves or ends.
pub(super) struct LoopOwner {
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Arc<LoopMailbox>,
}

impl AssociationOwner for LoopOwner {
    fn handler_runs(&self) {
        self.shared.handler_runs();
    }

    fn settled(&self) {
        self.shared.settled();
    }

    fn follow(&self, association: &Association, to: Move) -> bool {
        let follows = self.shared.registry.follow(association, to);
        if let (true, Some(token)) = (follows, Token::of(association)) {
            self.mailbox.send(LoopMessage::Moved(token, to.to));
        }
        follows
    }

    fn outlives(&self) {
        self.shared.outlives();
    }

    fn returned(&self) {
        self.shared.returned();
    }

    fn left(&self, association: &Association, reason: &EndReason, leftover: Option<Leftover>) {
        let token = Token::of(association);
        let strays = self.shared.part(association, reason, leftover);
        // The loop gets this message first, so that the datagrams below do not find the old association.
        token.map(|token| self.mailbox.send(LoopMessage::Left(token)));
        for stray in strays {
            if !self.mailbox.send(LoopMessage::Stray(stray, None)) {
                bump(&association.counters.strays_lost);
            }
        }
    }
}
