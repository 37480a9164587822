//! Measures what a broadcast costs for each receiver, compared with plain sends of the same line. It checks
//! nothing: it prints figures, and servers/README.md quotes them.

#[path = "support/member.rs"]
mod member;
mod support;

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use member::{Member, client};
use peeloff::{Callbacks, Identity, Server};
use peeloff_servers::chat::hub::{Hub, Rules};
use peeloff_servers::chat::line::Line;
use peeloff_servers::chat::peers::{Chat, PeerOutlet};

const RECEIVERS: usize = 1000;
const ROUNDS: usize = 101;

/// A way to send one line to all members.
type Way<'a> = (&'a str, Box<dyn Fn() + 'a>);

#[test]
#[ignore = "a measurement: cargo test --release -p peeloff-servers --test chat_cost -- --ignored --nocapture"]
fn a_broadcast_beside_bare_sends() {
    peeloff::raise_fd_limit().unwrap();
    for url in ["udp://127.0.0.1:0", "dtls://127.0.0.1:0"] {
        let hub: Arc<Hub<PeerOutlet>> =
            Arc::new(Hub::new(Rules { announce_up_to: 0, ..Rules::default() }, None));
        let chat = Chat { hub: Arc::clone(&hub), room_streams: false, tls_streams: 1 };
        let builder = Server::builder().listen(url).identity(Identity::self_signed().unwrap());
        let server = builder.start(Callbacks::new(chat)).unwrap();
        let (client, address) = (client(), server.addresses()[0].to_string());
        let mut members: Vec<Member> = (0..RECEIVERS).map(|_| Member::come(&client, &address)).collect();
        // These sockets are like the server's: connected, one for each receiver.
        let receivers: Vec<UdpSocket> =
            (0..RECEIVERS).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let senders: Vec<UdpSocket> = receivers
            .iter()
            .map(|receiver| {
                receiver.set_nonblocking(true).unwrap();
                let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
                sender.connect(receiver.local_addr().unwrap()).unwrap();
                sender
            })
            .collect();

        let lobby = hub.room(&hub.lobby()).unwrap();
        let occupants = lobby.members();
        assert_eq!(occupants.len(), RECEIVERS);
        let line = Line::said(lobby.name(), "alice", "what is said in a chat is often about this long");
        let ways: [Way<'_>; 3] = [
            ("broadcast", Box::new(|| Hub::broadcast(&lobby, &line, None))),
            (
                "a loop of Sender::try_send",
                Box::new(|| {
                    for occupant in occupants.iter() {
                        occupant.member.outlet.sender().try_send(&**line.bytes()).unwrap();
                    }
                }),
            ),
            (
                "a loop of send(2), in clear",
                Box::new(|| {
                    for sender in &senders {
                        sender.send(line.bytes()).unwrap();
                    }
                }),
            ),
        ];
        let mut times = ways.each_ref().map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for ((_, send), times) in ways.iter().zip(&mut times) {
                let began = Instant::now();
                send();
                times.push(began.elapsed());
                // Empty the receivers' sockets outside of the measurement, so that nothing piles up there.
                for member in &mut members {
                    while member.line_until(Instant::now()).is_some() {}
                }
                let mut buffer = [0; 2048];
                for receiver in &receivers {
                    while receiver.recv(&mut buffer).is_ok() {}
                }
            }
        }
        let medians = times.map(median);
        println!("{url}, {RECEIVERS} receivers, {} bytes:", line.bytes().len());
        for ((name, _), median) in ways.iter().zip(&medians) {
            let each = median.as_nanos() as f64 / RECEIVERS as f64 / 1000.0;
            let ratio = medians[0].as_secs_f64() / median.as_secs_f64();
            println!("  {name:30} {each:6.2} µs a receiver; a broadcast takes {ratio:.2} times that");
        }
        drop(ways);
        drop(members);
        server.handle().shutdown(Duration::from_secs(5));
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
