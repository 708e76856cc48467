//! `GET /payments/{id}` and `POST /payments/{id}/resolve`: an operator's word.

use serde_json::json;

use super::{
    PAYMENT, assert_fields, assert_nulls, assert_problem, assert_time, make, make_and_pay,
    make_paid, payments, set_paused, story, that_never_looks_up, types, until_payment,
};
use crate::support::daemon::Daemon;

#[test]
fn an_operators_word_decides_what_is_unknown() {
    let daemon = that_never_looks_up();
    // what is said, over which transport, and what then is
    let uid = format!("uid:{}", rustix::process::getuid().as_raw());
    let rows = [
        (
            json!({"as": "succeeded", "reason": "on the statement", "gateway_reference": "ch_7"}),
            0,
            "SUCCEEDED",
            "PAID",
        ),
        (
            json!({"as": "succeeded", "reason": "on the statement"}),
            1,
            "SUCCEEDED",
            "PAID",
        ),
        (
            json!({"as": "failed", "reason": "the bank says no"}),
            1,
            "FAILED",
            "FAILED",
        ),
        (
            json!({"as": "failed", "reason": "x", "gateway_reference": null}),
            0,
            "FAILED",
            "FAILED",
        ),
    ];
    for (n, (word, transport, status, invoice_status)) in rows.iter().enumerate() {
        let id = format!("inv-{n}");
        let payment = make_and_pay(&daemon, &id, "sim:timeout");
        let unknown = until_payment(&daemon, &id, "UNKNOWN");
        assert_nulls(&unknown, "gateway_reference failure finished_at");
        let path = format!("/payments/{}/resolve", payment["id"].as_str().unwrap());
        let (name, host) = daemon.hosts()[*transport];

        let answer = host.post(&path, &word.to_string());
        let resolved = answer.expect(200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_fields(&resolved, PAYMENT);
        assert_eq!(resolved["status"], *status, "{word}");
        assert_time(&resolved["finished_at"]);
        assert_eq!(resolved["idempotency_key"], payment["idempotency_key"]);
        if *status == "SUCCEEDED" {
            assert_eq!(resolved["gateway_reference"], word["gateway_reference"]);
            assert!(resolved["failure"].is_null());
        } else {
            assert_fields(&resolved["failure"], "kind code message retryable");
            assert_eq!(resolved["failure"]["retryable"], false);
        }
        assert_eq!(
            payments(&daemon, &id),
            [resolved],
            "never retried on its own"
        );
        let invoice = daemon.invoice(&id);
        assert_eq!(invoice["status"], *invoice_status);
        assert_eq!(invoice["paid_at"].is_null(), *status == "FAILED");

        // What was said precedes what it causes, in one commit.
        let events = story(&daemon, &id);
        let outcome = if *status == "SUCCEEDED" {
            "PaymentSucceeded"
        } else {
            "PaymentFailed"
        };
        assert_eq!(types(&events)[3..], ["PaymentResolved", outcome]);
        let said = &events[3]["data"];
        assert_eq!(
            (&said["as"], &said["reason"]),
            (&word["as"], &word["reason"])
        );
        let actor = if name == "unix" {
            uid.as_str()
        } else {
            "admin"
        };
        assert_eq!(said["actor"], actor);
        assert_eq!(events[4]["data"]["invoice_status"], *invoice_status);
        assert_eq!(events[3]["time"], events[4]["time"]);
        if *status == "FAILED" {
            assert_eq!(events[4]["data"]["will_retry"], false);
            assert!(events[4]["data"]["next_attempt_at"].is_null());
        }

        // It is decided, and stays so.
        let again = host.post(&path, &word.to_string());
        assert_problem(&again, 409, "payment_not_resolvable", &[]);
        assert_eq!(story(&daemon, &id).len(), 5);
    }
    daemon.verify();
}

#[test]
fn only_what_is_unknown_is_open_to_an_operators_word() {
    let daemon = Daemon::with(&[
        ("PAYD_GATEWAY__TIMEOUT", "1h"),
        ("PAYD_RETRY__BASE", "1h"),
        ("PAYD_RETRY__CAP", "1h"),
    ]);
    make_paid(&daemon, "succeeded");
    make_and_pay(&daemon, "failed", "sim:decline");
    until_payment(&daemon, "failed", "FAILED");
    // The gateway never answers, and payd waits for it.
    make_and_pay(&daemon, "sending", "sim:timeout");
    until_payment(&daemon, "sending", "SENDING");
    set_paused(&daemon, true);
    make_and_pay(&daemon, "requested", "sim:approve");
    make_and_pay(&daemon, "canceled", "sim:approve");
    daemon
        .unix
        .post("/invoices/canceled/cancel", "")
        .expect(200);
    let before = daemon.events().len();
    for id in ["succeeded", "failed", "sending", "requested", "canceled"] {
        let standing = payments(&daemon, id).pop().unwrap();
        assert_eq!(standing["status"], id.to_uppercase());
        let path = format!("/payments/{}/resolve", standing["id"].as_str().unwrap());
        for as_ in ["succeeded", "failed"] {
            let body = json!({"as": as_, "reason": "x"}).to_string();
            for (_, host) in daemon.hosts() {
                assert_problem(&host.post(&path, &body), 409, "payment_not_resolvable", &[]);
            }
        }
        assert_eq!(payments(&daemon, id).pop(), Some(standing));
    }
    assert_eq!(daemon.events().len(), before);
}

#[test]
fn a_word_has_an_outcome_and_a_reason() {
    let daemon = that_never_looks_up();
    let payment = make_and_pay(&daemon, "inv-1", "sim:timeout");
    until_payment(&daemon, "inv-1", "UNKNOWN");
    let path = format!("/payments/{}/resolve", payment["id"].as_str().unwrap());
    let long = json!({"as": "failed", "reason": "x".repeat(60_000)}).to_string();
    #[rustfmt::skip]
    let rows: &[(&str, u16, &str, &[&str])] = &[
        ("", 400, "malformed_request", &[]),
        ("{", 400, "malformed_request", &[]),
        ("[]", 422, "invalid_request", &[""]),
        ("{}", 422, "invalid_request", &["as", "reason"]),
        (r#"{"as":"failed"}"#, 422, "invalid_request", &["reason"]),
        (r#"{"reason":"x"}"#, 422, "invalid_request", &["as"]),
        (r#"{"as":null,"reason":null}"#, 422, "invalid_request", &["as", "reason"]),
        (r#"{"as":"failed","reason":""}"#, 422, "invalid_request", &["reason"]),
        (r#"{"as":"FAILED","reason":"x"}"#, 422, "invalid_request", &["as"]),
        (r#"{"as":"canceled","reason":"x"}"#, 422, "invalid_request", &["as"]),
        (r#"{"as":true,"reason":"x"}"#, 422, "invalid_request", &["as"]),
        (r#"{"as":"failed","reason":7}"#, 422, "invalid_request", &["reason"]),
        (r#"{"as":"failed","reason":"x","reason":"y"}"#, 422, "invalid_request", &["reason"]),
        (r#"{"as":"failed","reason":"x","force":true}"#, 422, "invalid_request", &["force"]),
        (r#"{"as":"failed","reason":"x","gateway_reference":7}"#, 422, "invalid_request", &["gateway_reference"]),
        (&long, 422, "invalid_request", &["reason"]),
    ];
    for (body, status, code, fields) in rows {
        for (_, host) in daemon.hosts() {
            let headers = [super::JSON];
            let answer = super::post_bytes(host, &path, &headers, body.as_bytes());
            assert_eq!(answer.status, *status, "{body:.60}: {}", answer.text());
            assert_problem(&answer, *status, code, fields);
        }
    }
    assert_eq!(
        payments(&daemon, "inv-1")[0]["status"],
        "UNKNOWN",
        "nothing has happened"
    );
}

#[test]
fn no_payment_has_what_is_no_id() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    let ids = [
        "pay_01890a5d-ac96-774b-bcce-b302099a8057",
        "inv-1",
        "pay_",
        "pay_1",
        "..",
        "%2e%2e",
        "%ff",
        &"x".repeat(300),
    ];
    for id in ids {
        for (_, host) in daemon.hosts() {
            let shown = host.get(&format!("/payments/{id}"));
            assert_eq!(shown.status, 404, "{id}");
            assert_problem(&shown, 404, "payment_not_found", &[]);
            let body = r#"{"as":"failed","reason":"x"}"#;
            let resolved = host.post(&format!("/payments/{id}/resolve"), body);
            assert_problem(&resolved, 404, "payment_not_found", &[]);
        }
    }
}
