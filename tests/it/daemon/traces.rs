//! Traces as a collector gets them, over OTLP/HTTP.
#![cfg(feature = "otlp")]

use std::collections::BTreeMap;
use std::net::TcpListener;

use crate::support::daemon::{Daemon, until};
use crate::support::scripted::{Reply, Scripted};
use crate::support::stub::{Stub, answer, answer_with};

/// A span, as far as it matters here.
#[derive(Debug, Clone)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    failed: bool,
    attributes: BTreeMap<String, String>,
}

/// A value in Protocol Buffers' wire format.
/// Source: <https://protobuf.dev/programming-guides/encoding/>.
enum Wire<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        shift += 7;
        if first & 0x80 == 0 {
            return value;
        }
    }
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Wire<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let fixed = match tag & 7 {
            0 => {
                found.push((tag >> 3, Wire::Number(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)).unwrap(),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (value, rest) = bytes.split_at(fixed);
        bytes = rest;
        found.push((tag >> 3, Wire::Bytes(value)));
    }
    found
}

fn within(bytes: &[u8], field: u64) -> Vec<&[u8]> {
    let all = fields(bytes).into_iter();
    all.filter_map(|(number, value)| match value {
        Wire::Bytes(bytes) if number == field => Some(bytes),
        _ => None,
    })
    .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(bytes: &[u8], field: u64) -> String {
    let found = within(bytes, field);
    let bytes = found.first().copied().unwrap_or_default();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// `opentelemetry/proto/trace/v1/trace.proto` has the numbers.
fn span(bytes: &[u8]) -> Span {
    let id = |field| hex(within(bytes, field).first().copied().unwrap_or_default());
    let attributes = within(bytes, 9).into_iter().map(|attribute| {
        let value = within(attribute, 2).into_iter().flat_map(fields);
        let value = value.map(|(_, value)| match value {
            Wire::Number(number) => number.to_string(),
            Wire::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        });
        (text(attribute, 1), value.collect())
    });
    let status = within(bytes, 15).into_iter().flat_map(fields);
    Span {
        trace: id(1),
        id: id(2),
        parent: id(4),
        name: text(bytes, 5),
        failed: status
            .into_iter()
            .any(|(field, value)| field == 3 && matches!(value, Wire::Number(2))),
        attributes: attributes.collect(),
    }
}

struct Collector(Scripted);

impl Collector {
    fn start() -> Self {
        Self(Scripted::start_tcp(|_, _| Reply::Answer {
            status: 200,
            headers: vec![("Content-Type", "application/x-protobuf".into())],
            body: vec![],
        }))
    }

    fn spans(&self) -> Vec<Span> {
        let asked = self.0.asked_for("POST /v1/traces");
        let mut spans = Vec::new();
        for asked in &asked {
            assert_eq!(asked.header("content-type"), Some("application/x-protobuf"));
            for resource_spans in within(&asked.body, 1) {
                let resource = String::from_utf8_lossy(within(resource_spans, 1)[0]).into_owned();
                assert!(resource.contains("service.name"), "{resource}");
                assert!(resource.contains("billing"), "{resource}");
                let scopes = within(resource_spans, 2);
                spans.extend(scopes.into_iter().flat_map(|it| within(it, 2)).map(span));
            }
        }
        spans
    }
}

fn traced(endpoint: &str, settings: &[(&str, &str)]) -> Daemon {
    let ours = [
        ("PAYD_TELEMETRY__OTLP_ENDPOINT", endpoint),
        ("PAYD_TELEMETRY__SERVICE_NAME", "billing"),
    ];
    Daemon::with(&[&ours, settings].concat())
}

fn pay(daemon: &Daemon, id: &str, method: &str, traceparent: &str) {
    let body = serde_json::json!({"id": id, "amount": 100, "payment_method": method});
    daemon.unix.post("/invoices", &body.to_string()).expect(201);
    let headers = [("traceparent", traceparent)];
    let headers = if traceparent.is_empty() {
        &[][..]
    } else {
        &headers
    };
    let path = format!("/invoices/{id}/pay");
    daemon.unix.post_with(&path, headers, "{}").expect(202);
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[test]
fn one_trace_leads_from_the_request_over_its_event_to_the_gateway_and_the_outcome() {
    let collector = Collector::start();
    let mut daemon = traced(&collector.0.url(), &[]);
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    pay(&daemon, "inv-1", "sim:timeout", &traceparent);
    daemon.until_invoice("inv-1", "PAID");
    let events = daemon.events();
    // What is not sent yet is sent at the end.
    assert!(daemon.stop().success());

    let spans = collector.spans();
    let of_trace: Vec<_> = spans.iter().filter(|span| span.trace == TRACE).collect();
    let named = |name: &str| {
        let mut found = of_trace.iter().filter(|span| span.name == name);
        found
            .next()
            .unwrap_or_else(|| panic!("{name} in {of_trace:#?}"))
    };
    let request = named("POST /invoices/{id}/pay");
    assert_eq!(request.parent, CALLER);
    assert_eq!(request.attributes["http.response.status_code"], "202");
    for (name, failed) in [
        ("PaymentRequested", false),
        ("gateway charge", true),
        ("PaymentUnknown", false),
        ("gateway lookup", false),
        ("PaymentSucceeded", false),
    ] {
        let span = named(name);
        assert_eq!(span.parent, request.id, "{name}");
        assert_eq!(span.attributes["payd.invoice.id"], "inv-1", "{name}");
        assert_eq!(span.failed, failed, "{name}");
    }
    assert_eq!(
        named("gateway charge").attributes["payd.gateway.outcome"],
        "timeout"
    );
    assert_eq!(
        named("gateway lookup").attributes["payd.gateway.outcome"],
        "approved"
    );

    // Events carry it on, for who reads them; log lines name it.
    for event in events
        .iter()
        .filter(|event| event["data"]["payment_id"].is_string())
    {
        let carried = event["traceparent"].as_str().unwrap();
        assert_eq!(carried, format!("00-{TRACE}-{}-01", request.id), "{event}");
    }
    let lines = daemon.log();
    let about = lines
        .lines()
        .filter(|line| line.contains("\"message\":\"Payment"));
    assert!(about.clone().count() >= 3, "{lines}");
    for line in about {
        assert!(
            line.contains(&format!("\"trace_id\":\"{TRACE}\"")),
            "{line}"
        );
    }
}

#[test]
fn the_gateway_is_sent_the_span_of_the_call_in_a_header_and_the_same_body_each_time() {
    let collector = Collector::start();
    let gateway = Stub::start(|call| match (call.method.as_str(), call.before) {
        // Not executed: the same payment is sent again.
        ("POST", 0) => answer_with(429, &[("Retry-After", "0")], b"{}"),
        _ => answer(200, &call.echo("succeeded")),
    });
    let url = gateway.url();
    let settings = [
        ("PAYD_GATEWAY__KIND", "http"),
        ("PAYD_GATEWAY__HTTP__URL", url.as_str()),
    ];
    let mut daemon = traced(&collector.0.url(), &settings);
    pay(
        &daemon,
        "inv-1",
        "tok-1",
        &format!("00-{TRACE}-{CALLER}-01"),
    );
    daemon.until_invoice("inv-1", "PAID");
    assert!(daemon.stop().success());
    let charges: Vec<_> = collector
        .spans()
        .into_iter()
        .filter(|span| span.name == "gateway charge")
        .collect();
    let calls = gateway.calls();
    assert_eq!((charges.len(), calls.len()), (2, 2));
    for call in &calls {
        let sent = call.header("traceparent").unwrap();
        let there = |span: &Span| sent == format!("00-{TRACE}-{}-01", span.id);
        assert!(charges.iter().any(there), "{sent} in {charges:#?}");
    }
    assert_ne!(
        calls[0].header("traceparent"),
        calls[1].header("traceparent")
    );
    assert_eq!(calls[0].body, calls[1].body);
    assert_eq!(
        calls[0].header("idempotency-key"),
        calls[1].header("idempotency-key")
    );
}

#[test]
fn a_request_without_a_trace_begins_one_and_one_that_is_not_sampled_stays_so() {
    let collector = Collector::start();
    let mut daemon = traced(&collector.0.url(), &[]);
    pay(&daemon, "inv-1", "sim:approve", "");
    daemon.until_invoice("inv-1", "PAID");
    pay(
        &daemon,
        "inv-2",
        "sim:approve",
        &format!("00-{TRACE}-{CALLER}-00"),
    );
    daemon.until_invoice("inv-2", "PAID");
    let events = daemon.events();
    assert!(daemon.stop().success());
    let spans = collector.spans();
    let trace_of = |invoice: &str| {
        let of_payment = events
            .iter()
            .find(|event| event["subject"] == invoice && event["type"] == "PaymentSucceeded");
        let traceparent = of_payment.unwrap()["traceparent"].as_str().unwrap();
        traceparent.split('-').nth(1).unwrap().to_owned()
    };
    let begun = trace_of("inv-1");
    for name in [
        "POST /invoices/{id}/pay",
        "gateway charge",
        "PaymentSucceeded",
    ] {
        let there = |span: &Span| span.name == name && span.trace == begun;
        assert!(spans.iter().any(there), "{name} in {spans:#?}");
    }
    assert_eq!(trace_of("inv-2"), TRACE);
    assert!(spans.iter().all(|span| span.trace != TRACE), "{spans:#?}");
    assert!(spans.iter().all(|span| !span.name.contains("healthz")));
}

#[test]
fn a_collector_that_takes_nothing_holds_up_no_payment_and_what_is_lost_is_counted() {
    // Nobody accepts: connections stay open, and nothing is answered.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone_at = gone.local_addr().unwrap();
    drop(gone);
    for (endpoint, lost) in [
        (format!("http://{}", silent.local_addr().unwrap()), false),
        (format!("http://{gone_at}"), true),
    ] {
        let mut daemon = traced(&endpoint, &[]);
        for number in 0..20 {
            pay(&daemon, &format!("inv-{number}"), "sim:approve", "");
        }
        for number in 0..20 {
            daemon.until_invoice(&format!("inv-{number}"), "PAID");
        }
        if lost {
            until("lost spans are counted", || {
                let metrics = daemon.unix.get("/metrics").text();
                let counted = metrics
                    .lines()
                    .find_map(|line| line.strip_prefix("payd_trace_spans_dropped_total "));
                counted.unwrap().parse::<u64>().unwrap() > 0
            });
        }
        assert!(daemon.stop().success());
        daemon.start_again();
        daemon.verify();
    }
}
