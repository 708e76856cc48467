//! Paying and waiting: exit 0 means PAID, and nothing is ever asked for with a second key.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::json;

use super::{PAY_1, err, event, exits, invoice, out, payment};
use crate::support::scripted::{Asked, Reply, Scripted};

/// Answers `pay` at once with REQUESTED, a wait with the payment as given, and the invoice as
/// given.
fn story(asked: &Asked, payment_status: &str, invoice_status: &str) -> Reply {
    match asked.route().as_str() {
        "POST /invoices/inv-1/pay" if asked.header("prefer").is_some() => {
            Reply::json(200, payment(payment_status).to_string())
        }
        "POST /invoices/inv-1/pay" => Reply::json(202, payment("REQUESTED").to_string()),
        "GET /invoices/inv-1" => Reply::json(200, invoice("inv-1", invoice_status, 1).to_string()),
        "GET /invoices/inv-1/payments" => Reply::json(
            200,
            json!({"payments": [payment(payment_status)]}).to_string(),
        ),
        "GET /events" => Reply::Open(vec![String::new()]),
        _ => Reply::json(200, payment(payment_status).to_string()),
    }
}

#[test]
fn the_exit_code_is_what_the_invoice_says() {
    for (payment_status, invoice_status, exit) in [
        ("SUCCEEDED", "PAID", 0),
        ("FAILED", "FAILED", 7),
        ("CANCELED", "CANCELED", 6),
        ("UNKNOWN", "PROCESSING", 8),
    ] {
        let server = Scripted::start(move |asked, _| story(asked, payment_status, invoice_status));
        let output = server.payctl(&["pay", "inv-1", "--timeout", "300ms", "-o", "json"]);
        exits(&output, exit);
        let printed: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
        assert_eq!(printed, payment(payment_status));
        let said = err(&output);
        assert!(
            said.starts_with(&format!("payment {PAY_1} requested\n")),
            "{said}"
        );
        let asked = server.asked_for("POST /invoices/inv-1/pay");
        let key = asked[0].header("idempotency-key").unwrap();
        assert!(
            asked
                .iter()
                .all(|asked| asked.header("idempotency-key") == Some(key))
        );
    }
}

#[test]
fn a_later_payment_that_decided_is_the_one_shown() {
    let second = || {
        let mut second = payment("SUCCEEDED");
        second["id"] = json!("pay_second");
        second["attempt"] = json!(2);
        second
    };
    let server = Scripted::start(move |asked, _| match asked.route().as_str() {
        "GET /invoices/inv-1" => Reply::json(200, invoice("inv-1", "PAID", 2).to_string()),
        "GET /invoices/inv-1/payments" => {
            let payments = json!({"payments": [payment("FAILED"), second()]});
            Reply::json(200, payments.to_string())
        }
        "GET /payments/pay_second" => Reply::json(200, second().to_string()),
        _ => story(asked, "FAILED", "PAID"),
    });
    let output = server.payctl(&["pay", "inv-1", "-o", "name"]);
    exits(&output, 0);
    assert_eq!(out(&output), "pay_second\n");
}

#[test]
fn no_wait_returns_once_it_is_taken() {
    let server = Scripted::start(|asked, _| story(asked, "UNKNOWN", "PROCESSING"));
    let output = server.payctl(&["pay", "inv-1", "--no-wait", "--method", "sim:slow"]);
    exits(&output, 0);
    assert!(out(&output).contains("REQUESTED"), "{}", out(&output));
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].text(), r#"{"payment_method":"sim:slow"}"#);
}

#[test]
fn whatever_breaks_the_same_key_asks_again() {
    let server = Scripted::start(|asked, before| match before {
        0 => Reply::Drop,
        1 => Reply::problem(503, "unavailable", "Later").with("Retry-After", "0"),
        2 => Reply::problem(409, "request_in_progress", "Later").with("Retry-After", "0"),
        4 => Reply::Drop, // the first wait
        _ => story(asked, "SUCCEEDED", "PAID"),
    });
    let output = server.payctl(&["pay", "inv-1", "--idempotency-key", "mine"]);
    exits(&output, 0);
    let asked = server.asked_for("POST /invoices/inv-1/pay");
    assert!(asked.len() >= 5, "{asked:#?}");
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("idempotency-key") == Some("mine"))
    );
}

#[test]
fn a_request_that_may_have_arrived_is_undecided() {
    let server = Scripted::start(|_, _| Reply::Drop);
    let output = server.payctl(&["pay", "inv-1", "--timeout", "200ms"]);
    exits(&output, 8);
    let said = err(&output);
    assert!(
        said.contains("do not pay anew") && said.contains("--idempotency-key"),
        "{said}"
    );
    assert_eq!(out(&output), "");
}

#[test]
fn a_payd_that_goes_away_while_it_is_waited_for_leaves_it_undecided() {
    let server = Scripted::start(|asked, before| match before {
        0 => story(asked, "UNKNOWN", "PROCESSING"),
        _ => Reply::Drop,
    });
    let output = server.payctl(&["pay", "inv-1", "--timeout", "300ms"]);
    exits(&output, 8);
    assert!(
        err(&output).contains("payctl wait inv-1"),
        "{}",
        err(&output)
    );
    assert!(out(&output).contains("REQUESTED"), "{}", out(&output));
}

#[test]
fn what_payd_refuses_is_refused() {
    for (status, code, exit) in [
        (409, "invoice_canceled", 6),
        (404, "invoice_not_found", 5),
        (422, "idempotency_key_reused", 6),
    ] {
        let server = Scripted::start(move |_, _| Reply::problem(status, code, "No"));
        let output = server.payctl(&["pay", "inv-1", "-o", "json"]);
        exits(&output, exit);
        let problem: serde_json::Value = serde_json::from_str(&err(&output)).unwrap();
        assert_eq!(problem["code"], code);
    }
    let server = Scripted::start(|_, _| Reply::problem(503, "unavailable", "Full"));
    exits(&server.payctl(&["pay", "inv-1", "--timeout", "0s"]), 1);
}

#[test]
fn interrupted_it_says_that_payd_goes_on() {
    let server = Scripted::start(|asked, _| match asked.header("prefer") {
        Some(_) => Reply::Open(vec![]),
        None => story(asked, "UNKNOWN", "PROCESSING"),
    });
    let mut child = server
        .command(&["pay", "inv-1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("requested"), "{line}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    line.clear();
    stderr.read_line(&mut line).unwrap();
    assert!(
        line.contains("payd goes on") && line.contains("payctl wait inv-1"),
        "{line}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn wait_is_woken_by_an_event_and_believes_the_invoice() {
    let server = Scripted::start(|asked, _| match asked.route().as_str() {
        "GET /events" => {
            assert!(asked.target.contains("invoice=inv-1"), "{}", asked.target);
            Reply::Open(vec![String::new(), event(7, "PaymentSucceeded")])
        }
        _ => Reply::json(200, invoice("inv-1", "PROCESSING", 1).to_string()),
    });
    exits(&server.payctl(&["wait", "inv-1", "--timeout", "300ms"]), 8);
    // Before the stream, when it opened, and after the event: no polling in between.
    assert_eq!(server.asked_for("GET /invoices/inv-1").len(), 3);
}

#[test]
fn wait_has_the_exit_codes_of_what_it_waits_for() {
    for (goal, status, exit) in [
        ("paid", "PAID", 0),
        ("paid", "FAILED", 7),
        ("paid", "CANCELED", 6),
        ("failed", "FAILED", 0),
        ("failed", "PAID", 6),
        ("final", "CANCELED", 0),
    ] {
        let server =
            Scripted::start(move |_, _| Reply::json(200, invoice("inv-1", status, 1).to_string()));
        let output = server.payctl(&["wait", "inv-1", "--for", goal, "-o", "json"]);
        exits(&output, exit);
        assert_eq!(out(&output), format!("{}\n", invoice("inv-1", status, 1)));
    }
}

#[test]
fn wait_outlives_a_payd_that_goes_and_comes_back() {
    let server = Scripted::start(|asked, before| match asked.route().as_str() {
        "GET /events" if before < 6 => Reply::Drop,
        "GET /events" => Reply::Open(vec![]),
        _ if before == 0 => Reply::json(200, invoice("inv-1", "PROCESSING", 1).to_string()),
        _ if before < 6 => Reply::Drop,
        _ => Reply::json(200, invoice("inv-1", "PAID", 1).to_string()),
    });
    exits(&server.payctl(&["wait", "inv-1"]), 0);
}

#[test]
fn a_payd_that_falls_silent_after_taking_it_leaves_it_undecided_in_time() {
    let server = Scripted::start(|asked, before| match before {
        0 => story(asked, "UNKNOWN", "PROCESSING"),
        _ => Reply::Open(vec![]),
    });
    let started = std::time::Instant::now();
    let output = server.payctl(&["pay", "inv-1", "--timeout", "1s"]);
    let took = started.elapsed();
    exits(&output, 8);
    assert!(took < std::time::Duration::from_secs(4), "{took:?}");
    assert!(
        err(&output).contains("payd gave no answer"),
        "{}",
        err(&output)
    );
}
