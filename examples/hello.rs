//! A conversation in straight-line code: ask, wait, answer, say goodbye.
//!
//! [`Hello::handle`] runs on a thread of its own for each peer, so it may simply wait for the next
//! message. Returning ends the association: the peer gets a close_notify.
//!
//! ```text
//! cargo run -p peeloff-examples --bin hello
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433
//! ```
//!
//! Over DTLS the server may speak first, as here; over plain UDP a peer is there once it spoke.

use std::time::Duration;

use peeloff::{Error, Identity, Peer, PeerHandler, Server};

struct Hello;

impl PeerHandler for Hello {
    fn handle(&self, peer: &mut Peer) -> Result<(), Error> {
        peer.send(b"What is your name?\n")?;
        let mut buffer = [0; 2048];
        let name = match peer.recv_timeout(&mut buffer, Duration::from_secs(60)) {
            Ok(Some(len)) => String::from_utf8_lossy(&buffer[..len]),
            // It went, or the server is shutting down.
            Ok(None) => return Ok(()),
            Err(Error::TimedOut) => return peer.send(b"I will not wait for ever.\n"),
            Err(error) => return Err(error),
        };
        peer.send(format!("Hello, {}!\n", name.trim()).as_bytes())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    let server = Server::builder()
        .listen(address.parse()?)
        // Made for this run; no client can verify it. See `mutual_tls` for one from files.
        .identity(Identity::self_signed()?)
        .start(Hello)?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}
