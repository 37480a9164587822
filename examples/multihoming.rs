//! Several addresses of one host: an association uses one path, and continues over another if that path fails.
//!
//! A list in the URL names all addresses. The kernel reports changes of paths in notifications, and answers questions about them at
//! any time.
//!
//! ```text
//! cargo run -p peeloff-examples --bin multihoming
//! cargo run -p peeloff-examples --bin multihoming sctp://10.0.0.1,10.0.1.1:38412
//! ```

use std::time::Duration;

use peeloff::sctp::{Notification, NotificationKind};
use peeloff::{Client, Error, Event, Peer, Server};

fn echo(peer: &mut Peer) -> Result<(), Error> {
    let mut buffer = [0; 2048];
    while let Some(len) = peer.recv(&mut buffer)? {
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
    let address = std::env::args().nth(1).unwrap_or_else(|| "sctp://127.0.0.1,127.0.0.2:0".to_owned());
    let server = Server::builder().listen(address).start(echo)?;
    println!("listening {}", server.addresses()[0]);

    // Any of the addresses would do to begin with: the server tells the others.
    let mut client = Client::builder().connect(&server.addresses()[0])?;
    let mut sctp = client.sctp().ok_or("no association")?;
    sctp.subscribe(NotificationKind::PathChanged, true)?;
    // Makes another path the primary one, as an operator might; the kernel reports that, too.
    let other = *sctp.options()?.peer_addresses()?.last().ok_or("no addresses")?;
    sctp.options()?.set_primary(other)?;
    sctp.send(b"hello", &Default::default())?;

    let mut buffer = [0; 2048];
    while let Some(event) = sctp.recv_event_timeout(&mut buffer, Duration::from_secs(5))? {
        match event {
            Event::Notification(Notification::PathChanged { address, state, .. }) => {
                println!("{} is {state:?}", address.ip());
            }
            Event::Message(len, _) => {
                println!("{} came back", String::from_utf8_lossy(&buffer[..len]));
                break;
            }
            _ => {}
        }
    }
    for path in sctp.options()?.paths()? {
        println!("path {} is {:?}", path.address.ip(), path.reachability);
    }
    println!("primary {}", sctp.options()?.primary()?.ip());
    client.close();
    server.handle().shutdown(Duration::from_secs(1));
    Ok(())
}
