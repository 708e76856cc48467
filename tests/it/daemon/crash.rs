//! The plug is pulled, and nothing that was acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::daemon::{Daemon, until};
use crate::support::http::Host;

#[test]
fn five_hundred_payments_in_flight_are_all_paid_once_after_a_sigkill() {
    const PAYMENTS: usize = 500;
    // Slow enough that the plug comes in the middle.
    let mut daemon = Daemon::with(&[("PAYD_GATEWAY__SIMULATOR__LATENCY", "100ms")]);
    let lines: Vec<String> = (0..PAYMENTS)
        .map(|n| format!(r#"{{"id":"inv-{n}","amount":1000}}"#))
        .collect();
    let created = daemon.unix.post_with(
        "/invoices",
        &[("Content-Type", "application/x-ndjson")],
        &lines.join("\n"),
    );
    assert!(created.lines().iter().all(|line| line["status"] == 201));
    let acknowledged = pay_all(&daemon, PAYMENTS);
    assert_eq!(acknowledged, PAYMENTS);
    until("some are paid and some are not", || {
        daemon.unix.get("/invoices?status=PAID&limit=1").expect(200)["invoices"][0].is_object()
    });
    let open = daemon
        .unix
        .get("/invoices?status=PROCESSING&limit=1000")
        .expect(200);
    assert!(
        !open["invoices"].as_array().unwrap().is_empty(),
        "the plug comes in the middle"
    );
    daemon.kill();

    daemon.start_again();
    until("all are paid", || {
        daemon
            .unix
            .get("/invoices?status=PROCESSING&limit=1")
            .expect(200)["invoices"][0]
            .is_null()
    });
    let paid = daemon
        .unix
        .get("/invoices?status=PAID&limit=1000")
        .expect(200);
    assert_eq!(paid["invoices"].as_array().unwrap().len(), PAYMENTS);
    let mut succeeded: BTreeMap<String, usize> = BTreeMap::new();
    for event in daemon
        .events()
        .iter()
        .filter(|it| it["type"] == "PaymentSucceeded")
    {
        *succeeded
            .entry(event["subject"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    assert_eq!(succeeded.len(), PAYMENTS);
    assert!(succeeded.values().all(|n| *n == 1));
    daemon.verify();
}

fn pay_all(daemon: &Daemon, payments: usize) -> usize {
    let acknowledged = AtomicUsize::new(0);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= payments {
                        return;
                    }
                    daemon
                        .unix
                        .post(&format!("/invoices/inv-{n}/pay"), "")
                        .expect(202);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    acknowledged.into_inner()
}

#[test]
fn what_was_answered_is_there_whenever_the_plug_is_pulled() {
    let mut daemon = Daemon::start();
    let acknowledged: Mutex<Vec<String>> = Mutex::default();
    for round in 1..=5 {
        let host = daemon.unix.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| create_until_it_breaks(&host, round, &acknowledged));
            until("some are answered", || {
                acknowledged.lock().unwrap().len() >= round * 20
            });
            daemon.kill();
        });
        daemon.start_again();
        for id in acknowledged.lock().unwrap().iter() {
            daemon.invoice(id);
        }
    }
    daemon.verify();
}

fn create_until_it_breaks(host: &Host, round: usize, acknowledged: &Mutex<Vec<String>>) {
    for n in 0.. {
        let id = format!("r{round}-{n}");
        let body = format!(r#"{{"id":"{id}","amount":1000}}"#);
        let headers = [("Content-Type", "application/json")];
        match host.request("POST", "/invoices", &headers, body.as_bytes()) {
            Ok(answer) if answer.status == 201 => acknowledged.lock().unwrap().push(id),
            _ => return,
        }
    }
}

#[test]
fn kept_answers_are_the_same_bytes_after_a_restart() {
    let mut daemon = Daemon::start();
    let requests = [
        ("/invoices", r#"{"id":"inv-1","amount":1000}"#),
        ("/invoices", r#"{"amount":7}"#),
        ("/invoices/inv-1/pay", ""),
        ("/invoices/inv-1/cancel", r#"{"reason":"too late"}"#),
    ];
    let send = |daemon: &Daemon| -> Vec<_> {
        let one = |(n, (path, body)): (usize, &(&str, &str))| {
            if n == 3 {
                daemon.until_invoice("inv-1", "PAID");
            }
            daemon
                .unix
                .post_with(path, &[("Idempotency-Key", &format!("key-{n}"))], body)
        };
        requests.iter().enumerate().map(one).collect()
    };
    let first = send(&daemon);
    assert_eq!(
        first.iter().map(|it| it.status).collect::<Vec<_>>(),
        [201, 201, 202, 409]
    );
    daemon.kill();
    daemon.start_again();
    for (before, after) in first.iter().zip(send(&daemon)) {
        assert_eq!((before.status, &before.body), (after.status, &after.body));
        assert_eq!(before.header("location"), after.header("location"));
        assert_eq!(before.header("content-type"), after.header("content-type"));
        assert_eq!(
            (
                before.header("idempotent-replayed"),
                after.header("idempotent-replayed")
            ),
            (None, Some("true"))
        );
    }
    daemon
        .unix
        .post_with(
            "/invoices",
            &[("Idempotency-Key", "key-0")],
            r#"{"id":"inv-1","amount":1001}"#,
        )
        .problem(422, "idempotency_key_reused");
}
