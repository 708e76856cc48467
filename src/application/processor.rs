//! The processor: takes due payments, sends each once, and submits what came of it.
//!
//! It holds no truth: what is due is in the tables, what came of it becomes a command. It never
//! sends what the engine has not claimed for it, never sends twice on one claim, and never retries:
//! a retry is an event, and comes back as work.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::{Command, Outcome as Sent};
use crate::failpoints;

use super::engine::EngineHandle;
use super::ports::{ChargeRequest, Gateway};
use super::request::Action;
use super::worker::{submit, work};

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
        let claim = |places| Action::ClaimDue { places };
        work(
            &self.engine,
            self.concurrency,
            &self.stop,
            claim,
            |request, place| {
                let (engine, gateway) = (self.engine.clone(), Arc::clone(&self.gateway));
                let timeout = self.timeout;
                let request = Box::new(request);
                async move {
                    let outcome = send(gateway.as_ref(), &request, timeout).await;
                    // What is left to do is the engine's: the gateway has room for another.
                    drop(place);
                if let Sent::NotSent { reason }
                | Sent::Refused { reason }
                | Sent::NotExecuted { reason, .. } = &outcome {
                    tracing::warn!(
                        invoice = %request.invoice.id, payment = %request.payment, attempt = request.attempt, trace_id = request.trace_id(),
                        %reason, "the gateway did not take a payment; it will be sent again",
                    );
                }
                    let command = Command::Settle {
                        payment: request.payment,
                        epoch: request.send,
                        outcome,
                    };
                    submit(&engine, &request, &command).await;
                }
            },
        )
        .await;
    }
}

async fn send(gateway: &dyn Gateway, request: &ChargeRequest, timeout: Duration) -> Sent {
    if request.send > 1
        && let Err(failed) = failpoints::reach("resend.before")
    {
        return Sent::NotSent {
            reason: failed.to_string(),
        };
    }
    match tokio::time::timeout(timeout, gateway.charge(request)).await {
        Ok(outcome) => outcome,
        Err(_) => Sent::Unknown {
            reason: format!("no answer within {timeout:?}"),
        },
    }
}
