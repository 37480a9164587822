//! Sends an attacker's datagrams from many addresses of 127.0.0.0/8.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::client::Sockets;
use crate::memory;
use crate::secure::Suite;

/// Datagrams between two looks at the clock and at the answers.
const BATCH: u32 = 16;

/// What the attackers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// ClientHellos without a cookie, each with a random of its own.
    Hellos,
    /// Bytes that are not DTLS.
    Junk,
}

/// The attackers.
pub struct Flood {
    sockets: Sockets,
    sources: u32,
    datagram: Vec<u8>,
    kind: Kind,
}

/// The results of a flood.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flooded {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that came back.
    pub answers: u64,
    /// The duration of the flood.
    pub took: Duration,
}

impl Flood {
    /// Makes this many attackers of a target, each with an address of its own.
    ///
    /// # Errors
    ///
    /// Returns an error if no descriptors are left, or if the target is on another machine.
    pub fn new(target: SocketAddr, kind: Kind, sources: u32, suite: &Suite) -> Result<Self, Box<dyn Error>> {
        if !target.ip().is_loopback() || target.is_ipv6() {
            return Err(format!(
                "{target} is not in 127.0.0.0/8, and this program floods no other addresses"
            )
            .into());
        }
        let datagram = match kind {
            Kind::Hellos => memory::client_hello(suite)?,
            Kind::Junk => vec![b'?'; 64],
        };
        Ok(Self { sockets: Sockets::new(target)?, sources: sources.max(1), datagram, kind })
    }

    /// Sends at this rate per second, or as fast as the target accepts, on the calling thread and until `over` is
    /// set.
    ///
    /// # Errors
    ///
    /// Those of send(2), except those of a target that accepts no more.
    pub fn run(&mut self, rate: Option<u32>, over: &AtomicBool) -> io::Result<Flooded> {
        let (began, mut flooded) = (Instant::now(), Flooded::default());
        while !over.load(Ordering::Relaxed) {
            if let Some(rate) = rate {
                let due = began + Duration::from_secs_f64(flooded.sent as f64 / f64::from(rate));
                let left = due.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    thread::park_timeout(left.min(Duration::from_millis(100)));
                    continue;
                }
            }
            for _ in 0..BATCH {
                let index = (flooded.sent % u64::from(self.sources)) as usize;
                if self.kind == Kind::Hellos {
                    // The bytes after the headers of the record and of the message, and after the version.
                    self.datagram[27..35].copy_from_slice(&flooded.sent.to_le_bytes());
                }
                self.sockets.send(index, &self.datagram);
                flooded.sent += 1;
            }
            flooded.answers += self.answers(Duration::ZERO)?;
        }
        flooded.took = began.elapsed();
        // Count the answers that are still on their way.
        flooded.answers += self.answers(Duration::from_millis(5))?;
        Ok(flooded)
    }

    /// Sends the queued datagrams, waits this long, and counts the datagrams that arrived.
    fn answers(&mut self, time: Duration) -> io::Result<u64> {
        self.sockets.wait(Some(Instant::now() + time))?;
        let mut answers = 0;
        loop {
            match self.sockets.receive()? {
                0 => return Ok(answers),
                count => answers += count as u64,
            }
        }
    }
}
