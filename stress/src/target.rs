//! The server under test: one that runs already, or one that is started in a process of its own.
//!
//! Every stress binary can be any of the processes that it needs: it starts itself again with `--be ROLE` and
//! what that role has to know. So a server is measured from outside, and can have a processor to itself
//! (taskset(1)).

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use peeloff::Address;
use serde::{Deserialize, Serialize};

use crate::outside::Usage;
use crate::secure::Auth;
use crate::{bare, floor, product, secure};

/// The argument behind which a role stands.
const BE: &str = "--be";

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
    /// A loop without a framework: one thread that passes what one peer says on to all others.
    BareFanOut,
    /// Answers a question about a floor.
    Floor,
}

impl Role {
    const ALL: [(Self, &str); 8] = [
        (Self::Echo, "echo"),
        (Self::Sleepers, "sleepers"),
        (Self::FanOut, "fan-out"),
        (Self::BareThreads, "bare-threads"),
        (Self::BareEpoll, "bare-epoll"),
        (Self::BareBatches, "bare-batches"),
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

/// What a server has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serving {
    /// Where it listens, as a URL.
    pub listen: String,
    /// How it and its clients know each other.
    pub auth: Auth,
    /// The certificate that clients may show, in PEM.
    pub trusted: String,
}

/// Is another process than the scenario, where the arguments say so; `None` where they do not.
pub fn be_another(arguments: &[String]) -> Option<Result<(), Box<dyn Error>>> {
    let [_, be, role, knows] = arguments else { return None };
    if be != BE {
        return None;
    }
    let role = Role::ALL.iter().find(|(_, name)| name == role)?.0;
    Some(play(role, knows))
}

fn play(role: Role, knows: &str) -> Result<(), Box<dyn Error>> {
    peeloff::tune_malloc();
    if role == Role::Floor {
        return floor::answer(knows);
    }
    peeloff::raise_fd_limit()?;
    let serving: Serving = serde_json::from_str(knows)?;
    match role {
        Role::BareThreads => bare::threads(&serving.listen.parse()?)?,
        Role::BareEpoll => bare::epoll(&serving.listen.parse()?)?,
        Role::BareBatches => bare::batches(&serving.listen.parse()?)?,
        Role::BareFanOut => bare::fan_out(&serving.listen.parse()?)?,
        _ => return product::serve(role, &serving),
    }
    until_stdin_ends()
}

/// Waits until whoever started this process is gone, or wants it to be.
pub(crate) fn until_stdin_ends() -> Result<(), Box<dyn Error>> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// A server to measure; ended when dropped, if it was started here.
#[derive(Debug)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// The first of its addresses.
    pub socket: SocketAddr,
    /// Its process, where that is known.
    pub pid: Option<u32>,
    child: Option<Child>,
}

impl Target {
    /// A server that is running already.
    ///
    /// # Errors
    ///
    /// Its address means nothing, or there is no such process.
    pub fn running(address: &Address, pid: Option<u32>) -> Result<Self, Box<dyn Error>> {
        let socket = address.resolve()?[0];
        if let Some(pid) = pid {
            Usage::of(pid)
                .map_err(|why| format!("process {pid} cannot be looked at ({why}); check --pid"))?;
        }
        Ok(Self { address: address.clone(), socket, pid, child: None })
    }

    /// Starts this same binary in a role, on loopback and a port that the kernel chooses.
    ///
    /// # Errors
    ///
    /// The process cannot be started, or does not say where it listens.
    pub fn start(role: Role, scheme: &str, auth: Auth, pin: Option<usize>) -> Result<Self, Box<dyn Error>> {
        let trusted = String::from_utf8(secure::certificate_pem()?)?;
        let serving = Serving { listen: format!("{scheme}://127.0.0.1:0"), auth, trusted };
        let mut command = role.command(&serde_json::to_string(&serving)?, pin)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|why| match pin {
            Some(_) => format!("the server cannot be started by taskset ({why}); leave out --pin"),
            None => format!("the server cannot be started: {why}"),
        })?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("the server has no output")?).read_line(&mut line)?;
        let address: Option<Address> =
            line.strip_prefix("listening ").and_then(|url| url.trim().parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let mut why = String::new();
            let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut why));
            let _ = child.wait();
            return Err(format!("the server for {scheme} did not start: {}", why.trim()).into());
        };
        let socket = address.resolve()?[0];
        Ok(Self { address, socket, pid: Some(child.id()), child: Some(child) })
    }

    /// What the server has used so far; `None` where its process is not known.
    ///
    /// # Errors
    ///
    /// The process is gone.
    pub fn usage(&self) -> Result<Option<Usage>, Box<dyn Error>> {
        let Some(pid) = self.pid else { return Ok(None) };
        let usage = Usage::of(pid).map_err(|why| format!("the server (process {pid}) is gone: {why}"))?;
        Ok(Some(usage))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
