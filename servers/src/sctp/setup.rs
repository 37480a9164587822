//! The options of an SCTP association's setup, before the first message.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::{Args, ValueEnum};
use peeloff::sctp::{HmacAlgorithm, Settings, StreamScheduler};

use crate::failure::Failure;
use crate::values::Span;

/// Options of the setup of associations. Without an option, the framework's default applies.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "SCTP: setting up associations")]
pub struct SetupArgs {
    /// Let the peer send on at most this many streams [default: --sctp-streams].
    ///
    /// To answer each message on its own stream, both directions need the same number of streams.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub sctp_inbound_streams: Option<u16>,

    /// Send at most this many INITs to a peer that does not answer [default: 8].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub sctp_init_attempts: Option<u16>,

    /// Wait at most this long between two INITs [default: 1m].
    #[arg(long, value_name = "TIME")]
    pub sctp_init_timeout: Option<Span>,

    /// Wait this long for the very first acknowledgement.
    ///
    /// This is the retransmission timeout before the kernel has measured a round trip (RTO.Initial of RFC 9260).
    /// The default depends on --sctp-dead-after; with `off` there it is 3s.
    #[arg(long, value_name = "TIME")]
    pub sctp_rto_initial: Option<Span>,

    /// Wait at least this long for an acknowledgement.
    ///
    /// This is RTO.Min of RFC 9260. The default depends on --sctp-dead-after; with `off` there it is 1s.
    #[arg(long, value_name = "TIME")]
    pub sctp_rto_min: Option<Span>,

    /// Wait at most this long for an acknowledgement.
    ///
    /// This is RTO.Max of RFC 9260. The default depends on --sctp-dead-after, and a longer value delays the
    /// detection of dead peers. With `off` there the default is 1m.
    #[arg(long, value_name = "TIME")]
    pub sctp_rto_max: Option<Span>,

    /// Keep the cookie of an association's setup valid this long [default: 1m].
    #[arg(long, value_name = "TIME")]
    pub sctp_cookie_life: Option<Span>,

    /// Mark packets with this code point (DSCP), 0 to 63.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..64))]
    pub sctp_dscp: Option<u8>,

    /// Choose the stream whose message is sent next.
    ///
    /// fair-capacity and weighted-fair need Linux 6.4 or later.
    #[arg(long, value_name = "NAME")]
    pub sctp_scheduler: Option<Scheduler>,

    /// Authenticate chunks with these algorithms, best first.
    ///
    /// The option enables SCTP-AUTH (RFC 4895), which requires sha1 in the list.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub sctp_hmac: Vec<Hmac>,

    /// Send the peer this adaptation layer indication.
    ///
    /// The two applications define its meaning (RFC 5061 §4.2.6).
    #[arg(long, value_name = "N")]
    pub sctp_adaptation: Option<u32>,

    /// Interleave long messages of different streams.
    ///
    /// The peer must support interleaving too (I-DATA, RFC 8260), and the sysctl net.sctp.intl_enable must be
    /// set.
    #[arg(long)]
    pub sctp_interleaving: bool,

    /// Do not let senders abandon messages.
    ///
    /// The option disables partial reliability (PR-SCTP, RFC 3758) for both sides.
    #[arg(long)]
    pub sctp_no_partial_reliability: bool,

    /// Let streams be added and reset during an association.
    ///
    /// The peer must support it too (RFC 6525).
    #[arg(long)]
    pub sctp_stream_reconfiguration: bool,
}

/// Which stream's message is sent next (RFC 8260 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// Messages leave in the order in which they were sent.
    #[value(name = "fcfs")]
    FirstComeFirstServed,
    /// The stream with the smallest priority number goes first.
    Priority,
    /// The streams take turns.
    RoundRobin,
    /// The stream that has sent the fewest bytes goes first.
    FairCapacity,
    /// Like fair capacity, with weights.
    WeightedFair,
}

/// The algorithm that authenticates chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hmac {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// Milliseconds that the kernel's field can hold. 0 would mean the default.
const TIMES: RangeInclusive<u128> = 1..=86_400_000;

/// The same for --sctp-init-timeout, which the kernel keeps in 16 bits.
const SHORT_TIMES: RangeInclusive<u128> = 1..=65_535;

impl SetupArgs {
    /// Applies the given options to the settings.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not usable.
    pub(super) fn change(&self, settings: &mut Settings) -> Result<(), Failure> {
        settings.inbound_streams = self.sctp_inbound_streams;
        settings.init_attempts = self.sctp_init_attempts;
        settings.init_timeout =
            time("--sctp-init-timeout", self.sctp_init_timeout, &SHORT_TIMES, "1ms to 65535ms")?;
        let within_day = |option, given| time(option, given, &TIMES, "1ms to 1day");
        settings.rto_initial = within_day("--sctp-rto-initial", self.sctp_rto_initial)?;
        settings.rto_min = within_day("--sctp-rto-min", self.sctp_rto_min)?;
        settings.rto_max = within_day("--sctp-rto-max", self.sctp_rto_max)?;
        settings.cookie_life = within_day("--sctp-cookie-life", self.sctp_cookie_life)?;
        let ordered = [
            ("--sctp-rto-min", settings.rto_min),
            ("--sctp-rto-initial", settings.rto_initial),
            ("--sctp-rto-max", settings.rto_max),
        ];
        let given: Vec<_> = ordered.into_iter().filter_map(|(name, time)| Some((name, time?))).collect();
        if let Some(pair) = given.windows(2).find(|pair| pair[0].1 > pair[1].1) {
            let ((less, low), (more, high)) = (pair[0], pair[1]);
            let (low, high) = (Span(low), Span(high));
            return Err(Failure::input(format_args!(
                "{less} {low} is longer than {more} {high}: give them in this order"
            )));
        }
        if !self.sctp_hmac.is_empty() && !self.sctp_hmac.contains(&Hmac::Sha1) {
            return Err(Failure::input("--sctp-hmac lacks sha1, which RFC 4895 requires: add it at the end"));
        }
        settings.dscp = self.sctp_dscp;
        settings.scheduler = self.sctp_scheduler.map(|scheduler| match scheduler {
            Scheduler::FirstComeFirstServed => StreamScheduler::FirstComeFirstServed,
            Scheduler::Priority => StreamScheduler::Priority,
            Scheduler::RoundRobin => StreamScheduler::RoundRobin,
            Scheduler::FairCapacity => StreamScheduler::FairCapacity,
            Scheduler::WeightedFair => StreamScheduler::WeightedFair,
        });
        let algorithm = |hmac: &Hmac| match hmac {
            Hmac::Sha1 => HmacAlgorithm::Sha1,
            Hmac::Sha256 => HmacAlgorithm::Sha256,
        };
        settings.hmac_algorithms = self.sctp_hmac.iter().map(algorithm).collect();
        settings.adaptation_indication = self.sctp_adaptation;
        settings.interleaving = self.sctp_interleaving;
        settings.partial_reliability = !self.sctp_no_partial_reliability;
        settings.stream_reconfiguration = self.sctp_stream_reconfiguration;
        Ok(())
    }

    /// Returns the name of one of the options that are given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let options = [
            ("--sctp-inbound-streams", self.sctp_inbound_streams.is_some()),
            ("--sctp-init-attempts", self.sctp_init_attempts.is_some()),
            ("--sctp-init-timeout", self.sctp_init_timeout.is_some()),
            ("--sctp-rto-initial", self.sctp_rto_initial.is_some()),
            ("--sctp-rto-min", self.sctp_rto_min.is_some()),
            ("--sctp-rto-max", self.sctp_rto_max.is_some()),
            ("--sctp-cookie-life", self.sctp_cookie_life.is_some()),
            ("--sctp-dscp", self.sctp_dscp.is_some()),
            ("--sctp-scheduler", self.sctp_scheduler.is_some()),
            ("--sctp-hmac", !self.sctp_hmac.is_empty()),
            ("--sctp-adaptation", self.sctp_adaptation.is_some()),
            ("--sctp-interleaving", self.sctp_interleaving),
            ("--sctp-no-partial-reliability", self.sctp_no_partial_reliability),
            ("--sctp-stream-reconfiguration", self.sctp_stream_reconfiguration),
        ];
        options.into_iter().find_map(|(name, given)| given.then_some(name))
    }
}

/// Checks that the kernel accepts a time.
fn time(
    option: &str,
    given: Option<Span>,
    usable: &RangeInclusive<u128>,
    words: &str,
) -> Result<Option<Duration>, Failure> {
    match given {
        Some(span) if !usable.contains(&span.0.as_millis()) => {
            Err(Failure::input(format_args!("{option} {span} is not usable: give {words}")))
        }
        given => Ok(given.map(|span| span.0)),
    }
}
