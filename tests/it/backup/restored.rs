//! An old backup never charges again: where invoices stood in it, what was done about them since, and what
//! comes of them in the restored store, with a gateway that keeps a ledger.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::ledger::Ledger;
use crate::support::daemon::{Daemon, until};

/// The row that has to be canceled while nothing is sent.
const CANCELED_SINCE: &str = "requested-canceled";

/// Answers that are held back take as long as a test does.
const PATIENT: [(&str, &str); 1] = [("PAYD_GATEWAY__TIMEOUT", "60s")];

fn create(daemon: &Daemon, id: &str, method: &str) {
    let invoice = json!({"id": id, "amount": 1000, "payment_method": method});
    let made = daemon.unix.post("/invoices", &invoice.to_string());
    made.expect(201);
}

fn pay(daemon: &Daemon, id: &str) {
    let answer = daemon.unix.post(&format!("/invoices/{id}/pay"), "");
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
}

fn cancel(daemon: &Daemon, id: &str) -> u16 {
    daemon
        .unix
        .post(&format!("/invoices/{id}/cancel"), "{}")
        .status
}

fn resolve_failed(daemon: &Daemon, id: &str) {
    let payment = latest(daemon, id)["id"].as_str().unwrap().to_owned();
    let body = json!({"as": "failed", "reason": "seen at the gateway"});
    daemon
        .unix
        .post(&format!("/payments/{payment}/resolve"), &body.to_string())
        .expect(200);
}

fn latest(daemon: &Daemon, id: &str) -> Value {
    let page = daemon
        .unix
        .get(&format!("/invoices/{id}/payments"))
        .expect(200);
    let payments = page["payments"].as_array().unwrap().clone();
    payments.last().cloned().unwrap_or_default()
}

/// The gateway key of the latest payment; of none, a word that is in no request.
fn key(daemon: &Daemon, id: &str) -> String {
    let payment = latest(daemon, id);
    payment["idempotency_key"]
        .as_str()
        .unwrap_or("no key")
        .to_owned()
}

fn until_latest(daemon: &Daemon, id: &str, attempt: u64, status: &str) {
    until(&format!("attempt {attempt} of {id} is {status}"), || {
        let payment = latest(daemon, id);
        payment["attempt"] == attempt && payment["status"] == status
    });
}

fn pause(daemon: &Daemon, paused: bool) {
    let route = if paused {
        "/admin/pause"
    } else {
        "/admin/resume"
    };
    daemon.unix.post(route, "").expect(200);
}

fn back_up(daemon: &Daemon) -> PathBuf {
    let file = daemon.directory().join("backup.db");
    let output = daemon.payctl(&["backup", file.to_str().unwrap()]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    file
}

fn types(daemon: &Daemon, id: &str) -> Vec<String> {
    let page = daemon
        .unix
        .get(&format!("/events?invoice={id}&limit=1000"))
        .expect(200);
    let events = page["events"].as_array().unwrap().clone();
    events
        .iter()
        .map(|it| it["type"].as_str().unwrap().to_owned())
        .collect()
}

/// What is in the backup: the invoice, the method that says what the gateway makes of its charges, and the
/// status and attempt of its payment.
type Row = (&'static str, &'static str, &'static str, u64);

/// What is done after the backup.
type After = fn(&Daemon, &Ledger, &str);

/// What comes of it in the restored store by itself: status, attempts, and what goes to the gateway.
type Comes = (&'static str, u64, &'static [&'static str]);

fn nothing(_: &Daemon, _: &Ledger, _: &str) {}

fn to_be_paid(daemon: &Daemon, ledger: &Ledger, id: &str) {
    ledger.release(id);
    pay(daemon, id);
    daemon.until_invoice(id, "PAID");
}

fn accepted_is_charged(daemon: &Daemon, ledger: &Ledger, id: &str) {
    ledger.decide(id, "ok");
    daemon.until_invoice(id, "PAID");
}

fn accepted_is_declined(daemon: &Daemon, ledger: &Ledger, id: &str) {
    ledger.decide(id, "soft");
    daemon.until_invoice(id, "PAID");
}

fn resolved_and_paid(daemon: &Daemon, _: &Ledger, id: &str) {
    resolve_failed(daemon, id);
    pay(daemon, id);
    daemon.until_invoice(id, "PAID");
}

fn canceled(daemon: &Daemon, _: &Ledger, id: &str) {
    assert_eq!(cancel(daemon, id), 200);
}

#[test]
fn restoring_an_old_backup_never_charges_again() {
    const LOOK: &[&str] = &["GET"];
    #[rustfmt::skip]
    let table: [(Row, After, Comes); 20] = [
        // In the backup, then what happened since, then what the restored store makes of it.
        (("pending", "ok", "", 0), nothing, ("PENDING", 0, &[])),
        (("pending-paid", "ok", "", 0), to_be_paid, ("PENDING", 0, &[])),
        (("pending-paid-by-the-second", "soft+ok", "", 0), to_be_paid, ("PENDING", 0, &[])),
        (("requested", "ok", "REQUESTED", 1), nothing, ("PAID", 1, &["GET", "POST"])),
        (("requested-paid", "ok", "REQUESTED", 1), to_be_paid, ("PAID", 1, LOOK)),
        (("requested-declined", "hard", "REQUESTED", 1), |daemon, _, id| { daemon.until_invoice(id, "FAILED"); }, ("FAILED", 1, LOOK)),
        (("requested-paid-by-the-second", "soft+ok", "REQUESTED", 1), to_be_paid, ("FAILED", 1, LOOK)),
        // What was canceled since is not known any more: cancel it again, before it is resumed.
        ((CANCELED_SINCE, "ok", "REQUESTED", 1), canceled, ("CANCELED", 1, LOOK)),
        (("second-paid", "held+soft+ok", "REQUESTED", 2), to_be_paid, ("PAID", 2, LOOK)),
        (("second-paid-by-the-third", "held+soft+soft+ok", "REQUESTED", 2), to_be_paid, ("FAILED", 2, LOOK)),
        (("sending-paid", "held+ok", "SENDING", 1), to_be_paid, ("PAID", 1, LOOK)),
        (("sending-paid-by-the-second", "held+soft+ok", "SENDING", 1), to_be_paid, ("FAILED", 1, LOOK)),
        (("accepted-charged", "pending", "ACCEPTED", 1), accepted_is_charged, ("PAID", 1, LOOK)),
        (("accepted-declined", "pending+ok", "ACCEPTED", 1), accepted_is_declined, ("FAILED", 1, LOOK)),
        (("unknown-charged", "mute", "UNKNOWN", 1), to_be_paid, ("PAID", 1, LOOK)),
        (("unknown-lost", "lost", "UNKNOWN", 1), to_be_paid, ("PAID", 1, LOOK)),
        (("review", "reused+ok", "REVIEW", 1), resolved_and_paid, ("PROCESSING", 1, &[])),
        (("failed-paid-by-hand", "hard+soft+ok", "FAILED", 1), to_be_paid, ("FAILED", 1, &[])),
        (("paid", "ok", "SUCCEEDED", 1), nothing, ("PAID", 1, &[])),
        (("open-in-another-life", "ok", "REQUESTED", 1), to_be_paid, ("PAID", 1, LOOK)),
    ];
    let ledger = Ledger::open();
    let mut daemon = ledger.stub.daemon(&PATIENT);
    ledger.blind(true);
    // What is paused when the backup is made comes last.
    for ((id, method, status, attempt), _, _) in &table {
        create(&daemon, id, method);
        if *status != "REQUESTED" && !status.is_empty() {
            pay(&daemon, id);
            if *status != "SENDING" {
                until_latest(&daemon, id, *attempt, status);
            }
        }
        if *attempt == 2 {
            pay(&daemon, id);
        }
        if method.starts_with("held") {
            ledger.until_posted(id);
        }
    }
    pause(&daemon, true);
    for ((id, _, status, attempt), _, _) in &table {
        if *status == "REQUESTED" && *attempt == 1 {
            pay(&daemon, id);
        }
        if *attempt == 2 {
            ledger.release(id);
        }
    }
    for ((id, _, status, attempt), _, _) in &table {
        if !status.is_empty() {
            until_latest(&daemon, id, *attempt, status);
        }
    }
    let backup = back_up(&daemon);
    for ((id, _, _, _), after, _) in &table {
        if *id == CANCELED_SINCE {
            after(&daemon, &ledger, id);
        }
    }
    // What is to be left as it was in the backup is lost with the machine before it is sent.
    let kept = ["requested"];
    for id in kept {
        assert_eq!(cancel(&daemon, id), 200);
    }
    ledger.blind(false);
    pause(&daemon, false);
    for ((id, _, _, _), after, _) in &table {
        if *id != CANCELED_SINCE {
            after(&daemon, &ledger, id);
        }
    }
    daemon.kill();

    let seen = ledger.stub.calls().len();
    ledger.blind(true);
    // The backup was made while sending was paused, and so the restored store is.
    let restored = daemon.restored(&backup, &[]);
    assert_eq!(
        cancel(&restored, CANCELED_SINCE),
        202,
        "it may have been sent"
    );
    ledger.blind(false);
    for ((id, _, status, _), _, (comes, attempts, _)) in &table {
        let open = !matches!(*status, "" | "SUCCEEDED" | "FAILED");
        if *id == "requested" {
            continue;
        }
        restored.until_invoice(id, comes);
        let invoice = restored.invoice(id);
        assert_eq!(invoice["attempts"], *attempts, "{id}: no new key");
        let left_open = open && matches!(*comes, "FAILED" | "PROCESSING");
        assert_eq!(invoice["needs_attention"], left_open, "{id}: {invoice}");
    }
    pause(&restored, false);
    restored.until_invoice("requested", "PAID");
    for ((id, _, _, _), _, (_, _, goes)) in &table {
        let mut asked = ledger.asked(&key(&restored, id), seen);
        // How often it asks is a question of time.
        asked.dedup();
        assert_eq!(asked, *goes, "{id}");
    }
    for ((id, _, _, _), _, (_, attempts, _)) in &table {
        assert_eq!(restored.invoice(id)["attempts"], *attempts, "{id}: still");
    }

    // And now somebody pays all of it again.
    resolve_failed(&restored, "review");
    for ((id, _, _, _), _, (comes, _, _)) in &table {
        if *comes == "CANCELED" {
            continue;
        }
        pay(&restored, id);
        until(&format!("{id} is decided"), || {
            let status = restored.invoice(id)["status"].clone();
            status != "PROCESSING" && status != "PENDING"
        });
    }
    for ((id, method, _, _), _, _) in &table {
        let status = restored.invoice(id)["status"].clone();
        let charged = ledger.charged(id);
        assert!(charged <= 1, "{id} was charged {charged} times");
        assert_eq!(
            status == "PAID",
            charged == 1,
            "{id} ({method}) is {status}"
        );
    }
    restored.verify();
}

#[test]
fn nothing_is_sent_while_the_gateway_does_not_say_what_became_of_it() {
    let ledger = Ledger::open();
    let mut daemon = ledger.stub.daemon(&PATIENT);
    pause(&daemon, true);
    create(&daemon, "inv-1", "ok");
    pay(&daemon, "inv-1");
    pause(&daemon, true);
    let backup = back_up(&daemon);
    pause(&daemon, false);
    daemon.until_invoice("inv-1", "PAID");
    daemon.kill();

    let seen = ledger.stub.calls().len();
    ledger.blind(true);
    let restored = daemon.restored(&backup, &[]);
    pause(&restored, false);
    assert_eq!(latest(&restored, "inv-1")["status"], "UNKNOWN");
    assert_eq!(restored.invoice("inv-1")["needs_attention"], true);
    until("it has asked several times", || {
        ledger.asked(&key(&restored, "inv-1"), seen).len() >= 3
    });
    // New payments go on meanwhile.
    create(&restored, "inv-2", "ok");
    pay(&restored, "inv-2");
    restored.until_invoice("inv-2", "PAID");
    assert!(
        ledger
            .asked(&key(&restored, "inv-1"), seen)
            .iter()
            .all(|it| it == "GET")
    );
    // It may have been sent: it is not simply withdrawn.
    assert_eq!(cancel(&restored, "inv-1"), 202);
    ledger.blind(false);
    restored.until_invoice("inv-1", "PAID");
    assert_eq!(
        types(&restored, "inv-1"),
        [
            "InvoiceCreated",
            "PaymentRequested",
            "InvoiceAttentionRequired",
            "PaymentUnknown",
            "InvoiceCancelRequested",
            "PaymentSucceeded"
        ]
    );
    assert_eq!(ledger.charged("inv-1"), 1);
    assert_eq!(restored.invoice("inv-1")["needs_attention"], false);
    restored.verify();
}

#[test]
fn a_cancel_after_a_restore_calls_an_operator_where_attempts_may_be_missing() {
    let ledger = Ledger::open();
    let mut daemon = ledger.stub.daemon(&PATIENT);
    pause(&daemon, true);
    create(&daemon, "inv-1", "soft+ok");
    pay(&daemon, "inv-1");
    let backup = back_up(&daemon);
    pause(&daemon, false);
    daemon.until_invoice("inv-1", "PAID");
    daemon.kill();

    ledger.blind(true);
    let restored = daemon.restored(&backup, &[]);
    assert_eq!(cancel(&restored, "inv-1"), 202);
    ledger.blind(false);
    let invoice = restored.until_invoice("inv-1", "CANCELED");
    assert_eq!(invoice["needs_attention"], true);
    assert_eq!(invoice["attempts"], 1);
    restored.verify();
}

#[test]
fn a_restored_store_has_its_keys_and_another_source() {
    let mut daemon = Daemon::start();
    create(&daemon, "inv-1", "sim:approve");
    pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    let key = latest(&daemon, "inv-1")["idempotency_key"].clone();
    create(&daemon, "inv-2", "sim:approve");
    let backup = back_up(&daemon);
    let head = daemon.events().len();
    let of = |daemon: &Daemon, place: usize| daemon.events()[place]["source"].clone();
    let source = of(&daemon, 0);
    pay(&daemon, "inv-2");
    daemon.until_invoice("inv-2", "PAID");
    let lost = daemon.events().len();
    let key_2 = latest(&daemon, "inv-2")["idempotency_key"].clone();
    daemon.stop();

    let mut restored = daemon.restored(&backup, &[]);
    assert_eq!(restored.events().len(), head);
    assert_eq!(latest(&restored, "inv-1")["idempotency_key"], key);
    // A reader that was further hears that it is.
    let beyond = restored.unix.get(&format!("/events?after={lost}"));
    beyond.problem(422, "invalid_request");
    pay(&restored, "inv-2");
    restored.until_invoice("inv-2", "PAID");
    assert_eq!(latest(&restored, "inv-2")["idempotency_key"], key_2);
    assert_eq!(of(&restored, 0), source, "events never change");
    let fresh = of(&restored, head);
    assert_ne!(fresh, source);
    let status = restored.unix.get("/admin/status").expect(200);
    assert_eq!(status["restored"]["events"], head);

    // It is marked once: after a restart it is a store like any other.
    restored.stop();
    restored.start_again();
    assert_eq!(of(&restored, head), fresh);
    restored.verify();

    // Restored once more, it is another source again, with the same keys.
    let again = back_up(&restored);
    restored.kill();
    let twice = daemon.restored(&again, &["--pause"]);
    create(&twice, "inv-3", "sim:approve");
    let newest = twice.events().len() - 1;
    assert_ne!(of(&twice, newest), fresh);
    assert_eq!(twice.unix.get("/admin/status").expect(200)["paused"], true);
    twice.verify();
}

#[test]
fn a_payment_that_is_still_open_in_the_second_backup_is_looked_up_again() {
    let ledger = Ledger::open();
    let mut daemon = ledger.stub.daemon(&PATIENT);
    pause(&daemon, true);
    create(&daemon, "inv-1", "soft+ok");
    pay(&daemon, "inv-1");
    let first = back_up(&daemon);
    daemon.kill();
    // Never sent: the lookup proves it, and it waits to be sent.
    let mut once = daemon.restored(&first, &[]);
    until_latest(&once, "inv-1", 1, "REQUESTED");
    let second = back_up(&once);
    pause(&once, false);
    // It is one of a restored store: declined, it is followed by no other.
    let invoice = once.until_invoice("inv-1", "FAILED");
    assert_eq!(
        (&invoice["attempts"], &invoice["needs_attention"]),
        (&json!(1), &json!(true))
    );
    once.kill();

    let seen = ledger.stub.calls().len();
    let twice = once.restored(&second, &[]);
    pause(&twice, false);
    let invoice = twice.until_invoice("inv-1", "FAILED");
    assert_eq!(invoice["attempts"], 1);
    let mut asked = ledger.asked(&key(&twice, "inv-1"), seen);
    asked.dedup();
    assert_eq!(asked, ["GET"], "it had been sent since");
    twice.verify();
}
