//! What the application measures, as an interface of its own: whoever shows the figures implements it.
//!
//! Labels are closed sets or payd's own names, never text from outside: every new value would be a
//! new series for ever. Nothing here may fail, block or hold up a payment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::domain::{EventType, FailureKind, InvoiceId, InvoiceStatus, PaymentId, Timestamp};

use super::gate::Shut;
use super::ports::Tally;

/// How a payment was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decided {
    /// Charged.
    Succeeded,
    /// Definitely not charged.
    Failed(FailureKind),
}

impl Decided {
    /// As labels say it: `succeeded`, or the kind of the failure.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(kind) => kind.as_str(),
        }
    }
}

/// What the gateway was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GatewayCall {
    /// To charge.
    Charge,
    /// What became of a charge.
    Lookup,
    /// Whether it can be used.
    Probe,
}

impl GatewayCall {
    /// As labels say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Lookup => "lookup",
            Self::Probe => "probe",
        }
    }
}

/// A request that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered<'a> {
    /// `GET`, `HEAD`, `POST` or `other`.
    pub method: &'static str,
    /// The route's template, never the path.
    pub route: &'static str,
    /// The status code's three digits.
    pub status: &'a str,
    /// Until the answer began.
    pub took: Duration,
}

/// An event that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended<'a> {
    /// Its type.
    pub kind: EventType,
    /// Its place in the log.
    pub sequence: u64,
    /// The invoice that it is about.
    pub invoice: &'a InvoiceId,
    /// That invoice's status after it.
    pub status: InvoiceStatus,
    /// The payment that it is about, and its number.
    pub payment: Option<(PaymentId, u32)>,
    /// The trace that it belongs to.
    pub traceparent: Option<&'a str>,
    /// Who caused it.
    pub actor: &'a str,
    /// When its commit was over, by the wall clock.
    pub committed_at: SystemTime,
    /// How long that took.
    pub commit_took: Duration,
}

/// The figures, from whoever makes them. What is about state is told after the commit, never before.
pub trait Metrics: Send + Sync {
    /// A payment was decided.
    fn payment_decided(&self, gateway: &str, decided: Decided);

    /// An event was appended.
    fn event_appended(&self, _kind: EventType) {}

    /// An event was appended, and everybody who waited for it has been told: there is time for more.
    fn event_told(&self, _event: &Appended<'_>) {}

    /// A batch was committed: of so many requests, payd's own among them, and how long the commit
    /// with its sync took.
    fn batch_committed(&self, _requests: usize, _took: Duration) {}

    /// A call to the gateway is over: what it came to, in a word of the port's, and how long it took.
    fn gateway_called(
        &self,
        _gateway: &str,
        _call: GatewayCall,
        _outcome: &'static str,
        _took: Duration,
    ) {
    }

    /// A request was answered.
    fn request_answered(&self, _answered: Answered<'_>) {}

    /// All of it, in Prometheus's text format, with how things stand.
    fn exposition(&self, _standing: &Standing) -> String {
        String::new()
    }
}

/// How things stand: what is looked up when it is asked for, not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// payd's time.
    pub now: Timestamp,
    /// When the process started.
    pub started_at: Timestamp,
    /// The gateway's name.
    pub gateway: String,
    /// Why nothing is sent to it; `None` while payments are.
    pub gateway_shut: Option<Shut>,
    /// Whether an operator has paused sending.
    pub paused: bool,
    /// Whether the last commit went through.
    pub writable: bool,
    /// Requests that wait for the engine, and how many may.
    pub queue: (usize, usize),
    /// The newest event's sequence.
    pub head: u64,
    /// Event streams, and how many events the slowest is behind.
    pub streams: (usize, u64),
    /// What the database says; `None` where it cannot be read.
    pub tally: Option<Tally>,
}

/// Counts decisions only: for where nobody looks at the rest.
#[derive(Debug, Default)]
pub struct Counters {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    /// Payments that succeeded, and payments that failed.
    #[must_use]
    pub fn decided(&self) -> (u64, u64) {
        (
            self.succeeded.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }
}

impl Metrics for Counters {
    fn payment_decided(&self, _gateway: &str, decided: Decided) {
        let counter = match decided {
            Decided::Succeeded => &self.succeeded,
            Decided::Failed(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
