//! What processor and resolver share: claim work, do it with bounded concurrency, submit what came
//! of it, and come to an end with nothing half done.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::Command;

use super::engine::EngineHandle;
use super::ports::ChargeRequest;
use super::request::{Action, Outcome, Reply, SubmitError};

/// How long to wait before work that could not be submitted is submitted again.
pub(super) const RESUBMIT_PAUSE: Duration = Duration::from_secs(1);

/// A place for a piece of work. It is free again when this is dropped.
pub(super) type Place = OwnedSemaphorePermit;

/// The places of a worker. Whoever gives out work looks how many are free then, which may be more than when it was
/// asked for; the worker alone takes them.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Places {
    /// So many.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        self.0.available_permits()
    }

    /// One of them, when there is one. The semaphore is never closed.
    async fn take(&self) -> Option<Place> {
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

/// Claims work and has each piece done, `concurrency` at once, until `stop`; then waits for what
/// has begun. A piece may give its place back before it is done. The daemon submits [`Action::StopClaims`]
/// after `stop`, so that no claim waits on.
///
/// Two crews share the places: while one takes what it was given, the claim of the other stands with the
/// engine, so that what a batch requests is claimed in that batch and written once.
pub(super) async fn work<F, D>(
    engine: &EngineHandle,
    concurrency: usize,
    stop: &CancellationToken,
    claim_up_to: impl Fn(Places) -> Action,
    each: F,
) where
    F: Fn(ChargeRequest, Option<Place>) -> D,
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
    claim_up_to: &impl Fn(Places) -> Action,
    each: &F,
) where
    F: Fn(ChargeRequest, Option<Place>) -> D,
    D: Future<Output = ()> + Send + 'static,
{
    let places = Places::new(concurrency);
    let running = TaskTracker::new();
    while !stop.is_cancelled() {
        // Nothing is claimed that would have to wait with its lease running.
        drop(places.take().await);
        for request in claim(engine, claim_up_to(places.clone()), stop).await {
            let place = places.take().await;
            // In a place of its own: the runtime moves a task when it is made, and again when it ends.
            running.spawn(Box::pin(each(request, place)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_that_comes_back_counts_for_a_claim_that_stands() {
        let places = Places::new(2);
        let taken = places.take().await;
        let action = Action::ClaimDue {
            places: places.clone(),
        };
        let free = || match &action {
            Action::ClaimDue { places } => places.free(),
            _ => 0,
        };
        assert_eq!(free(), 1);
        drop(taken);
        assert_eq!(free(), 2);
    }
}
