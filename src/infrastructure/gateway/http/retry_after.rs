//! How long a gateway wants to be left alone: `Retry-After` (RFC 9110, section 10.2.3). Pure.

use std::time::{Duration, SystemTime};

use hyper::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

/// What a number stands for that is too large to read. The domain honours an hour at most.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The longest wait that the headers ask for; none where no header can be read. A point in time is
/// taken against the answer's own `Date`, so that the gateway's clock need not agree with ours, else
/// against `now`.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if !headers.contains_key(RETRY_AFTER) {
        return None;
    }
    let date = headers.get(DATE).and_then(http_date).unwrap_or(now);
    headers
        .get_all(RETRY_AFTER)
        .iter()
        .filter_map(|value| one(value, date))
        .max()
}

fn one(value: &HeaderValue, date: SystemTime) -> Option<Duration> {
    if let Some(at) = http_date(value) {
        // What lies in the past asks for nothing.
        return Some(at.duration_since(date).unwrap_or(Duration::ZERO));
    }
    let digits = value.as_bytes().trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = std::str::from_utf8(digits).ok()?.parse::<u32>();
    Some(seconds.map_or(FOREVER, |seconds| Duration::from_secs(seconds.into())))
}

fn http_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_dates_and_nonsense() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT"; // now
        let half_a_minute_later = "Sun, 06 Nov 1994 08:50:07 GMT";
        // Retry-After headers, Date header, seconds
        let rows: &[(&[&str], Option<&str>, Option<u64>)] = &[
            (&[], None, None),
            (&["0"], None, Some(0)),
            (&["7"], None, Some(7)),
            (&[" 7 "], None, Some(7)),
            (&["007"], None, Some(7)),
            (&["-7"], None, None),
            (&["+7"], None, None),
            (&["7.5"], None, None),
            (&["7s"], None, None),
            (&["soon"], None, None),
            (&[""], None, None),
            (&["7, 8"], None, None),
            (&["99999999999999999999999"], None, Some(u32::MAX.into())),
            (&["3", "9", "5"], None, Some(9)),
            (&["nonsense", "5"], None, Some(5)),
            (&[half_a_minute_later], None, Some(30)),
            (&["Sunday, 06-Nov-94 08:50:07 GMT"], None, Some(30)),
            (&["Sun Nov  6 08:50:07 1994"], None, Some(30)),
            (&[date], None, Some(0)),
            (&["Sun, 06 Nov 1994 08:49:30 GMT"], None, Some(0)),
            (&["Sun, 99 Nov 1994 08:49:30 GMT"], None, None),
            (
                &[half_a_minute_later],
                Some("Sun, 06 Nov 1994 08:50:00 GMT"),
                Some(7),
            ),
            (&[half_a_minute_later], Some("today"), Some(30)),
        ];
        for (said, date, want) in rows {
            let mut headers = HeaderMap::new();
            for value in *said {
                headers.append(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            }
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_str(date).unwrap());
            }
            let got = retry_after(&headers, now);
            assert_eq!(got.map(|it| it.as_secs()), *want, "{said:?} {date:?}");
        }
    }
}
