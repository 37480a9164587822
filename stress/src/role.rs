//! The roles in which a stress binary can run, and the parameters of each.

use std::error::Error;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::secure::Auth;

/// The argument before the name of a role.
pub(crate) const BE: &str = "--be";

/// A role in which a stress binary runs instead of as a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs peeloff's echo server.
    Echo,
    /// Runs the echo server with a handler that sleeps 50 ms for each message of every sixteenth peer.
    Sleepers,
    /// Runs a peeloff server that forwards one peer's messages to all others.
    FanOut,
    /// Runs a loop without a framework: a blocking thread for each peer.
    BareThreads,
    /// Runs the same on DTLS, and decrypts and encrypts with OpenSSL's ciphers.
    BareThreadsEvp,
    /// Runs a loop without a framework: one thread with epoll for all peers.
    BareEpoll,
    /// Runs a loop without a framework: one socket for all peers, which it reads and answers in batches.
    BareBatches,
    /// Runs the same on DTLS, and decrypts and encrypts with OpenSSL's ciphers.
    BareEvp,
    /// Runs a loop without a framework: one thread that forwards one peer's messages to all others.
    BareFanOut,
    /// Measures a floor; see [`floor`](crate::floor).
    Floor,
}

impl Role {
    pub(crate) const ALL: [(Self, &str); 10] = [
        (Self::Echo, "echo"),
        (Self::Sleepers, "sleepers"),
        (Self::FanOut, "fan-out"),
        (Self::BareThreads, "bare-threads"),
        (Self::BareThreadsEvp, "bare-threads-evp"),
        (Self::BareEpoll, "bare-epoll"),
        (Self::BareBatches, "bare-batches"),
        (Self::BareEvp, "bare-evp"),
        (Self::BareFanOut, "bare-fan-out"),
        (Self::Floor, "floor"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(role, _)| *role == self).map_or("", |(_, name)| name)
    }

    /// Returns the command that starts a process in this role with these parameters, as JSON.
    ///
    /// # Errors
    ///
    /// Returns an error if the path of this program cannot be determined.
    pub fn command(self, parameters: &str, pin: Option<usize>) -> io::Result<Command> {
        let program = std::env::current_exe()?;
        let mut command = match pin {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &cpu.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // Ctrl-C must reach only the process that writes the report.
        command.args([BE, self.name(), parameters]).process_group(0);
        Ok(command)
    }
}

/// What runs the handlers of a peeloff server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serve {
    /// A thread for each peer.
    #[default]
    Threads,
    /// A few event loops, which run callbacks.
    Loops,
}

/// Which sockets the peers of a peeloff server have on UDP and DTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sockets {
    /// Each peer has a socket of its own.
    PerPeer,
    /// All peers share the sockets of the listener.
    Shared,
}

/// The parameters of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serving {
    /// The URL to listen at.
    pub listen: String,
    /// How the server and its clients authenticate each other.
    pub auth: Auth,
    /// What runs the handlers, if it is a peeloff server.
    pub serve: Serve,
    /// Which sockets its peers have on UDP and DTLS; without it, the server's default applies.
    pub sockets: Option<Sockets>,
    /// The certificate that clients may present, in PEM.
    pub trusted: String,
}

/// Waits until the parent process ends or closes the pipe.
pub(crate) fn until_stdin_ends() -> Result<(), Box<dyn Error>> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
