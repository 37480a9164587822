//! Bare servers on UDP: a thread for each peer, one epoll thread for all, and one socket for all.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use peeloff::Address;
use socket2::{Domain, Socket, Type};

use super::thread::{LONGEST, STACK, start};

/// The requested size of a listener's receive buffer, in bytes.
const QUEUE: usize = 4 << 20;
/// Datagrams of a batch.
const BATCH: usize = 32;

/// Serves each peer with a blocking thread and a connected socket of its own.
pub(super) fn threads(listen: &Address) -> Result<(), Box<dyn Error>> {
    let listener = open(listen)?;
    start("accept", move || {
        let mut buffer = [0; LONGEST];
        loop {
            let (len, peer) = listener.recv_from(&mut buffer)?;
            let child = child(&listener, peer)?;
            let _ = child.send(&buffer[..len]);
            thread::Builder::new().stack_size(STACK).spawn(move || {
                let mut buffer = [0; LONGEST];
                loop {
                    // If the peer has gone, ICMP makes the receive fail; an empty message ends the thread.
                    match child.recv(&mut buffer) {
                        Ok(0) | Err(_) => return,
                        Ok(len) => drop(child.send(&buffer[..len])),
                    }
                }
            })?;
        }
    })?;
    Ok(())
}

/// Serves all peers with one thread and a connected socket for each: sends every message back.
///
/// # Errors
///
/// Returns an error if the listener cannot be opened, or if the scheme does not use UDP.
pub fn epoll(listen: &Address) -> Result<(), Box<dyn Error>> {
    serve(listen, |sender, children, message| drop(children.get(&sender).map(|child| child.send(message))))
}

/// Serves peers in the same way, but sends each message to all other peers. A peer's first message goes back to
/// the peer, and makes it known.
///
/// # Errors
///
/// Returns an error if the listener cannot be opened, or if the scheme does not use UDP.
pub fn fan_out(listen: &Address) -> Result<(), Box<dyn Error>> {
    serve(listen, |sender, children, message| {
        for (_, child) in children.iter().filter(|(token, _)| **token != sender) {
            let _ = child.send(message);
        }
    })
}

fn serve(
    listen: &Address,
    answer: impl Fn(Token, &HashMap<Token, UdpSocket>, &[u8]) + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    let listener = open(listen)?;
    listener.set_nonblocking(true)?;
    start("epoll", move || {
        const LISTENER: Token = Token(usize::MAX);
        let mut poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE)?;
        let mut children: HashMap<Token, UdpSocket> = HashMap::new();
        let (mut events, mut buffer) = (Events::with_capacity(1024), [0; LONGEST]);
        loop {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    while let Ok((len, peer)) = listener.recv_from(&mut buffer) {
                        let child = child(&listener, peer)?;
                        child.set_nonblocking(true)?;
                        let _ = child.send(&buffer[..len]);
                        let fd = child.as_raw_fd();
                        let token = Token(fd.unsigned_abs() as usize);
                        poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE)?;
                        children.insert(token, child);
                    }
                } else if let Some(child) = children.get(&event.token()) {
                    loop {
                        match child.recv(&mut buffer) {
                            Ok(len @ 1..) => answer(event.token(), &children, &buffer[..len]),
                            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                            Ok(_) | Err(_) => {
                                children.remove(&event.token());
                                break;
                            }
                        }
                    }
                }
            }
        }
    })?;
    Ok(())
}

/// Serves all peers on one socket: sends every message back, up to 32 datagrams in one system call.
///
/// # Errors
///
/// Returns an error if the listener cannot be opened, or if the scheme does not use UDP.
pub fn batches(listen: &Address) -> Result<(), Box<dyn Error>> {
    let listener = open(listen)?;
    start("batches", move || {
        let mut buffers = vec![[0; LONGEST]; BATCH];
        let mut incoming = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut outgoing = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let (mut lens, mut peers) = (Vec::new(), Vec::new());
        loop {
            lens.clear();
            peers.clear();
            {
                let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                    buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
                let received = recvmmsg(
                    listener.as_raw_fd(),
                    &mut incoming,
                    slices.iter_mut(),
                    MsgFlags::MSG_WAITFORONE,
                    None,
                );
                for datagram in received.map_err(io::Error::from)? {
                    lens.push(datagram.bytes);
                    peers.push(datagram.address);
                }
            }
            let slices: Vec<[IoSlice<'_>; 1]> =
                buffers.iter().zip(&lens).map(|(buffer, &len)| [IoSlice::new(&buffer[..len])]).collect();
            let _ = sendmmsg(listener.as_raw_fd(), &mut outgoing, &slices, &peers, [], MsgFlags::empty());
        }
    })?;
    Ok(())
}

/// Opens the listener and prints its address.
pub(super) fn open(listen: &Address) -> Result<UdpSocket, Box<dyn Error>> {
    if listen.scheme.is_stream() || listen.scheme.is_sctp() {
        return Err(format!("this bare server does not support {}", listen.scheme).into());
    }
    let address = listen.resolve()?[0];
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_recv_buffer_size(QUEUE)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    println!("listening {}://{}", listen.scheme, socket.local_addr()?);
    Ok(socket)
}

/// Makes a socket for one peer. It is bound to the wildcard address, so it cannot take datagrams from the
/// listener, and connected.
pub(super) fn child(listener: &UdpSocket, peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, listener.local_addr()?.port()));
    socket.bind(&local.into())?;
    socket.connect(&peer.into())?;
    Ok(socket.into())
}
