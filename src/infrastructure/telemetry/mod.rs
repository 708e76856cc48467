//! What operators look at: figures for Prometheus, and traces over OTLP. (Log lines are in `logging`.)
//!
//! None of it may hold up or fail a payment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::logging::Dropped;

mod events;
mod gateway;
mod metrics;
mod process;

#[cfg(feature = "otlp")]
mod otlp;

pub use events::TracedEvents;
pub use gateway::MeasuredGateway;
pub use metrics::PrometheusMetrics;
#[cfg(feature = "otlp")]
pub use otlp::{Export, Flush, OtlpTracer, TraceOptions};

/// What became of trace spans. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct SpanCounts {
    exported: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

impl SpanCounts {
    /// Spans that the collector took.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that it did not take, or that there was no room for while it was slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What telemetry itself gets rid of, so that it shows.
#[derive(Debug, Clone, Default)]
pub struct Losses {
    /// Lines of the log.
    pub log_lines: Dropped,
    /// Spans of traces.
    pub spans: SpanCounts,
}
