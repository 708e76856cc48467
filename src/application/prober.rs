//! The prober: asks a gateway to which nothing is sent whether it can be used again.
//!
//! When to ask is the engine's to say; what came of it becomes an action. It moves no money and is
//! about no payment.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::engine::EngineHandle;
use super::ports::{Gateway, Probe};
use super::request::{Action, Outcome, Reply};
use super::worker::RESUBMIT_PAUSE;

/// See the module.
pub struct Prober {
    /// The engine.
    pub engine: EngineHandle,
    /// The gateway.
    pub gateway: Arc<dyn Gateway>,
    /// How long a probe may take.
    pub timeout: Duration,
    /// No more probes once this is canceled; the daemon then also submits [`Action::StopClaims`].
    pub stop: CancellationToken,
}

impl Prober {
    /// Runs until it is stopped.
    pub async fn run(self) {
        while !self.stop.is_cancelled() {
            match self.engine.submit_own(Action::ClaimProbe).await {
                Ok(Outcome::Fresh(Ok(Reply::Probe), _)) => {
                    let probe = self.probe().await;
                    if let Err(error) = self.engine.submit_own(Action::Probed(probe)).await {
                        tracing::debug!(%error, "what a probe found could not be told; the next one will");
                    }
                }
                Ok(_) => {}
                Err(_) => {
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => {}
                        () = tokio::time::sleep(RESUBMIT_PAUSE) => {}
                    }
                }
            }
        }
    }

    async fn probe(&self) -> Probe {
        let limit = self.timeout;
        match tokio::time::timeout(limit, self.gateway.probe()).await {
            Ok(probe) => probe,
            Err(_) => Probe::Unreachable {
                reason: format!("no answer within {limit:?}"),
            },
        }
    }
}
