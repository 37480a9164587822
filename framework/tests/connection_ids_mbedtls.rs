//! Connection IDs (RFC 9146) with clients and servers of Mbed TLS 3.6, which does not support return routability
//! checks.
//!
//! The test peer is `mbedtls_cid/peer.c`. `scripts/mbedtls` builds it, and PEELOFF_MBEDTLS contains its path.
//! Debian's library supports connection IDs of up to 32 bytes; longer ones are tested between peeloff's own
//! client and server.

#[path = "support/nat.rs"]
#[allow(dead_code)]
mod nat;
#[path = "support/programs.rs"]
mod programs;
mod support;

use std::net::UdpSocket;
use std::time::Duration;

use nat::Nat;
use peeloff::{Address, Client, ConnectionIds, Scheme, Server};
use programs::{KEY, Program};
use support::{DEADLINE, echo, exchange, until};

/// The lengths of the connection IDs that Mbed TLS requests.
const LENGTHS: [usize; 4] = [0, 1, 8, 32];

/// Starts the program with Mbed TLS. Returns none if PEELOFF_MBEDTLS is not set.
fn mbedtls(arguments: &[&str]) -> Option<Program> {
    match std::env::var("PEELOFF_MBEDTLS") {
        Ok(program) => Some(Program::start(&program, arguments)),
        Err(_) => {
            eprintln!(
                "SKIPPED: PEELOFF_MBEDTLS is not set; scripts/test sets it to what scripts/mbedtls prints"
            );
            None
        }
    }
}

fn ids(length: usize) -> ConnectionIds {
    ConnectionIds::new(length).unwrap()
}

/// Starts an echo server that gives such connection IDs.
fn serve(ids: ConnectionIds) -> Server {
    let builder = Server::builder().listen("dtls://127.0.0.1:0").connection_ids(ids);
    builder.psk(|identity| (identity == b"alice").then(|| KEY.to_vec())).start(echo).unwrap()
}

/// Makes a client send a line, and waits for the echo.
fn say(client: &mut Program, text: &str) {
    client.say(&format!("send {text}"));
    client.expect(&format!("got {text}"));
}

#[test]
fn a_client_of_mbed_tls_is_followed_to_other_ports() {
    for length in LENGTHS {
        let server = serve(ids(8).follow_unchecked(true));
        let port = programs::port(&server);
        let Some(mut client) = mbedtls(&["client", &port, &length.to_string()]) else { return };
        client.expect(&format!("open {length} 8"));
        say(&mut client, "here");
        for round in 0..3 {
            client.say("port");
            client.expect("port ");
            say(&mut client, &format!("there {round}"));
            say(&mut client, &format!("again {round}"));
        }
        let stats = server.handle().stats();
        assert_eq!((stats.opened, stats.connection_ids, stats.addresses_changed), (1, 1, 3), "{length}");
        client.say("quit");
        until("the client has left", || (server.handle().stats().peers == 0).then_some(()));
        server.handle().shutdown(DEADLINE);
    }
}

#[test]
fn a_client_that_cannot_be_checked_is_answered_at_its_old_port() {
    let server = serve(ids(8));
    let port = programs::port(&server);
    let Some(mut client) = mbedtls(&["client", &port, "8"]) else { return };
    client.expect("open 8 8");
    say(&mut client, "here");
    client.say("port");
    client.expect("port ");
    client.say("send there");
    // The server receives its records from the new port, again and again, and sends its answers to the old one.
    let stats = until("it is heard", || Some(server.handle().stats()).filter(|stats| stats.forwarded >= 3));
    assert_eq!((stats.addresses_changed, stats.address_changes_refused, stats.opened), (0, 1, 1));
}

#[test]
fn a_client_of_mbed_tls_is_followed_through_loss_and_reordering() {
    let server = serve(ids(8).follow_unchecked(true));
    let mut nat = Nat::to(server.addresses()[0].resolve().unwrap()[0]);
    nat.set_faults(15, 15);
    let port = nat.address().port().to_string();
    let Some(mut client) = mbedtls(&["client", &port, "1"]) else { return };
    client.expect("open 1 8");
    for round in 0..6 {
        say(&mut client, &format!("number {round}"));
        nat.rebind(0);
    }
    say(&mut client, "the last");
    let stats = server.handle().stats();
    assert_eq!((stats.opened, stats.peers), (1, 1));
    assert!(stats.addresses_changed >= 6, "{stats:?}");
}

#[test]
fn old_replayed_and_forged_records_of_mbed_tls_from_elsewhere_change_nothing() {
    let server = serve(ids(8).follow_unchecked(true));
    let address = server.addresses()[0].resolve().unwrap()[0];
    let nat = Nat::to(address);
    let port = nat.address().port().to_string();
    let Some(mut client) = mbedtls(&["client", &port, "8"]) else { return };
    client.expect("open 8 8");
    say(&mut client, "first");
    // This record is held back, and so are the following ones, until the client sends it again.
    nat.cut(true);
    let sent = nat.passed().len();
    client.say("send second");
    let old = until("the record is held back", || nat.passed().get(sent).cloned());
    nat.cut(false);
    client.expect("got second");
    let replayed = nat.passed().pop().unwrap();
    let mut forged = replayed.clone();
    *forged.last_mut().unwrap() ^= 1;
    forged[10] = 200;
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    elsewhere.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    for datagram in [&replayed, &forged, &old] {
        elsewhere.send_to(datagram, address).unwrap();
    }
    assert!(elsewhere.recv(&mut [0; 2048]).is_err(), "nothing is sent elsewhere");
    say(&mut client, "third");
    let stats = server.handle().stats();
    assert_eq!((stats.forwarded, stats.records_forged), (3, 1));
    assert_eq!((stats.addresses_changed, stats.address_changes_refused, stats.opened), (0, 0, 1));
}

#[test]
fn a_client_of_ours_changes_its_port_before_a_server_of_mbed_tls() {
    for length in LENGTHS {
        for own in [0, 8, 32] {
            let Some(mut server) = mbedtls(&["server", &length.to_string()]) else { return };
            let port = server.expect("port ");
            let port: u16 = port.trim_start_matches("port ").parse().unwrap();
            let address = Address::from_socket(Scheme::Dtls, ([127, 0, 0, 1], port).into());
            let client = Client::builder().psk(b"alice", KEY).timeout(DEADLINE).connection_ids(ids(own));
            let mut peer = client.connect(address).unwrap();
            // Mbed TLS treats two empty IDs as none.
            match (length, own) {
                (0, 0) => server.expect("open -1 -1"),
                _ => server.expect(&format!("open {length} {own}")),
            };
            exchange(&mut peer, b"here");
            for _ in 0..if length > 0 { 3 } else { 0 } {
                peer.change_port().unwrap();
                exchange(&mut peer, b"there");
            }
            peer.close();
            server.expect("closed");
        }
    }
}
