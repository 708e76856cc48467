//! `GET /admin/doctor`: what payd finds about itself, and what to do about it.

use axum::response::Response;
use serde::Serialize;

use super::call::Call;
use super::problem::Reject;
use super::reply::json;
use crate::application::Check;

#[derive(Debug, Serialize)]
struct Examination {
    version: &'static str,
    checks: Vec<Told>,
}

#[derive(Debug, Serialize)]
struct Told {
    name: &'static str,
    verdict: &'static str,
    detail: String,
    advice: Option<String>,
}

/// `GET /admin/doctor`.
pub(super) async fn examine(call: Call) -> Result<Response, Reject> {
    call.no_query()?;
    let told = |check: Check| Told {
        name: check.name,
        verdict: check.verdict.as_str(),
        detail: check.detail,
        advice: check.advice,
    };
    Ok(json(&Examination {
        version: env!("CARGO_PKG_VERSION"),
        checks: call.app().examine().await.into_iter().map(told).collect(),
    }))
}
