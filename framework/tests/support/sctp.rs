//! Associated sockets, and their notifications.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use peeloff::sctp::{AssocId, AssociationState, Notification, NotificationKind, Options, Socket};

/// How long a step may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Subscribes to every notification except the deprecated kind, which would come in addition to its successor.
pub fn subscribe(options: Options<'_>) {
    for kind in NotificationKind::ALL {
        if kind != NotificationKind::SendFailedDeprecated {
            options.subscribe(kind, true).unwrap();
        }
    }
}

/// Makes a one-to-many socket on these addresses that receives all notifications.
pub fn endpoint(addresses: &[SocketAddr], prepare: impl FnOnce(Options<'_>)) -> Socket {
    let socket = Socket::one_to_many(addresses[0].is_ipv6()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    subscribe(socket.options());
    prepare(socket.options());
    socket.bind(addresses).unwrap();
    socket.listen(8).unwrap();
    socket
}

/// Two one-to-many sockets with an association between them, and the identifiers of the association on both.
pub struct Pair {
    pub client: Socket,
    pub server: Socket,
    pub to_server: AssocId,
    pub to_client: AssocId,
}

impl Pair {
    pub fn new() -> Self {
        Self::prepared(|_| {})
    }

    /// Makes a pair. `prepare` is applied to both sockets before they are bound.
    pub fn prepared(prepare: impl Fn(Options<'_>)) -> Self {
        Self::on(&[address("127.0.0.1:0")], prepare)
    }

    pub fn on(addresses: &[SocketAddr], prepare: impl Fn(Options<'_>)) -> Self {
        let server = endpoint(addresses, &prepare);
        let client = endpoint(addresses, &prepare);
        let port = server.local_addr().unwrap().port();
        let to: Vec<_> = addresses.iter().map(|address| SocketAddr::new(address.ip(), port)).collect();
        let to_server = client.connect(&to).unwrap();
        let to_client = up(&server);
        assert_eq!(up(&client), to_server);
        Self { client, server, to_server, to_client }
    }
}

/// Returns the next association that is reported to be up.
pub fn up(socket: &Socket) -> AssocId {
    wait_for(socket, |notification| match *notification {
        Notification::AssociationChanged { association, state: AssociationState::Up, .. } => {
            Some(association)
        }
        _ => None,
    })
}

/// Reads notifications until `pick` accepts one; no message may come before it.
pub fn wait_for<T>(socket: &Socket, mut pick: impl FnMut(&Notification) -> Option<T>) -> T {
    loop {
        if let Some(picked) = pick(&notification(socket).unwrap()) {
            return picked;
        }
    }
}

/// Reads the next notification; a message is an error.
pub fn notification(socket: &Socket) -> io::Result<Notification> {
    let mut buffer = [0; 4096];
    let received = socket.recv(&mut buffer)?;
    assert!(received.notification && received.complete, "a message: {received:?}");
    Ok(Notification::parse(&buffer[..received.len]).unwrap())
}

/// Reads the next message, and skips notifications.
pub fn message(socket: &Socket) -> (peeloff::sctp::Received, Vec<u8>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let received = socket.recv(&mut buffer).unwrap();
        if !received.notification {
            let bytes = buffer[..received.len].to_vec();
            return (received, bytes);
        }
    }
}
