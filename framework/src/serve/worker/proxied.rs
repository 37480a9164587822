//! Hears from a proxy who is behind it, before anything else on the connection.

use std::sync::Arc;
use std::time::Instant;

use crate::association::Association;
use crate::error::EndReason;
use crate::handler::Incoming;
use crate::net::Arrival;
use crate::net::attention::signal;
use crate::net::tcp::TcpTransport;
use crate::net::tcp::reset;
use crate::observe::{bump, log_limited};
use crate::protocol::stream::proxy::{self, Ends, HEAD};
use crate::serve::shared::Shared;
use crate::tls::Failure;

/// Reads the PROXY header, and asks the limits and the handler about who is there. Blocks until then, at most
/// until `deadline`. Who is refused is reset.
pub(super) fn hear(
    transport: &mut TcpTransport,
    association: &Arc<Association>,
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

fn admit(association: &Arc<Association>, shared: &Shared, ends: Option<Ends>) -> Result<(), Failure> {
    // A proxy that speaks for itself is a peer like any other.
    let ends = ends.unwrap_or(Ends { peer: association.peer, local: association.local });
    let incoming = Incoming::new(association.scheme, ends.local, ends.peer);
    let registry = &shared.registry;
    registry.heard_header(association);
    let begin = || match association.scheme.is_secure() {
        true => registry.begin_handshake(association),
        false => Ok(()),
    };
    let booked = registry.book_proxied(association, ends);
    booked.and_then(|()| shared.ask(&incoming)).and_then(|()| begin()).map_err(|refusal| {
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
    let read = |transport: &mut TcpTransport, buffer: &mut [u8]| match read_exactly(
        transport,
        association,
        buffer,
        deadline,
    )? {
        true => Ok(()),
        false => Err(refuse("its PROXY header was not complete in time")),
    };
    let mut head = [0; HEAD];
    read(transport, &mut head)?;
    let mut rest = vec![0; proxy::rest(&head).map_err(refuse)?];
    read(transport, &mut rest)?;
    proxy::parse(&head, &rest).map_err(refuse)
}

/// Fills the buffer; `false` if that takes too long. Who has to make way is still heard if all is there.
fn read_exactly(
    transport: &mut TcpTransport,
    association: &Association,
    buffer: &mut [u8],
    deadline: Instant,
) -> Result<bool, Failure> {
    let mut filled = 0;
    while filled < buffer.len() {
        let signals = association.attention.signals();
        if signals & (signal::CLOSE | signal::STOP | signal::DRAIN) != 0 {
            return Err(Failure::Ended(EndReason::Shutdown));
        }
        let (now, evicted) = (Instant::now(), signals & signal::EVICT != 0);
        let room = &mut buffer[filled..];
        match transport.recv(room, &mut Vec::new(), now, Some(if evicted { now } else { deadline })) {
            Arrival::Message(len) => filled += len,
            Arrival::TimedOut if evicted => return Err(Failure::Ended(EndReason::Evicted)),
            Arrival::TimedOut if Instant::now() >= deadline => return Ok(false),
            Arrival::Over(EndReason::ClosedByPeer) => {
                return Err(failed("the proxy closed before its header"));
            }
            Arrival::Over(reason) => return Err(Failure::Ended(reason)),
            _ => {}
        }
    }
    Ok(true)
}

fn failed(why: &str) -> Failure {
    Failure::Ended(EndReason::HandshakeFailed(why.to_owned()))
}
