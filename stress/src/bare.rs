//! Echo servers without a framework, to compare with: the loop that a programmer would write in C, on SCTP and
//! on TCP.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use peeloff::Address;
use peeloff::sctp::{AssociationState, Notification, NotificationKind, Socket};

/// The argument that makes a stress binary be this server.
pub const SERVE_BARE: &str = "--be-the-bare-server";

/// Of a thread: the loop needs two pages of it.
const STACK: usize = 64 << 10;

/// Is the server, until standard input ends: a one-to-many listener with every association peeled off, or a
/// TCP listener; each peer has a thread of its own, which blocks.
///
/// # Errors
///
/// The listener cannot be opened.
pub fn serve(listen: &Address) -> Result<(), Box<dyn std::error::Error>> {
    peeloff::raise_fd_limit()?;
    if listen.scheme.is_stream() {
        serve_tcp(listen)?;
    } else {
        serve_sctp(listen)?;
    }
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn serve_tcp(listen: &Address) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(listen.resolve()?[0])?;
    println!("listening tcp://{}", listener.local_addr()?);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let begun = socket.and_then(|socket| {
                socket.set_nodelay(true)?;
                thread::Builder::new().stack_size(STACK).spawn(move || echo_bytes(socket))
            });
            if let Err(error) = begun {
                eprintln!("the bare server: {error}");
                std::process::exit(1);
            }
        }
    });
    Ok(())
}

/// Answers what a read finds, until the connection ends.
fn echo_bytes(mut socket: TcpStream) {
    let mut buffer = [0; 2048];
    while let Ok(len @ 1..) = socket.read(&mut buffer) {
        if socket.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

fn serve_sctp(listen: &Address) -> Result<(), Box<dyn std::error::Error>> {
    let address = listen.resolve()?[0];
    let listener = Socket::one_to_many(address.is_ipv6())?;
    listener.options().set_nodelay(true)?;
    listener.options().subscribe(NotificationKind::AssociationChanged, true)?;
    listener.bind(&[address])?;
    listener.listen(1024)?;
    println!("listening sctp://{}", listener.local_addr()?);
    thread::spawn(move || {
        if let Err(error) = accept(&listener) {
            eprintln!("the bare server: {error}");
            std::process::exit(1);
        }
    });
    Ok(())
}

fn accept(listener: &Socket) -> io::Result<()> {
    let mut buffer = [0; 2048];
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

/// Answers on the stream that a message came on, until the association ends.
fn echo(socket: &Socket) {
    let mut buffer = [0; 2048];
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
