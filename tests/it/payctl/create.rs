//! One invoice at a time.

use serde_json::{Value, json};

use super::{err, exits, invoice, out, payment};
use crate::support::scripted::{Reply, Scripted, payctl};

fn created() -> Reply {
    Reply::json(201, invoice("inv-1", "PENDING", 0).to_string())
}

#[test]
fn what_was_typed_is_sent_and_nothing_else() {
    let server = Scripted::start(|_, _| created());
    let output = server.payctl(&[
        "invoice",
        "create",
        "inv-1",
        "--amount",
        "1000",
        "--currency",
        "USD",
        "--description",
        "Tea",
        "--metadata",
        "order=7",
        "--metadata",
        "note=a=b",
        "--method",
        "sim:slow",
        "--due",
        "2026-12-24",
    ]);
    exits(&output, 0);
    assert!(out(&output).contains("10.00 USD"), "{}", out(&output));
    let asked = &server.asked()[0];
    assert_eq!(asked.route(), "POST /invoices");
    assert_eq!(asked.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    let expected = json!({
        "id": "inv-1", "amount": 1000, "currency": "USD", "description": "Tea",
        "metadata": {"order": "7", "note": "a=b"}, "payment_method": "sim:slow",
        "due_at": "2026-12-24T00:00:00Z",
    });
    assert_eq!(body, expected);

    server.payctl(&["invoice", "create", "--amount", "5"]);
    assert_eq!(server.asked()[1].text(), r#"{"amount":5}"#);
}

#[test]
fn a_decimal_is_refused_with_what_was_meant() {
    for (args, meant) in [
        (vec!["--amount", "10.00"], "--amount 1000"),
        (
            vec!["--amount", "10.00", "--currency", "JPY"],
            "--amount 10\n",
        ),
        (
            vec!["--amount", "10.00", "--currency", "KWD"],
            "--amount 10000",
        ),
        (vec!["--amount=-5"], "from 1 to"),
        (vec!["--amount", "-5"], "from 1 to"),
    ] {
        let mut command = payctl();
        // Nobody is asked: an address that nobody answers at.
        command
            .args(["--host", "unix:///nowhere", "invoice", "create"])
            .args(&args);
        let output = command.output().unwrap();
        exits(&output, 2);
        assert!(err(&output).contains(meant), "{args:?}: {}", err(&output));
    }
}

#[test]
fn a_broken_connection_is_met_with_the_same_key() {
    let server = Scripted::start(|_, before| if before < 2 { Reply::Drop } else { created() });
    let output = server.payctl(&["invoice", "create", "--amount", "5"]);
    exits(&output, 0);
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    let key = asked[0].header("idempotency-key").unwrap();
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("idempotency-key") == Some(key))
    );
    assert_eq!(asked[0].body, asked[2].body);
}

#[test]
fn metadata_that_is_doubled_or_no_pair_is_refused() {
    for value in ["a", "=b"] {
        let output = payctl()
            .args(["invoice", "create", "--amount", "5", "--metadata", value])
            .output()
            .unwrap();
        exits(&output, 2);
    }
    let args = [
        "invoice",
        "create",
        "--amount",
        "5",
        "--metadata",
        "a=1",
        "--metadata",
        "a=2",
    ];
    let output = payctl().args(args).output().unwrap();
    exits(&output, 2);
    assert!(err(&output).contains("twice"), "{}", err(&output));
}

#[test]
fn other_content_under_the_same_id_is_a_conflict() {
    let server = Scripted::start(|_, _| Reply::problem(409, "invoice_exists", "Take another id"));
    exits(
        &server.payctl(&["invoice", "create", "inv-1", "--amount", "5"]),
        6,
    );
}

#[test]
fn created_and_paid_in_one_go() {
    let server = Scripted::start(|asked, _| match asked.route().as_str() {
        "POST /invoices" => created(),
        "POST /invoices/inv-1/pay" => Reply::json(202, payment("SUCCEEDED").to_string()),
        _ => Reply::json(200, invoice("inv-1", "PAID", 1).to_string()),
    });
    let args = [
        "invoice",
        "create",
        "--amount",
        "1000",
        "--pay",
        "--idempotency-key",
        "K",
    ];
    let output = server.payctl(&args);
    exits(&output, 0);
    let pay = &server.asked_for("POST /invoices/inv-1/pay")[0];
    assert_eq!(pay.header("idempotency-key"), Some("K/pay"));
}

#[test]
fn a_cancel_that_is_only_requested_says_so() {
    let server =
        Scripted::start(|_, _| Reply::json(202, invoice("inv-1", "PROCESSING", 1).to_string()));
    let output = server.payctl(&["invoice", "cancel", "inv-1", "--reason", "typo"]);
    exits(&output, 0);
    assert!(err(&output).contains("only requested"), "{}", err(&output));
    assert_eq!(server.asked()[0].text(), r#"{"reason":"typo"}"#);
    let quiet = server.payctl(&["-q", "invoice", "cancel", "inv-1"]);
    assert_eq!(err(&quiet), "");
}
