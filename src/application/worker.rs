//! What processor and resolver share: claim work, do it with bounded concurrency, submit what came
//! of it, and come to an end with nothing half done.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::Command;

use super::engine::EngineHandle;
use super::ports::ChargeRequest;
use super::request::{Action, Outcome, Reply, SubmitError};

/// How long to wait before work that could not be submitted is submitted again.
pub(super) const RESUBMIT_PAUSE: Duration = Duration::from_secs(1);

/// Claims work and has each piece done, `concurrency` at once, until `stop`; then waits for what
/// has begun. The daemon submits [`Action::StopClaims`] after `stop`, so that no claim waits on.
///
/// Two crews share the places: while one takes what it was given, the claim of the other stands with the
/// engine, so that what a batch requests is claimed in that batch and written once.
pub(super) async fn work<F, D>(
    engine: &EngineHandle,
    concurrency: usize,
    stop: &CancellationToken,
    claim_up_to: impl Fn(usize) -> Action,
    each: F,
) where
    F: Fn(ChargeRequest) -> D,
    D: Future<Output = ()> + Send + 'static,
{
    let second = concurrency / 2;
    let crew = |places| work_alone(engine, places, stop, &claim_up_to, &each);
    tokio::join!(crew(concurrency - second), async {
        if second > 0 {
            crew(second).await;
        }
    });
}

async fn work_alone<F, D>(
    engine: &EngineHandle,
    concurrency: usize,
    stop: &CancellationToken,
    claim_up_to: &impl Fn(usize) -> Action,
    each: &F,
) where
    F: Fn(ChargeRequest) -> D,
    D: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(concurrency));
    let running = TaskTracker::new();
    while !stop.is_cancelled() {
        // A first place to wait for, then whatever else is free: nothing is claimed that would
        // have to wait with its lease running.
        let Ok(first) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        let limit = 1 + places.available_permits();
        let mut place = Some(first);
        for request in claim(engine, claim_up_to(limit), stop).await {
            let place = match place.take() {
                Some(place) => Some(place),
                None => Arc::clone(&places).acquire_owned().await.ok(),
            };
            // In a place of its own: the runtime moves a task when it is made, and again when it ends.
            let done = Box::pin(each(request));
            running.spawn(async move {
                done.await;
                drop(place);
            });
        }
    }
    running.close();
    running.wait().await;
}

/// Waits for work of a kind. Comes back with nothing where there is none to be had now.
async fn claim(
    engine: &EngineHandle,
    action: Action,
    stop: &CancellationToken,
) -> Vec<ChargeRequest> {
    match engine.submit_own(action).await {
        Ok(Outcome::Fresh(Ok(Reply::Claimed(claimed)), _)) => claimed,
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::debug!(%error, "no work could be claimed");
            // In a fixed order, so that a simulated run depends on its seed alone.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(RESUBMIT_PAUSE) => {}
            }
            Vec::new()
        }
    }
}

/// Submits what came of a request until it is durable: an answer of the gateway is never dropped
/// because the disk is full for a while.
pub(super) async fn submit(engine: &EngineHandle, request: &ChargeRequest, command: &Command) {
    loop {
        match engine
            .submit_own(Action::OnPayment(
                request.payment,
                Some(request.invoice.id.clone()),
                command.clone(),
            ))
            .await
        {
            Ok(Outcome::Fresh(Err(refusal), _)) => {
                tracing::warn!(
                    invoice = %request.invoice.id, payment = %request.payment, attempt = request.attempt, trace_id = request.trace_id(),
                    epoch = request.send, %refusal, ?command, "an answer of the gateway changes nothing",
                );
                return;
            }
            Ok(_) => return,
            Err(SubmitError::Unwritable(_)) => tokio::time::sleep(RESUBMIT_PAUSE).await,
            Err(error) => {
                // The payment stays SENDING, its lease runs out, and it is looked up.
                tracing::error!(
                    invoice = %request.invoice.id, payment = %request.payment, attempt = request.attempt, trace_id = request.trace_id(),
                    %error, ?command, "an answer of the gateway could not be recorded",
                );
                return;
            }
        }
    }
}
