//! Answers that are simply JSON.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;

use super::headers::Media;

/// 200 with one of the contract's types.
pub(super) fn json(value: &impl serde::Serialize) -> Response {
    json_bytes(to_json(value))
}

/// 200 with what is JSON already.
pub(super) fn json_bytes(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let kind = HeaderValue::from_static(Media::Json.as_str());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The bytes of one of the contract's types.
pub(super) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    // Maps with text keys, texts and numbers: there is nothing in them that JSON cannot say.
    serde_json::to_vec(value).expect("the contract's types are JSON")
}
