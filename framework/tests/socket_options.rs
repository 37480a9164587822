//! Options that the user's hook sets on a socket apply to the sockets in use, and if the hook fails, the socket
//! is not used.

#[path = "support/network.rs"]
#[allow(dead_code)]
mod network;
mod support;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use network::run_in_own_network;
use peeloff::{
    ConnectError, NewSocket, Refusal, Scheme, Server, SocketRole, Sockets, StartError, inherited_descriptor,
};
use socket2::SockRef;
use support::{Running, echo, exchange, quiet_panic};

/// What the hook received.
#[derive(Clone, Copy, Debug)]
struct Shown {
    number: RawFd,
    scheme: Scheme,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
}

/// A hook that sets options for each role, and remembers what it received last for each.
#[derive(Clone, Default)]
struct Hook(Arc<Mutex<Vec<(SocketRole, Shown)>>>);

impl Hook {
    fn set(&self, socket: &NewSocket<'_>) -> io::Result<()> {
        let (tos, buffer) = options_of(socket.role());
        let options = SockRef::from(socket);
        if socket.role() == SocketRole::Listener {
            let bound = options.local_addr()?.as_socket();
            assert_eq!(bound.map(|bound| bound.port()), Some(0), "it is not bound yet");
        }
        options.set_tos_v4(tos)?;
        options.set_recv_buffer_size(buffer)?;
        let number = socket.as_fd().as_raw_fd();
        let (scheme, local, peer) = (socket.scheme(), socket.local_address(), socket.peer_address());
        self.0.lock().unwrap().push((socket.role(), Shown { number, scheme, local, peer }));
        Ok(())
    }

    fn last(&self, role: SocketRole) -> Shown {
        let shown = self.0.lock().unwrap();
        shown.iter().rev().find(|(shown, _)| *shown == role).expect("a socket of this role").1
    }

    /// Checks that the socket in use has the options of its role.
    fn check(&self, role: SocketRole) -> Shown {
        let shown = self.last(role);
        let socket = inherited_descriptor(shown.number).unwrap();
        let socket = SockRef::from(&socket);
        let (tos, buffer) = options_of(role);
        // The lower two bits are ECN's, which SCTP sets by itself.
        assert_eq!(socket.tos_v4().unwrap() & !3, tos, "{shown:?}");
        // Linux doubles the requested size for its own use.
        assert_eq!(socket.recv_buffer_size().unwrap(), 2 * buffer, "{shown:?}");
        shown
    }
}

fn options_of(role: SocketRole) -> (u32, usize) {
    match role {
        SocketRole::Listener => (8 << 2, 50_000),
        SocketRole::Peer => (16 << 2, 60_000),
        _ => (24 << 2, 70_000),
    }
}

fn options_hold(scheme: &str) {
    let (server_hook, client_hook) = (Hook::default(), Hook::default());
    let hook = server_hook.clone();
    let configure = |builder: peeloff::ServerBuilder| builder.socket_options(move |socket| hook.set(socket));
    let running = Running::echo_with(&format!("{scheme}://127.0.0.1:0"), configure);
    let hook = client_hook.clone();
    let client = running.client().socket_options(move |socket| hook.set(socket));
    let mut peer = client.connect(running.url()).unwrap();
    exchange(&mut peer, b"hello");

    let address = running.address();
    let listener = server_hook.check(SocketRole::Listener);
    assert_eq!((listener.local.map(|local| local.ip()), listener.peer), (Some(address.ip()), None));
    let child = server_hook.check(SocketRole::Peer);
    assert_eq!((child.local, child.peer), (Some(address), Some(peer.local_address())));
    let client = client_hook.check(SocketRole::Client);
    assert_eq!((client.local, client.peer), (None, Some(address)));
    for shown in [listener, child, client] {
        assert_eq!(shown.scheme.to_string(), scheme);
    }
}

#[test]
fn options_hold_on_every_socket_of_server_and_client() {
    ["udp", "dtls", "tcp", "tls"].into_iter().for_each(options_hold);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn options_hold_on_every_socket_of_sctp() {
    ["sctp", "sctp+tls", "sctp+dtls"].into_iter().for_each(options_hold);
}

#[test]
fn the_listener_on_the_address_that_was_asked_under_a_wildcard_has_the_options_of_listeners() {
    let hook = Hook::default();
    let set = hook.clone();
    let configure = |builder: peeloff::ServerBuilder| {
        builder.socket_options(move |socket| match socket.role() {
            // The port is known by now, so this listener is not the wildcard one.
            SocketRole::Listener if socket.local_address().is_some_and(|local| local.ip().is_loopback()) => {
                set.set(socket)
            }
            _ => Ok(()),
        })
    };
    let running = Running::echo_with("udp://0.0.0.0:0", configure);
    let address = SocketAddr::from(([127, 0, 0, 1], running.url().port));
    let mut peer = running.client().connect(format!("udp://{address}").as_str()).unwrap();
    exchange(&mut peer, b"hello");
    assert_eq!(hook.check(SocketRole::Listener).local, Some(address));
}

#[test]
fn tcp_connections_have_options_of_their_listener_and_udp_peers_do_not() {
    for (scheme, inherits) in [("tcp", true), ("udp", false)] {
        let hook = Hook::default();
        let set = hook.clone();
        let found = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&found);
        let configure = |builder: peeloff::ServerBuilder| {
            builder.socket_options(move |socket| match socket.role() {
                SocketRole::Listener => set.set(socket),
                _ => {
                    tell.lock().unwrap().push(SockRef::from(socket).tos_v4()?);
                    Ok(())
                }
            })
        };
        let running = Running::echo_with(&format!("{scheme}://127.0.0.1:0"), configure);
        exchange(&mut running.connect(), b"hello");
        let expected = if inherits { options_of(SocketRole::Listener).0 } else { 0 };
        assert_eq!(*found.lock().unwrap(), [expected], "{scheme}");
    }
}

fn fail(panics: bool) -> io::Result<()> {
    if panics { quiet_panic() } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

fn listener_fails(scheme: &str) {
    for (panics, why) in [(false, "Operation not permitted"), (true, "it panicked")] {
        let builder = Server::builder()
            .listen(format!("{scheme}://127.0.0.1:0").as_str())
            .socket_options(move |_| fail(panics));
        let error = builder.start(echo).unwrap_err();
        let StartError::SocketOptions { address, .. } = &error else { panic!("{error}") };
        assert!(address.ip().is_loopback());
        let text = error.to_string();
        assert!(text.contains(why) && text.contains("127.0.0.1"), "{text}");
    }
}

#[test]
fn a_server_does_not_start_where_the_hook_fails_for_its_listener() {
    ["udp", "tcp"].into_iter().for_each(listener_fails);
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_sctp_server_does_not_start_where_the_hook_fails_for_its_listener() {
    listener_fails("sctp");
}

/// Starts a server whose hook fails for peers' sockets while the flag is set.
fn failing(scheme: &str, panics: bool) -> (Running, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&fails);
    let configure = |builder: peeloff::ServerBuilder| {
        builder.socket_options(move |socket| {
            let fails = socket.role() == SocketRole::Peer && told.load(Ordering::SeqCst);
            if fails { fail(panics) } else { Ok(()) }
        })
    };
    (Running::echo_with(&format!("{scheme}://127.0.0.1:0"), configure), fails)
}

fn peer_is_refused(scheme: &str) {
    for panics in [false, true] {
        let (running, fails) = failing(scheme, panics);
        let refused = |stats: &peeloff::Stats| stats.refused(Refusal::SocketOptions) > 0;
        match running.client().connect(running.url()) {
            // The first message of a plain UDP peer opens the association.
            Ok(mut peer) => {
                let _ = peer.send(b"hello");
                running.until("the peer is refused", refused);
            }
            Err(error) => {
                assert!(scheme != "udp", "{error}");
                running.until("the peer is refused", refused);
            }
        }
        let stats = running.until("no peer is left", |stats| (stats.peers, stats.half_open) == (0, 0));
        assert_eq!(stats.opened, 0, "{scheme}: {stats:?}");
        assert_eq!(stats.handler_panics > 0, panics, "{scheme}: {stats:?}");
        fails.store(false, Ordering::SeqCst);
        exchange(&mut running.connect(), b"now");
        assert_eq!(running.stats().refused_total(), stats.refused(Refusal::SocketOptions));
    }
}

#[test]
fn a_peer_whose_socket_the_hook_fails_for_is_refused_and_the_next_one_is_not() {
    ["udp", "dtls", "tcp", "tls"].into_iter().for_each(peer_is_refused);
}

#[test]
fn a_connection_whose_socket_the_hook_fails_for_waits_for_no_header() {
    let builder =
        Server::builder().listen_proxied("tcp://127.0.0.1:0").socket_options(|socket| match socket.role() {
            SocketRole::Peer => fail(false),
            _ => Ok(()),
        });
    let server = builder.start(echo).unwrap();
    let address = server.addresses()[0].to_string();
    let mut connection = std::net::TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    // The connection is reset.
    assert!(!matches!(connection.read(&mut [0]), Ok(1..)));
    support::until("it is counted", || {
        let stats = server.handle().stats();
        let refused = stats.refused(Refusal::SocketOptions);
        ((stats.awaiting_header, stats.peers, refused) == (0, 0, 1)).then_some(())
    });
}

#[test]
#[ignore = "needs a kernel with SCTP; scripts/test runs it in one"]
fn an_sctp_peer_whose_socket_the_hook_fails_for_is_refused_and_the_next_one_is_not() {
    ["sctp", "sctp+dtls"].into_iter().for_each(peer_is_refused);
}

#[test]
fn a_dtls_client_is_told_that_the_hook_failed_for_its_socket() {
    let (running, _) = failing("dtls", false);
    let error = running.client().connect(running.url()).unwrap_err();
    let ConnectError::Handshake { why, .. } = error else { panic!("{error}") };
    assert_eq!(why, "the peer sent alert 80 (internal_error)");
}

#[test]
fn a_client_does_not_connect_where_the_hook_fails() {
    let running = Running::echo("tcp://127.0.0.1:0");
    for scheme in ["udp", "tcp"] {
        let url = format!("{scheme}://{}", running.address());
        for panics in [false, true] {
            let client = running.client().socket_options(move |_| fail(panics));
            let error = client.connect(url.as_str()).unwrap_err();
            let ConnectError::SocketOptions { peer, .. } = error else { panic!("{error}") };
            assert_eq!(peer, running.address());
        }
    }
    assert_eq!(running.stats().connections, 0);
}

/// The mark and the DSCP that the hook of the test below gives to sockets of this role.
fn labels_of(role: SocketRole) -> (u32, u32) {
    if role == SocketRole::Listener { (1, 8) } else { (2, 16) }
}

/// Drops all packets of the server on this port that have neither the labels of listeners nor those of peers'
/// sockets, and counts the others. The rules are those of nft(8).
fn allow_labelled(port: u16) {
    let count = |counter: &str, role| {
        let (mark, dscp) = labels_of(role);
        format!("add rule ip t c meta mark {mark} ip dscp {dscp} counter name {counter} accept;")
    };
    nft(&format!(
        "add table ip t; flush table ip t; delete table ip t; add table ip t; \
         add counter ip t listener; add counter ip t peer; \
         add chain ip t c {{ type filter hook output priority 0; }}; \
         add rule ip t c meta l4proto != {{ tcp, udp }} accept; add rule ip t c th sport != {port} accept; \
         {} {} add rule ip t c drop",
        count("listener", SocketRole::Listener),
        count("peer", SocketRole::Peer),
    ));
}

fn nft(rules: &str) -> String {
    let done = Command::new("nft").arg(rules).output().expect("nft");
    assert!(done.status.success(), "{rules}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Returns how many packets this counter has counted.
fn counted(counter: &str) -> u64 {
    let listed = nft(&format!("list counter ip t {counter}"));
    let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{listed}"))
}

#[test]
fn packets_carry_the_mark_and_the_dscp_of_the_socket_that_sends_them() {
    if run_in_own_network("packets_carry_the_mark_and_the_dscp_of_the_socket_that_sends_them") {
        return;
    }
    for scheme in ["udp", "dtls", "tcp", "tls"] {
        for sockets in [Sockets::PerPeer, Sockets::Shared] {
            let configure = |builder: peeloff::ServerBuilder| {
                builder.sockets(sockets).socket_options(|socket| {
                    let (mark, dscp) = labels_of(socket.role());
                    SockRef::from(socket).set_mark(mark)?;
                    SockRef::from(socket).set_tos_v4(dscp << 2)
                })
            };
            let running = Running::echo_with(&format!("{scheme}://127.0.0.1:0"), configure);
            allow_labelled(running.url().port);
            let mut peer = running.connect();
            let (by_listener, by_peer) = (counted("listener"), counted("peer"));
            exchange(&mut peer, b"hello");
            let shares = sockets == Sockets::Shared && matches!(scheme, "udp" | "dtls");
            let sent = (counted("listener") > by_listener, counted("peer") > by_peer);
            assert_eq!(sent, (shares, !shares), "{scheme} {sockets:?}");
        }
    }
}
