//! The resolver: asks the gateway what became of payments whose outcome is open.
//!
//! It guesses nothing: what it does not learn stays open, and is asked again. When it asks is in
//! the tables; a lookup that is lost is followed by the next.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::{Command, Finding};

use super::engine::EngineHandle;
use super::ports::{ChargeRequest, Clock, Gateway};
use super::request::Action;
use super::worker::{submit, work};

/// See the module.
pub struct Resolver {
    /// The engine.
    pub engine: EngineHandle,
    /// The gateway.
    pub gateway: Arc<dyn Gateway>,
    /// payd's time.
    pub clock: Arc<dyn Clock>,
    /// Lookups under way at once.
    pub concurrency: usize,
    /// How long a lookup may take.
    pub timeout: Duration,
    /// No more lookups once this is canceled; the daemon then also submits [`Action::StopClaims`].
    pub stop: CancellationToken,
}

impl Resolver {
    /// Runs until it is stopped and every lookup has come to its end.
    pub async fn run(self) {
        let claim = |places| Action::ClaimLookups { places };
        work(&self.engine, self.concurrency, &self.stop, claim, |request, place| {
            let (engine, gateway) = (self.engine.clone(), Arc::clone(&self.gateway));
            let (clock, timeout) = (Arc::clone(&self.clock), self.timeout);
            async move {
                let asked_at = clock.now();
                let finding = ask(gateway.as_ref(), &request, timeout).await;
                if let Finding::Inconclusive { reason, .. } | Finding::Refused { reason } = &finding {
                    tracing::warn!(
                        invoice = %request.invoice.id, payment = %request.payment, attempt = request.attempt, trace_id = request.trace_id(),
                        %reason, "a lookup told nothing; it will be repeated",
                    );
                }
                let command = Command::Found {
                    payment: request.payment,
                    epoch: request.send,
                    asked_at,
                    finding,
                };
                submit(&engine, &request, &command).await;
                drop(place);
            }
        })
        .await;
    }
}

async fn ask(gateway: &dyn Gateway, request: &ChargeRequest, timeout: Duration) -> Finding {
    match tokio::time::timeout(timeout, gateway.lookup(request)).await {
        Ok(finding) => finding,
        Err(_) => Finding::Inconclusive {
            reason: format!("no answer within {timeout:?}"),
            retry_after: None,
        },
    }
}
