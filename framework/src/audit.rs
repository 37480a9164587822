//! Log lines about peers: refusals, failed handshakes, and associations that open and end.
//!
//! Refusals and failures are logged at INFO. Unknown peers can cause them at any rate, so each reason has at most one
//! line a second, which names one peer and the number of lines that were left out. Opened and ended associations are
//! logged at DEBUG.

use std::net::SocketAddr;

use crate::address::Scheme;
use crate::admission::Refusal;
use crate::association::Association;
use crate::credentials::PeerIdentity;
use crate::error::{EndKind, EndReason};
use crate::observe::LogLimit;
use crate::printable::{NAME_CHARACTERS, printable, psk_name};
use crate::sys::sync::atomic::Ordering;
use crate::tls::HandshakeSummary;

/// Logs that a new peer was refused.
pub(crate) fn refused(refusal: Refusal, scheme: Scheme, local: SocketAddr, peer: SocketAddr) {
    static LIMITS: [LogLimit; Refusal::ALL.len()] = [const { LogLimit::new() }; Refusal::ALL.len()];
    if let Some(suppressed) = LIMITS[refusal.index()].pass() {
        let (reason, listener) = (refusal.as_str(), Listener(scheme, local));
        tracing::info!(%peer, %listener, reason, suppressed, "refused a new peer: {refusal}");
    }
}

/// Logs that a peer's handshake failed or that the peer was not authorized. `identity` is the identity that it proved,
/// if any.
pub(crate) fn failed(association: &Association, reason: &EndReason, identity: Option<&PeerIdentity>) {
    static LIMITS: [LogLimit; EndKind::ALL.len()] = [const { LogLimit::new() }; EndKind::ALL.len()];
    let Some(suppressed) = LIMITS[reason.kind().index()].pass() else { return };
    let (peer, listener) =
        (association.peer_address(), Listener(association.scheme, association.local_address()));
    // The line begins with the same words as the reason of most failures.
    let reason = match reason {
        EndReason::HandshakeFailed(why) => printable(why, usize::MAX),
        reason => printable(&reason.to_string(), usize::MAX),
    };
    match identity.map(name) {
        Some(identity) => {
            tracing::info!(%peer, %listener, identity, suppressed, "a handshake failed: {reason}");
        }
        None => tracing::info!(%peer, %listener, suppressed, "a handshake failed: {reason}"),
    }
}

/// Logs that a peer which sent no message was disconnected.
pub(crate) fn silent(association: &Association, reason: &EndReason) {
    static LIMIT: LogLimit = LogLimit::new();
    let Some(suppressed) = LIMIT.pass() else { return };
    tracing::info!(
        peer = %association.peer_address(),
        listener = %Listener(association.scheme, association.local_address()),
        identity = name(&association.summary().identity),
        suppressed,
        "disconnected a peer that sent no message: {reason}"
    );
}

/// Logs that a peer has connected; its handler runs next.
pub(crate) fn opened(association: &Association, summary: &HandshakeSummary) {
    tracing::debug!(
        id = %association.id,
        peer = %association.peer_address(),
        listener = %Listener(association.scheme, association.local_address()),
        identity = name(&summary.identity),
        cipher = summary.cipher.as_deref().unwrap_or("none"),
        resumed = summary.resumed,
        "a peer connected"
    );
}

/// Logs that an association has ended, including one whose handshake was not complete. The line has its own target, for
/// access logs, which need exactly one line for each peer.
pub(crate) fn ended(association: &Association, reason: &EndReason) {
    tracing::debug!(
        target: "peeloff::access",
        id = %association.id,
        peer = %association.peer_address(),
        listener = %Listener(association.scheme, association.local_address()),
        identity = name(&association.summary().identity),
        duration_ms = association.age().as_millis() as u64,
        messages_in = association.received.load(Ordering::Relaxed),
        bytes_in = association.received_bytes.load(Ordering::Relaxed),
        messages_out = association.sent.load(Ordering::Relaxed),
        bytes_out = association.sent_bytes.load(Ordering::Relaxed),
        reason = reason.kind().as_str(),
        "an association ended: {}",
        printable(&reason.to_string(), usize::MAX)
    );
}

/// A listener in the form that users write.
struct Listener(Scheme, SocketAddr);

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.0, self.1)
    }
}

/// Returns a name for an identity that is safe to write to a log.
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
