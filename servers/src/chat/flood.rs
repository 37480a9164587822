//! Limits how fast a member may write, with a token bucket. Pure: the caller passes the time.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The number of lines a second on average, and the number at once after a quiet period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimit {
    rate: u32,
    burst: u32,
}

/// A [`FloodLimit`], or `off` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodLimitOrOff(pub Option<FloodLimit>);

impl FloodLimit {
    /// Returns the number of lines a second, on average.
    pub fn rate(self) -> u32 {
        self.rate
    }
}

impl Default for FloodLimitOrOff {
    fn default() -> Self {
        Self(Some(FloodLimit { rate: 5, burst: 20 }))
    }
}

impl FromStr for FloodLimitOrOff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "off" {
            return Ok(Self(None));
        }
        let positive = |part: &str| part.trim().parse().ok().filter(|number: &u32| *number > 0);
        let limit = text
            .split_once('/')
            .and_then(|(rate, burst)| Some(FloodLimit { rate: positive(rate)?, burst: positive(burst)? }));
        match limit {
            Some(limit) => Ok(Self(Some(limit))),
            None => Err(format!(
                "{text:?} is no limit: write lines a second and lines at once, such as 5/20, or off"
            )),
        }
    }
}

impl fmt::Display for FloodLimitOrOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => write!(f, "{}/{}", limit.rate, limit.burst),
            None => f.write_str("off"),
        }
    }
}

/// What happens to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The line is accepted.
    Heard,
    /// The line is the first one to be rejected after an accepted one, and its sender is told.
    Warned,
    /// The line is rejected, and its sender has been told already.
    Ignored,
}

/// The lines that one member may write now.
#[derive(Clone, Debug)]
pub struct Bucket {
    limit: Option<FloodLimit>,
    /// When the bucket will be full, at most `burst` intervals ahead.
    full_at: Option<Instant>,
    warned: bool,
}

impl Bucket {
    /// Makes a full bucket.
    pub fn new(limit: FloodLimitOrOff) -> Self {
        Self { limit: limit.0, full_at: None, warned: false }
    }

    /// Returns how long it takes until the bucket is full, and whether the last line was rejected.
    pub fn save(&self, now: Instant) -> (Duration, bool) {
        let pending = self.full_at.map(|full_at| full_at.saturating_duration_since(now));
        (pending.unwrap_or_default(), self.warned)
    }

    /// Restores a bucket that another process has [saved](Self::save), which will be full after `pending`.
    pub fn resume(limit: FloodLimitOrOff, pending: Duration, warned: bool, now: Instant) -> Self {
        let longest =
            limit.0.map_or(Duration::ZERO, |limit| Duration::from_secs(1) / limit.rate * limit.burst);
        Self { limit: limit.0, full_at: now.checked_add(pending.min(longest)), warned }
    }

    /// Takes one line out of the bucket, if it has one.
    pub fn take(&mut self, now: Instant) -> Verdict {
        let Some(limit) = self.limit else { return Verdict::Heard };
        let interval = Duration::from_secs(1) / limit.rate;
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + interval;
        if full_at - now > interval * limit.burst {
            return match std::mem::replace(&mut self.warned, true) {
                true => Verdict::Ignored,
                false => Verdict::Warned,
            };
        }
        self.full_at = Some(full_at);
        self.warned = false;
        Verdict::Heard
    }

    /// Returns whether the last line was accepted. A request for an answer to that line costs nothing, and gets
    /// no answer if the line was rejected.
    pub fn hears(&self) -> bool {
        !self.warned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_heard_and_then_the_rate() {
        let mut bucket = Bucket::new("2/3".parse().unwrap());
        let start = Instant::now();
        let at = |bucket: &mut Bucket, millis| bucket.take(start + Duration::from_millis(millis));
        for _ in 0..3 {
            assert_eq!(at(&mut bucket, 0), Verdict::Heard);
        }
        assert!(bucket.hears());
        assert_eq!(at(&mut bucket, 0), Verdict::Warned);
        assert_eq!(at(&mut bucket, 400), Verdict::Ignored);
        assert!(!bucket.hears());
        assert_eq!(at(&mut bucket, 500), Verdict::Heard);
        assert_eq!(at(&mut bucket, 900), Verdict::Warned);
        assert_eq!(at(&mut bucket, 1000), Verdict::Heard);
    }

    #[test]
    fn a_bucket_goes_on_in_another_process_as_it_was() {
        let limit = "2/3".parse().unwrap();
        let (mut bucket, start) = (Bucket::new(limit), Instant::now());
        let verdicts = |bucket: &mut Bucket| [(); 2].map(|()| bucket.take(start));
        assert_eq!(verdicts(&mut bucket), [Verdict::Heard; 2]);
        let resume = |bucket: &Bucket| {
            let (pending, warned) = bucket.save(start);
            Bucket::resume(limit, pending, warned, start)
        };
        let mut other = resume(&bucket);
        assert_eq!(verdicts(&mut other), [Verdict::Heard, Verdict::Warned]);
        assert_eq!(resume(&other).take(start), Verdict::Ignored);
        assert_eq!(Bucket::resume(limit, Duration::MAX, false, start).take(start), Verdict::Warned);
    }

    #[test]
    fn a_long_quiet_time_saves_up_no_more_than_a_burst() {
        let mut bucket = Bucket::new("10/2".parse().unwrap());
        let start = Instant::now();
        assert_eq!(bucket.take(start), Verdict::Heard);
        let later = start + Duration::from_secs(3600);
        assert_eq!([(); 3].map(|()| bucket.take(later)), [Verdict::Heard, Verdict::Heard, Verdict::Warned]);
    }

    #[test]
    fn off_is_no_limit() {
        let mut bucket = Bucket::new("off".parse().unwrap());
        let now = Instant::now();
        assert!((0..1000).all(|_| bucket.take(now) == Verdict::Heard));
    }

    #[test]
    fn limits_are_shown_as_they_are_written() {
        for text in ["5/20", "1/1", "off"] {
            assert_eq!(text.parse::<FloodLimitOrOff>().unwrap().to_string(), text);
        }
        for text in ["", "5", "0/1", "1/0", "-1/2", "a/b", "5/20/3"] {
            assert!(text.parse::<FloodLimitOrOff>().unwrap_err().contains("such as 5/20, or off"), "{text}");
        }
    }
}
