//! The options of TCP connections, for every program.

use std::ops::RangeInclusive;

use clap::{Args, ValueEnum};
use peeloff::{Framing, Scheme, TcpSettings};

use crate::failure::Failure;
use crate::values::Size;

/// The accepted sizes, in bytes, of the longest message and of pending data.
const BYTES: RangeInclusive<usize> = 1..=1 << 30;

/// Options of TCP connections, with and without TLS. Without an option, the framework's default applies.
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
    /// With the framing `raw`, it is the largest message that can be sent.
    #[arg(long, value_name = "BYTES")]
    pub max_message: Option<Size>,

    /// Queue up to this much for a peer that does not read [default: 256K].
    ///
    /// The limit counts the data that does not fit into the kernel's send buffer.
    #[arg(long, value_name = "BYTES")]
    pub max_pending: Option<Size>,

    /// Let clients renegotiate TLS 1.2 a few times (RFC 5246 §7.4.1.1).
    #[arg(long)]
    pub renegotiation: bool,
}

/// Defines how the stream of bytes is split into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FramingMode {
    /// A message is the bytes that one read returns; boundaries are lost.
    Raw,
    /// A message is a line.
    Lines,
    /// A message follows its length, which is four bytes in big-endian order.
    Length,
}

impl StreamArgs {
    /// Returns the settings in the framework's type, for a program that uses these schemes.
    ///
    /// # Errors
    ///
    /// Returns an error if a value is not usable, or if options are given and none of the schemes uses TCP.
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

    /// Returns the name of one of the options that are given.
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
    fn omitted_options_have_the_defaults_in_the_help() {
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
