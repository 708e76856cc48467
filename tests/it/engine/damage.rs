//! Rows that are not what payd wrote: their invoices are set aside before money moves for them, and the others
//! go on. SQLite finds none of these by itself.

use std::time::Duration;

use payd::application::request::SubmitError;

use super::bench::{Bench, approved, declined, pay};
use super::faulty::Wrong;

/// Three invoices in each of the states from which money may move, or has moved.
fn bench() -> Bench {
    let mut bench = Bench::new();
    for id in ["new", "new-2", "paid", "failed", "retry", "retry-2"] {
        bench.create(id).unwrap();
    }
    for (id, outcome) in [
        ("paid", approved()),
        ("failed", declined(false)),
        ("retry", declined(true)),
        ("retry-2", declined(true)),
    ] {
        bench.pay(id).unwrap();
        let sent = bench.claim_due().remove(0);
        bench.settle(&sent, outcome).unwrap();
    }
    bench
}

#[test]
fn no_money_moves_for_an_invoice_that_is_not_what_its_events_say() {
    // What is changed, and of which invoice.
    let rows = [
        ("new", "UPDATE invoices SET amount = amount + 1 WHERE id = 'new'"),
        ("new", "UPDATE invoices SET currency = 'EUR' WHERE id = 'new'"),
        ("new", "UPDATE invoices SET payment_method = 'another' WHERE id = 'new'"),
        ("new", "UPDATE invoices SET metadata = '{' WHERE id = 'new'"),
        ("new", "UPDATE invoices SET attempts = 1 WHERE id = 'new'"),
        ("paid", "UPDATE invoices SET status = 0, paid_at = NULL WHERE id = 'paid'"),
        ("paid", "UPDATE invoices SET status = 3, paid_at = NULL WHERE id = 'paid'"),
        ("failed", "UPDATE invoices SET amount = amount + 1 WHERE id = 'failed'"),
        ("failed", "UPDATE invoices SET attempts_before_round = 1 WHERE id = 'failed'"),
        (
            "new",
            "DROP TRIGGER events_never_change; UPDATE events SET packed = CAST(replace(packed, '1000', '1001') AS BLOB)
             WHERE invoice = (SELECT n FROM invoices WHERE id = 'new')",
        ),
    ];
    for (id, sql) in rows {
        let mut bench = bench();
        bench.database().execute_batch(sql).unwrap();
        bench.restart();
        let answers = bench.batch(vec![(pay(id), None), (pay("new-2"), None)]);
        assert!(
            matches!(answers[0], Err(SubmitError::Internal(_))),
            "{sql}: {:?}",
            answers[0]
        );
        let sent = bench.claim_due();
        assert_eq!(sent.len(), 1, "{sql}");
        assert_eq!(sent[0].invoice.id.as_str(), "new-2", "{sql}");
    }
}

#[test]
fn a_retry_that_is_not_what_its_events_say_is_not_sent_and_the_others_are() {
    for change in [
        "UPDATE payments SET method = 'another'",
        "UPDATE payments SET idempotency_key = 'payd_0000000000000000000000000000000000000000'",
        "UPDATE payments SET attempt = 7",
        "UPDATE invoices SET amount = 1 + (SELECT max(amount) FROM invoices)",
    ] {
        let mut bench = bench();
        let n = "(SELECT n FROM invoices WHERE id = 'retry')";
        let sql = match change.contains("invoices SET") {
            true => format!("{change} WHERE id = 'retry'"),
            false => format!("{change} WHERE state = 0 AND invoice = {n}"),
        };
        bench.database().execute_batch(&sql).unwrap();
        bench.restart();
        bench.pass(Duration::from_secs(10));
        let sent = bench.claim_due();
        assert_eq!(sent.len(), 1, "{sql}");
        assert_eq!(sent[0].invoice.id.as_str(), "retry-2", "{sql}");
    }
}

#[test]
fn an_invoice_that_cannot_be_recovered_keeps_no_other_from_it() {
    let two = || {
        let mut bench = Bench::new();
        for id in ["a", "b"] {
            bench.create(id).unwrap();
            bench.pay(id).unwrap();
        }
        assert_eq!(bench.claim_due().len(), 2);
        bench
    };
    let poison = [
        "UPDATE invoices SET metadata = '{' WHERE id = 'a'",
        "UPDATE invoices SET id = 'no id' WHERE id = 'a'",
        "UPDATE payments SET sent_at = 9223372036854775807 WHERE invoice = 1",
        "UPDATE invoices SET attempts = 2 WHERE id = 'a'",
    ];
    for sql in poison {
        let mut bench = two();
        // A bit that flips asks no constraint.
        let database = bench.database();
        database
            .execute_batch(&format!("PRAGMA ignore_check_constraints = ON; {sql}"))
            .unwrap();
        bench.restart();
        assert_eq!(bench.state("b"), ("PROCESSING", vec!["UNKNOWN"]), "{sql}");
        bench.create("c").unwrap();
        bench.pay("c").unwrap();
        assert_eq!(bench.claim_due().len(), 1, "{sql}");
        let log = bench.log();
        let year = &log[log.len() - 1].1["time"].as_str().unwrap()[..4];
        assert_eq!(year, "2026", "{sql}");
    }
    // Refused by the database when it is written.
    let mut bench = two();
    bench.fault.set(Some(Wrong::Row("a")));
    bench.restart();
    assert_eq!(bench.state("a"), ("PROCESSING", vec!["SENDING"]));
    assert_eq!(bench.state("b"), ("PROCESSING", vec!["UNKNOWN"]));
    bench.fault.set(None);
    bench.restart();
    assert_eq!(bench.state("a"), ("PROCESSING", vec!["UNKNOWN"]));
    bench.verify();
}
