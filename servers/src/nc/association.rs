//! The SCTP part of `peeloff-nc`: options, the primary path, and notifications in words.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use peeloff::sctp::{
    AssociationState, KeyEvent, Notification, NotificationKind, Outcome, PathState, Reliability, SendInfo,
    Settings,
};
use peeloff::{Peer, Scheme, SctpPeer};

use crate::failure::Failure;
use crate::logging;
use crate::nc::exit::BROKEN;
use crate::sctp::{SctpArgs, needs_sctp};
use crate::values::Span;

/// Options of SCTP messages and of the association.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "SCTP")]
pub struct AssociationArgs {
    /// Send on this SCTP stream [default: 0].
    #[arg(long, value_name = "N")]
    pub stream: Option<u16>,

    /// Send with this payload protocol identifier [default: 0].
    ///
    /// The IANA assigns them: 46 is Diameter, for example.
    #[arg(long, value_name = "N")]
    pub ppid: Option<u32>,

    /// Let messages overtake each other.
    #[arg(long)]
    pub unordered: bool,

    /// Abandon a message that is not delivered within this time (RFC 7496).
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<Span>,

    /// Print the kernel's notifications on standard error.
    #[arg(long)]
    pub notifications: bool,

    /// Send to this address of the server while it is reachable.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "listen")]
    pub primary: Option<IpAddr>,

    /// Connect from this local address, with or without a port.
    ///
    /// Repeat the option for several addresses. With -l the addresses are part of the URL.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "listen")]
    pub bind: Vec<Local>,

    /// Options of SCTP associations.
    #[command(flatten)]
    pub sctp: SctpArgs,
}

/// An address of this host, such as `10.0.0.1`, `10.0.0.1:5000` or `[fd00::1]:5000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local(pub SocketAddr);

impl FromStr for Local {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let without_port = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0));
        text.parse()
            .or(without_port)
            .map(Self)
            .map_err(|_| format!("{text:?} is not an address: write it as 10.0.0.1 or 10.0.0.1:5000"))
    }
}

impl AssociationArgs {
    /// Returns the settings of the association.
    ///
    /// # Errors
    ///
    /// Returns an error if an SCTP option does not apply to this scheme, or has a value that is not usable.
    pub(super) fn to_settings(&self, scheme: Scheme) -> Result<Settings, Failure> {
        let options = [
            ("--stream", self.stream.is_some()),
            ("--ppid", self.ppid.is_some()),
            ("--unordered", self.unordered),
            ("--ttl", self.ttl.is_some()),
            ("--notifications", self.notifications),
            ("--primary", self.primary.is_some()),
            ("--bind", !self.bind.is_empty()),
        ];
        let given = |names: &[&str]| {
            let found = options.iter().find(|(name, given)| *given && names.contains(name));
            found.map(|(name, _)| *name)
        };
        let all = options.map(|(name, _)| name);
        if let (false, Some(option)) = (scheme.is_sctp(), given(&all)) {
            return Err(needs_sctp(option));
        }
        if let (Scheme::SctpTls, Some(option)) = (scheme, given(&["--unordered", "--ttl"])) {
            return Err(Failure::input(format_args!(
                "{option} does not apply to sctp+tls://, which needs every message in order: drop it, or use sctp+dtls://"
            )));
        }
        if self.ttl.is_some_and(|ttl| ttl.0 < Duration::from_millis(1)) {
            return Err(Failure::input("--ttl is counted in milliseconds: give at least 1ms"));
        }
        self.sctp.to_settings([scheme])
    }

    /// Returns how each message is sent.
    pub(super) fn send_info(&self) -> SendInfo {
        SendInfo::default()
            .stream(self.stream.unwrap_or(0))
            .ppid(self.ppid.unwrap_or(0))
            .unordered(self.unordered)
            .reliability(self.ttl.map_or(Reliability::Reliable, |ttl| Reliability::Lifetime(ttl.0)))
    }

    /// Applies the options to a new SCTP association. Does nothing for other transports.
    pub(super) fn prepare(&self, peer: &mut Peer) -> Result<(), Failure> {
        let (scheme, port) = (peer.scheme(), peer.peer_address().port());
        let Some(mut sctp) = peer.sctp() else { return Ok(()) };
        self.prepare_sctp(&mut sctp, scheme, port)
    }

    fn prepare_sctp(&self, sctp: &mut SctpPeer<'_>, scheme: Scheme, port: u16) -> Result<(), Failure> {
        if self.notifications {
            // A failed message is reported in the newer form only.
            for kind in NotificationKind::ALL
                .into_iter()
                .filter(|kind| *kind != NotificationKind::SendFailedDeprecated)
            {
                if let Err(error) = sctp.subscribe(kind, true) {
                    tracing::warn!(%error, "cannot subscribe to notifications of the kind {kind:?}");
                }
            }
        }
        let broken = |error: &dyn std::fmt::Display| Failure::new(BROKEN, error);
        let options = sctp.options().map_err(|error| broken(&error))?;
        if let Some(stream) = self.stream {
            let there = options.status().map_err(|error| broken(&error))?.outbound_streams;
            let (there, more) = match scheme {
                Scheme::SctpTls => (self.sctp.sctp_tls_streams.unwrap_or(1).min(there), "--sctp-tls-streams"),
                _ => (there, "--sctp-streams"),
            };
            if stream >= there {
                return Err(Failure::input(format_args!(
                    "--stream {stream} exceeds the {there} streams that both sides have: give a lower one, or raise {more} on both sides"
                )));
            }
        }
        if let Some(primary) = self.primary {
            let addresses = options.peer_addresses().map_err(|error| broken(&error))?;
            match addresses.iter().find(|address| address.ip() == primary) {
                Some(address) => options.set_primary(*address).map_err(|error| {
                    Failure::new(BROKEN, format_args!("cannot make {primary} the primary address: {error}"))
                })?,
                None => {
                    let known: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
                    let known = known.join(", ");
                    return Err(Failure::input(format_args!(
                        "--primary {primary} is not an address of the server at port {port}: choose one of {known}"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Prints a notification as one line on standard error.
pub(super) fn tell(notification: &Notification) {
    logging::say(format_args!("notification: {}", words(notification)));
}

fn words(notification: &Notification) -> String {
    use Notification as N;
    match notification {
        N::AssociationChanged { state, outbound_streams, inbound_streams, .. } => {
            let cause = notification.cause().map(|cause| format!(": {cause}")).unwrap_or_default();
            let streams = format!("{outbound_streams} streams out, {inbound_streams} in");
            match state {
                AssociationState::Up => format!("association up, {streams}"),
                AssociationState::Lost => format!("association lost{cause}"),
                AssociationState::Restarted => format!("association restarted by the peer, {streams}"),
                AssociationState::ShutDown => "association shut down".to_owned(),
                AssociationState::CannotStart => format!("association not started{cause}"),
                state => format!("association changed: {state:?}"),
            }
        }
        N::PathChanged { address, state, .. } => {
            let address = address.ip();
            match state {
                PathState::Available => format!("path {address} works"),
                PathState::Unreachable => format!("path {address} is unreachable"),
                PathState::Removed => format!("path {address} removed"),
                PathState::Added => format!("path {address} added"),
                PathState::MadePrimary => format!("path {address} is the primary path"),
                PathState::Confirmed => format!("path {address} confirmed"),
                PathState::PotentiallyFailed => format!("path {address} may be failing"),
                state => format!("path {address} changed: {state:?}"),
            }
        }
        N::RemoteError { error, .. } => format!("the peer reports error {error}"),
        N::SendFailed { transmitted, info, payload, .. } => {
            let (len, stream) = (payload.len(), info.stream);
            let how = if *transmitted { "not acknowledged" } else { "never sent" };
            format!("message of {len} bytes on stream {stream} abandoned, {how}")
        }
        N::PeerShutDown { .. } => "the peer shuts down".to_owned(),
        N::AdaptationIndication { indication, .. } => format!("adaptation layer of the peer is {indication}"),
        N::PartialDelivery { stream, .. } => {
            format!("the rest of a message on stream {stream} will not come")
        }
        N::Authentication { event, key, .. } => match event {
            KeyEvent::New => format!("the peer uses key {key} now"),
            KeyEvent::Free => format!("key {key} is no longer used"),
            KeyEvent::NoAuthentication => "the peer does not authenticate".to_owned(),
            event => format!("key {key}: {event:?}"),
        },
        N::SenderDry { .. } => "everything sent is acknowledged".to_owned(),
        N::StreamsReset { inbound, outbound, outcome, streams, .. } => {
            let which = match streams.as_slice() {
                [] => "all streams".to_owned(),
                streams => format!("streams {streams:?}"),
            };
            let ways = match (inbound, outbound) {
                (true, true) => " in and out",
                (true, false) => " in",
                (false, true) => " out",
                (false, false) => "",
            };
            format!("reset of {which}{ways}{}", result(*outcome))
        }
        N::AssociationReset { outcome, .. } => {
            format!("reset of the association's sequence numbers{}", result(*outcome))
        }
        N::StreamsAdded { outcome, inbound_streams, outbound_streams, .. } => {
            format!("addition of {outbound_streams} streams out, {inbound_streams} in{}", result(*outcome))
        }
        N::Unknown { kind, .. } => format!("unknown, of type {kind:#06x}"),
        other => format!("{other:?}"),
    }
}

fn result(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => " done",
        Outcome::Denied => " denied by the peer",
        Outcome::Failed => " failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_may_have_a_port() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1:0"),
            ("10.0.0.1:5000", "10.0.0.1:5000"),
            ("fd00::1", "[fd00::1]:0"),
            ("[fd00::1]:5000", "[fd00::1]:5000"),
        ] {
            assert_eq!(text.parse::<Local>().unwrap().0.to_string(), expected);
        }
        assert!("localhost".parse::<Local>().unwrap_err().contains("write it as 10.0.0.1"));
    }

    #[test]
    fn a_notification_is_one_line_of_words() {
        let words = |head: [u16; 2], body: &[u8]| {
            let mut bytes: Vec<u8> = head.iter().flat_map(|number| number.to_ne_bytes()).collect();
            bytes.extend((8 + body.len() as u32).to_ne_bytes());
            bytes.extend(body);
            super::words(&Notification::parse(&bytes).unwrap())
        };
        let change = |state: u16| {
            [state, 0, 64, 10, 0, 0].iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<u8>>()
        };
        assert_eq!(words([0x8001, 0], &change(0)), "association up, 64 streams out, 10 in");
        assert_eq!(words([0x8001, 0], &change(3)), "association shut down");
        assert_eq!(words([0x8005, 0], &[0; 4]), "the peer shuts down");
        assert_eq!(words([0x8009, 0], &[0; 4]), "everything sent is acknowledged");
        assert_eq!(words([0x800a, 1], &[0; 4]), "reset of all streams in done");
        assert_eq!(words([0x8fff, 0], &[]), "unknown, of type 0x8fff");
    }
}
