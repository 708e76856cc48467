//! Arguments that several commands take, read into types that cannot be wrong.

use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What may stand in a path or query as it is (RFC 3986, unreserved).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The longest id.
const ID_BYTES_MAX: usize = 64;
/// The longest timeout that means anything; more is taken as this.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 86_400);
/// The longest idempotency key.
const KEY_BYTES_MAX: usize = 255;

/// Encodes text for a path segment or a query value.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// An invoice's id: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvoiceId(String);

impl InvoiceId {
    /// Reads it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        id(text, "an invoice's id").map(Self)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The route of the invoice, with something after it.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/invoices/{}{rest}", encode(&self.0))
    }
}

impl fmt::Display for InvoiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A payment's id: `pay_` and a UUIDv7. Only its alphabet is looked at here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PaymentId(String);

impl PaymentId {
    /// Reads it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        id(text, "a payment's id").map(Self)
    }

    /// The route of the payment, with something after it.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/payments/{}{rest}", encode(&self.0))
    }
}

impl fmt::Display for PaymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn id(text: &str, what: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    let long = text.is_empty() || text.len() > ID_BYTES_MAX;
    if matches!(text, "." | "..") {
        return Err(format!("{what} is neither . nor .."));
    }
    if long || !text.bytes().all(allowed) {
        return Err(format!(
            "{what} is 1 to {ID_BYTES_MAX} of A-Z a-z 0-9 . _ : -"
        ));
    }
    Ok(text.to_owned())
}

/// Reads an idempotency key.
pub(crate) fn key(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if text.is_empty() || text.len() > KEY_BYTES_MAX || !printable || text.trim() != text {
        return Err(format!(
            "a key is 1 to {KEY_BYTES_MAX} printable ASCII characters, with no space at its ends"
        ));
    }
    Ok(text.to_owned())
}

/// Reads how long to wait: `60s`, `1m30s`, `2h`.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    let wrong = || "a timeout is a number and a unit: 500ms, 60s, 5m, 1h30m".to_owned();
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    Ok(duration.min(TIMEOUT_MAX))
}

/// A duration as it is typed: `60s`, `1m30s`.
pub(crate) fn typed(duration: Duration) -> String {
    match SignedDuration::try_from(duration) {
        Ok(duration) => format!("{duration:#}").replace(' ', ""),
        Err(_) => format!("{}s", duration.as_secs()),
    }
}

/// Reads when something is due: RFC 3339, a date (its start, in UTC), or how long from now.
pub(crate) fn due(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wrong =
        || format!("`{text}` is no time: write 2026-12-24T18:00:00Z, 2026-12-24 (UTC), or 3d, 12h");
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>() {
        let zoned = date.to_zoned(TimeZone::UTC).map_err(|_| wrong())?;
        return Ok(zoned.timestamp());
    }
    let span: Span = text.trim_start_matches('+').parse().map_err(|_| wrong())?;
    if span.is_negative() {
        return Err(format!("`{text}` is in the past"));
    }
    let then = now.to_zoned(TimeZone::UTC).checked_add(span);
    Ok(then.map_err(|_| wrong())?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_what_payd_takes() {
        for good in ["a", "inv-1", "A.b_c:d-9", &"x".repeat(64)] {
            assert!(InvoiceId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", "a?b", &"x".repeat(65)] {
            assert!(InvoiceId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn due_is_a_time_a_date_or_a_distance() {
        let now: Timestamp = "2026-01-30T12:00:00Z".parse().unwrap();
        let cases = [
            ("2026-02-01T10:00:00+02:00", "2026-02-01T08:00:00Z"),
            ("2026-02-01", "2026-02-01T00:00:00Z"),
            ("3d", "2026-02-02T12:00:00Z"),
            ("+12h", "2026-01-31T00:00:00Z"),
            ("2w", "2026-02-13T12:00:00Z"),
            ("1mo", "2026-02-28T12:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(due(text, now).unwrap().to_string(), expected, "{text}");
        }
        for bad in ["", "tomorrow", "-3d", "2026-13-01", "3", "99999999999y"] {
            assert!(due(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn timeouts_have_a_unit() {
        assert_eq!(timeout("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(timeout("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(timeout("99999999999999h"), Ok(TIMEOUT_MAX));
        assert_eq!(timeout("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(typed(Duration::from_secs(90)), "1m30s");
        for bad in ["", "60", "-1s", "soon"] {
            assert!(timeout(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_fit_a_header() {
        assert!(key("order 7/attempt 1").is_ok());
        for bad in ["", " a", "a ", "a\nb", "é", &"x".repeat(256)] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
    }
}
