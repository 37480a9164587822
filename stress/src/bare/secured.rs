//! Bare servers on DTLS and TLS: a thread for each peer, with a session of OpenSSL for its whole life or, on DTLS, for
//! its handshake only.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread;

use openssl::ssl::{Ssl, SslContext, SslStream};

use super::datagrams;
use super::keys::{ALERT, Keys};
use super::thread::{LONGEST, STACK, start};
use crate::role::Serving;
use crate::secure::{self, Suite};

/// A peer's connected UDP socket, which an SSL object reads and writes.
struct Datagrams {
    socket: UdpSocket,
    /// The datagram that the listener has read.
    first: Option<Vec<u8>>,
}

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.first.take() {
            Some(first) => first.as_slice().read(buffer),
            None => self.socket.recv(buffer),
        }
    }
}

impl Write for Datagrams {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.socket.send(datagram)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket that also keeps the datagram that was sent last.
struct Recorded {
    io: Datagrams,
    last: Vec<u8>,
}

impl Read for Recorded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.io.read(buffer)
    }
}

impl Write for Recorded {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.last = datagram.to_vec();
        self.io.write(datagram)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Serves each DTLS peer with a blocking thread, which keeps OpenSSL's session. Requests no cookie.
pub(super) fn dtls(serving: &Serving) -> Result<(), Box<dyn Error>> {
    accept(serving, echo)
}

/// Serves each DTLS peer with a blocking thread, which keeps only two keys after the handshake. Requests no cookie.
pub(super) fn dtls_with_evp(serving: &Serving) -> Result<(), Box<dyn Error>> {
    accept(serving, |ssl, io| {
        let mut stream = SslStream::new(ssl, Recorded { io, last: Vec::new() }).ok()?;
        stream.accept().ok()?;
        let mut keys = Keys::of(stream.ssl(), &stream.get_ref().last)?;
        let socket = stream.get_ref().io.socket.try_clone().ok()?;
        drop(stream);
        let mut buffer = [0; LONGEST];
        loop {
            let len = socket.recv(&mut buffer).ok()?;
            match keys.answer(&mut buffer[..len]) {
                Some(()) => drop(socket.send(&buffer[..len]).ok()?),
                None if buffer[0] == ALERT => return None,
                None => {}
            }
        }
    })
}

/// Runs `serve` in a thread for each DTLS peer.
fn accept(
    serving: &Serving,
    serve: impl Fn(Ssl, Datagrams) -> Option<()> + Copy + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    let context = context(serving, true)?;
    let listener = datagrams::open(&serving.listen.parse()?)?;
    start("accept", move || {
        let mut buffer = [0; LONGEST];
        loop {
            let (len, peer) = listener.recv_from(&mut buffer)?;
            let socket = datagrams::child(&listener, peer)?;
            let io = Datagrams { socket, first: Some(buffer[..len].to_vec()) };
            spawn(&context, true, io, serve)?;
        }
    })?;
    Ok(())
}

/// Serves each TLS connection with a blocking thread.
pub(super) fn tls(serving: &Serving) -> Result<(), Box<dyn Error>> {
    let context = context(serving, false)?;
    let listener = TcpListener::bind(serving.listen.parse::<peeloff::Address>()?.resolve()?[0])?;
    println!("listening tls://{}", listener.local_addr()?);
    start("accept", move || {
        for socket in listener.incoming() {
            let socket = socket?;
            socket.set_nodelay(true)?;
            spawn(&context, false, socket, echo)?;
        }
        Ok(())
    })?;
    Ok(())
}

pub(super) fn context(serving: &Serving, dtls: bool) -> Result<Arc<SslContext>, Box<dyn Error>> {
    // The client chooses the group.
    let group = "P-256:X25519:P-384:P-521".to_owned();
    let suite = Suite { dtls, auth: serving.auth, group };
    Ok(Arc::new(suite.server(false)?))
}

/// Runs `serve` in a thread for a peer.
fn spawn<S: Send + 'static>(
    context: &Arc<SslContext>,
    dtls: bool,
    io: S,
    serve: impl Fn(Ssl, S) -> Option<()> + Send + 'static,
) -> io::Result<()> {
    let context = Arc::clone(context);
    let run = move || serve(secure::ssl(&context, dtls).ok()?, io);
    thread::Builder::new().stack_size(STACK).spawn(move || run().unwrap_or_default()).map(drop)
}

/// Runs the handshake and answers until the session ends.
fn echo(ssl: Ssl, io: impl Read + Write) -> Option<()> {
    let mut stream = SslStream::new(ssl, io).ok()?;
    stream.accept().ok()?;
    let mut buffer = [0; LONGEST];
    loop {
        let len = stream.ssl_read(&mut buffer).ok()?;
        stream.ssl_write(&buffer[..len]).ok()?;
    }
}
