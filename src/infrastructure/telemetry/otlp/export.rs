//! Spans on their way to the collector: a bounded queue, batches, and a count of what did not get there.
//! Whoever ends a span never waits.

use std::sync::atomic::Ordering;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::super::SpanCounts;

/// Spans that may wait: the SDK's own default. A span is about a kilobyte.
const WAITING_MAX: usize = 2048;

/// Spans in one request: the SDK's own default.
const BATCH_MAX: usize = 512;

/// How long the first of a batch waits for others.
const FILL: Duration = Duration::from_secs(1);

/// Between two lines about a collector that takes nothing.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

enum Item {
    Span(Box<SpanData>),
    /// Says so when all before it has been sent, or is lost.
    Flush(oneshot::Sender<()>),
}

/// Makes the queue's two ends, and what empties it.
pub(super) fn queue(exporter: SpanExporter, counts: SpanCounts) -> (Processor, Export, Flush) {
    let (sender, items) = mpsc::channel(WAITING_MAX);
    let processor = Processor {
        queue: sender.clone(),
        counts: counts.clone(),
    };
    let export = Export {
        items,
        exporter,
        counts,
        complained_at: None,
    };
    (processor, export, Flush(sender))
}

/// Takes ended spans in.
#[derive(Debug)]
pub(super) struct Processor {
    queue: mpsc::Sender<Item>,
    counts: SpanCounts,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Span(_) => "Span",
            Self::Flush(_) => "Flush",
        })
    }
}

impl SpanProcessor for Processor {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.queue.try_send(Item::Span(Box::new(span))).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _limit: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Has everything sent that was ended so far.
pub struct Flush(mpsc::Sender<Item>);

impl Flush {
    /// Waits for that, `limit` at most.
    pub async fn within(&self, limit: Duration) {
        let flushed = async {
            let (done, wait) = oneshot::channel();
            if self.0.send(Item::Flush(done)).await.is_ok() {
                let _ = wait.await;
            }
        };
        // What is not sent by then is lost, as spans may be.
        let _ = tokio::time::timeout(limit, flushed).await;
    }
}

/// Sends batches to the collector.
pub struct Export {
    items: mpsc::Receiver<Item>,
    exporter: SpanExporter,
    counts: SpanCounts,
    complained_at: Option<Instant>,
}

impl Export {
    /// Until nobody can end a span any more.
    pub async fn run(mut self) {
        while let Some(first) = self.items.recv().await {
            let (mut spans, mut flushes) = (Vec::new(), Vec::new());
            let mut take = |item| match item {
                Item::Span(span) => spans.push(*span),
                Item::Flush(done) => flushes.push(done),
            };
            let mut hurry = matches!(first, Item::Flush(_));
            take(first);
            let full_at = Instant::now() + FILL;
            for _ in 1..BATCH_MAX {
                if hurry {
                    break;
                }
                match tokio::time::timeout_at(full_at, self.items.recv()).await {
                    Ok(Some(item)) => {
                        hurry = matches!(item, Item::Flush(_));
                        take(item);
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            if !spans.is_empty() {
                self.send(spans).await;
            }
            for done in flushes {
                let _ = done.send(());
            }
        }
    }

    async fn send(&mut self, spans: Vec<SpanData>) {
        let count = spans.len() as u64;
        match self.exporter.export(spans).await {
            Ok(()) => {
                self.counts.exported.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) => {
                self.counts.dropped.fetch_add(count, Ordering::Relaxed);
                let quiet = self
                    .complained_at
                    .is_some_and(|at| at.elapsed() < COMPLAINT_PAUSE);
                if !quiet {
                    self.complained_at = Some(Instant::now());
                    tracing::warn!(%error, spans = count, "the collector did not take trace spans; they are lost, and payments are not held up");
                }
            }
        }
    }
}
