//! Many at once: one payment, one invoice, one order.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use crate::support::daemon::Daemon;
use crate::support::http::Answer;

/// Calls `f` from so many threads at the same time.
fn together(
    daemon: &Daemon,
    clients: usize,
    f: impl Fn(&crate::support::http::Host, usize) -> Answer + Sync,
) -> Vec<Answer> {
    let barrier = Arc::new(Barrier::new(clients));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|n| {
                let (barrier, f) = (Arc::clone(&barrier), &f);
                let host = if n % 2 == 0 {
                    &daemon.unix
                } else {
                    &daemon.tcp
                };
                scope.spawn(move || {
                    barrier.wait();
                    f(host, n)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
fn two_hundred_pays_make_one_payment() {
    let daemon = Daemon::start();
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-1","amount":1000}"#)
        .expect(201);
    let answers = together(&daemon, 200, |host, _| host.post("/invoices/inv-1/pay", ""));
    assert_eq!(
        answers.iter().filter(|it| it.status == 202).count(),
        1,
        "one of them asked first"
    );
    assert!(answers.iter().all(|it| matches!(it.status, 200 | 202)));
    let payments: BTreeSet<_> = answers
        .iter()
        .map(|it| it.json()["id"].to_string())
        .collect();
    assert_eq!(payments.len(), 1);
    daemon.until_invoice("inv-1", "PAID");
    daemon.verify();
}

#[test]
fn two_hundred_creates_with_one_key_make_one_invoice() {
    let daemon = Daemon::start();
    let headers = [("Idempotency-Key", "one-key")];
    let answers = together(&daemon, 200, |_, _| {
        daemon
            .unix
            .post_with("/invoices", &headers, r#"{"amount":1000}"#)
    });
    let made: BTreeSet<_> = answers
        .iter()
        .filter(|it| it.status == 201)
        .map(|it| it.text())
        .collect();
    assert_eq!(made.len(), 1, "one answer, byte for byte");
    for other in answers.iter().filter(|it| it.status != 201) {
        other.problem(409, "request_in_progress");
        assert!(other.header("retry-after").is_some());
    }
    assert_eq!(
        daemon.unix.get("/invoices").expect(200)["invoices"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let replay = daemon
        .unix
        .post_with("/invoices", &headers, r#"{"amount":1000}"#);
    assert_eq!(
        (replay.status, replay.header("idempotent-replayed")),
        (201, Some("true"))
    );
    assert_eq!(Some(&replay.text()), made.first());
}

#[test]
fn one_id_and_two_contents_is_a_conflict_for_one_of_them() {
    let daemon = Daemon::start();
    let answers = together(&daemon, 40, |host, n| {
        host.post(
            "/invoices",
            &format!(r#"{{"id":"inv-1","amount":{}}}"#, 1 + n % 2),
        )
    });
    let count = |status| answers.iter().filter(|it| it.status == status).count();
    assert_eq!((count(201), count(200), count(409)), (1, 19, 20));
}

#[test]
fn sixty_four_writers_make_one_dense_order_that_readers_see_whole() {
    const WRITERS: usize = 64;
    const EACH: usize = 5;
    let daemon = Daemon::start();
    let total = WRITERS * EACH * 3;
    std::thread::scope(|scope| {
        let ndjson = scope.spawn(|| {
            let mut stream = daemon
                .tcp
                .open("GET", "/events", &[("Accept", "application/x-ndjson")], b"")
                .unwrap();
            (0..total)
                .map(|_| {
                    stream.json().unwrap()["id"]
                        .as_str()
                        .unwrap()
                        .parse()
                        .unwrap()
                })
                .collect::<Vec<usize>>()
        });
        let sse = scope.spawn(|| {
            let mut stream = daemon
                .unix
                .open("GET", "/events", &[("Accept", "text/event-stream")], b"")
                .unwrap();
            (0..total)
                .map(|_| stream.sse().unwrap().0.parse().unwrap())
                .collect::<Vec<usize>>()
        });
        together(&daemon, WRITERS, |host, n| {
            let mut last = None;
            for i in 0..EACH {
                host.post(
                    "/invoices",
                    &format!(r#"{{"id":"w{n}-{i}","amount":1000}}"#),
                )
                .expect(201);
                let headers = [("Prefer", "wait=30")];
                let answer = host.post_with(&format!("/invoices/w{n}-{i}/pay"), &headers, "");
                assert_eq!(answer.expect(200)["status"], "SUCCEEDED");
                last = Some(answer);
            }
            last.unwrap()
        });
        let whole: Vec<usize> = (1..=total).collect();
        assert_eq!(ndjson.join().unwrap(), whole);
        assert_eq!(sse.join().unwrap(), whole);
    });
    daemon.verify();
}
