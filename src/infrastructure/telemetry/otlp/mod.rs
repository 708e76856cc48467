//! Traces over OTLP/HTTP: OpenTelemetry's SDK makes spans, decides which are sampled and encodes them; the
//! queue and the transport are payd's own.
//!
//! The SDK's own batch processor does not say how many spans it drops, and its HTTP clients bring a second
//! HTTP stack along.

mod export;
mod transport;

use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind as OtelKind, Status, TraceContextExt, TraceFlags,
    TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan, SpanExporter as _,
};

use super::SpanCounts;
use crate::application::{Span, SpanKind, SpanStart, Tracer};

pub use export::{Export, Flush};

/// How long one export may take.
const EXPORT_MAX: Duration = Duration::from_secs(10);

/// Where spans go, and which.
#[derive(Debug, Clone, Copy)]
pub struct TraceOptions<'a> {
    /// The collector's base URL; `/v1/traces` is appended.
    pub endpoint: &'a str,
    /// What the spans are of.
    pub service: &'a str,
    /// Which of several.
    pub instance: &'a str,
    /// How many of the traces that begin here are sampled, of a million. Those that begin elsewhere are
    /// where the caller says so.
    pub sampled_ppm: u32,
}

/// See the module.
pub struct OtlpTracer {
    tracer: SdkTracer,
    // The tracer only refers to it.
    _provider: SdkTracerProvider,
}

impl OtlpTracer {
    /// A tracer, what sends its spans (to be run) and what has them all sent.
    ///
    /// # Errors
    /// Where the endpoint or what the environment says of OTLP will not do.
    pub fn start(
        options: TraceOptions<'_>,
        counts: SpanCounts,
    ) -> Result<(Self, Export, Flush), String> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(transport::Http::new(EXPORT_MAX))
            .with_endpoint(format!("{}/v1/traces", options.endpoint))
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder()
            .with_service_name(options.service.to_owned())
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", options.instance.to_owned()),
            ])
            .build();
        exporter.set_resource(&resource);
        let (processor, export, flush) = export::queue(exporter, counts);
        #[expect(clippy::float_arithmetic)] // a probability, not money
        let ratio = f64::from(options.sampled_ppm) / 1_000_000.0;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                ratio,
            ))))
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("payd");
        let tracer = Self {
            tracer,
            _provider: provider,
        };
        Ok((tracer, export, flush))
    }
}

impl Tracer for OtlpTracer {
    fn start(&self, start: SpanStart<'_>) -> Box<dyn Span> {
        let mut builder = self
            .tracer
            .span_builder(start.name)
            .with_kind(match start.kind {
                SpanKind::Server => OtelKind::Server,
                SpanKind::Client => OtelKind::Client,
                SpanKind::Internal => OtelKind::Internal,
            });
        if let Some(at) = start.at {
            builder = builder.with_start_time(at);
        }
        let parent = match start.parent.and_then(remote) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        Box::new(OtlpSpan(self.tracer.build_with_context(builder, &parent)))
    }
}

/// Reads a `traceparent` of version 00. Those that come in have been checked; this takes no more.
fn remote(traceparent: &str) -> Option<SpanContext> {
    let mut fields = traceparent.split('-');
    let (version, trace, span, flags) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    if version != "00" || fields.next().is_some() {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

struct OtlpSpan(SdkSpan);

impl Span for OtlpSpan {
    fn traceparent(&self) -> String {
        let context = self.0.span_context();
        let flags = u8::from(context.is_sampled());
        format!(
            "00-{}-{}-{flags:02x}",
            context.trace_id(),
            context.span_id()
        )
    }

    fn rename(&mut self, name: String) {
        self.0.update_name(name);
    }

    fn set(&mut self, key: &'static str, value: &str) {
        if self.0.is_recording() {
            self.0.set_attribute(KeyValue::new(key, value.to_owned()));
        }
    }

    fn set_number(&mut self, key: &'static str, value: i64) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    fn fail(&mut self, why: &'static str) {
        self.0.set_status(Status::error(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sampled_ppm: u32) -> (OtlpTracer, Export) {
        let options = TraceOptions {
            endpoint: "http://127.0.0.1:4318",
            service: "payd",
            instance: "test",
            sampled_ppm,
        };
        let (tracer, export, _) = OtlpTracer::start(options, SpanCounts::default()).unwrap();
        (tracer, export)
    }

    fn begin(tracer: &OtlpTracer, parent: Option<&str>) -> String {
        let start = SpanStart {
            kind: SpanKind::Internal,
            name: "x".into(),
            parent,
            at: None,
        };
        tracer.start(start).traceparent()
    }

    #[test]
    fn a_trace_goes_on_and_the_caller_says_whether_it_is_sampled() {
        for (ppm, flags) in [(0, "00"), (1_000_000, "01")] {
            let (tracer, _export) = tracer(ppm);
            let fresh = begin(&tracer, None);
            assert!(remote(&fresh).is_some(), "{fresh}");
            assert!(fresh.ends_with(flags), "{fresh}");
            for flags in ["00", "01"] {
                let parent =
                    format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
                let child = begin(&tracer, Some(&parent));
                let fields: Vec<_> = child.split('-').collect();
                assert_eq!(fields[1], "0af7651916cd43dd8448eb211c80319c");
                assert_ne!(fields[2], "b7ad6b7169203331");
                assert_eq!(fields[3], flags);
            }
            let broken = begin(&tracer, Some("00-zz-b7ad6b7169203331-01"));
            assert!(remote(&broken).is_some(), "{broken}");
        }
    }
}
