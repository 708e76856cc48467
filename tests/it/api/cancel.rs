//! `POST /invoices/{id}/cancel` on every status.

use serde_json::json;

use super::{
    INVOICE, JSON, assert_fields, assert_problem, make, make_and_pay, make_paid, payments,
    post_bytes, set_paused, story, that_never_looks_up, types, until_payment,
};
use crate::support::daemon::{Daemon, until};

#[test]
fn what_was_never_sent_is_canceled_at_once() {
    let daemon = Daemon::with(&[("PAYD_RETRY__BASE", "1h"), ("PAYD_RETRY__CAP", "1h")]);
    make(&daemon, "pending", "sim:approve");
    make_and_pay(&daemon, "failed", "sim:decline");
    daemon.until_invoice("failed", "FAILED");
    make_and_pay(&daemon, "retrying", "sim:insufficient_funds");
    until("a retry waits", || payments(&daemon, "retrying").len() == 2);
    set_paused(&daemon, true);
    make_and_pay(&daemon, "requested", "sim:approve");

    // invoice, the states of its payments afterwards, and its last events
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("pending", &[], &["InvoiceCreated", "InvoiceCanceled"]),
        ("failed", &["FAILED"], &["PaymentFailed", "InvoiceCanceled"]),
        (
            "requested",
            &["CANCELED"],
            &["PaymentRequested", "PaymentCanceled", "InvoiceCanceled"],
        ),
        (
            "retrying",
            &["FAILED", "CANCELED"],
            &["PaymentRequested", "PaymentCanceled", "InvoiceCanceled"],
        ),
    ];
    for (id, states, last) in rows {
        let answer = daemon.tcp.post(
            &format!("/invoices/{id}/cancel"),
            r#"{"reason":"not needed"}"#,
        );
        let invoice = answer.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("location"), None);
        assert_fields(&invoice, INVOICE);
        assert_eq!(invoice["status"], "CANCELED", "{id}");
        assert_eq!(
            invoice["cancel_requested"], false,
            "{id}: nothing is left to wait for"
        );
        assert!(
            invoice["next_attempt_at"].is_null() && invoice["paid_at"].is_null(),
            "{id}"
        );
        assert_eq!(daemon.invoice(id), invoice);
        let all = payments(&daemon, id);
        let got: Vec<_> = all
            .iter()
            .map(|it| it["status"].as_str().unwrap())
            .collect();
        assert_eq!(got, *states, "{id}");
        let events = story(&daemon, id);
        assert_eq!(types(&events)[events.len() - last.len()..], **last, "{id}");
        let canceled = &events.last().unwrap()["data"];
        assert_eq!(
            (&canceled["reason"], &canceled["invoice_status"]),
            (&json!("not needed"), &json!("CANCELED"))
        );

        // Canceled once more, it is canceled all the same, and nothing happens.
        let count = events.len();
        let again = daemon
            .unix
            .post(&format!("/invoices/{id}/cancel"), "")
            .expect(200);
        assert_eq!(again, invoice, "{id}");
        assert_eq!(story(&daemon, id).len(), count, "{id}");
    }
    set_paused(&daemon, false);
    daemon.verify();
}

#[test]
fn what_may_have_been_sent_is_canceled_when_it_fails() {
    // A second in flight leaves time to cancel.
    let daemon = Daemon::with(&[
        ("PAYD_GATEWAY__SIMULATOR__LATENCY", "1s"),
        ("PAYD_GATEWAY__TIMEOUT", "10s"),
    ]);
    // method, what becomes of the invoice, and its events from the request to cancel on
    let rows: &[(&str, &str, &[&str])] = &[
        ("sim:approve", "PAID", &["PaymentSucceeded"]),
        (
            "sim:decline",
            "CANCELED",
            &["PaymentFailed", "InvoiceCanceled"],
        ),
        (
            "sim:insufficient_funds",
            "CANCELED",
            &["PaymentFailed", "InvoiceCanceled"],
        ),
    ];
    for (method, ..) in rows {
        make_and_pay(&daemon, &method[4..], method);
    }
    for (method, ..) in rows {
        let id = &method[4..];
        until_payment(&daemon, id, "SENDING");
        let answer = daemon.tcp.post(
            &format!("/invoices/{id}/cancel"),
            r#"{"reason":"too slow"}"#,
        );
        let invoice = answer.expect(202);
        assert_fields(&invoice, INVOICE);
        assert_eq!(
            (&invoice["status"], &invoice["cancel_requested"]),
            (&json!("PROCESSING"), &json!(true))
        );
        // Once more: still only requested.
        daemon
            .unix
            .post(&format!("/invoices/{id}/cancel"), "")
            .expect(202);
    }
    for (method, status, last) in rows {
        let id = &method[4..];
        let invoice = daemon.until_invoice(id, status);
        assert_eq!(payments(&daemon, id).len(), 1, "{method}: no retry");
        let events = story(&daemon, id);
        let since = events
            .iter()
            .position(|it| it["type"] == "InvoiceCancelRequested")
            .unwrap();
        assert_eq!(types(&events)[since + 1..], **last, "{method}");
        assert_eq!(invoice["paid_at"].is_null(), *status != "PAID", "{method}");
    }
    let paid = daemon.unix.post("/invoices/approve/cancel", "");
    assert_problem(&paid, 409, "invoice_paid", &[]);
    daemon.verify();
}

#[test]
fn what_nobody_knows_waits_for_its_outcome() {
    let daemon = that_never_looks_up();
    for (as_, status) in [("failed", "CANCELED"), ("succeeded", "PAID")] {
        let payment = make_and_pay(&daemon, as_, "sim:timeout");
        until_payment(&daemon, as_, "UNKNOWN");
        let asked = daemon
            .unix
            .post(&format!("/invoices/{as_}/cancel"), "")
            .expect(202);
        assert_eq!(
            (&asked["status"], &asked["cancel_requested"]),
            (&json!("PROCESSING"), &json!(true))
        );
        let path = format!("/payments/{}/resolve", payment["id"].as_str().unwrap());
        let body = json!({"as": as_, "reason": "seen"}).to_string();
        daemon.unix.post(&path, &body).expect(200);
        assert_eq!(daemon.invoice(as_)["status"], status);
    }
    daemon.verify();
}

#[test]
fn what_is_paid_cannot_be_canceled_and_what_is_not_there_neither() {
    let daemon = Daemon::start();
    make_paid(&daemon, "paid");
    for (_, host) in daemon.hosts() {
        assert_problem(
            &host.post("/invoices/paid/cancel", ""),
            409,
            "invoice_paid",
            &[],
        );
        assert_problem(
            &host.post("/invoices/none/cancel", ""),
            404,
            "invoice_not_found",
            &[],
        );
    }
    assert_eq!(daemon.invoice("paid")["status"], "PAID");
    assert_eq!(daemon.events().len(), 3);
}

#[test]
fn the_body_of_cancel_is_optional_and_strict() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    let long = json!({"reason": "x".repeat(60_000)}).to_string();
    #[rustfmt::skip]
    let bad: &[(&str, u16, &str, &[&str])] = &[
        ("{", 400, "malformed_request", &[]),
        ("[]", 422, "invalid_request", &[""]),
        (r#"{"reason":1}"#, 422, "invalid_request", &["reason"]),
        (r#"{"reason":"a","reason":"b"}"#, 422, "invalid_request", &["reason"]),
        (r#"{"Reason":"a"}"#, 422, "invalid_request", &["Reason"]),
        (r#"{"reason":"\u0000"}"#, 422, "invalid_request", &["reason"]),
        (&long, 422, "invalid_request", &["reason"]),
    ];
    for (body, status, code, fields) in bad {
        let answer = daemon.tcp.post("/invoices/inv-1/cancel", body);
        assert_eq!(answer.status, *status, "{body:.60}: {}", answer.text());
        assert_problem(&answer, *status, code, fields);
    }
    let untyped = post_bytes(&daemon.tcp, "/invoices/inv-1/cancel", &[], b"{}");
    assert_problem(&untyped, 415, "unsupported_media_type", &[]);
    assert_eq!(
        daemon.invoice("inv-1")["status"],
        "PENDING",
        "nothing has happened"
    );
    let good: &[(&[(&str, &str)], &str)] = &[
        (&[], ""),
        (&[JSON], ""),
        (&[JSON], "{}"),
        (&[JSON], r#"{"reason":null}"#),
        (&[JSON], r#"{"reason":"x"}"#),
    ];
    for (n, (headers, body)) in good.iter().enumerate() {
        let id = format!("good-{n}");
        make(&daemon, &id, "sim:approve");
        post_bytes(
            &daemon.unix,
            &format!("/invoices/{id}/cancel"),
            headers,
            body.as_bytes(),
        )
        .expect(200);
    }
}
