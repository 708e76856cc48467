//! The figures for Prometheus, in its text format, by its conventions: base units, `_total` for
//! counters, no label whose values anybody outside could choose.
//!
//! Source: <https://prometheus.io/docs/practices/naming/>. `promtool check metrics` finds nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::Losses;
use super::process::Process;
use crate::application::{Answered, Decided, GatewayCall, Metrics, Shut, Standing};
use crate::domain::EventType;

/// Seconds. From a sync that costs nothing to a disk that is in trouble.
const COMMIT_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// Requests in a commit: powers of two, up to what the engine takes at once.
const BATCH_REQUESTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Seconds. A gateway answers in tens of milliseconds, or in tens of seconds.
const GATEWAY_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Seconds. From a read out of memory to the longest `Prefer: wait`.
const HTTP_SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

/// See the module.
pub struct PrometheusMetrics {
    registry: Registry,
    /// What the database says: left out where it says nothing, for an old figure would deceive.
    stored: Registry,
    processed: IntCounter,
    succeeded: IntCounter,
    failed: IntCounter,
    decided: IntCounterVec,
    /// By the event's place in [`EventType::ALL`]: the engine does not look names up.
    events: Vec<IntCounter>,
    commit_seconds: Histogram,
    batch_requests: Histogram,
    gateway_seconds: HistogramVec,
    http_seconds: HistogramVec,
    gauges: Mutex<Gauges>,
    losses: Losses,
}

/// What is set when it is asked for, by one who asks at a time.
struct Gauges {
    open: IntGaugeVec,
    unknown_age: Gauge,
    due: IntGauge,
    due_age: Gauge,
    needs_attention: IntGauge,
    database_bytes: IntGauge,
    wal_bytes: IntGauge,
    queue: IntGauge,
    queue_max: IntGauge,
    head: IntGauge,
    streams: IntGauge,
    lag: IntGauge,
    gateway_up: IntGaugeVec,
    gateway_shut: IntGaugeVec,
    paused: IntGauge,
    writable: IntGauge,
    started_at: Gauge,
    resident_bytes: IntGauge,
    open_files: IntGauge,
    open_files_max: IntGauge,
    cpu_seconds: prometheus::Counter,
    log_lines_dropped: IntCounter,
    spans_exported: IntCounter,
    spans_dropped: IntCounter,
}

impl PrometheusMetrics {
    /// All at zero.
    ///
    /// # Errors
    /// Where two have one name, or a name is none: a mistake in payd.
    pub fn new(losses: Losses) -> prometheus::Result<Self> {
        let (registry, stored) = (Registry::new(), Registry::new());
        let add = Adder(&registry);
        let build = add.gauges("payd_build_info", "Which payd this is.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let by_type = add.counters(
            "payd_events_total",
            "Events appended to the log since payd started, by type.",
            &["type"],
        )?;
        Ok(Self {
            processed: add.counter(
                "payd_payments_processed_total",
                "Payments decided since payd started, succeeded or failed.",
            )?,
            succeeded: add.counter(
                "payd_payments_succeeded_total",
                "Payments that succeeded since payd started.",
            )?,
            failed: add.counter(
                "payd_payments_failed_total",
                "Payments that failed, definitely, since payd started.",
            )?,
            decided: add.counters(
                "payd_payments_decided_total",
                "Payments decided since payd started, by gateway and outcome: succeeded, or how it failed.",
                &["gateway", "outcome"],
            )?,
            events: EventType::ALL
                .iter()
                .map(|kind| by_type.with_label_values(&[kind.as_str()]))
                .collect(),
            commit_seconds: add.histogram(
                "payd_commit_duration_seconds",
                "How long commits took, with their sync.",
                COMMIT_SECONDS,
            )?,
            batch_requests: add.histogram(
                "payd_commit_batch_requests",
                "Requests decided in one commit.",
                BATCH_REQUESTS,
            )?,
            gateway_seconds: add.histograms(
                "payd_gateway_call_duration_seconds",
                "How long calls to the gateway took, by what was asked and what it came to.",
                &["gateway", "call", "outcome"],
                GATEWAY_SECONDS,
            )?,
            http_seconds: add.histograms(
                "payd_http_request_duration_seconds",
                "How long requests took until the answer began, with what Prefer: wait asked for, by method, route and status.",
                &["method", "route", "status"],
                HTTP_SECONDS,
            )?,
            gauges: Mutex::new(Gauges::new(&add, &Adder(&stored))?),
            registry,
            stored,
            losses,
        })
    }
}

impl Gauges {
    fn new(add: &Adder<'_>, stored: &Adder<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            open: stored.gauges(
                "payd_payments_open",
                "Payments that are not decided yet, by status.",
                &["status"],
            )?,
            unknown_age: stored.seconds(
                "payd_payments_unknown_oldest_age_seconds",
                "For how long the oldest UNKNOWN payment has been open; 0 where there is none.",
            )?,
            due: stored.gauge(
                "payd_payments_due",
                "Payments that should have been sent by now.",
            )?,
            due_age: stored.seconds(
                "payd_payments_due_oldest_age_seconds",
                "For how long the longest overdue payment has waited to be sent; 0 where there is none.",
            )?,
            needs_attention: stored.gauge(
                "payd_invoices_needing_attention",
                "Invoices that an operator should look at.",
            )?,
            database_bytes: stored.gauge("payd_database_size_bytes", "Size of the database's file.")?,
            wal_bytes: stored.gauge(
                "payd_database_wal_size_bytes",
                "Size of the database's write-ahead log.",
            )?,
            queue: add.gauge("payd_engine_queue_depth", "Requests that wait for the engine.")?,
            queue_max: add.gauge(
                "payd_engine_queue_capacity",
                "Requests that may wait for the engine; one more is answered 503.",
            )?,
            head: add.gauge("payd_event_log_sequence", "The newest event's sequence.")?,
            streams: add.gauge("payd_event_streams", "Event streams that are open.")?,
            lag: add.gauge(
                "payd_event_stream_lag_events",
                "How many events the slowest open stream is behind the end of the log.",
            )?,
            gateway_up: add.gauges(
                "payd_gateway_up",
                "Whether payments are sent to the gateway: 0 while it refuses payd or does not answer.",
                &["gateway"],
            )?,
            gateway_shut: add.gauges(
                "payd_gateway_shut",
                "Whether nothing is sent to the gateway, for this reason: it refuses payd (401, 403), or does not answer.",
                &["gateway", "reason"],
            )?,
            paused: add.gauge("payd_paused", "Whether an operator has paused sending.")?,
            writable: add.gauge("payd_writable", "Whether the last commit went through.")?,
            started_at: add.seconds(
                "process_start_time_seconds",
                "When payd started, in seconds since the Unix epoch.",
            )?,
            resident_bytes: add.gauge(
                "process_resident_memory_bytes",
                "Memory that payd has in RAM.",
            )?,
            open_files: add.gauge("process_open_fds", "Files that payd has open.")?,
            open_files_max: add.gauge("process_max_fds", "Files that payd may have open.")?,
            cpu_seconds: {
                let counter = prometheus::Counter::new(
                    "process_cpu_seconds_total",
                    "Processor time that payd has used.",
                )?;
                add.keep(counter)?
            },
            log_lines_dropped: add.counter(
                "payd_log_lines_dropped_total",
                "Log lines that were not written since payd started: disk or stderr did not take them.",
            )?,
            spans_exported: add.counter(
                "payd_trace_spans_exported_total",
                "Trace spans that the collector has taken since payd started.",
            )?,
            spans_dropped: add.counter(
                "payd_trace_spans_dropped_total",
                "Trace spans that no collector has taken since payd started.",
            )?,
        })
    }

    fn set(&self, standing: &Standing, losses: &Losses) {
        if let Some(tally) = &standing.tally {
            for (state, count) in &tally.open_payments {
                self.open
                    .with_label_values(&[state.as_str()])
                    .set(whole(*count));
            }
            let age = |since: Option<crate::domain::Timestamp>| {
                since.map_or(0.0, |since| standing.now.since(since).as_secs_f64())
            };
            self.unknown_age.set(age(tally.unknown_since));
            self.due.set(whole(tally.due));
            self.due_age.set(age(tally.due_since));
            self.needs_attention.set(whole(tally.needs_attention));
            self.database_bytes.set(whole(tally.database_bytes));
            self.wal_bytes.set(whole(tally.wal_bytes));
        }
        let (depth, capacity) = standing.queue;
        self.queue.set(whole(depth as u64));
        self.queue_max.set(whole(capacity as u64));
        self.head.set(whole(standing.head));
        self.streams.set(whole(standing.streams.0 as u64));
        self.lag.set(whole(standing.streams.1));
        self.gateway_up
            .with_label_values(&[standing.gateway.as_str()])
            .set(i64::from(standing.gateway_shut.is_none()));
        for reason in [Shut::Refused, Shut::Unreachable] {
            self.gateway_shut
                .with_label_values(&[standing.gateway.as_str(), reason.as_str()])
                .set(i64::from(standing.gateway_shut == Some(reason)));
        }
        self.paused.set(i64::from(standing.paused));
        self.writable.set(i64::from(standing.writable));
        self.started_at.set(
            Duration::from_millis(u64::try_from(standing.started_at.as_millis()).unwrap_or(0))
                .as_secs_f64(),
        );
        let process = Process::now();
        self.resident_bytes
            .set(whole(process.resident_bytes.unwrap_or(0)));
        self.open_files.set(whole(process.open_files.unwrap_or(0)));
        self.open_files_max
            .set(whole(process.open_files_max.unwrap_or(0)));
        let cpu = Duration::from_millis(process.cpu_millis.unwrap_or(0)).as_secs_f64();
        self.cpu_seconds.reset();
        self.cpu_seconds.inc_by(cpu);
        let counted = [
            (&self.log_lines_dropped, losses.log_lines.lines()),
            (&self.spans_exported, losses.spans.exported()),
            (&self.spans_dropped, losses.spans.dropped()),
        ];
        for (counter, count) in counted {
            // It only grows, and is read under the same lock.
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}

/// Beyond 2^63 nothing is counted here.
fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Metrics for PrometheusMetrics {
    fn payment_decided(&self, gateway: &str, decided: Decided) {
        self.processed.inc();
        match decided {
            Decided::Succeeded => self.succeeded.inc(),
            Decided::Failed(_) => self.failed.inc(),
        }
        self.decided
            .with_label_values(&[gateway, decided.as_str()])
            .inc();
    }

    fn event_appended(&self, kind: EventType) {
        // The list of all types is in the order of their declaration.
        if let Some(counter) = self.events.get(kind as usize) {
            counter.inc();
        }
    }

    fn batch_committed(&self, requests: usize, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.batch_requests.observe(f64::from(requests));
    }

    fn gateway_called(
        &self,
        gateway: &str,
        call: GatewayCall,
        outcome: &'static str,
        took: Duration,
    ) {
        self.gateway_seconds
            .with_label_values(&[gateway, call.as_str(), outcome])
            .observe(took.as_secs_f64());
    }

    fn request_answered(&self, answered: Answered<'_>) {
        self.http_seconds
            .with_label_values(&[answered.method, answered.route, answered.status])
            .observe(answered.took.as_secs_f64());
    }

    fn exposition(&self, standing: &Standing) -> String {
        // Set and read by one at a time, so that nobody sees half of each.
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set(standing, &self.losses);
        let mut text = String::new();
        let stored = standing.tally.as_ref().map(|_| &self.stored);
        for registry in std::iter::once(&self.registry).chain(stored) {
            if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
                tracing::error!(%error, "the metrics cannot be written");
            }
        }
        text
    }
}

/// Makes metrics and registers them.
struct Adder<'a>(&'a Registry);

impl Adder<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, metric: C) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.keep(IntCounter::new(name, help)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.keep(IntGauge::new(name, help)?)
    }

    fn seconds(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.keep(Gauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep(Histogram::with_opts(options)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep(HistogramVec::new(options, labels)?)
    }
}
