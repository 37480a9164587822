//! What a process of a stress binary is, and what it has to know for that.

use std::error::Error;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::secure::Auth;

/// The argument behind which a role stands.
pub(crate) const BE: &str = "--be";

/// What a stress binary can be instead of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// peeloff's echo server.
    Echo,
    /// The same, where every sixteenth peer's handler sleeps 50 ms for each message.
    Sleepers,
    /// A peeloff server that passes what one peer says on to all others.
    FanOut,
    /// A loop without a framework: a blocking thread for each peer.
    BareThreads,
    /// A loop without a framework: one thread for all peers, by epoll.
    BareEpoll,
    /// A loop without a framework: one socket for all peers, read and answered in batches.
    BareBatches,
    /// The same on DTLS, where what is read is decrypted and encrypted again by OpenSSL's ciphers.
    BareEvp,
    /// A loop without a framework: one thread that passes what one peer says on to all others.
    BareFanOut,
    /// Answers a question about a floor.
    Floor,
}

impl Role {
    pub(crate) const ALL: [(Self, &str); 9] = [
        (Self::Echo, "echo"),
        (Self::Sleepers, "sleepers"),
        (Self::FanOut, "fan-out"),
        (Self::BareThreads, "bare-threads"),
        (Self::BareEpoll, "bare-epoll"),
        (Self::BareBatches, "bare-batches"),
        (Self::BareEvp, "bare-evp"),
        (Self::BareFanOut, "bare-fan-out"),
        (Self::Floor, "floor"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(role, _)| *role == self).map_or("", |(_, name)| name)
    }

    /// The command that starts a process in this role.
    ///
    /// # Errors
    ///
    /// This program's own file is not to be found.
    pub fn command(self, knows: &str, pin: Option<usize>) -> io::Result<Command> {
        let program = std::env::current_exe()?;
        let mut command = match pin {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &cpu.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // Ctrl-C is for the one that writes the report.
        command.args([BE, self.name(), knows]).process_group(0);
        Ok(command)
    }
}

/// What runs the handlers of a server of peeloff's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serve {
    /// A thread for each peer.
    #[default]
    Threads,
    /// A few event loops, which run callbacks.
    Loops,
}

/// Which sockets the peers of a server of peeloff's have on UDP and DTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sockets {
    /// Each has one of its own.
    PerPeer,
    /// All share those of the listener.
    Shared,
}

/// What a server has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serving {
    /// Where it listens, as a URL.
    pub listen: String,
    /// How it and its clients know each other.
    pub auth: Auth,
    /// What runs the handler, where it is a server of peeloff's.
    pub serve: Serve,
    /// Which sockets its peers have on UDP and DTLS; the server's own choice where that is left out.
    pub sockets: Option<Sockets>,
    /// The certificate that clients may show, in PEM.
    pub trusted: String,
}

/// Waits until whoever started this process is gone, or wants it to be.
pub(crate) fn until_stdin_ends() -> Result<(), Box<dyn Error>> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
