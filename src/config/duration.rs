//! Durations as people write them: `250ms`, `2s`, `1m30s`, `24h`.
//!
//! Never a bare number (of what?), never a fraction, never a sign: what could be misread by a factor of
//! a thousand is refused.

use std::time::Duration;

/// Units, longest first, in milliseconds.
const UNITS_MS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// What to write instead.
const WANTED: &str =
    r#"write a whole number and its unit (ms, s, m, h, d), such as "250ms", "2s" or "1m30s""#;

/// Reads a duration: whole numbers, each with its unit, longest unit first and each unit once.
///
/// # Errors
///
/// In words for the person who wrote it: what is wrong, and what would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Err(format!("is empty; {WANTED}"));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            r#"has no unit; write "{text}s" if seconds are meant, "{text}ms" if milliseconds"#
        ));
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    let mut shortest_ms = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split(rest, |b| b.is_ascii_digit());
        let (unit, after) = split(after, |b| b.is_ascii_alphabetic());
        if number.is_empty() || unit.is_empty() {
            return Err(format!("is not a duration; {WANTED}"));
        }
        let Some(&(_, unit_ms)) = UNITS_MS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "has the unit {unit:?}, which is not known; {WANTED}"
            ));
        };
        if unit_ms >= shortest_ms {
            return Err(
                "has its units out of order; write the longest first and each once".to_owned(),
            );
        }
        shortest_ms = unit_ms;
        let part_ms = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms));
        total_ms = part_ms
            .and_then(|part_ms| total_ms.checked_add(part_ms))
            .ok_or_else(|| "is too long to be counted".to_owned())?;
        rest = after;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Writes a duration so that [`parse`] reads it back; what is below a millisecond is cut off.
///
/// Days are written in hours: `24h` is how the defaults are known.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut rest_ms = duration.as_millis();
    if rest_ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, unit_ms) in &UNITS_MS[1..] {
        let count = rest_ms / u128::from(*unit_ms);
        rest_ms %= u128::from(*unit_ms);
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
        }
    }
    text
}

/// The longest start of `text` that `keep` holds for, and what follows it.
fn split(text: &str, keep: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|b| !keep(b)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, ms, canonical) in [
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("2s", 2_000, "2s"),
            ("90s", 90_000, "1m30s"),
            ("1m30s", 90_000, "1m30s"),
            ("15m", 900_000, "15m"),
            ("24h", 86_400_000, "24h"),
            ("1d", 86_400_000, "24h"),
            ("1d2h3m4s5ms", 93_784_005, "26h3m4s5ms"),
        ] {
            let read = parse(text).unwrap();
            assert_eq!(read, Duration::from_millis(ms), "{text}");
            assert_eq!(format(read), canonical, "{text}");
            assert_eq!(parse(canonical).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn refuses_with_a_hint() {
        for (text, hint) in [
            ("", "is empty"),
            ("5", "\"5s\""),
            ("0", "\"0s\""),
            ("1.5s", "whole number"),
            ("-1s", "whole number"),
            ("+1s", "whole number"),
            (" 1s", "whole number"),
            ("1s ", "whole number"),
            ("1 s", "whole number"),
            ("s", "whole number"),
            ("5sec", "\"sec\""),
            ("5S", "\"S\""),
            ("5µs", "whole number"),
            ("5m5", "whole number"),
            ("1s1m", "longest first"),
            ("1s1s", "longest first"),
            ("18446744073709551616ms", "too long"),
            ("18446744073709551615s", "too long"),
            ("18446744073709551s999ms", "too long"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(hint), "{text:?}: {message}");
        }
    }
}
