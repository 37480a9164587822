//! The server under test: a running one, or one that is started in a process of its own.
//!
//! Every stress binary can play any of the processes that it needs: it starts itself again with `--be ROLE` and
//! the parameters of the role. The server is therefore a separate process that is observed from outside, and it
//! can have a processor of its own (taskset(1)).

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};

use peeloff::Address;

use crate::outside::Usage;
use crate::role::{self, Serve, Sockets, until_stdin_ends};
pub use crate::role::{Role, Serving};
use crate::secure::Auth;
use crate::stop::Stop;
use crate::{bare, floor, product, secure};

/// Runs another role instead of the scenario if the arguments say so. Returns none if they do not.
pub fn be_another(arguments: &[String]) -> Option<Result<(), Box<dyn Error>>> {
    let [_, be, role, parameters] = arguments else { return None };
    if be != role::BE {
        return None;
    }
    let role = Role::ALL.iter().find(|(_, name)| name == role)?.0;
    Some(play(role, parameters))
}

fn play(role: Role, parameters: &str) -> Result<(), Box<dyn Error>> {
    peeloff::tune_malloc();
    if role == Role::Floor {
        return floor::answer(parameters);
    }
    peeloff::raise_fd_limit()?;
    let serving: Serving = serde_json::from_str(parameters)?;
    match role {
        Role::BareThreads => bare::threads(&serving)?,
        Role::BareThreadsEvp => bare::threads_with_evp(&serving)?,
        Role::BareEpoll => bare::epoll(&serving.listen.parse()?)?,
        Role::BareBatches => bare::batches(&serving.listen.parse()?)?,
        Role::BareEvp => bare::sessions(&serving)?,
        Role::BareFanOut => bare::fan_out(&serving.listen.parse()?)?,
        _ => return product::serve(role, &serving),
    }
    until_stdin_ends()
}

/// How a server that is started serves its peers.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// How the server and its clients authenticate each other.
    pub auth: Auth,
    /// What runs its handlers.
    pub serve: Serve,
    /// Which sockets its peers have.
    pub sockets: Option<Sockets>,
    /// Its processor.
    pub pin: Option<usize>,
}

/// A server to measure. Dropping this value ends the server if it was started here.
#[derive(Debug)]
pub struct Target {
    /// The address that it listens at.
    pub address: Address,
    /// The first of its socket addresses.
    pub socket: SocketAddr,
    /// Its process ID, if known.
    pub pid: Option<u32>,
    child: Option<Child>,
    /// The rest of the output of a server that was started here, which ends when the server does.
    output: Option<BufReader<ChildStdout>>,
}

impl Target {
    /// Describes a server that is running already.
    ///
    /// # Errors
    ///
    /// Returns an error if its address cannot be resolved, or if there is no such process.
    pub fn running(address: &Address, pid: Option<u32>) -> Result<Self, Box<dyn Error>> {
        let socket = address.resolve()?[0];
        if let Some(pid) = pid {
            Usage::of(pid)
                .map_err(|why| format!("process {pid} cannot be read in /proc ({why}); check --pid"))?;
        }
        Ok(Self { address: address.clone(), socket, pid, child: None, output: None })
    }

    /// Starts this binary in a role, as a server on loopback at a port that the kernel chooses.
    ///
    /// # Errors
    ///
    /// Returns an error if the process cannot be started, or does not print its address.
    pub fn start(role: Role, scheme: &str, how: impl Into<How>) -> Result<Self, Box<dyn Error>> {
        let How { auth, serve, sockets, pin } = how.into();
        let trusted = String::from_utf8(secure::certificate_pem())?;
        let listen = format!("{scheme}://127.0.0.1:0");
        let serving = Serving { listen, auth, serve, sockets, trusted };
        let mut command = role.command(&serde_json::to_string(&serving)?, pin)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|why| match pin {
            Some(_) => format!("the server cannot be started by taskset ({why}); leave out --pin"),
            None => format!("the server cannot be started: {why}"),
        })?;
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().ok_or("the server has no output")?);
        output.read_line(&mut line)?;
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
        Ok(Self { address, socket, pid: Some(child.id()), child: Some(child), output: Some(output) })
    }

    /// Ends the run if the server ends, so that clients do not go on without it.
    pub fn watch(&mut self, stop: Stop) {
        if let Some(mut output) = self.output.take() {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut output, &mut std::io::sink());
                stop.end();
            });
        }
    }

    /// Checks that the server still runs, if it was started here.
    ///
    /// # Errors
    ///
    /// Returns an error if its process has ended.
    pub fn check(&mut self) -> Result<(), Box<dyn Error>> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.try_wait()? {
            Some(status) => Err(format!("the server (process {}) has ended: {status}", child.id()).into()),
            None => Ok(()),
        }
    }

    /// Returns what the server has used so far, or none if its process is not known.
    ///
    /// # Errors
    ///
    /// Returns an error if the process has ended.
    pub fn usage(&self) -> Result<Option<Usage>, Box<dyn Error>> {
        let Some(pid) = self.pid else { return Ok(None) };
        let usage = Usage::of(pid).map_err(|why| format!("the server (process {pid}) has ended: {why}"))?;
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
