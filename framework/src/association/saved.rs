//! Serializes the parts of an association that are not in its session, for the process that takes over the peer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Association;
use crate::address::Scheme;
use crate::codec::{Malformed, Reader, Writer};
use crate::observe::Counters;
use crate::proof::Proof;
use crate::tls::HandshakeSummary;

impl Association {
    /// Writes the addresses, the counts and the results of the handshake.
    pub(crate) fn save(&self, now: Instant, out: &mut Writer) {
        out.address(self.local);
        out.address(self.peer);
        let (local, peer) =
            self.moved.lock().as_ref().map_or((None, None), |moved| (moved.local, moved.peer));
        out.option(local, Writer::address);
        out.option(peer, Writer::address);
        out.raw(&self.hello_random);
        out.bytes(&self.connection_id);
        out.duration(now.saturating_duration_since(self.opened));
        out.option(self.proof.as_deref().map(Proof::state), |out, (token, given)| {
            out.text(Some(token));
            out.flag(given);
        });
        let Self { received, received_bytes, sent, sent_bytes, dropped, .. } = self;
        for count in [received, received_bytes, sent, sent_bytes, dropped] {
            out.u64(count.load(Ordering::Relaxed));
        }
        self.summary().save(out);
    }

    /// Reads what [`save`](Self::save) wrote. Returns an association that is not open yet, and the results of its
    /// handshake.
    pub(crate) fn restore(
        scheme: Scheme,
        counters: Arc<Counters>,
        from: &mut Reader<'_>,
        now: Instant,
    ) -> Result<(Self, HandshakeSummary), Malformed> {
        let mut association = Self::new(scheme, from.address()?, from.address()?, counters);
        if let Some(local) = from.option(Reader::address)? {
            association.set_local_address(local);
        }
        if let Some(peer) = from.option(Reader::address)? {
            association.set_current_peer(peer);
        }
        association.hello_random = from.array()?;
        association.connection_id = from.bytes()?.into();
        association.opened = now.checked_sub(from.duration()?).unwrap_or(now);
        let proof = from.option(|from| Ok(Proof::resumed(from.text()?.ok_or(Malformed)?, from.flag()?)))?;
        association.proof = proof.map(Box::new);
        let Self { received, received_bytes, sent, sent_bytes, dropped, .. } = &association;
        let mut carried = Box::new([0; 5]);
        for (count, carried) in
            [received, received_bytes, sent, sent_bytes, dropped].into_iter().zip(&mut *carried)
        {
            *carried = from.u64()?;
            count.store(*carried, Ordering::Relaxed);
        }
        association.carried = Some(carried);
        let summary = HandshakeSummary::restore(from)?;
        Ok((association, summary))
    }
}
