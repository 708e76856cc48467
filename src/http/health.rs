//! What machines ask: is it alive, is it ready, what has it counted, what is its API. These take
//! any query, as probes and scrapers add their own; they never wait for the engine.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;

use super::OPENAPI;
use super::call::Call;
use super::problem::Reject;
use super::reply::json_bytes;
use crate::application::{App, Counters, Decided};

/// Prometheus's text format.
/// Source: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> Response {
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
    let mut response = Response::new(Body::from(exposition(call.app())));
    let kind = HeaderValue::from_static(PROMETHEUS_TEXT);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn exposition(app: &App) -> String {
    let up = u8::from(app.engine().closure().is_none());
    // The names of gateways are payd's own: nothing in them needs to be escaped.
    let gateway = &app.overview().gateway;
    let mut text = counted(app.counters());
    text.push_str(&format!(
        "# HELP payd_gateway_up Whether payments are sent to the gateway: 0 while it refuses payd or does not answer.\n\
         # TYPE payd_gateway_up gauge\npayd_gateway_up{{gateway=\"{gateway}\"}} {up}\n"
    ));
    text
}

fn counted(counters: &Counters) -> String {
    let succeeded = counters.decided(Decided::Succeeded);
    let failed = counters.decided(Decided::Failed);
    let rows = [
        (
            "payd_payments_processed_total",
            "Payments decided since payd started, succeeded or failed.",
            succeeded.saturating_add(failed),
        ),
        (
            "payd_payments_succeeded_total",
            "Payments that succeeded since payd started.",
            succeeded,
        ),
        (
            "payd_payments_failed_total",
            "Payments that failed, definitely, since payd started.",
            failed,
        ),
    ];
    rows.map(|(name, help, value)| {
        format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n")
    })
    .concat()
}

/// `GET /openapi.json`.
pub(super) async fn openapi() -> Response {
    json_bytes(OPENAPI.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::Metrics;

    #[test]
    fn what_was_decided_is_counted_by_outcome() {
        let counters = Counters::default();
        for decided in [Decided::Succeeded, Decided::Succeeded, Decided::Failed] {
            counters.payment_decided(decided);
        }
        let text = counted(&counters);
        for line in [
            "# TYPE payd_payments_processed_total counter",
            "payd_payments_processed_total 3",
            "payd_payments_succeeded_total 2",
            "payd_payments_failed_total 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
