//! payd's time: the wall clock's at the start, from there a clock that nobody sets.
//!
//! It never goes backwards and never jumps, whatever is done to the wall clock while payd runs; nor does
//! it start before the newest time that is stored. It never measures how long something took: it is for
//! stamps and due times.

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::application::ports::Clock;
use crate::domain::Timestamp;

/// Time in milliseconds since 1970 (UTC), that follows `CLOCK_BOOTTIME`, so that suspended time counts.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Reading,
    /// payd's time at the start.
    start_ms: i64,
}

/// Both clocks of the machine, read together; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    wall_ms: i64,
    boot_ms: i64,
}

impl Reading {
    fn now() -> Self {
        Self {
            wall_ms: milliseconds(clock_gettime(ClockId::Realtime)),
            boot_ms: milliseconds(clock_gettime(ClockId::Boottime)),
        }
    }
}

impl SystemClock {
    /// Starts at the wall clock's time, or at `not_before_ms` where that is later: the newest time stored,
    /// so that time does not run backwards across restarts either. Milliseconds since 1970.
    #[must_use]
    pub fn start(not_before_ms: i64) -> Self {
        Self::start_at(Reading::now(), not_before_ms)
    }

    fn start_at(start: Reading, not_before_ms: i64) -> Self {
        Self {
            start,
            start_ms: start.wall_ms.max(not_before_ms),
        }
    }

    /// payd's time in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.at(Reading::now())
    }

    /// How far payd's time was ahead of the wall clock's at the start, in milliseconds, 0 or more: worth a
    /// line in the log where it is long, for then the wall clock is wrong, or was.
    #[must_use]
    pub fn ahead_at_start_ms(&self) -> i64 {
        self.start_ms.saturating_sub(self.start.wall_ms)
    }

    fn at(&self, now: Reading) -> i64 {
        let passed_ms = now.boot_ms.saturating_sub(self.start.boot_ms).max(0);
        self.start_ms.saturating_add(passed_ms)
    }
}

/// Cut off, not rounded: a stamp is never later than the moment.
fn milliseconds(time: Timespec) -> i64 {
    time.tv_sec
        .saturating_mul(1_000)
        .saturating_add(time.tv_nsec / 1_000_000)
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(Reading::now().wall_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_boot_clock_only() {
        let start = Reading {
            wall_ms: 1_000_000,
            boot_ms: 500,
        };
        for (not_before_ms, now, expected_ms) in [
            (
                0,
                Reading {
                    wall_ms: 1_000_000,
                    boot_ms: 500,
                },
                1_000_000,
            ),
            (
                0,
                Reading {
                    wall_ms: 1_000_250,
                    boot_ms: 750,
                },
                1_000_250,
            ),
            (
                0,
                Reading {
                    wall_ms: 0,
                    boot_ms: 750,
                },
                1_000_250,
            ), // set back
            (
                0,
                Reading {
                    wall_ms: i64::MAX,
                    boot_ms: 750,
                },
                1_000_250,
            ), // set forward
            (
                0,
                Reading {
                    wall_ms: 1_000_000,
                    boot_ms: 0,
                },
                1_000_000,
            ), // cannot be; not backwards then either
            (
                999_999,
                Reading {
                    wall_ms: 1_000_000,
                    boot_ms: 501,
                },
                1_000_001,
            ),
            (
                2_000_000,
                Reading {
                    wall_ms: 1_000_000,
                    boot_ms: 501,
                },
                2_000_001,
            ), // stored time is newer
            (
                i64::MAX,
                Reading {
                    wall_ms: 0,
                    boot_ms: 501,
                },
                i64::MAX,
            ),
        ] {
            let clock = SystemClock::start_at(start, not_before_ms);
            assert_eq!(clock.at(now), expected_ms, "{not_before_ms} {now:?}");
        }
        assert_eq!(
            SystemClock::start_at(start, 2_000_000).ahead_at_start_ms(),
            1_000_000
        );
        assert_eq!(SystemClock::start_at(start, 0).ahead_at_start_ms(), 0);
    }

    #[test]
    fn the_real_one_runs_forwards() {
        let clock = SystemClock::start(0);
        let before_ms = clock.now_ms();
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(clock.now_ms() > before_ms);
        let after_2020_ms = 1_577_836_800_000;
        assert!(before_ms > after_2020_ms);
    }
}
