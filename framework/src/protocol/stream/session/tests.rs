//! Whole lives of two ends of a connection in memory, whose bytes arrive in pieces of any length, from a seed.

use super::*;
use crate::address::Scheme;
use crate::credentials::{Credentials, Identity, SharedKeys};
use crate::protocol::sctp::simulation::Rng;
use crate::tls::context::{self, ClientCredentials, Contexts, Protocol};

/// One end, and what is on its way to it.
struct End {
    state: Stream,
    arriving: Vec<u8>,
    complete: bool,
    closed: bool,
    messages: Vec<Vec<u8>>,
}

impl End {
    fn new(state: Stream) -> Self {
        let (arriving, messages) = (Vec::new(), Vec::new());
        Self { state, arriving, complete: false, closed: false, messages }
    }

    /// Takes in a piece of what arrives, and reads all that can be read of it.
    fn hear(&mut self, len: usize) {
        let mut piece: Vec<u8> = self.arriving.drain(..len).collect();
        self.state.set_room(1 << 20);
        self.state.feed(&mut piece);
        if !self.complete {
            self.complete = self.state.step().unwrap();
        }
        let mut buffer = [0; 1000];
        while self.complete && !self.closed {
            match self.state.read(&mut buffer, &mut piece) {
                Read::Message(len) => self.messages.push(buffer[..len].to_vec()),
                Read::Long(message) => self.messages.push(message),
                Read::Closed => self.closed = true,
                Read::Nothing => break,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Takes what is to be sent.
    fn send(&mut self) -> Vec<u8> {
        let bytes = self.state.outgoing().to_vec();
        self.state.sent();
        bytes
    }

    fn say(&mut self, message: &[u8]) -> Vec<u8> {
        self.state.set_room(1 << 20);
        let clear = match self.state.encode(message) {
            Encoded::Clear(bytes) => bytes.to_vec(),
            Encoded::Sealed => Vec::new(),
            other => panic!("{other:?}"),
        };
        [clear, self.send()].concat()
    }
}

/// Has everything arrive, in pieces.
fn exchange_all(ends: &mut [End; 2], rng: &mut Rng) {
    while ends.iter().any(|end| !end.arriving.is_empty()) {
        let to = rng.below(2) as usize;
        if !ends[to].arriving.is_empty() {
            let longest = [1, 20, 3000][rng.below(3) as usize].min(ends[to].arriving.len());
            ends[to].hear(1 + rng.below(longest as u64) as usize);
        }
        let answer = ends[to].send();
        ends[1 - to].arriving.extend(answer);
    }
}

#[test]
fn messages_arrive_whole_and_in_order_however_the_bytes_are_cut() {
    let credentials =
        Credentials { identities: vec![Identity::self_signed().unwrap()], ..Credentials::default() };
    let keys = SharedKeys::random().unwrap();
    let server = Contexts::new(&credentials, &keys, [Scheme::Tls].into_iter()).unwrap();
    let credentials = ClientCredentials { accept_any: true, ..ClientCredentials::default() };
    let client = context::client(&credentials, Protocol::Tls).unwrap();
    for seed in 0..60 {
        let framing = if seed % 2 == 0 { Framing::Lines } else { Framing::LengthPrefixed };
        let settings = TcpSettings { framing, ..TcpSettings::default() };
        let mut rng = Rng::new(seed);
        let is_secure = seed % 3 != 0;
        let mut ends = match is_secure {
            true => [
                Stream::connect(&client, None, None, &settings).unwrap(),
                Stream::accept(server.tls(), &settings).unwrap(),
            ],
            false => [Stream::plain(&settings), Stream::plain(&settings)],
        }
        .map(End::new);
        ends[0].state.set_room(1 << 20);
        assert_eq!(ends[0].state.step().unwrap(), !is_secure);
        let hello = ends[0].send();
        ends[1].arriving.extend(hello);
        exchange_all(&mut ends, &mut rng);
        assert!(!is_secure || ends.iter().all(|end| end.complete), "seed {seed}");
        let mut said = [Vec::new(), Vec::new()];
        for number in 0..20 {
            let from = rng.below(2) as usize;
            let message = vec![b'a' + number; rng.below(20_000) as usize];
            let bytes = ends[from].say(&message);
            ends[1 - from].arriving.extend(bytes);
            said[from].push(message);
            if rng.below(3) == 0 {
                exchange_all(&mut ends, &mut rng);
            }
        }
        exchange_all(&mut ends, &mut rng);
        assert!(ends[0].messages == said[1] && ends[1].messages == said[0], "seed {seed}");
        // Long messages leave no memory behind.
        for end in &ends {
            let outgoing = end.state.tls.as_ref().map_or(0, |stream| stream.get_ref().outgoing.capacity());
            assert!(end.state.framed.capacity() <= KEPT && outgoing <= KEPT, "seed {seed}");
        }
        ends[0].state.close();
        let goodbye = ends[0].send();
        ends[1].arriving.extend(goodbye);
        exchange_all(&mut ends, &mut rng);
        assert_eq!(ends[1].closed, is_secure, "seed {seed}");
    }
}

#[test]
fn answers_beyond_the_room_for_them_break_the_session() {
    let mut pipe = Pipe { room: 10, ..Pipe::default() };
    assert_eq!(io::Write::write(&mut pipe, &[0; 10]).unwrap(), 10);
    assert_eq!(io::Write::write(&mut pipe, &[0]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
