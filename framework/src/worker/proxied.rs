//! Hears from a proxy who is behind it, before anything else on the connection.

use std::time::Instant;

use crate::association::{Association, signal};
use crate::dispatcher::tcp::reset;
use crate::error::EndReason;
use crate::handler::Incoming;
use crate::observe::{bump, log_limited};
use crate::server::Shared;
use crate::session::handshake::Failure;
use crate::stream::proxy::{self, Ends, HEAD};
use crate::transport::Arrival;
use crate::transport::tcp::TcpTransport;

/// Reads the PROXY header, and asks the limits and the handler about who is there. Blocks until then, at most
/// until `deadline`. Who is refused is reset.
pub(super) fn hear(
    transport: &mut TcpTransport,
    association: &Association,
    shared: &Shared,
    deadline: Instant,
) -> Result<(), Failure> {
    let heard = read_header(transport, association, shared, deadline);
    let admitted = heard.and_then(|ends| admit(association, shared, ends));
    if admitted.is_err() {
        reset(transport.socket());
    }
    admitted
}

fn admit(association: &Association, shared: &Shared, ends: Option<Ends>) -> Result<(), Failure> {
    // A proxy that speaks for itself is a peer like any other.
    let ends = ends.unwrap_or(Ends { peer: association.peer, local: association.local });
    let incoming = Incoming::new(association.scheme, ends.local, ends.peer);
    let booked = shared.registry.book_proxied(association, ends);
    booked.and_then(|()| shared.ask(&incoming)).map_err(|refusal| {
        shared.refuse(refusal, association.scheme, ends.local, ends.peer);
        failed(&refusal.to_string())
    })
}

fn read_header(
    transport: &mut TcpTransport,
    association: &Association,
    shared: &Shared,
    deadline: Instant,
) -> Result<Option<Ends>, Failure> {
    let refuse = |why: &str| {
        bump(&shared.counters.proxy_headers_refused);
        log_limited!(info, proxy = %association.peer, why, "refused a connection");
        failed(why)
    };
    let mut head = [0; HEAD];
    read_exactly(transport, association, &mut head, deadline)?;
    let mut rest = vec![0; proxy::rest(&head).map_err(refuse)?];
    read_exactly(transport, association, &mut rest, deadline)?;
    proxy::parse(&head, &rest).map_err(refuse)
}

fn read_exactly(
    transport: &mut TcpTransport,
    association: &Association,
    buffer: &mut [u8],
    deadline: Instant,
) -> Result<(), Failure> {
    let mut filled = 0;
    while filled < buffer.len() {
        let signals = association.signals();
        if signals & (signal::CLOSE | signal::STOP | signal::DRAIN) != 0 {
            return Err(Failure::Ended(EndReason::Shutdown));
        }
        if signals & signal::EVICT != 0 {
            return Err(Failure::Ended(EndReason::Evicted));
        }
        let room = &mut buffer[filled..];
        match transport.recv(room, &mut Vec::new(), Instant::now(), Some(deadline)) {
            Arrival::Message(len) => filled += len,
            Arrival::TimedOut if Instant::now() >= deadline => {
                return Err(Failure::Ended(EndReason::HandshakeTimedOut));
            }
            Arrival::Over(EndReason::ClosedByPeer) => {
                return Err(failed("the proxy closed before its header"));
            }
            Arrival::Over(reason) => return Err(Failure::Ended(reason)),
            _ => {}
        }
    }
    Ok(())
}

fn failed(why: &str) -> Failure {
    Failure::Ended(EndReason::HandshakeFailed(why.to_owned()))
}
