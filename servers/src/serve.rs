//! Runs a server from its first check to its last log line; what differs between servers is their
//! handler.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use peeloff::{Address, Handle, PeerHandler, Server, ServerBuilder, Stats};

use crate::cli::ServerArgs;
use crate::credentials::Credentials;
use crate::failure::Failure;
use crate::signals;

/// Bytes of stack that a worker can work with: OpenSSL's handshake needs most of the least.
const STACK_SIZES: RangeInclusive<usize> = 64 << 10..=64 << 20;

/// Serves peers until SIGINT or SIGTERM, then gives them `--drain-timeout` to end.
///
/// Standard output gets one line for each listener, `listening dtls://127.0.0.1:41234`, once all
/// are bound, and nothing else.
///
/// # Errors
///
/// The server cannot start: bad input, or an address that cannot be bound.
pub fn serve(args: &ServerArgs, handler: impl PeerHandler) -> Result<u8, Failure> {
    serve_with(args, |builder| builder, handler)
}

/// As [`serve`], with what this server has to set beside the options of all.
///
/// # Errors
///
/// As [`serve`].
pub fn serve_with(
    args: &ServerArgs,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
    handler: impl PeerHandler,
) -> Result<u8, Failure> {
    args.log.start(2)?;
    let credentials = Credentials::load(&args.credentials)?;
    let self_signed = credentials.self_signed;
    let asked = catch_signals()?;
    // Raised before the start, which looks at the limit, and logged after it, so that a failure is
    // the only line there is.
    let descriptors = peeloff::raise_fd_limit();
    let server = start(args, credentials, configure, handler)?;
    log_limit(descriptors);
    let addresses = server.addresses();
    if self_signed && addresses.iter().any(|address| address.scheme.is_secure()) {
        tracing::warn!(
            "NO CERTIFICATE GIVEN: using a self-signed one that no client can verify; give --cert and --key"
        );
    }
    announce(addresses);
    let handle = server.handle();
    let interval = args.stats_interval.0.filter(|interval| !interval.is_zero());
    let signal = wait(&asked, interval, &handle);
    let (grace, peers) = (args.timeouts.drain_timeout, handle.stats().peers);
    tracing::info!(signal, %grace, peers, "shutting down");
    let report = handle.shutdown(grace.0);
    tracing::info!(?report, "ended");
    Ok(0)
}

fn start(
    args: &ServerArgs,
    credentials: Credentials,
    configure: impl FnOnce(ServerBuilder) -> ServerBuilder,
    handler: impl PeerHandler,
) -> Result<Server, Failure> {
    let mut builder = Server::builder()
        .limits(args.limits.to_limits())
        .timeouts(args.timeouts.to_timeouts())
        .client_auth(credentials.client_auth)
        .sctp(args.sctp.to_settings(args.listen.iter().map(|address| address.scheme))?)
        .v6_only(args.v6only)
        .freebind(args.freebind);
    for address in &args.listen {
        builder = builder.listen(address.clone());
    }
    if let Some(identity) = credentials.identity {
        builder = builder.identity(identity);
    }
    if let Some(table) = credentials.psk {
        builder = builder.psk(move |identity| table.key(identity));
    }
    if let Some(size) = args.stack_size {
        if !STACK_SIZES.contains(&size.0) {
            return Err(Failure::input(format_args!("--stack-size {size} is not usable: give 64K to 64M")));
        }
        builder = builder.stack_size(size.0);
    }
    configure(builder).start(handler).map_err(Failure::input)
}

/// The first SIGINT or SIGTERM comes out of the receiver.
fn catch_signals() -> Result<Receiver<i32>, Failure> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let forward = move |signal| {
        // Fails only if the program is ending already.
        let _ = sender.send(signal);
    };
    signals::on_first_signal(forward)?;
    Ok(receiver)
}

/// Blocks until a signal; logs the counters meanwhile if asked to.
fn wait(asked: &Receiver<i32>, interval: Option<Duration>, handle: &Handle) -> i32 {
    loop {
        let result = match interval {
            Some(interval) => asked.recv_timeout(interval),
            None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match result {
            Ok(signal) => return signal,
            Err(RecvTimeoutError::Timeout) => log_stats(&handle.stats()),
            // The thread that waits for signals is gone, so none would ever come: end while it is
            // still in good order.
            Err(RecvTimeoutError::Disconnected) => return 0,
        }
    }
}

/// One line per listener. A closed standard output is no reason to stop serving.
fn announce(addresses: &[Address]) {
    let mut stdout = io::stdout().lock();
    let written = addresses.iter().try_for_each(|address| writeln!(stdout, "listening {address}"));
    if let Err(error) = written.and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "cannot write the addresses to standard output");
    }
    for address in addresses {
        tracing::info!(%address, "listening");
    }
}

fn log_limit(descriptors: io::Result<u64>) {
    match descriptors {
        Ok(limit) => tracing::info!(limit, "descriptors; each peer takes one"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit on descriptors"),
    }
}

/// Those counters that are not zero, as `name=value`.
fn log_stats(stats: &Stats) {
    let entries = stats.entries();
    let nonzero = entries.iter().filter(|(_, value)| *value != 0);
    let line: Vec<String> = nonzero.map(|(name, value)| format!("{name}={value}")).collect();
    tracing::info!("stats {}", line.join(" "));
}
