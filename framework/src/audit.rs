//! Log lines about peers: whom the server refused, whose handshake failed, who came and who left.
//!
//! Refusals and failures are at INFO. Strangers cause them, so each reason has a line a second, which names one peer and
//! says how many were left out. Peers that come and go are at DEBUG.

use std::net::SocketAddr;

use crate::address::Scheme;
use crate::association::Association;
use crate::credentials::PeerIdentity;
use crate::dispatcher::admit::Refusal;
use crate::error::EndReason;
use crate::observe::LogLimit;
use crate::session::dtls::Facts;
use crate::sys::sync::atomic::Ordering;

/// Characters of a name that a peer chose, at most.
const NAME_CHARACTERS: usize = 100;

/// A new peer was refused.
pub(crate) fn refused(refusal: Refusal, scheme: Scheme, local: SocketAddr, peer: SocketAddr) {
    static LIMITS: [LogLimit; Refusal::ALL.len()] = [const { LogLimit::new() }; Refusal::ALL.len()];
    if let Some(suppressed) = LIMITS[refusal.index()].pass() {
        tracing::info!(%peer, listener = %Listener(scheme, local), suppressed, "refused a new peer: {refusal}");
    }
}

/// A peer's handshake came to no end, or a peer may not come in. `identity` is who it proved to be, if it did.
pub(crate) fn failed(association: &Association, reason: &EndReason, identity: Option<&PeerIdentity>) {
    static LIMITS: [LogLimit; EndReason::LABELS.len()] = [const { LogLimit::new() }; EndReason::LABELS.len()];
    let Some(suppressed) = LIMITS[reason.index()].pass() else { return };
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

/// A peer that was there is gone.
pub(crate) fn ended(association: &Association, facts: &Facts, reason: &EndReason) {
    tracing::debug!(
        id = %association.id,
        peer = %association.peer_address(),
        listener = %Listener(association.scheme, association.local_address()),
        identity = name(&facts.identity),
        duration_ms = association.opened.elapsed().as_millis() as u64,
        messages_in = association.received.load(Ordering::Relaxed),
        bytes_in = association.received_bytes.load(Ordering::Relaxed),
        messages_out = association.sent.load(Ordering::Relaxed),
        bytes_out = association.sent_bytes.load(Ordering::Relaxed),
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

/// A PSK identity, which is arbitrary bytes of a peer's choice (RFC 4279 §5.1), escaped and cut.
pub(crate) fn psk_name(identity: &[u8]) -> String {
    format!("psk:{}", printable(&String::from_utf8_lossy(identity), NAME_CHARACTERS))
}

/// `text` without anything that a terminal or a reader of lines could take for more than text, cut to so many characters.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(1024));
    for (index, c) in text.chars().enumerate() {
        if index == most {
            shown.push_str("...");
            break;
        }
        match c {
            '\\' | '\'' | '"' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_chose_cannot_forge_a_line_of_the_log() {
        assert_eq!(psk_name(b"a\nINFO forged\x1b[31m"), "psk:a\\nINFO forged\\u{1b}[31m");
        assert_eq!(psk_name(b"a\0b"), "psk:a\\0b");
        assert_eq!(psk_name(&[0xff, b'x']), "psk:\u{fffd}x");
        let long = psk_name(&[b'x'; 1000]);
        assert_eq!(long.len(), 4 + NAME_CHARACTERS + 3);
        assert_eq!(printable("CN=\"a\\,b\"", 100), "CN=\"a\\,b\"");
    }
}
