//! Random sequences of commands hold invariants 3, 4, 8, 9 and 10 against the real store.

use std::collections::HashMap;
use std::time::Duration;

use payd::application::ports::{ChargeRequest, Reader};
use payd::application::request::{Action, Outcome};
use payd::domain::{
    Command, Finding, InvoiceId, InvoiceStatus, Outcome as Sent, PaymentState, ResolveAs,
};
use proptest::prelude::*;

use super::bench::{Bench, approved, declined, failure, invoice, key, pay, unknown};

const INVOICES: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    Create(u8, u64),
    Pay(u8),
    PayWithKey(u8, u8),
    Cancel(u8),
    Claim,
    /// The n-th claim ever made gets this answer, perhaps not for the first time.
    Settle(u8, u8),
    Look,
    Found(u8, u8),
    Resolve(u8, bool),
    Pass(u16),
    Rest,
    Restart,
    Together(Vec<Step>),
}

fn step() -> impl Strategy<Value = Step> {
    let one = prop_oneof![
        2 => (0..INVOICES, 1_u64..3).prop_map(|(i, amount)| Step::Create(i, amount)),
        4 => (0..INVOICES).prop_map(Step::Pay),
        2 => (0..INVOICES, 0_u8..4).prop_map(|(i, key)| Step::PayWithKey(i, key)),
        1 => (0..INVOICES).prop_map(Step::Cancel),
        5 => Just(Step::Claim),
        6 => (any::<u8>(), 0_u8..8).prop_map(|(n, what)| Step::Settle(n, what)),
        3 => Just(Step::Look),
        4 => (any::<u8>(), 0_u8..6).prop_map(|(n, what)| Step::Found(n, what)),
        1 => (0..INVOICES, any::<bool>()).prop_map(|(i, ok)| Step::Resolve(i, ok)),
        4 => (1_u16..4000).prop_map(Step::Pass),
        1 => Just(Step::Rest),
        1 => Just(Step::Restart),
    ];
    let together = prop_oneof![
        (0..INVOICES, 1_u64..3).prop_map(|(i, amount)| Step::Create(i, amount)),
        (0..INVOICES).prop_map(Step::Pay),
        (0..INVOICES, 0_u8..4).prop_map(|(i, key)| Step::PayWithKey(i, key)),
        (0..INVOICES).prop_map(Step::Cancel),
    ];
    prop_oneof![8 => one, 1 => prop::collection::vec(together, 2..6).prop_map(Step::Together)]
}

fn id(invoice: u8) -> String {
    format!("inv-{invoice}")
}

fn action(step: &Step) -> (Action, Option<payd::application::request::Idempotency>) {
    match step {
        Step::Create(i, amount) => (Action::Create(vec![invoice(&id(*i), *amount).into()]), None),
        Step::Pay(i) => (pay(&id(*i)), None),
        Step::PayWithKey(i, k) => (pay(&id(*i)), key(&format!("key-{k}"), *i)),
        Step::Cancel(i) => (
            Action::OnInvoice(
                InvoiceId::parse(&id(*i)).unwrap(),
                Command::Cancel {
                    reason: Some("r".to_owned()),
                },
            ),
            None,
        ),
        other => panic!("{other:?} is not a request"),
    }
}

fn sent(what: u8) -> Sent {
    match what {
        0 => approved(),
        1 => declined(true),
        2 => declined(false),
        3 => Sent::Accepted {
            reference: None,
            reason: None,
        },
        4 => Sent::NotSent {
            reason: "refused".to_owned(),
        },
        5 => Sent::KeyReused {
            reason: "409".to_owned(),
        },
        _ => unknown(),
    }
}

fn finding(what: u8) -> Finding {
    match what {
        0 => Finding::Approved { reference: None },
        1 => Finding::Declined {
            failure: failure(true),
            retry_after: None,
        },
        2 => Finding::Pending { reference: None },
        3 => Finding::Mismatch {
            reason: "amount".to_owned(),
        },
        4 => Finding::Inconclusive {
            retry_after: None,
            reason: "503".to_owned(),
        },
        _ => Finding::NotFound,
    }
}

#[derive(Default)]
struct Seen {
    claims: Vec<ChargeRequest>,
    looked: Vec<ChargeRequest>,
    kept: HashMap<(String, u8), Vec<u8>>,
    /// Payment and gateway key by attempt: invariant 6.
    names: HashMap<(String, u32), (String, String)>,
    /// Sequence and bytes so far: invariant 9.
    log: Vec<(u64, serde_json::Value)>,
}

fn carry_out(bench: &mut Bench, seen: &mut Seen, step: &Step) {
    match step {
        Step::Create(..) | Step::Pay(_) | Step::PayWithKey(..) | Step::Cancel(_) => {
            requests(bench, seen, std::slice::from_ref(step));
        }
        Step::Together(steps) => requests(bench, seen, steps),
        Step::Claim => {
            let claimed = bench.claim_due();
            for claim in &claimed {
                let name = (claim.payment.to_string(), claim.key.to_string());
                let known = seen
                    .names
                    .entry((claim.invoice.id.to_string(), claim.attempt))
                    .or_insert_with(|| name.clone());
                assert_eq!(*known, name, "invariant 6: the same names on every send");
            }
            seen.claims.extend(claimed);
        }
        Step::Look => seen.looked.extend(bench.claim_lookups()),
        Step::Settle(n, what) if !seen.claims.is_empty() => {
            let claim = seen.claims[usize::from(*n) % seen.claims.len()].clone();
            let _ = bench.settle(&claim, sent(*what));
            redeliver(bench, |bench| drop(bench.settle(&claim, sent(*what))));
        }
        Step::Found(n, what) if !seen.looked.is_empty() => {
            let looked = seen.looked[usize::from(*n) % seen.looked.len()].clone();
            let _ = bench.found(&looked, finding(*what));
            redeliver(bench, |bench| drop(bench.found(&looked, finding(*what))));
        }
        Step::Settle(..) | Step::Found(..) => {}
        Step::Resolve(i, succeeded) => {
            let invoice = InvoiceId::parse(&id(*i)).unwrap();
            let Some(payments) = bench.reader().payments(&invoice).unwrap() else {
                return;
            };
            let Some(latest) = payments.last() else {
                return;
            };
            let command = Command::Resolve {
                payment: latest.payment.id,
                resolve_as: if *succeeded {
                    ResolveAs::Succeeded
                } else {
                    ResolveAs::Failed
                },
                reason: "r".to_owned(),
                reference: None,
                actor: "uid:0".to_owned(),
            };
            let _ = bench.submit(Action::OnPayment(latest.payment.id, None, command));
        }
        Step::Pass(seconds) => bench.pass(Duration::from_secs(u64::from(*seconds))),
        Step::Rest => bench.engine.as_mut().unwrap().rest(),
        Step::Restart => bench.restart(),
    }
}

fn requests(bench: &mut Bench, seen: &mut Seen, steps: &[Step]) {
    let answers = bench.batch(steps.iter().map(action).collect());
    for (step, answer) in steps.iter().zip(answers) {
        let Step::PayWithKey(i, k) = step else {
            continue;
        };
        let name = format!("key-{k}");
        match answer.unwrap() {
            Outcome::Fresh(result, answer) => {
                // Invariant 8: the answer was kept with what it tells of, whole or by its event.
                let encode = key(&name, *i).unwrap().encode;
                let answer = answer.or_else(|| encode(&result)).unwrap();
                assert!(
                    seen.kept.insert((name, *i), answer.body).is_none(),
                    "a key is decided once"
                );
            }
            Outcome::Replayed(answer) => assert_eq!(
                seen.kept.get(&(name, *i)),
                Some(&answer.body),
                "byte for byte"
            ),
            Outcome::KeyReused => assert!(!seen.kept.contains_key(&(name, *i))),
        }
    }
}

/// Invariant 10: what was delivered once changes nothing when it is delivered again.
fn redeliver(bench: &mut Bench, again: impl Fn(&mut Bench)) {
    let before = bench.log();
    again(bench);
    assert_eq!(bench.log(), before, "redelivery makes no event");
}

fn check(bench: &Bench, seen: &mut Seen) {
    // Invariant 9, and that what is written stays.
    let log = bench.log();
    for (place, (sequence, event)) in log.iter().enumerate() {
        assert_eq!(*sequence, place as u64 + 1, "dense");
        assert_eq!(event["id"], sequence.to_string());
    }
    assert!(log.starts_with(&seen.log), "the log only grows");
    seen.log = log;
    // Invariants 3 and 4.
    let reader = bench.reader();
    for i in 0..INVOICES {
        let invoice = InvoiceId::parse(&id(i)).unwrap();
        let Some(record) = reader.invoice(&invoice).unwrap() else {
            continue;
        };
        let payments = reader.payments(&invoice).unwrap().unwrap();
        let count = |f: &dyn Fn(PaymentState) -> bool| {
            payments.iter().filter(|it| f(it.payment.state)).count()
        };
        let succeeded = count(&|state| state == PaymentState::Succeeded);
        let open = count(&PaymentState::is_open);
        let status = record.invoice.status;
        assert_eq!(
            status == InvoiceStatus::Paid,
            succeeded == 1,
            "PAID if and only if one payment succeeded"
        );
        assert_eq!(
            open,
            usize::from(status == InvoiceStatus::Processing),
            "one open payment while PROCESSING, else none"
        );
        // Section 3: word against a decision raises attention, and nothing takes it away.
        let contradicted = payments
            .iter()
            .any(|it| it.payment.contradicted && it.payment.state == PaymentState::Failed);
        assert!(
            !contradicted || record.invoice.needs_attention,
            "{:?}",
            record.invoice
        );
        // Invariant 5: whatever came before the latest was definitely declined, or withdrawn.
        for earlier in payments.iter().rev().skip(1) {
            assert!(
                matches!(earlier.payment.state, PaymentState::Failed),
                "{:?}",
                earlier.payment
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_whatever_is_asked(steps in prop::collection::vec(step(), 1..60)) {
        let mut bench = Bench::new();
        let mut seen = Seen::default();
        for i in 0..INVOICES {
            bench.create(&id(i)).unwrap();
        }
        for step in &steps {
            carry_out(&mut bench, &mut seen, step);
            check(&bench, &mut seen);
        }
        // Invariant 8: state is what the events fold to, and the chain is whole.
        bench.verify();
        bench.restart();
        check(&bench, &mut seen);
        bench.verify();
    }
}
