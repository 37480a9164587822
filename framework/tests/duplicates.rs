//! Networks that deliver datagrams twice.
//!
//! The plain `openssl s_client` completes its handshake but may then ignore its input, because its socket blocks.
//! When select(2) reports that a second copy of the server's last flight has arrived, the program calls
//! `SSL_read`, which drops the copy and waits in recvfrom(2) for the next datagram, even if there is input
//! meanwhile. It does the same with `openssl s_server`, and it does not do so with `-nbio`.

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/programs.rs"]
mod programs;
mod support;

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use faulty::{Fate, FaultyPath};
use peeloff::{Client, Error, Peer, Server};
use peeloff_certificates::{Authority, p256};
use programs::{Program, run, words};
use support::{DEADLINE, exchange};

/// The number of handshakes of each client.
const SEEDS: u64 = 16;
const LINE: &str = "hello over there";

/// Makes a path that delivers three in ten datagrams twice.
fn doubling(server: SocketAddr, seed: u64) -> FaultyPath {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    FaultyPath::to(server, move |_, _, _| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state % 10 < 3 { Fate::Twice } else { Fate::Pass }
    })
}

fn start(authority: &Authority, handler: impl peeloff::PeerHandler) -> (Server, SocketAddr) {
    let builder = Server::builder().listen("dtls://127.0.0.1:0");
    let server = builder.identity(authority.issue("server", &p256())).start(handler).unwrap();
    let address = server.addresses()[0].resolve().unwrap()[0];
    (server, address)
}

fn s_client(path: &FaultyPath, more: &[&str]) -> Vec<String> {
    let connect = format!("127.0.0.1:{}", path.url().port);
    words(&["s_client", "-dtls1_2", "-connect", &connect], more)
}

#[test]
fn every_client_gets_its_line_back_where_three_datagrams_in_ten_are_doubled() {
    let authority = Authority::new();
    let (server, address) = start(&authority, support::echo);
    for seed in 0..SEEDS {
        let path = doubling(address, seed);
        let (found, seen) = run("openssl", &s_client(&path, &["-quiet", "-nbio"]), LINE);
        assert!(found, "openssl, seed {seed}: {seen}");

        let path = doubling(address, seed);
        let port = path.url().port.to_string();
        let arguments = words(&["--udp", "--insecure", "-p", &port, "127.0.0.1"], &[]);
        let (found, seen) = run("gnutls-cli", &arguments, LINE);
        assert!(found, "gnutls-cli, seed {seed}: {seen}");

        let path = doubling(address, seed);
        let client = Client::builder().ca(authority.bundle()).timeout(DEADLINE);
        exchange(&mut client.connect(path.url()).unwrap(), LINE.as_bytes());
    }
    assert_eq!(server.handle().stats().handshakes, 3 * SEEDS);
    server.handle().shutdown(DEADLINE);
}

/// Sends from time to time until the peer sends a message, and reports that message.
fn speak(heard: Sender<Vec<u8>>) -> impl Fn(&mut Peer) -> Result<(), Error> {
    move |peer: &mut Peer| {
        let mut buffer = [0; 64];
        loop {
            peer.send(b"the server speaks\n")?;
            match peer.recv_timeout(&mut buffer, Duration::from_millis(200)) {
                Ok(None) => return Ok(()),
                Ok(Some(len)) => drop(heard.send(buffer[..len].to_vec())),
                Err(Error::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[test]
fn the_line_of_a_blocking_s_client_comes_through_doubled_flights_where_the_server_speaks_too() {
    let authority = Authority::new();
    let (sender, heard) = channel();
    let (server, address) = start(&authority, speak(sender));
    let (mut up, mut down) = (0, 0);
    let path = FaultyPath::to(address, move |_, to_server, _| {
        let number = if to_server { &mut up } else { &mut down };
        *number += 1;
        // The client's last flight, and the server's last two flights.
        if matches!((to_server, *number), (true, 3) | (false, 2 | 3)) { Fate::Twice } else { Fate::Pass }
    });
    let mut client = Program::start("openssl", &s_client(&path, &[]));
    client.expect("Verify return code");
    client.say(LINE);
    let line = heard.recv_timeout(DEADLINE).expect("the client's line");
    assert_eq!(String::from_utf8_lossy(&line).trim_end(), LINE);
    server.handle().shutdown(DEADLINE);
}
