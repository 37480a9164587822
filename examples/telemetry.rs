//! A fan-out of telemetry: what one peer publishes goes to all peers that subscribed.
//!
//! A peer that says `subscribe` gets every reading from then on; anything else is a reading. All subscribers share one buffer
//! for a reading, and `post` never waits for the network. What a slow subscriber has no room for waits in its outbox, where the oldest
//! readings make room for new ones, so the publisher and the other subscribers notice nothing.
//!
//! ```text
//! cargo run -p peeloff-examples --bin telemetry
//! cargo run -p peeloff-servers --bin peeloff-nc -- --insecure dtls://127.0.0.1:4433    # twice; say "subscribe" in one
//! ```

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use peeloff::{
    AssociationId, EndReason, HandlerError, Identity, Message, OutboxLimits, Overflow, PeerEvents,
    PostOutcome, Sender, Server,
};

#[derive(Default)]
struct Telemetry {
    subscribers: RwLock<HashMap<AssociationId, Sender>>,
}

impl PeerEvents for Telemetry {
    /// How many readings the peer has published.
    type State = u64;

    fn open(&self, _: &Sender) -> Result<u64, HandlerError> {
        Ok(0)
    }

    fn message(&self, published: &mut u64, peer: &Sender, message: Message<'_>) -> Result<(), HandlerError> {
        if message.trim_ascii() == b"subscribe" {
            self.subscribers.write().unwrap().insert(peer.id(), peer.clone());
            return Ok(peer.send(b"subscribed\n")?);
        }
        let reading: Arc<[u8]> = message.bytes().into();
        for subscriber in self.subscribers.read().unwrap().values() {
            // A failure concerns the subscriber, never the publisher, whose association would end for an error.
            if subscriber.post(&reading) == PostOutcome::Dropped {
                eprintln!("{} is too slow and misses a reading", subscriber.peer_address());
            }
        }
        *published += 1;
        Ok(())
    }

    fn close(&self, published: u64, peer: &Sender, reason: EndReason) {
        self.subscribers.write().unwrap().remove(&peer.id());
        println!("{} published {published} readings: {reason}", peer.peer_address());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "dtls://127.0.0.1:4433".to_owned());
    let server = Server::builder()
        .listen(address)
        .identity(Identity::self_signed()?)
        // New readings are worth more than old ones, on every transport.
        .outbox(OutboxLimits::default().max_messages(64).overflow(Overflow::DropOldest))
        .start_events(Telemetry::default())?;
    println!("listening {}", server.addresses()[0]);
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use peeloff::testing::Pair;
    use peeloff::{Callbacks, HandlerError, Peer, PeerHandler, Scheme};

    use super::*;

    #[test]
    fn a_slow_subscriber_gets_the_newest_readings() {
        let telemetry = Arc::new(Callbacks::new(Telemetry::default()));
        let outbox = OutboxLimits::default().max_messages(1).overflow(Overflow::DropOldest);
        let [publisher, slow, quick] = [(); 3].map(|()| {
            let telemetry = Arc::clone(&telemetry);
            let serve = move |peer: &mut Peer| -> Result<(), HandlerError> { telemetry.handle(peer) };
            Pair::new(Scheme::Dtls).outbox(outbox).serve(serve)
        });
        for subscriber in [&slow, &quick] {
            subscriber.send("subscribe\n");
            assert_eq!(subscriber.recv().as_deref(), Some(&b"subscribed\n"[..]));
        }
        slow.set_room(0);
        for reading in ["20", "21", "22"] {
            publisher.send(reading);
            assert_eq!(quick.recv().as_deref(), Some(reading.as_bytes()));
        }
        // The last reading went to the quick one, perhaps before the slow one: the next is for both, too.
        publisher.send("subscribe");
        assert_eq!(publisher.recv().as_deref(), Some(&b"subscribed\n"[..]));
        slow.set_room(1 << 20);
        assert_eq!(slow.recv().as_deref(), Some(&b"22"[..]));
    }
}
