//! A member of a chat, as a test types and reads.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::time::Instant;

use peeloff::{Client, Error, Framing, Peer, TcpSettings};

use crate::support::DEADLINE;

/// One peer of `peeloff-chat`.
pub struct Member {
    peer: Peer,
    buffer: Vec<u8>,
}

impl Member {
    /// Connects, and comes into the lobby. What comes meanwhile is forgotten.
    pub fn come(client: &Client, address: &str) -> Self {
        let peer = client.connect(address).unwrap();
        let mut member = Self { peer, buffer: vec![0; 20_000] };
        if address.starts_with("udp") {
            // Nobody is there on UDP before something came.
            member.write("");
            let asked = member.line();
            if let Some(answer) = peeloff_servers::chat::proof::answer(&asked) {
                member.write(answer.trim_end());
            }
        }
        member.expect("* you joined lobby");
        member
    }

    /// As [`come`](Self::come), and takes a name.
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

    /// The next line; panics where none comes in time.
    pub fn line(&mut self) -> String {
        self.line_until(Instant::now() + DEADLINE)
            .unwrap_or_else(|| panic!("nothing came for {DEADLINE:?} to {:?}", self.peer))
    }

    /// Reads up to the line that begins with `beginning`, and gives that line.
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

    /// The next line, if one comes before `deadline`.
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

    /// The peer itself.
    pub fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// Reads to the end of the association; true if it comes in time.
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

/// A client that takes the certificates that the servers make for themselves.
pub fn client() -> Client {
    let lines = TcpSettings::default().framing(Framing::Lines);
    Client::builder().danger_accept_any_certificate().tcp(lines)
}
