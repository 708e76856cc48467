//! `Prefer` (RFC 7240): the one preference that payd knows, `wait`. What it cannot read it passes
//! over, as section 2 of the RFC asks: a preference is never a reason to refuse a request.

use axum::http::HeaderMap;
use axum::http::header::HeaderName;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The longest that an answer is held, in seconds (`DESIGN.md`, section 4).
const WAIT_SECONDS_MAX: u64 = 60;

/// The seconds to wait, where the client prefers to; at most [`WAIT_SECONDS_MAX`]. The first `wait`
/// counts (RFC 7240, section 2).
pub(super) fn wait(headers: &HeaderMap) -> Option<u64> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| split(value, ','))
        .find_map(|preference| {
            // Parameters behind a semicolon are not for `wait`.
            let preference = split(preference, ';').next()?;
            let (name, value) = preference.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("wait")
                .then(|| unquoted(value.trim()))
        })
        .and_then(|value| {
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            // What is too large for 64 bits is clamped like everything above the limit.
            digits.then(|| value.parse().unwrap_or(u64::MAX).min(WAIT_SECONDS_MAX))
        })
}

/// The parts between separators that are not within quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c: char| {
        if escaped {
            escaped = false;
            return false;
        }
        match c {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_is_found_among_others_and_clamped() {
        #[rustfmt::skip]
        let rows: &[(&[&str], Option<u64>)] = &[
            (&["wait=5"], Some(5)),
            (&["Wait = 5"], Some(5)),
            (&["wait=\"7\""], Some(7)),
            (&["wait=0"], Some(0)),
            (&["wait=60"], Some(60)),
            (&["wait=61"], Some(60)),
            (&["wait=99999999999999999999999"], Some(60)),
            (&["respond-async, wait=10"], Some(10)),
            (&["respond-async", "wait=10"], Some(10)),
            (&["foo=\"a, wait=3\"; x=1, wait=9;y"], Some(9)),
            (&["foo=\"a\\\", wait=3\", wait=4"], Some(4)),
            (&["wait=3, wait=9"], Some(3)),
            (&["return=minimal"], None),
            (&["wait"], None),
            (&["wait="], None),
            (&["wait=-1"], None),
            (&["wait=1.5"], None),
            (&["wait=5s"], None),
            (&["waiting=5"], None),
            (&[""], None),
            (&[], None),
        ];
        for (values, want) in rows {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append("prefer", value.parse().unwrap());
            }
            assert_eq!(wait(&headers), *want, "{values:?}");
        }
    }
}
