//! A bare DTLS server with one socket for all peers. OpenSSL runs the handshakes over memory and without a
//! cookie; afterwards a peer is two keys. The server decrypts each message, encrypts it again and sends it back,
//! with a whole batch of datagrams in one system call.

use std::collections::HashMap;
use std::error::Error;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use openssl::ssl::{ErrorCode, SslContext, SslStream};

use super::datagrams;
use super::keys::{ALERT, Keys};
use super::secured::context;
use super::thread::{LONGEST, start};
use crate::role::Serving;
use crate::secure;

/// Datagrams of a batch.
const BATCH: usize = 64;

/// The memory that OpenSSL reads and writes.
#[derive(Default)]
struct Memory {
    incoming: Vec<u8>,
    outgoing: Vec<Vec<u8>>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match std::mem::take(&mut self.incoming) {
            datagram if datagram.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            datagram => datagram.as_slice().read(buffer),
        }
    }
}

impl Write for Memory {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.outgoing.push(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Peer {
    Handshake(Box<SslStream<Memory>>),
    Open(Box<Keys>),
}

/// The answer to a datagram: the datagram itself, which has been encrypted again in place, or a flight of
/// OpenSSL.
enum Answer {
    Itself,
    Flight(Vec<Vec<u8>>),
}

/// A hash function that is a single multiplication.
#[derive(Default)]
struct Multiplied(u64);

impl Hasher for Multiplied {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, key: u64) {
        self.0 = key.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

type Peers = HashMap<u64, Peer, BuildHasherDefault<Multiplied>>;

fn answer(peers: &mut Peers, context: &SslContext, key: u64, datagram: &mut [u8]) -> Option<Answer> {
    let peer = match peers.get_mut(&key) {
        Some(Peer::Open(keys)) => {
            if *datagram.first()? == ALERT {
                peers.remove(&key);
                return None;
            }
            // If it is no message, the client has sent its last flight again because the answer came late.
            return keys.answer(datagram).map(|()| Answer::Itself);
        }
        Some(peer) => peer,
        None => {
            let stream = SslStream::new(secure::ssl(context, true).ok()?, Memory::default()).ok()?;
            peers.entry(key).or_insert(Peer::Handshake(Box::new(stream)))
        }
    };
    let Peer::Handshake(stream) = peer else { return None };
    stream.get_mut().incoming = datagram.to_vec();
    let step = stream.accept();
    let flight = std::mem::take(&mut stream.get_mut().outgoing);
    match step {
        Ok(()) => *peer = Peer::Open(Box::new(Keys::of(stream.ssl(), flight.last()?)?)),
        Err(error) if error.code() == ErrorCode::WANT_READ => {}
        Err(_) => drop(peers.remove(&key)),
    }
    Some(Answer::Flight(flight))
}

/// Starts this server.
pub(super) fn serve(serving: &Serving) -> Result<(), Box<dyn Error>> {
    let context = context(serving, true)?;
    let listener = datagrams::open(&serving.listen.parse()?)?;
    start("sessions", move || {
        let mut peers = Peers::default();
        let mut buffers = vec![[0; LONGEST]; BATCH];
        let mut incoming = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let mut outgoing = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
        let mut came: Vec<(usize, Option<SockaddrIn>)> = Vec::with_capacity(BATCH);
        loop {
            came.clear();
            {
                let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                    buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
                let fd = listener.as_raw_fd();
                let received = recvmmsg(fd, &mut incoming, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None);
                came.extend(
                    received.map_err(io::Error::from)?.map(|datagram| (datagram.bytes, datagram.address)),
                );
            }
            let (mut slices, mut addresses) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
            for (buffer, (len, address)) in buffers.iter_mut().zip(&came) {
                let Some(address) = address else { continue };
                let key = u64::from(address.ip().to_bits()) << 16 | u64::from(address.port());
                match answer(&mut peers, &context, key, &mut buffer[..*len]) {
                    Some(Answer::Itself) => {
                        slices.push([IoSlice::new(&buffer[..*len])]);
                        addresses.push(Some(*address));
                    }
                    Some(Answer::Flight(flight)) => {
                        for datagram in flight {
                            let to = std::net::SocketAddrV4::new(address.ip(), address.port());
                            let _ = listener.send_to(&datagram, to);
                        }
                    }
                    None => {}
                }
            }
            let _ = sendmmsg(listener.as_raw_fd(), &mut outgoing, &slices, &addresses, [], MsgFlags::empty());
        }
    })?;
    Ok(())
}
