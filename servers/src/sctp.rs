//! The options of SCTP associations, for every program.

mod setup;

use std::ops::RangeInclusive;

use clap::Args;
use peeloff::Scheme;
use peeloff::sctp::Settings;

use crate::failure::Failure;
use crate::values::{Size, Span, SpanOrOff};

pub use self::setup::{Hmac, Scheduler, SetupArgs};

/// The accepted sizes, in bytes, of the longest message.
const MESSAGES: RangeInclusive<usize> = 1..=1 << 30;

/// Options of SCTP associations. Without an option, the framework's default applies.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "SCTP")]
pub struct SctpArgs {
    /// Ask for this many streams in each direction [default: 64].
    ///
    /// The peer may grant fewer streams.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub sctp_streams: Option<u16>,

    /// End an association whose paths are all silent this long [default: 30s].
    ///
    /// A heartbeat's acknowledgement ends the silence. With `off` the kernel decides, which takes several
    /// minutes.
    #[arg(long, value_name = "TIME")]
    pub sctp_dead_after: Option<SpanOrOff>,

    /// Accept messages of at most this size on SCTP [default: 1M].
    #[arg(long, value_name = "BYTES")]
    pub sctp_max_message: Option<Size>,

    /// Run TLS on this many stream pairs of sctp+tls:// [default: 1].
    ///
    /// Each pair has its own TLS session (RFC 3436).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub sctp_tls_streams: Option<u16>,

    /// Derive the keys of sctp+dtls:// as OpenSSL up to 1.1.1j did.
    ///
    /// Those versions count the terminating NUL as part of the exporter's label (RFC 6083 §4.8).
    #[arg(long)]
    pub sctp_label_with_nul: bool,

    /// Let addresses change during an association (RFC 5061).
    #[arg(long)]
    pub sctp_dynamic_addresses: bool,

    /// Encapsulate SCTP in UDP to this port of the peer (RFC 6951).
    ///
    /// The kernel receives such packets only if the sysctl net.sctp.udp_port is set.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub sctp_udp_port: Option<u16>,

    /// Parameters that both sides agree on before the first message.
    #[command(flatten)]
    pub setup: SetupArgs,
}

impl SctpArgs {
    /// Returns the settings in the framework's type, for a program that uses these schemes.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not usable, or if options are given and none of the schemes uses SCTP.
    pub fn to_settings(&self, schemes: impl IntoIterator<Item = Scheme>) -> Result<Settings, Failure> {
        if !schemes.into_iter().any(Scheme::is_sctp)
            && let Some(option) = self.given()
        {
            return Err(needs_sctp(option));
        }
        let mut settings = Settings::default();
        if let Some(streams) = self.sctp_streams {
            settings.streams = streams;
        }
        if let Some(SpanOrOff(dead_after)) = self.sctp_dead_after {
            if let Some(dead_after) =
                dead_after.filter(|time| !(100..=86_400_000).contains(&time.as_millis()))
            {
                let given = Span(dead_after);
                return Err(Failure::input(format_args!(
                    "--sctp-dead-after {given} is not usable: give 100ms to 1day, or off"
                )));
            }
            settings.dead_after = dead_after;
        }
        if let Some(size) = self.sctp_max_message {
            if !MESSAGES.contains(&size.0) {
                return Err(Failure::input(format_args!(
                    "--sctp-max-message {size} is not usable: give 1 to 1024M"
                )));
            }
            settings.max_message = size.0;
        }
        if let Some(streams) = self.sctp_tls_streams {
            if streams > settings.streams {
                let all = settings.streams;
                return Err(Failure::input(format_args!(
                    "--sctp-tls-streams {streams} exceeds the {all} streams of --sctp-streams: give fewer, or raise --sctp-streams"
                )));
            }
            settings.tls_streams = streams;
        }
        settings.dtls_label_with_nul = self.sctp_label_with_nul;
        settings.dynamic_addresses = self.sctp_dynamic_addresses;
        settings.udp_encapsulation_port = self.sctp_udp_port;
        self.setup.change(&mut settings)?;
        Ok(settings)
    }

    /// Returns the name of one of the options that are given.
    fn given(&self) -> Option<&'static str> {
        let options = [
            ("--sctp-streams", self.sctp_streams.is_some()),
            ("--sctp-dead-after", self.sctp_dead_after.is_some()),
            ("--sctp-max-message", self.sctp_max_message.is_some()),
            ("--sctp-tls-streams", self.sctp_tls_streams.is_some()),
            ("--sctp-label-with-nul", self.sctp_label_with_nul),
            ("--sctp-dynamic-addresses", self.sctp_dynamic_addresses),
            ("--sctp-udp-port", self.sctp_udp_port.is_some()),
        ];
        options.into_iter().find_map(|(name, given)| given.then_some(name)).or_else(|| self.setup.given())
    }
}

/// Returns the error for an option that only SCTP uses.
pub(crate) fn needs_sctp(option: &str) -> Failure {
    Failure::input(format_args!("{option} needs an sctp:// URL"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use peeloff::sctp::{HmacAlgorithm, StreamScheduler};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        sctp: SctpArgs,
    }

    fn settings(options: &[&str]) -> Result<Settings, String> {
        let arguments = std::iter::once("test").chain(options.iter().copied());
        let cli = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?;
        cli.sctp.to_settings([Scheme::Sctp]).map_err(|failure| failure.to_string())
    }

    #[test]
    fn omitted_options_have_the_defaults_in_the_help() {
        assert_eq!(settings(&[]), Ok(Settings::default()));
        let named = ["--sctp-streams", "64", "--sctp-dead-after", "30s", "--sctp-max-message", "1M"];
        assert_eq!(settings(&[&named[..], &["--sctp-tls-streams", "1"]].concat()), Ok(Settings::default()));
    }

    #[test]
    fn every_option_has_its_setting() {
        let options = "--sctp-streams=8 --sctp-dead-after=off --sctp-max-message=2K --sctp-tls-streams=8 \
                       --sctp-label-with-nul --sctp-dynamic-addresses --sctp-udp-port=9899";
        let mut expected = Settings::default();
        expected.streams = 8;
        expected.dead_after = None;
        expected.max_message = 2048;
        expected.tls_streams = 8;
        expected.dtls_label_with_nul = true;
        expected.dynamic_addresses = true;
        expected.udp_encapsulation_port = Some(9899);
        assert_eq!(settings(&options.split_whitespace().collect::<Vec<_>>()), Ok(expected));
    }

    #[test]
    fn every_option_of_the_setup_has_its_setting() {
        let options = "--sctp-inbound-streams=9 --sctp-init-attempts=3 --sctp-init-timeout=4s --sctp-rto-initial=2s \
                       --sctp-rto-min=1s --sctp-rto-max=3s --sctp-cookie-life=20s --sctp-dscp=46 \
                       --sctp-scheduler=weighted-fair --sctp-hmac=sha256,sha1 --sctp-adaptation=7 \
                       --sctp-interleaving --sctp-no-partial-reliability --sctp-stream-reconfiguration";
        let seconds = |count| Some(Duration::from_secs(count));
        let mut expected = Settings::default();
        expected.inbound_streams = Some(9);
        (expected.init_attempts, expected.init_timeout) = (Some(3), seconds(4));
        (expected.rto_initial, expected.rto_min, expected.rto_max) = (seconds(2), seconds(1), seconds(3));
        expected.cookie_life = seconds(20);
        expected.dscp = Some(46);
        expected.scheduler = Some(StreamScheduler::WeightedFair);
        expected.hmac_algorithms = vec![HmacAlgorithm::Sha256, HmacAlgorithm::Sha1];
        expected.adaptation_indication = Some(7);
        (expected.interleaving, expected.partial_reliability) = (true, false);
        expected.stream_reconfiguration = true;
        assert_eq!(settings(&options.split_whitespace().collect::<Vec<_>>()), Ok(expected));
    }

    #[test]
    fn values_that_the_kernel_cannot_take_are_refused_with_the_option() {
        for (options, why) in [
            (&["--sctp-init-timeout=2m"][..], "--sctp-init-timeout 2m is not usable: give 1ms to 65535ms"),
            (&["--sctp-cookie-life=0s"], "--sctp-cookie-life 0s is not usable: give 1ms to 1day"),
            (
                &["--sctp-rto-max=1s", "--sctp-rto-min=2s"],
                "--sctp-rto-min 2s is longer than --sctp-rto-max 1s: give them in this order",
            ),
            (&["--sctp-hmac=sha256"], "--sctp-hmac lacks sha1, which RFC 4895 requires: add it at the end"),
        ] {
            assert_eq!(settings(options), Err(why.to_owned()));
        }
        assert!(settings(&["--sctp-dscp=64"]).unwrap_err().contains("64 is not in 0..64"));
    }
}
