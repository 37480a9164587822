//! Log lines about peers: whom the server refused, whose handshake failed, who came and who left.
//!
//! Refusals and failures are at INFO. Strangers cause them, so each reason has a line a second, which names one peer and
//! says how many were left out. Peers that come and go are at DEBUG.

use std::net::SocketAddr;

use crate::address::Scheme;
use crate::admission::Refusal;
use crate::association::Association;
use crate::credentials::PeerIdentity;
use crate::error::{EndKind, EndReason};
use crate::observe::LogLimit;
use crate::printable::{NAME_CHARACTERS, printable, psk_name};
use crate::sys::sync::atomic::Ordering;
use crate::tls::Facts;

/// A new peer was refused.
pub(crate) fn refused(refusal: Refusal, scheme: Scheme, local: SocketAddr, peer: SocketAddr) {
    static LIMITS: [LogLimit; Refusal::ALL.len()] = [const { LogLimit::new() }; Refusal::ALL.len()];
    if let Some(suppressed) = LIMITS[refusal.index()].pass() {
        let (reason, listener) = (refusal.as_str(), Listener(scheme, local));
        tracing::info!(%peer, %listener, reason, suppressed, "refused a new peer: {refusal}");
    }
}

/// A peer's handshake came to no end, or a peer may not come in. `identity` is who it proved to be, if it did.
pub(crate) fn failed(association: &Association, reason: &EndReason, identity: Option<&PeerIdentity>) {
    static LIMITS: [LogLimit; EndKind::ALL.len()] = [const { LogLimit::new() }; EndKind::ALL.len()];
    let Some(suppressed) = LIMITS[reason.kind().index()].pass() else { return };
    let (peer, listener) =
        (association.peer_address(), Listener(association.scheme, association.local_address()));
    let reason = printable(&reason.to_string(), usize::MAX);
    match identity.map(name) {
        Some(identity) => {
            tracing::info!(%peer, %listener, identity, suppressed, "a handshake failed: {reason}");
        }
        None => tracing::info!(%peer, %listener, suppressed, "a handshake failed: {reason}"),
    }
}

/// A peer that came and said nothing was sent away.
pub(crate) fn silent(association: &Association, reason: &EndReason) {
    static LIMIT: LogLimit = LogLimit::new();
    let Some(suppressed) = LIMIT.pass() else { return };
    tracing::info!(
        peer = %association.peer_address(),
        listener = %Listener(association.scheme, association.local_address()),
        identity = name(&association.facts().identity),
        suppressed,
        "a peer that said nothing was sent away: {reason}"
    );
}

/// A peer is there, and its handler runs next.
pub(crate) fn opened(association: &Association, facts: &Facts) {
    tracing::debug!(
        id = %association.id,
        peer = %association.peer_address(),
        listener = %Listener(association.scheme, association.local_address()),
        identity = name(&facts.identity),
        cipher = facts.cipher.as_deref().unwrap_or("none"),
        resumed = facts.resumed,
        "a peer is connected"
    );
}

/// A peer is gone, whether its handshake was complete or not. The target is for access logs, which want each peer and nothing
/// else.
pub(crate) fn ended(association: &Association, reason: &EndReason) {
    tracing::debug!(
        target: "peeloff::access",
        id = %association.id,
        peer = %association.peer_address(),
        listener = %Listener(association.scheme, association.local_address()),
        identity = name(&association.facts().identity),
        duration_ms = association.age().as_millis() as u64,
        messages_in = association.received.load(Ordering::Relaxed),
        bytes_in = association.received_bytes.load(Ordering::Relaxed),
        messages_out = association.sent.load(Ordering::Relaxed),
        bytes_out = association.sent_bytes.load(Ordering::Relaxed),
        reason = reason.kind().as_str(),
        "a peer is gone: {}",
        printable(&reason.to_string(), usize::MAX)
    );
}

/// A listener as users write it.
struct Listener(Scheme, SocketAddr);

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.0, self.1)
    }
}

/// A name for an identity that is safe to write into a log.
pub(crate) fn name(identity: &PeerIdentity) -> String {
    match identity {
        PeerIdentity::Anonymous => "anonymous".to_owned(),
        PeerIdentity::Certificate(certificate) => printable(&certificate.subject, NAME_CHARACTERS),
        PeerIdentity::Psk(identity) => psk_name(identity),
        PeerIdentity::RawPublicKey(key) => {
            use sha2::{Digest, Sha256};
            let digest = Sha256::digest(key);
            let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("raw public key {hex}")
        }
    }
}
