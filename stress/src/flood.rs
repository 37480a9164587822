//! Datagrams of strangers that mean no good, from many addresses of 127.0.0.0/8.

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::memory;
use crate::secure::Suite;

/// Datagrams between two looks at the clock and the answers.
const BATCH: u32 = 16;

/// What strangers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// ClientHellos without a cookie, each with a random of its own.
    Hellos,
    /// Bytes that are no DTLS.
    Junk,
}

/// Who sends.
pub struct Flood {
    sockets: Vec<UdpSocket>,
    datagram: Vec<u8>,
    kind: Kind,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flooded {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that came back.
    pub answers: u64,
    /// For how long.
    pub took: Duration,
}

impl Flood {
    /// With so many sources, each with an address of its own, before a target.
    ///
    /// # Errors
    ///
    /// No descriptors are left, or the target is on another machine.
    pub fn new(target: SocketAddr, kind: Kind, sources: u32, suite: &Suite) -> Result<Self, Box<dyn Error>> {
        if !target.ip().is_loopback() || target.is_ipv6() {
            return Err(format!("{target} is not in 127.0.0.0/8, and only that is flooded").into());
        }
        let datagram = match kind {
            Kind::Hellos => memory::client_hello(suite)?,
            Kind::Junk => vec![b'?'; 64],
        };
        let socket = |index: u32| -> io::Result<UdpSocket> {
            let host = Ipv4Addr::from_bits(Ipv4Addr::new(127, 2, 0, 1).to_bits() + index * 251);
            let socket = UdpSocket::bind((host, 0))?;
            socket.connect(target)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets: io::Result<Vec<UdpSocket>> = (0..sources.max(1)).map(socket).collect();
        Ok(Self { sockets: sockets?, datagram, kind })
    }

    /// Sends so many per second, or as many as get through, on the calling thread and until `over`.
    ///
    /// # Errors
    ///
    /// Those of send(2), without those of a target that takes no more.
    pub fn run(&mut self, rate: Option<u32>, over: &AtomicBool) -> io::Result<Flooded> {
        let (began, mut flooded) = (Instant::now(), Flooded::default());
        let mut buffer = [0; 2048];
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
                let index = (flooded.sent % self.sockets.len() as u64) as usize;
                if self.kind == Kind::Hellos {
                    // Behind the headers of record and message, and the version.
                    self.datagram[27..35].copy_from_slice(&flooded.sent.to_le_bytes());
                }
                match self.sockets[index].send(&self.datagram) {
                    // ICMP, or no room: the target's business.
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
                        ) => {}
                    outcome => drop(outcome?),
                }
                flooded.sent += 1;
                while self.sockets[index].recv(&mut buffer).is_ok() {
                    flooded.answers += 1;
                }
            }
        }
        flooded.took = began.elapsed();
        // What is on its way.
        for socket in &self.sockets {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(Duration::from_millis(1)))?;
            while socket.recv(&mut buffer).is_ok() {
                flooded.answers += 1;
            }
            socket.set_nonblocking(true)?;
        }
        Ok(flooded)
    }
}
