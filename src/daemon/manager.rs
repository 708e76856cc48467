//! What the service manager is told while payd runs: that it is alive, for as long as it really
//! commits, and how it is.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::application::request::{Action, SubmitError};
use crate::application::{App, EngineHandle};
use crate::domain::PaymentState;
use crate::infrastructure::systemd;

/// How often the line for `systemctl status` is renewed.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Feeds the watchdog, where there is one, until stopped. While payd drains nobody feeds it: systemd
/// does not watch a service that has said that it stops.
pub(super) async fn feed_watchdog(engine: EngineHandle, stop: CancellationToken) {
    let Some(limit) = systemd::watchdog() else {
        return;
    };
    // Half of the limit, as sd_watchdog_enabled(3) advises.
    let interval = limit / 2;
    loop {
        let next = tokio::time::Instant::now() + interval;
        if is_alive(&engine, interval).await {
            systemd::alive();
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Whether a commit of nothing goes through in time. One that is refused for lack of room does: payd
/// can do nothing about that by starting again.
async fn is_alive(engine: &EngineHandle, within: Duration) -> bool {
    let beat = engine.submit_own(Action::Beat);
    match tokio::time::timeout(within, beat).await {
        Ok(Ok(_) | Err(SubmitError::Unwritable(_))) => true,
        Ok(Err(error)) => {
            tracing::error!(%error, "the engine did not commit; the watchdog is not fed");
            false
        }
        Err(_) => {
            tracing::error!(
                ?within,
                "the engine did not commit in time; the watchdog is not fed"
            );
            false
        }
    }
}

/// Keeps the line for `systemctl status` true, until stopped.
pub(super) async fn keep_status(app: Arc<App>, stop: CancellationToken) {
    if !systemd::listens() {
        return;
    }
    let mut said = String::new();
    loop {
        let line = status(&app).await;
        if line != said {
            systemd::status(&line);
            said = line;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(STATUS_INTERVAL) => {}
        }
    }
}

/// One line: whether payments flow, and what waits for whom.
async fn status(app: &App) -> String {
    let engine = app.engine();
    let gateway = &app.overview().gateway;
    let flow = if !engine.is_writable() {
        "the database cannot be written; requests are refused".to_owned()
    } else if engine.is_paused() {
        "paused by an operator; nothing is sent".to_owned()
    } else if let Some(closure) = engine.closure() {
        format!(
            "gateway {gateway} is {}; nothing is sent",
            closure.why.as_str()
        )
    } else {
        format!("gateway {gateway}")
    };
    let now = app.now();
    let Ok(tally) = app.read(move |reader| reader.tally(now)).await else {
        return format!("{flow}; the database cannot be read");
    };
    let count = |wanted| {
        let states = tally.open_payments.iter();
        states
            .filter(|(state, _)| *state == wanted)
            .map(|(_, count)| *count)
            .sum::<u64>()
    };
    let open: u64 = tally.open_payments.iter().map(|(_, count)| *count).sum();
    format!(
        "{flow}; {open} payments open, {} unknown, {} in review; {} invoices need attention",
        count(PaymentState::Unknown),
        count(PaymentState::Review),
        tally.needs_attention,
    )
}
