//! A conversation in straight-line code: the handler asks, waits, answers and ends.
//!
//! [`Hello::handle`] runs on a thread of its own for each peer, so it may simply wait for the next
//! message. Returning ends the association: the peer gets a close_notify.
//!
//! ```text
//! cargo run -p peeloff-examples --bin hello
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433
//! ```
//!
//! Its tests run the handler over memory, with [`peeloff::testing`]: they need no network, and the minute passes at once.
//!
//! Over DTLS the server may speak first, as here. On plain UDP a peer exists once it has sent something.

use std::time::Duration;

use peeloff::{Error, HandlerError, Identity, Peer, PeerHandler, Server};

struct Hello;

impl PeerHandler for Hello {
    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        peer.send(b"What is your name?\n")?;
        let mut buffer = [0; 2048];
        let name = match peer.recv_timeout(&mut buffer, Duration::from_secs(60)) {
            Ok(Some(len)) => String::from_utf8_lossy(&buffer[..len]),
            // The peer left, or the server is shutting down.
            Ok(None) => return Ok(()),
            Err(Error::TimedOut) => return Ok(peer.send(b"I will not wait for ever.\n")?),
            Err(error) => return Err(error.into()),
        };
        peer.send(format!("Hello, {}!\n", name.trim()).as_bytes())?;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    let server = Server::builder()
        .listen(address)
        // Made for this run, so no client can verify it. `mutual_tls` reads one from files.
        .identity(Identity::self_signed()?)
        .start(Hello)?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::Scheme;
    use peeloff::testing::{Remote, pair};

    use super::*;

    /// What the handler says to a peer that does all this.
    fn conversation(peer_does: impl Fn(&Remote)) -> Vec<String> {
        let (mut peer, remote) = pair(Scheme::Dtls);
        peer_does(&remote);
        Hello.handle(&mut peer).unwrap();
        drop(peer);
        std::iter::from_fn(|| remote.recv()).map(|said| String::from_utf8(said).unwrap()).collect()
    }

    #[test]
    fn a_peer_is_asked_for_its_name_and_greeted() {
        let said = conversation(|peer| assert!(peer.send("Ada\n")));
        assert_eq!(said, ["What is your name?\n", "Hello, Ada!\n"]);
    }

    #[test]
    fn a_peer_that_says_nothing_is_left_after_a_minute() {
        let said = conversation(|peer| {
            peer.elapse(Duration::from_secs(59));
            peer.send("Ada");
        });
        assert_eq!(said.len(), 2);
        assert_eq!(said[1], "Hello, Ada!\n");
        let said = conversation(|peer| {
            peer.elapse(Duration::from_secs(60));
            peer.send("Ada");
        });
        assert_eq!(said, ["What is your name?\n", "I will not wait for ever.\n"]);
    }

    #[test]
    fn a_peer_that_goes_is_not_talked_to() {
        let said = conversation(|peer| peer.close());
        assert_eq!(said, ["What is your name?\n"]);
    }
}
