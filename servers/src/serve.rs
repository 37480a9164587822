//! Runs a server from its first check to its last log line. Servers differ only in their handlers.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use peeloff::{Address, Handle, Scheme, Server, ServerBuilder, ShutdownReport, StartError, Stats};
use signal_hook::consts::{SIGHUP, SIGUSR2};

use crate::admin::ADMIN;
use crate::cli::ServerArgs;
use crate::config::{Config, ServerOptions};
use crate::expiry;
use crate::explain;
use crate::failure::Failure;
use crate::handover::{self, Successor};
use crate::logging;
use crate::passphrase::Keyring;
use crate::reload::{Plan, Running, warn_of_self_signed};
use crate::serving::Serve;
use crate::signals::{self, Asked};
use crate::systemd::{self, PassedSocket, Watchdog};

/// The longest sleep of the main thread. It then checks the wall clock, which may have jumped.
const NAP: Duration = Duration::from_secs(3600);

/// Serves peers until SIGINT or SIGTERM, and then gives them `--drain-timeout` to finish. At SIGHUP it reads its
/// configuration and its credentials again. If the server runs on a terminal and its options name no file, SIGHUP
/// means that the terminal was closed, and ends the server like SIGTERM. At SIGUSR2 it hands over to a new
/// process.
///
/// `start` may change the builder, and starts the server in the way that the options ask for.
///
/// Once all listeners are bound, standard output gets one line for each of them, `listening
/// dtls://127.0.0.1:41234`, and nothing else.
///
/// # Errors
///
/// Returns an error if the server cannot start, because of bad input or an address that cannot be bound.
pub fn serve<T>(
    config: Config<T>,
    start: impl FnOnce(ServerBuilder, Serve) -> Result<Server, StartError>,
) -> Result<u8, Failure>
where
    T: ServerOptions,
{
    let args = config.options.server();
    args.log.start(2).map_err(|failure| config.locate(failure))?;
    config.near_misses().iter().for_each(|sentence| tracing::warn!("{sentence}"));
    let mut keyring = Keyring::default();
    let plan = Plan::new(args, None, &mut keyring).map_err(|failure| config.locate(failure))?;
    let self_signed = plan.credentials.self_signed.clone();
    let (ask, asked) = catch_signals()?;
    let mut predecessor = handover::inherited()?;
    let offered = predecessor.as_mut().and_then(|predecessor| predecessor.take_descriptor(ADMIN));
    let admin = args.admin.bind(offered).map_err(|failure| config.locate(failure))?;
    logging::prepare_access(&args.access_log).map_err(|failure| config.locate(failure))?();
    // The limit is raised before the start, which reads it. It is logged after the start, so that a failure is
    // the only line of the log.
    let descriptors = peeloff::raise_fd_limit();
    let passed = systemd::sockets()?;
    let mut builder = listen(builder(args, &plan), args, &passed)?;
    let takes_over = predecessor.is_some();
    if let Some(predecessor) = predecessor {
        builder = builder.take_over(predecessor);
    }
    let started = start(builder, args.serving.serve);
    let server = started.map_err(|error| config.locate(explain::start(error)))?;
    log_limit(descriptors);
    let handle = server.handle();
    let answering = admin.map(|admin| admin.serve(handle.clone())).transpose();
    let answering = answering.or_else(|failure| serve_without(failure, takes_over))?;
    let addresses = server.addresses();
    if self_signed.is_some() && addresses.iter().any(|address| address.scheme.is_secure()) {
        warn_of_self_signed();
    }
    if args.no_udp_proof && addresses.iter().any(|address| address.scheme == Scheme::Udp) {
        tracing::warn!(
            "--no-udp-proof: an attacker who forges an address can make this server send traffic to it"
        );
    }
    announce(addresses);
    let mut running = Running::new(config, self_signed, keyring, handle.clone());
    running.warn_of_expiry();
    running.args().credentials.algorithms.warn();
    let _watchdog = Watchdog::start(handle.clone()).or_else(|failure| serve_without(failure, takes_over))?;
    systemd::ready();
    let successor = Successor::new(handle.clone(), ask, &passed);
    let signal = wait(&asked, &successor, &mut running);
    // The service may continue in another process.
    let continues = signal == SIGUSR2 || !successor.end(signal);
    // If it does not, the endpoint reports the progress of the shutdown.
    let answering = answering.and_then(|answering| match continues {
        true => {
            answering.hand_over();
            None
        }
        false => Some(answering),
    });
    if !continues {
        systemd::stopping();
    }
    let (drain, peers) = (running.args().timeouts.drain_timeout, handle.stats().peers);
    tracing::info!(signal, grace = %drain, peers, "shutting down");
    let report = match (continues, signal) {
        (true, SIGUSR2) => {
            hurry_at_a_signal(asked, handle.clone());
            handle.shutdown(drain.0)
        }
        (true, signal) => hurry(&handle, signal),
        (false, _) => handle.shutdown(drain.0),
    };
    if !continues && handle.is_handed_over() {
        successor.await_signal();
    }
    log_stats(&handle.stats());
    let ShutdownReport { peers, finished, stopped, abandoned, .. } = report;
    tracing::info!(peers, finished, stopped, abandoned, "ended");
    drop(answering);
    Ok(0)
}

/// Ends a process that drains after a hand-over at the next SIGTERM or SIGINT. The service is not affected, so there is
/// no reason to let the peers that stayed here finish, as at a first signal, or to cut them off, as at a second one.
fn hurry_at_a_signal(asked: Receiver<Asked>, handle: Handle) {
    let run = move || {
        if let Some(Asked::End(signal)) = asked.iter().find(|asked| matches!(asked, Asked::End(_))) {
            hurry(&handle, signal);
        }
    };
    if let Err(error) = thread::Builder::new().name("hurry".to_owned()).spawn(run) {
        tracing::warn!(%error, "a signal will not end this process before its last peer");
    }
}

/// Ends the peers that a hand-over has left in this process.
fn hurry(handle: &Handle, signal: i32) -> ShutdownReport {
    tracing::info!(signal, "this process ends at once, and its peers with it; the new process goes on");
    handle.shutdown(Duration::ZERO)
}

/// Logs what a server that took over from another process serves without, because by then no other process serves. A server
/// that took over from nobody fails to start.
fn serve_without<T>(failure: Failure, takes_over: bool) -> Result<Option<T>, Failure> {
    if !takes_over {
        return Err(failure);
    }
    tracing::error!("{failure}; serving without it");
    Ok(None)
}

/// Makes a builder with the options, except for the listeners.
pub(crate) fn builder(args: &ServerArgs, plan: &Plan) -> ServerBuilder {
    let mut builder = Server::builder()
        .limits(args.limits.to_limits())
        .timeouts(args.timeouts.to_timeouts())
        .credentials(plan.credentials.credentials.clone())
        .tcp(plan.stream.clone())
        .sctp(plan.sctp.clone())
        .v6_only(args.v6only)
        .freebind(args.freebind)
        .udp_proof(!args.no_udp_proof);
    if let Some(ids) = args.connection_ids() {
        builder = builder.connection_ids(ids);
    }
    builder = args.sockets.configure(args.serving.configure(builder));
    if let Some(bytes) = plan.stack_size {
        builder = builder.stack_size(bytes);
    }
    builder
}

/// Adds the listeners, and uses the sockets that systemd has passed for them.
pub(crate) fn listen(
    mut builder: ServerBuilder,
    args: &ServerArgs,
    passed: &[PassedSocket],
) -> Result<ServerBuilder, Failure> {
    let plain = args.listen.iter().map(|address| (address, false));
    for (address, proxied) in plain.chain(args.listen_proxied.iter().map(|address| (address, true))) {
        let socket = passed.iter().find(|socket| socket.address == *address && socket.proxied == proxied);
        builder = match (socket.map(PassedSocket::descriptor).transpose(), proxied) {
            (Ok(Some(socket)), false) => builder.listen_on(address.scheme, socket),
            (Ok(Some(socket)), true) => builder.listen_proxied_on(address.scheme, socket),
            (Ok(None), false) => builder.listen(address.clone()),
            (Ok(None), true) => builder.listen_proxied(address.clone()),
            (Err(error), _) => {
                return Err(Failure::new(
                    1,
                    format_args!("cannot use the socket that systemd passed for {address}: {error}"),
                ));
            }
        };
    }
    Ok(builder)
}

/// Catches signals, and sends them to the receiver up to the first one that ends the server.
fn catch_signals() -> Result<(SyncSender<Asked>, Receiver<Asked>), Failure> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let ask = sender.clone();
    // This fails only if the program is ending already.
    signals::on_signals(move |asked| {
        let _ = sender.send(asked);
    })?;
    Ok((ask, receiver))
}

/// Blocks until a signal ends the server, and returns its number. Meanwhile reloads, logs the counters, and
/// checks once a day for credentials that expire.
fn wait<T: ServerOptions>(asked: &Receiver<Asked>, successor: &Successor, running: &mut Running<T>) -> i32 {
    // On a terminal that is closed, SIGHUP means that the user has left.
    let on_terminal = io::stdin().is_terminal() || io::stderr().is_terminal();
    let mut warned = SystemTime::now();
    let mut stats = Instant::now();
    loop {
        let interval = running.args().stats_interval.0.filter(|interval| !interval.is_zero());
        let nap = interval.map_or(NAP, |interval| interval.saturating_sub(stats.elapsed()).min(NAP));
        match asked.recv_timeout(nap) {
            Ok(Asked::End(signal)) => return signal,
            Ok(Asked::Reload) if on_terminal && !running.can_reload() => return SIGHUP,
            Ok(Asked::Reload) => {
                systemd::reloading();
                running.reload();
                systemd::ready();
            }
            Ok(Asked::HandOver) if !running.can_hand_over() => {
                tracing::error!(
                    "not handed over: a new process cannot read the configuration from the standard input again; give a file"
                );
            }
            Ok(Asked::HandOver) => successor.start(),
            Err(RecvTimeoutError::Timeout) => {}
            // The thread that waits for signals has ended, so no signal would ever arrive. Shut down gracefully
            // while that is possible.
            Err(RecvTimeoutError::Disconnected) => return 0,
        }
        let now = SystemTime::now();
        if expiry::is_due(warned, now) {
            running.warn_of_expiry();
            warned = now;
        }
        if interval.is_some_and(|interval| stats.elapsed() >= interval) {
            log_stats(&running.stats());
            stats = Instant::now();
        }
    }
}

/// Prints a line for each listener. A thread of its own writes to standard output, because the server must not
/// stop if standard output is closed or nobody reads it.
fn announce(addresses: &[Address]) {
    for address in addresses {
        tracing::info!(%address, "listening");
    }
    let lines: String = addresses.iter().map(|address| format!("listening {address}\n")).collect();
    let write = move || {
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush()) {
            tracing::warn!(%error, "cannot write the addresses to standard output");
        }
    };
    if let Err(error) = thread::Builder::new().name("announce".to_owned()).spawn(write) {
        tracing::warn!(%error, "cannot write the addresses to standard output");
    }
}

fn log_limit(descriptors: io::Result<u64>) {
    match descriptors {
        Ok(limit) => tracing::info!(limit, "descriptors; each peer with a socket of its own needs one"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit on descriptors"),
    }
}

/// Logs all counters as `name=value`.
fn log_stats(stats: &Stats) {
    let counters = stats.entries().map(|entry| format!("{entry}={}", entry.value));
    let lost = [("log", logging::lost_lines()), ("access_log", logging::lost_access_lines())];
    let lost = lost.into_iter().map(|(log, lines)| format!("{log}_lines_lost={lines}"));
    let line: Vec<String> = counters.chain(lost).collect();
    tracing::info!("stats {}", line.join(" "));
}
