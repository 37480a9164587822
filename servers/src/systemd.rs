//! Talks to systemd: takes the sockets that it has bound (sd_listen_fds(3)), and notifies it of the server's
//! state (sd_notify(3)).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use peeloff::{Address, Handle, Scheme};
use sd_notify::NotifyState;
use socket2::SockRef;

use crate::failure::Failure;

/// The suffix of the name of a socket behind a proxy, which belongs to `--listen-proxied`.
const PROXIED: &str = "-proxied";

/// A socket that systemd has bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassedSocket {
    number: i32,
    /// The socket's address, and the scheme to serve on it.
    pub(crate) address: Address,
    /// Whether the socket is behind a proxy.
    pub(crate) proxied: bool,
}

impl PassedSocket {
    /// Duplicates the descriptor. The one that systemd has passed stays open too.
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
                    "systemd passed the descriptor {number} ({name}), which is not a socket: {error}"
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

/// Returns the sockets that systemd has passed to this process, which are none unless a socket unit started it.
///
/// # Errors
///
/// Returns an error if the name of a socket is not a scheme, or if a socket has no IP address.
pub(crate) fn sockets() -> Result<Vec<PassedSocket>, Failure> {
    let passed = sd_notify::listen_fds_with_names().map_err(|error| {
        Failure::input(format_args!("cannot read the sockets that systemd passed: {error}"))
    })?;
    passed.map(|(number, name)| PassedSocket::new(number, &name)).collect()
}

/// Notifies systemd, if it has asked for notifications.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd of the server's state");
    }
}

/// Notifies systemd that peers can connect.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Notifies systemd that the configuration is being read again. [`ready`] notifies it of the end of the reload.
pub(crate) fn reloading() {
    // The clock cannot fail. Without the time, systemd treats the service as one of the older type.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Notifies systemd that another process is the service's main process from now on.
pub(crate) fn main_process(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Notifies systemd that the server lets its peers finish and then ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Notifies systemd regularly that the server makes progress, until this value is dropped.
pub(crate) struct Watchdog {
    _until_dropped: Sender<()>,
}

impl Watchdog {
    /// Starts a thread if the unit sets WatchdogSec=. The thread notifies systemd twice in that time, unless the
    /// dispatcher or an event loop has been busy with one piece of work for longer. systemd then ends the server
    /// and starts it again.
    ///
    /// # Errors
    ///
    /// Returns an error if no thread can be started.
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
            false => tracing::error!(seconds = busy.as_secs(), "a thread of the server makes no progress"),
        }
        if ended.recv_timeout(limit / 2) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
