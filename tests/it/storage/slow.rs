//! A disk that takes its time: whoever asks has an answer within the request's limit, and it claims
//! nothing that payd does not know.

use std::time::{Duration, Instant};

use crate::support::daemon::until;
use crate::support::faults::Faults;
use crate::support::http::{Answer, Host};

/// How long a request may take, and what a busy machine may add.
const LIMIT: Duration = Duration::from_secs(10);
const LATE_MAX: Duration = Duration::from_secs(15);

/// An answer that came when the time was up, and says so.
#[track_caller]
fn assert_given_up(answer: &Answer, took: Duration) {
    let problem = answer.problem(503, "unavailable");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("not answered within 10 s"), "{detail}");
    assert!(answer.header("retry-after").is_some());
    assert!(took >= LIMIT - Duration::from_millis(500), "{took:?}");
    assert!(took < LIMIT + LATE_MAX, "{took:?}");
}

fn timed(ask: impl FnOnce() -> Answer) -> (Answer, Duration) {
    let start = Instant::now();
    (ask(), start.elapsed())
}

#[test]
fn a_commit_that_hangs_is_given_up_by_who_waits_and_happens_once() {
    let Some(faults) = Faults::new() else { return };
    let daemon = faults.daemon(&[]);
    let body = r#"{"id":"inv-1","amount":5}"#;
    daemon.unix.post("/invoices", body).expect(201);
    let key = [("Idempotency-Key", "k")];
    let pay = |host: &Host| host.post_with("/invoices/inv-1/pay", &key, "");
    let synced = faults.calls("wal sync held");
    faults.set("wal sync hold 1 0");
    let (answer, took) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| timed(|| pay(&daemon.tcp)));
        until("the commit hangs", || {
            faults.calls("wal sync held") > synced
        });
        // Those who only look are not held up, and see nothing of what is not durable.
        assert_eq!(daemon.invoice("inv-1")["status"], "PENDING");
        daemon.tcp.get("/healthz").expect(200);
        asked.join().unwrap()
    });
    assert_given_up(&answer, took);
    let unknown = "Whether the request took effect is not known";
    assert!(answer.text().contains(unknown), "{}", answer.text());
    assert_eq!(daemon.invoice("inv-1")["status"], "PENDING");
    // Nothing was lost, and nothing is done twice: the key finds what was done.
    faults.mend();
    daemon.until_invoice("inv-1", "PAID");
    let replayed = daemon.tcp.post_with("/invoices/inv-1/pay", &key, "");
    assert_eq!(replayed.header("idempotent-replayed"), Some("true"));
    let first = replayed.expect(202);
    let payments = daemon.unix.get("/invoices/inv-1/payments").expect(200);
    let payments = payments["payments"].as_array().unwrap();
    assert_eq!(payments.len(), 1);
    assert_eq!(payments[0]["id"], first["id"]);
    daemon.verify();
}

#[test]
fn a_read_that_hangs_is_given_up_and_what_reads_nothing_goes_on() {
    let Some(faults) = Faults::new() else { return };
    let daemon = faults.daemon(&[]);
    for n in 0..20 {
        let body = format!(r#"{{"id":"inv-{n}","amount":5}}"#);
        daemon.unix.post("/invoices", &body).expect(201);
    }
    faults.set("db read hold 1 0\nwal read hold 1 0");
    // More than TCP has turns for: the last ones wait for theirs, and no longer than the others.
    let answers = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|n| {
                let host = &daemon.tcp;
                scope.spawn(move || timed(|| host.get(&format!("/invoices/inv-{n}"))))
            })
            .collect();
        daemon.unix.get("/healthz").expect(200);
        daemon.tcp.get("/readyz").expect(200);
        asked
            .into_iter()
            .map(|it| it.join().unwrap())
            .collect::<Vec<_>>()
    });
    for (answer, took) in &answers {
        assert_given_up(answer, *took);
    }
    // Whoever was given up has let go of its turn when the disk is there again.
    faults.mend();
    for (_, host) in daemon.hosts() {
        for n in 0..20 {
            host.get(&format!("/invoices/inv-{n}")).expect(200);
        }
    }
    daemon.verify();
}
