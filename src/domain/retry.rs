//! When to try again: pure functions of policy, count and a random draw.

use std::num::NonZeroU32;
use std::time::Duration;

/// `2^(n−1) · base`, no more than `cap`; `n` counts from 1.
fn exponential(base: Duration, cap: Duration, n: u32) -> Duration {
    let factor = 1_u32.checked_shl(n.saturating_sub(1)).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(cap)
}

/// How a definitely declined payment is followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The delay after the first failure.
    pub base: Duration,
    /// The longest delay of our own choosing; a gateway's Retry-After may ask for more.
    pub cap: Duration,
    /// Attempts in a round, the first included.
    pub max_attempts: NonZeroU32,
}

impl RetryPolicy {
    /// The longest Retry-After that is honoured (`DESIGN.md`, section 10).
    pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

    /// The delay after the `n`-th failure of a round, `n` from 1: `min(cap, base·2^(n−1))`, half of
    /// it fixed and half uniform, never less than `retry_after`.
    ///
    /// `draw` is uniform over all of `u32`. The half-and-half is "equal jitter"
    /// (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    #[must_use]
    pub fn delay(&self, n: u32, draw: u32, retry_after: Option<Duration>) -> Duration {
        let full_ms =
            u64::try_from(exponential(self.base, self.cap, n).as_millis()).unwrap_or(u64::MAX);
        let fixed_ms = full_ms / 2;
        let uniform_ms = (u128::from(full_ms - fixed_ms) * u128::from(draw)) >> 32;
        let delay = Duration::from_millis(fixed_ms + u64::try_from(uniform_ms).unwrap_or(0));
        delay.max(retry_after.unwrap_or_default().min(Self::RETRY_AFTER_MAX))
    }
}

/// How an open question is put to the gateway again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupPolicy {
    /// The delay before the first lookup.
    pub base: Duration,
    /// The longest delay between two.
    pub cap: Duration,
    /// How long a payment may stay undecided before an operator is told.
    pub attention_after: Duration,
}

impl LookupPolicy {
    /// The pace once an operator has been told.
    pub const LATE_INTERVAL: Duration = Duration::from_secs(3600);

    /// The delay before lookup `n`, `n` from 1, of a payment that has been open for `open_for`.
    #[must_use]
    pub fn delay(&self, n: u32, open_for: Duration) -> Duration {
        if open_for >= self.attention_after {
            return Self::LATE_INTERVAL;
        }
        // Not past the moment at which an operator is to be told: the lookup that is then due does it.
        let until_attention = self.attention_after.saturating_sub(open_for);
        exponential(self.base, self.cap, n).min(until_attention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        base: Duration::from_secs(2),
        cap: Duration::from_secs(900),
        max_attempts: NonZeroU32::new(5).unwrap(),
    };

    #[test]
    fn delays_double_up_to_the_cap_and_half_of_them_is_fixed() {
        // n, lowest and highest delay in ms
        let rows = [
            (1, 1000, 1999),
            (2, 2000, 3999),
            (3, 4000, 7999),
            (9, 256_000, 511_999),
            (10, 450_000, 899_999),
            (40, 450_000, 899_999),
            (u32::MAX, 450_000, 899_999),
        ];
        for (n, low, high) in rows {
            assert_eq!(POLICY.delay(n, 0, None).as_millis(), low, "n={n}");
            assert_eq!(POLICY.delay(n, u32::MAX, None).as_millis(), high, "n={n}");
        }
    }

    #[test]
    fn a_retry_after_is_a_floor_within_an_hour() {
        let delay = |s| POLICY.delay(1, 0, Some(Duration::from_secs(s))).as_secs();
        for (asked, got) in [(0, 1), (30, 30), (3600, 3600), (86_400, 3600)] {
            assert_eq!(delay(asked), got);
        }
    }

    #[test]
    fn lookups_slow_down_and_never_end() {
        let policy = LookupPolicy {
            base: Duration::from_secs(2),
            cap: Duration::from_secs(900),
            attention_after: Duration::from_secs(86_400),
        };
        let rows = [
            (1, 0, 2),
            (2, 2, 4),
            (3, 6, 8),
            (10, 1000, 900),
            (99, 80_000, 900),
            (99, 86_300, 100),
            (100, 86_400, 3600),
            (u32::MAX, 999_999, 3600),
        ];
        for (n, open_for, want) in rows {
            assert_eq!(
                policy.delay(n, Duration::from_secs(open_for)).as_secs(),
                want,
                "n={n}"
            );
        }
    }
}
