//! A write or a sync fails: payd ends, answers nobody, sends nothing, and is right after a restart, whichever
//! way the commit went.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Gateway;
use crate::support::daemon::{Daemon, until};
use crate::support::faults::Faults;

/// What the client heard.
#[derive(Debug, Default)]
struct Heard {
    created: bool,
    requested: bool,
}

#[test]
fn a_commit_that_fails_ends_payd_and_is_right_after_a_restart_whichever_way_it_went() {
    let Some(faults) = Faults::new() else { return };
    // How many there are of each, from the first request to the last commit.
    let gateway = Gateway::start();
    let daemon = faults.daemon(&gateway.settings());
    let (writes, syncs) = (faults.calls("wal write"), faults.calls("wal sync"));
    story(&daemon, &mut Heard::default());
    daemon.until_invoice("inv-1", "PAID");
    let syncs = faults.calls("wal sync") - syncs;
    let writes = faults.calls("wal write") - writes;
    // A commit is written at once, however many pages it has: with two writes for each there were more than ten for three.
    assert!(syncs >= 3, "{writes} writes, {syncs} syncs");
    assert!(
        writes >= syncs && writes <= 2 * syncs,
        "{writes} writes, {syncs} syncs"
    );
    drop(daemon);

    // A plus: it was done, and the error is a lie.
    let mut cases: Vec<String> = (1..=syncs)
        .flat_map(|n| ["EIO", "EIO+", "ENOSPC+"].map(|error| format!("wal sync {error} {n} {n}")))
        .collect();
    // A commit is a write: none of it, all of it, and half and three quarters of it before the error.
    cases.extend((1..=writes).flat_map(|n| {
        let more = n + 1;
        [
            format!("wal write EIO {n} {n}"),
            format!("wal write EIO+ {n} {n}"),
            format!("wal write short {n} {n}\nwal write EIO {n} {n}"),
            format!("wal write short {n} {more}\nwal write EIO {n} {n}"),
        ]
    }));
    let (next, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(rules) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    ended.fetch_add(usize::from(fails_and_recovers(rules)), Ordering::Relaxed);
                }
            });
        }
    });
    // The last of them may come after the story is over.
    assert!(ended.into_inner() > cases.len() / 2, "most faults are met");
}

/// Says whether payd met the fault.
fn fails_and_recovers(rules: &str) -> bool {
    let faults = Faults::new().unwrap();
    let gateway = Gateway::start();
    let mut daemon = faults.daemon(&gateway.settings());
    faults.set(rules);
    let mut heard = Heard::default();
    let answered = story(&daemon, &mut heard);
    let met = if answered {
        // It may still be met when the payment is decided.
        let mut ended = false;
        until(&format!("{rules}: it is paid, or payd ends"), || {
            let headers = [];
            match daemon.unix.request("GET", "/invoices/inv-1", &headers, b"") {
                Ok(answer) => answer.json()["status"] == "PAID",
                Err(_) => {
                    ended = true;
                    true
                }
            }
        });
        ended
    } else {
        true
    };
    if met {
        let status = daemon.wait();
        assert_eq!(status.code(), Some(1), "{rules}: {}", daemon.log());
        until(&format!("{rules}: it says why"), || {
            daemon.log().contains("payd stops here")
        });
        let log = daemon.log();
        // Nobody was told that it is paid by a payd that did not know whether it is.
        let events = log.matches("\"PaymentSucceeded\"").count();
        assert_eq!(events, 0, "{rules}: {log}");
        let sent = gateway.charges();
        let intent = intent(&daemon);
        assert!(
            sent <= 1 && (sent == 0 || intent),
            "{rules}: sent {sent} times, durable: {intent}"
        );
    } else {
        daemon.kill();
    }

    faults.mend();
    daemon.start_again();
    if heard.created {
        daemon.invoice("inv-1");
    }
    if heard.requested {
        assert_ne!(daemon.invoice("inv-1")["status"], "PENDING", "{rules}");
    }
    // The client does it all again.
    assert!(story(&daemon, &mut Heard::default()), "{rules}");
    daemon.until_invoice("inv-1", "PAID");
    let payments = daemon.unix.get("/invoices/inv-1/payments").expect(200);
    assert_eq!(payments["payments"].as_array().unwrap().len(), 1, "{rules}");
    assert_eq!(gateway.keys("inv-1").len(), 1, "{rules}");
    daemon.verify();
    met
}

/// Whether what a payd left behind knows that a payment may have been sent. Asked of a copy.
fn intent(daemon: &Daemon) -> bool {
    let copy = tempfile::tempdir().unwrap();
    for name in ["payd.db", "payd.db-wal"] {
        std::fs::copy(daemon.data().join(name), copy.path().join(name)).unwrap();
    }
    let database = rusqlite::Connection::open(copy.path().join("payd.db")).unwrap();
    let sql = "SELECT count(*) FROM payments WHERE state <> 0";
    database
        .query_row(sql, [], |row| row.get::<_, i64>(0))
        .unwrap()
        == 1
}

/// An invoice is made and to be paid. Says whether all was answered; an answer is never that it failed.
fn story(daemon: &Daemon, heard: &mut Heard) -> bool {
    let body = br#"{"id":"inv-1","amount":1000}"#;
    let headers = [("Content-Type", "application/json")];
    match daemon.unix.request("POST", "/invoices", &headers, body) {
        Ok(answer) => {
            assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
            heard.created = true;
        }
        Err(_) => return false,
    }
    match daemon.unix.request("POST", "/invoices/inv-1/pay", &[], b"") {
        Ok(answer) => {
            assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
            heard.requested = true;
        }
        Err(_) => return false,
    }
    true
}
