//! Spans of what was committed: each event is one, beneath the request that caused it.

use std::sync::Arc;
use std::time::Duration;

use crate::application::{
    Answered, Appended, Decided, GatewayCall, Metrics, SpanKind, SpanStart, Standing, Tracer,
};
use crate::domain::EventType;

/// Metrics that also tell a tracer of each event.
pub struct TracedEvents {
    metrics: Arc<dyn Metrics>,
    tracer: Arc<dyn Tracer>,
}

impl TracedEvents {
    /// Passes on all that is told, to both.
    #[must_use]
    pub fn new(metrics: Arc<dyn Metrics>, tracer: Arc<dyn Tracer>) -> Self {
        Self { metrics, tracer }
    }
}

impl Metrics for TracedEvents {
    fn payment_decided(&self, gateway: &str, decided: Decided) {
        self.metrics.payment_decided(gateway, decided);
    }

    fn event_appended(&self, kind: EventType) {
        self.metrics.event_appended(kind);
    }

    fn event_told(&self, event: &Appended<'_>) {
        self.metrics.event_told(event);
        let mut span = self.tracer.start(SpanStart {
            kind: SpanKind::Internal,
            name: event.kind.as_str().into(),
            parent: event.traceparent,
            at: event.committed_at.checked_sub(event.commit_took),
        });
        span.set("payd.invoice.id", event.invoice.as_str());
        span.set("payd.invoice.status", event.status.as_str());
        if let Some((payment, attempt)) = event.payment {
            span.set("payd.payment.id", &payment.to_string());
            span.set_number("payd.payment.attempt", i64::from(attempt));
        }
        let sequence = i64::try_from(event.sequence).unwrap_or(i64::MAX);
        span.set_number("payd.event.sequence", sequence);
        span.set("payd.actor", event.actor);
    }

    fn batch_committed(&self, requests: usize, took: Duration) {
        self.metrics.batch_committed(requests, took);
    }

    fn gateway_called(
        &self,
        gateway: &str,
        call: GatewayCall,
        outcome: &'static str,
        took: Duration,
    ) {
        self.metrics.gateway_called(gateway, call, outcome, took);
    }

    fn request_answered(&self, answered: Answered<'_>) {
        self.metrics.request_answered(answered);
    }

    fn exposition(&self, standing: &Standing) -> String {
        self.metrics.exposition(standing)
    }
}
