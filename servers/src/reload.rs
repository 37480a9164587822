//! Reloads a server at SIGHUP: reads and checks everything again, and then applies the changes that a running
//! server can apply.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use peeloff::sctp::Settings;
use peeloff::{Handle, Identity, Stats, TcpSettings};

use crate::cli::ServerArgs;
use crate::config::{Config, ServerOptions};
use crate::credentials::{self, Loaded};
use crate::expiry;
use crate::explain;
use crate::failure::Failure;
use crate::logging;
use crate::passphrase::Keyring;

/// The accepted stack sizes of a worker. OpenSSL's handshake needs most of the smallest one.
const STACK_SIZES: RangeInclusive<usize> = 64 << 10..=64 << 20;

/// The options that take effect at a reload. All others take effect at the next start.
pub(crate) const LIVE: &[&str] = &[
    "cert",
    "key",
    "key-passphrase-file",
    "ocsp",
    "ca",
    "client-auth",
    "crl",
    "max-cert-chain",
    "ciphers",
    "groups",
    "allow-subject",
    "allow-san",
    "psk-file",
    "alpn",
    "srtp-profile",
    "key-file",
    "strict-permissions",
    "key-log",
    "max-peers",
    "max-peers-per-local-address",
    "max-peers-per-source",
    "max-peers-per-prefix",
    "max-half-open",
    "max-awaiting-header",
    "new-peers-per-second",
    "new-peers-burst",
    "limit-loopback",
    "drain-timeout",
    "stats-interval",
    "verbose",
    "quiet",
    "log",
    "access-log",
];

/// The result of the options: every file has been read, and every value has been checked as far as that is
/// possible without binding an address.
pub(crate) struct Plan {
    pub(crate) credentials: Loaded,
    pub(crate) stream: TcpSettings,
    pub(crate) sctp: Settings,
    pub(crate) stack_size: Option<usize>,
}

impl Plan {
    /// Reads the files and checks the values. `self_signed` is used if no certificate is named, and `keyring`
    /// decrypts keys.
    pub(crate) fn new(
        args: &ServerArgs,
        self_signed: Option<&Identity>,
        keyring: &mut Keyring,
    ) -> Result<Self, Failure> {
        let stack_size = match args.stack_size {
            Some(size) if !STACK_SIZES.contains(&size.0) => {
                return Err(Failure::input(format_args!(
                    "--stack-size {size} is not usable: give 64K to 64M"
                )));
            }
            size => size.map(|size| size.0),
        };
        args.check_listeners()?;
        args.sockets.check()?;
        Ok(Self {
            credentials: credentials::load(&args.credentials, self_signed, keyring)?,
            stream: args.stream.to_settings(args.schemes())?,
            sctp: args.sctp.to_settings(args.schemes())?,
            stack_size,
        })
    }
}

/// A running server and its options.
pub(crate) struct Running<T> {
    /// The options at the start.
    started: Config<T>,
    /// The options of the last reload, if there was one.
    reloaded: Option<Config<T>>,
    /// The self-signed certificate that was made for this process, if any.
    self_signed: Option<Identity>,
    /// The passphrases that cannot be read again.
    keyring: Keyring,
    handle: Handle,
}

impl<T: ServerOptions> Running<T> {
    pub(crate) fn new(
        started: Config<T>,
        self_signed: Option<Identity>,
        mut keyring: Keyring,
        handle: Handle,
    ) -> Self {
        keyring.serve();
        Self { started, reloaded: None, self_signed, keyring, handle }
    }

    /// Returns whether the options name a file that a reload would read again.
    pub(crate) fn can_reload(&self) -> bool {
        let ServerArgs { config, credentials, .. } = self.args();
        config.config.is_some() || credentials.names_a_file()
    }

    /// Logs which parts of the credentials have expired or expire soon.
    pub(crate) fn warn_of_expiry(&self) {
        expiry::warn(&self.handle.expirations(), SystemTime::now());
    }

    /// Returns the options of the last reload. Options that need a restart may differ from what the server uses.
    pub(crate) fn args(&self) -> &ServerArgs {
        self.config().options.server()
    }

    /// Returns whether a new process can read the same configuration as this one.
    pub(crate) fn can_hand_over(&self) -> bool {
        !self.started.is_from_stdin()
    }

    /// Returns the current counters.
    pub(crate) fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// Reads everything again and logs the result in one line. If anything is wrong, nothing changes.
    pub(crate) fn reload(&mut self) {
        match self.try_reload() {
            Ok((now, later)) => tracing::info!(in_effect = list(&now), at_restart = list(&later), "reloaded"),
            Err(failure) => tracing::error!("not reloaded, everything stays as it was: {failure}"),
        }
    }

    /// Returns the names of the changed options that are in effect now, and of those that need a restart.
    fn try_reload(&mut self) -> Result<(Vec<String>, Vec<String>), Failure> {
        let fresh = self.config().reread()?;
        let args = fresh.options.server();
        let locate = |failure| fresh.locate(failure);
        fresh.options.check().map_err(locate)?;
        let plan = Plan::new(args, self.self_signed.as_ref(), &mut self.keyring).map_err(locate)?;
        let change_log = args.log.prepare().map_err(locate)?;
        let change_access_log = logging::prepare_access(&args.access_log).map_err(locate)?;

        let Loaded { credentials, self_signed } = plan.credentials;
        self.handle.reload(credentials).map_err(|error| locate(explain::credentials(error)))?;

        // Nothing below can fail.
        if self_signed.is_some() && self.self_signed.is_none() {
            warn_of_self_signed();
        }
        self.self_signed = self_signed.or(self.self_signed.take());
        self.warn_of_expiry();
        args.credentials.algorithms.warn();
        self.handle.set_limits(args.limits.to_limits());
        change_log();
        change_access_log();
        let names = |older: &Config<T>, live: bool| -> Vec<String> {
            let changes = fresh.changes(older).into_iter();
            changes.filter(|name| LIVE.contains(name) == live).map(str::to_owned).collect()
        };
        let report = (names(self.config(), true), names(&self.started, false));
        self.reloaded = Some(fresh);
        Ok(report)
    }

    fn config(&self) -> &Config<T> {
        self.reloaded.as_ref().unwrap_or(&self.started)
    }
}

/// Warns that clients cannot verify the server's identity.
pub(crate) fn warn_of_self_signed() {
    tracing::warn!(
        "NO CERTIFICATE GIVEN: using a self-signed one that no client can verify; give --cert and --key"
    );
}

fn list(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::*;

    #[test]
    fn the_options_that_take_effect_at_once_exist() {
        let command = ServerArgs::augment_args(Command::new("test"));
        for name in LIVE {
            assert!(command.get_arguments().any(|arg| arg.get_long() == Some(name)), "{name}");
        }
    }
}
