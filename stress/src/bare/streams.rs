//! Bare servers on TCP and SCTP: a thread for each peer.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use peeloff::Address;
use peeloff::sctp::{AssociationState, Notification, NotificationKind, Socket};

use super::thread::{LONGEST, STACK, start};

/// Serves each connection with a blocking thread.
pub(super) fn tcp(listen: &Address) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(listen.resolve()?[0])?;
    println!("listening tcp://{}", listener.local_addr()?);
    start("accept", move || {
        for socket in listener.incoming() {
            let socket = socket?;
            socket.set_nodelay(true)?;
            thread::Builder::new().stack_size(STACK).spawn(move || echo_bytes(socket))?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Sends back what each read returns, until the connection ends.
fn echo_bytes(mut socket: TcpStream) {
    let mut buffer = [0; LONGEST];
    while let Ok(len @ 1..) = socket.read(&mut buffer) {
        if socket.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// Peels every association off a one-to-many listener and serves each with a blocking thread.
pub(super) fn sctp(listen: &Address) -> Result<(), Box<dyn Error>> {
    let address = listen.resolve()?[0];
    let listener = Socket::one_to_many(address.is_ipv6())?;
    listener.options().set_nodelay(true)?;
    listener.options().subscribe(NotificationKind::AssociationChanged, true)?;
    listener.bind(&[address])?;
    listener.listen(1024)?;
    println!("listening sctp://{}", listener.local_addr()?);
    start("accept", move || accept(&listener))?;
    Ok(())
}

fn accept(listener: &Socket) -> io::Result<()> {
    let mut buffer = [0; LONGEST];
    loop {
        let received = listener.recv(&mut buffer)?;
        if !received.notification {
            continue;
        }
        if let Ok(Notification::AssociationChanged { state: AssociationState::Up, association, .. }) =
            Notification::parse(&buffer[..received.len])
        {
            let socket = listener.peel_off(association)?;
            thread::Builder::new().stack_size(STACK).spawn(move || echo(&socket))?;
        }
    }
}

/// Answers each message on its own stream, until the association ends.
fn echo(socket: &Socket) {
    let mut buffer = [0; LONGEST];
    while let Ok(received) = socket.recv(&mut buffer) {
        if received.notification {
            continue;
        }
        let how = received.info.unwrap_or_default().reply();
        if received.len == 0 || socket.send(&buffer[..received.len], &how).is_err() {
            return;
        }
    }
}
