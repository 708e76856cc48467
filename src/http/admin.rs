//! `/admin`: how payd is, and stop or go on sending. It shows figures and paths, no business data.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::Response;
use serde::Serialize;

use super::call::Call;
use super::headers::Media;
use super::idempotency::{self, refused, submit, written};
use super::parse;
use super::problem::{Reject, both};
use super::reply::json;
use crate::application::ports::{Reader, Tally};
use crate::application::request::Action;
use crate::application::{Closure, Shut};
use crate::domain::PaymentState;

/// How payd is.
#[derive(Debug, Clone, Serialize)]
struct Status {
    version: &'static str,
    store_id: String,
    started_at: String,
    uptime_seconds: u64,
    ready: bool,
    paused: bool,
    gateway: String,
    gateway_health: GatewayHealth,
    payments: Payments,
    needs_attention: u64,
    queue: Queue,
    events: Events,
    listeners: Vec<String>,
    data_dir: String,
    store: Store,
    restored: Option<Restored>,
}

/// What the database takes, and what is left for it.
#[derive(Debug, Clone, Serialize)]
struct Store {
    database_bytes: u64,
    wal_bytes: u64,
    free_bytes: u64,
}

/// Where the store came from a backup: when it was restored, and the events that were in it.
#[derive(Debug, Clone, Serialize)]
struct Restored {
    at: String,
    events: u64,
}

/// Open payments, by state; `due` are those of REQUESTED whose time has come.
#[derive(Debug, Clone, Serialize)]
struct Payments {
    due: u64,
    requested: u64,
    sending: u64,
    accepted: u64,
    unknown: u64,
    review: u64,
    oldest_unknown_at: Option<String>,
}

impl Payments {
    fn of(tally: &Tally) -> Self {
        let open: BTreeMap<_, _> = tally
            .open_payments
            .iter()
            .map(|(state, count)| (state.as_str(), *count))
            .collect();
        let count = |state: PaymentState| open.get(state.as_str()).copied().unwrap_or(0);
        Self {
            due: tally.due,
            requested: count(PaymentState::Requested),
            sending: count(PaymentState::Sending),
            accepted: count(PaymentState::Accepted),
            unknown: count(PaymentState::Unknown),
            review: count(PaymentState::Review),
            oldest_unknown_at: tally.unknown_since.map(|at| at.to_string()),
        }
    }
}

/// Whether payments can be sent: `ok`, or `refused` (401, 403) or `unreachable` with why and since
/// when.
#[derive(Debug, Clone, Serialize)]
struct GatewayHealth {
    state: &'static str,
    reason: Option<String>,
    since: Option<String>,
}

impl GatewayHealth {
    fn of(closure: Option<Closure>) -> Self {
        match closure {
            None => Self {
                state: "ok",
                reason: None,
                since: None,
            },
            Some(closure) => Self {
                state: closure.why.as_str(),
                reason: Some(closure.reason),
                since: Some(closure.since.to_string()),
            },
        }
    }
}

/// Requests that wait for the engine.
#[derive(Debug, Clone, Serialize)]
struct Queue {
    depth: usize,
    capacity: usize,
}

/// The log.
#[derive(Debug, Clone, Serialize)]
struct Events {
    head: u64,
}

async fn gather(call: &Call) -> Result<Status, Reject> {
    let app = call.app();
    let now = app.now();
    let read = move |reader: &dyn Reader| Ok((reader.tally(now)?, reader.upkeep().measure()?));
    let (tally, measures) = call.read(read).await?;
    let overview = app.overview();
    let (depth, capacity) = app.engine().queue();
    let head = *app.bus().head().borrow();
    let closure = app.engine().closure();
    let refused = closure.as_ref().is_some_and(|it| it.why == Shut::Refused);
    Ok(Status {
        version: env!("CARGO_PKG_VERSION"),
        store_id: overview.store.to_string(),
        started_at: overview.started_at.to_string(),
        uptime_seconds: now.since(overview.started_at).as_secs(),
        ready: app.engine().is_writable() && !call.shared.shutdown.is_cancelled(),
        paused: app.engine().is_paused() || refused,
        gateway: overview.gateway.clone(),
        gateway_health: GatewayHealth::of(closure),
        payments: Payments::of(&tally),
        needs_attention: tally.needs_attention,
        queue: Queue { depth, capacity },
        events: Events { head },
        listeners: overview.listeners.clone(),
        data_dir: overview.data_dir.clone(),
        store: Store {
            database_bytes: measures.database_bytes,
            wal_bytes: measures.wal_bytes,
            free_bytes: measures.free_bytes,
        },
        restored: overview.restored.as_ref().map(|it| Restored {
            at: it.at.to_string(),
            events: it.sequence,
        }),
    })
}

/// `GET /admin/status`.
pub(super) async fn status(call: Call) -> Result<Response, Reject> {
    call.no_query()?;
    Ok(json(&gather(&call).await?))
}

/// `POST /admin/pause`: nothing is sent any more; what is on its way is still answered.
pub(super) async fn pause(call: Call) -> Result<Response, Reject> {
    set_paused(call, true).await
}

/// `POST /admin/resume`.
pub(super) async fn resume(call: Call) -> Result<Response, Reject> {
    set_paused(call, false).await
}

async fn set_paused(mut call: Call, paused: bool) -> Result<Response, Reject> {
    let read = call.body(&[Media::Json]).await?;
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    let (((), key), ()) = both(said, parse::nothing(&read.bytes))?;
    // Gathered before: an answer that is kept is part of the commit, where nothing can be read.
    let mut status = gather(&call).await?;
    status.paused = paused;
    if !paused {
        // To resume is to say that the gateway can be used; what it says to the next payment decides.
        status.gateway_health = GatewayHealth::of(None);
    }
    let (status, action) = (Arc::new(status), Action::Pause(paused));
    let given = submit(
        &call,
        (key, read.media, &read.bytes),
        action,
        move |result| match result {
            Ok(_) => written(200, None, status.as_ref()),
            Err(refusal) => refused(*refusal),
        },
    );
    let given = given.await?;
    if given.answer.status == 200 && !given.replayed {
        tracing::info!(actor = %call.caller.actor, paused, "sending was paused or resumed");
    }
    Ok(given.into_response(Media::Json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_payments_are_counted_by_state_and_none_is_zero() {
        let payments = Payments::of(&Tally {
            open_payments: vec![(PaymentState::Unknown, 2), (PaymentState::Requested, 3)],
            due: 1,
            ..Tally::default()
        });
        assert_eq!(
            serde_json::to_string(&payments).unwrap(),
            r#"{"due":1,"requested":3,"sending":0,"accepted":0,"unknown":2,"review":0,"oldest_unknown_at":null}"#
        );
    }
}
