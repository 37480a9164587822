//! Listeners that the user has made and bound: every scheme is served on them, and unsuitable sockets are
//! refused.

mod support;

use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use peeloff::{
    CaBundle, Error, Identity, Peer, PeerHandler, Scheme, Server, StartError, inherited_descriptor, sctp,
};
use socket2::{Domain, SockRef, Socket, Type};
use support::{DEADLINE, Running, echo, exchange};

const STREAMS: [Scheme; 2] = [Scheme::Tcp, Scheme::Tls];
const DATAGRAMS: [Scheme; 2] = [Scheme::Udp, Scheme::Dtls];

fn serve(scheme: Scheme, socket: impl Into<OwnedFd>) -> Running {
    serve_with(scheme, socket, echo)
}

fn serve_with(scheme: Scheme, socket: impl Into<OwnedFd>, handler: impl PeerHandler) -> Running {
    let identity = Identity::self_signed().unwrap();
    let trust = CaBundle::from_pem(&identity.certificate_pem()).unwrap();
    let builder = Server::builder().listen_on(scheme, socket).identity(identity);
    Running { server: builder.start(handler).unwrap(), trust }
}

fn socket(scheme: Scheme, address: &str) -> OwnedFd {
    match scheme {
        Scheme::Udp | Scheme::Dtls => UdpSocket::bind(address).unwrap().into(),
        _ => TcpListener::bind(address).unwrap().into(),
    }
}

fn address_of(socket: &OwnedFd) -> SocketAddr {
    SockRef::from(socket).local_addr().unwrap().as_socket().unwrap()
}

/// Connects several peers, which must all be served from the address that they used.
fn talk(running: &Running, host: &str) {
    let url = format!("{}://{host}:{}", running.url().scheme, running.url().port);
    // The certificate is for localhost and its usual addresses.
    let client = running.client().server_name("localhost");
    let mut peers: Vec<_> = (0..5).map(|_| client.connect(url.as_str()).unwrap()).collect();
    for peer in &mut peers {
        exchange(peer, b"hello");
    }
    for peer in &mut peers {
        exchange(peer, b"again");
    }
}

#[test]
fn every_scheme_is_served_on_a_socket_that_the_user_bound() {
    for scheme in [STREAMS, DATAGRAMS].concat() {
        let socket = socket(scheme, "127.0.0.1:0");
        let address = address_of(&socket);
        let running = serve(scheme, socket);
        assert_eq!(running.url().to_string(), format!("{scheme}://{address}"));
        talk(&running, "127.0.0.1");
        let stats = running.stats();
        assert_eq!((stats.children_by_group, stats.strays_lost), (0, 0), "{stats:?}");
        let children = if DATAGRAMS.contains(&scheme) { 5 } else { 0 };
        assert_eq!(stats.children_by_wildcard, children, "{stats:?}");
    }
}

#[test]
fn a_wildcard_that_the_user_bound_serves_every_address() {
    for scheme in [STREAMS, DATAGRAMS].concat() {
        let running = serve(scheme, socket(scheme, "0.0.0.0:0"));
        talk(&running, "127.0.0.1");
        talk(&running, "127.0.0.5");
        // This socket is dual-stack, which is Linux's default.
        let running = serve(scheme, socket(scheme, "[::]:0"));
        talk(&running, "[::1]");
        talk(&running, "127.0.0.5");
    }
}

#[test]
fn an_address_that_routing_would_not_choose_is_served_on_a_socket_that_the_user_bound() {
    for scheme in DATAGRAMS {
        let running = serve(scheme, socket(scheme, "127.0.0.5:0"));
        talk(&running, "127.0.0.5");
        let stats = running.stats();
        // The SO_REUSEPORT group of a bound socket cannot be changed.
        assert_eq!((stats.children_unguarded, stats.strays_lost), (5, 0), "{stats:?}");
    }
}

#[test]
fn a_socket_that_others_share_by_reuseport_is_served_and_leaves_them_their_part() {
    let bind = |address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        UdpSocket::from(socket)
    };
    let ours = bind(([127, 0, 0, 1], 0).into());
    let address = ours.local_addr().unwrap();
    let theirs = bind(address);
    theirs.set_nonblocking(true).unwrap();
    let running = serve(Scheme::Udp, ours);
    let peers: Vec<_> = (0..64).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for peer in &peers {
        peer.send_to(b"hello", address).unwrap();
    }
    // The kernel's hash gives some of them to each socket; it is practically impossible that all 64 go to one.
    let mut elsewhere = 0;
    while theirs.recv_from(&mut [0; 8]).is_ok() {
        elsewhere += 1;
    }
    assert!((1..64).contains(&elsewhere), "{elsewhere} of 64 were theirs");
    running.until("the others are peers", |stats| stats.opened == 64 - elsewhere);
}

#[test]
fn a_datagram_that_arrived_before_the_start_is_answered_from_the_address_it_was_sent_to() {
    for (bound, host) in [("0.0.0.0:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.5"), ("[::]:0", "127.0.0.5")] {
        let listener = UdpSocket::bind(bound).unwrap();
        let address = SocketAddr::new(host.parse().unwrap(), listener.local_addr().unwrap().port());
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        peer.connect(address).unwrap();
        peer.send(b"early").unwrap();
        let running = serve(Scheme::Udp, listener);
        let mut answer = [0; 16];
        for message in [b"early", b"after"] {
            let len = peer.recv(&mut answer).unwrap();
            assert_eq!(&answer[..len], message, "{bound} {host}");
            peer.send(b"after").unwrap();
        }
        assert_eq!(running.stats().opened, 1);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.write_all(b"early").unwrap();
    let _running = serve(Scheme::Tcp, listener);
    let mut answer = [0; 5];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"early");
}

#[test]
fn a_tcp_socket_that_does_not_listen_yet_is_made_to() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    talk(&serve(Scheme::Tcp, socket), "127.0.0.1");
}

#[test]
fn a_socket_of_the_users_behind_a_proxy_has_a_proxy_header() {
    fn who(peer: &mut Peer) -> Result<(), Error> {
        let who = peer.peer_address().to_string();
        peer.send(who.as_bytes())?;
        Ok(())
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let builder = Server::builder().listen_proxied_on(Scheme::Tcp, listener);
    let _server = builder.start(who as fn(&mut Peer) -> _).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x10\0\x11\x51")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "192.0.2.1:4096");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = Server::builder().listen_proxied_on(Scheme::Udp, socket).start(echo).unwrap_err();
    assert!(matches!(error, StartError::NoProxy { scheme: Scheme::Udp }), "{error}");
}

#[test]
fn the_socket_is_closed_when_the_server_shuts_down() {
    for scheme in [Scheme::Udp, Scheme::Tcp] {
        let socket = socket(scheme, "127.0.0.1:0");
        let address = address_of(&socket);
        // This is how a socket that a parent has left to this process is taken.
        let taken = inherited_descriptor(socket.as_raw_fd()).unwrap();
        drop(socket);
        let running = serve(scheme, taken);
        if scheme == Scheme::Udp {
            UdpSocket::bind(address).unwrap_err();
        } else {
            drop(TcpStream::connect(address).unwrap());
        }
        drop(running);
        match scheme {
            Scheme::Udp => drop(UdpSocket::bind(address).unwrap()),
            _ => drop(TcpStream::connect(address).unwrap_err()),
        }
    }
}

fn refusal(scheme: Scheme, socket: impl Into<OwnedFd>) -> String {
    let builder = Server::builder().identity(Identity::self_signed().unwrap()).listen_on(scheme, socket);
    match builder.start(echo).unwrap_err() {
        error @ StartError::UnfitSocket { .. } => error.to_string(),
        error => panic!("{error}"),
    }
}

fn assert_refused(scheme: Scheme, socket: impl Into<OwnedFd>, why: &str) {
    let error = refusal(scheme, socket);
    let beginning = format!("the socket that was given for {scheme}:// cannot be its listener: ");
    assert!(error.starts_with(&beginning) && error.contains(why), "{error}");
}

#[test]
fn a_socket_of_the_wrong_kind_is_refused() {
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    for scheme in [Scheme::Tcp, Scheme::Tls] {
        assert_refused(scheme, udp(), "a socket of UDP (SOCK_DGRAM), and this scheme takes a socket of TCP");
    }
    for scheme in [Scheme::Udp, Scheme::Dtls] {
        assert_refused(scheme, tcp(), "a socket of TCP (SOCK_STREAM), and this scheme takes a socket of UDP");
    }
    for scheme in [Scheme::Sctp, Scheme::SctpTls, Scheme::SctpDtls] {
        assert_refused(scheme, tcp(), "takes a one-to-many socket of SCTP (SOCK_SEQPACKET)");
    }
    assert_refused(Scheme::Udp, UnixDatagram::unbound().unwrap(), "AF_INET");
    assert_refused(Scheme::Udp, std::fs::File::open("/dev/null").unwrap(), "it is not a socket");
}

#[test]
fn a_udp_socket_that_is_bound_to_a_device_is_refused() {
    let socket = Socket::from(socket(Scheme::Udp, "127.0.0.1:0"));
    socket.bind_device(Some(b"lo")).unwrap();
    assert_refused(Scheme::Udp, socket, "socket_options");
}

#[test]
fn peers_do_not_inherit_a_close_that_resets() {
    let listener = Socket::from(socket(Scheme::Tcp, "127.0.0.1:0"));
    listener.set_linger(Some(Duration::ZERO)).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let running = serve_with(Scheme::Tcp, listener, |peer: &mut Peer| peer.send(b"all of it"));
    let mut text = String::new();
    std::net::TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "all of it");
    drop(running);
}

#[test]
fn a_socket_that_is_no_listener_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert_refused(Scheme::Tcp, TcpStream::connect(address).unwrap(), "connected to a peer");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    assert_refused(Scheme::Udp, socket, "connected to a peer");
    for (scheme, kind) in [(Scheme::Udp, Type::DGRAM), (Scheme::Tcp, Type::STREAM)] {
        let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
        assert_refused(scheme, socket, "not bound to a port");
    }
    let socket = UdpSocket::bind("[::ffff:127.0.0.1]:0").unwrap();
    assert_refused(Scheme::Udp, socket, "make a socket of AF_INET");
}

/// Runs the ignored test below under this command, with a socket as its standard input.
fn refusal_under(command: &[&str], socket: OwnedFd) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "a_server_on_the_standard_input", "--ignored", "--nocapture"])
        .stdin(Stdio::from(socket))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
#[ignore = "run by the tests of refused sockets in this file, which give it a socket"]
fn a_server_on_the_standard_input() {
    let socket = inherited_descriptor(0).unwrap();
    println!("{}", refusal(Scheme::Udp, socket));
}

#[test]
fn a_udp_socket_of_another_network_is_refused() {
    let socket = socket(Scheme::Udp, "127.0.0.1:0");
    let said = refusal_under(&["unshare", "--net"], socket);
    assert!(said.contains("another network namespace"), "{said}");
}

#[test]
fn a_udp_socket_whose_port_its_peers_may_not_share_is_refused() {
    // Some privileged port is free at an address that no other test uses.
    let mut free = (1..1024).filter_map(|port| UdpSocket::bind(("127.0.0.77", port)).ok());
    let socket = free.next().expect("a privileged port");
    let without = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
    let said = refusal_under(&without, socket.into());
    assert!(said.contains("CAP_NET_BIND_SERVICE"), "{said}");
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn sctp_is_served_on_a_socket_that_the_user_bound() {
    for scheme in [Scheme::Sctp, Scheme::SctpTls, Scheme::SctpDtls] {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let bound: SocketAddr = bound.parse().unwrap();
            let socket = sctp::Socket::one_to_many(bound.is_ipv6()).unwrap();
            socket.bind(&[bound]).unwrap();
            if bound.ip().is_loopback() {
                socket.listen(8).unwrap();
            }
            let port = socket.local_addr().unwrap().port();
            let running = serve(scheme, socket);
            assert_eq!(running.url().resolve().unwrap(), [SocketAddr::new(bound.ip(), port)]);
            talk(&running, "127.0.0.1");
        }
    }
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_sctp_association_that_came_before_the_start_is_served() {
    fn greet(peer: &mut Peer) -> Result<(), Error> {
        peer.send(b"welcome")?;
        echo(peer)
    }
    let socket = sctp::Socket::one_to_many(false).unwrap();
    socket.bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    socket.listen(8).unwrap();
    let client = sctp::Socket::one_to_one(false).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    // This peer sends nothing first, so no message announces it.
    client.connect(&[socket.local_addr().unwrap()]).unwrap();
    let running = serve_with(Scheme::Sctp, socket, greet as fn(&mut Peer) -> _);
    let mut answer = [0; 16];
    let received = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..received.len], b"welcome");
    client.send(b"hello", &sctp::SendInfo::default()).unwrap();
    let received = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..received.len], b"hello");
    assert_eq!(running.stats().opened, 1);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn a_one_to_one_socket_of_sctp_is_refused() {
    let socket = sctp::Socket::one_to_one(false).unwrap();
    socket.bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    assert_refused(Scheme::Sctp, socket, "it is a one-to-one socket of SCTP (SOCK_STREAM)");
}
