//! Every behaviour of the simulator, to its final state, by what the log tells.

use crate::support::daemon::Daemon;

/// Types of an invoice's events after its creation.
fn story(daemon: &Daemon, id: &str) -> Vec<String> {
    let page = daemon
        .unix
        .get(&format!("/events?invoice={id}"))
        .expect(200);
    let types = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["type"].as_str().unwrap().to_owned());
    types.skip(1).collect()
}

#[test]
fn each_token_comes_to_its_end() {
    let daemon = Daemon::start();
    let requested = "PaymentRequested";
    let succeeded = "PaymentSucceeded";
    let failed = "PaymentFailed";
    // token, final status, and the story that leads there
    let rows: &[(Option<&str>, &str, &[&str])] = &[
        (None, "PAID", &[requested, succeeded]),
        (Some("sim:approve"), "PAID", &[requested, succeeded]),
        (
            Some("tok_of_somebody_else"),
            "PAID",
            &[requested, succeeded],
        ),
        (Some("sim:decline"), "FAILED", &[requested, failed]),
        (
            Some("sim:insufficient_funds"),
            "FAILED",
            &[
                requested, failed, requested, failed, requested, failed, requested, failed,
                requested, failed,
            ],
        ),
        (
            Some("sim:decline-then-approve"),
            "PAID",
            &[requested, failed, requested, succeeded],
        ),
        // The daemon of this test gives up on an answer after 300 ms, so 2 s are too slow.
        (
            Some("sim:slow"),
            "PAID",
            &[requested, "PaymentUnknown", succeeded],
        ),
        (
            Some("sim:pending"),
            "PAID",
            &[requested, "PaymentAccepted", succeeded],
        ),
        (
            Some("sim:timeout"),
            "PAID",
            &[requested, "PaymentUnknown", succeeded],
        ),
        (
            Some("sim:lost"),
            "PAID",
            &[requested, "PaymentUnknown", requested, succeeded],
        ),
        (Some("sim:no-such-thing"), "FAILED", &[requested, failed]),
    ];
    for (n, (token, ..)) in rows.iter().enumerate() {
        let body =
            serde_json::json!({"id": format!("inv-{n}"), "amount": 1000, "payment_method": token});
        daemon.unix.post("/invoices", &body.to_string()).expect(201);
        daemon
            .unix
            .post(&format!("/invoices/inv-{n}/pay"), "")
            .expect(202);
    }
    for (n, (token, status, want)) in rows.iter().enumerate() {
        let id = format!("inv-{n}");
        daemon.until_invoice(&id, status);
        assert_eq!(story(&daemon, &id), *want, "{token:?}");
        let payments = daemon
            .unix
            .get(&format!("/invoices/{id}/payments"))
            .expect(200);
        let succeeded = payments["payments"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|it| it["status"] == "SUCCEEDED")
            .count();
        assert_eq!(succeeded, usize::from(*status == "PAID"), "{token:?}");
    }
    daemon.verify();
}

#[test]
fn a_payment_keeps_its_key_when_it_is_sent_again_and_gets_another_when_it_was_declined() {
    let daemon = Daemon::start();
    for (id, method) in [
        ("lost", "sim:lost"),
        ("declined", "sim:decline-then-approve"),
    ] {
        let body = serde_json::json!({"id": id, "amount": 1000, "payment_method": method});
        daemon.unix.post("/invoices", &body.to_string()).expect(201);
        daemon
            .unix
            .post(&format!("/invoices/{id}/pay"), "")
            .expect(202);
        daemon.until_invoice(id, "PAID");
    }
    let keys = |id: &str| -> Vec<String> {
        let page = daemon
            .unix
            .get(&format!("/invoices/{id}/payments"))
            .expect(200);
        page["payments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["idempotency_key"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys("lost").len(), 1);
    let declined = keys("declined");
    assert_eq!(declined.len(), 2);
    assert_ne!(declined[0], declined[1]);
}

#[test]
fn a_method_named_with_pay_is_that_payments_own() {
    let daemon = Daemon::start();
    daemon
        .unix
        .post(
            "/invoices",
            r#"{"id":"inv-1","amount":1000,"payment_method":"sim:approve"}"#,
        )
        .expect(201);
    daemon
        .unix
        .post("/invoices/inv-1/pay", r#"{"payment_method":"sim:decline"}"#)
        .expect(202);
    let invoice = daemon.until_invoice("inv-1", "FAILED");
    assert_eq!(
        invoice["payment_method"], "sim:approve",
        "the invoice's content never changes"
    );
    daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "PAID");
}

#[test]
fn weather_falls_on_payments_that_ask_for_nothing_special() {
    let daemon = Daemon::with(&[("PAYD_GATEWAY__SIMULATOR__DECLINE_RATE", "1.0")]);
    daemon
        .unix
        .post("/invoices", r#"{"id":"plain","amount":1000}"#)
        .expect(201);
    daemon
        .unix
        .post(
            "/invoices",
            r#"{"id":"special","amount":1000,"payment_method":"sim:approve"}"#,
        )
        .expect(201);
    for id in ["plain", "special"] {
        daemon
            .unix
            .post(&format!("/invoices/{id}/pay"), "")
            .expect(202);
    }
    daemon.until_invoice("plain", "FAILED");
    daemon.until_invoice("special", "PAID");
}
