//! Floors: what the machine could do at best, measured by a process of its own that is pinned as the server is.
//!
//! A floor of OpenSSL's is the median over what fits in a fraction of a second, by the wall clock around the
//! server's steps alone; so somebody who takes the processor away now and then does not count.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::memory::{self, Pair, Workbench};
use crate::outside::Usage;
use crate::role::Role;
use crate::secure::Suite;

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
    /// Seconds of a server's handshake in memory where many are under way.
    Crowd {
        /// Of which kind.
        suite: Suite,
        /// Whether resumed.
        resumed: bool,
        /// Handshakes in all.
        count: usize,
        /// Handshakes under way.
        together: usize,
        /// Whether the sessions stay.
        keep: bool,
    },
    /// Seconds to decrypt a message and encrypt the answer, in one session after the other.
    Echo {
        /// Of which kind.
        suite: Suite,
        /// Bytes of the message.
        payload: usize,
        /// Sessions.
        sessions: usize,
    },
    /// Seconds to encrypt a message, in one session after the other.
    Encrypt {
        /// Of which kind.
        suite: Suite,
        /// Bytes of the message.
        payload: usize,
        /// Sessions.
        sessions: usize,
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
        Question::Crowd { suite, resumed, count, together, keep } => {
            let bench = Workbench::new(&suite, suite.dtls && !resumed)?;
            bench.open(false)?;
            let mut times = bench.open_many(resumed, count.max(1), together.max(1), keep)?;
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64()
        }
        Question::Echo { suite, payload, sessions } => {
            let mut pairs = open(&suite, sessions)?;
            median(TIME, || memory::echo_in_each(&mut pairs, payload))?
        }
        Question::Encrypt { suite, payload, sessions } => {
            let mut pairs = open(&suite, sessions)?;
            median(TIME, || memory::encrypt_in_each(&mut pairs, payload))?
        }
        Question::Memory { suite, count } => resident(&suite, count.max(1))?,
    };
    println!("{value}");
    Ok(())
}

fn open(suite: &Suite, sessions: usize) -> Result<Vec<Pair>, Box<dyn Error>> {
    let bench = Workbench::new(suite, false)?;
    (0..sessions.max(1)).map(|_| bench.open(false)).collect()
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

fn resident(suite: &Suite, count: usize) -> Result<f64, Box<dyn Error>> {
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
