//! What systemd and a service tell each other: sockets that systemd has bound (sd_listen_fds(3)), and how the service is
//! (sd_notify(3)).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use peeloff::{Address, Handle, Scheme};
use sd_notify::NotifyState;
use socket2::SockRef;

use crate::failure::Failure;

/// What the name of a socket ends with that is behind a proxy, as `--listen-proxied` has them.
const PROXIED: &str = "-proxied";

/// A socket that systemd has bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassedSocket {
    number: i32,
    /// Where it is, and what is to be spoken there.
    pub(crate) address: Address,
    /// Whether it is behind a proxy.
    pub(crate) proxied: bool,
}

impl PassedSocket {
    /// A descriptor for it. The one that systemd has passed stays open, too.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        peeloff::inherited_descriptor(self.number)
    }

    fn new(number: i32, name: &str) -> Result<Self, Failure> {
        let plain = name.strip_suffix(PROXIED);
        let Ok(scheme) = plain.unwrap_or(name).parse::<Scheme>() else {
            return Err(Failure::input(format_args!(
                "systemd passed a socket with the name {name:?}: name it after its protocol by FileDescriptorName= in the \
                 socket unit, such as dtls, tls or tls{PROXIED}"
            )));
        };
        let address = peeloff::inherited_descriptor(number)
            .and_then(|socket| SockRef::from(&socket).local_addr())
            .map_err(|error| {
                Failure::input(format_args!(
                    "systemd passed the descriptor {number} ({name}), which is no socket: {error}"
                ))
            })?;
        let Some(address) = address.as_socket() else {
            return Err(Failure::input(format_args!(
                "systemd passed a socket with the name {name} that has no IP address: give the socket unit a port"
            )));
        };
        Ok(Self { number, address: Address::from_socket(scheme, address), proxied: plain.is_some() })
    }
}

/// The sockets that systemd has passed to this process; none where it was not started for a socket unit.
///
/// # Errors
///
/// One has no name that is a protocol's, or is no socket of the Internet's.
pub(crate) fn sockets() -> Result<Vec<PassedSocket>, Failure> {
    let passed = sd_notify::listen_fds_with_names().map_err(|error| {
        Failure::input(format_args!("cannot make out the sockets that systemd passed: {error}"))
    })?;
    passed.map(|(number, name)| PassedSocket::new(number, &name)).collect()
}

/// Tells systemd, if it wants to know.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd how the server is");
    }
}

/// Peers can come.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] tells when it has been.
pub(crate) fn reloading() {
    // The clock cannot fail; without the time systemd takes it as a service of an older kind.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Another process is the service from now on.
pub(crate) fn main_process(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// The server lets its peers finish, and ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells systemd that the server gets on, until it is dropped.
pub(crate) struct Watchdog {
    _until_dropped: Sender<()>,
}

impl Watchdog {
    /// Starts a thread where the unit has a WatchdogSec=. It tells twice in that time, unless the dispatcher or an event loop
    /// has been at the same work for so long; then systemd ends the server and starts it again.
    ///
    /// # Errors
    ///
    /// The system has no thread.
    pub(crate) fn start(handle: Handle) -> Result<Option<Self>, Failure> {
        let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(None) };
        let (sender, receiver) = channel();
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&handle, limit, &receiver))
            .map_err(|error| {
                Failure::new(
                    1,
                    format_args!(
                        "cannot start a thread for the watchdog ({error}): check the limit on threads"
                    ),
                )
            })?;
        Ok(Some(Self { _until_dropped: sender }))
    }
}

fn watch(handle: &Handle, limit: Duration, ended: &Receiver<()>) {
    loop {
        let busy = handle.health().longest_busy();
        match busy < limit {
            true => tell(&[NotifyState::Watchdog]),
            false => tracing::error!(seconds = busy.as_secs(), "a thread of the server does not get on"),
        }
        if ended.recv_timeout(limit / 2) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
