//! `--check-config`: does everything that a start does, without serving peers.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use peeloff::{Address, Expiration, StartError};

use crate::config::{Config, ServerOptions};
use crate::echo;
use crate::expiry::{Urgency, urgency};
use crate::explain;
use crate::failure::Failure;
use crate::passphrase::Keyring;
use crate::reload::{LIVE, Plan};
use crate::serve::builder;

/// The exit code if a server would start but something needs attention.
const NEEDS_ATTENTION: u8 = 1;

const DAY: u64 = 24 * 3600;

/// Reads and checks everything that the options name, binds the addresses for a moment, and prints the results.
/// Returns the exit code.
///
/// # Errors
///
/// Returns an error if a server could not start.
pub fn check<T: ServerOptions>(config: &Config<T>) -> Result<u8, Failure> {
    let (report, code) = examine(config).map_err(|failure| config.locate(failure))?;
    let mut stdout = io::stdout().lock();
    match stdout.write_all(report.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(code),
        Err(error) => Err(Failure::new(1, format_args!("cannot write to standard output: {error}"))),
    }
}

fn examine<T: ServerOptions>(config: &Config<T>) -> Result<(String, u8), Failure> {
    let args = config.options.server();
    args.log.start(1)?;
    config.near_misses().iter().for_each(|sentence| tracing::warn!("{sentence}"));
    config.options.check()?;
    let plan = Plan::new(args, None, &mut Keyring::default())?;
    args.access_log.check()?;
    let descriptors = peeloff::raise_fd_limit();
    // Start a real server, whose handler no peer reaches. Its ports are free again when this returns.
    let start = |listen: &[Address], listen_proxied: &[Address]| {
        let plain =
            listen.iter().fold(builder(args, &plan), |builder, address| builder.listen(address.clone()));
        let all =
            listen_proxied.iter().fold(plain, |builder, address| builder.listen_proxied(address.clone()));
        let server = echo::start(all, args.serving.serve)?;
        server.handle().shutdown(Duration::ZERO);
        Ok(())
    };
    // Start each listener alone first, which finds the addresses in use. Everything else about such a listener is
    // checked at another port.
    let free = |address: &Address, started: Result<(), StartError>| match started {
        Err(StartError::AddressInUse { .. }) => Ok(Address { port: 0, ..address.clone() }),
        Err(error) => Err(explain::start(error)),
        Ok(()) => Ok(address.clone()),
    };
    let alone = |address: &Address| free(address, start(std::slice::from_ref(address), &[]));
    let proxied_alone = |address: &Address| free(address, start(&[], std::slice::from_ref(address)));
    let listen = args.listen.iter().map(alone).collect::<Result<Vec<_>, _>>()?;
    let listen_proxied = args.listen_proxied.iter().map(proxied_alone).collect::<Result<Vec<_>, _>>()?;
    start(&listen, &listen_proxied).map_err(explain::start)?;
    // A start binds the endpoint first, so it may take the port of a listener.
    let admin = args.admin.reserve()?;
    if let (Some(address), Some(_)) = (&args.admin.admin, &admin)
        && let Err(StartError::AddressInUse { address: listener }) = start(&listen, &listen_proxied)
    {
        return Err(Failure::about(
            "--admin",
            format_args!(
                "{address} leaves no room for the listener at {listener}: choose another port for one of the two"
            ),
        ));
    }

    let mut report = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(report, "{text}");
    };
    let found = listen.iter().chain(&listen_proxied);
    for (address, found) in args.listen.iter().chain(&args.listen_proxied).zip(found) {
        match address != found {
            true => line(format_args!("{address}: in use by a running server or by another program")),
            false => line(format_args!("{address}: can be listened on")),
        }
    }
    if let Some(address) = &args.admin.admin {
        match admin {
            None => line(format_args!("--admin {address}: in use by a running server or by another program")),
            Some(_) => line(format_args!("--admin {address}: can be listened on")),
        }
    }
    let now = SystemTime::now();
    let mut code = 0;
    for expiration in plan.credentials.credentials.expirations() {
        let (words, attention) = validity(&expiration, now);
        if attention {
            code = NEEDS_ATTENTION;
        }
        line(format_args!("{words}"));
    }
    if let Ok(descriptors) = descriptors {
        line(format_args!("limits: {} peers, {descriptors} descriptors", args.limits.max_peers));
    }
    let (live, later): (Vec<&str>, Vec<&str>) = config.set().partition(|name| LIVE.contains(name));
    for (names, when) in [(live, "read again at SIGHUP"), (later, "in effect at a start only")] {
        if !names.is_empty() {
            line(format_args!("{when}: {}", names.join(", ")));
        }
    }
    Ok((report, code))
}

/// Returns how long a part of the credentials is valid, and whether that needs attention.
fn validity(expiration: &Expiration, now: SystemTime) -> (String, bool) {
    let Expiration { what, at, file, .. } = expiration;
    let place = file
        .as_ref()
        .map_or_else(|| " made at each start".to_owned(), |file| format!(" in {}", file.display()));
    let end = humantime::format_rfc3339_seconds(*at);
    let (words, attention) = match urgency(*at, now) {
        Urgency::None => ("valid until", false),
        Urgency::Soon { .. } => ("expires soon:", true),
        Urgency::Over => ("has expired:", true),
    };
    let days = at.duration_since(now).map_or_else(
        |past| format!("{} days ago", past.duration().as_secs() / DAY),
        |left| format!("in {} days", left.as_secs() / DAY),
    );
    (format!("{what}{place}: {words} {end}, {days}"), attention)
}
