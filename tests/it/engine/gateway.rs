//! What the engine makes of a gateway that refuses payd, does not answer, answers late, or is not
//! the one that it was.

use std::time::Duration;

use payd::application::Places;
use payd::application::Shut;
use payd::application::ports::{ChargeRequest, Probe};
use payd::application::request::{Action, Outcome, Reply, SubmitError};
use payd::domain::{Command, Finding, Outcome as Sent, Refusal, ResolveAs};
use tokio::sync::oneshot;

use super::bench::{Bench, GATEWAY, approved, declined, invoice, unknown};

type Waiting = oneshot::Receiver<Result<Outcome, SubmitError>>;

fn refused() -> Sent {
    Sent::Refused {
        reason: "401".to_owned(),
    }
}

fn not_sent() -> Sent {
    Sent::NotSent {
        reason: "connection refused".to_owned(),
    }
}

/// What the engine has given to a worker that waits, if anything.
fn given(waiting: &mut Waiting) -> Option<Reply> {
    match waiting.try_recv() {
        Ok(Ok(Outcome::Fresh(Ok(reply), _))) => Some(reply),
        Err(oneshot::error::TryRecvError::Empty) => None,
        other => panic!("{other:?}"),
    }
}

fn is_probe(reply: Option<&Reply>) -> bool {
    matches!(reply, Some(Reply::Probe))
}

fn shut(bench: &Bench) -> Option<Shut> {
    let engine = bench.engine.as_ref().unwrap();
    engine.health().closure().map(|closure| closure.why)
}

fn run(bench: &mut Bench) {
    bench.engine.as_mut().unwrap().run(Vec::new()).unwrap();
}

/// A payment that has been sent once without an answer, is at no gateway, and has been claimed
/// again: both of its claims.
fn sent_twice(bench: &mut Bench, id: &str) -> (ChargeRequest, ChargeRequest) {
    bench.create(id).unwrap();
    bench.pay(id).unwrap();
    let first = bench.claim_due().remove(0);
    bench.settle(&first, unknown()).unwrap();
    bench.pass(Duration::from_secs(3600));
    let looked = bench.claim_lookups().remove(0);
    bench.found(&looked, Finding::NotFound).unwrap();
    let second = bench.claim_due().remove(0);
    assert_eq!((&first.key, first.attempt), (&second.key, second.attempt));
    (first, second)
}

#[test]
fn a_gateway_that_refuses_payd_is_left_alone_until_a_probe_succeeds() {
    let mut bench = Bench::new();
    for id in ["inv-1", "inv-2"] {
        bench.create(id).unwrap();
        bench.pay(id).unwrap();
    }
    let sent = bench
        .claim(Action::ClaimDue {
            places: Places::new(1),
        })
        .remove(0);
    let mut probe = bench.park(Action::ClaimProbe);
    bench.settle(&sent, refused()).unwrap();
    assert_eq!(shut(&bench), Some(Shut::Refused));
    assert_eq!(bench.state("inv-1"), ("PROCESSING", vec!["REQUESTED"]));
    assert_eq!(bench.claim_due(), [], "neither this one nor the other");

    // The engine wakes by itself when it is time to ask.
    let sleep = bench.engine.as_ref().unwrap().sleep().unwrap();
    assert_eq!(sleep, Duration::from_secs(5));
    assert!(given(&mut probe).is_none());
    bench.pass(sleep);
    run(&mut bench);
    assert!(is_probe(given(&mut probe).as_ref()));
    let mut probe = bench.park(Action::ClaimProbe);
    let reason = "401".to_owned();
    bench
        .submit(Action::Probed(Probe::Refused { reason }))
        .unwrap();
    assert_eq!(bench.claim_due(), []);
    assert!(given(&mut probe).is_none(), "not at once again");

    // Both go at once, one of them for the second time.
    let mut due = bench.park(Action::ClaimDue {
        places: Places::new(64),
    });
    bench.submit(Action::Probed(Probe::Usable)).unwrap();
    assert_eq!(shut(&bench), None);
    let Some(Reply::Claimed(claimed)) = given(&mut due) else {
        panic!("nothing was claimed");
    };
    let mut again: Vec<_> = claimed
        .iter()
        .map(|it| (it.invoice.id.to_string(), it.attempt, it.send))
        .collect();
    again.sort();
    assert_eq!(
        again,
        [("inv-1".to_owned(), 1, 2), ("inv-2".to_owned(), 1, 1)]
    );
    assert!(claimed.iter().any(|it| it.key == sent.key));
    bench.verify();
}

#[test]
fn a_lookup_that_the_gateway_refuses_holds_back_sends_too() {
    let mut bench = Bench::new();
    for id in ["inv-1", "inv-2"] {
        bench.create(id).unwrap();
        bench.pay(id).unwrap();
    }
    let sent = bench
        .claim(Action::ClaimDue {
            places: Places::new(1),
        })
        .remove(0);
    bench.settle(&sent, unknown()).unwrap();
    bench.pass(Duration::from_secs(2));
    let looked = bench.claim_lookups().remove(0);
    let reason = "401".to_owned();
    bench.found(&looked, Finding::Refused { reason }).unwrap();
    assert_eq!(shut(&bench), Some(Shut::Refused));
    assert_eq!(bench.claim_due(), [], "the other would be refused as well");
    assert_eq!(bench.state("inv-1"), ("PROCESSING", vec!["UNKNOWN"]));

    // What was not let in has said nothing about the payment: it is asked again, and that opens the gate.
    bench.pass(Duration::from_secs(3600));
    let looked = bench.claim_lookups().remove(0);
    let approved = Finding::Approved { reference: None };
    bench.found(&looked, approved).unwrap();
    assert_eq!(shut(&bench), None);
    assert_eq!(bench.claim_due().len(), 1);
    bench.verify();
}

#[test]
fn an_operator_opens_the_gate_too() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, refused()).unwrap();
    assert_eq!(bench.claim_due(), []);
    bench.submit(Action::Pause(false)).unwrap();
    assert_eq!(bench.claim_due().len(), 1);
    // Lookups are let through all the while, and an answer to one is as good.
    let (_, second) = sent_twice(&mut bench, "inv-2");
    bench.settle(&second, unknown()).unwrap();
    bench.create("inv-3").unwrap();
    bench.pay("inv-3").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, refused()).unwrap();
    assert_eq!(shut(&bench), Some(Shut::Refused));
    bench.pass(Duration::from_secs(3600));
    let looked = bench.claim_lookups().remove(0);
    bench
        .found(&looked, Finding::Approved { reference: None })
        .unwrap();
    assert_eq!(shut(&bench), None);
}

#[test]
fn a_dead_gateway_burns_no_attempts_and_is_not_sent_to() {
    let mut bench = Bench::new();
    for n in 0..20 {
        bench.create(&format!("inv-{n}")).unwrap();
        bench.pay(&format!("inv-{n}")).unwrap();
    }
    let mut sends = 0;
    // Each worker takes one at a time, and nothing is answered.
    while let Some(sent) = bench
        .claim(Action::ClaimDue {
            places: Places::new(1),
        })
        .pop()
    {
        bench.settle(&sent, not_sent()).unwrap();
        sends += 1;
    }
    assert_eq!(shut(&bench), Some(Shut::Unreachable));
    assert_eq!(sends, 5, "the others stay as they are");
    let events = bench.log().len();
    bench.pass(Duration::from_secs(24 * 3600));
    run(&mut bench);
    assert_eq!(bench.claim_due(), []);
    assert_eq!(
        bench.log().len(),
        events,
        "a day without a gateway is no event"
    );
    bench.submit(Action::Probed(Probe::Usable)).unwrap();
    let claimed = bench.claim_due();
    assert_eq!(claimed.len(), 20);
    assert!(claimed.iter().all(|it| it.attempt == 1));
    bench.verify();
}

#[test]
fn a_lookup_that_is_told_to_wait_waits() {
    let mut bench = Bench::new();
    bench.create("inv-1").unwrap();
    bench.pay("inv-1").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, unknown()).unwrap();
    bench.pass(Duration::from_secs(2));
    let looked = bench.claim_lookups().remove(0);
    let told = Finding::Inconclusive {
        reason: "429".to_owned(),
        retry_after: Some(Duration::from_secs(600)),
    };
    bench.found(&looked, told).unwrap();
    bench.pass(Duration::from_secs(599));
    assert_eq!(bench.claim_lookups(), []);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.claim_lookups().len(), 1);
    assert_eq!(bench.state("inv-1"), ("PROCESSING", vec!["UNKNOWN"]));
}

#[test]
fn a_lookup_of_an_earlier_send_that_is_told_to_wait_holds_up_no_later_one() {
    let mut bench = Bench::new();
    let (first, second) = sent_twice(&mut bench, "inv-1");
    bench.settle(&second, unknown()).unwrap();
    let told = Finding::Inconclusive {
        reason: "429".to_owned(),
        retry_after: Some(Duration::from_secs(3600)),
    };
    // Said of the send before, by a lookup that was slow.
    bench.found(&first, told).unwrap();
    bench.pass(Duration::from_secs(2));
    let looked = bench.claim_lookups();
    assert_eq!(looked.len(), 1, "the second send is looked up in its time");
    bench
        .found(&looked[0], Finding::Approved { reference: None })
        .unwrap();
    assert_eq!(bench.state("inv-1"), ("PAID", vec!["SUCCEEDED"]));
    bench.verify();
}

#[test]
fn an_answer_to_an_earlier_send_decides_nothing_and_an_approval_is_kept_as_evidence() {
    let states: [(&str, Option<Sent>); 4] = [
        ("SENDING", None),
        ("UNKNOWN", Some(unknown())),
        (
            "ACCEPTED",
            Some(Sent::Accepted {
                reference: None,
                reason: None,
            }),
        ),
        (
            "REVIEW",
            Some(Sent::KeyReused {
                reason: "409".to_owned(),
            }),
        ),
    ];
    for (state, second_came_to) in states {
        let mut bench = Bench::new();
        let (first, second) = sent_twice(&mut bench, "inv-1");
        if let Some(outcome) = second_came_to {
            bench.settle(&second, outcome).unwrap();
        }
        let before = bench.types("inv-1");
        for outcome in [declined(true), not_sent(), refused(), unknown()] {
            assert!(
                bench.settle(&first, outcome.clone()).is_err(),
                "{outcome:?}"
            );
        }
        assert_eq!(bench.types("inv-1"), before, "{state}");
        assert_eq!(bench.claim_lookups(), [], "{state}: none is due");

        let _ = bench.settle(&first, approved());
        assert_eq!(bench.state("inv-1"), ("PROCESSING", vec![state]));
        assert!(bench.needs_attention("inv-1"));
        let evidence = bench.log().pop().unwrap().1;
        assert_eq!(evidence["type"], "PaymentContradicted", "{state}");
        assert!(
            evidence["data"]["evidence"]
                .as_str()
                .unwrap()
                .contains("send 1 of it was approved"),
            "{evidence}"
        );
        let now = matches!(state, "UNKNOWN" | "ACCEPTED");
        assert_eq!(bench.claim_lookups().len(), usize::from(now), "{state}");
        // Twice is once.
        let events = bench.log().len();
        let _ = bench.settle(&first, approved());
        assert_eq!(bench.log().len(), events, "{state}");
        bench.verify();
    }
}

#[test]
fn evidence_holds_back_the_next_key_until_an_operator_has_spoken() {
    let mut bench = Bench::new();
    let (first, second) = sent_twice(&mut bench, "inv-1");
    let _ = bench.settle(&first, approved());
    // The gateway contradicts itself: another key now could be a second charge.
    bench.settle(&second, declined(true)).unwrap();
    bench.pass(Duration::from_secs(24 * 3600));
    assert_eq!(bench.claim_due(), []);
    assert!(bench.needs_attention("inv-1"));

    let mut bench = Bench::new();
    let (first, second) = sent_twice(&mut bench, "inv-1");
    bench.settle(&second, unknown()).unwrap();
    let _ = bench.settle(&first, approved());
    bench.resolve(&second, ResolveAs::Failed).unwrap();
    assert_eq!(bench.state("inv-1"), ("FAILED", vec!["FAILED"]));
    bench.pay("inv-1").unwrap();
    assert_eq!(bench.claim_due().len(), 1, "the operator's word stands");
    bench.verify();
}

#[test]
fn the_rules_refuse_claims_that_the_queue_would_never_hand_out() {
    let claim = |bench: &mut Bench, id: &str, gateway: &str| {
        let gateway = gateway.to_owned();
        let command = Command::Claim { gateway };
        bench.submit(Action::OnInvoice(invoice(id, 1).id, command))
    };
    let mut bench = Bench::new();
    let (first, second) = sent_twice(&mut bench, "doubted");
    let _ = bench.settle(&first, approved());
    bench.settle(&second, declined(true)).unwrap();
    bench.create("bound").unwrap();
    bench.pay("bound").unwrap();
    let sent = bench.claim_due().remove(0);
    bench.settle(&sent, not_sent()).unwrap();
    bench.pass(Duration::from_secs(24 * 3600));

    let next_key = claim(&mut bench, "doubted", GATEWAY);
    assert_eq!(next_key.unwrap_err(), Refusal::NothingToDo);
    let elsewhere = claim(&mut bench, "bound", "another");
    assert_eq!(elsewhere.unwrap_err(), Refusal::NothingToDo);
    claim(&mut bench, "bound", GATEWAY).unwrap();
    assert_eq!(bench.state("doubted").1, ["FAILED", "REQUESTED"]);
    assert_eq!(bench.state("bound").1, ["SENDING"]);
    bench.verify();
}

#[test]
fn payments_that_wait_for_another_gateway_call_an_operator() {
    let mut bench = Bench::new();
    for id in ["new", "sent", "unknown", "decided"] {
        bench.create(id).unwrap();
    }
    let mut sent = Vec::new();
    for id in ["sent", "unknown", "decided"] {
        bench.pay(id).unwrap();
        sent.push(bench.claim_due().remove(0));
    }
    bench.settle(&sent[1], unknown()).unwrap();
    bench.settle(&sent[2], approved()).unwrap();
    bench.pay("new").unwrap();
    bench.gateway = "another";
    bench.restart();
    let calls =
        |bench: &Bench| ["new", "sent", "unknown", "decided"].map(|id| bench.needs_attention(id));
    assert_eq!(calls(&bench), [false, true, true, false]);
    let said = bench.log().pop().unwrap().1;
    let reason = said["data"]["reason"].as_str().unwrap();
    assert!(reason.contains("waits for gateway \"test\""), "{reason}");
    // Said once, and the others go on.
    let events = bench.log().len();
    bench.restart();
    assert_eq!(bench.log().len(), events);
    bench.pass(Duration::from_secs(3600));
    assert_eq!(bench.claim_lookups(), []);
    assert_eq!(bench.claim_due().len(), 1);

    bench.gateway = GATEWAY;
    bench.restart();
    assert_eq!(bench.claim_lookups().len(), 2, "back at its own gateway");
    bench.verify();
}
