//! What the application tells of its course, so that one trace leads from a request over its event to
//! the gateway and the outcome: as an interface of its own, like the metrics.
//!
//! The way is not one call but several, with a commit and perhaps a restart between them. So the context
//! is not in any thread: it is the `traceparent` that is stored with the payment and in its events.
//! Nothing here may fail, block or hold up a payment.

use std::borrow::Cow;
use std::time::SystemTime;

/// A span's place between the parts of a system.
/// Source: <https://opentelemetry.io/docs/specs/otel/trace/api/#spankind>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// It answers a request from outside.
    Server,
    /// It is a request to outside.
    Client,
    /// Neither.
    Internal,
}

/// A span that begins.
#[derive(Debug, Clone)]
pub struct SpanStart<'a> {
    /// Its place.
    pub kind: SpanKind,
    /// What is done, without any id.
    pub name: Cow<'static, str>,
    /// The `traceparent` of what caused it. `None`: a trace begins.
    pub parent: Option<&'a str>,
    /// When it began, where not now.
    pub at: Option<SystemTime>,
}

/// Makes spans.
pub trait Tracer: Send + Sync {
    /// Begins a span. It ends when it is dropped.
    fn start(&self, start: SpanStart<'_>) -> Box<dyn Span>;
}

/// A span under way.
pub trait Span: Send + Sync {
    /// What it causes has this as `traceparent` (W3C Trace Context), whether it is sampled or not.
    fn traceparent(&self) -> String;

    /// Its name, where it is only known now.
    fn rename(&mut self, name: String);

    /// An attribute.
    fn set(&mut self, key: &'static str, value: &str);

    /// An attribute that is a number.
    fn set_number(&mut self, key: &'static str, value: i64);

    /// It failed. Why goes out to the collector: no secret, and nothing from outside.
    fn fail(&mut self, why: &'static str);
}
