//! The options of TCP connections, for every program.

use std::ops::RangeInclusive;

use clap::{Args, ValueEnum};
use peeloff::{Framing, Scheme, TcpSettings};

use crate::failure::Failure;
use crate::values::Size;

/// Bytes that the longest message may have, and that may wait for a peer.
const BYTES: RangeInclusive<usize> = 1..=1 << 30;

/// How TCP connections are used, in clear and with TLS; options that are left out leave the framework's
/// defaults.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Stream (tcp:// and tls://)")]
pub struct StreamArgs {
    /// Find messages in the stream of bytes this way [default: raw].
    ///
    /// Both sides must use the same framing.
    #[arg(long, value_name = "FRAMING")]
    pub framing: Option<FramingMode>,

    /// Accept messages of at most this size [default: 64K].
    ///
    /// With the framing `raw` it is the most that one message sends.
    #[arg(long, value_name = "BYTES")]
    pub max_message: Option<Size>,

    /// Let this much wait for a peer that does not read [default: 256K].
    ///
    /// It counts what does not fit into the kernel's send buffer.
    #[arg(long, value_name = "BYTES")]
    pub max_pending: Option<Size>,

    /// Let clients renegotiate TLS 1.2 a few times (RFC 5246 §7.4.1.1).
    #[arg(long)]
    pub renegotiation: bool,
}

/// What a message is on a stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FramingMode {
    /// The bytes that one read finds; boundaries are lost.
    Raw,
    /// One line.
    Lines,
    /// Four bytes of length, big endian, and as many bytes.
    Length,
}

impl StreamArgs {
    /// The settings as the framework takes them, for programs that use these schemes.
    ///
    /// # Errors
    ///
    /// A value is of no use, or none of the schemes is TCP's and yet there are options for it.
    pub fn to_settings(&self, schemes: impl IntoIterator<Item = Scheme>) -> Result<TcpSettings, Failure> {
        if !schemes.into_iter().any(Scheme::is_stream)
            && let Some(option) = self.given()
        {
            return Err(Failure::input(format_args!("{option} needs a tcp:// or tls:// URL")));
        }
        let mut settings = TcpSettings::default();
        if let Some(framing) = self.framing {
            settings.framing = framing.into();
        }
        for (option, size, setting) in [
            ("--max-message", self.max_message, &mut settings.max_message),
            ("--max-pending", self.max_pending, &mut settings.max_pending),
        ] {
            match size {
                Some(size) if !BYTES.contains(&size.0) => {
                    return Err(Failure::input(format_args!(
                        "{option} {size} is not usable: give 1 to 1024M"
                    )));
                }
                Some(size) => *setting = size.0,
                None => {}
            }
        }
        settings.renegotiation = self.renegotiation;
        Ok(settings)
    }

    /// An option that was given, if any was.
    fn given(&self) -> Option<&'static str> {
        let options = [
            ("--framing", self.framing.is_some()),
            ("--max-message", self.max_message.is_some()),
            ("--max-pending", self.max_pending.is_some()),
            ("--renegotiation", self.renegotiation),
        ];
        options.into_iter().find_map(|(name, given)| given.then_some(name))
    }
}

impl From<FramingMode> for Framing {
    fn from(mode: FramingMode) -> Self {
        match mode {
            FramingMode::Raw => Self::Raw,
            FramingMode::Lines => Self::Lines,
            FramingMode::Length => Self::LengthPrefixed,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        stream: StreamArgs,
    }

    fn settings(options: &[&str]) -> Result<TcpSettings, String> {
        let arguments = std::iter::once("test").chain(options.iter().copied());
        let cli = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?;
        cli.stream.to_settings([Scheme::Tls]).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_is_left_out_is_the_default_that_the_help_names() {
        assert_eq!(settings(&[]), Ok(TcpSettings::default()));
        let named = ["--framing", "raw", "--max-message", "64K", "--max-pending", "256K"];
        assert_eq!(settings(&named), Ok(TcpSettings::default()));
    }

    #[test]
    fn every_option_has_its_setting() {
        let options = ["--framing=length", "--max-message=1M", "--max-pending=2M", "--renegotiation"];
        let mut expected = TcpSettings::default();
        expected.framing = Framing::LengthPrefixed;
        expected.max_message = 1 << 20;
        expected.max_pending = 2 << 20;
        expected.renegotiation = true;
        assert_eq!(settings(&options), Ok(expected));
        assert!(settings(&["--max-pending", "0"]).unwrap_err().contains("give 1 to 1024M"));
    }
}
