//! Admission: a server that chooses its peers by address and by number.
//!
//! `admit` is asked before anything is spent on a new peer: no socket, no thread and no handshake yet. On DTLS the peer has
//! proven its address by then. On plain UDP any host can write any source address, so the address proves nothing there. A DTLS client
//! that is refused gets an alert, a refused SCTP or TCP peer an abort or a reset, and one on plain UDP nothing.
//!
//! This server refuses peers from the addresses that follow its first argument:
//!
//! ```text
//! cargo run -p peeloff-examples --bin admission dtls://0.0.0.0:4433 192.0.2.1 2001:db8::1
//! ```

use std::net::IpAddr;

use peeloff::{Admission, HandlerError, Identity, Incoming, Limits, Peer, PeerHandler, Server};

struct Doorman {
    banned: Vec<IpAddr>,
}

impl PeerHandler for Doorman {
    /// Runs on the thread that lets peers in, so it must not block.
    fn admit(&self, incoming: &Incoming) -> Admission {
        // An IPv4 peer of a `dtls://[::]` listener, ::ffff:192.0.2.1, is the same as 192.0.2.1.
        match self.banned.contains(&incoming.peer_address().ip().to_canonical()) {
            true => Admission::Refuse,
            false => Admission::Accept,
        }
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        peer.send(b"come in\n")?;
        let mut buffer = [0; 2048];
        while let Some(len) = peer.recv(&mut buffer)? {
            peer.send(&buffer[..len])?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    let banned = arguments.map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    let limits = Limits::default().max_peers(1000).max_peers_per_source(2).exempt_loopback(false);
    let server = Server::builder()
        .listen(address)
        .identity(Identity::self_signed()?)
        .limits(limits)
        .start(Doorman { banned })?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::Scheme;
    use peeloff::testing::Pair;

    use super::*;

    #[test]
    fn an_address_is_refused_however_it_is_written() {
        let doorman = Doorman { banned: vec![IpAddr::from([192, 0, 2, 66])] };
        for (peer, answer) in [
            ("192.0.2.66:9", Admission::Refuse),
            ("[::ffff:192.0.2.66]:9", Admission::Refuse),
            ("192.0.2.67:9", Admission::Accept),
        ] {
            let local = "[::]:4433".parse().unwrap();
            let incoming = Pair::new(Scheme::Dtls).addresses(local, peer.parse().unwrap()).incoming();
            assert_eq!(doorman.admit(&incoming), answer, "{peer}");
        }
    }
}
