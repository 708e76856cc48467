//! Stores with many invoices, made by payd's own engine, in process: the rows are those that payd writes,
//! and nobody has to wait for as many requests.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use payd::application::ports::{ChargeRequest, Clock, Random};
use payd::application::request::{
    Action, Caller, Envelope, Idempotency, Outcome, Reply, SubmitError,
};
use payd::application::{Bus, Counters, Engine, Places, Policy};
use payd::domain::{
    Amount, Command, Currency, InvoiceId, LookupPolicy, Money, NewInvoice, Outcome as Sent,
    RetryPolicy,
};
use payd::infrastructure::clock::SystemClock;
use payd::infrastructure::store::{DATABASE, SqliteStore, open_writer};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::load;

/// Invoices in a commit: large, so that the sync is a small part of it.
const STEP: u64 = 500;

/// How often it says how far it is.
const TELL_EVERY: u64 = 100_000;

/// A stream of numbers; who could guess them does not matter here.
struct Counting(AtomicU64);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let n = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            *byte = (n >> 56) as u8;
        }
    }
}

/// What becomes of the invoices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// PAID, with three events each.
    Paid,
    /// PROCESSING, their payments REQUESTED and due.
    Open,
}

/// Adds `count` invoices with the ids from `first` on to the store in `directory`.
pub(crate) fn seed(directory: &Path, first: u64, count: u64, random_ids: bool, end: End) {
    let began = Instant::now();
    let mut seeder = Seeder::open(directory);
    let mut claimed = Vec::new();
    let mut done = 0;
    while done < count {
        let step = STEP.min(count - done);
        let from = first + done;
        let ids: Vec<_> = (from..from + step)
            .map(|n| InvoiceId::parse(&load::id(n, random_ids)).unwrap())
            .collect();
        let mut actions: Vec<Action> = std::mem::take(&mut claimed).iter().map(settle).collect();
        actions.push(Action::Create(
            ids.iter().map(|id| invoice(id).into()).collect(),
        ));
        actions.extend(
            ids.into_iter()
                .map(|id| Action::OnInvoice(id, Command::Pay { method: None })),
        );
        claimed = seeder.run(actions, end == End::Paid);
        done += step;
        if done % TELL_EVERY == 0 {
            eprintln!("{done} invoices after {:?}", began.elapsed());
        }
    }
    let rest = claimed.iter().map(settle).collect();
    seeder.run(rest, false);
}

fn invoice(id: &InvoiceId) -> NewInvoice {
    NewInvoice {
        id: id.clone(),
        money: Money {
            amount: Amount::new(1000).unwrap(),
            currency: Currency::parse("EUR").unwrap(),
        },
        description: None,
        metadata: std::collections::BTreeMap::new(),
        payment_method: None,
        due_at: None,
    }
}

fn settle(request: &ChargeRequest) -> Action {
    let outcome = Sent::Approved {
        reference: Some(format!("sim_{}", request.payment)),
    };
    Action::OnPayment(
        request.payment,
        Some(request.invoice.id.clone()),
        Command::Settle {
            payment: request.payment,
            epoch: request.send,
            outcome,
        },
    )
}

struct Seeder {
    engine: Engine<SqliteStore>,
}

impl Seeder {
    fn open(directory: &Path) -> Self {
        let store = open_writer(&directory.join(DATABASE), uuid::Uuid::from_u128(7)).unwrap();
        let policy = Policy {
            retry: RetryPolicy {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(900),
                max_attempts: 5.try_into().unwrap(),
            },
            lookup: LookupPolicy {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(900),
                attention_after: Duration::from_secs(86_400),
            },
            lookup_lag: Duration::ZERO,
            lease: Duration::from_secs(60),
            gateway: "simulator".to_owned(),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start(i64::MIN));
        let random = Arc::new(Counting(AtomicU64::new(1)));
        let metrics = Arc::new(Counters::default());
        let mut engine = Engine::new(store, policy, clock, random, Bus::new(0), metrics).unwrap();
        engine.recover().unwrap();
        Self { engine }
    }

    /// Decides these in one commit, and claims what is due then.
    fn run(&mut self, actions: Vec<Action>, claims: bool) -> Vec<ChargeRequest> {
        let mut answers = Vec::with_capacity(actions.len());
        let mut envelopes: Vec<_> = actions
            .into_iter()
            .map(|action| {
                let (mut envelope, answer) = envelope(action);
                if let Action::OnInvoice(id, _) = &envelope.action {
                    envelope.idempotency = Some(key(id));
                }
                answers.push(answer);
                envelope
            })
            .collect();
        let claim = claims.then(|| {
            let limit = usize::try_from(STEP).unwrap();
            let (envelope, answer) = envelope(Action::ClaimDue {
                places: Places::new(limit),
            });
            envelopes.push(envelope);
            answer
        });
        self.engine.run(envelopes).unwrap();
        for mut answer in answers {
            match answer.try_recv().unwrap().unwrap() {
                Outcome::Fresh(Ok(_), _) => {}
                other => panic!("{other:?}"),
            }
        }
        let Some(mut claim) = claim else {
            return Vec::new();
        };
        match claim.try_recv() {
            Ok(Ok(Outcome::Fresh(Ok(Reply::Claimed(claimed)), _))) => claimed,
            other => panic!("{other:?}"),
        }
    }
}

/// A payment's idempotency key, in no order, as most clients draw them. Its answer is kept by its events.
fn key(id: &InvoiceId) -> Idempotency {
    let key = load::key("p", id.as_str());
    let fingerprint = Sha256::digest(id.as_str()).into();
    Idempotency::new("seed", key, fingerprint, Box::new(|_| None))
}

fn envelope(action: Action) -> (Envelope, oneshot::Receiver<Result<Outcome, SubmitError>>) {
    let (reply, answer) = oneshot::channel();
    let envelope = Envelope {
        caller: Caller {
            actor: "seed".into(),
            traceparent: None,
        },
        action,
        idempotency: None,
        reply,
    };
    (envelope, answer)
}
