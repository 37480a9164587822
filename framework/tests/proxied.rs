//! Peers behind a proxy, which reports their addresses.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use peeloff::{Admission, EndKind, HandlerError, Incoming, Limits, Peer, PeerHandler, Refusal, Timeouts};
use support::{DEADLINE, Running, echo};

const BOTH: [&str; 2] = ["tcp://127.0.0.1:0", "tls://127.0.0.1:0"];

/// Makes a connection in clear that fails after a timeout instead of hanging.
fn connect(running: &Running) -> TcpStream {
    connect_to(running.address())
}

fn connect_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

struct Picky;

impl PeerHandler for Picky {
    fn admit(&self, incoming: &Incoming) -> Admission {
        match incoming.peer_address().to_string().starts_with("192.0.2.66:") {
            true => Admission::Refuse,
            false => Admission::Accept,
        }
    }

    fn handle(&self, peer: &mut Peer) -> Result<(), HandlerError> {
        peer.send(format!("{} {}\n", peer.peer_address(), peer.local_address()).as_bytes())?;
        Ok(echo(peer)?)
    }
}

/// Makes a header for a peer whose address ends with this octet.
fn header(last: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    header.extend_from_slice(&[192, 0, 2, last, 198, 51, 100, 1, 0x10, 0, 0x11, 0x51]);
    // The header has a value of type NOOP, which must be skipped.
    header.extend_from_slice(&[4, 0, 1, 0]);
    header
}

fn proxied(url: &str, limits: Limits) -> Running {
    let identity = peeloff::Identity::self_signed().unwrap();
    let trust = peeloff::CaBundle::from_pem(&identity.certificate_pem()).unwrap();
    let mut timeouts = Timeouts::default();
    timeouts.proxy_header = Duration::from_secs(2);
    let builder = peeloff::Server::builder().identity(identity).limits(limits).timeouts(timeouts);
    Running { server: builder.listen_proxied(url).start(Picky).unwrap(), trust }
}

#[test]
fn a_proxy_says_who_is_behind_it() {
    let limits = Limits::default().max_peers_per_source(2).exempt_loopback(false);
    let running = proxied(BOTH[0], limits);
    let open = |last: u8| {
        let mut stream = connect(&running);
        // The header arrives in several pieces.
        for piece in header(last).chunks(5) {
            stream.write_all(piece).unwrap();
        }
        // A refused connection may have been reset by now.
        let _ = stream.write_all(b"hello");
        let mut answer = [0; 64];
        let len = stream.read(&mut answer).unwrap_or(0);
        (stream, String::from_utf8_lossy(&answer[..len]).into_owned())
    };
    let (_first, answer) = open(1);
    assert!(answer.starts_with("192.0.2.1:4096 198.51.100.1:4433\n"), "{answer}");
    // The limits and the handler are applied to the peers behind the proxy.
    let (second, _) = open(1);
    assert_eq!(open(1).1, "");
    let (_other, answer) = open(2);
    assert!(answer.starts_with("192.0.2.2:"), "{answer}");
    assert_eq!(open(66).1, "");
    let stats = running.until("the refused are gone", |stats| stats.peers == 3);
    assert_eq!(stats.refused(Refusal::MaxPeersPerSource), 1);
    assert_eq!(stats.refused(Refusal::Handler), 1);
    drop(second);
    running.until("there is room", |stats| stats.peers == 2);
    assert!(open(1).1.starts_with("192.0.2.1:"));
}

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let running = proxied(BOTH[1], Limits::default());
    let mut stream = connect(&running);
    stream.write_all(&header(9)).unwrap();
    let mut context = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).unwrap();
    context.set_verify(openssl::ssl::SslVerifyMode::NONE);
    let mut stream = context.build().connect("localhost", stream).unwrap();
    let mut answer = [0; 64];
    let len = stream.read(&mut answer).unwrap();
    assert!(answer[..len].starts_with(b"192.0.2.9:4096"));
}

#[test]
fn a_proxy_that_lies_or_is_silent_is_cut_off_and_counted() {
    let running = proxied(BOTH[0], Limits::default());
    let mut lie = header(1);
    lie[12] = 0x2f;
    let mut long = header(1);
    long[14..16].copy_from_slice(&[0xff, 0xff]);
    let mut short = header(1);
    short[14..16].copy_from_slice(&[0, 4]);
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &lie, &long, &short] {
        let mut stream = connect(&running);
        stream.write_all(bytes).unwrap();
        assert!(matches!(stream.read(&mut [0; 8]), Err(_) | Ok(0)));
    }
    let mut silent = connect(&running);
    silent.write_all(&header(1)[..20]).unwrap();
    assert!(matches!(silent.read(&mut [0; 8]), Err(_) | Ok(0)));
    let stats = running.until("all are gone", |stats| stats.peers == 0 && stats.awaiting_header == 0);
    assert_eq!((stats.proxy_headers_refused, stats.ended(EndKind::HandshakeFailed)), (5, 5));
}

#[test]
fn half_headers_take_no_place_of_another_listener_nor_of_a_handshake() {
    const HALF: usize = 1200;
    const MOST: usize = 512;
    let identity = peeloff::Identity::self_signed().unwrap();
    let trust = peeloff::CaBundle::from_pem(&identity.certificate_pem()).unwrap();
    let mut timeouts = Timeouts::default();
    timeouts.proxy_header = DEADLINE;
    let builder = peeloff::Server::builder()
        .identity(identity)
        .timeouts(timeouts)
        .listen(BOTH[1])
        .listen_proxied(BOTH[0])
        .listen_proxied(BOTH[1]);
    let running = Running { server: builder.start(Picky).unwrap(), trust };
    let [tcp, tls] = [1, 2].map(|index| running.server.addresses()[index].resolve().unwrap()[0]);
    // This connection to another proxied listener is older than all the others.
    let mut other = connect_to(tls);
    other.write_all(&header(7)[..8]).unwrap();
    running.until("it waits", |stats| stats.awaiting_header == 1);
    let half: Vec<TcpStream> = (0..HALF)
        .map(|_| {
            let mut stream = connect_to(tcp);
            stream.write_all(&header(1)[..8]).unwrap();
            stream
        })
        .collect();
    let stats =
        running.until("the oldest made way", |stats| stats.ended(EndKind::Evicted) == (HALF - MOST) as u64);
    assert_eq!((stats.awaiting_header, stats.half_open), (MOST as u64 + 1, 0));
    for mut peer in (0..20).map(|_| running.connect()) {
        assert!(peer.recv_timeout(&mut [0; 64], DEADLINE).unwrap().is_some());
    }
    // The header does not keep peers behind an honest proxy waiting either.
    other.write_all(&header(7)[8..]).unwrap();
    let mut context = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls()).unwrap();
    context.set_verify(openssl::ssl::SslVerifyMode::NONE);
    assert!(context.build().connect("localhost", other).unwrap().read(&mut [0; 64]).unwrap() > 0);
    let mut honest = connect_to(tcp);
    honest.write_all(&header(9)).unwrap();
    assert!(honest.read(&mut [0; 64]).unwrap() > 0);
    let stats = running.stats();
    assert_eq!((stats.refused_total(), stats.proxy_headers_refused), (0, 0));
    drop(half);
    running.until("none waits", |stats| stats.awaiting_header == 0);
}
