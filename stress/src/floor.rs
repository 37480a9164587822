//! Measures floors. A floor is the best figure that the machine allows, such as the time that OpenSSL alone takes. A
//! separate process measures it, on the same processor as the server.
//!
//! A floor of OpenSSL is the median of as many repetitions as fit into a fraction of a second. It uses the wall
//! clock around the server's steps only, so that another program that occasionally takes the processor does not
//! count.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::memory::{self, Pair, Workbench};
use crate::outside::Usage;
use crate::role::Role;
use crate::secure::Suite;

/// What a floor process measures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The time of a server's handshake in memory, in seconds.
    Handshake {
        /// The kind of session.
        suite: Suite,
        /// Whether the handshake has a HelloVerifyRequest.
        cookie: bool,
        /// Whether the handshake resumes a session.
        resumed: bool,
    },
    /// The time of a server's handshake in memory with many handshakes in progress, in seconds.
    Crowd {
        /// The kind of session.
        suite: Suite,
        /// Whether the handshakes resume a session.
        resumed: bool,
        /// The number of handshakes.
        count: usize,
        /// The number of handshakes in progress at the same time.
        together: usize,
        /// Whether the sessions are kept.
        keep: bool,
    },
    /// The time to decrypt a message and to encrypt the answer, in one session after the other, in seconds.
    Echo {
        /// The kind of session.
        suite: Suite,
        /// Bytes of the message.
        payload: usize,
        /// The number of sessions.
        sessions: usize,
    },
    /// The time to encrypt a message, in one session after the other, in seconds.
    Encrypt {
        /// The kind of session.
        suite: Suite,
        /// Bytes of the message.
        payload: usize,
        /// The number of sessions.
        sessions: usize,
    },
    /// The memory of a server's open session, in KiB.
    Memory {
        /// The kind of session.
        suite: Suite,
        /// The number of sessions to open for the measurement.
        count: usize,
    },
}

/// Starts a floor process on the processor `pin`, and returns the value that it measured.
///
/// # Errors
///
/// Returns an error if the process cannot be started, or if OpenSSL fails in it.
pub fn ask(question: &Question, pin: Option<usize>) -> Result<f64, Box<dyn Error>> {
    let output = Role::Floor.command(&serde_json::to_string(question)?, pin)?.output()?;
    let answer = String::from_utf8_lossy(&output.stdout);
    answer.trim().parse().map_err(|_| {
        let why = String::from_utf8_lossy(&output.stderr);
        format!("the floor {question:?} could not be measured: {}", why.trim()).into()
    })
}

/// Runs the floor process: measures a floor and prints the value.
///
/// # Errors
///
/// Returns an error if the question cannot be parsed as JSON, or if OpenSSL fails.
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

/// Returns the median in seconds.
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
    // Pay one-time costs before the measurement.
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
