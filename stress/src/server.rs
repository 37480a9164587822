//! The server under test: peeloff's own in a process of its own, or somebody else's.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use peeloff::{Address, Error, Identity, Limits, Peer, Server, Timeouts};

/// The argument that makes a stress binary be the server.
pub const SERVE: &str = "--be-the-server";

/// A server process; ended when dropped.
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// Its process, where that is known.
    pub pid: Option<u32>,
    child: Option<Child>,
}

impl Target {
    /// A server that is running already.
    pub fn running(address: Address, pid: Option<u32>) -> Self {
        Self { address, pid, child: None }
    }

    /// Starts this same binary as an echo server; `cpu` pins it to one processor (taskset(1)).
    ///
    /// # Errors
    ///
    /// The process cannot be started, or does not say where it listens.
    pub fn start(scheme: &str, cpu: Option<usize>) -> io::Result<Self> {
        Self::start_as(SERVE, scheme, cpu)
    }

    /// As [`start`](Self::start), with another argument than [`SERVE`].
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_as(role: &str, scheme: &str, cpu: Option<usize>) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = match cpu {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &cpu.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let listen = format!("{scheme}://127.0.0.1:0");
        let mut child = command.args([role, &listen]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).read_line(&mut line)?;
        let address = line.strip_prefix("listening ").and_then(|url| url.trim().parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::other("the server did not say where it listens"));
        };
        Ok(Self { address, pid: Some(child.id()), child: Some(child) })
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

/// Is the server, until standard input ends.
///
/// # Errors
///
/// The server cannot be started.
pub fn serve(listen: &str) -> Result<(), Box<dyn std::error::Error>> {
    peeloff::raise_fd_limit()?;
    let limits = Limits {
        max_peers: usize::MAX,
        max_peers_per_local_address: usize::MAX,
        max_half_open: usize::MAX,
        ..Limits::default()
    };
    let mut timeouts = Timeouts::default();
    timeouts.idle = Some(Duration::from_secs(3600));
    let server = Server::builder()
        .listen(listen.parse()?)
        .identity(Identity::self_signed()?)
        .limits(limits)
        .timeouts(timeouts)
        .start(|peer: &mut Peer| -> Result<(), Error> {
            let mut buffer = [0; 2048];
            while let Some(len) = peer.recv(&mut buffer)? {
                peer.reply(&buffer[..len])?;
            }
            Ok(())
        })?;
    println!("listening {}", server.addresses()[0]);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    server.handle().shutdown(Duration::ZERO);
    Ok(())
}
