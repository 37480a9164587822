//! A handler made of callbacks, which are called when a peer comes, sends something, and leaves.
//!
//! [`Callbacks`] does the waiting. The data of one peer is its [`State`](PeerEvents::State), which `open` makes and `close` takes
//! back.
//!
//! ```text
//! cargo run -p peeloff-examples --bin callbacks
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433
//! ```

use peeloff::{Callbacks, EndReason, HandlerError, Identity, Message, PeerEvents, Sender, Server};

/// Adds up the numbers that a peer sends.
struct Adder;

impl PeerEvents for Adder {
    /// The sum so far.
    type State = i64;

    fn open(&self, peer: &Sender) -> Result<i64, HandlerError> {
        println!("{} came", peer.peer_address());
        Ok(0)
    }

    fn message(&self, sum: &mut i64, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        let text = String::from_utf8_lossy(&message);
        let answer = match text.trim().parse::<i64>() {
            Ok(number) => {
                *sum = sum.saturating_add(number);
                format!("{sum}\n")
            }
            Err(_) => "a number, please\n".to_owned(),
        };
        // This never waits: a message that finds no room is kept in the peer's bounded outbox. An error ends the association.
        peer.send(answer.as_bytes())?;
        Ok(())
    }

    fn close(&self, sum: i64, peer: &Sender, reason: EndReason) {
        println!("{} went with {sum}: {reason}", peer.peer_address());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    let server =
        Server::builder().listen(address).identity(Identity::self_signed()?).start(Callbacks::new(Adder))?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::testing::Pair;
    use peeloff::{OutboxLimits, Overflow, Scheme};

    use super::*;

    #[test]
    fn numbers_are_added_up_and_nothing_else() {
        let remote = Pair::new(Scheme::Dtls).serve(Callbacks::new(Adder));
        for (message, answer) in [("40\n", "40\n"), ("two\n", "a number, please\n"), ("2\n", "42\n")] {
            remote.send(message);
            assert_eq!(remote.recv().as_deref(), Some(answer.as_bytes()));
        }
    }

    #[test]
    fn a_peer_that_takes_no_answer_is_left() {
        let outbox = OutboxLimits::default().max_messages(0).overflow(Overflow::Disconnect);
        let remote = Pair::new(Scheme::Dtls).outbox(outbox).serve(Callbacks::new(Adder));
        remote.set_room(0);
        remote.send("1");
        assert_eq!(remote.wait_for_end(), Some(EndReason::TooSlow));
    }
}
