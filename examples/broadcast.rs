//! Sending to peers from another thread: what one peer says goes to all others.
//!
//! Each peer's thread hands what it receives to the main thread, which posts it to all others. They share
//! one buffer, and posting never waits for the network: what a slow peer has no room for waits in its outbox,
//! where the oldest messages make way, and nobody else notices.
//!
//! ```text
//! cargo run -p peeloff-examples --bin broadcast
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433    # twice
//! ```

use std::sync::{Arc, mpsc};

use peeloff::{HandlerError, Identity, Peer, PostOutcome, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    // Bounded: peers that are faster than the main thread wait for it.
    let (post, posts) = mpsc::sync_channel(64);
    let listen = move |peer: &mut Peer| -> Result<(), HandlerError> {
        peer.send(b"welcome\n")?;
        let mut buffer = [0; 2048];
        while let Some(len) = peer.recv(&mut buffer)? {
            post.send((peer.id(), buffer[..len].to_vec()))?;
        }
        Ok(())
    };
    let server = Server::builder().listen(address).identity(Identity::self_signed()?).start(listen)?;
    println!("listening {}", server.addresses()[0]);

    let handle = server.handle();
    for (from, message) in posts {
        let message: Arc<[u8]> = message.into();
        // Whoever has completed the handshake by now.
        for peer in handle.peers().iter().filter(|peer| peer.id() != from) {
            if peer.post(&message) == PostOutcome::Dropped {
                eprintln!("{} is too slow and misses a message", peer.peer_address());
            }
        }
    }
    Ok(())
}
