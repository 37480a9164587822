//! The options for what is agreed on before the first message of an SCTP association.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::{Args, ValueEnum};
use peeloff::sctp::{HmacAlgorithm, Settings, StreamScheduler};

use crate::failure::Failure;
use crate::values::Span;

/// How associations are set up; options that are left out leave the framework's defaults.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "SCTP: setting up associations")]
pub struct SetupArgs {
    /// Let the peer send on at most this many streams [default: --sctp-streams].
    ///
    /// An answer on the stream of its question needs as many streams in one direction as in the other.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub sctp_inbound_streams: Option<u16>,

    /// Send at most this many INITs to a peer that does not answer [default: 8].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub sctp_init_attempts: Option<u16>,

    /// Wait at most this long between two INITs [default: 1m].
    #[arg(long, value_name = "TIME")]
    pub sctp_init_timeout: Option<Span>,

    /// Wait this long for the first acknowledgement of all.
    ///
    /// This is the retransmission timeout before anything is measured (RTO.Initial of RFC 9260). The default
    /// follows from --sctp-dead-after; without that it is 3s.
    #[arg(long, value_name = "TIME")]
    pub sctp_rto_initial: Option<Span>,

    /// Wait at least this long for an acknowledgement.
    ///
    /// RTO.Min of RFC 9260. The default follows from --sctp-dead-after; without that it is 1s.
    #[arg(long, value_name = "TIME")]
    pub sctp_rto_min: Option<Span>,

    /// Wait at most this long for an acknowledgement.
    ///
    /// RTO.Max of RFC 9260. The default follows from --sctp-dead-after, which it makes later if it is longer;
    /// without that it is 1m.
    #[arg(long, value_name = "TIME")]
    pub sctp_rto_max: Option<Span>,

    /// Keep a handshake's cookie good for this long [default: 1m].
    #[arg(long, value_name = "TIME")]
    pub sctp_cookie_life: Option<Span>,

    /// Mark packets with this code point (DSCP), 0 to 63.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..64))]
    pub sctp_dscp: Option<u8>,

    /// Choose whose message is sent next.
    ///
    /// fair-capacity and weighted-fair need Linux 6.4 or later.
    #[arg(long, value_name = "NAME")]
    pub sctp_scheduler: Option<Scheduler>,

    /// Authenticate chunks with these algorithms, best first.
    ///
    /// It switches SCTP-AUTH on (RFC 4895), which wants sha1 among them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub sctp_hmac: Vec<Hmac>,

    /// Tell the peer this adaptation layer indication.
    ///
    /// What it means is between the two applications (RFC 5061 §4.2.6).
    #[arg(long, value_name = "N")]
    pub sctp_adaptation: Option<u32>,

    /// Let long messages of different streams alternate.
    ///
    /// It needs a peer that can do it too (I-DATA, RFC 8260), and the sysctl net.sctp.intl_enable.
    #[arg(long)]
    pub sctp_interleaving: bool,

    /// Do not let senders give messages up.
    ///
    /// It switches partial reliability (PR-SCTP, RFC 3758) off, for both sides.
    #[arg(long)]
    pub sctp_no_partial_reliability: bool,

    /// Let streams be added and reset while an association lives.
    ///
    /// It needs a peer that can do it too (RFC 6525).
    #[arg(long)]
    pub sctp_stream_reconfiguration: bool,
}

/// Which stream's message is sent next (RFC 8260 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// First come, first served.
    #[value(name = "fcfs")]
    FirstComeFirstServed,
    /// The stream with the smallest priority number.
    Priority,
    /// The streams take turns.
    RoundRobin,
    /// The stream that has sent the fewest bytes.
    FairCapacity,
    /// The same, with weights.
    WeightedFair,
}

/// What chunks are authenticated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hmac {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// What the kernel's milliseconds hold, of which 0 would be the default.
const TIMES: RangeInclusive<u128> = 1..=86_400_000;

/// The same of the one that is a short number.
const SHORT_TIMES: RangeInclusive<u128> = 1..=65_535;

impl SetupArgs {
    /// Changes what was given.
    ///
    /// # Errors
    ///
    /// A value is of no use.
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

    /// An option that was given, if any was.
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

/// A time that the kernel takes.
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
