//! Points in time, as arguments. Nothing here reads a clock.

use std::fmt;
use std::time::Duration;

/// A point in time, in milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 time that payd can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an RFC 3339 time, such as 2026-01-02T03:04:05Z")]
pub struct TimestampError;

impl Timestamp {
    /// From milliseconds since the Unix epoch. What lies before year 0, or after the last
    /// day that jiff prints in every zone, is moved there, so that every timestamp can be printed.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        const YEAR_0: i64 = -62_167_219_200_000;
        const LAST: i64 = 253_402_207_200_000;
        Self(millis.clamp(YEAR_0, LAST))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 with any offset. Digits below a millisecond are cut off.
    ///
    /// # Errors
    /// Where the text is anything else.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let text = rfc_3339(text).ok_or(TimestampError)?;
        let time: jiff::Timestamp = text.parse().map_err(|_| TimestampError)?;
        Ok(Self::from_millis(time.as_millisecond()))
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(by))
    }

    /// How long after `earlier`; zero where it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// The text cut to milliseconds, where it has the form of RFC 3339 (section 5.6). jiff reads more
/// than a contract should: no seconds, a comma, `+01`, `[zone]`; and no tenth decimal.
fn rfc_3339(text: &str) -> Option<String> {
    let has_form = |text: &str, form: &str| {
        let fits = |(b, form): (u8, u8)| match form {
            b'0' => b.is_ascii_digit(),
            b'T' => matches!(b, b'T' | b't' | b' '),
            b'+' => matches!(b, b'+' | b'-'),
            form => b == form,
        };
        text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
    };
    let (time, rest) = text.split_at_checked("2026-01-02T03:04:05".len())?;
    let (decimals, offset) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("0", rest),
    };
    let utc = matches!(offset, "Z" | "z");
    let numeric = has_form(offset, "+00:00") && &offset[1..3] < "24";
    let fits = has_form(time, "0000-00-00T00:00:00") && !decimals.is_empty() && (utc || numeric);
    fits.then(|| format!("{time}.{}{offset}", &decimals[..decimals.len().min(3)]))
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, always with three decimals, so that texts sort as times do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            // `from_millis` keeps it within jiff's years.
            Err(_) => Err(fmt::Error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rfc_3339_and_nothing_else() {
        let rows = [
            ("2026-01-02T03:04:05Z", Some("2026-01-02T03:04:05.000Z")),
            (
                "2026-01-02T03:04:05.6789Z",
                Some("2026-01-02T03:04:05.678Z"),
            ),
            (
                "2026-01-02T05:04:05+02:00",
                Some("2026-01-02T03:04:05.000Z"),
            ),
            ("2026-01-02", None),
            ("2026-01-02T03:04Z", None),
            ("2026-01-02T03:04:05", None),
            ("2026-01-02T03:04:05+02:00[Europe/Berlin]", None),
            ("2026-01-02t03:04:05z", Some("2026-01-02T03:04:05.000Z")),
            ("2026-01-02 03:04:05.5Z", Some("2026-01-02T03:04:05.500Z")),
            (
                "2026-01-02T03:04:05.67890123456789Z",
                Some("2026-01-02T03:04:05.678Z"),
            ),
            (
                "2026-01-02T03:04:05-00:00",
                Some("2026-01-02T03:04:05.000Z"),
            ),
            ("2026-01-02T03:04:05,5Z", None),
            ("2026-01-02T03:04:05.Z", None),
            ("2026-01-02T03:04:05.5", None),
            ("2026-01-02T03:04:05+02", None),
            ("2026-01-02T03:04:05+0200", None),
            ("2026-01-02T03:04:05+02:00:00", None),
            ("2026-01-02T03:04:05+24:00", None),
            ("2026-01-02T03:04:05Z ", None),
            ("2026-02-30T03:04:05Z", None),
            ("+002026-01-02T03:04:05Z", None),
            ("2026-01-02T03:04:0äZ", None),
            ("soon", None),
            ("", None),
        ];
        for (text, want) in rows {
            assert_eq!(
                Timestamp::parse(text)
                    .ok()
                    .map(|t| t.to_string())
                    .as_deref(),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn the_ends_of_time_can_be_printed() {
        assert_eq!(
            Timestamp::from_millis(i64::MAX).to_string(),
            "9999-12-30T22:00:00.000Z"
        );
        assert_eq!(
            Timestamp::from_millis(i64::MIN).to_string(),
            "0000-01-01T00:00:00.000Z"
        );
        let last = Timestamp::from_millis(i64::MAX);
        assert_eq!(last.plus(Duration::MAX), last);
    }
}
