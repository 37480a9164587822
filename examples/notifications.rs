//! Notifications of SCTP: the kernel reports that everything is acknowledged, and that the peer shuts down.
//!
//! A handler subscribes to the kinds that it wants, and gets messages and notifications from one call, in the order of their
//! arrival. A handler that calls `recv` instead finds them afterwards in `next_notification`.
//!
//! ```text
//! cargo run -p peeloff-examples --bin notifications
//! ```

use std::time::Duration;

use peeloff::sctp::{Notification, NotificationKind};
use peeloff::{Client, Error, Event, Peer, Server};

/// Sends one message back, and ends the association.
fn answer(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = [0; 2048];
    if let Some(len) = peer.recv(&mut buffer)? {
        peer.reply(&buffer[..len])?;
    }
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        // One sentence, also where the kernel has no SCTP.
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "sctp://127.0.0.1:0".to_owned());
    let server = Server::builder().listen(address).start(answer)?;
    println!("listening {}", server.addresses()[0]);

    let mut client = Client::builder().connect(&server.addresses()[0])?;
    let mut sctp = client.sctp().ok_or("no association")?;
    use NotificationKind as Kind;
    for kind in [Kind::PeerShutDown, Kind::SenderDry] {
        sctp.subscribe(kind, true)?;
    }
    sctp.send(b"hello", &Default::default())?;

    let mut buffer = [0; 2048];
    while let Some(event) = sctp.recv_event_timeout(&mut buffer, Duration::from_secs(5))? {
        match event {
            Event::Message(len, info) => {
                println!("{} on stream {}", String::from_utf8_lossy(&buffer[..len]), info.stream);
            }
            // Comes once for the subscription, too.
            Event::Notification(Notification::SenderDry { .. }) => println!("everything is acknowledged"),
            Event::Notification(Notification::PeerShutDown { .. }) => println!("the peer shuts down"),
            other => println!("{other:?}"),
        }
    }
    if let Some(reason) = client.end_reason() {
        println!("over: {reason}");
    }
    server.handle().shutdown(Duration::from_secs(1));
    Ok(())
}
