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

impl Timestamp {
    /// The text of [`fmt::Display`]. By hand: a payment is written down with some dozen of these.
    fn text(self) -> [u8; 24] {
        let (days, millis) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        // Neither number is as large as 32 bits allow, nor negative: `from_millis` sees to that.
        let [days, millis] = [days + DAYS_BEFORE, millis].map(|it| u32::try_from(it).unwrap_or(0));
        let (year, month, day) = date(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (at, number) in [
            (0, year / 100),
            (2, year),
            (5, month),
            (8, day),
            (11, millis / 3_600_000),
            (14, millis / 60_000 % 60),
            (17, millis / 1000 % 60),
            (20, millis / 10 % 100),
            (21, millis),
        ] {
            let pair = PAIRS[(number % 100) as usize];
            text[at..at + 2].copy_from_slice(&pair);
        }
        text
    }
}

/// A day, in milliseconds.
const DAY: i64 = 86_400_000;

/// Four hundred years, in days: then the calendar repeats itself.
const ERA: u32 = 146_097;

/// From the first of March, 400 years before year 0, to the Unix epoch, in days.
const DAYS_BEFORE: i64 = 719_468 + ERA as i64;

/// Year, month and day, from days since the first of March, 400 years before year 0.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
const fn date(days: u32) -> (u32, u32, u32) {
    // Years are taken to begin with March, so that the leap day is the last of one.
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year_of_era + next_year - 400, month, day)
}

/// The numbers of two digits.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [*b"00"; 100];
    let mut n = 1;
    while n < 100 {
        let [tens, ones] = pairs[n - 1];
        pairs[n] = if ones == b'9' {
            [tens + 1, b'0']
        } else {
            [tens, ones + 1]
        };
        n += 1;
    }
    pairs
};

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, always with three decimals, so that texts sort as times do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
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

    /// What a time is in text, by a library.
    fn by_jiff(time: Timestamp) -> String {
        let time = jiff::Timestamp::from_millisecond(time.as_millis()).unwrap();
        format!("{time:.3}")
    }

    #[test]
    fn every_time_is_printed_as_a_library_does() {
        let (first, last) = (
            Timestamp::from_millis(i64::MIN),
            Timestamp::from_millis(i64::MAX),
        );
        // Some fifty days and an odd time at a step, and the days around each end of a month that may
        // have a leap day.
        let steps = (first.as_millis()..=last.as_millis()).step_by(4_321_987_653);
        let edges = (0..10_000_i64).flat_map(|year| {
            let march = jiff::civil::date(i16::try_from(year).unwrap(), 3, 1);
            let march = march.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
            let march = march.timestamp().as_millisecond();
            (-2..=1).flat_map(move |day| [-1, 0, 1].map(|by| march + day * DAY + by))
        });
        let mut seen = 0;
        for millis in steps.chain(edges).chain(-2000..2000) {
            let time = Timestamp::from_millis(millis);
            assert_eq!(time.to_string(), by_jiff(time), "{millis}");
            seen += 1;
        }
        assert!(seen > 190_000, "{seen}");
    }

    #[test]
    fn the_ends_of_time_can_be_printed() {
        for time in [i64::MIN, i64::MAX].map(Timestamp::from_millis) {
            assert_eq!(time.to_string(), by_jiff(time));
        }
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
