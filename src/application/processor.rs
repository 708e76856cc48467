//! The processor: takes due payments, sends each once, and submits what came of it.
//!
//! It holds no truth: what is due is in the tables, what came of it becomes a command. It never
//! sends what the engine has not claimed for it, never sends twice on one claim, and never retries:
//! a retry is an event, and comes back as work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::{Command, Outcome as Sent};

use super::engine::EngineHandle;
use super::ports::{ChargeRequest, Gateway};
use super::request::{Action, Outcome, Reply, SubmitError};

/// How long to wait before work that could not be submitted is submitted again.
const RESUBMIT_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub struct Processor {
    /// The engine.
    pub engine: EngineHandle,
    /// The gateway.
    pub gateway: Arc<dyn Gateway>,
    /// Sends under way at once.
    pub concurrency: usize,
    /// How long a send may take, from the first byte to the last of the answer.
    pub timeout: Duration,
    /// No more claims once this is canceled; the daemon then also submits [`Action::StopClaims`].
    pub stop: CancellationToken,
}

impl Processor {
    /// Runs until it is stopped and every send has come to its end.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(self.concurrency));
        let sends = TaskTracker::new();
        while !self.stop.is_cancelled() {
            // A first place to wait for, then whatever else is free.
            let Ok(first) = Arc::clone(&places).acquire_owned().await else {
                break;
            };
            let limit = 1 + places.available_permits();
            let mut place = Some(first);
            for request in claim(&self.engine, Action::ClaimDue { limit }, &self.stop).await {
                let place = match place.take() {
                    Some(place) => Some(place),
                    None => Arc::clone(&places).acquire_owned().await.ok(),
                };
                let (engine, gateway, timeout) =
                    (self.engine.clone(), Arc::clone(&self.gateway), self.timeout);
                sends.spawn(async move {
                    let outcome = send(gateway.as_ref(), &request, timeout).await;
                    let command = Command::Settle {
                        payment: request.payment,
                        epoch: request.send,
                        outcome,
                    };
                    submit(&engine, &request, command).await;
                    drop(place);
                });
            }
        }
        sends.close();
        sends.wait().await;
    }
}

async fn send(gateway: &dyn Gateway, request: &ChargeRequest, timeout: Duration) -> Sent {
    match tokio::time::timeout(timeout, gateway.charge(request)).await {
        Ok(outcome) => outcome,
        Err(_) => Sent::Unknown {
            reason: format!("no answer within {timeout:?}"),
        },
    }
}

/// Waits for work of a kind. Comes back with nothing where there is none to be had now.
pub(super) async fn claim(
    engine: &EngineHandle,
    action: Action,
    stop: &CancellationToken,
) -> Vec<ChargeRequest> {
    match engine.submit_own(action).await {
        Ok(Outcome::Fresh(Ok(Reply::Claimed(claimed)), _)) => claimed,
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::debug!(%error, "no work could be claimed");
            tokio::select! {
                () = tokio::time::sleep(RESUBMIT_PAUSE) => {}
                () = stop.cancelled() => {}
            }
            Vec::new()
        }
    }
}

/// Submits what came of a request until it is durable: an answer of the gateway is never dropped
/// because the disk is full for a while.
pub(super) async fn submit(engine: &EngineHandle, request: &ChargeRequest, command: Command) {
    loop {
        match engine
            .submit_own(Action::OnPayment(request.payment, command.clone()))
            .await
        {
            Ok(Outcome::Fresh(Err(refusal), _)) => {
                tracing::warn!(
                    invoice = %request.invoice.id, payment = %request.payment, attempt = request.attempt,
                    epoch = request.send, %refusal, ?command, "an answer of the gateway changes nothing",
                );
                return;
            }
            Ok(_) => return,
            Err(SubmitError::Unwritable(_)) => tokio::time::sleep(RESUBMIT_PAUSE).await,
            Err(error) => {
                // The payment stays SENDING, its lease runs out, and it is looked up.
                tracing::error!(
                    invoice = %request.invoice.id, payment = %request.payment, attempt = request.attempt,
                    %error, ?command, "an answer of the gateway could not be recorded",
                );
                return;
            }
        }
    }
}
