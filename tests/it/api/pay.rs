//! `POST /invoices/{id}/pay` on every status, and `Prefer: wait`.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    JSON, PAYMENT, assert_fields, assert_nulls, assert_problem, assert_time, make, make_and_pay,
    make_paid, payments, post_bytes, set_paused, story, that_never_looks_up, types, until_payment,
};
use crate::support::daemon::Daemon;

#[test]
fn a_payment_has_all_its_fields_and_null_where_there_is_nothing() {
    let daemon = Daemon::start();
    set_paused(&daemon, true);
    make(&daemon, "inv-1", "sim:approve");
    let answer = daemon.tcp.post("/invoices/inv-1/pay", "");
    let requested = answer.expect(202);
    assert_fields(&requested, PAYMENT);
    assert_nulls(
        &requested,
        "gateway gateway_reference failure sent_at finished_at",
    );
    let id = requested["id"].as_str().unwrap();
    let uuid = uuid::Uuid::parse_str(id.strip_prefix("pay_").unwrap()).unwrap();
    assert_eq!(uuid.get_version_num(), 7);
    assert_eq!(requested["invoice_id"], "inv-1");
    assert_eq!(requested["attempt"], 1);
    assert_eq!(
        (&requested["amount"], &requested["currency"]),
        (&json!(1000), &json!("USD"))
    );
    assert_eq!(requested["status"], "REQUESTED");
    assert!(!requested["idempotency_key"].as_str().unwrap().is_empty());
    assert_time(&requested["requested_at"]);
    assert_time(&requested["due_at"]);
    let location = format!("/payments/{id}");
    assert_eq!(answer.header("location"), Some(location.as_str()));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(daemon.unix.get(&location).expect(200), requested);
    assert_eq!(payments(&daemon, "inv-1"), std::slice::from_ref(&requested));
    assert_eq!(daemon.invoice("inv-1")["status"], "PROCESSING");

    set_paused(&daemon, false);
    daemon.until_invoice("inv-1", "PAID");
    let succeeded = daemon.tcp.get(&location).expect(200);
    assert_fields(&succeeded, PAYMENT);
    assert_nulls(&succeeded, "failure");
    assert_eq!(
        (&succeeded["status"], &succeeded["gateway"]),
        (&json!("SUCCEEDED"), &json!("simulator"))
    );
    for field in "id attempt idempotency_key requested_at due_at".split(' ') {
        assert_eq!(succeeded[field], requested[field], "{field}");
    }
    assert_time(&succeeded["sent_at"]);
    assert_time(&succeeded["finished_at"]);
    let invoice = daemon.invoice("inv-1");
    assert_eq!(invoice["attempts"], 1);
    assert_time(&invoice["paid_at"]);
}

#[test]
fn a_declined_payment_says_why() {
    let daemon = Daemon::start();
    make_and_pay(&daemon, "inv-1", "sim:decline");
    daemon.until_invoice("inv-1", "FAILED");
    let failed = payments(&daemon, "inv-1").pop().unwrap();
    assert_fields(&failed, PAYMENT);
    assert_nulls(&failed, "gateway_reference");
    assert_eq!(failed["status"], "FAILED");
    assert_fields(&failed["failure"], "kind code message retryable");
    assert_eq!(failed["failure"]["code"], "do_not_honor");
    assert_eq!(failed["failure"]["retryable"], false);
}

#[test]
fn pay_on_every_status() {
    let daemon = that_never_looks_up();
    make_paid(&daemon, "paid");
    make_and_pay(&daemon, "failed", "sim:decline");
    daemon.until_invoice("failed", "FAILED");
    make(&daemon, "canceled", "sim:approve");
    daemon
        .unix
        .post("/invoices/canceled/cancel", "")
        .expect(200);
    make_and_pay(&daemon, "unknown", "sim:timeout");
    until_payment(&daemon, "unknown", "UNKNOWN");
    set_paused(&daemon, true);
    make(&daemon, "pending", "sim:approve");
    make_and_pay(&daemon, "requested", "sim:approve");

    // invoice, status of the answer, that of the payment, its attempt, and payments afterwards
    let rows = [
        ("pending", 202, "REQUESTED", 1, 1),
        ("requested", 200, "REQUESTED", 1, 1),
        ("unknown", 200, "UNKNOWN", 1, 1),
        ("paid", 200, "SUCCEEDED", 1, 1),
        ("failed", 202, "REQUESTED", 2, 2),
    ];
    for (id, status, payment_status, attempt, count) in rows {
        let answer = daemon.tcp.post(&format!("/invoices/{id}/pay"), "");
        let payment = answer.expect(status);
        assert_eq!(answer.header("location").is_some(), status == 202, "{id}");
        assert_fields(&payment, PAYMENT);
        assert_eq!(payment["status"], payment_status, "{id}");
        assert_eq!(payment["attempt"], attempt, "{id}");
        let all = payments(&daemon, id);
        assert_eq!(all.len(), count, "{id}");
        assert_eq!(all.last(), Some(&payment), "{id}");
        // Once more, it is the standing payment.
        let again = daemon
            .unix
            .post(&format!("/invoices/{id}/pay"), "{}")
            .expect(200);
        assert_eq!(again, payment, "{id}");
    }
    let requested = story(&daemon, "failed").pop().unwrap();
    assert_eq!(
        (&requested["type"], &requested["data"]["cause"]),
        (&json!("PaymentRequested"), &json!("manual"))
    );

    for (_, host) in daemon.hosts() {
        let conflict = host.post("/invoices/canceled/pay", "");
        assert_problem(&conflict, 409, "invoice_canceled", &[]);
        let missing = host.post("/invoices/nobodys/pay", "");
        assert_problem(&missing, 404, "invoice_not_found", &[]);
    }
    assert!(payments(&daemon, "canceled").is_empty());
}

#[test]
fn a_manual_retry_is_a_new_round_with_a_full_set_of_attempts() {
    let daemon = Daemon::with(&[("PAYD_RETRY__MAX_ATTEMPTS", "2")]);
    make_and_pay(&daemon, "inv-1", "sim:insufficient_funds");
    daemon.until_invoice("inv-1", "FAILED");
    daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "FAILED");
    let all = payments(&daemon, "inv-1");
    let attempts: Vec<_> = all
        .iter()
        .map(|it| it["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(
        attempts,
        [1, 2, 3, 4],
        "oldest first, and the numbers continue"
    );
    let keys: std::collections::BTreeSet<_> = all
        .iter()
        .map(|it| it["idempotency_key"].to_string())
        .collect();
    assert_eq!(keys.len(), 4);
    let causes: Vec<String> = story(&daemon, "inv-1")
        .iter()
        .filter(|it| it["type"] == "PaymentRequested")
        .map(|it| it["data"]["cause"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(causes, ["api", "retry", "manual", "retry"]);
    assert_eq!(daemon.invoice("inv-1")["attempts"], 4);
}

#[test]
fn a_retry_that_waits_says_until_when() {
    let daemon = Daemon::with(&[("PAYD_RETRY__BASE", "1h"), ("PAYD_RETRY__CAP", "1h")]);
    make_and_pay(&daemon, "inv-1", "sim:insufficient_funds");
    let waiting = {
        crate::support::daemon::until("the next payment is requested", || {
            payments(&daemon, "inv-1").len() == 2
        });
        payments(&daemon, "inv-1").pop().unwrap()
    };
    let invoice = daemon.invoice("inv-1");
    assert_eq!(invoice["status"], "PROCESSING");
    assert_eq!(invoice["next_attempt_at"], waiting["due_at"]);
    assert_eq!(invoice["attempts"], 2);
    let events = story(&daemon, "inv-1");
    assert_eq!(types(&events)[2..], ["PaymentFailed", "PaymentRequested"]);
    assert_eq!(events[2]["data"]["will_retry"], true);
    assert_eq!(events[2]["data"]["next_attempt_at"], waiting["due_at"]);
    assert_eq!(events[3]["data"]["due_at"], waiting["due_at"]);
    assert_eq!(events[2]["time"], events[3]["time"], "they are one commit");
    let standing = daemon.unix.post("/invoices/inv-1/pay", "").expect(200);
    assert_eq!(standing, waiting);
}

#[test]
fn the_body_of_pay_is_optional_and_strict() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    set_paused(&daemon, true);
    // content type, body, status, code, fields
    let json = Some("application/json");
    type Row<'r> = (Option<&'r str>, &'r str, u16, &'r str, &'r [&'r str]);
    #[rustfmt::skip]
    let bad: &[Row<'_>] = &[
        (json, "{", 400, "malformed_request", &[]),
        (json, "pay", 400, "malformed_request", &[]),
        (json, "[]", 422, "invalid_request", &[""]),
        (json, "null", 422, "invalid_request", &[""]),
        (json, r#"{"amount":1}"#, 422, "invalid_request", &["amount"]),
        (json, r#"{"payment_method":1}"#, 422, "invalid_request", &["payment_method"]),
        (json, r#"{"payment_method":""}"#, 422, "invalid_request", &["payment_method"]),
        (json, r#"{"payment_method":"a","payment_method":"a"}"#, 422, "invalid_request", &["payment_method"]),
        (None, "{}", 415, "unsupported_media_type", &[]),
        (Some("text/plain"), "{}", 415, "unsupported_media_type", &[]),
        (Some("text/plain"), "", 415, "unsupported_media_type", &[]),
        (Some("application/x-www-form-urlencoded"), "", 415, "unsupported_media_type", &[]),
    ];
    for (kind, body, status, code, fields) in bad {
        let headers: Vec<_> = kind.iter().map(|it| ("Content-Type", *it)).collect();
        for (_, host) in daemon.hosts() {
            let answer = post_bytes(host, "/invoices/inv-1/pay", &headers, body.as_bytes());
            assert_eq!(answer.status, *status, "{kind:?} {body}: {}", answer.text());
            assert_problem(&answer, *status, code, fields);
        }
    }
    let large = post_bytes(
        &daemon.unix,
        "/invoices/inv-1/pay",
        &[JSON],
        &[b' '; 65 * 1024],
    );
    assert_problem(&large, 413, "body_too_large", &[]);
    assert!(
        payments(&daemon, "inv-1").is_empty(),
        "nothing has happened"
    );
    let good: &[(&[(&str, &str)], &str)] = &[
        (&[], ""),
        (&[JSON], ""),
        (&[JSON], "{}"),
        (&[JSON], r#"{"payment_method":null}"#),
        (&[JSON], r#"{"payment_method":"sim:decline"}"#),
    ];
    for (n, (headers, body)) in good.iter().enumerate() {
        let id = format!("good-{n}");
        make(&daemon, &id, "sim:approve");
        let answer = post_bytes(
            &daemon.tcp,
            &format!("/invoices/{id}/pay"),
            headers,
            body.as_bytes(),
        );
        answer.expect(202);
    }
}

#[test]
fn wait_holds_the_answer_until_it_is_decided() {
    let daemon = Daemon::start();
    // method, and what the payment is when the invoice has left PROCESSING
    let rows = [
        ("sim:approve", "SUCCEEDED", 1),
        ("sim:decline", "FAILED", 1),
        ("sim:decline-then-approve", "SUCCEEDED", 2),
        ("sim:timeout", "SUCCEEDED", 1),
        ("sim:lost", "SUCCEEDED", 1),
        ("sim:insufficient_funds", "FAILED", 5),
    ];
    for (n, (method, status, attempt)) in rows.iter().enumerate() {
        let (_, host) = daemon.hosts()[n % 2];
        make(&daemon, &format!("inv-{n}"), method);
        let answer = host.post_with(
            &format!("/invoices/inv-{n}/pay"),
            &[("Prefer", "wait=60")],
            "",
        );
        let payment = answer.expect(200);
        assert_fields(&payment, PAYMENT);
        assert_eq!(payment["status"], *status, "{method}");
        assert_eq!(payment["attempt"], *attempt, "{method}");
        let invoice = daemon.invoice(&format!("inv-{n}"));
        assert_eq!(
            invoice["status"] == "PAID",
            *status == "SUCCEEDED",
            "{method}"
        );
        assert_eq!(
            payments(&daemon, &format!("inv-{n}")).last(),
            Some(&payment)
        );
    }
}

#[test]
fn wait_ends_with_202_when_the_time_is_up() {
    let daemon = that_never_looks_up();
    make(&daemon, "inv-1", "sim:timeout");
    let start = Instant::now();
    let answer = daemon
        .tcp
        .post_with("/invoices/inv-1/pay", &[("Prefer", "wait=1")], "");
    let took = start.elapsed();
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(30)).contains(&took),
        "{took:?}"
    );
    let payment = answer.expect(202);
    assert_eq!(
        payment["status"], "UNKNOWN",
        "as it stands at the end, not at the start"
    );
    let location = format!("/payments/{}", payment["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), Some(location.as_str()));
    // Asked again, it is the standing payment, and as undecided.
    let again = daemon
        .unix
        .post_with("/invoices/inv-1/pay", &[("Prefer", "wait=1")], "");
    assert_eq!(again.expect(202)["id"], payment["id"]);
}

#[test]
fn a_wait_that_cannot_be_read_is_passed_over_and_a_long_one_is_clamped() {
    let daemon = that_never_looks_up();
    make_and_pay(&daemon, "open", "sim:timeout");
    for odd in [
        "wait",
        "wait=",
        "wait=soon",
        "wait=-1",
        "wait=1.5",
        "respond-async",
        ",,=",
        "\"",
        "wait=0",
    ] {
        let start = Instant::now();
        let answer = daemon
            .unix
            .post_with("/invoices/open/pay", &[("Prefer", odd)], "");
        assert!(
            matches!(answer.status, 200 | 202),
            "{odd}: {}",
            answer.text()
        );
        assert!(start.elapsed() < Duration::from_secs(30), "{odd}");
    }
    // What is decided is not waited for, however long one may.
    make_paid(&daemon, "paid");
    for long in [
        "wait=61",
        "wait=99999",
        "wait=99999999999999999999999",
        "Wait=\"60\"",
        "foo; bar, wait=60",
    ] {
        let start = Instant::now();
        let payment = daemon
            .tcp
            .post_with("/invoices/paid/pay", &[("Prefer", long)], "")
            .expect(200);
        assert_eq!(payment["status"], "SUCCEEDED");
        assert!(start.elapsed() < Duration::from_secs(30), "{long}");
    }
    make(&daemon, "later", "sim:decline");
    let payment = daemon
        .tcp
        .post_with("/invoices/later/pay", &[("Prefer", "wait=99999")], "")
        .expect(200);
    assert_eq!(payment["status"], "FAILED");
}

#[test]
fn whoever_waits_is_told_when_somebody_else_decides() {
    let daemon = that_never_looks_up();
    for (as_, status) in [("succeeded", "SUCCEEDED"), ("failed", "FAILED")] {
        make(&daemon, as_, "sim:timeout");
        // One key, so that whoever comes late asks for that payment still, and for no new round.
        let pay = format!("/invoices/{as_}/pay");
        let send = |more: &[(&str, &str)]| {
            let all = [&[("Idempotency-Key", as_)], more].concat();
            daemon.unix.post_with(&pay, &all, "")
        };
        let payment = send(&[]);
        until_payment(&daemon, as_, "UNKNOWN");
        let path = format!(
            "/payments/{}/resolve",
            payment.json()["id"].as_str().unwrap()
        );
        let body = json!({"as": as_, "reason": "seen at the gateway"}).to_string();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| send(&[("Prefer", "wait=60")]));
            daemon.unix.post(&path, &body).expect(200);
            assert_eq!(waiting.join().unwrap().expect(200)["status"], status);
        });
    }
    // Canceled while it waits for its turn.
    set_paused(&daemon, true);
    make_and_pay(&daemon, "canceled", "sim:approve");
    let waiting = {
        let host = daemon.unix.clone();
        std::thread::spawn(move || {
            host.post_with("/invoices/canceled/pay", &[("Prefer", "wait=60")], "")
        })
    };
    daemon
        .unix
        .post("/invoices/canceled/cancel", "")
        .expect(200);
    let answer = waiting.join().unwrap();
    match answer.status {
        200 => assert_eq!(answer.json()["status"], "CANCELED"),
        // It came after the cancel.
        _ => assert_problem(&answer, 409, "invoice_canceled", &[]),
    }
}
