//! What the application counts, as an interface of its own: whoever shows the figures implements it.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a payment was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decided {
    /// Charged.
    Succeeded,
    /// Definitely not charged.
    Failed,
}

/// The figures that the domain names. Called after the commit, never before.
pub trait Metrics: Send + Sync {
    /// A payment was decided.
    fn payment_decided(&self, decided: Decided);
}

/// Counts since the process started.
#[derive(Debug, Default)]
pub struct Counters {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    /// Payments decided so.
    #[must_use]
    pub fn decided(&self, decided: Decided) -> u64 {
        match decided {
            Decided::Succeeded => self.succeeded.load(Ordering::Relaxed),
            Decided::Failed => self.failed.load(Ordering::Relaxed),
        }
    }
}

impl Metrics for Counters {
    fn payment_decided(&self, decided: Decided) {
        let counter = match decided {
            Decided::Succeeded => &self.succeeded,
            Decided::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
