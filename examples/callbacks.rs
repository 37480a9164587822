//! A handler made of callbacks: what to do when a peer comes, says something, and goes.
//!
//! [`Callbacks`] waits in the place of your code. What belongs to one peer lives in its
//! [`State`](PeerEvents::State), made by `open` and handed back by `close`.
//!
//! ```text
//! cargo run -p peeloff-examples --bin callbacks
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433
//! ```

use peeloff::{Callbacks, EndReason, Error, Identity, PeerEvents, Sender, Server};

/// Adds up the numbers that a peer sends.
struct Adder;

impl PeerEvents for Adder {
    /// The sum so far.
    type State = i64;

    fn open(&self, peer: &Sender) -> Result<i64, Error> {
        println!("{} came", peer.peer_address());
        Ok(0)
    }

    fn message(&self, sum: &mut i64, peer: &Sender, message: &[u8]) -> Result<(), Error> {
        let text = String::from_utf8_lossy(message);
        let answer = match text.trim().parse::<i64>() {
            Ok(number) => {
                *sum = sum.saturating_add(number);
                format!("{sum}\n")
            }
            Err(_) => "a number, please\n".to_owned(),
        };
        // The peer's own thread would wait here for room; a `Sender` never does. An error of ours
        // ends the association.
        peer.try_send(answer).map_err(|error| Error::handler(error.to_string()))
    }

    fn close(&self, sum: i64, peer: &Sender, reason: EndReason) {
        println!("{} went with {sum}: {reason}", peer.peer_address());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    let server = Server::builder()
        .listen(address.parse()?)
        .identity(Identity::self_signed()?)
        .start(Callbacks(Adder))?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}
