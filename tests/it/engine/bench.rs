//! A small language to drive an engine: one real database, a clock by hand, answers at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use payd::application::ports::{ChargeRequest, Clock, EventQuery, Random, Reader};
use payd::application::request::{
    Action, Answer, Caller, Envelope, Idempotency, Outcome, Reply, SubmitError,
};
use payd::application::{Bus, Counters, Engine, Places, Policy, verify};
use payd::domain::{
    Amount, Command, Currency, Failure, FailureKind, Finding, InvoiceId, LookupPolicy, Money,
    NewInvoice, Outcome as Sent, PaymentId, Refusal, ResolveAs, RetryPolicy, Timestamp,
};
use payd::infrastructure::store::{SqliteCheck, SqliteReader, open_writer};
use tokio::sync::oneshot;

use super::faulty::{Fault, Faulty, Said};

/// Time that only a test moves.
pub(crate) struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A stream that a seed fixes.
pub(crate) struct Seeded(AtomicU64);

impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            // SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (z ^ (z >> 31)).to_le_bytes()[0];
        }
    }
}

pub(crate) struct Bench {
    pub(crate) clock: Arc<HandClock>,
    random: Arc<Seeded>,
    pub(crate) engine: Option<Engine<Faulty>>,
    pub(crate) bus: Bus,
    /// What the store does wrong next.
    pub(crate) fault: Fault,
    pub(crate) said: Said,
    /// How often the store has rested.
    pub(crate) rests: Arc<AtomicUsize>,
    /// The gateway in the settings, from the next start on.
    pub(crate) gateway: &'static str,
    path: PathBuf,
    pub(crate) directory: tempfile::TempDir,
}

pub(crate) const GATEWAY: &str = "test";

impl Bench {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut bench = Self {
            clock: Arc::new(HandClock(AtomicI64::new(1_767_323_045_678))),
            random: Arc::new(Seeded(AtomicU64::new(7))),
            engine: None,
            bus: Bus::new(0),
            fault: Fault::default(),
            said: Said::default(),
            rests: Arc::default(),
            gateway: GATEWAY,
            path: directory.path().join("payd.db"),
            directory,
        };
        bench.start();
        bench
    }

    /// Stops the engine where it stands, as a crash would, and starts another on the same database.
    pub(crate) fn restart(&mut self) {
        self.engine = None;
        self.start();
    }

    fn start(&mut self) {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        let store = open_writer(
            &self.path,
            uuid::Builder::from_random_bytes(bytes).into_uuid(),
        )
        .unwrap();
        let policy = Policy {
            retry: RetryPolicy {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(900),
                max_attempts: 3.try_into().unwrap(),
            },
            lookup: LookupPolicy {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(900),
                attention_after: Duration::from_secs(86_400),
            },
            lookup_lag: Duration::from_secs(5),
            lease: Duration::from_secs(30),
            gateway: self.gateway.to_owned(),
        };
        self.bus = Bus::new(0);
        let metrics = Arc::new(Counters::default());
        let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
        let store = Faulty {
            store,
            fault: self.fault.clone(),
            said: Arc::clone(&self.said),
            rests: Arc::clone(&self.rests),
        };
        let mut engine =
            Engine::new(store, policy, clock, random, self.bus.clone(), metrics).unwrap();
        engine.recover().unwrap();
        self.engine = Some(engine);
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.clock
            .0
            .fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// The wall clock is set back; an engine that runs does not follow it, one that starts does.
    pub(crate) fn back(&self, time: Duration) {
        self.clock
            .0
            .fetch_sub(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// The machine is booted with a wall clock that is so many seconds off; as payd's own clock, this one
    /// does not start before the newest time stored.
    pub(crate) fn reboot(&mut self, off_seconds: i64) {
        let newest = self.log().last().map_or(i64::MIN, |(_, event)| {
            let time = event["time"].as_str().unwrap();
            Timestamp::parse(time).unwrap().as_millis()
        });
        let wall = self.clock.now().as_millis() + off_seconds * 1000;
        self.clock.0.store(wall.max(newest), Ordering::SeqCst);
        self.restart();
    }

    pub(crate) fn needs_attention(&self, id: &str) -> bool {
        let id = InvoiceId::parse(id).unwrap();
        self.reader()
            .invoice(&id)
            .unwrap()
            .unwrap()
            .invoice
            .needs_attention
    }

    /// Submits all of these in one batch.
    pub(crate) fn batch(
        &mut self,
        requests: Vec<(Action, Option<Idempotency>)>,
    ) -> Vec<Result<Outcome, SubmitError>> {
        let (envelopes, answers) = envelopes(requests);
        self.engine.as_mut().unwrap().run(envelopes).unwrap();
        answers
            .into_iter()
            .map(|mut answer| answer.try_recv().expect("every request is answered"))
            .collect()
    }

    pub(crate) fn submit(&mut self, action: Action) -> Result<Reply, Refusal> {
        match self.batch(vec![(action, None)]).remove(0) {
            Ok(Outcome::Fresh(result, _)) => result,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn create(&mut self, id: &str) -> Result<Reply, Refusal> {
        self.submit(Action::Create(vec![invoice(id, 1000).into()]))
    }

    /// An invoice that is too large for the engine to keep in memory: it is read with every step.
    pub(crate) fn create_large(&mut self, id: &str) -> Result<Reply, Refusal> {
        let mut large = invoice(id, 1000);
        large.description = Some("x".repeat(5000));
        self.submit(Action::Create(vec![large.into()]))
    }

    pub(crate) fn pay(&mut self, id: &str) -> Result<Reply, Refusal> {
        self.submit(pay(id))
    }

    pub(crate) fn cancel(&mut self, id: &str) -> Result<Reply, Refusal> {
        self.submit(Action::OnInvoice(
            InvoiceId::parse(id).unwrap(),
            Command::Cancel { reason: None },
        ))
    }

    /// What a worker gets that asks for so many.
    pub(crate) fn claim(&mut self, action: Action) -> Vec<ChargeRequest> {
        let (reply, mut answer) = oneshot::channel();
        let envelope = Envelope {
            caller: Caller::payd(),
            action,
            idempotency: None,
            reply,
        };
        self.engine.as_mut().unwrap().run(vec![envelope]).unwrap();
        match answer.try_recv() {
            Ok(Ok(Outcome::Fresh(Ok(Reply::Claimed(claimed)), _))) => claimed,
            Ok(other) => panic!("{other:?}"),
            Err(oneshot::error::TryRecvError::Empty) => Vec::new(),
            Err(oneshot::error::TryRecvError::Closed) => panic!("the engine dropped a claim"),
        }
    }

    /// A worker's request for work, left with the engine.
    pub(crate) fn park(
        &mut self,
        action: Action,
    ) -> oneshot::Receiver<Result<Outcome, SubmitError>> {
        let (reply, answer) = oneshot::channel();
        let envelope = Envelope {
            caller: Caller::payd(),
            action,
            idempotency: None,
            reply,
        };
        self.engine.as_mut().unwrap().run(vec![envelope]).unwrap();
        answer
    }

    pub(crate) fn claim_due(&mut self) -> Vec<ChargeRequest> {
        self.claim(Action::ClaimDue {
            places: Places::new(64),
        })
    }

    pub(crate) fn claim_lookups(&mut self) -> Vec<ChargeRequest> {
        self.claim(Action::ClaimLookups {
            places: Places::new(64),
        })
    }

    pub(crate) fn settle(
        &mut self,
        request: &ChargeRequest,
        outcome: Sent,
    ) -> Result<Reply, Refusal> {
        let command = Command::Settle {
            payment: request.payment,
            epoch: request.send,
            outcome,
        };
        self.submit(Action::OnPayment(request.payment, None, command))
    }

    pub(crate) fn found(
        &mut self,
        request: &ChargeRequest,
        finding: Finding,
    ) -> Result<Reply, Refusal> {
        let asked_at = self.clock.now();
        let command = Command::Found {
            payment: request.payment,
            epoch: request.send,
            asked_at,
            finding,
        };
        self.submit(Action::OnPayment(request.payment, None, command))
    }

    pub(crate) fn resolve(
        &mut self,
        request: &ChargeRequest,
        resolve_as: ResolveAs,
    ) -> Result<Reply, Refusal> {
        let command = Command::Resolve {
            payment: request.payment,
            resolve_as,
            reason: "seen at the gateway".to_owned(),
            reference: None,
            actor: "test".to_owned(),
        };
        self.submit(Action::OnPayment(request.payment, None, command))
    }

    pub(crate) fn reader(&self) -> SqliteReader {
        SqliteReader::open(&self.path).unwrap()
    }

    /// Status, and the states of all its payments.
    pub(crate) fn state(&self, id: &str) -> (&'static str, Vec<&'static str>) {
        let id = InvoiceId::parse(id).unwrap();
        let reader = self.reader();
        let invoice = reader.invoice(&id).unwrap().unwrap().invoice;
        let payments = reader.payments(&id).unwrap().unwrap();
        (
            invoice.status.as_str(),
            payments
                .iter()
                .map(|it| it.payment.state.as_str())
                .collect(),
        )
    }

    /// The log, whole: sequence and parsed event.
    pub(crate) fn log(&self) -> Vec<(u64, serde_json::Value)> {
        let query = EventQuery {
            limit: usize::MAX,
            ..EventQuery::default()
        };
        let slice = self.reader().events(&query).unwrap();
        slice
            .events
            .iter()
            .map(|(sequence, json)| (*sequence, serde_json::from_slice(json).unwrap()))
            .collect()
    }

    pub(crate) fn types(&self, id: &str) -> Vec<String> {
        let about = |event: &serde_json::Value| event["subject"] == id;
        self.log()
            .iter()
            .filter(|(_, it)| about(it))
            .map(|(_, it)| it["type"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The tables are what the events fold to, and the chain is whole.
    pub(crate) fn verify(&self) {
        let report = verify(&SqliteCheck::open(&self.path).unwrap()).unwrap();
        assert!(report.found == 0, "{report:#?}");
    }

    /// How many of the stored events are packed, and how many are not.
    pub(crate) fn packed(&self) -> (i64, i64) {
        let sql = "SELECT count(packed), count(*) - count(packed) FROM events";
        let count = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        self.database().query_row(sql, [], count).unwrap()
    }

    pub(crate) fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.path).unwrap()
    }
}

/// Requests as the engine takes them, and where their answers come.
pub(crate) fn envelopes(
    requests: Vec<(Action, Option<Idempotency>)>,
) -> (
    Vec<Envelope>,
    Vec<oneshot::Receiver<Result<Outcome, SubmitError>>>,
) {
    requests
        .into_iter()
        .map(|(action, idempotency)| {
            let (reply, answer) = oneshot::channel();
            let envelope = Envelope {
                caller: Caller {
                    actor: "test".into(),
                    traceparent: None,
                },
                action,
                idempotency,
                reply,
            };
            (envelope, answer)
        })
        .unzip()
}

pub(crate) fn invoice(id: &str, amount: u64) -> NewInvoice {
    NewInvoice {
        id: InvoiceId::parse(id).unwrap(),
        money: Money {
            amount: Amount::new(amount).unwrap(),
            currency: Currency::DEFAULT,
        },
        description: Some("a \"description\"\n".to_owned()),
        metadata: [("order".to_owned(), "7".to_owned())].into(),
        payment_method: None,
        due_at: None,
    }
}

pub(crate) fn pay(id: &str) -> Action {
    Action::OnInvoice(InvoiceId::parse(id).unwrap(), Command::Pay { method: None })
}

pub(crate) fn approved() -> Sent {
    Sent::Approved {
        reference: Some("ch_1".to_owned()),
    }
}

pub(crate) fn declined(retryable: bool) -> Sent {
    Sent::Declined {
        failure: failure(retryable),
        retry_after: None,
    }
}

pub(crate) fn unknown() -> Sent {
    Sent::Unknown {
        reason: "connection reset".to_owned(),
    }
}

pub(crate) fn failure(retryable: bool) -> Failure {
    Failure {
        kind: FailureKind::Declined,
        code: "do_not_honor".to_owned(),
        message: None,
        retryable,
    }
}

/// A key whose answer tells what was decided.
pub(crate) fn key(key: &str, fingerprint: u8) -> Option<Idempotency> {
    let encode = Box::new(|result: &Result<Reply, Refusal>| {
        Some(Answer {
            status: if result.is_ok() { 200 } else { 409 },
            location: None,
            body: format!("{result:?}").into_bytes(),
        })
    });
    Some(Idempotency::new(
        "test",
        key.to_owned(),
        [fingerprint; 32],
        encode,
    ))
}

pub(crate) fn payment_of(reply: &Reply) -> PaymentId {
    match reply {
        Reply::Payment { payment, .. } => payment.payment.id,
        other => panic!("{other:?}"),
    }
}
