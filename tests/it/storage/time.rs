//! The wall clock jumps, while payd runs and across restarts: nobody is charged for it, no retry comes too early
//! or not at all, and stored times never go backwards.

use super::pay;
use crate::support::daemon::{Daemon, until};
use crate::support::faults::Faults;

const HOUR: i64 = 3600;
const TEN_YEARS: i64 = 10 * 365 * 24 * HOUR;

#[test]
fn a_wall_clock_that_jumps_moves_nothing() {
    std::thread::scope(|scope| {
        for seconds in [HOUR, -HOUR, TEN_YEARS, -TEN_YEARS] {
            for restart in [false, true] {
                scope.spawn(move || jump(seconds, restart));
            }
        }
    });
}

fn jump(seconds: i64, restart: bool) {
    let what = format!("{seconds} s, restart: {restart}");
    let Some(faults) = Faults::new() else { return };
    let mut daemon = faults.daemon(&[
        ("PAYD_RETRY__BASE", "20m"),
        ("PAYD_RETRY__CAP", "40m"),
        ("PAYD_GATEWAY__TIMEOUT", "500ms"),
    ]);
    // A retry in ten minutes or more, and open questions: they are looked up soon, whatever the clock says.
    pay(&daemon, "inv-later", "sim:decline-then-approve");
    pay(&daemon, "inv-unknown", "sim:timeout");
    until("it was declined once", || {
        daemon
            .events()
            .iter()
            .any(|it| it["type"] == "PaymentFailed")
    });
    let due = daemon.invoice("inv-later")["next_attempt_at"].clone();
    let key = [("Idempotency-Key", "a-key")];
    let kept = r#"{"id":"inv-kept","amount":7}"#;
    let first = daemon.unix.post_with("/invoices", &key, kept);

    faults.set(&format!("clock {seconds}"));
    for round in 0..3 {
        if restart {
            daemon.kill();
            daemon.start_again();
        }
        daemon.until_invoice("inv-unknown", "PAID");
        pay(&daemon, &format!("inv-after-{round}"), "sim:approve");
        daemon.until_invoice(&format!("inv-after-{round}"), "PAID");
        // There and back again, and on.
        faults.set(if round == 0 { "" } else { "clock 86400" });
    }
    let later = daemon.invoice("inv-later");
    assert_eq!(later["status"], "PROCESSING", "{what}: not before its time");
    assert_eq!(later["next_attempt_at"], due, "{what}");
    let payments = daemon.unix.get("/invoices/inv-later/payments").expect(200);
    assert_eq!(payments["payments"][1]["status"], "REQUESTED", "{what}");
    let again = daemon.unix.post_with("/invoices", &key, kept);
    assert_eq!(again.body, first.body, "{what}: keys are kept");
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{what}");

    let events = daemon.events();
    let times: Vec<&str> = events
        .iter()
        .map(|it| it["time"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted(), "{what}: {times:?}");
    // All of it was within the same hour, and says so.
    assert_eq!(times[0][..10], times[times.len() - 1][..10], "{what}");
    let paid = events.iter().filter(|it| it["type"] == "PaymentSucceeded");
    assert_eq!(paid.count(), 4, "{what}");
    daemon.verify();
}

#[test]
fn a_retry_comes_when_it_is_due_though_the_clock_was_set_back_ten_years() {
    let Some(faults) = Faults::new() else { return };
    let mut daemon = faults.daemon(&[("PAYD_RETRY__BASE", "1s")]);
    pay(&daemon, "inv-1", "sim:decline-then-approve");
    until("it was declined once", || {
        daemon
            .events()
            .iter()
            .any(|it| it["type"] == "PaymentFailed")
    });
    faults.set(&format!("clock {}", -TEN_YEARS));
    daemon.kill();
    daemon.start_again();
    daemon.until_invoice("inv-1", "PAID");
    daemon.verify();
}

#[test]
fn a_clock_that_was_wrong_is_followed_once_the_operator_says_so() {
    let Some(faults) = Faults::new() else { return };
    let mut daemon = faults.daemon(&[]);
    daemon.stop();
    faults.set(&format!("clock {TEN_YEARS}"));
    daemon.start_again();
    until("it says so", || daemon.log().contains("remove payd.clock"));
    pay(&daemon, "inv-1", "sim:approve");
    daemon.until_invoice("inv-1", "PAID");
    let year = |daemon: &Daemon, id: &str| {
        let created = daemon.invoice(id)["created_at"].clone();
        created.as_str().unwrap()[..4].parse::<i32>().unwrap()
    };
    let before = year(&daemon, "inv-1");
    daemon.stop();
    std::fs::remove_file(daemon.data().join("payd.clock")).unwrap();
    daemon.start_again();
    pay(&daemon, "inv-2", "sim:approve");
    assert!(year(&daemon, "inv-2") >= before + 9);
    daemon.until_invoice("inv-2", "PAID");
    daemon.verify();
}
