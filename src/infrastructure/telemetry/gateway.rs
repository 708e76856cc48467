//! A gateway with a stopwatch: each call is measured by what it came to, and is a span of its payment's
//! trace where payd is traced. Then the gateway is sent that span as `traceparent`, in a header; nothing
//! else about a call changes, and least of all its body (invariant 6).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::application::ports::{BoxFuture, ChargeRequest, Gateway, Probe};
use crate::application::{GatewayCall, Metrics, Span, SpanKind, SpanStart, Tracer};
use crate::domain::{Finding, Outcome};

/// See the module.
pub struct MeasuredGateway {
    inner: Arc<dyn Gateway>,
    metrics: Arc<dyn Metrics>,
    tracer: Option<Arc<dyn Tracer>>,
}

impl MeasuredGateway {
    /// Measures the calls to a gateway, and traces them where there is a tracer.
    #[must_use]
    pub fn new(
        inner: Arc<dyn Gateway>,
        metrics: Arc<dyn Metrics>,
        tracer: Option<Arc<dyn Tracer>>,
    ) -> Self {
        Self {
            inner,
            metrics,
            tracer,
        }
    }

    fn begin(&self, call: GatewayCall, request: Option<&ChargeRequest>) -> Running<'_> {
        let span = request.zip(self.tracer.as_ref()).map(|(request, tracer)| {
            let mut span = tracer.start(SpanStart {
                kind: SpanKind::Client,
                name: match call {
                    GatewayCall::Charge => "gateway charge".into(),
                    GatewayCall::Lookup => "gateway lookup".into(),
                    GatewayCall::Probe => "gateway probe".into(),
                },
                parent: request.traceparent.as_deref(),
                at: None,
            });
            span.set("payd.gateway", self.inner.name());
            span.set("payd.invoice.id", request.invoice.id.as_str());
            span.set("payd.payment.id", &request.payment.to_string());
            span.set_number("payd.payment.attempt", i64::from(request.attempt));
            span.set_number("payd.payment.send", i64::from(request.send));
            span
        });
        Running {
            gateway: self,
            call,
            span,
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
            let mut running = self.begin(GatewayCall::Charge, Some(request));
            let sent = running.sent(request);
            let outcome = self.inner.charge(sent.as_deref().unwrap_or(request)).await;
            running.outcome = outcome_label(&outcome);
            outcome
        })
    }

    fn lookup<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Finding> {
        Box::pin(async move {
            let mut running = self.begin(GatewayCall::Lookup, Some(request));
            let sent = running.sent(request);
            let finding = self.inner.lookup(sent.as_deref().unwrap_or(request)).await;
            running.outcome = finding_label(&finding);
            finding
        })
    }

    fn probe(&self) -> BoxFuture<'_, Probe> {
        Box::pin(async move {
            let mut running = self.begin(GatewayCall::Probe, None);
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
    span: Option<Box<dyn Span>>,
    started: Instant,
    outcome: &'static str,
}

impl Running<'_> {
    /// The request as the gateway gets it, where that differs. Few are traced: the others' calls have no room
    /// for it.
    fn sent(&self, request: &ChargeRequest) -> Option<Box<ChargeRequest>> {
        let span = self.span.as_ref()?;
        Some(Box::new(ChargeRequest {
            traceparent: Some(span.traceparent()),
            ..request.clone()
        }))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(span) = &mut self.span {
            span.set("payd.gateway.outcome", self.outcome);
            if let Some(why) = failed(self.outcome) {
                span.fail(why);
            }
        }
        self.gateway.metrics.gateway_called(
            self.gateway.name(),
            self.call,
            self.outcome,
            self.started.elapsed(),
        );
    }
}

/// A decline is an answer; these are none.
fn failed(outcome: &'static str) -> Option<&'static str> {
    [
        "timeout",
        "unknown",
        "not_sent",
        "refused",
        "not_executed",
        "inconclusive",
        "mismatch",
        "key_reused",
    ]
    .into_iter()
    .find(|it| *it == outcome)
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::application::Counters;
    use crate::domain::{
        Amount, Currency, InvoiceId, Money, NewInvoice, StoreId, Timestamp, names,
    };

    /// Keeps what it was asked, and approves.
    #[derive(Default)]
    struct Kept(Mutex<Vec<ChargeRequest>>);

    impl Gateway for Kept {
        fn name(&self) -> &str {
            "kept"
        }

        fn lookup_lag(&self) -> Duration {
            Duration::ZERO
        }

        fn charge<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Outcome> {
            self.0.lock().unwrap().push(request.clone());
            Box::pin(async { Outcome::Approved { reference: None } })
        }

        fn lookup<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Finding> {
            self.0.lock().unwrap().push(request.clone());
            Box::pin(async { Finding::NotFound })
        }

        fn probe(&self) -> BoxFuture<'_, Probe> {
            Box::pin(async { Probe::Usable })
        }
    }

    /// Numbers the spans of whatever trace it is given.
    #[derive(Default)]
    struct Numbering(Mutex<u64>);

    struct Numbered(String);

    impl Tracer for Numbering {
        fn start(&self, start: SpanStart<'_>) -> Box<dyn Span> {
            let mut next = self.0.lock().unwrap();
            *next += 1;
            let trace = start.parent.and_then(|it| it.split('-').nth(1));
            let trace = trace.unwrap_or("00000000000000000000000000000001");
            Box::new(Numbered(format!("00-{trace}-{:016x}-01", *next)))
        }
    }

    impl Span for Numbered {
        fn traceparent(&self) -> String {
            self.0.clone()
        }
        fn rename(&mut self, _name: String) {}
        fn set(&mut self, _key: &'static str, _value: &str) {}
        fn set_number(&mut self, _key: &'static str, _value: i64) {}
        fn fail(&mut self, _why: &'static str) {}
    }

    fn request(traceparent: &str) -> ChargeRequest {
        let invoice = NewInvoice {
            id: InvoiceId::parse("inv-1").unwrap(),
            money: Money {
                amount: Amount::new(100).unwrap(),
                currency: Currency::DEFAULT,
            },
            description: None,
            metadata: std::collections::BTreeMap::new(),
            payment_method: None,
            due_at: None,
        };
        let store = StoreId::from_uuid(uuid::Uuid::from_bytes([1; 16]));
        let (payment, key) = names(store, &invoice.id, 1, invoice.money);
        ChargeRequest {
            invoice: invoice.into(),
            payment,
            attempt: 1,
            key,
            method: None,
            send: 1,
            sent_at: Timestamp::from_millis(0),
            traceparent: Some(traceparent.to_owned()),
        }
    }

    #[tokio::test]
    async fn the_gateway_is_sent_the_span_of_the_call_and_nothing_else_changes() {
        let came = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for traced in [false, true] {
            let kept = Arc::new(Kept::default());
            let tracer = traced.then(|| Arc::new(Numbering::default()) as Arc<dyn Tracer>);
            let inner = Arc::clone(&kept) as Arc<dyn Gateway>;
            let gateway = MeasuredGateway::new(inner, Arc::new(Counters::default()), tracer);
            let request = request(came);
            gateway.charge(&request).await;
            gateway.lookup(&request).await;
            let sent = kept.0.lock().unwrap().clone();
            for (number, mut sent) in (1..).zip(sent) {
                let want = if traced {
                    format!("00-0af7651916cd43dd8448eb211c80319c-{number:016x}-01")
                } else {
                    came.to_owned()
                };
                assert_eq!(sent.traceparent.replace(came.to_owned()), Some(want));
                assert_eq!(sent, request);
            }
        }
    }
}
