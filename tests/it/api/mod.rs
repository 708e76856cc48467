//! The HTTP API against the contract (`DESIGN.md`, sections 3, 4, 8 and 10), from outside, with what
//! the tests of it have in common. Nothing here knows how payd does what it promises.

mod batch;
mod cancel;
mod events;
mod idempotency;
mod invoices;
mod lists;
mod live;
mod openapi;
mod pay;
mod problems;
mod resolve;
mod streams;

use std::collections::BTreeSet;
use std::io::Read;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, until};
use crate::support::http::{Answer, Host};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

/// Names and values.
type Headers<'h> = &'h [(&'h str, &'h str)];

/// All fields of an invoice; none is ever missing.
const INVOICE: &str = "id amount currency status description metadata payment_method due_at \
    attempts needs_attention cancel_requested next_attempt_at created_at updated_at paid_at";

/// All fields of a payment.
const PAYMENT: &str = "id invoice_id attempt amount currency status gateway gateway_reference \
    idempotency_key failure requested_at due_at sent_at finished_at";

/// These fields, all of them and no others.
#[track_caller]
fn assert_fields(value: &Value, fields: &str) {
    let got: BTreeSet<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let want: BTreeSet<&str> = fields.split_whitespace().collect();
    assert_eq!(got, want);
}

/// These fields are null, and no others.
#[track_caller]
fn assert_nulls(value: &Value, fields: &str) {
    let members = value.as_object().unwrap().iter();
    let got: BTreeSet<&str> = members
        .filter(|(_, it)| it.is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    let want: BTreeSet<&str> = fields.split_whitespace().collect();
    assert_eq!(got, want);
}

/// RFC 3339, in UTC.
#[track_caller]
fn assert_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("{value}"));
    let (date, clock) = text.split_once('T').unwrap_or_else(|| panic!("{text}"));
    let shape = |text: &str, like: &str| {
        text.len() == like.len()
            && text.bytes().zip(like.bytes()).all(|(b, like)| match like {
                b'0' => b.is_ascii_digit(),
                like => b == like,
            })
    };
    assert!(shape(date, "0000-00-00"), "{text}");
    assert!(shape(&clock[..8], "00:00:00"), "{text}");
    let fraction = clock[8..].strip_suffix('Z').expect("UTC");
    let digits = fraction.strip_prefix('.').unwrap_or("0");
    assert!(digits.bytes().all(|b| b.is_ascii_digit()), "{text}");
}

/// An invoice to be paid with this method.
fn make(daemon: &Daemon, id: &str, method: &str) {
    let body = json!({"id": id, "amount": 1000, "payment_method": method});
    daemon.unix.post("/invoices", &body.to_string()).expect(201);
}

/// The same, and asks for it to be paid: the payment as it was requested.
fn make_and_pay(daemon: &Daemon, id: &str, method: &str) -> Value {
    make(daemon, id, method);
    daemon
        .unix
        .post(&format!("/invoices/{id}/pay"), "")
        .expect(202)
}

/// The same, in its final state.
fn make_paid(daemon: &Daemon, id: &str) -> Value {
    let payment = make_and_pay(daemon, id, "sim:approve");
    daemon.until_invoice(id, "PAID");
    payment
}

/// All payments of an invoice.
fn payments(daemon: &Daemon, id: &str) -> Vec<Value> {
    let page = daemon
        .unix
        .get(&format!("/invoices/{id}/payments"))
        .expect(200);
    assert_fields(&page, "payments");
    page["payments"].as_array().unwrap().clone()
}

/// Waits until the latest payment of an invoice has this status.
fn until_payment(daemon: &Daemon, id: &str, status: &str) -> Value {
    let mut latest = Value::Null;
    until(&format!("the payment of {id} is {status}"), || {
        latest = payments(daemon, id).pop().unwrap_or_default();
        latest["status"] == status
    });
    latest
}

/// A daemon that looks nothing up, so that UNKNOWN stays.
fn that_never_looks_up() -> Daemon {
    Daemon::with(&[("PAYD_RESOLVER__BASE", "1h"), ("PAYD_RESOLVER__CAP", "1h")])
}

/// Nothing is sent any more, or everything again.
fn set_paused(daemon: &Daemon, paused: bool) {
    let path = if paused {
        "/admin/pause"
    } else {
        "/admin/resume"
    };
    assert_eq!(daemon.unix.post(path, "").expect(200)["paused"], paused);
}

/// The events of an invoice, oldest first.
fn story(daemon: &Daemon, id: &str) -> Vec<Value> {
    let all = daemon.events();
    all.into_iter().filter(|it| it["subject"] == id).collect()
}

/// Their types.
fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect()
}

/// The fields that a problem names, in no order.
fn fields_of(problem: &Value) -> BTreeSet<&str> {
    let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
    errors
        .iter()
        .map(|it| it["field"].as_str().unwrap())
        .collect()
}

/// Not one field more or less than RFC 9457 and the contract say; these are at fault.
#[track_caller]
fn assert_problem(answer: &Answer, status: u16, code: &str, fields: &[&str]) {
    let problem = answer.problem(status, code);
    let errors = if fields.is_empty() { "" } else { "errors" };
    assert_fields(&problem, &format!("type title status detail code {errors}"));
    assert_eq!(fields_of(&problem), fields.iter().copied().collect());
    for error in problem["errors"].as_array().into_iter().flatten() {
        assert_fields(error, "field message");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    let id = answer.header("x-request-id");
    assert!(id.is_some_and(|id| !id.is_empty()));
    let later = matches!(code, "unavailable" | "request_in_progress");
    assert_eq!(answer.header("retry-after").is_some(), later, "{code}");
}

/// A GET that must be refused. It fails, rather than wait for the end of it, where a stream begins.
#[track_caller]
fn refused(host: &Host, path: &str, headers: Headers<'_>) -> Answer {
    let mut stream = host.open("GET", path, headers, b"").unwrap();
    assert!(stream.status >= 400, "{path} is {}", stream.status);
    let mut body = Vec::new();
    stream.read_to_end(&mut body).unwrap();
    let (status, headers) = (stream.status, std::mem::take(&mut stream.headers));
    Answer {
        status,
        headers,
        body,
    }
}

/// A POST of bytes that need not be text.
fn post_bytes(host: &Host, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    host.request("POST", path, headers, body).unwrap()
}

/// A body in chunks, whose length nobody says beforehand.
fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(8000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}
