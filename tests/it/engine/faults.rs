//! What the engine does when the store fails.

use std::sync::atomic::Ordering;
use std::time::Duration;

use payd::application::Places;
use payd::application::request::{Action, Idempotency, Outcome, SubmitError};
use payd::domain::Refusal;
use tokio::sync::oneshot::error::TryRecvError;

use super::bench::{Bench, approved, envelopes, invoice, key, pay};
use super::faulty::{PACKED_THERE, SEALER, Wrong};

#[test]
fn after_a_commit_whose_fate_nobody_knows_nothing_is_answered_sent_or_told() {
    // What was on disk after all, and whether the invoice is there when payd starts again.
    for (wrong, there) in [(Wrong::CommitLost, true), (Wrong::CommitBroken, false)] {
        let mut bench = Bench::new();
        bench.create("inv-0").unwrap();
        let head = bench.bus.head();
        let told = *head.borrow();

        bench.fault.set(Some(wrong));
        let places = Places::new(8);
        let requests = vec![(pay("inv-0"), None), (Action::ClaimDue { places }, None)];
        let (envelopes, answers) = envelopes(requests);
        let [mut answer, mut claimed] = <[_; 2]>::try_from(answers).unwrap();
        let fatal = bench.engine.as_mut().unwrap().run(envelopes).unwrap_err();
        assert!(fatal.to_string().contains("disk I/O error"), "{fatal}");
        // Not even that it is over: a caller who hears so would think that nothing has happened.
        assert_eq!(
            answer.try_recv().unwrap_err(),
            TryRecvError::Empty,
            "no answer"
        );
        assert_eq!(
            claimed.try_recv().unwrap_err(),
            TryRecvError::Empty,
            "nothing to send"
        );
        assert_eq!(*head.borrow(), told, "no wake-up");

        bench.fault.set(None);
        bench.restart();
        let (status, payments) = bench.state("inv-0");
        let want = if there {
            ("PROCESSING", vec!["UNKNOWN"])
        } else {
            ("PENDING", vec![])
        };
        assert_eq!((status, payments), want);
        bench.verify();
    }
}

#[test]
fn without_room_requests_are_refused_and_it_recovers_by_itself() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    let before = bench.log();

    bench.fault.set(Some(Wrong::CommitRefused));
    let answers = bench.batch(vec![
        (pay("inv-1"), None),
        (Action::Create(vec![invoice("inv-2", 1).into()]), None),
    ]);
    for answer in answers {
        assert!(
            matches!(answer, Err(SubmitError::Unwritable(_))),
            "{answer:?}"
        );
    }
    assert!(!bench.engine.as_ref().unwrap().health().is_writable());
    assert_eq!(bench.log(), before, "reads go on");

    bench.fault.set(None);
    assert!(
        bench.engine.as_ref().unwrap().sleep().unwrap() <= Duration::from_secs(1),
        "it looks again by itself"
    );
    bench.pass(Duration::from_secs(1));
    bench.engine.as_mut().unwrap().run(Vec::new()).unwrap();
    assert!(bench.engine.as_ref().unwrap().health().is_writable());
    bench.settle(&sent, approved()).unwrap();
    bench.create("inv-2").unwrap();
    bench.verify();
}

/// Invoices with ids of this name, each in a request of its own.
fn creates(name: &str, count: u64) -> Vec<(Action, Option<Idempotency>)> {
    (0..count)
        .map(|n| {
            let new = invoice(&format!("{name}-{n}"), 1 + n);
            (Action::Create(vec![new.into()]), None)
        })
        .collect()
}

#[test]
fn large_batches_are_linked_on_another_thread_whatever_becomes_of_the_one_before() {
    const COUNT: u64 = 300;
    let mut bench = Bench::new();
    let sealing = bench.engine.as_mut().unwrap().seal_elsewhere();
    let thread = std::thread::Builder::new()
        .name(SEALER.to_owned())
        .spawn(move || sealing.run())
        .unwrap();
    bench.create("first").unwrap();
    let mut events = 1;
    for (name, wrong, refused) in [
        ("a", None, 0),
        ("b", Some(Wrong::CommitRefused), COUNT),
        ("c", Some(Wrong::Row("c-150")), 1),
        ("d", None, 0),
    ] {
        bench.fault.set(wrong);
        let answers = bench.batch(creates(name, COUNT));
        bench.fault.set(None);
        let made = |it: &&Result<Outcome, SubmitError>| matches!(it, Ok(Outcome::Fresh(Ok(_), _)));
        let made = answers.iter().filter(made).count() as u64;
        assert_eq!(made, COUNT - refused, "{name}");
        events += made;
        assert_eq!(bench.log().len() as u64, events, "{name}");
        bench.verify();
    }
    // A key that is repeated has its first answer written from events that are with the thread.
    let many: Vec<_> = (0..200)
        .map(|n| invoice(&format!("e-{n}"), 7).into())
        .collect();
    let mut requests = creates("f", 70);
    for _ in 0..2 {
        requests.push((Action::Create(many.clone()), key("k", 1)));
        requests.extend(creates(&format!("g-{}", requests.len()), 140));
    }
    let answers = bench.batch(requests);
    assert!(matches!(answers[211], Ok(Outcome::Replayed(_))));
    events += 70 + 200 + 2 * 140;
    assert_eq!(bench.log().len() as u64, events);
    bench.verify();
    assert!(
        PACKED_THERE.load(Ordering::Relaxed) > 0,
        "there is a thread"
    );

    // Without it, the engine does it.
    bench.engine = None;
    thread.join().unwrap();
    bench.restart();
    drop(bench.engine.as_mut().unwrap().seal_elsewhere());
    bench.batch(creates("h", COUNT));
    assert_eq!(bench.log().len() as u64, events + COUNT);
    bench.verify();
}

#[test]
fn a_row_that_the_database_refuses_costs_its_neighbours_nothing() {
    let mut bench = Bench::new();
    for id in ["a", "b", "c"] {
        bench.create(id).unwrap();
    }
    bench.fault.set(Some(Wrong::Row("b")));
    let answers = bench.batch(vec![
        (pay("a"), None),
        (pay("b"), None),
        (pay("nobody"), None),
        (pay("c"), None),
    ]);
    assert!(matches!(answers[0], Ok(Outcome::Fresh(Ok(_), _))));
    assert!(matches!(answers[1], Err(SubmitError::Internal(_))));
    assert!(matches!(
        answers[2],
        Ok(Outcome::Fresh(Err(Refusal::InvoiceNotFound), _))
    ));
    assert!(matches!(answers[3], Ok(Outcome::Fresh(Ok(_), _))));
    // Nor does payd's own work on it hold up work on the others.
    bench.fault.set(None);
    bench.pay("b").unwrap();
    bench.fault.set(Some(Wrong::Row("b")));
    let claimed: Vec<_> = bench
        .claim_due()
        .iter()
        .map(|it| it.invoice.id.to_string())
        .collect();
    assert_eq!(claimed, ["a", "c"]);
    bench.create("d").unwrap();
    bench.pay("d").unwrap();
    assert_eq!(bench.claim_due().len(), 1);
    bench.fault.set(None);
    bench.verify();
}

#[test]
fn the_database_itself_refuses_a_second_open_payment_and_a_second_that_succeeded() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let copy = |state: &str| {
        format!(
            "INSERT INTO payments (id, invoice, attempt, idempotency_key, state, requested_at, due_at, resends, contradicted, epoch, lookups)
             SELECT randomblob(16), invoice, attempt + 1, 'other', {state}, requested_at, due_at, 0, 0, 0, 0 FROM payments"
        )
    };
    assert!(
        bench
            .database()
            .execute_batch(&copy("0"))
            .unwrap_err()
            .to_string()
            .contains("UNIQUE")
    );
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, approved()).unwrap();
    assert!(
        bench
            .database()
            .execute_batch(&copy("5"))
            .unwrap_err()
            .to_string()
            .contains("UNIQUE")
    );
    for change in ["UPDATE events SET json = '{}'", "DELETE FROM events"] {
        assert!(
            bench
                .database()
                .execute_batch(change)
                .unwrap_err()
                .to_string()
                .contains("events never")
        );
    }
}

/// Found by the simulator: the failure passed for "nothing to do", and payd was ready while a payment
/// of an earlier process was still being sent.
#[test]
fn a_read_that_fails_during_payds_own_work_ends_the_process() {
    let mut bench = Bench::new();
    bench.create_large("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    assert_eq!(bench.claim_due().len(), 1);
    bench.fault.set(Some(Wrong::Read));
    let engine = bench.engine.as_mut().unwrap();
    let failed = engine.recover().unwrap_err().to_string();
    assert!(failed.contains("disk I/O error"), "{failed}");

    bench.fault.set(None);
    bench.restart();
    assert_eq!(bench.state("inv-1"), ("PROCESSING", vec!["UNKNOWN"]));
    bench.verify();
}

/// SQLite ends the transaction where it cannot read, and what came after would be committed row by row.
#[test]
fn keys_that_cannot_be_looked_for_end_the_process_and_nothing_of_the_batch_is_there() {
    let mut bench = Bench::new();
    bench.create("inv-0").unwrap();
    bench.fault.set(Some(Wrong::Look));
    let requests = (1..=40).map(|n| {
        let create = Action::Create(vec![invoice(&format!("inv-{n}"), 1).into()]);
        (create, key(&format!("key-{n}"), 1))
    });
    let (envelopes, answers) = envelopes(requests.collect());
    let fatal = bench.engine.as_mut().unwrap().run(envelopes).unwrap_err();
    assert!(fatal.to_string().contains("disk I/O error"), "{fatal}");
    for mut answer in answers {
        assert_eq!(answer.try_recv().unwrap_err(), TryRecvError::Empty);
    }
    bench.fault.set(None);
    bench.restart();
    assert_eq!(bench.log().len(), 1);
    bench.verify();
    let answers: i64 = bench
        .database()
        .query_row("SELECT count(*) FROM answers", [], |row| row.get(0))
        .unwrap();
    assert_eq!(answers, 0);
}
