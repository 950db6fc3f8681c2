//! Time: the wall clock in nanoseconds and the monotonic clock in microseconds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// A reading of both clocks, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Wall clock: nanoseconds since 1970-01-01 UTC. May step.
    pub unix_ns: i64,
    /// Monotonic clock: microseconds since the process started. Never steps.
    pub mono_us: u64,
}

impl Time {
    /// The wall clock in whole seconds.
    pub fn unix_s(self) -> u64 {
        u64::try_from(self.unix_ns.div_euclid(1_000_000_000)).unwrap_or(0)
    }

    /// RFC 3339, nine fractional digits, UTC.
    pub fn rfc3339(self) -> String {
        let stamp = jiff::Timestamp::from_nanosecond(i128::from(self.unix_ns)).unwrap_or_default();
        format!("{stamp:.9}")
    }
}

/// What time it is.
pub trait Clock: Send + Sync {
    /// Reads both clocks.
    fn now(&self) -> Time;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

static START: OnceLock<Instant> = OnceLock::new();

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let start = START.get_or_init(Instant::now);
        let wall = jiff::Timestamp::now().as_nanosecond();
        Time {
            unix_ns: i64::try_from(wall).unwrap_or(i64::MAX),
            mono_us: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// A clock that moves only when told to: one microsecond a reading, or by [`FixedClock::advance_s`].
#[derive(Debug)]
pub struct FixedClock {
    start_ns: i64,
    elapsed_us: AtomicI64,
}

impl FixedClock {
    /// A clock that starts at this second.
    pub fn new(unix_s: i64) -> Self {
        Self {
            start_ns: unix_s * 1_000_000_000,
            elapsed_us: AtomicI64::new(0),
        }
    }

    /// Moves the clock forward.
    pub fn advance_s(&self, seconds: i64) {
        self.elapsed_us
            .fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Time {
        let us = self.elapsed_us.fetch_add(1, Ordering::SeqCst);
        Time {
            unix_ns: self.start_ns + us * 1_000,
            mono_us: u64::try_from(us).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_written_with_nine_digits_in_utc() {
        let time = Time {
            unix_ns: 1_793_232_000_000_000_007,
            mono_us: 0,
        };
        assert_eq!(time.rfc3339(), "2026-10-29T00:00:00.000000007Z");
    }
}
