//! payd's time: the wall clock's at the first start, from there a clock that nobody sets.
//!
//! It never goes backwards and never jumps, whatever is done to the wall clock while payd runs; nor across
//! a restart, as long as the machine stays up: a small file says where payd's time and the boot clock stood,
//! and payd goes on from there. After a reboot there is only the wall clock to ask; then time still does not
//! start before the newest time that is stored. It never measures how long something took: it is for stamps
//! and due times.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::application::ports::Clock;
use crate::domain::Timestamp;

/// A wall clock that has moved by no more than this, in milliseconds, was put right by a few seconds, and is
/// followed at a start. It is too little to retry anything too early by.
const FOLLOWED_MS_MAX: i64 = 5_000;

/// Names the time from one boot of the machine to the next.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

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
        let boot = clock_gettime(ClockId::Boottime);
        // Cut off, not rounded: a stamp is never later than the moment.
        let whole = |duration: std::time::Duration| i64::try_from(duration.as_millis());
        let wall_ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => whole(after).unwrap_or(i64::MAX),
            Err(before) => whole(before.duration()).map_or(i64::MIN, |ms| -ms),
        };
        Self {
            wall_ms,
            boot_ms: boot
                .tv_sec
                .saturating_mul(1_000)
                .saturating_add(boot.tv_nsec / 1_000_000),
        }
    }
}

/// Where payd's time stood at a moment of the boot clock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Anchor {
    boot_id: String,
    boot_ms: i64,
    payd_ms: i64,
}

impl Anchor {
    fn encode(&self) -> String {
        format!(
            "payd.clock 1 {} {} {}\n",
            self.boot_id, self.boot_ms, self.payd_ms
        )
    }

    /// `None`: a file that was cut short by a crash, or is somebody else's.
    fn decode(text: &str) -> Option<Self> {
        let mut words = text
            .strip_prefix("payd.clock 1 ")?
            .strip_suffix('\n')?
            .split(' ');
        Some(Self {
            boot_id: words.next()?.to_owned(),
            boot_ms: words.next()?.parse().ok()?,
            payd_ms: words.next()?.parse().ok()?,
        })
    }

    /// payd's time by this anchor; `None` where it is of another boot.
    fn time_at(&self, boot_id: &str, now: Reading) -> Option<i64> {
        let passed_ms = now.boot_ms.checked_sub(self.boot_ms)?;
        let here = self.boot_id == boot_id && passed_ms >= 0;
        here.then(|| self.payd_ms.saturating_add(passed_ms))
    }
}

impl SystemClock {
    /// Goes on from where payd's time stood, as the file at `path` tells, and notes there where it stands now;
    /// where that cannot be told, it is as [`Self::start`]. Never before `not_before_ms`, the newest time
    /// stored. Milliseconds since 1970.
    #[must_use]
    pub fn go_on(path: &Path, not_before_ms: i64) -> Self {
        let now = Reading::now();
        let boot_id = match std::fs::read_to_string(BOOT_ID) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => {
                tracing::warn!(%error, "{BOOT_ID} cannot be read: at a restart payd's time follows the wall clock");
                return Self::start_at(now, not_before_ms);
            }
        };
        let anchored_ms = std::fs::read_to_string(path)
            .ok()
            .and_then(|text| Anchor::decode(&text))
            .and_then(|anchor| anchor.time_at(&boot_id, now));
        let clock = Self::resume(now, anchored_ms, not_before_ms);
        let anchor = Anchor {
            boot_id,
            boot_ms: now.boot_ms,
            payd_ms: clock.start_ms,
        };
        // Not synced: it only holds until the machine goes down. Without it a restart is as a reboot.
        if let Err(error) = std::fs::write(path, anchor.encode()) {
            tracing::warn!(%error, "{} cannot be written: at the next start payd's time may follow a wall clock that jumped", path.display());
        }
        clock
    }

    fn resume(now: Reading, anchored_ms: Option<i64>, not_before_ms: i64) -> Self {
        let Some(anchored_ms) = anchored_ms else {
            return Self::start_at(now, not_before_ms);
        };
        let start_ms = if now.wall_ms.abs_diff(anchored_ms) <= FOLLOWED_MS_MAX.unsigned_abs() {
            now.wall_ms
        } else {
            anchored_ms
        };
        Self {
            start: now,
            start_ms: start_ms.max(not_before_ms),
        }
    }

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

    /// How far the wall clock was ahead of payd's time at the start, in milliseconds; negative where it was
    /// behind. Worth a line in the log where it is much: the wall clock is wrong, or was.
    #[must_use]
    pub fn wall_ahead_at_start_ms(&self) -> i64 {
        self.start.wall_ms.saturating_sub(self.start_ms)
    }

    fn at(&self, now: Reading) -> i64 {
        let passed_ms = now.boot_ms.saturating_sub(self.start.boot_ms).max(0);
        self.start_ms.saturating_add(passed_ms)
    }
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
            SystemClock::start_at(start, 2_000_000).wall_ahead_at_start_ms(),
            -1_000_000
        );
        assert_eq!(SystemClock::start_at(start, 0).wall_ahead_at_start_ms(), 0);
    }

    #[test]
    fn goes_on_across_a_restart_as_if_nobody_had_touched_the_wall_clock() {
        let anchor = Anchor {
            boot_id: "this".to_owned(),
            boot_ms: 500,
            payd_ms: 1_000_000_000,
        };
        const HOUR: i64 = 3_600_000;
        const NEVER: i64 = i64::MIN;
        // boot, how the wall clock stands to the truth, boot clock, newest stored, payd's time
        for (boot_id, wall_off, boot_ms, stored, expected_ms) in [
            ("this", 0, 2_500, NEVER, 1_000_002_000),
            ("this", 4_000, 2_500, NEVER, 1_000_006_000), // put right by a little
            ("this", -4_000, 2_500, 1_000_001_000, 1_000_001_000), // but never backwards
            ("this", HOUR, 2_500, NEVER, 1_000_002_000),
            ("this", -HOUR, 2_500, NEVER, 1_000_002_000),
            ("this", 87_600 * HOUR, 2_500, NEVER, 1_000_002_000), // ten years
            ("this", -87_600 * HOUR, 2_500, NEVER, 1_000_002_000),
            ("this", 0, 2_500, 1_000_009_000, 1_000_009_000), // stored time is newer
            ("other", HOUR, 2_500, NEVER, 1_000_002_000 + HOUR), // rebooted: only the wall clock is left
            ("other", -HOUR, 2_500, 1_000_001_000, 1_000_001_000),
            ("this", HOUR, 400, NEVER, 1_000_000_000 - 100 + HOUR), // cannot be: not of this boot
        ] {
            let now = Reading {
                wall_ms: 1_000_000_000 + (boot_ms - 500) + wall_off,
                boot_ms,
            };
            let clock = SystemClock::resume(now, anchor.time_at(boot_id, now), stored);
            assert_eq!(
                clock.at(now),
                expected_ms,
                "{boot_id} {wall_off} {boot_ms} {stored}"
            );
        }
        assert_eq!(Anchor::decode(&anchor.encode()), Some(anchor.clone()));
        for cut in 0..anchor.encode().len() {
            assert_eq!(Anchor::decode(&anchor.encode()[..cut]), None, "{cut}");
        }
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
