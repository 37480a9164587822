//! Bare servers on DTLS and TLS: a thread for each peer, with a session of OpenSSL for its whole life.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread;

use openssl::ssl::{SslContext, SslStream};

use super::datagrams;
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

/// Serves each DTLS peer with a blocking thread. Requests no cookie.
pub(super) fn dtls(serving: &Serving) -> Result<(), Box<dyn Error>> {
    let context = context(serving, true)?;
    let listener = datagrams::open(&serving.listen.parse()?)?;
    start("accept", move || {
        let mut buffer = [0; LONGEST];
        loop {
            let (len, peer) = listener.recv_from(&mut buffer)?;
            let socket = datagrams::child(&listener, peer)?;
            let io = Datagrams { socket, first: Some(buffer[..len].to_vec()) };
            spawn(&context, true, io)?;
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
            spawn(&context, false, socket)?;
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

/// Starts a peer's thread, which runs the handshake and answers until the session ends.
fn spawn(context: &Arc<SslContext>, dtls: bool, io: impl Read + Write + Send + 'static) -> io::Result<()> {
    let context = Arc::clone(context);
    let serve = move || -> Option<()> {
        let mut stream = SslStream::new(secure::ssl(&context, dtls).ok()?, io).ok()?;
        stream.accept().ok()?;
        let mut buffer = [0; LONGEST];
        loop {
            let len = stream.ssl_read(&mut buffer).ok()?;
            stream.ssl_write(&buffer[..len]).ok()?;
        }
    };
    thread::Builder::new().stack_size(STACK).spawn(move || serve().unwrap_or_default()).map(drop)
}
