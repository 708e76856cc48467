//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): the first answer again, byte
//! for byte, or a named conflict. What is kept, and when, is one commit with what was done; the
//! engine sees to that, so nothing here stores anything.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use axum::http::{HeaderMap, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::call::Call;
use super::headers::Media;
use super::problem::{PROBLEM_JSON, Reject};
use super::reply::to_json;
use crate::application::request::{Action, Answer, Idempotency, Outcome, Reply};
use crate::domain::Refusal;

/// The request's header.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The same, as it is written to people.
const SHOWN: &str = "Idempotency-Key";

/// Marks an answer that was given before.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest key.
const KEY_LEN_MAX: usize = 255;

/// An answer, and whether it was given before.
pub(super) struct Given {
    /// The answer.
    pub(super) answer: Answer,
    /// Whether it was given before.
    pub(super) replayed: bool,
}

/// The key that a request carries: 1 to 255 printable ASCII, once.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Reject> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Reject::field(SHOWN, "is given twice"));
    }
    let bytes = value.as_bytes();
    let fits =
        (1..=KEY_LEN_MAX).contains(&bytes.len()) && bytes.iter().all(|b| matches!(b, 0x20..=0x7e));
    match std::str::from_utf8(bytes) {
        Ok(key) if fits => Ok(Some(key.to_owned())),
        _ => Err(Reject::field(
            SHOWN,
            "must be 1 to 255 printable ASCII characters",
        )),
    }
}

/// Submits an action under the request's key, if it has one. `write` makes the answer, the same
/// one with and without a key: before the commit where it is kept, since it is part of that.
pub(super) async fn submit(
    call: &Call,
    (key, media, body): (Option<String>, Media, &[u8]),
    action: Action,
    write: impl Fn(&Result<Reply, Refusal>) -> Answer + Clone + Send + 'static,
) -> Result<Given, Reject> {
    let idempotency = key.map(|key| {
        let write = write.clone();
        Idempotency::new(
            &call.caller.actor,
            key,
            fingerprint(call, media, body),
            Box::new(move |result| Some(write(result)).filter(is_kept)),
        )
    });
    let submitted = call
        .app()
        .submit(call.caller.clone(), action, idempotency)
        .await?;
    match submitted {
        Outcome::Fresh(_, Some(answer)) => Ok(Given {
            answer,
            replayed: false,
        }),
        Outcome::Fresh(result, None) => Ok(Given {
            answer: write(&result),
            replayed: false,
        }),
        Outcome::Replayed(answer) => Ok(Given {
            answer,
            replayed: true,
        }),
        Outcome::KeyReused => Err(Reject::key_reused()),
    }
}

/// What was done, and what cannot be: those stay as they are. Anything else may go otherwise the
/// next time.
fn is_kept(answer: &Answer) -> bool {
    matches!(answer.status, 200..=299 | 409)
}

/// SHA-256 over method, path with query, and body. A line feed, which neither method nor path can
/// hold, ends each. The type of the body is part of what it means: an invoice, or a batch of one.
pub(super) fn fingerprint(call: &Call, media: Media, body: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(call.parts.method.as_str());
    digest.update(b"\n");
    let target = call.parts.uri.path_and_query();
    digest.update(target.map_or("/", |target| target.as_str()));
    digest.update(b"\n");
    digest.update(media.as_str());
    digest.update(b"\n");
    digest.update(body);
    digest.finalize().into()
}

/// An answer of this status, with one of the contract's types.
pub(super) fn written(
    status: u16,
    location: Option<String>,
    body: &impl serde::Serialize,
) -> Answer {
    told(status, location, to_json(body))
}

/// An answer of this status, with what is JSON already.
pub(super) fn told(status: u16, location: Option<String>, json: impl Into<Vec<u8>>) -> Answer {
    Answer {
        status,
        location,
        body: json.into(),
    }
}

/// The answer that a refusal is.
pub(super) fn refused(refusal: Refusal) -> Answer {
    let reject = Reject::refused(refusal);
    written(reject.problem().status, None, reject.problem())
}

impl Given {
    /// The response. `media` is the type of the body where it is no problem.
    pub(super) fn into_response(self, media: Media) -> axum::response::Response {
        let Answer {
            status,
            location,
            body,
        } = self.answer;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = if status < 400 {
            media.as_str()
        } else {
            PROBLEM_JSON
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(location) = location.and_then(|it| HeaderValue::from_str(&it).ok()) {
            headers.insert(LOCATION, location);
        }
        if self.replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_printable_ascii_given_once() {
        let long = "k".repeat(256);
        for (values, want) in [
            (vec![], Ok(None)),
            (vec!["k"], Ok(Some("k"))),
            (vec!["a b~!\"#"], Ok(Some("a b~!\"#"))),
            (vec![&long[1..]], Ok(Some(&long[1..]))),
            (vec![long.as_str()], Err(())),
            (vec![""], Err(())),
            (vec!["ä"], Err(())),
            (vec!["a\tb"], Err(())),
            (vec!["a", "a"], Err(())),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
                headers.append(IDEMPOTENCY_KEY, value);
            }
            let got = key(&headers).map_err(|reject| {
                assert_eq!(reject.problem().errors[0].field, "Idempotency-Key");
            });
            assert_eq!(
                got.as_ref().map(Option::as_deref),
                want.as_ref().copied(),
                "{values:?}"
            );
        }
    }

    #[test]
    fn done_and_impossible_are_kept_and_nothing_else() {
        for (status, kept) in [
            (200, true),
            (201, true),
            (202, true),
            (409, true),
            (400, false),
            (404, false),
            (422, false),
            (500, false),
            (503, false),
        ] {
            let answer = Answer {
                status,
                location: None,
                body: vec![],
            };
            assert_eq!(is_kept(&answer), kept, "{status}");
        }
    }
}
