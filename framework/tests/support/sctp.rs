//! Sockets that are associated, and what they are told.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use peeloff::sctp::{AssocId, AssociationState, Notification, NotificationKind, Options, Socket};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Subscribes to everything but the deprecated kind, which would come beside its successor.
pub fn subscribe(options: Options<'_>) {
    for kind in NotificationKind::ALL {
        if kind != NotificationKind::SendFailedDeprecated {
            options.subscribe(kind, true).unwrap();
        }
    }
}

/// A one-to-many socket on these addresses that is told everything.
pub fn endpoint(addresses: &[SocketAddr], prepare: impl FnOnce(Options<'_>)) -> Socket {
    let socket = Socket::one_to_many(addresses[0].is_ipv6()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    subscribe(socket.options());
    prepare(socket.options());
    socket.bind(addresses).unwrap();
    socket.listen(8).unwrap();
    socket
}

/// Two one-to-many sockets with an association between them, and how either names it.
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

    /// `prepare` is done to both before they are bound.
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

/// The association that the socket is next told to be up.
pub fn up(socket: &Socket) -> AssocId {
    wait_for(socket, |notification| match *notification {
        Notification::AssociationChanged { association, state: AssociationState::Up, .. } => {
            Some(association)
        }
        _ => None,
    })
}

/// Reads notifications until one pleases; no message may come before it.
pub fn wait_for<T>(socket: &Socket, mut pick: impl FnMut(&Notification) -> Option<T>) -> T {
    loop {
        if let Some(picked) = pick(&notification(socket).unwrap()) {
            return picked;
        }
    }
}

/// The next that is read, which must be a notification.
pub fn notification(socket: &Socket) -> io::Result<Notification> {
    let mut buffer = [0; 4096];
    let received = socket.recv(&mut buffer)?;
    assert!(received.notification && received.complete, "a message: {received:?}");
    Ok(Notification::parse(&buffer[..received.len]).unwrap())
}

/// The next message, past all notifications.
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
