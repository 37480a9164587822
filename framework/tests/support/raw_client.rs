//! An unknown peer: a socket that sends the beginning of a DTLS handshake by hand, and goes no further.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::support::DEADLINE;

/// The length of a HelloVerifyRequest with a cookie of 32 bytes.
pub const CHALLENGE_LEN: usize = 60;
/// The offset of the cookie in it.
const COOKIE_AT: usize = 28;
/// The position of a record's sequence number.
const SEQUENCE: std::ops::Range<usize> = 5..11;
/// The offset of the message type in a handshake record.
const MESSAGE_TYPE_AT: usize = 13;
const SERVER_HELLO: u8 = 2;
const HELLO_VERIFY_REQUEST: u8 = 3;

/// A socket that is connected to the server, and has a ClientHello of its own.
pub struct RawClient {
    socket: UdpSocket,
    random: [u8; 32],
    records: AtomicU64,
}

impl RawClient {
    /// Makes an unknown peer at this address, with a port that the kernel picks.
    pub fn new(source: impl Into<IpAddr>, server: SocketAddr) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let mut random = [7; 32];
        random[..4].copy_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let socket = UdpSocket::bind((source.into(), 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, random, records: AtomicU64::new(0) }
    }

    /// Uses the ClientHello of another one.
    pub fn with_random_of(mut self, other: &Self) -> Self {
        self.random = other.random;
        self
    }

    /// Makes a ClientHello that a server accepts, in a record with the next sequence number. It is message 0
    /// without a cookie, and message 1 with one.
    pub fn hello(&self, cookie: &[u8]) -> Vec<u8> {
        self.hello_as(u16::from(!cookie.is_empty()), cookie)
    }

    /// Makes the same hello as message `number`.
    pub fn hello_as(&self, number: u16, cookie: &[u8]) -> Vec<u8> {
        let body = self.hello_body(cookie, 0);
        let length = (body.len() as u32).to_be_bytes();
        let message = [&[1], &length[1..], &number.to_be_bytes(), &[0; 3], &length[1..], &body].concat();
        record(22, 0, self.records.fetch_add(1, Ordering::Relaxed), &message)
    }

    /// Makes a record with a fragment of a ClientHello with this body, as message `number`.
    pub fn fragment(&self, number: u16, body: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
        let u24 = |number: usize| (number as u32).to_be_bytes();
        let (length, offset, len) = (u24(body.len()), u24(range.start), u24(range.len()));
        let number = number.to_be_bytes();
        let message = [&[1], &length[1..], &number, &offset[1..], &len[1..], &body[range]].concat();
        record(22, 0, self.records.fetch_add(1, Ordering::Relaxed), &message)
    }

    /// Makes the body of a ClientHello with this many bytes of padding (RFC 7685), if any.
    pub fn hello_body(&self, cookie: &[u8], padding: usize) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend(self.random);
        body.push(0);
        body.push(cookie.len() as u8);
        body.extend(cookie);
        // The suites are ECDHE with AES-GCM for both kinds of keys, and the value that replaces
        // renegotiation_info.
        body.extend([0, 6, 0xc0, 0x2b, 0xc0, 0x2f, 0, 0xff]);
        body.extend([1, 0]);
        // The groups are X25519 and P-256, points are uncompressed, and signatures are ECDSA and RSA with
        // SHA-256.
        let extensions: [&[u8]; 3] =
            [&[0, 10, 0, 6, 0, 4, 0, 29, 0, 23], &[0, 11, 0, 2, 1, 0], &[0, 13, 0, 6, 0, 4, 4, 3, 4, 1]];
        let mut extensions = extensions.concat();
        if padding > 0 {
            extensions.extend([0, 21]);
            extensions.extend((padding as u16).to_be_bytes());
            extensions.resize(extensions.len() + padding, 0);
        }
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        body
    }

    /// Sends any bytes.
    pub fn send(&self, datagram: &[u8]) {
        self.socket.send(datagram).unwrap();
    }

    /// Sends the first hello and returns the cookie in the answer. This answer must be the first datagram that
    /// comes back, so everything sent before got no answer.
    pub fn challenge(&self) -> [u8; 32] {
        let hello = self.hello(&[]);
        self.send(&hello);
        self.challenged(&hello)
    }

    /// Returns the cookie of the answer to this hello, which must be the next datagram.
    pub fn challenged(&self, hello: &[u8]) -> [u8; 32] {
        let answer = self.receive();
        assert_eq!(answer[MESSAGE_TYPE_AT], HELLO_VERIFY_REQUEST, "{answer:?}");
        assert_eq!(answer[SEQUENCE], hello[SEQUENCE], "an answer to something else");
        assert_eq!(answer.len(), CHALLENGE_LEN);
        assert!(answer.len() <= hello.len(), "more bytes out than in");
        answer[COOKIE_AT..].try_into().unwrap()
    }

    /// Checks that nothing sent so far was or will be answered: the dispatcher answers in order.
    pub fn assert_silence(&self) {
        self.challenge();
        self.socket.set_nonblocking(true).unwrap();
        let more = self.socket.recv(&mut [0; 2048]);
        self.socket.set_nonblocking(false).unwrap();
        assert_eq!(more.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }

    /// Checks that the next datagram is a fatal alert in clear with this description, and that nothing follows
    /// it.
    pub fn assert_refused(&self, description: u8) {
        let answer = self.receive();
        assert_eq!((answer.len(), answer[0], answer[13], answer[14]), (15, 21, 2, description), "{answer:?}");
        self.assert_silence();
    }

    /// Begins a handshake, and stops before the server's first flight is answered.
    pub fn stall(&self) {
        self.send(&self.hello(&self.challenge()));
        self.assert_served();
    }

    /// Sends both hellos to a server that will not admit it.
    pub fn knock(&self) {
        self.send(&self.hello(&self.challenge()));
    }

    /// Checks that the server's first flight begins.
    pub fn assert_served(&self) {
        let answer = self.receive();
        assert_eq!(answer[MESSAGE_TYPE_AT], SERVER_HELLO, "{answer:?}");
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let len = self.socket.recv(&mut buffer).expect("the server answers");
        buffer[..len].to_vec()
    }
}

/// Makes a record with a DTLS 1.2 header.
pub fn record(content_type: u8, epoch: u16, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![content_type, 0xfe, 0xfd];
    bytes.extend(epoch.to_be_bytes());
    bytes.extend(&sequence.to_be_bytes()[2..]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}
