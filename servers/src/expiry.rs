//! Warns about certificates and revocation lists that have expired or are about to expire.

use std::time::{Duration, SystemTime};

use peeloff::Expiration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long before the expiry the warnings start.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Returns whether to warn again: a day after the last warning. Uses the wall clock, because the dates are
/// compared with it, and because it includes the time during which the system was suspended. If the clock has
/// gone back, returns true.
pub(crate) fn is_due(last: SystemTime, now: SystemTime) -> bool {
    now.duration_since(last).map_or(true, |since| since >= DAY)
}

/// Logs which of these credentials have expired at this time or expire soon.
pub(crate) fn warn(expirations: &[Expiration], now: SystemTime) {
    for Expiration { what, at, file, .. } in expirations {
        let (place, advice) = match file {
            Some(file) => (format!(" in {}", file.display()), "replace the file and send SIGHUP"),
            // The server made this certificate itself.
            None => (String::new(), "restart the server, which makes a new one"),
        };
        match urgency(*at, now) {
            Urgency::None => {}
            Urgency::Soon { hours } => tracing::warn!(hours, "the {what}{place} expires soon: {advice}"),
            Urgency::Over => tracing::warn!("the {what}{place} has expired: {advice}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    None,
    Soon { hours: u64 },
    Over,
}

/// Returns how urgent the renewal is.
pub(crate) fn urgency(end: SystemTime, now: SystemTime) -> Urgency {
    match end.duration_since(now) {
        Ok(left) if left >= SOON => Urgency::None,
        Ok(left) => Urgency::Soon { hours: left.as_secs() / 3600 },
        Err(_) => Urgency::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_fourteen_days_are_urgent() {
        let second = Duration::from_secs(1);
        let end = SystemTime::UNIX_EPOCH + 1000 * DAY;
        for (now, expected) in [
            (end - SOON, Urgency::None),
            (end - SOON + second, Urgency::Soon { hours: 14 * 24 - 1 }),
            (end - DAY, Urgency::Soon { hours: 24 }),
            (end, Urgency::Soon { hours: 0 }),
            (end + second, Urgency::Over),
        ] {
            assert_eq!(urgency(end, now), expected, "{now:?}");
        }
    }

    #[test]
    fn a_day_later_it_is_time_to_warn_again_and_after_the_clock_went_back() {
        let last = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let second = Duration::from_secs(1);
        for (now, expected) in [
            (last, false),
            (last + DAY - second, false),
            (last + DAY, true),
            (last + 100 * DAY, true),
            (last - second, true),
        ] {
            assert_eq!(is_due(last, now), expected, "{now:?}");
        }
    }
}
