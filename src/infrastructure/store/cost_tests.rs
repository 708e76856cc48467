//! What a payment costs the database: statements, commits, and steps of SQLite's virtual machine. These
//! counts are the same on every machine, so that a regression shows without a clock. Fewer is welcome:
//! lower the number here, and in docs/PERFORMANCE.md.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::trace::{TraceEvent, TraceEventCodes};
use rusqlite::{Connection, StatementStatus};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::answer_keys;
use super::filters;
use super::invoice_ids;
use super::late::{self, STEP};
use super::open::open_reader;
use super::reader::Idle;
use super::testing::{insert_old, put};
use super::{DATABASE, SqliteReader, SqliteStore, open_writer};
use crate::application::ports::{
    ChargeRequest, Clock, EventQuery, InvoiceQuery, InvoiceRecord, Random, Reader,
};
use crate::application::request::{
    Action, Answer, Caller, Envelope, Idempotency, Outcome, Reply, SubmitError,
};
use crate::application::{Bus, Counters, Engine, Places, Policy};
use crate::domain::{
    Amount, Command, Currency, EventType, InvoiceId, InvoiceStatus, LookupPolicy, Money,
    NewInvoice, Outcome as Sent, PaymentId, RetryPolicy, Timestamp,
};

/// What SQLite was asked to do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Cost {
    statements: usize,
    commits: usize,
    /// Rows looked at because no index said which.
    scanned: i32,
    /// Statements that SQLite compiled again though they were prepared.
    prepared_again: i32,
    steps: i32,
}

#[derive(Default)]
struct Meter {
    cost: Cost,
    /// SQLite counts the steps of a statement for as long as it is prepared.
    steps_before: HashMap<String, i32>,
    /// For the message of a test that fails.
    said: Vec<String>,
}

impl Meter {
    fn hear(&mut self, event: &TraceEvent<'_>) {
        let TraceEvent::Profile(statement, _) = event else {
            return;
        };
        let sql = statement.sql().into_owned();
        self.cost.statements += 1;
        self.cost.commits += usize::from(sql == "COMMIT");
        self.cost.scanned += statement.get_status(StatementStatus::FullscanStep);
        self.cost.prepared_again += statement.get_status(StatementStatus::RePrepare);
        let steps = statement.get_status(StatementStatus::VmStep);
        let before = self.steps_before.insert(sql.clone(), steps).unwrap_or(0);
        self.cost.steps += steps - before;
        self.said.push(sql);
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_767_323_045_678)
    }
}

struct Counted(AtomicI64);

impl Random for Counted {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
        }
    }
}

type Wait = oneshot::Receiver<Result<Outcome, SubmitError>>;

/// An engine on a real database, as the daemon has it, with its workers' claims.
struct Metered {
    engine: Engine<SqliteStore>,
    meter: Arc<Mutex<Meter>>,
    claim: Option<Wait>,
    path: PathBuf,
    /// Beside the store's writer.
    reader: Option<SqliteReader>,
    _directory: tempfile::TempDir,
}

impl Metered {
    fn new() -> Self {
        Self::with(|_| ())
    }

    /// With what a store has once it has grown: entries in the tables of its indexes by hashes, and their filters.
    fn grown() -> Self {
        Self::with(|connection| {
            insert_old(connection, "old");
            connection
                .execute_batch(
                    "INSERT INTO answers (n, actor, key, fingerprint, status, body, born_at_age)
                     SELECT n, 'test', 'old-' || n, zeroblob(32), 200, x'7b7d', 0 FROM invoices;
                     UPDATE late SET until = 300, digest = late_digest(name, 300) WHERE name = 'answer_keys'",
                )
                .unwrap();
            let keys = "SELECT answer_hash(actor, key), n FROM answers";
            put(connection, &answer_keys::TABLE, keys);
            filters::fill(connection).unwrap();
        })
    }

    fn with(prepare: impl FnOnce(&Connection)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DATABASE);
        let store = open_writer(&path, Uuid::from_u128(7)).unwrap();
        prepare(&store.connection);
        drop(store);
        let mut store = open_writer(&path, Uuid::from_u128(7)).unwrap();
        let meter = Arc::new(Mutex::new(Meter::default()));
        let ear = Arc::clone(&meter);
        store
            .connection
            .trace_v2(
                TraceEventCodes::SQLITE_TRACE_PROFILE,
                Some(move |event: TraceEvent<'_>| ear.lock().unwrap().hear(&event)),
            )
            .unwrap();
        let reader = store.reader().unwrap();
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
            gateway: "test".to_owned(),
        };
        let random = Arc::new(Counted(AtomicI64::new(0)));
        let metrics = Arc::new(Counters::default());
        let bus = Bus::new(0);
        let mut engine = Engine::new(store, policy, Arc::new(Still), random, bus, metrics).unwrap();
        engine.recover().unwrap();
        let mut metered = Self {
            engine,
            meter,
            claim: None,
            path,
            reader: Some(reader),
            _directory: directory,
        };
        let lookups = envelope(
            Action::ClaimLookups {
                places: Places::new(16),
            },
            None,
        );
        // It waits with the engine from now on; nothing is ever looked up here.
        metered.engine.run(vec![lookups.0]).unwrap();
        std::mem::forget(lookups.1);
        metered.cost_of_claiming();
        // Statements are prepared, as they are in a daemon that has run for a moment.
        metered.pay_through("warm", 1);
        metered
    }

    fn cost_of(&mut self, envelopes: Vec<Envelope>) -> Cost {
        {
            let mut meter = self.meter.lock().unwrap();
            meter.cost = Cost::default();
            meter.said.clear();
        }
        self.engine.run(envelopes).unwrap();
        self.meter.lock().unwrap().cost.clone()
    }

    fn said(&self) -> String {
        self.meter.lock().unwrap().said.join("\n")
    }

    /// The processor asks for the next work as soon as it has some.
    fn cost_of_claiming(&mut self) -> Cost {
        let (envelope, wait) = envelope(
            Action::ClaimDue {
                places: Places::new(64),
            },
            None,
        );
        self.claim = Some(wait);
        self.cost_of(vec![envelope])
    }

    fn claimed(&mut self) -> Vec<ChargeRequest> {
        match self.claim.take().unwrap().try_recv() {
            Ok(Ok(Outcome::Fresh(Ok(Reply::Claimed(claimed)), _))) => claimed,
            other => panic!("{other:?}"),
        }
    }

    /// `count` invoices at once, each its own request: created, paid, claimed again, settled.
    fn pay_through(&mut self, name: &str, count: usize) -> [(Cost, String); 4] {
        let ids = (0..count).map(|n| format!("{name}-{n}"));
        let ids: Vec<_> = ids.map(|id| InvoiceId::parse(&id).unwrap()).collect();
        self.pay_all(&ids)
    }

    fn pay_all(&mut self, ids: &[InvoiceId]) -> [(Cost, String); 4] {
        let count = ids.len();
        let mut waits = Vec::new();
        let mut all = |actions: Vec<(Action, Option<String>)>| -> Vec<Envelope> {
            let (envelopes, more): (Vec<_>, Vec<_>) = actions
                .into_iter()
                .map(|(action, key)| envelope(action, key))
                .unzip();
            waits.extend(more);
            envelopes
        };
        let creates = all(ids
            .iter()
            .map(|id| {
                (
                    Action::Create(vec![invoice(id).into()]),
                    Some(format!("c-{id}")),
                )
            })
            .collect());
        let pays = all(ids
            .iter()
            .map(|id| {
                let pay = Command::Pay { method: None };
                (Action::OnInvoice(id.clone(), pay), Some(format!("p-{id}")))
            })
            .collect());
        let created = (self.cost_of(creates), self.said());
        let paid = (self.cost_of(pays), self.said());
        let claimed = self.claimed();
        assert_eq!(claimed.len(), count);
        let claiming = (self.cost_of_claiming(), self.said());
        let settles = all(claimed.iter().map(|it| (settle(it), None)).collect());
        let settled = (self.cost_of(settles), self.said());
        for mut wait in waits {
            assert!(matches!(
                wait.try_recv().unwrap().unwrap(),
                Outcome::Fresh(Ok(_), _)
            ));
        }
        [created, paid, claiming, settled]
    }
}

fn envelope(action: Action, key: Option<String>) -> (Envelope, Wait) {
    let (reply, wait) = oneshot::channel();
    let idempotency = key.map(|key| {
        let encode = |_: &Result<_, _>| {
            Some(Answer {
                status: 200,
                location: None,
                body: b"{}".to_vec(),
            })
        };
        Idempotency::new("test", key, [7; 32], Box::new(encode))
    });
    let envelope = Envelope {
        caller: Caller {
            actor: "test".into(),
            traceparent: None,
        },
        action,
        idempotency,
        reply,
    };
    (envelope, wait)
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
    let outcome = Sent::Approved { reference: None };
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

/// A step, with its statements and commits.
type Row = (&'static str, usize, usize);

fn hold(costs: &[(Cost, String); 4], rows: [Row; 4], steps_max: i32) {
    let got: Vec<Row> = costs
        .iter()
        .zip(rows)
        .map(|((cost, _), (step, ..))| (step, cost.statements, cost.commits))
        .collect();
    let steps: i32 = costs.iter().map(|(cost, _)| cost.steps).sum();
    let said: Vec<_> = costs.iter().map(|(_, said)| said.as_str()).collect();
    let said = said.join("\n\n");
    assert_eq!(got, rows, "{steps} steps\n{said}");
    assert!(steps <= steps_max, "{steps} steps\n{said}");
    for (cost, said) in costs {
        assert_eq!(cost.scanned, 0, "a table is scanned:\n{said}");
        assert_eq!(cost.prepared_again, 0, "prepared again:\n{said}");
    }
}

#[test]
fn a_payment_alone_costs_three_commits_and_so_many_statements() {
    let costs = Metered::new().pay_through("alone", 1);
    let rows = [
        ("create", 5, 1),
        ("pay", 6, 1),
        ("claim the next", 0, 0),
        ("settle", 5, 1),
    ];
    hold(&costs, rows, 1000);
}

#[test]
fn fifty_payments_at_once_share_the_commits_and_the_work_of_a_batch() {
    let costs = Metered::new().pay_through("many", 50);
    // New invoices, events and answers are written with five statements for fifty. There is nothing yet to look for ids
    // and keys in.
    let rows = [
        ("create", 2 + 3 * 5, 1),
        ("pay", 2 + 50 * 2 + 2 * 5, 1),
        ("claim the next", 0, 0),
        ("settle", 2 + 50 * 2 + 5, 1),
    ];
    hold(&costs, rows, 38_000);
}

#[test]
fn in_a_store_that_has_grown_filters_are_asked_and_nothing_else() {
    let mut metered = Metered::grown();
    let ids: Vec<_> = (0..50).map(random_id).collect();
    let costs = metered.pay_all(&ids);
    // Each of the eight blocks of both filters is read once, for all ids and keys.
    let rows = [
        ("create", 2 + 3 * 5 + 7, 1),
        ("pay", 2 + 50 * 2 + 2 * 5 + 1, 1),
        ("claim the next", 0, 0),
        ("settle", 2 + 50 * 2 + 5, 1),
    ];
    hold(&costs, rows, 40_000);
}

#[test]
fn an_id_that_is_beyond_all_others_is_not_looked_for() {
    let mut metered = Metered::grown();
    let mut creates = |ids: &[&str]| {
        let creates = ids.iter().map(|id| {
            let id = InvoiceId::parse(id).unwrap();
            envelope(Action::Create(vec![invoice(&id).into()]), None)
        });
        let (envelopes, waits): (Vec<_>, Vec<_>) = creates.unzip();
        metered.cost_of(envelopes);
        let replies = waits
            .into_iter()
            .map(|mut wait| match wait.try_recv().unwrap().unwrap() {
                Outcome::Fresh(Ok(Reply::Created(created)), _) => created[0].as_ref().unwrap().1,
                other => panic!("{other:?}"),
            });
        let fresh: Vec<bool> = replies.collect();
        (
            metered.said().matches("FROM invoice_id_filters").count(),
            fresh,
        )
    };
    // The table has "old-1" to "old-99", and "warm-0" gathers. What is within the table is looked for there, but for what the
    // engine has in memory; what is beyond it is not, also where others gather that are greater.
    assert_eq!(creates(&["x1", "x2", "x3"]), (0, vec![true; 3]));
    assert_eq!(creates(&["x2", "x4"]), (0, vec![false, true]));
    assert_eq!(creates(&["a", "x4", "x5"]), (1, vec![true, false, true]));
    assert_eq!(
        creates(&["x5", "y", "y"]),
        (0, vec![false, true, false]),
        "also twice in a batch"
    );
    assert_eq!(creates(&["y", "x50", "w"]), (0, vec![false, true, true]));
    assert_eq!(creates(&["old-990"]), (0, vec![true]));
    assert_eq!(creates(&["old-98b"]), (1, vec![true]));
}

/// A batch that fails is decided anew, a commit for each request: nothing is lost, and nobody sees that it failed
/// for no good reason.
#[test]
fn requests_of_all_kinds_for_the_same_invoices_are_one_commit() {
    let mut metered = Metered::new();
    let mut waits = Vec::new();
    let mut claimed: Vec<ChargeRequest> = Vec::new();
    for round in 0..4 {
        let ids: Vec<_> = (0..20).map(|n| random_id(round * 100 + n)).collect();
        let pays = |id: &InvoiceId| Action::OnInvoice(id.clone(), Command::Pay { method: None });
        let mut actions: Vec<_> = claimed.iter().map(settle).collect();
        actions.push(Action::Create(
            ids[..10].iter().map(|id| invoice(id).into()).collect(),
        ));
        actions.extend(ids[..10].iter().map(pays));
        // Each of the others next to its own, and once more.
        for id in &ids[10..] {
            let again = [Action::Create(vec![invoice(id).into()]), pays(id)];
            actions.extend([Action::Create(vec![invoice(id).into()]), pays(id)]);
            actions.extend(again);
        }
        actions.push(Action::Beat);
        let keyed = actions.into_iter().enumerate();
        let (envelopes, more): (Vec<_>, Vec<_>) = keyed
            .map(|(n, action)| envelope(action, (n % 3 == 0).then(|| format!("k-{round}-{n}"))))
            .unzip();
        waits.extend(more);
        let cost = metered.cost_of(envelopes);
        assert_eq!(cost.commits, 1, "round {round}: {}", metered.said());
        claimed = metered.claimed();
        assert_eq!(claimed.len(), ids.len());
        metered.cost_of_claiming();
    }
    for mut wait in waits {
        let outcome = wait.try_recv().unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Fresh(Ok(_), _)), "{outcome:?}");
    }
}

/// Frames of the write-ahead log that fifty payments with all they need may take.
const IN_ORDER: i64 = 56;
const AT_RANDOM: i64 = 64;

/// The same in order, where no late index is brought up to date, and where one is.
const QUIET: i64 = 74;
const LATE: i64 = 92;

/// The `n`th id, in no order.
fn random_id(n: usize) -> InvoiceId {
    let digest = Sha256::digest(n.to_le_bytes());
    let name: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    InvoiceId::parse(&format!("inv-{name}")).unwrap()
}

fn random_ids(range: std::ops::Range<usize>) -> Vec<InvoiceId> {
    range.map(random_id).collect()
}

/// Frames in the write-ahead log.
fn frames(connection: &Connection) -> i64 {
    connection
        .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))
        .unwrap()
}

/// Has the log begin anew with the next commit. It cannot while a checkpoint of payd's is under way.
fn empty_log(connection: &Connection) {
    let restart = "PRAGMA wal_checkpoint(RESTART)";
    while connection
        .query_row(restart, [], |row| row.get::<_, i64>(0))
        .unwrap()
        != 0
    {
        std::thread::yield_now();
    }
}

#[test]
fn what_a_payment_writes_is_bounded_whatever_is_in_the_store() {
    let mut metered = Metered::new();
    for step in 0..80 {
        metered.pay_all(&random_ids(step * 50..(step + 1) * 50));
    }
    let beside = Connection::open(&metered.path).unwrap();
    let mut paid = |ids: &[InvoiceId]| {
        empty_log(&beside);
        metered.pay_all(ids);
        frames(&beside)
    };
    // Three commits. What is in order lies on the same few pages, and ids and keys in no order gather first; the
    // payment's ids lie in runs.
    let in_order = (0..50).map(|n| InvoiceId::parse(&format!("z-{n:05}")).unwrap());
    let in_order = paid(&in_order.collect::<Vec<_>>());
    let at_random = paid(&random_ids(9000..9050));
    assert!(
        in_order <= IN_ORDER && at_random <= AT_RANDOM,
        "{in_order} frames in order, {at_random} at random"
    );
}

#[test]
fn late_indexes_cost_nothing_in_between_and_little_when_their_time_has_come() {
    let mut metered = Metered::new();
    let beside = Connection::open(&metered.path).unwrap();
    answer_keys::register(&beside).unwrap();
    invoice_ids::register(&beside).unwrap();
    // So many payments that the next begins a run, all of them with ids in no order.
    let rows = "PRAGMA foreign_keys = ON;
        WITH RECURSIVE k (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM k WHERE n < 16383)
        INSERT INTO invoices (n, id, amount, currency, metadata, status, attempts, attempts_before_round, needs_attention,
          cancel_requested, created_at, updated_at, paid_at, id_hash)
        SELECT n, printf('a-%06d', n), 1, 'EUR', '{}', 2, 1, 0, 0, 0, 0, 0, 0, 0 FROM k;
        INSERT INTO payments (n, id, invoice, attempt, idempotency_key, state, requested_at, due_at, resends, contradicted,
          epoch, lookups)
        SELECT n, CAST(x'000000000000' || randomblob(10) AS BLOB), n, 1, 'key', 5, 0, 0, 0, 0, 1, 0 FROM invoices WHERE n > 1";
    beside.execute_batch(rows).unwrap();
    let until = |name| late::until(&beside, name).unwrap();
    let mut ids = (0..).map(|n| InvoiceId::parse(&format!("z-{n:05}")).unwrap());
    let mut most = (0, 0);
    for _ in 0..60 {
        let before = (until(late::EVENT_TYPES.name), until(late::PAYMENT_IDS));
        empty_log(&beside);
        metered.pay_all(&ids.by_ref().take(50).collect::<Vec<_>>());
        let frames = frames(&beside);
        let is_quiet = before == (until(late::EVENT_TYPES.name), until(late::PAYMENT_IDS));
        // The first time has all of those above to put in.
        if is_quiet {
            most.0 = most.0.max(frames);
        } else if before.1 > 0 {
            most.1 = most.1.max(frames);
        }
    }
    assert!(
        (1..=QUIET).contains(&most.0) && (1..=LATE).contains(&most.1),
        "{most:?} frames"
    );
    // Nothing is missing, and whatever is newer than they are is found too.
    assert_eq!(late::fault(&beside).unwrap(), None);
    let newest: i64 = beside
        .query_row("SELECT max(n) FROM payments", [], |row| row.get(0))
        .unwrap();
    let known = until(late::PAYMENT_IDS);
    assert!(
        known < newest && newest - known < STEP,
        "{known} of {newest}"
    );
    let reader = SqliteReader::open(&metered.path).unwrap();
    for n in [known - STEP, known, known + 1, newest] {
        let sql =
            "SELECT p.id, i.id FROM payments p JOIN invoices i ON i.n = p.invoice WHERE p.n = ?1";
        let (id, invoice): ([u8; 16], String) = beside
            .query_row(sql, [n], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        let found = reader.payment(PaymentId::from_bytes(id)).unwrap().unwrap();
        assert_eq!(found.invoice.id.as_str(), invoice);
    }
    let of_type = |after, limit| {
        let query = EventQuery {
            after,
            limit,
            types: vec![EventType::PaymentSucceeded],
            invoice: None,
            bytes: None,
        };
        reader.events(&query).unwrap().events
    };
    let all = of_type(0, usize::MAX);
    assert_eq!(all.len(), 1 + 60 * 50);
    let edge = u64::try_from(until(late::EVENT_TYPES.name)).unwrap();
    let at = all.partition_point(|(sequence, _)| *sequence <= edge);
    assert!(0 < at && at < all.len(), "the index ends at {at}");
    assert_eq!(of_type(all[at - 5].0, 10), all[at - 4..at + 6]);
    assert_eq!(of_type(all[at].0, 3), all[at + 1..at + 4]);
}

/// A look of a reader's, by its name.
type Look<'a> = (&'static str, Box<dyn Fn() + 'a>);

/// What is asked of readers, and how much SQLite's machine does for each.
fn looks(path: &Path, some: &InvoiceId) -> Vec<(&'static str, i32)> {
    let reader = open_reader(path).unwrap();
    let steps = Arc::new(Mutex::new(0));
    let ear = Arc::clone(&steps);
    let heard = move |event: TraceEvent<'_>| {
        if let TraceEvent::Profile(statement, _) = event {
            *ear.lock().unwrap() += statement.get_status(StatementStatus::VmStep);
        }
    };
    let mut reader = reader;
    reader
        .trace_v2(TraceEventCodes::SQLITE_TRACE_PROFILE, Some(heard))
        .unwrap();
    let reader = SqliteReader {
        path: path.to_owned(),
        idle: Arc::new(Idle(Mutex::new(vec![reader]))),
        recent_ids: None,
    };
    let invoices = |status, ascending| {
        let query = InvoiceQuery {
            status,
            after: None,
            limit: 20,
            ascending,
        };
        let mut each = |_| ControlFlow::Continue(());
        reader.invoices(query, &mut each).unwrap();
    };
    let events = |types: &[EventType], invoice: Option<InvoiceId>| {
        let query = EventQuery {
            after: 0,
            limit: 20,
            types: types.to_vec(),
            invoice,
            bytes: None,
        };
        reader.events(&query).unwrap();
    };
    let payment = reader.payments(some).unwrap().unwrap().remove(0).payment.id;
    let looks: Vec<Look<'_>> = vec![
        ("invoices", Box::new(|| invoices(None, false))),
        ("invoices, oldest first", Box::new(|| invoices(None, true))),
        (
            "paid",
            Box::new(|| invoices(Some(InvoiceStatus::Paid), false)),
        ),
        (
            "paid, oldest first",
            Box::new(|| invoices(Some(InvoiceStatus::Paid), true)),
        ),
        (
            "failed",
            Box::new(|| invoices(Some(InvoiceStatus::Failed), false)),
        ),
        (
            "failed, oldest first",
            Box::new(|| invoices(Some(InvoiceStatus::Failed), true)),
        ),
        (
            "an invoice",
            Box::new(|| assert!(reader.invoice(some).unwrap().is_some())),
        ),
        (
            "its payments",
            Box::new(|| assert!(reader.payments(some).unwrap().is_some())),
        ),
        (
            "its latest payment",
            Box::new(|| assert!(reader.latest_payment(some).unwrap().is_some())),
        ),
        (
            "a payment",
            Box::new(|| assert!(reader.payment(payment).unwrap().is_some())),
        ),
        ("events", Box::new(|| events(&[], None))),
        (
            "events of a type",
            Box::new(|| events(&[EventType::PaymentSucceeded], None)),
        ),
        (
            "events of a type that there is not",
            Box::new(|| events(&[EventType::PaymentFailed], None)),
        ),
        (
            "events of types",
            Box::new(|| {
                let types = [EventType::InvoiceCreated, EventType::PaymentRequested];
                events(&types, None);
            }),
        ),
        (
            "events of an invoice",
            Box::new(|| events(&[], Some(some.clone()))),
        ),
        (
            "a type of an invoice",
            Box::new(|| events(&[EventType::PaymentSucceeded], Some(some.clone()))),
        ),
        (
            "the tally",
            Box::new(|| drop(reader.tally(Still.now()).unwrap())),
        ),
    ];
    looks
        .into_iter()
        .map(|(name, look)| {
            *steps.lock().unwrap() = 0;
            look();
            let steps = *steps.lock().unwrap();
            (name, steps)
        })
        .collect()
}

/// Who follows an invoice from before it is there hears of all that happens to it.
#[test]
fn no_event_of_an_invoice_is_passed_over_that_is_made_while_somebody_looks() {
    let mut metered = Metered::new();
    let alone = SqliteReader::open(&metered.path).unwrap();
    let reader = metered.reader.take().unwrap();
    let ids: Vec<_> = (0..1500).map(random_id).collect();
    let (turn, made) = (AtomicI64::new(0), AtomicI64::new(0));
    std::thread::scope(|scope| {
        let readers = [&alone, &reader].map(|reader| {
            let (turn, made, ids) = (&turn, &made, &ids);
            scope.spawn(move || {
                for (n, id) in (1..).zip(ids) {
                    let mut after = 0;
                    turn.fetch_add(1, Ordering::SeqCst);
                    loop {
                        let is_made = made.load(Ordering::SeqCst) >= n;
                        let query = EventQuery {
                            after,
                            limit: 10,
                            types: Vec::new(),
                            invoice: Some(id.clone()),
                            bytes: None,
                        };
                        let slice = reader.events(&query).unwrap();
                        if !slice.events.is_empty() {
                            break;
                        }
                        assert!(!is_made, "event {n} is passed over at {after}");
                        after = slice.read_to;
                    }
                }
            })
        });
        for (n, id) in (1..).zip(&ids) {
            // Both look for it, and have for a while.
            while turn.load(Ordering::SeqCst) < 2 * n {
                assert!(
                    readers.iter().all(|it| !it.is_finished()),
                    "one has seen no event"
                );
                std::thread::yield_now();
            }
            let create = envelope(Action::Create(vec![invoice(id).into()]), None);
            metered.cost_of(vec![create.0]);
            made.store(n, Ordering::SeqCst);
        }
    });
}

/// Steps by which the index of invoices by status may be behind.
const BEHIND: i32 = 4;

#[test]
fn invoices_are_listed_by_status_whatever_the_index_has_of_them() {
    let mut metered = Metered::new();
    let beside = Connection::open(&metered.path).unwrap();
    answer_keys::register(&beside).unwrap();
    invoice_ids::register(&beside).unwrap();
    let reader = SqliteReader::open(&metered.path).unwrap();
    let ids: Vec<_> = (0..6000).map(random_id).collect();
    let until = || late::until(&beside, late::IN_STATUS.name).unwrap();
    let cancel = |metered: &mut Metered, some: &[InvoiceId]| {
        let cancel = |id: &InvoiceId| {
            let command = Command::Cancel { reason: None };
            envelope(Action::OnInvoice(id.clone(), command), None)
        };
        let (envelopes, _waits): (Vec<_>, Vec<_>) = some.iter().map(cancel).unzip();
        metered.cost_of(envelopes);
    };
    let check = || {
        assert_eq!(late::fault(&beside).unwrap(), None);
        for (code, status) in (0..).zip(InvoiceStatus::ALL) {
            let mut sql = beside
                .prepare("SELECT n FROM invoices WHERE status = ?1 ORDER BY n")
                .unwrap();
            let found = sql.query_map([code], |row| row.get::<_, i64>(0)).unwrap();
            let mut expected: Vec<u64> = found.map(|n| n.unwrap().unsigned_abs()).collect();
            for ascending in [true, false] {
                for limit in [1000, 7] {
                    let mut listed = Vec::new();
                    // From anywhere, and some pages on.
                    let start = expected.get(expected.len() / 3).copied();
                    let mut after = start.filter(|_| limit == 7);
                    let mut pages = 0;
                    loop {
                        let query = InvoiceQuery {
                            status: Some(status),
                            after,
                            limit,
                            ascending,
                        };
                        let before = listed.len();
                        let each = &mut |record: InvoiceRecord| {
                            assert_eq!(record.invoice.status, status);
                            listed.push(record.cursor);
                            ControlFlow::Continue(())
                        };
                        reader.invoices(query, each).unwrap();
                        assert!(listed.len() <= before + limit);
                        after = listed.last().copied();
                        pages += 1;
                        if listed.len() < before + limit || pages == 300 {
                            break;
                        }
                    }
                    let from = match start.filter(|_| limit == 7) {
                        None => 0,
                        Some(n) => expected.iter().position(|it| *it == n).unwrap() + 1,
                    };
                    let rest = &expected[from.min(expected.len())..];
                    assert_eq!(listed, &rest[..rest.len().min(300 * limit)], "{code}");
                }
                expected.reverse();
            }
        }
    };
    let mut moved = Vec::new();
    for some in ids.chunks(500) {
        let new = some.iter().map(|id| invoice(id).into()).collect();
        let (envelope, _wait) = envelope(Action::Create(new), None);
        metered.cost_of(vec![envelope]);
        moved.push(until());
        check();
    }
    assert_eq!(moved[5], 0, "the newest are in no index");
    let known = until();
    assert!((1500..3000).contains(&known), "{known}");
    // Some of each: of the oldest, of those at the edge, and of the newest.
    // There is one before these.
    let edge = usize::try_from(known).unwrap() - 1;
    // Two statements for each that the index has: out of one status and into the other.
    let mut told = Vec::new();
    for from in [3, edge - 20, edge, 5900] {
        cancel(&mut metered, &ids[from..from + 20]);
        told.push(
            metered
                .said()
                .matches("INSERT OR REPLACE INTO invoices_in_status")
                .count(),
        );
        check();
    }
    assert_eq!(told, [40, 40, 0, 0]);
}

#[test]
fn what_a_look_costs_does_not_depend_on_how_much_there_is() {
    let mut metered = Metered::new();
    let mut looks_at = |from: usize, to: usize| {
        for n in (from..to).step_by(50) {
            metered.pay_all(&random_ids(n..n + 50));
        }
        looks(&metered.path, &random_id(7))
    };
    let few = looks_at(0, 100);
    let many = looks_at(100, 8000);
    for ((look, few), (_, many)) in few.into_iter().zip(many) {
        // What is too new for a late index is looked through, row by row.
        let newest = match look {
            "a payment" => 6,
            look if look.starts_with("events of a type") || look == "events of types" => 5,
            // That index is further behind.
            "failed" | "failed, oldest first" => 5 * BEHIND,
            _ => 0,
        };
        let most = few + few / 10 + newest * i32::try_from(STEP).unwrap();
        assert!(
            few > 0 && many <= most,
            "{look}: {few} steps of few, {many} of many"
        );
    }
}
