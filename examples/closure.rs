//! A handler that is a closure, with state of its own for each peer and state that all share.
//!
//! The closure's local variables belong to one peer. What it captures belongs to all of them, whose
//! threads run it at the same time: hence an atomic (or a lock).
//!
//! ```text
//! cargo run -p peeloff-examples --bin closure
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

use peeloff::{Error, Identity, Peer, PeerHandler, Server};

/// Makes the closure.
fn counter() -> impl PeerHandler {
    let of_all = AtomicU64::new(0);
    move |peer: &mut Peer| -> Result<(), Error> {
        let mut yours = 0;
        let mut buffer = [0; 2048];
        while peer.recv(&mut buffer)?.is_some() {
            yours += 1;
            let all = of_all.fetch_add(1, Ordering::Relaxed) + 1;
            peer.send(format!("message {yours} of yours, {all} of all\n").as_bytes())?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    let server = Server::builder().listen(address).identity(Identity::self_signed()?).start(counter())?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use peeloff::Scheme;
    use peeloff::testing::Pair;

    use super::*;

    #[test]
    fn messages_are_counted_for_each_peer_and_for_all() {
        let counter = Arc::new(counter());
        let peers = [(); 2].map(|()| {
            let counter = Arc::clone(&counter);
            Pair::new(Scheme::Udp).serve(move |peer: &mut Peer| counter.handle(peer))
        });
        for (speaker, expected) in [
            (0, "message 1 of yours, 1 of all\n"),
            (0, "message 2 of yours, 2 of all\n"),
            (1, "message 1 of yours, 3 of all\n"),
        ] {
            peers[speaker].send("x");
            assert_eq!(peers[speaker].recv().as_deref(), Some(expected.as_bytes()));
        }
    }
}
