//! Runs a server from its first check to its last log line; what differs between servers is their
//! handler.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use peeloff::{Address, PeerHandler, Server, ServerBuilder, Stats};

use crate::cli::ServerArgs;
use crate::config::{Config, ServerOptions};
use crate::failure::Failure;
use crate::reload::{Plan, Running, warn_of_self_signed};
use crate::signals::{self, Asked};

/// Serves peers until SIGINT or SIGTERM, then gives them `--drain-timeout` to end. SIGHUP makes it read
/// its configuration and its credentials again.
///
/// Standard output gets one line for each listener, `listening dtls://127.0.0.1:41234`, once all
/// are bound, and nothing else.
///
/// # Errors
///
/// The server cannot start: bad input, or an address that cannot be bound.
pub fn serve<T>(config: Config<T>, handler: impl PeerHandler) -> Result<u8, Failure>
where
    T: ServerOptions,
{
    serve_with(config, |builder| builder, handler)
}

/// As [`serve`], with what a program sets by itself: `finish` has the last word on the builder.
///
/// # Errors
///
/// As [`serve`].
pub fn serve_with<T>(
    config: Config<T>,
    finish: impl FnOnce(ServerBuilder) -> ServerBuilder,
    handler: impl PeerHandler,
) -> Result<u8, Failure>
where
    T: ServerOptions,
{
    let args = config.options.server();
    args.log.start(2).map_err(|failure| config.locate(failure))?;
    let plan = Plan::new(args, None).map_err(|failure| config.locate(failure))?;
    let self_signed = plan.credentials.self_signed.clone();
    let asked = catch_signals()?;
    // Raised before the start, which looks at the limit, and logged after it, so that a failure is
    // the only line there is.
    let descriptors = peeloff::raise_fd_limit();
    let server = finish(builder(args, plan)).start(handler).map_err(Failure::input)?;
    log_limit(descriptors);
    let addresses = server.addresses();
    if self_signed.is_some() && addresses.iter().any(|address| address.scheme.is_secure()) {
        warn_of_self_signed();
    }
    announce(addresses);
    let handle = server.handle();
    let mut running = Running::new(config, self_signed, handle.clone());
    let signal = wait(&asked, &mut running);
    let (grace, peers) = (running.args().timeouts.drain_timeout, handle.stats().peers);
    tracing::info!(signal, %grace, peers, "shutting down");
    let report = handle.shutdown(grace.0);
    tracing::info!(?report, "ended");
    Ok(0)
}

fn builder(args: &ServerArgs, plan: Plan) -> ServerBuilder {
    let mut builder = Server::builder()
        .limits(args.limits.to_limits())
        .timeouts(args.timeouts.to_timeouts())
        .credentials(plan.credentials.credentials)
        .stream(plan.stream)
        .sctp(plan.sctp)
        .v6_only(args.v6only)
        .freebind(args.freebind);
    for address in &args.listen {
        builder = builder.listen(address.clone());
    }
    for address in &args.listen_proxied {
        builder = builder.listen_proxied(address.clone());
    }
    if let Some(bytes) = plan.stack_size {
        builder = builder.stack_size(bytes);
    }
    builder
}

/// Signals come out of the receiver, up to the first that ends the server.
fn catch_signals() -> Result<Receiver<Asked>, Failure> {
    let (sender, receiver) = mpsc::sync_channel(1);
    signals::on_signals(move |asked| {
        // Both fail only if the program is ending already, or if a reload has not begun, which is as
        // good as another one.
        let _ = match asked {
            Asked::Reload => sender.try_send(asked).map_err(drop),
            Asked::End(_) => sender.send(asked).map_err(drop),
        };
    })?;
    Ok(receiver)
}

/// Blocks until a signal ends the server, and gives its number; reloads, and logs the counters,
/// meanwhile.
fn wait<T: ServerOptions>(asked: &Receiver<Asked>, running: &mut Running<T>) -> i32 {
    loop {
        let interval = running.args().stats_interval.0.filter(|interval| !interval.is_zero());
        let result = match interval {
            Some(interval) => asked.recv_timeout(interval),
            None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match result {
            Ok(Asked::End(signal)) => return signal,
            Ok(Asked::Reload) => running.reload(),
            Err(RecvTimeoutError::Timeout) => log_stats(&running.stats()),
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
