//! What machines ask: is it alive, is it ready, what has it counted, what is its API. These take
//! any query, as probes and scrapers add their own; they never wait for the engine.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;

use super::OPENAPI;
use super::call::Call;
use super::problem::Reject;
use super::reply::json_bytes;

/// Prometheus's text format.
/// Source: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /healthz`: the process answers.
pub(super) async fn healthz(_: Call) -> Response {
    json_bytes(br#"{"status":"ok"}"#.to_vec())
}

/// `GET /readyz`: it takes writes.
pub(super) async fn readyz(call: Call) -> Result<Response, Reject> {
    if call.shared.shutdown.is_cancelled() {
        return Err(Reject::unavailable(
            "payd is shutting down: send no more requests to it.",
        ));
    }
    if !call.app().engine().is_writable() {
        return Err(Reject::unavailable(
            "payd's database cannot be written: see that its disk has room and is writable.",
        ));
    }
    Ok(json_bytes(br#"{"status":"ok"}"#.to_vec()))
}

/// `GET /metrics`.
pub(super) async fn metrics(call: Call) -> Response {
    let mut response = Response::new(Body::from(call.app().exposition().await));
    let kind = HeaderValue::from_static(PROMETHEUS_TEXT);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// `GET /openapi.json`.
pub(super) async fn openapi(_: Call) -> Response {
    json_bytes(OPENAPI.as_bytes())
}
