//! What requests say in their headers, each read by its own standard: media types, Host,
//! traceparent, request ids. Pure.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderName};

/// The media types that payd takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// `application/json`.
    Json,
    /// `application/x-ndjson`: a JSON value a line.
    Ndjson,
    /// `text/event-stream`: server-sent events.
    EventStream,
}

impl Media {
    const ALL: [Self; 3] = [Self::Json, Self::Ndjson, Self::EventStream];

    /// As written in headers.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::EventStream => "text/event-stream",
        }
    }

    fn parse(essence: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|media| media.as_str().eq_ignore_ascii_case(essence.trim()))
    }
}

/// What a request says its body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyType {
    /// Nothing is said.
    Unsaid,
    /// One that payd knows, in UTF-8.
    Known(Media),
    /// Something else.
    Other,
}

/// What a request says its body is (RFC 9110, section 8.3). A coding or another charset makes it
/// something else.
pub(super) fn body_type(headers: &HeaderMap) -> BodyType {
    if headers.contains_key(CONTENT_ENCODING) {
        return BodyType::Other;
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return BodyType::Unsaid,
        (Some(value), None) => value.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return BodyType::Other,
    };
    let mut parts = value.split(';');
    let Some(media) = parts.next().and_then(Media::parse) else {
        return BodyType::Other;
    };
    let utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if utf8 {
        BodyType::Known(media)
    } else {
        BodyType::Other
    }
}

/// Which of the offered types the client wants most (RFC 9110, section 12.5.1). The first offer is
/// what it gets where it says nothing, or wants nothing that there is.
pub(super) fn accepted(headers: &HeaderMap, offers: &[Media]) -> Media {
    let mut best: Option<(u16, Media)> = None;
    let values = headers.get_all(ACCEPT).iter();
    for range in values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
    {
        let mut parts = range.split(';');
        let essence = parts.next().unwrap_or_default().trim();
        let media = match essence {
            "*/*" => offers.first().copied(),
            "application/*" => offers.iter().copied().find(|it| *it != Media::EventStream),
            "text/*" => offers.iter().copied().find(|it| *it == Media::EventStream),
            _ => Media::parse(essence).filter(|media| offers.contains(media)),
        };
        let weight = parts
            .find_map(|part| {
                let (name, value) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then_some(value)
            })
            .map_or(1000, weight);
        let Some(media) = media.filter(|_| weight > 0) else {
            continue;
        };
        // Of two wanted alike, the first one.
        if best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, media));
        }
    }
    best.map_or(
        offers.first().copied().unwrap_or(Media::Json),
        |(_, media)| media,
    )
}

/// A weight in thousandths. What cannot be read counts as not wanted.
fn weight(text: &str) -> u16 {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    match whole {
        "1" if digits && fraction.bytes().all(|b| b == b'0') => 1000,
        "0" if digits => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

/// Whether a Host is one of payd's: the names of this machine for itself, and the address that the
/// connection came in on; any port. Anything else is a page elsewhere whose name was pointed here
/// (DNS rebinding).
pub(super) fn host_is_ours(host: &str, local: IpAddr) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) => (name, port),
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, _)) => (name, &host[name.len()..]),
            None => (host, ""),
        },
    };
    let port_fits = match port.strip_prefix(':') {
        Some(port) => port.is_empty() || port.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    if !port_fits {
        return false;
    }
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    match name.parse::<IpAddr>() {
        Ok(address) => {
            // `::1` without brackets is no Host, and was cut at its first colon above.
            let ours = ["127.0.0.1", "::1"];
            ours.contains(&name) || address.to_canonical() == local.to_canonical()
        }
        Err(_) => false,
    }
}

/// The name of a Host, without its port. An address in brackets is none.
pub(super) fn host_name(host: &str) -> Option<&str> {
    let name = match host.split_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) => return None,
        None => host,
    };
    (!name.is_empty()).then_some(name)
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A `traceparent`, where it is one (W3C Trace Context, section 3.2; version 00). What is none is
/// passed over, as the standard asks.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let fields: Vec<&str> = value.split('-').collect();
    let [version, trace, parent, flags] = fields.as_slice() else {
        return None;
    };
    let hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let nonzero = |text: &str| text.bytes().any(|b| b != b'0');
    let fits = *version == "00"
        && hex(trace, 32)
        && hex(parent, 16)
        && hex(flags, 2)
        && nonzero(trace)
        && nonzero(parent);
    fits.then(|| value.to_owned())
}

/// The answer's and the request's id.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id taken over from a client.
const REQUEST_ID_LEN_MAX: usize = 128;

/// The client's own request id, where it is one that can stand in any log.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let fits = (1..=REQUEST_ID_LEN_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    fits.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(rows: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn bodies_are_json_in_utf_8_or_something_else() {
        use BodyType::*;
        for (value, want) in [
            ("application/json", Known(Media::Json)),
            ("Application/JSON; charset=UTF-8", Known(Media::Json)),
            ("application/json;charset=\"utf-8\"", Known(Media::Json)),
            ("application/x-ndjson", Known(Media::Ndjson)),
            ("application/json; charset=latin1", Other),
            ("application/json5", Other),
            ("text/plain", Other),
            ("application/x-www-form-urlencoded", Other),
            ("", Other),
        ] {
            assert_eq!(
                body_type(&headers(&[("content-type", value)])),
                want,
                "{value}"
            );
        }
        assert_eq!(body_type(&headers(&[])), Unsaid);
        let twice = [
            ("content-type", "application/json"),
            ("content-type", "text/plain"),
        ];
        assert_eq!(body_type(&headers(&twice)), Other);
        let packed = [
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
        ];
        assert_eq!(body_type(&headers(&packed)), Other);
    }

    #[test]
    fn the_most_wanted_offer_is_given() {
        let offers = [Media::Json, Media::EventStream, Media::Ndjson];
        for (accept, want) in [
            ("text/event-stream", Media::EventStream),
            ("application/x-ndjson", Media::Ndjson),
            ("APPLICATION/X-NDJSON", Media::Ndjson),
            ("*/*", Media::Json),
            ("application/*", Media::Json),
            ("text/*", Media::EventStream),
            ("text/html, */*;q=0.8", Media::Json),
            (
                "application/json;q=0.5, application/x-ndjson",
                Media::Ndjson,
            ),
            ("application/json, application/x-ndjson", Media::Json),
            ("application/x-ndjson, */*;q=0.1", Media::Ndjson),
            ("text/event-stream;q=0", Media::Json),
            ("text/html", Media::Json),
            ("", Media::Json),
        ] {
            assert_eq!(
                accepted(&headers(&[("accept", accept)]), &offers),
                want,
                "{accept}"
            );
        }
        assert_eq!(accepted(&headers(&[]), &offers), Media::Json);
    }

    #[test]
    fn only_the_names_of_this_machine_are_ours() {
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        let v6: IpAddr = "fd00::7".parse().unwrap();
        for (host, local, want) in [
            ("localhost", v4, true),
            ("LocalHost:8080", v4, true),
            ("127.0.0.1", v4, true),
            ("127.0.0.1:1", v4, true),
            ("[::1]", v4, true),
            ("[::1]:8080", v4, true),
            ("10.1.2.3:80", v4, true),
            ("[fd00::7]:80", v6, true),
            ("[FD00:0::7]", v6, true),
            ("localhost:", v4, true),
            ("10.1.2.4", v4, false),
            ("127.0.0.2", v4, false),
            ("evil.example", v4, false),
            ("localhost.evil.example", v4, false),
            ("evil.example:8080", v4, false),
            ("127.0.0.1.evil.example", v4, false),
            ("localhost:80:80", v4, false),
            ("localhost:http", v4, false),
            ("localhost:99999", v4, false),
            ("[::1", v4, false),
            ("[::1]x", v4, false),
            ("::1", v4, false),
            ("", v4, false),
        ] {
            assert_eq!(host_is_ours(host, local), want, "{host}");
        }
    }

    #[test]
    fn a_traceparent_is_one_or_none() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(
            traceparent(&headers(&[("traceparent", good)])).as_deref(),
            Some(good)
        );
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(
                traceparent(&headers(&[("traceparent", bad)])),
                None,
                "{bad}"
            );
        }
        let twice = [("traceparent", good), ("traceparent", good)];
        assert_eq!(traceparent(&headers(&twice)), None);
    }

    #[test]
    fn a_request_id_is_taken_over_where_it_harms_no_log() {
        let long = "x".repeat(129);
        for (id, ok) in [
            ("a", true),
            ("req-1._Z", true),
            (&long[1..], true),
            (long.as_str(), false),
            ("", false),
            ("a b", false),
            ("a/b", false),
            ("a=1", false),
        ] {
            let headers = headers(&[("x-request-id", id)]);
            assert_eq!(request_id(&headers), ok.then_some(id), "{id}");
        }
    }
}
