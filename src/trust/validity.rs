//! From when to when a certificate is good (RFC 5280, 4.1.2.5). rustls reads this only on the way to an
//! authority, and tells nobody. It reads nothing else of a certificate.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::Offset;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{CertificateError, Error};

const SEQUENCE: u8 = 0x30;
/// The tag of the version, which the first certificates do not have.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Refuses a certificate that is not good at this time.
pub(super) fn check(certificate: &[u8], now: UnixTime) -> Result<(), Error> {
    let (not_before, not_after) =
        read(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    if now < not_before {
        let time = now;
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    if now > not_after {
        let time = now;
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    Ok(())
}

/// `None` where it is no certificate.
fn read(certificate: &[u8]) -> Option<(UnixTime, UnixTime)> {
    let (whole, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(whole, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = any(fields)?.2;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = any(fields)?.2;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (first, not_before, rest) = any(validity)?;
    let (second, not_after, _) = any(rest)?;
    Some((time(first, not_before)?, time(second, not_after)?))
}

/// The content of the element in front, which must have this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = any(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of the element in front, and what follows it (X.690, 8.1, with lengths of up to four
/// bytes).
fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x0f))?;
            let length = digits
                .iter()
                .fold(0_u64, |sum, digit| sum << 8 | u64::from(*digit));
            (usize::try_from(length).ok()?, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn time(tag: u8, text: &[u8]) -> Option<UnixTime> {
    let text = std::str::from_utf8(text).ok()?;
    let year_and_rest = match tag {
        GENERALIZED_TIME => text.to_owned(),
        // Two digits are a year from 1950 to 2049.
        UTC_TIME => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", &year_and_rest).ok()?;
    let seconds = Offset::UTC.to_timestamp(time).ok()?.as_second();
    // What was good before 1970 began is good from there on.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixTime {
        let time: jiff::Timestamp = text.parse().unwrap();
        UnixTime::since_unix_epoch(Duration::from_secs(time.as_second().try_into().unwrap()))
    }

    #[test]
    fn times_are_read_in_both_their_forms() {
        for (tag, text, expected) in [
            (UTC_TIME, "260102030405Z", Some("2026-01-02T03:04:05Z")),
            (UTC_TIME, "490102030405Z", Some("2049-01-02T03:04:05Z")),
            (UTC_TIME, "700102030405Z", Some("1970-01-02T03:04:05Z")),
            (UTC_TIME, "500102030405Z", Some("1970-01-01T00:00:00Z")),
            (
                GENERALIZED_TIME,
                "20510102030405Z",
                Some("2051-01-02T03:04:05Z"),
            ),
            (UTC_TIME, "260102030405", None),
            (UTC_TIME, "261302030405Z", None),
            (UTC_TIME, "", None),
            (UTC_TIME, "2é0102030405Z", None),
            (SEQUENCE, "260102030405Z", None),
        ] {
            assert_eq!(time(tag, text.as_bytes()), expected.map(at), "{text}");
        }
    }

    #[test]
    fn both_ends_of_a_certificate_are_found_and_no_piece_of_one_is_taken() {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2051, 3, 4);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let der = made.der();
        let (first, last) = (at("2026-01-02T00:00:00Z"), at("2051-03-04T00:00:00Z"));
        assert_eq!(read(der), Some((first, last)));
        for (now, good) in [
            (at("2026-01-01T23:59:59Z"), false),
            (first, true),
            (last, true),
            (at("2051-03-04T00:00:01Z"), false),
        ] {
            assert_eq!(check(der, now).is_ok(), good, "{now:?}");
        }
        for end in 0..der.len() {
            assert_eq!(read(&der[..end]), None, "{end}");
        }
        for bytes in [
            &[0x30, 0x80][..],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x30, 0x84, 0xff],
        ] {
            assert_eq!(read(bytes), None);
        }
    }
}
