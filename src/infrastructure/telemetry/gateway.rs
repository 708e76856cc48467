//! A gateway with a stopwatch: each call is measured by what it came to. It changes nothing about it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::application::ports::{BoxFuture, ChargeRequest, Gateway, Probe};
use crate::application::{GatewayCall, Metrics};
use crate::domain::{Finding, Outcome};

/// See the module.
pub struct MeasuredGateway {
    inner: Arc<dyn Gateway>,
    metrics: Arc<dyn Metrics>,
}

impl MeasuredGateway {
    /// Measures the calls to a gateway.
    #[must_use]
    pub fn new(inner: Arc<dyn Gateway>, metrics: Arc<dyn Metrics>) -> Self {
        Self { inner, metrics }
    }

    fn begin(&self, call: GatewayCall) -> Running<'_> {
        Running {
            gateway: self,
            call,
            started: Instant::now(),
            // The caller limits the time: a call that is dropped was not answered within it.
            outcome: "timeout",
        }
    }
}

impl Gateway for MeasuredGateway {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn lookup_lag(&self) -> Duration {
        self.inner.lookup_lag()
    }

    fn charge<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let mut running = self.begin(GatewayCall::Charge);
            let outcome = self.inner.charge(request).await;
            running.outcome = outcome_label(&outcome);
            outcome
        })
    }

    fn lookup<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Finding> {
        Box::pin(async move {
            let mut running = self.begin(GatewayCall::Lookup);
            let finding = self.inner.lookup(request).await;
            running.outcome = finding_label(&finding);
            finding
        })
    }

    fn probe(&self) -> BoxFuture<'_, Probe> {
        Box::pin(async move {
            let mut running = self.begin(GatewayCall::Probe);
            let probe = self.inner.probe().await;
            running.outcome = match probe {
                Probe::Usable => "usable",
                Probe::Refused { .. } => "refused",
                Probe::Unreachable { .. } => "unreachable",
            };
            probe
        })
    }
}

/// A call under way. It is told of when it is dropped, however that comes about.
struct Running<'a> {
    gateway: &'a MeasuredGateway,
    call: GatewayCall,
    started: Instant,
    outcome: &'static str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.gateway.metrics.gateway_called(
            self.gateway.name(),
            self.call,
            self.outcome,
            self.started.elapsed(),
        );
    }
}

const fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Approved { .. } => "approved",
        Outcome::Declined { .. } => "declined",
        Outcome::Accepted { .. } => "accepted",
        Outcome::NotSent { .. } => "not_sent",
        Outcome::Refused { .. } => "refused",
        Outcome::NotExecuted { .. } => "not_executed",
        Outcome::Unknown { .. } => "unknown",
        Outcome::KeyReused { .. } => "key_reused",
    }
}

const fn finding_label(finding: &Finding) -> &'static str {
    match finding {
        Finding::Approved { .. } => "approved",
        Finding::Declined { .. } => "declined",
        Finding::Pending { .. } => "pending",
        Finding::NotFound => "not_found",
        Finding::Mismatch { .. } => "mismatch",
        Finding::Refused { .. } => "refused",
        Finding::Inconclusive { .. } => "inconclusive",
    }
}
