//! Another process holds the database.

use crate::support::daemon::{Daemon, until};

#[test]
fn while_another_process_holds_the_database_writes_are_refused_and_then_go_on() {
    let daemon = Daemon::start();
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-1","amount":5}"#)
        .expect(201);
    let other = rusqlite::Connection::open(daemon.data().join("payd.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = daemon.unix.post("/invoices/inv-1/pay", "");
    answer.problem(503, "unavailable");
    assert!(answer.header("retry-after").is_some());
    daemon.unix.get("/readyz").problem(503, "unavailable");
    assert_eq!(daemon.invoice("inv-1")["status"], "PENDING");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    until("it can write again", || {
        daemon.unix.get("/readyz").status == 200
    });
    // On a busy machine the first one may have waited behind payd's own work for longer than a request may take,
    // and have been carried out since: then this is 200. Either way there is one payment.
    let status = daemon.unix.post("/invoices/inv-1/pay", "").status;
    assert!(matches!(status, 200 | 202), "{status}");
    daemon.until_invoice("inv-1", "PAID");
    assert_eq!(daemon.invoice("inv-1")["attempts"], 1);
    daemon.verify();
}
