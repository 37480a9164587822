//! Floors: what the machine could do at best, measured by a process of its own that is pinned as the server is.
//!
//! A floor of OpenSSL's is the median over what fits in a fraction of a second, by the wall clock around the
//! server's steps alone; so somebody who takes the processor away now and then does not count.

use std::error::Error;
use std::hint::black_box;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::memory::Workbench;
use crate::outside::Usage;
use crate::secure::Suite;
use crate::target::Role;

/// What can be asked of a floor process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Seconds of a server's handshake in memory.
    Handshake {
        /// Of which kind.
        suite: Suite,
        /// Whether with a HelloVerifyRequest.
        cookie: bool,
        /// Whether resumed.
        resumed: bool,
    },
    /// Seconds to decrypt a message and encrypt the answer.
    Echo {
        /// Of which kind.
        suite: Suite,
        /// Bytes of the message.
        payload: usize,
    },
    /// Seconds to encrypt a message.
    Encrypt {
        /// Of which kind.
        suite: Suite,
        /// Bytes of the message.
        payload: usize,
    },
    /// Seconds to send a datagram on a connected socket, of which there are several.
    Send {
        /// Bytes of the datagram.
        payload: usize,
    },
    /// KiB of a server's open session.
    Memory {
        /// Of which kind.
        suite: Suite,
        /// Sessions that are opened to find out.
        count: usize,
    },
}

/// Asks a process of its own, on the processor `pin`.
///
/// # Errors
///
/// The process cannot be started, or OpenSSL fails in it.
pub fn ask(question: &Question, pin: Option<usize>) -> Result<f64, Box<dyn Error>> {
    let output = Role::Floor.command(&serde_json::to_string(question)?, pin)?.output()?;
    let answer = String::from_utf8_lossy(&output.stdout);
    answer.trim().parse().map_err(|_| {
        let why = String::from_utf8_lossy(&output.stderr);
        format!("the floor {question:?} could not be measured: {}", why.trim()).into()
    })
}

/// Is that process: prints the answer to a question.
///
/// # Errors
///
/// The question makes no sense, or OpenSSL fails.
pub fn answer(question: &str) -> Result<(), Box<dyn Error>> {
    const TIME: Duration = Duration::from_millis(400);
    let value = match serde_json::from_str(question)? {
        Question::Handshake { suite, cookie, resumed } => {
            let bench = Workbench::new(&suite, cookie)?;
            bench.open(false)?;
            median(TIME, || Ok(bench.open(resumed)?.server_time))?
        }
        Question::Echo { suite, payload } => {
            let mut pair = Workbench::new(&suite, false)?.open(false)?;
            median(TIME, || pair.echo(payload))?
        }
        Question::Encrypt { suite, payload } => {
            let mut pair = Workbench::new(&suite, false)?.open(false)?;
            median(TIME, || pair.encrypt(payload))?
        }
        Question::Send { payload } => {
            let receiver = UdpSocket::bind("127.0.0.1:0")?;
            receiver.set_nonblocking(true)?;
            let mut senders = Vec::new();
            for _ in 0..64 {
                let sender = UdpSocket::bind("127.0.0.1:0")?;
                sender.connect(receiver.local_addr()?)?;
                senders.push(sender);
            }
            let (message, mut buffer) = (vec![0; payload], [0; 2048]);
            median(TIME, || {
                let began = Instant::now();
                for sender in &senders {
                    sender.send(&message)?;
                }
                let took = began.elapsed() / 64;
                while receiver.recv(&mut buffer).is_ok() {}
                Ok(took)
            })?
        }
        Question::Memory { suite, count } => memory(&suite, count.max(1))?,
    };
    println!("{value}");
    Ok(())
}

/// In seconds.
fn median(
    time: Duration,
    mut measure: impl FnMut() -> Result<Duration, Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let mut all = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time || all.len() < 3 {
        all.push(measure()?);
    }
    all.sort_unstable();
    Ok(all[all.len() / 2].as_secs_f64())
}

fn memory(suite: &Suite, count: usize) -> Result<f64, Box<dyn Error>> {
    let bench = Workbench::new(suite, true)?;
    // What is paid once is paid before.
    let mut sessions = vec![bench.open(false)?.into_server()];
    let rss = || Usage::of(std::process::id()).map(|usage| usage.rss_kib);
    let before = rss()?;
    for _ in 0..count {
        sessions.push(bench.open(false)?.into_server());
    }
    let after = rss()?;
    black_box(&sessions);
    Ok(after.saturating_sub(before) as f64 / count as f64)
}
