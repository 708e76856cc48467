//! What goes over the wire to the gateway, to the letter, and that it is the same on every send.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{REQUESTED, SUCCEEDED, UNKNOWN, events, no_charge_was_repeated, story};
use crate::support::daemon::until;
use crate::support::stub::{Act, Call, Stub, answer, answer_with, daemon_of};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_charge_and_its_lookup_are_what_the_contract_says() {
    let stub = Stub::start(|call| match call.method.as_str() {
        "POST" => answer(500, &json!({})),
        _ => answer(200, &call.echo("succeeded")),
    });
    // A path, with a slash too many.
    let daemon = daemon_of(&format!("{}/v1/pay/", stub.url()), &[]);
    let invoice = r#"{"id":"inv-1","amount":1000,"currency":"EUR","description":"Bücher \"a\"","metadata":{"b":"2","a":"1"},"payment_method":"tok_1"}"#;
    daemon.unix.post("/invoices", invoice).expect(201);
    daemon
        .unix
        .post_with("/invoices/inv-1/pay", &[("traceparent", TRACE)], "")
        .expect(202);
    daemon.until_invoice("inv-1", "PAID");

    let calls = stub.calls();
    let [charge, lookup, ..] = calls.as_slice() else {
        panic!("{calls:?}")
    };
    let payment = super::payment(&daemon, "inv-1");
    let key = payment["idempotency_key"].as_str().unwrap();
    assert_eq!(
        (charge.method.as_str(), charge.target.as_str()),
        ("POST", "/v1/pay/charges")
    );
    let body = format!(
        r#"{{"reference":"{key}","payment_id":{},"invoice_id":"inv-1","amount":1000,"currency":"EUR","payment_method":"tok_1","description":"Bücher \"a\"","metadata":{{"a":"1","b":"2"}}}}"#,
        payment["id"]
    );
    assert_eq!(String::from_utf8_lossy(&charge.body), body);
    assert_eq!(lookup.method, "GET");
    assert_eq!(lookup.target, format!("/v1/pay/charges/{key}"));
    assert_eq!(lookup.body, b"");

    let agent = concat!("payd/", env!("CARGO_PKG_VERSION"));
    let host = stub.address.to_string();
    let length = body.len().to_string();
    let both = [
        ("host", Some(host.as_str())),
        ("accept", Some("application/json")),
        ("accept-encoding", Some("identity")),
        ("cache-control", Some("no-cache, no-store")),
        ("user-agent", Some(agent)),
        ("traceparent", Some(TRACE)),
        ("authorization", None),
    ];
    let of_the_charge = [
        ("idempotency-key", Some(key)),
        ("content-type", Some("application/json")),
        ("content-length", Some(length.as_str())),
        ("transfer-encoding", None),
    ];
    for (name, value) in both.into_iter().chain(of_the_charge) {
        assert_eq!(charge.header(name), value, "{name}");
    }
    assert_eq!(
        charge.headers.len(),
        9,
        "and no other: {:?}",
        charge.headers
    );
    for (name, value) in both {
        assert_eq!(lookup.header(name), value, "{name}");
    }
    assert_eq!(
        lookup.headers.len(),
        6,
        "and no other: {:?}",
        lookup.headers
    );
}

#[test]
fn what_an_invoice_does_not_have_is_null() {
    let stub = Stub::start(|call| answer(200, &call.echo("succeeded")));
    let daemon = stub.daemon(&[]);
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    let calls = stub.calls();
    let text = String::from_utf8_lossy(&calls[0].body);
    assert!(
        text.ends_with(r#""payment_method":null,"description":null,"metadata":{}}"#),
        "{text}"
    );
    assert_eq!(calls[0].header("traceparent"), None);
}

#[test]
fn a_charge_is_the_same_bytes_on_every_send_also_after_the_plug_was_pulled() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let stub = Stub::start(move |call| match call.method.as_str() {
        "POST" if is_down.load(Ordering::SeqCst) => Act::Hold(Vec::new()),
        "POST" if call.before < 3 => answer(429, &json!({})),
        "POST" => answer(200, &call.echo("succeeded")),
        // It forgets what it did not answer.
        _ => answer(404, &json!({})),
    });
    let mut daemon = stub.daemon(&[("PAYD_GATEWAY__TIMEOUT", "60s")]);
    super::pay(&daemon, "inv-1");
    until("the charge is at the gateway", || {
        stub.count("POST", "inv-1") == 1
    });
    daemon.kill();
    down.store(false, Ordering::SeqCst);
    daemon.start_again();
    daemon.until_invoice("inv-1", "PAID");
    assert_eq!(
        story(&daemon, "inv-1"),
        // The plug; never received; twice too many requests.
        [
            REQUESTED, UNKNOWN, REQUESTED, REQUESTED, REQUESTED, SUCCEEDED
        ]
    );
    let posts: Vec<Call> = stub.calls();
    let posts: Vec<&Call> = posts.iter().filter(|it| it.method == "POST").collect();
    assert_eq!(posts.len(), 4);
    for post in &posts {
        assert_eq!(post.body, posts[0].body);
        assert_eq!(
            post.header("idempotency-key"),
            posts[0].header("idempotency-key")
        );
    }
    no_charge_was_repeated(&daemon, &stub, "inv-1");
    daemon.verify();
}

#[test]
fn another_attempt_after_a_decline_has_another_key() {
    let stub = Stub::start(|call| match call.before {
        0 => answer(
            402,
            &call.echo_with("declined", &json!({"retryable": true})),
        ),
        _ => answer(200, &call.echo("succeeded")),
    });
    let daemon = stub.daemon(&[]);
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    let calls = stub.calls();
    assert_eq!(calls.len(), 2);
    for field in ["reference", "payment_id"] {
        assert_ne!(calls[0].charge[field], calls[1].charge[field]);
    }
}

#[test]
fn a_retry_after_is_obeyed_whatever_it_comes_with() {
    let wait = [("Retry-After", "2")];
    let stub = Stub::start(move |call| {
        let said = |status, body: serde_json::Value| {
            answer_with(status, &wait, body.to_string().as_bytes())
        };
        match (call.invoice.as_str(), call.method.as_str(), call.before) {
            ("limited", "POST", 0) => said(429, json!({})),
            ("declined", "POST", 0) => {
                said(402, call.echo_with("declined", &json!({"retryable": true})))
            }
            ("looked-up" | "down", "POST", 0) => answer(500, &json!({})),
            ("looked-up", "GET", 0) => said(429, json!({})),
            ("down", "GET", 0) => said(503, json!({})),
            _ => answer(200, &call.echo("succeeded")),
        }
    });
    let daemon = stub.daemon(&[("PAYD_RESOLVER__BASE", "1s"), ("PAYD_RESOLVER__CAP", "1s")]);
    let rows = [
        ("limited", "POST"),
        ("declined", "POST"),
        ("looked-up", "GET"),
        ("down", "GET"),
    ];
    for (id, _) in rows {
        super::pay(&daemon, id);
    }
    for (id, method) in rows {
        daemon.until_invoice(id, "PAID");
        let calls = stub.calls();
        let times: Vec<_> = calls
            .iter()
            .filter(|it| it.invoice == id && it.method == method)
            .map(|it| it.at)
            .collect();
        assert_eq!(times.len(), 2, "{id}");
        // payd counts from when it heard, and in milliseconds.
        let waited = times[1] - times[0];
        assert!(waited >= Duration::from_millis(1995), "{id}: {waited:?}");
    }
}

#[test]
fn what_the_gateway_says_instead_of_an_answer_is_in_the_event() {
    let stub = Stub::start(|call| match call.method.as_str() {
        "POST" => answer(
            503,
            &json!({"error": {"code": "busy", "message": "We are down."}}),
        ),
        _ => answer(200, &call.echo("succeeded")),
    });
    let daemon = stub.daemon(&[]);
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    assert_eq!(
        events(&daemon, "inv-1")[1]["data"]["reason"],
        "the gateway answered 503: We are down."
    );
}

#[test]
fn a_charge_that_is_as_long_as_an_invoice_can_be_arrives_whole() {
    let stub = Stub::start(|call| answer(200, &call.echo("succeeded")));
    let daemon = stub.daemon(&[]);
    // Six bytes each: just within what the API takes, and beyond the buffer that a request goes through.
    let description = "\u{1}".repeat(10_900);
    let invoice = json!({"id": "inv-1", "amount": 1000, "description": description});
    daemon
        .unix
        .post("/invoices", &invoice.to_string())
        .expect(201);
    daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "PAID");
    let calls = stub.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].charge["description"], description);
    assert!(calls[0].body.len() > 64 * 1024);
}

#[test]
fn nothing_that_moves_money_is_suggested_for_a_try() {
    let stub = Stub::start(|call| answer(200, &call.echo("succeeded")));
    let banner = stub.daemon(&[]).banner.clone();
    assert!(banner.contains("it moves money"), "{banner}");
    for part in ["Try", "invoice create", " pay "] {
        assert!(!banner.contains(part), "{part}: {banner}");
    }
    for part in ["status", "doctor", "events tail"] {
        assert!(banner.contains(part), "{part}: {banner}");
    }
}
