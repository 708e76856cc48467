//! `/metrics` as a scraper sees it, and what is made from it: the dashboard and the alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::daemon::{Daemon, until};

fn pay(daemon: &Daemon, id: &str, method: &str) {
    let body = serde_json::json!({"id": id, "amount": 100, "payment_method": method});
    daemon.unix.post("/invoices", &body.to_string()).expect(201);
    let path = format!("/invoices/{id}/pay");
    daemon.unix.post(&path, "{}").expect(202);
}

fn scrape(daemon: &Daemon) -> String {
    let answer = daemon.tcp.get("/metrics");
    assert_eq!(answer.status, 200);
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    answer.text()
}

/// A scrape, read as strictly as the format is written:
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.
struct Exposition {
    types: BTreeMap<String, String>,
    /// Name, labels as written, value.
    samples: Vec<(String, String, f64)>,
}

impl Exposition {
    fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let (mut types, mut helps) = (BTreeMap::new(), BTreeSet::new());
        let mut samples = Vec::new();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(helps.insert(name.to_owned()), "{name} twice");
                assert!(words.ends_with('.'), "{name}: {words}");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helps.contains(name), "{name} has no HELP before it");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} {kind}");
                types.insert(name.to_owned(), kind.to_owned());
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.strip_suffix('}').unwrap();
            assert!(seen.insert(series.to_owned()), "{series} twice");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            for label in labels.split_inclusive("\",").filter(|it| !it.is_empty()) {
                let (key, value) = label.trim_end_matches(',').split_once('=').unwrap();
                assert!(key.bytes().all(|b| b.is_ascii_lowercase()), "{series}");
                let inner = value.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
                assert!(!inner.unwrap().contains(['"', '\n', '\\']), "{series}");
            }
            let family = family(name, &types);
            assert!(types.contains_key(&family), "{name} has no TYPE before it");
            samples.push((name.to_owned(), labels.to_owned(), value));
        }
        Self { types, samples }
    }

    fn value(&self, name: &str, labels: &str) -> Option<f64> {
        let mut found = self
            .samples
            .iter()
            .filter(|(its, has, _)| its == name && has == labels);
        found.next().map(|(_, _, value)| *value)
    }

    fn knows(&self, name: &str) -> bool {
        self.types.contains_key(&family(name, &self.types))
    }
}

/// What a sample belongs to: histograms have three names.
fn family(name: &str, types: &BTreeMap<String, String>) -> String {
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(stem) = name.strip_suffix(suffix)
            && types.get(stem).is_some_and(|kind| kind == "histogram")
        {
            return stem.to_owned();
        }
    }
    name.to_owned()
}

/// A daemon that has seen some of everything.
fn busy() -> Daemon {
    let daemon = Daemon::with(&[("PAYD_RETRY__BASE", "1ms")]);
    pay(&daemon, "inv-1", "sim:approve");
    daemon.until_invoice("inv-1", "PAID");
    pay(&daemon, "inv-2", "sim:decline");
    daemon.until_invoice("inv-2", "FAILED");
    pay(&daemon, "inv-3", "sim:timeout");
    daemon.until_invoice("inv-3", "PAID");
    daemon
        .unix
        .get("/invoices/none")
        .problem(404, "invoice_not_found");
    daemon
}

#[test]
fn a_scrape_follows_the_format_and_says_what_happened() {
    let daemon = busy();
    let accept = [("Accept", "text/event-stream")];
    let mut stream = daemon
        .unix
        .open("GET", "/events?after=0", &accept, b"")
        .unwrap();
    assert!(stream.sse().is_some());
    scrape(&daemon);
    let scraped = Exposition::read(&scrape(&daemon));
    let count = |name: &str, labels: &str| {
        scraped
            .value(name, labels)
            .unwrap_or_else(|| panic!("{name}{{{labels}}}"))
    };
    for (name, labels, want) in [
        ("payd_payments_processed_total", "", 3.0),
        ("payd_payments_succeeded_total", "", 2.0),
        ("payd_payments_failed_total", "", 1.0),
        (
            "payd_payments_decided_total",
            "gateway=\"simulator\",outcome=\"succeeded\"",
            2.0,
        ),
        (
            "payd_payments_decided_total",
            "gateway=\"simulator\",outcome=\"declined\"",
            1.0,
        ),
        ("payd_events_total", "type=\"PaymentUnknown\"", 1.0),
        (
            "payd_gateway_call_duration_seconds_count",
            "call=\"charge\",gateway=\"simulator\",outcome=\"approved\"",
            1.0,
        ),
        (
            "payd_gateway_call_duration_seconds_count",
            "call=\"charge\",gateway=\"simulator\",outcome=\"timeout\"",
            1.0,
        ),
        (
            "payd_gateway_call_duration_seconds_count",
            "call=\"lookup\",gateway=\"simulator\",outcome=\"approved\"",
            1.0,
        ),
        ("payd_gateway_up", "gateway=\"simulator\"", 1.0),
        (
            "payd_gateway_shut",
            "gateway=\"simulator\",reason=\"refused\"",
            0.0,
        ),
        (
            "payd_http_request_duration_seconds_count",
            "method=\"POST\",route=\"/invoices/{id}/pay\",status=\"202\"",
            3.0,
        ),
        (
            "payd_http_request_duration_seconds_count",
            "method=\"GET\",route=\"/metrics\",status=\"200\"",
            1.0,
        ),
        ("payd_payments_open", "status=\"UNKNOWN\"", 0.0),
        ("payd_payments_unknown_oldest_age_seconds", "", 0.0),
        ("payd_payments_due", "", 0.0),
        ("payd_invoices_needing_attention", "", 0.0),
        ("payd_engine_queue_capacity", "", 4096.0),
        ("payd_event_streams", "", 1.0),
        ("payd_writable", "", 1.0),
        ("payd_paused", "", 0.0),
        ("payd_log_lines_dropped_total", "", 0.0),
        (
            "payd_build_info",
            concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""),
            1.0,
        ),
    ] {
        assert_eq!(count(name, labels), want, "{name}{{{labels}}}");
    }
    let events = daemon.events().len();
    let sequence = count("payd_event_log_sequence", "").to_string();
    assert_eq!(sequence, events.to_string());
    for name in [
        "payd_database_size_bytes",
        "payd_database_wal_size_bytes",
        "payd_commit_duration_seconds_count",
        "payd_commit_batch_requests_sum",
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_cpu_seconds_total",
    ] {
        assert!(count(name, "") > 0.0, "{name}");
    }
}

#[test]
fn an_open_question_shows_with_its_age() {
    let daemon = Daemon::with(&[("PAYD_RESOLVER__BASE", "10m")]);
    pay(&daemon, "inv-1", "sim:timeout");
    until("the payment is unknown, for a while", || {
        let scraped = Exposition::read(&scrape(&daemon));
        let open = scraped.value("payd_payments_open", "status=\"UNKNOWN\"");
        let age = scraped.value("payd_payments_unknown_oldest_age_seconds", "");
        open == Some(1.0) && age.is_some_and(|age| age > 0.0 && age < 60.0)
    });
    daemon.unix.post("/admin/pause", "{}").expect(200);
    pay(&daemon, "inv-2", "sim:approve");
    until("a payment waits while sending is paused", || {
        let scraped = Exposition::read(&scrape(&daemon));
        scraped.value("payd_paused", "") == Some(1.0)
            && scraped.value("payd_payments_due", "") == Some(1.0)
            && scraped.value("payd_payments_due_oldest_age_seconds", "") > Some(0.0)
    });
}

#[test]
fn no_client_makes_a_series_of_its_own() {
    let daemon = Daemon::start();
    let series = || {
        let scraped = Exposition::read(&scrape(&daemon));
        let of_http = scraped.samples.iter();
        of_http
            .filter(|(name, _, _)| name == "payd_http_request_duration_seconds_count")
            .map(|(_, labels, _)| labels.clone())
            .collect::<BTreeSet<_>>()
    };
    for number in 0..20 {
        daemon.tcp.get(&format!("/invoices/inv-{number}"));
        daemon.tcp.get(&format!("/nowhere/{number}"));
    }
    scrape(&daemon);
    let before = series();
    for number in 20..40 {
        daemon.tcp.get(&format!("/invoices/inv-{number}"));
        daemon.tcp.get(&format!("/nowhere/{number}?x={number}"));
    }
    assert_eq!(series(), before);
    assert!(before.contains("method=\"GET\",route=\"none\",status=\"404\""));
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("payd_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn packaged(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(file);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn dashboard_and_alerts_name_only_what_is_there() {
    let daemon = busy();
    scrape(&daemon);
    let scraped = Exposition::read(&scrape(&daemon));
    let dashboard: serde_json::Value =
        serde_json::from_str(&packaged("grafana/payd.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let expressions: Vec<_> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(expressions.len() > 30);
    let rules = packaged("prometheus/payd.rules.yml");
    for text in expressions.iter().chain([&rules]) {
        for name in names(text) {
            assert!(scraped.knows(&name), "{name} in {text}");
        }
    }
    let shown: BTreeSet<_> = expressions.iter().flat_map(|text| names(text)).collect();
    for name in scraped
        .types
        .keys()
        .filter(|name| name.starts_with("payd_"))
    {
        let there = shown.iter().any(|it| family(it, &scraped.types) == *name);
        // What has no place of its own on the dashboard.
        let fine = [
            "payd_build_info",
            "payd_event_log_sequence",
            "payd_gateway_shut",
            "payd_trace_spans_exported_total",
        ];
        assert!(
            there || fine.contains(&name.as_str()),
            "{name} is on no panel"
        );
    }
}

/// promtool, where it is: `PROMTOOL`, or on the path. CI has it.
fn promtool() -> Option<Command> {
    let program = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    let there = Command::new(&program).arg("--version").output().is_ok();
    if !there {
        // Said where somebody looks for it.
        #[expect(clippy::print_stdout)]
        {
            println!("promtool is not here: its checks are left out");
        }
        return None;
    }
    Some(Command::new(program))
}

#[test]
fn promtool_finds_nothing() {
    let Some(mut check) = promtool() else { return };
    let daemon = busy();
    let mut child = check
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(scrape(&daemon).as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn promtool_agrees_with_the_rules_and_their_tests() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/prometheus");
    for arguments in [
        ["check", "rules", "payd.rules.yml"],
        ["test", "rules", "payd.rules.test.yml"],
    ] {
        let Some(mut command) = promtool() else {
            return;
        };
        let output = command
            .args(arguments)
            .current_dir(&directory)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
}
