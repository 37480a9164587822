//! ClientHellos in every packing that RFC 6347 allows: any fragments, records and datagrams.

#[path = "support/programs.rs"]
mod programs;
#[path = "support/random.rs"]
mod random;
#[path = "support/raw_client.rs"]
#[allow(dead_code)]
mod raw_client;
mod support;

use std::net::UdpSocket;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use peeloff::{ClientAuth, Limits};
use programs::{KEY_HEX, port, run, serve, words};
use random::Random;
use raw_client::RawClient;
use support::{DEADLINE, Running, SetOnDrop, exchange};

/// Splits a hello into fragments, of which the first contains at least everything up to the cookie, and packs
/// them.
fn packed(random: &mut Random, client: &RawClient, number: u16, body: &[u8]) -> Vec<Vec<u8>> {
    const THROUGH_THE_COOKIE: usize = 2 + 32 + 1 + 1 + 32;
    let first = THROUGH_THE_COOKIE + random.below(body.len() - THROUGH_THE_COOKIE + 1);
    let mut cuts = vec![0, first];
    for _ in 0..random.below(5) {
        cuts.push(first + random.below(body.len() - first + 1));
    }
    cuts.push(body.len());
    cuts.sort_unstable();
    let mut pieces: Vec<_> =
        cuts.windows(2).map(|cut| client.fragment(number, body, cut[0]..cut[1])).collect();
    let mut datagrams = vec![pieces.remove(0)];
    while !pieces.is_empty() {
        // The others follow the first one in any order, some of them twice.
        let at = random.below(pieces.len());
        let piece = if random.below(5) == 0 { pieces[at].clone() } else { pieces.swap_remove(at) };
        match datagrams.last_mut() {
            Some(last) if random.below(2) == 0 => last.extend(piece),
            _ => datagrams.push(piece),
        }
    }
    datagrams
}

#[test]
fn any_packing_of_a_hello_gets_in() {
    let configure = |builder: peeloff::ServerBuilder| builder.limits(Limits::UNLIMITED);
    let running = Running::echo_with("dtls://127.0.0.1:0", configure);
    let mut random = Random(0x6347);
    // The peers stay connected, so that none gets the port of an earlier one, whose association it would replace.
    let clients: Vec<_> = (0..150).map(|_| RawClient::new([127, 0, 0, 1], running.address())).collect();
    for (round, client) in clients.iter().enumerate() {
        // With a post-quantum key share a hello has about 1,800 bytes.
        let padding = [0, 0, 700, 1700, 4000][round % 5];
        let first = client.hello_body(&[], padding);
        // The first fragment of the first hello is answered, whatever happens to the other fragments.
        let whole = client.fragment(0, &first, 0..40.min(first.len()) + random.below(first.len() - 40));
        client.send(&whole);
        let cookie = client.challenged(&whole);
        let second = client.hello_body(&cookie, padding);
        for datagram in packed(&mut random, client, 1, &second) {
            client.send(&datagram);
        }
        client.assert_served();
    }
    let stats = running.stats();
    assert_eq!((stats.opened, stats.peers), (150, 150), "{stats:?}");
    exchange(&mut running.connect(), b"and as usual");
}

#[test]
fn without_the_first_fragment_there_is_neither_an_answer_nor_a_peer() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let client = RawClient::new([127, 0, 0, 1], running.address());
    let cookie = client.challenge();
    let body = client.hello_body(&cookie, 300);
    client.send(&client.fragment(1, &body, 20..body.len()));
    client.send(&client.fragment(1, &body, 0..60));
    client.assert_silence();
    let stats = running.stats();
    assert_eq!((stats.opened, stats.peers, stats.hellos_too_short), (0, 0, 1), "{stats:?}");
}

#[test]
fn a_fragment_that_is_lost_comes_again_with_the_whole_hello() {
    let running = Running::echo("dtls://127.0.0.1:0");
    let client = RawClient::new([127, 0, 0, 1], running.address());
    let body = client.hello_body(&client.challenge(), 1500);
    let cuts = [0..600, 600..1200, 1200..body.len()];
    client.send(&client.fragment(1, &body, cuts[0].clone()));
    client.send(&client.fragment(1, &body, cuts[2].clone()));
    running.until("the association has begun", |stats| stats.opened == 1);
    for cut in cuts {
        client.send(&client.fragment(1, &body, cut));
    }
    client.assert_served();
    assert_eq!(running.stats().opened, 1);
}

/// A server name that makes a hello longer than a datagram of [`openssl_gets_in`].
fn long_name() -> String {
    ["a"; 60].concat() + "." + &["b"; 60].concat() + ".example"
}

/// Expects an echo for `openssl s_client`, which sends small datagrams.
fn openssl_gets_in(address: &str) {
    let name = &long_name();
    let small = ["s_client", "-dtls1_2", "-quiet", "-connect", address, "-mtu", "256", "-servername", name];
    let key = ["-psk_identity", "alice", "-psk", KEY_HEX];
    let (found, seen) = run("openssl", &words(&small, &key), "hello over there");
    assert!(found, "openssl: {seen}");
}

#[test]
fn openssl_and_gnutls_get_in_with_small_datagrams() {
    let server = serve("dtls://127.0.0.1:0", None, ClientAuth::None, support::echo);
    let port = port(&server);
    let connect = format!("127.0.0.1:{port}");
    let name = long_name();
    openssl_gets_in(&connect);
    let gnutls = [
        "--udp",
        "--mtu",
        "228",
        "-p",
        &port,
        "127.0.0.1",
        "--pskusername",
        "alice",
        "--pskkey",
        KEY_HEX,
        "--sni-hostname",
        &name,
        "--priority",
        "NORMAL:-KX-ALL:+PSK:-VERS-ALL:+VERS-DTLS1.2",
    ];
    let (found, seen) = run("gnutls-cli", &words(&gnutls, &[]), "hello over there");
    assert!(found, "gnutls-cli: {seen}");
    server.handle().shutdown(DEADLINE);
}

#[test]
fn mbed_tls_gets_in_with_a_hello_in_two_records_of_one_datagram() {
    let python = std::env::var("PEELOFF_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/mbedtls_fragments.py");
    let server = serve("dtls://127.0.0.1:0", None, ClientAuth::None, support::echo);
    let arguments = [script, "127.0.0.1", &port(&server), KEY_HEX].map(str::to_owned);
    let (found, seen) = run(&python, &arguments, "hello from mbedtls");
    assert!(found, "python-mbedtls must be installed for {python} (scripts/test does it): {seen}");
    server.handle().shutdown(DEADLINE);
}

#[test]
fn fragments_that_are_joined_on_the_way_get_in() {
    let server = serve("dtls://127.0.0.1:0", None, ClientAuth::None, support::echo);
    let stop = AtomicBool::new(false);
    // The path joins the datagrams that the client sends within a moment into one.
    let (near, far) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    far.connect(format!("127.0.0.1:{}", port(&server))).unwrap();
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    }
    let connect = near.local_addr().unwrap().to_string();
    let client = OnceLock::new();
    let (client, near, far, stop) = (&client, &near, &far, &stop);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                let mut joined = Vec::new();
                while let Ok((len, source)) = near.recv_from(&mut buffer) {
                    client.get_or_init(|| source);
                    joined.extend_from_slice(&buffer[..len]);
                }
                if !joined.is_empty() {
                    far.send(&joined).unwrap();
                }
            }
        });
        scope.spawn(move || {
            let mut buffer = [0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if let (Ok(len), Some(client)) = (far.recv(&mut buffer), client.get()) {
                    near.send_to(&buffer[..len], client).unwrap();
                }
            }
        });
        let _stop = SetOnDrop(stop);
        openssl_gets_in(&connect);
    });
    server.handle().shutdown(DEADLINE);
}
