//! What the engine makes of commands, one after the other and together.

use std::time::Duration;

use payd::application::Places;
use payd::application::ports::{EventQuery, Reader};
use payd::application::request::{Action, Answer, Outcome, Reply, SubmitError};
use payd::domain::{
    Command, EventType, Finding, InvoiceId, Outcome as Sent, Refusal, ResolveAs, Timestamp,
};

use super::bench::{
    Bench, GATEWAY, approved, declined, failure, invoice, key, pay, payment_of, unknown,
};

#[test]
fn an_invoice_is_paid_and_paying_again_gives_the_payment_that_stands() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    let first = bench.pay("inv-1").unwrap();
    assert!(matches!(first, Reply::Payment { fresh: true, .. }));
    let again = bench.pay("inv-1").unwrap();
    assert!(matches!(again, Reply::Payment { fresh: false, .. }));
    assert_eq!(payment_of(&first), payment_of(&again));

    let claimed = bench.claim_due();
    assert_eq!(claimed.len(), 1);
    assert_eq!(bench.claim_due(), [], "a claimed payment is nobody else's");
    bench.settle(&claimed[0], approved()).unwrap();
    assert_eq!(bench.state("inv-1"), ("PAID", vec!["SUCCEEDED"]));
    assert!(matches!(
        bench.pay("inv-1").unwrap(),
        Reply::Payment { fresh: false, .. }
    ));
    assert_eq!(bench.cancel("inv-1").unwrap_err(), Refusal::InvoicePaid);
    assert_eq!(
        bench.types("inv-1"),
        ["InvoiceCreated", "PaymentRequested", "PaymentSucceeded"]
    );
    bench.verify();
}

#[test]
fn commands_that_wait_together_commit_together_and_each_has_its_own_answer() {
    let mut bench = Bench::new();
    let answers = bench.batch(vec![
        (Action::Create(vec![invoice("a", 1).into()]), None),
        (pay("a"), None),
        (pay("nobody"), None),
        (Action::Create(vec![invoice("a", 2).into()]), None),
        (pay("a"), None),
        (
            Action::Create(
                [("b", 1), ("a", 1), ("a", 3)]
                    .map(|(id, n)| invoice(id, n).into())
                    .into(),
            ),
            None,
        ),
    ]);
    let told: Vec<String> = answers
        .into_iter()
        .map(|answer| match answer {
            Ok(Outcome::Fresh(Ok(Reply::Created(each)), _)) => each
                .iter()
                .map(|it| {
                    it.as_ref()
                        .map_or_else(|no| format!("{no:?}"), |(_, new)| format!("new={new}"))
                })
                .collect::<Vec<_>>()
                .join(","),
            Ok(Outcome::Fresh(Ok(Reply::Payment { fresh, .. }), _)) => {
                format!("payment fresh={fresh}")
            }
            Ok(Outcome::Fresh(Err(refusal), _)) => format!("{refusal:?}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [
            "new=true",
            "payment fresh=true",
            "InvoiceNotFound",
            "InvoiceExists",
            "payment fresh=false",
            "new=true,new=false,InvoiceExists"
        ]
    );
    assert_eq!(bench.log().len(), 3);
    bench.verify();
}

#[test]
fn a_soft_decline_is_followed_by_the_next_payment_in_the_same_commit_until_the_attempts_are_used_up()
 {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    for _ in 0..2 {
        let claimed = bench.claim_due();
        bench.settle(&claimed[0], declined(true)).unwrap();
        assert_eq!(bench.claim_due(), [], "the next one is not due yet");
        bench.pass(Duration::from_secs(10));
    }
    assert_eq!(
        bench.state("inv-1"),
        ("PROCESSING", vec!["FAILED", "FAILED", "REQUESTED"])
    );
    let last = bench.claim_due();
    bench.settle(&last[0], declined(true)).unwrap();
    assert_eq!(bench.state("inv-1"), ("FAILED", vec!["FAILED"; 3]));

    // By hand: a new round, and the numbers go on.
    bench.pay("inv-1").unwrap();
    let fourth = bench.claim_due();
    assert_eq!((fourth[0].attempt, fourth[0].send), (4, 1));
    bench.settle(&fourth[0], declined(true)).unwrap();
    assert_eq!(
        bench.state("inv-1").0,
        "PROCESSING",
        "a new round has all its attempts"
    );
    bench.verify();
}

#[test]
fn nothing_is_claimed_before_it_is_due_whoever_asks() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let first = bench.claim_due().remove(0);
    bench.settle(&first, declined(true)).unwrap();
    // Past the store's queue, which has a look of its own at the time: the rules have the last word.
    let claim = |bench: &mut Bench| {
        let gateway = GATEWAY.to_owned();
        let command = Command::Claim { gateway };
        bench.submit(Action::OnInvoice(first.invoice.id.clone(), command))
    };
    assert_eq!(claim(&mut bench).unwrap_err(), Refusal::NothingToDo);
    assert_eq!(bench.state("inv-1").1, ["FAILED", "REQUESTED"]);
    bench.pass(Duration::from_secs(10));
    claim(&mut bench).unwrap();
    assert_eq!(bench.state("inv-1").1, ["FAILED", "SENDING"]);
    bench.verify();
}

#[test]
fn the_engine_sleeps_until_the_next_due_time_and_then_gives_the_worker_that_waits_its_claim() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, declined(true)).unwrap();

    let mut waiting = bench.park(Action::ClaimDue {
        places: Places::new(8),
    });
    let sleep = bench.engine.as_ref().unwrap().sleep().unwrap();
    assert!(
        (1000..2000).contains(&sleep.as_millis()),
        "half of 2 s is fixed, half drawn: {sleep:?}"
    );
    bench.pass(sleep - Duration::from_millis(1));
    bench.engine.as_mut().unwrap().run(Vec::new()).unwrap();
    assert!(waiting.try_recv().is_err(), "not a millisecond early");
    bench.pass(Duration::from_millis(1));
    bench.engine.as_mut().unwrap().run(Vec::new()).unwrap();
    assert!(waiting.try_recv().is_ok(), "and not late");

    // Nothing is due: there is no reason to wake before a lease ends, be it that of the send before.
    let sleep = bench.engine.as_ref().unwrap().sleep().unwrap();
    assert!(
        (Duration::from_secs(28)..=Duration::from_secs(30)).contains(&sleep),
        "{sleep:?}"
    );
    bench.pass(sleep);
    bench.engine.as_mut().unwrap().run(Vec::new()).unwrap();
    let lease = bench.engine.as_ref().unwrap().sleep().unwrap();
    assert_eq!(sleep + lease, Duration::from_secs(30));
}

#[test]
fn a_claim_takes_what_waits_then_what_its_batch_requests_and_nothing_that_the_batch_has_canceled() {
    let mut bench = Bench::new();
    for n in 1..=5 {
        bench.create(&format!("inv-{n}")).unwrap();
    }
    for id in ["inv-1", "inv-2", "inv-3"] {
        bench.pay(id).unwrap();
    }
    let cancel = Command::Cancel { reason: None };
    let canceled = InvoiceId::parse("inv-1").unwrap();
    // One place is spent on what was due before this batch.
    let places = Places::new(4);
    let mut answers = bench.batch(vec![
        (Action::OnInvoice(canceled, cancel), None),
        (pay("inv-4"), None),
        (pay("inv-5"), None),
        (Action::ClaimDue { places }, None),
    ]);
    let Some(Ok(Outcome::Fresh(Ok(Reply::Claimed(claimed)), _))) = answers.pop() else {
        panic!("{answers:?}");
    };
    let ids: Vec<_> = claimed.iter().map(|it| it.invoice.id.as_str()).collect();
    assert_eq!(ids, ["inv-2", "inv-3", "inv-4"]);
    assert_eq!(bench.state("inv-1"), ("CANCELED", vec!["CANCELED"]));
    assert_eq!(bench.state("inv-4").1, ["SENDING"]);
    assert_eq!(bench.state("inv-5").1, ["REQUESTED"]);
    let rest = bench.claim_due();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].invoice.id.as_str(), "inv-5");
    bench.verify();
}

#[test]
fn an_unknown_outcome_is_looked_up_and_sent_again_under_the_same_key_only_on_proof() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, unknown()).unwrap();
    assert_eq!(bench.state("inv-1"), ("PROCESSING", vec!["UNKNOWN"]));
    assert_eq!(bench.claim_due(), []);

    bench.pass(Duration::from_secs(3));
    let looked = bench.claim_lookups().remove(0);
    bench.found(&looked, Finding::NotFound).unwrap();
    assert_eq!(
        bench.state("inv-1").1,
        ["UNKNOWN"],
        "too soon: the gateway's lag has not passed"
    );

    bench.pass(Duration::from_secs(5));
    let looked = bench.claim_lookups().remove(0);
    bench.found(&looked, Finding::NotFound).unwrap();
    let again = bench.claim_due().remove(0);
    assert_eq!(
        (again.key.clone(), again.payment, again.send),
        (sent.key, sent.payment, 2)
    );
    bench.settle(&again, approved()).unwrap();
    assert_eq!(bench.state("inv-1"), ("PAID", vec!["SUCCEEDED"]));
    bench.verify();
}

#[test]
fn what_the_gateway_never_receives_ends_with_an_operator() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    for send in 1..=6 {
        let sent = bench.claim_due().remove(0);
        assert_eq!(sent.send, send);
        bench.settle(&sent, unknown()).unwrap();
        bench.pass(Duration::from_secs(3600));
        let looked = bench.claim_lookups().remove(0);
        bench.found(&looked, Finding::NotFound).unwrap();
    }
    assert_eq!(bench.state("inv-1"), ("PROCESSING", vec!["REVIEW"]));
    let payment = payment_of(&bench.pay("inv-1").unwrap());
    let command = Command::Resolve {
        payment,
        resolve_as: ResolveAs::Failed,
        reason: "the gateway's staff say so".to_owned(),
        reference: None,
        actor: "uid:0".to_owned(),
    };
    bench
        .submit(Action::OnPayment(payment, None, command.clone()))
        .unwrap();
    assert_eq!(bench.state("inv-1"), ("FAILED", vec!["FAILED"]));
    assert_eq!(
        bench
            .submit(Action::OnPayment(payment, None, command))
            .unwrap_err(),
        Refusal::PaymentNotResolvable
    );
    bench.verify();
}

#[test]
fn a_restart_turns_what_was_being_sent_into_unknown() {
    let mut bench = Bench::new();
    for id in ["a", "b"] {
        bench.create(id).unwrap();
        bench.pay(id).unwrap();
    }
    let claimed = bench.claim(Action::ClaimDue {
        places: Places::new(1),
    });
    assert_eq!(claimed.len(), 1);
    bench.restart();
    assert_eq!(bench.state("a").1, ["UNKNOWN"]);
    assert_eq!(bench.state("b").1, ["REQUESTED"]);
    // The answer of the send that the crash cut off still counts: it is the claim's own.
    bench.settle(&claimed[0], approved()).unwrap();
    assert_eq!(bench.state("a"), ("PAID", vec!["SUCCEEDED"]));
    bench.verify();
}

#[test]
fn a_worker_that_lost_its_claim_changes_nothing() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let first = bench.claim_due().remove(0);
    bench.pass(Duration::from_secs(31));
    bench.claim_lookups();
    assert_eq!(bench.state("inv-1").1, ["UNKNOWN"], "the lease has run out");
    bench.pass(Duration::from_secs(60));
    let looked = bench.claim_lookups().remove(0);
    bench.found(&looked, Finding::NotFound).unwrap();
    let second = bench.claim_due().remove(0);
    assert_eq!(
        bench.settle(&first, declined(false)).unwrap_err(),
        Refusal::Stale
    );
    assert_eq!(bench.state("inv-1").1, ["SENDING"]);
    bench.settle(&second, approved()).unwrap();
    bench.verify();
}

#[test]
fn word_that_contradicts_a_decision_is_recorded_once_and_changes_no_state() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, declined(false)).unwrap();
    for _ in 0..3 {
        let _ = bench.settle(&sent, approved());
    }
    assert_eq!(bench.state("inv-1"), ("FAILED", vec!["FAILED"]));
    let contradicted = bench
        .types("inv-1")
        .iter()
        .filter(|it| *it == "PaymentContradicted")
        .count();
    assert_eq!(contradicted, 1);
    bench.verify();
}

#[test]
fn a_contradicted_decline_stays_in_need_of_attention_and_no_later_key_goes_out() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let first = bench.claim_due().remove(0);
    bench.settle(&first, declined(true)).unwrap();
    bench.settle(&first, approved()).unwrap();
    assert_eq!(bench.types("inv-1").last().unwrap(), "PaymentContradicted");
    bench.pass(Duration::from_secs(3600));
    assert_eq!(
        bench.claim_due(),
        [],
        "key 2 would be a second charge, if the gateway is right now"
    );
    assert_eq!(
        bench.engine.as_ref().unwrap().sleep(),
        None,
        "and nobody wakes up for it"
    );
    bench.cancel("inv-1").unwrap();
    assert_eq!(
        bench.state("inv-1"),
        ("CANCELED", vec!["FAILED", "CANCELED"])
    );
    assert!(bench.needs_attention("inv-1"), "whatever comes after");

    // The same where the round had ended: `pay` makes a payment, and it is not sent.
    bench.create("inv-2").unwrap();
    bench.pay("inv-2").unwrap();
    let first = bench.claim_due().remove(0);
    bench.settle(&first, declined(false)).unwrap();
    bench.settle(&first, approved()).unwrap();
    bench.pay("inv-2").unwrap();
    assert_eq!(bench.claim_due(), []);
    assert!(bench.needs_attention("inv-2"));
    bench.verify();
}

#[test]
fn an_approval_that_comes_after_not_found_is_not_forgotten() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, unknown()).unwrap();
    bench.pass(Duration::from_secs(60));
    let looked = bench.claim_lookups().remove(0);
    bench.found(&looked, Finding::NotFound).unwrap();
    // Two lookups overlapped, and the gateway was of two minds.
    bench
        .found(&looked, Finding::Approved { reference: None })
        .unwrap();
    bench.cancel("inv-1").unwrap();
    assert_eq!(
        bench.state("inv-1"),
        ("PROCESSING", vec!["REQUESTED"]),
        "a cancel waits: it may be there"
    );
    let again = bench.claim_due().remove(0);
    assert_eq!(again.key, sent.key);
    bench.settle(&again, approved()).unwrap();
    assert_eq!(bench.state("inv-1"), ("PAID", vec!["SUCCEEDED"]));
    assert!(
        !bench.needs_attention("inv-1"),
        "the gateway says one thing again"
    );
    bench.verify();
}

#[test]
fn a_clock_that_ran_ahead_loses_no_lookup_and_makes_no_not_found_final() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, unknown()).unwrap();
    // The wall clock is 23 hours ahead while this process runs, and right again in the next.
    bench.pass(Duration::from_secs(23 * 3600));
    bench.restart();
    let looked = bench.claim_lookups().remove(0);
    bench.found(&looked, Finding::NotFound).unwrap();
    assert_eq!(
        bench.state("inv-1").1,
        ["UNKNOWN"],
        "the lag is not measured over a restart"
    );
    bench.back(Duration::from_secs(23 * 3600));
    bench.restart();
    bench.pass(Duration::from_secs(3600));
    assert_eq!(
        bench.claim_lookups().len(),
        1,
        "within the hour, not in a day"
    );
    bench.verify();
}

#[test]
fn cancel_withdraws_what_was_not_sent_and_waits_for_what_may_have_been() {
    let mut bench = Bench::new();
    for id in ["pending", "requested", "approved", "declined", "not-sent"] {
        bench.create(id).unwrap();
    }
    bench.cancel("pending").unwrap();
    assert_eq!(bench.state("pending"), ("CANCELED", vec![]));
    assert_eq!(bench.pay("pending").unwrap_err(), Refusal::InvoiceCanceled);
    bench.cancel("pending").unwrap();
    assert_eq!(
        bench.types("pending"),
        ["InvoiceCreated", "InvoiceCanceled"],
        "twice is once"
    );

    bench.pay("requested").unwrap();
    bench.cancel("requested").unwrap();
    assert_eq!(bench.state("requested"), ("CANCELED", vec!["CANCELED"]));

    let endings = [
        ("approved", approved(), ("PAID", vec!["SUCCEEDED"])),
        ("declined", declined(true), ("CANCELED", vec!["FAILED"])),
        (
            "not-sent",
            Sent::NotSent {
                reason: "refused".to_owned(),
            },
            ("CANCELED", vec!["CANCELED"]),
        ),
    ];
    for (id, outcome, want) in endings {
        bench.pay(id).unwrap();
        let sent = bench.claim_due().remove(0);
        bench.cancel(id).unwrap();
        bench.cancel(id).unwrap();
        assert_eq!(bench.state(id), ("PROCESSING", vec!["SENDING"]));
        bench.settle(&sent, outcome).unwrap();
        assert_eq!(bench.state(id), want, "{id}");
    }
    bench.verify();
}

#[test]
fn not_sent_and_not_executed_keep_the_key_and_the_attempt() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let outcomes = [
        Sent::NotSent {
            reason: "connection refused".to_owned(),
        },
        Sent::NotExecuted {
            reason: "429".to_owned(),
            retry_after: Some(Duration::from_secs(60)),
        },
    ];
    let mut keys = Vec::new();
    for outcome in outcomes {
        let sent = bench.claim_due().remove(0);
        keys.push((sent.key.clone(), sent.attempt));
        bench.settle(&sent, outcome).unwrap();
        bench.pass(Duration::from_secs(59));
    }
    assert_eq!(bench.claim_due(), [], "Retry-After has not passed");
    bench.pass(Duration::from_secs(1));
    let sent = bench.claim_due().remove(0);
    keys.push((sent.key.clone(), sent.attempt));
    keys.dedup();
    assert_eq!(keys.len(), 1);
    bench.verify();
}

#[test]
fn an_open_question_raises_attention_after_a_day_and_is_asked_on() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    bench
        .settle(
            &sent,
            Sent::Accepted {
                reference: Some("ch_1".to_owned()),
                reason: None,
            },
        )
        .unwrap();
    let mut lookups = 0;
    for _ in 0..(26 * 60) {
        bench.pass(Duration::from_secs(60));
        for looked in bench.claim_lookups() {
            lookups += 1;
            bench
                .found(
                    &looked,
                    Finding::Pending {
                        reference: Some("ch_1".to_owned()),
                    },
                )
                .unwrap();
        }
    }
    let types = bench.types("inv-1");
    assert_eq!(
        types,
        [
            "InvoiceCreated",
            "PaymentRequested",
            "PaymentAccepted",
            "InvoiceAttentionRequired"
        ]
    );
    assert!((90..=110).contains(&lookups), "{lookups}");
    bench.pass(Duration::from_secs(3600));
    let looked = bench.claim_lookups().remove(0);
    bench
        .found(
            &looked,
            Finding::Declined {
                failure: failure(false),
                retry_after: None,
            },
        )
        .unwrap();
    assert_eq!(bench.state("inv-1"), ("FAILED", vec!["FAILED"]));
    bench.verify();
}

#[test]
fn a_key_is_answered_once_also_in_one_batch_and_over_a_restart() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    let mut answers = bench.batch((0..5).map(|_| (pay("inv-1"), key("k", 1))).collect());
    let Ok(Outcome::Fresh(result @ Ok(_), None)) = answers.remove(0) else {
        panic!("the first is decided, and kept by its event")
    };
    let first = (key("k", 1).unwrap().encode)(&result).unwrap();
    for answer in answers {
        assert!(matches!(answer, Ok(Outcome::Replayed(again)) if again == first));
    }
    bench.restart();
    let again = bench.batch(vec![
        (pay("inv-1"), key("k", 1)),
        (pay("inv-1"), key("k", 2)),
    ]);
    assert!(matches!(&again[0], Ok(Outcome::Replayed(it)) if *it == first));
    assert!(matches!(&again[1], Ok(Outcome::KeyReused)));
}

/// The encoder of these tests shows all of a result, so that the results are the same, not only their answers.
#[test]
fn what_was_made_or_requested_is_answered_again_from_its_events() {
    let mut bench = Bench::new();
    let mut full = invoice("full", 7);
    full.description = Some("a \"line\"\nand ключ".to_owned());
    full.metadata = [("k".to_owned(), "{".to_owned())].into();
    full.payment_method = Some("pm".to_owned());
    full.due_at = Some(Timestamp::from_millis(1));
    bench
        .submit(Action::Create(vec![full.clone().into()]))
        .unwrap();
    let requests = || {
        let create =
            |ids: &[&str]| Action::Create(ids.iter().map(|id| invoice(id, 5).into()).collect());
        let mut other = full.clone();
        other.id = InvoiceId::parse("other").unwrap();
        [
            create(&["one"]),
            create(&["some", "more"]),
            Action::Create(vec![other.into()]),
            // These are kept whole: there is an invoice that was there, and one twice.
            create(&["one", "new"]),
            create(&["twice", "twice"]),
            pay("full"),
            pay("one"),
            pay("one"),
        ]
    };
    let keyed = |fingerprint| {
        let all = requests().into_iter().enumerate();
        all.map(|(n, action)| (action, key(&format!("k-{n}"), fingerprint)))
            .collect()
    };
    let encode = key("k", 1).unwrap().encode;
    let first: Vec<Answer> = bench
        .batch(keyed(1))
        .into_iter()
        .map(|outcome| match outcome {
            Ok(Outcome::Fresh(result, None)) => encode(&result).unwrap(),
            Ok(Outcome::Fresh(_, Some(answer))) => answer,
            other => panic!("{other:?}"),
        })
        .collect();
    let whole = |bench: &Bench| -> i64 {
        let sql = "SELECT count(*) FROM answers WHERE first_event IS NULL AND length(body) > 0";
        let database = bench.database();
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(whole(&bench), 3);
    for _ in 0..2 {
        for (outcome, first) in bench.batch(keyed(1)).into_iter().zip(&first) {
            match outcome {
                Ok(Outcome::Replayed(again)) => assert_eq!(again, *first),
                other => panic!("{other:?}"),
            }
        }
        for outcome in bench.batch(keyed(2)) {
            assert!(matches!(outcome, Ok(Outcome::KeyReused)), "{outcome:?}");
        }
        // What has become of them since is in no first answer.
        let due = bench.claim_due();
        for request in &due {
            bench.settle(request, approved()).unwrap();
        }
        bench.restart();
    }
    bench.verify();
}

#[test]
fn an_answer_whose_event_is_damaged_is_an_error_and_nothing_happens_twice() {
    let mut bench = Bench::new();
    let create = || {
        vec![(
            Action::Create(vec![invoice("inv-1", 5).into()]),
            key("k", 1),
        )]
    };
    assert!(bench.batch(create()).remove(0).is_ok());
    let log = bench.log().len();
    bench
        .database()
        .execute_batch(
            "DROP TRIGGER events_never_change; UPDATE events SET json = '{}' WHERE sequence = 1",
        )
        .unwrap();
    assert!(matches!(
        bench.batch(create()).remove(0),
        Err(SubmitError::Internal(_))
    ));
    assert_eq!(bench.log().len(), log);
    bench
        .database()
        .execute_batch("UPDATE events SET json = '', packed = x'ff' WHERE sequence = 1")
        .unwrap();
    assert!(matches!(
        bench.batch(create()).remove(0),
        Err(SubmitError::Internal(_))
    ));
    assert_eq!(bench.log().len(), log);
}

#[test]
fn answers_are_kept_for_thirty_days_of_life_whatever_the_clock_says() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.batch(vec![(pay("inv-1"), key("k", 1))]);
    let replayed = |bench: &mut Bench| {
        matches!(
            bench.batch(vec![(pay("inv-1"), key("k", 1))]).remove(0),
            Ok(Outcome::Replayed(_))
        )
    };
    let live = |bench: &mut Bench, days: u64| {
        bench
            .submit(Action::ExpireAnswers {
                lived: Duration::from_secs(days * 86_400),
            })
            .unwrap()
    };
    bench.pass(Duration::from_secs(10 * 365 * 86_400));
    live(&mut bench, 29);
    assert!(replayed(&mut bench), "ten years of clock, 29 days of life");
    live(&mut bench, 2);
    assert!(!replayed(&mut bench));
}

#[test]
fn a_pause_stops_claims_and_outlives_a_restart() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    bench.submit(Action::Pause(true)).unwrap();
    assert_eq!(bench.claim_due(), []);
    bench.restart();
    assert_eq!(bench.claim_due(), []);
    bench.submit(Action::Pause(false)).unwrap();
    assert_eq!(bench.claim_due().len(), 1);
}

#[test]
fn an_invoice_that_cannot_be_read_is_set_aside_and_the_others_go_on() {
    let mut bench = Bench::new();
    for id in ["damaged", "whole"] {
        bench.create_large(id).unwrap();
        bench.pay(id).unwrap();
    }
    bench
        .database()
        .execute(
            "UPDATE invoices SET metadata = 'not json' WHERE id = 'damaged'",
            [],
        )
        .unwrap();
    let claimed: Vec<_> = bench
        .claim_due()
        .iter()
        .map(|it| it.invoice.id.to_string())
        .collect();
    assert_eq!(claimed, ["whole"]);
    let answer = bench.batch(vec![(pay("damaged"), None), (pay("whole"), None)]);
    assert!(matches!(answer[0], Err(SubmitError::Internal(_))));
    assert!(matches!(answer[1], Ok(Outcome::Fresh(Ok(_), _))));
    // In a batch of invoices it is one line's fault.
    let lines = ["new-1", "damaged", "new-2"].map(|id| invoice(id, 1).into());
    let Reply::Created(lines) = bench.submit(Action::Create(lines.into())).unwrap() else {
        panic!("of creates")
    };
    let told: Vec<_> = lines.iter().map(|it| it.as_ref().err().copied()).collect();
    assert_eq!(told, [None, Some(Refusal::InvoiceUnreadable), None]);
    // An id that payd never wrote stops nobody either.
    bench.pay("new-1").unwrap();
    bench
        .database()
        .execute(
            "UPDATE invoices SET id = 'not an id' WHERE id = 'damaged'",
            [],
        )
        .unwrap();
    let claimed: Vec<_> = bench
        .claim_due()
        .iter()
        .map(|it| it.invoice.id.to_string())
        .collect();
    assert_eq!(claimed, ["new-1"]);
}

#[test]
fn a_change_of_a_stored_event_or_of_a_table_shows() {
    use payd::application::verify;
    use payd::infrastructure::store::SqliteCheck;
    let changes = [
        "DROP TRIGGER events_never_change; UPDATE events SET packed = CAST(replace(packed, '1000', '1001') AS BLOB) WHERE sequence = 2",
        "DROP TRIGGER events_never_go; DELETE FROM events WHERE sequence = 2",
        "UPDATE invoices SET needs_attention = 1",
        "UPDATE payments SET gateway_reference = 'other'",
        "DROP INDEX payments_one_succeeded; UPDATE invoices SET amount = 7",
        "UPDATE invoices SET newest_event = 2",
        "UPDATE invoices SET newest_event = NULL",
        "DROP TRIGGER events_never_change; UPDATE events SET previous = 0 WHERE sequence = 3",
        "DROP TRIGGER events_never_change; UPDATE events SET previous = sequence",
        "DROP TRIGGER events_never_change; UPDATE events SET previous = NULL WHERE sequence = 2",
    ];
    for change in changes {
        let mut bench = Bench::new();
        bench.create("inv-1").unwrap();
        bench.pay("inv-1").unwrap();
        let sent = bench.claim_due().remove(0);
        bench.settle(&sent, approved()).unwrap();
        bench.verify();
        bench.database().execute_batch(change).unwrap();
        let report =
            verify(&SqliteCheck::open(&bench.directory.path().join("payd.db")).unwrap()).unwrap();
        assert!(report.found > 0, "{change}");
    }
}

#[test]
fn a_damaged_event_is_in_its_place_and_keeps_no_other_from_who_reads() {
    let mut bench = Bench::new();
    for id in ["a", "b", "c"] {
        bench.create(id).unwrap();
    }
    bench.pay("c").unwrap();
    bench
        .database()
        .execute_batch(
            "DROP TRIGGER events_never_change; UPDATE events SET packed = substr(packed, 2) WHERE sequence = 2",
        )
        .unwrap();
    let reader = bench.reader();
    let types = [
        vec![],
        vec![EventType::InvoiceCreated, EventType::PaymentRequested],
    ];
    for types in types {
        let query = EventQuery {
            types,
            limit: 10,
            ..EventQuery::default()
        };
        let slice = reader.events(&query).unwrap();
        let read: Vec<serde_json::Value> = slice
            .events
            .iter()
            .map(|(_, json)| serde_json::from_slice(json).unwrap())
            .collect();
        let ids: Vec<_> = read.iter().map(|it| it["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["1", "2", "3", "4"]);
        assert_eq!(read[1], serde_json::json!({"id": "2", "damaged": true}));
        assert_eq!(read[2]["subject"], "c");
    }
}

/// What all of payd is sure to write is stored in its short form. What was written before there was one is read beside it.
#[test]
fn events_of_before_they_were_packed_are_read_as_those_that_are() {
    let mut bench = Bench::new();
    let create = |n: u64| {
        let made = Action::Create(vec![invoice(&format!("inv-{n}"), n).into()]);
        vec![(made, key(&format!("k-{n}"), 1))]
    };
    for n in 1..=3 {
        assert!(bench.batch(create(n)).remove(0).is_ok());
    }
    bench.pay("inv-1").unwrap();
    bench.pay("inv-2").unwrap();
    let sent = bench.claim_due();
    bench.settle(&sent[0], approved()).unwrap();
    bench.settle(&sent[1], declined(true)).unwrap();
    let query = EventQuery {
        limit: usize::MAX,
        ..EventQuery::default()
    };
    let written = bench.reader().events(&query).unwrap().events;
    let all = i64::try_from(written.len()).unwrap();
    assert_eq!(bench.packed(), (all, 0));

    let database = bench.database();
    let never = "CREATE TRIGGER events_never_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events never change'); END";
    database
        .execute_batch("DROP TRIGGER events_never_change")
        .unwrap();
    for (sequence, json) in &written {
        let json = std::str::from_utf8(json).unwrap();
        let changed = database
            .execute(
                "UPDATE events SET json = ?2, packed = NULL WHERE sequence = ?1",
                (i64::try_from(*sequence).unwrap(), json),
            )
            .unwrap();
        assert_eq!(changed, 1);
    }
    database.execute_batch(never).unwrap();
    drop(database);

    // Before anything is written, and with newer events among them.
    for more in [false, true] {
        if more {
            bench.pay("inv-3").unwrap();
            let sent = bench.claim_due().remove(0);
            bench.settle(&sent, approved()).unwrap();
        }
        bench.restart();
        bench.verify();
        let read = bench.reader().events(&query).unwrap().events;
        assert_eq!(read[..written.len()], written);
        assert_eq!(read.len() > written.len(), more);
        for (n, of) in [(1, "inv-1"), (2, "inv-2"), (3, "inv-3")] {
            let again = bench.batch(create(n)).remove(0);
            assert!(matches!(again, Ok(Outcome::Replayed(_))), "{again:?}");
            let its = EventQuery {
                invoice: Some(InvoiceId::parse(of).unwrap()),
                ..query.clone()
            };
            let its = bench.reader().events(&its).unwrap().events;
            let about = format!("\"subject\":\"{of}\"");
            let among = |it: &&(u64, Vec<u8>)| std::str::from_utf8(&it.1).unwrap().contains(&about);
            assert!(its.iter().eq(read.iter().filter(among)), "{of}");
        }
    }
    let (packed, as_text) = bench.packed();
    assert!(packed > 0 && as_text == all, "{packed}, {as_text}");
}

/// A store of before events were chained, in whose invoices there are newer ones since.
#[test]
fn events_of_before_are_an_invoices_as_those_that_follow() {
    let mut bench = Bench::new();
    for id in ["a", "b", "c"] {
        bench.create(id).unwrap();
    }
    for _ in 0..3 {
        for id in ["a", "b"] {
            bench.pay(id).unwrap();
        }
        for sent in bench.claim_due() {
            bench.settle(&sent, declined(false)).unwrap();
        }
        // What is there by now is as an older payd left it.
        bench
            .database()
            .execute_batch(
                "DROP TRIGGER events_never_change;
                 UPDATE events SET previous = NULL; UPDATE invoices SET newest_event = NULL;
                 CREATE TRIGGER events_never_change BEFORE UPDATE ON events
                 BEGIN SELECT RAISE(ABORT, 'events never change'); END;",
            )
            .unwrap();
        bench.restart();
        // Before money moves, an invoice is held against its events.
        bench.pay("a").unwrap();
        bench.restart();
        let sent = bench.claim_due().remove(0);
        bench.settle(&sent, declined(false)).unwrap();
        bench.verify();
        let log = bench.log();
        for id in ["a", "b", "c"] {
            let its: Vec<u64> = log
                .iter()
                .filter(|(_, event)| event["subject"] == id)
                .map(|(sequence, _)| *sequence)
                .collect();
            let read = |after: u64, types: &[EventType], limit: usize| -> Vec<u64> {
                let query = EventQuery {
                    after,
                    types: types.to_vec(),
                    invoice: Some(InvoiceId::parse(id).unwrap()),
                    limit,
                    bytes: None,
                };
                let slice = bench.reader().events(&query).unwrap();
                slice.events.iter().map(|(sequence, _)| *sequence).collect()
            };
            assert_eq!(read(0, &[], 1000), its, "{id}");
            for (place, sequence) in its.iter().enumerate() {
                assert_eq!(read(*sequence, &[], 1000), its[place + 1..], "{id}");
                assert_eq!(read(0, &[], place + 1), its[..=place], "{id}");
            }
            let made = [EventType::InvoiceCreated];
            assert_eq!(read(0, &made, 1), its[..1], "{id}");
            assert_eq!(read(its[0], &made, 1), [0; 0], "{id}");
        }
    }
    // A chain that is broken is no answer.
    let broken = "DROP TRIGGER events_never_change; UPDATE events SET previous = sequence WHERE previous > 0";
    bench.database().execute_batch(broken).unwrap();
    let query = EventQuery {
        invoice: Some(InvoiceId::parse("a").unwrap()),
        limit: 1,
        ..EventQuery::default()
    };
    assert!(bench.reader().events(&query).is_err());
}

#[test]
fn the_store_hears_what_a_batch_will_look_for_and_nothing_that_is_known() {
    let mut bench = Bench::new();
    let said = |bench: &mut Bench, requests| {
        bench.batch(requests);
        std::mem::take(&mut *bench.said.lock().unwrap())
    };
    let both = Action::Create(["a", "b"].map(|id| invoice(id, 1).into()).into());
    let first = said(&mut bench, vec![(both, key("k-1", 1)), (pay("a"), None)]);
    assert_eq!(first, ["a", "b", "k-1 of test", "a"]);
    // They were touched lately.
    let then = said(
        &mut bench,
        vec![(pay("b"), key("k-2", 2)), (pay("c"), None)],
    );
    assert_eq!(then, ["k-2 of test", "c"]);
    bench.restart();
    bench.said.lock().unwrap().clear();
    let later = said(&mut bench, vec![(pay("b"), key("k-2", 2))]);
    assert_eq!(later, ["b", "k-2 of test"]);
}
