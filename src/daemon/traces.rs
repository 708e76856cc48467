//! Traces, where the settings name a collector and this payd was built with the feature `otlp`.

use std::sync::Arc;

use crate::application::Tracer;
use crate::config::Telemetry;
use crate::infrastructure::telemetry::SpanCounts;
#[cfg(feature = "otlp")]
use crate::infrastructure::telemetry::{Export, Flush, OtlpTracer, TraceOptions};

/// How long the last spans may take to the collector once payd has stopped.
#[cfg(feature = "otlp")]
const FLUSH_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// A tracer, and what sends its spans.
#[derive(Default)]
pub(super) struct Traces {
    pub(super) tracer: Option<Arc<dyn Tracer>>,
    #[cfg(feature = "otlp")]
    export: Option<Export>,
    #[cfg(feature = "otlp")]
    flush: Option<Flush>,
}

impl Traces {
    #[cfg(feature = "otlp")]
    pub(super) fn prepare(
        settings: &Telemetry,
        instance: &str,
        counts: SpanCounts,
    ) -> Result<Self, String> {
        let Some(endpoint) = &settings.otlp_endpoint else {
            return Ok(Self::default());
        };
        let options = TraceOptions {
            endpoint: endpoint.as_str(),
            service: settings.service_name.as_str(),
            instance,
            sampled_ppm: settings.sample_ratio.per_million(),
        };
        let (tracer, export, flush) = OtlpTracer::start(options, counts)?;
        Ok(Self {
            tracer: Some(Arc::new(tracer)),
            export: Some(export),
            flush: Some(flush),
        })
    }

    #[cfg(not(feature = "otlp"))]
    #[expect(clippy::unnecessary_wraps)]
    pub(super) fn prepare(
        settings: &Telemetry,
        _instance: &str,
        _counts: SpanCounts,
    ) -> Result<Self, String> {
        if settings.otlp_endpoint.is_some() {
            tracing::warn!(
                "telemetry.otlp_endpoint is set, and this payd was built without the feature otlp: nothing is traced"
            );
        }
        Ok(Self::default())
    }

    /// Begins to send spans, on the runtime that this is called on.
    #[cfg_attr(not(feature = "otlp"), expect(clippy::unused_self))]
    pub(super) fn run(&mut self) {
        #[cfg(feature = "otlp")]
        if let Some(export) = self.export.take() {
            tokio::spawn(export.run());
        }
    }

    /// Sends what has not been sent yet, within a moment.
    pub(super) async fn flush(&self) {
        #[cfg(feature = "otlp")]
        if let Some(flush) = &self.flush {
            flush.within(FLUSH_MAX).await;
        }
    }
}
