//! A member of a chat, for tests that type and read.

// Each test program uses a part of this module.
#![allow(dead_code)]

use std::time::Instant;

use peeloff::{Client, Error, Framing, Peer, TcpSettings};

use crate::support::DEADLINE;

/// A peer of `peeloff-chat`.
pub struct Member {
    peer: Peer,
    buffer: Vec<u8>,
}

impl Member {
    /// Connects, and enters the lobby. Discards the lines that arrive meanwhile.
    pub fn come(client: &Client, address: &str) -> Self {
        let peer = client.connect(address).unwrap();
        let mut member = Self { peer, buffer: vec![0; 20_000] };
        if address.starts_with("udp") {
            // On UDP the server does not know this peer until it has received a datagram.
            member.write("");
            let asked = member.line();
            if let Some(answer) = peeloff_servers::chat::proof::answer(&asked) {
                member.write(answer.trim_end());
            }
        }
        member.expect("* you joined lobby");
        member
    }

    /// Connects like [`come`](Self::come), and takes a name.
    pub fn come_as(name: &str, address: &str) -> Self {
        let mut member = Self::come(&client(), address);
        member.write(&format!("/nick {name}"));
        member.expect(&format!("* you are {name} now"));
        member
    }

    /// Writes one line.
    pub fn write(&mut self, line: &str) {
        self.peer.send(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Returns the next line. Panics if none arrives in time.
    pub fn line(&mut self) -> String {
        self.line_until(Instant::now() + DEADLINE)
            .unwrap_or_else(|| panic!("nothing came for {DEADLINE:?} to {:?}", self.peer))
    }

    /// Reads up to the line that begins with `beginning`, and returns that line.
    pub fn expect(&mut self, beginning: &str) -> String {
        let give_up = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        loop {
            match self.line_until(give_up) {
                Some(line) if line.starts_with(beginning) => return line,
                Some(line) => seen.push(line),
                None => panic!("no {beginning:?} within {DEADLINE:?}, but {seen:?}"),
            }
        }
    }

    /// Returns the next line if one arrives before `deadline`.
    pub fn line_until(&mut self, deadline: Instant) -> Option<String> {
        match self.peer.recv_deadline(&mut self.buffer, deadline) {
            Ok(Some(length)) => {
                let line = std::str::from_utf8(&self.buffer[..length]).unwrap();
                Some(line.trim_end_matches('\n').to_owned())
            }
            Ok(None) => panic!("the association is over: {:?}", self.peer.end_reason()),
            Err(Error::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns the peer itself.
    pub fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// Reads to the end of the association. Returns whether it comes in time.
    pub fn ends(&mut self) -> bool {
        loop {
            match self.peer.recv_timeout(&mut self.buffer, DEADLINE) {
                Ok(Some(_)) => {}
                Ok(None) | Err(Error::Ended(_)) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// Makes a client that accepts the servers' self-signed certificates.
pub fn client() -> Client {
    let lines = TcpSettings::default().framing(Framing::Lines);
    Client::builder().danger_accept_any_certificate().tcp(lines)
}
