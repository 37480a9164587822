//! The types of option values: durations, sizes and names.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use peeloff::ConnectionIds;

/// The longest accepted duration. It is far below the range that the system's clocks can represent.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A duration such as `500ms`, `10s`, `5m` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A [`Span`], or `off` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanOrOff(pub Option<Duration>);

/// A number of bytes: plain, or with the suffix `K`, `KiB`, `M` or `MiB` in units of 1,024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

/// The name of an application protocol (RFC 7301 §3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol(pub String);

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.len() {
            1..=255 => Ok(Self(text.to_owned())),
            length => Err(format!("a protocol name cannot have {length} bytes: write 1 to 255, such as h2")),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text.trim()) {
            Ok(duration) if duration <= LONGEST => Ok(Self(duration)),
            Ok(_) => Err(format!("{text:?} is more than a century: write a shorter one")),
            Err(_) => Err(format!(
                "{text:?} is not a duration: write a number and its unit, such as 500ms, 10s or 5m"
            )),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for SpanOrOff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "off" | "0" => Ok(Self(None)),
            text => match text.parse::<Span>() {
                Ok(Span(Duration::ZERO)) => Ok(Self(None)),
                Ok(Span(duration)) => Ok(Self(Some(duration))),
                Err(message) => Err(format!("{message}, or off")),
            },
        }
    }
}

impl fmt::Display for SpanOrOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => Span(duration).fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let digits = trimmed.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match &trimmed[digits.len()..] {
            "" | "B" => Some(1),
            "K" | "k" | "KiB" => Some(1 << 10),
            "M" | "MiB" => Some(1 << 20),
            _ => None,
        };
        let number = match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse::<usize>().ok(),
            false => None,
        };
        match (number, unit) {
            (Some(number), Some(unit)) => number.checked_mul(unit).map(Self),
            _ => None,
        }
        .ok_or_else(|| format!("{text:?} is not a size: write bytes, or a number with K or M such as 64K"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes > 0 && bytes % (1 << 20) == 0 => write!(f, "{}M", bytes >> 20),
            bytes if bytes > 0 && bytes % (1 << 10) == 0 => write!(f, "{}K", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

/// Parses a time to wait that may be zero. Unlike in [`SpanOrOff`], only `off` means no limit.
///
/// # Errors
///
/// Returns an error if the text is not a duration; the message says what to write.
pub fn span_from_zero(text: &str) -> Result<SpanOrOff, String> {
    match (text.trim(), text.parse::<Span>()) {
        ("0", _) => Ok(SpanOrOff(Some(Duration::ZERO))),
        (_, Ok(span)) => Ok(SpanOrOff(Some(span.0))),
        _ => text.parse(),
    }
}

/// Parses a number of at least 1.
///
/// # Errors
///
/// Returns an error if the text is not such a number; the message says what to write.
pub fn count<T: FromStr + Default + PartialEq>(text: &str) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(number) if number == T::default() => Err(format!("{text:?} would admit no peer: write 1 or more")),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("{text:?} is not a whole number that fits: write one in digits, such as 100")),
    }
}

/// Parses the length of a connection ID.
///
/// # Errors
///
/// Returns an error if the text is not a valid length; the message says what to write.
pub fn cid_length(text: &str) -> Result<u8, String> {
    let length = text.parse::<u8>().map_err(|_| {
        format!("{text:?} is not the length of a connection ID: write 0, or a number of bytes from 8 to 255")
    })?;
    ConnectionIds::new(length.into()).map(|_| length).map_err(|error| error.to_string())
}

/// Parses a duration longer than zero.
///
/// # Errors
///
/// Returns an error if the text is not such a duration; the message says what to write.
pub fn positive_span(text: &str) -> Result<Span, String> {
    match text.parse::<Span>()? {
        Span(Duration::ZERO) => Err(format!("{text:?} is zero: write a longer time, such as 10s")),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("1h 30m", 5_400_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
            assert_eq!(text.parse(), Ok(SpanOrOff(Some(Duration::from_millis(millis)))), "{text}");
        }
        for (text, expected) in [("0", Some(Duration::ZERO)), ("0s", Some(Duration::ZERO)), ("off", None)] {
            assert_eq!(span_from_zero(text), Ok(SpanOrOff(expected)), "{text}");
        }
        for off in ["off", "0", "0s"] {
            assert_eq!(off.parse(), Ok(SpanOrOff(None)), "{off}");
        }
        assert_eq!("0s".parse(), Ok(Span(Duration::ZERO)));
    }

    #[test]
    fn a_number_without_a_unit_is_no_duration() {
        for text in ["10", "", "s", "-1s", "10 parsecs"] {
            assert!(text.parse::<Span>().unwrap_err().contains("such as 500ms, 10s or 5m"), "{text}");
        }
        assert!("200y".parse::<Span>().unwrap_err().contains("more than a century"));
        assert!("never".parse::<SpanOrOff>().unwrap_err().ends_with("or off"));
        assert!("off".parse::<Span>().is_err());
    }

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64K", 65_536), ("64 KiB", 65_536), ("1M", 1 << 20)]
        {
            assert_eq!(text.replace(' ', "").parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "K", "64G", "-1", "1.5K", "99999999999999999999", "18446744073709551615K"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn defaults_are_shown_as_they_are_read() {
        for text in ["500ms", "10s", "off"] {
            assert_eq!(text.parse::<SpanOrOff>().unwrap().to_string(), text);
        }
        for text in ["64K", "1M", "100", "0"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }
}
