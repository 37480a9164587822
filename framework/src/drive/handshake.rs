//! Handshakes on the thread of their peer.

use std::time::Instant;

use crate::error::EndReason;
use crate::net::Arrival;
use crate::net::attention::{Attention, signal};
use crate::net::udp::{self, UdpTransport};
use crate::protocol::dtls::handshake::Handshake;
use crate::protocol::dtls::session::Session;
use crate::sys::message::DATAGRAM_MAX;
use crate::tls::{Facts, Failure};

/// Runs a DTLS handshake to its end. Blocks until then.
pub(crate) fn dtls(
    mut handshake: Handshake,
    transport: &mut UdpTransport,
    attention: &Attention,
) -> Result<(Session, Facts), Failure> {
    let mut datagram = Vec::with_capacity(DATAGRAM_MAX);
    let mut now = Instant::now();
    let mut advanced = handshake.start(now);
    loop {
        // What is complete, or has failed, is so whatever others want.
        if let Ok(false) = advanced
            && let Some(reason) = interrupted(attention)
        {
            handshake.abort();
            advanced = Err(Failure::Ended(reason));
        }
        while let Some(datagram) = handshake.poll_transmit() {
            let _ = udp::send(transport.socket(), &datagram);
        }
        if advanced? {
            return handshake.finish();
        }
        let arrival = transport.recv(&mut [], &mut datagram, now, Some(handshake.next_timeout()));
        now = Instant::now();
        advanced = match arrival {
            Arrival::Message(_) => handshake.handle_datagram(&mut datagram, now),
            Arrival::Over(reason) => Err(Failure::Ended(reason)),
            _ => Ok(false),
        };
        // A peer that sends without a pause must not stop the clock.
        if let Ok(false) = advanced
            && now >= handshake.next_timeout()
        {
            advanced = handshake.handle_timeout(now);
        }
    }
}

/// Why a handshake has to end, where somebody else wants it to.
pub(crate) fn interrupted(attention: &Attention) -> Option<EndReason> {
    let signals = attention.signals();
    if signals & (signal::CLOSE | signal::STOP | signal::DRAIN) != 0 {
        return Some(EndReason::Shutdown);
    }
    (signals & signal::EVICT != 0).then_some(EndReason::Evicted)
}
