//! Peers whom the host cannot reach for a while, because of a route or a firewall rule: datagrams are lost, and a
//! connection ends when the kernel gives it up.

#[path = "support/network.rs"]
#[allow(dead_code)]
mod network;
mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use network::run_in_own_network;
use peeloff::{Client, ConnectError, EndKind, EndReason, Error, Peer, ServerBuilder, SocketRole, Sockets};
use socket2::SockRef;
use support::{DEADLINE, Running, echo, exchange, until};

/// The client's address. The server is at 127.0.0.1.
const CLIENT: &str = "127.0.0.2";

/// Commands that keep the server from sending to the client, the errno of a send meanwhile, and commands that allow
/// it again.
const OUTAGES: [(&str, i32, &str); 4] = [
    (
        "ip route add unreachable 127.0.0.2 table local",
        libc::EHOSTUNREACH,
        "ip route del 127.0.0.2 table local",
    ),
    ("ip route add prohibit 127.0.0.2 table local", libc::EACCES, "ip route del 127.0.0.2 table local"),
    ("ip route add blackhole 127.0.0.2 table local", libc::EINVAL, "ip route del 127.0.0.2 table local"),
    (
        "nft add table t; add chain t c { type filter hook output priority 0; }; add rule t c ip daddr 127.0.0.2 drop",
        libc::EPERM,
        "nft delete table t",
    ),
];

/// Loses the packets to the client after they have left the server.
const LOSE_PACKETS: &str = "nft add table lossy; add chain lossy c { type filter hook input priority 0; }; \
    add rule lossy c ip daddr 127.0.0.2 drop";

fn run(command: &str) {
    let (program, arguments) = command.split_once(' ').unwrap();
    let arguments = if program == "nft" { vec![arguments] } else { arguments.split(' ').collect() };
    let done = Command::new(program).args(arguments).output().expect(program);
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn datagrams_to_a_peer_without_a_route_are_lost_and_the_association_goes_on() {
    if run_in_own_network("datagrams_to_a_peer_without_a_route_are_lost_and_the_association_goes_on") {
        return;
    }
    for scheme in ["udp", "dtls"] {
        for sockets in [Sockets::PerPeer, Sockets::Shared] {
            let url = format!("{scheme}://127.0.0.1:0");
            let running = Running::echo_with(&url, |builder| builder.sockets(sockets));
            let client = running.client().bind(SocketAddr::new(CLIENT.parse().unwrap(), 0));
            let mut peer = client.connect(running.url()).unwrap();
            exchange(&mut peer, b"before");
            let sender = running.handle().peers().remove(0);
            for (begin, errno, end) in OUTAGES {
                run(begin);
                let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                let failed = probe.send_to(b"", (CLIENT, 9)).unwrap_err();
                assert_eq!(failed.raw_os_error(), Some(errno), "{begin}");
                sender.send(b"lost").unwrap_or_else(|error| panic!("{scheme} {sockets:?}: {begin}: {error}"));
                run(end);
                exchange(&mut peer, b"after");
            }
            assert_eq!(running.stats().ended_total(), 0);
        }
    }
}

#[test]
fn a_connection_without_a_route_is_unreachable_when_the_kernel_gives_it_up() {
    if run_in_own_network("a_connection_without_a_route_is_unreachable_when_the_kernel_gives_it_up") {
        return;
    }
    for (begin, _, end) in OUTAGES {
        for scheme in ["tcp", "tls"] {
            let (tell, told) = channel();
            let tell = Mutex::new(tell);
            let handler = move |peer: &mut Peer| -> Result<(), Error> {
                let ended = echo(peer);
                let _ = tell.lock().unwrap().send(peer.end_reason().cloned());
                ended
            };
            let configure = |builder: ServerBuilder| {
                builder.socket_options(|socket| match socket.role() {
                    // How long the kernel sends again (TCP_USER_TIMEOUT, tcp(7)).
                    SocketRole::Peer => {
                        SockRef::from(socket).set_tcp_user_timeout(Some(Duration::from_millis(300)))
                    }
                    _ => Ok(()),
                })
            };
            let running = Running::with(&format!("{scheme}://127.0.0.1:0"), configure, handler);
            let client = running.client().bind(SocketAddr::new(CLIENT.parse().unwrap(), 0));
            let mut peer = client.connect(running.url()).unwrap();
            exchange(&mut peer, b"before");
            let sender = running.handle().peers().remove(0);
            // The kernel looks for a route again when it sends again, so the first packet is lost behind the route.
            run(LOSE_PACKETS);
            sender.send(b"lost").unwrap();
            run(begin);
            let reason = told.recv_timeout(DEADLINE).unwrap();
            run(end);
            run("nft delete table lossy");
            assert_eq!(reason, Some(EndReason::Unreachable), "{scheme}: {begin}");
            until("it is counted", || (running.stats().ended(EndKind::Unreachable) == 1).then_some(()));
        }
    }
}

#[test]
fn a_client_without_a_route_to_the_server_is_told_so() {
    if run_in_own_network("a_client_without_a_route_to_the_server_is_told_so") {
        return;
    }
    for scheme in ["udp", "tcp"] {
        let error = Client::builder().connect(format!("{scheme}://192.0.2.1:9").as_str()).unwrap_err();
        let ConnectError::Io { peer, source } = error else { panic!("{scheme}: {error:?}") };
        assert_eq!((peer.port(), source.kind()), (9, ErrorKind::NetworkUnreachable), "{scheme}");
    }
}
