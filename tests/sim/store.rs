//! The model of a disk with a database on it, and what goes wrong with it.
//!
//! The disk survives crashes; a transaction that is not committed does not. Changes are made in
//! place and can be undone: there is one writer, and nobody looks while it writes. That the model
//! does what SQLite does is held by `twin.rs`.

use std::collections::BTreeMap;
use std::panic;
use std::sync::Arc;
use std::time::Duration;

use payd::application::ports::{Expected, Head, Queue, Store, StoreError, StoreInfo};
use payd::application::request::{AnswerName, StoredAnswer};
use payd::application::{Entry, EventRecord, Token, decode, first_digest};
use payd::domain::{
    Aggregate, EventType, InvoiceId, InvoiceStatus, Payment, PaymentId, PaymentState, StoreId,
    Timestamp,
};
use payd::infrastructure::store::SqliteStore;

use super::canary::Canary;
use super::check;
use super::twin;
use super::world::{Place, State, World};

/// What payd crashes with: not a panic of its own.
pub(crate) struct Crash;

/// Answers are kept for so long, in time lived.
const ANSWER_AGE_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// An event as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) row: usize,
    pub(crate) kind: EventType,
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: [u8; 32],
}

/// See the module.
pub(crate) struct Disk {
    pub(crate) store: StoreId,
    /// Invoices with all their payments, as the tables have them.
    pub(crate) rows: Vec<Aggregate>,
    /// Payments in the order in which they were made: among what is due at once, that is its order.
    order: Vec<PaymentId>,
    pub(crate) log: Vec<Logged>,
    /// By actor and key; with the age at which each was kept.
    pub(crate) answers: BTreeMap<(String, String), (StoredAnswer, u64)>,
    age_ms: u64,
    pub(crate) paused: bool,
    tokens: Vec<Token>,
    /// What to put back where the transaction is not committed.
    undo: Option<Undo>,
}

/// What stood before a transaction.
pub(crate) struct Undo {
    /// Rows that were changed, as they were. Those beyond `rows` are new.
    pub(crate) changed: Vec<(usize, Aggregate)>,
    pub(crate) rows: usize,
    order: usize,
    pub(crate) log: usize,
    new_answers: Vec<(String, String)>,
    expired: Vec<((String, String), (StoredAnswer, u64))>,
    age_ms: u64,
    pub(crate) paused: bool,
    tokens: Vec<Token>,
}

impl Disk {
    /// The sequence of the newest event of an invoice, by its place in `rows`.
    fn newest_event(&self, row: usize) -> Option<u64> {
        let place = self.log.iter().rposition(|it| it.row == row)?;
        Some(place as u64 + 1)
    }

    pub(crate) fn new(uuid: uuid::Uuid) -> Self {
        Self {
            store: StoreId::from_uuid(uuid),
            rows: Vec::new(),
            order: Vec::new(),
            log: Vec::new(),
            answers: BTreeMap::new(),
            age_ms: 0,
            paused: false,
            tokens: Vec::new(),
            undo: None,
        }
    }

    /// The end of the log.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.log
            .last()
            .map_or_else(|| first_digest(self.store), |event| event.digest)
    }

    /// Whether a transaction is open.
    pub(crate) const fn is_open(&self) -> bool {
        self.undo.is_some()
    }

    pub(crate) fn find(&self, id: &InvoiceId) -> Option<usize> {
        self.rows.iter().position(|row| row.invoice.id() == id)
    }

    /// A payment by its key at the gateway.
    pub(crate) fn by_key(&self, key: &str) -> Option<(&Aggregate, &Payment)> {
        self.payments()
            .find(|(_, payment)| payment.key.as_str() == key)
    }

    pub(crate) fn by_id(&self, id: PaymentId) -> Option<(&Aggregate, &Payment)> {
        self.payments().find(|(_, payment)| payment.id == id)
    }

    pub(crate) fn payments(&self) -> impl Iterator<Item = (&Aggregate, &Payment)> {
        self.rows
            .iter()
            .flat_map(|row| row.payments.iter().map(move |payment| (row, payment)))
    }

    fn begin(&mut self) {
        self.undo = Some(Undo {
            changed: Vec::new(),
            rows: self.rows.len(),
            order: self.order.len(),
            log: self.log.len(),
            new_answers: Vec::new(),
            expired: Vec::new(),
            age_ms: self.age_ms,
            paused: self.paused,
            tokens: self.tokens.clone(),
        });
    }

    /// Makes the transaction durable, and gives what stood before it.
    fn commit(&mut self) -> Option<Undo> {
        self.undo.take()
    }

    pub(crate) fn rollback(&mut self) {
        let Some(undo) = self.undo.take() else {
            return;
        };
        for (row, before) in undo.changed {
            self.rows[row] = before;
        }
        self.rows.truncate(undo.rows);
        self.order.truncate(undo.order);
        self.log.truncate(undo.log);
        for key in undo.new_answers {
            self.answers.remove(&key);
        }
        self.answers.extend(undo.expired);
        self.age_ms = undo.age_ms;
        self.paused = undo.paused;
        self.tokens = undo.tokens;
    }

    fn undo(&mut self) -> &mut Undo {
        // What writes outside a transaction is a mistake in the engine.
        self.undo.as_mut().expect("written outside a transaction")
    }

    /// The row, to be changed.
    fn change(&mut self, row: usize) -> &mut Aggregate {
        let before = self.rows[row].clone();
        let undo = self.undo();
        if row < undo.rows && !undo.changed.iter().any(|(changed, _)| *changed == row) {
            undo.changed.push((row, before));
        }
        &mut self.rows[row]
    }

    fn save(&mut self, entry: &mut Entry) -> Result<(), StoreError> {
        let invoice = &entry.aggregate.invoice;
        if entry.row.is_none() || entry.invoice_changed {
            if (invoice.status == InvoiceStatus::Paid) != invoice.paid_at.is_some() {
                return Err(constraint("CHECK of invoices: paid_at"));
            }
            if invoice.attempts_before_round > invoice.attempts {
                return Err(constraint("CHECK of invoices: attempts_before_round"));
            }
        }
        let row = match entry.row {
            None => {
                if self.find(invoice.id()).is_some() {
                    return Err(constraint("UNIQUE of invoices: id"));
                }
                self.undo();
                self.rows.push(Aggregate::new(invoice.clone()));
                self.rows.len() - 1
            }
            Some(n) => {
                let row = usize::try_from(n - 1).unwrap_or(usize::MAX);
                if entry.invoice_changed {
                    // The content and the time of birth never change.
                    let stored = &mut self.change(row).invoice;
                    let (content, created_at) = (stored.content.clone(), stored.created_at);
                    *stored = invoice.clone();
                    (stored.content, stored.created_at) = (content, created_at);
                }
                row
            }
        };
        for id in &entry.payments_changed {
            if let Some(payment) = entry.aggregate.payment(*id) {
                self.save_payment(row, payment)?;
            }
        }
        entry.saved(i64::try_from(row + 1).map_err(|error| constraint(&error.to_string()))?);
        Ok(())
    }

    fn save_payment(&mut self, row: usize, payment: &Payment) -> Result<(), StoreError> {
        let sending = payment.state == PaymentState::Sending;
        if sending != payment.work.lease_until.is_some() {
            return Err(constraint("CHECK of payments: lease_until"));
        }
        if (payment.state == PaymentState::Failed) != payment.failure.is_some() {
            return Err(constraint("CHECK of payments: failure"));
        }
        let others = |state: fn(PaymentState) -> bool| {
            let same_row = &self.rows[row].payments;
            state(payment.state)
                && same_row
                    .iter()
                    .any(|other| other.id != payment.id && state(other.state))
        };
        if others(PaymentState::is_open) {
            return Err(constraint("payments_one_open"));
        }
        if others(|state| state == PaymentState::Succeeded) {
            return Err(constraint("payments_one_succeeded"));
        }
        let payments = &mut self.change(row).payments;
        match payments.iter().position(|other| other.id == payment.id) {
            Some(place) => {
                let stored = &mut payments[place];
                let before = std::mem::replace(stored, payment.clone());
                // What never changes.
                stored.attempt = before.attempt;
                stored.key = before.key;
                stored.method = before.method;
                stored.requested_at = before.requested_at;
            }
            None if payments.iter().any(|it| it.attempt == payment.attempt) => {
                return Err(constraint("UNIQUE of payments: invoice, attempt"));
            }
            None => {
                payments.push(payment.clone());
                payments.sort_by_key(|payment| payment.attempt);
                self.order.push(payment.id);
            }
        }
        Ok(())
    }

    /// What is in a queue, in its order: by time.
    fn queued(&self, queue: Queue, gateway: &str) -> Vec<(Timestamp, &InvoiceId)> {
        let mut queued: Vec<_> = self
            .payments()
            .filter_map(|(row, payment)| {
                let here = payment.gateway.as_deref() == Some(gateway);
                let free = payment.gateway.is_none() || here;
                let held = row
                    .invoice
                    .contradicted_attempt
                    .is_some_and(|attempt| attempt < payment.attempt);
                let at = match (queue, payment.state) {
                    (Queue::Due, PaymentState::Requested) if free && !held => payment.due_at,
                    (Queue::Lookups, PaymentState::Accepted | PaymentState::Unknown) if here => {
                        payment.work.next_lookup_at?
                    }
                    (Queue::Leases, PaymentState::Sending) => payment.work.lease_until?,
                    // In no order of time.
                    (
                        Queue::Elsewhere,
                        PaymentState::Requested | PaymentState::Accepted | PaymentState::Unknown,
                    ) if !free && !row.invoice.needs_attention => Timestamp::from_millis(0),
                    _ => return None,
                };
                let place = self.order.iter().position(|id| *id == payment.id);
                Some((at, place, row.invoice.id()))
            })
            .collect();
        queued.sort_by_key(|(at, place, _)| (*at, *place));
        queued.into_iter().map(|(at, _, id)| (at, id)).collect()
    }
}

fn constraint(what: &str) -> StoreError {
    StoreError::Constraint(format!("{what}, says the model"))
}

/// The store that payd gets: the model, what goes wrong with it, and in some seeds the real one
/// beside it, which must say the same.
pub(crate) struct ModelStore {
    pub(crate) world: Arc<World>,
    pub(crate) real: Option<SqliteStore>,
}

/// What a call of the store is for: that decides how it may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Begin,
    Read,
    /// A read of one invoice's rows.
    Load,
    Write,
    Save,
    Commit,
}

impl ModelStore {
    /// Crashes here, or fails, or goes on.
    fn pass(&mut self, call: Call) -> Result<(), StoreError> {
        let (crash, failure) = self.world.with(|state| {
            let crash = state.passes(Place::Store);
            let failure = if crash { None } else { fault(state, call) };
            if let Some(error) = &failure {
                state.counted.faults += 1;
                // A refused row is tried again by itself: only where that fails too is it set aside.
                let twice = match error {
                    StoreError::BadRow(_) => true,
                    StoreError::Constraint(_) => {
                        let now = state.now_ms();
                        state.refused_ms.replace(now) == Some(now)
                    }
                    _ => false,
                };
                state.sets_aside |= twice;
                state.tell(|| format!("  {call:?} fails: {error}"));
            }
            (crash, failure)
        });
        if crash {
            die(&self.world);
        }
        failure.map_or(Ok(()), Err)
    }

    /// Whether a canary sings here and now.
    fn forgets(&self, canary: Canary) -> bool {
        self.world.with(|state| {
            let always = canary == Canary::StoreForgetsTimers;
            state.canary == Some(canary) && (always || state.chance.store.often(500))
        })
    }

    fn both<T: twin::Same>(
        &mut self,
        what: &str,
        model: impl FnOnce(&mut State) -> Result<T, StoreError>,
        real: impl FnOnce(&mut SqliteStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let model = self.world.with(model);
        let Some(store) = &mut self.real else {
            return model;
        };
        let real = real(store);
        if let Some(difference) = twin::difference(what, &model, &real) {
            self.world.with(|state| state.fail(|| difference));
        }
        model
    }
}

/// Ends payd where it stands. What was not committed is gone with it.
fn die(world: &World) -> ! {
    world.with(|state| state.disk.rollback());
    panic::resume_unwind(Box::new(Crash))
}

/// How a call fails, if it does.
fn fault(state: &mut State, call: Call) -> Option<StoreError> {
    let now = state.now_ms();
    let weather = &state.weather;
    if !state.storm || (weather.store_fails == 0 && weather.disk_full == 0) {
        return None;
    }
    let draw = &mut state.chance.store;
    let writes = matches!(call, Call::Write | Call::Save | Call::Commit);
    if call == Call::Begin && draw.often(weather.disk_full) {
        let until = draw.spread_ms(120_000);
        state.full_until_ms = now + i64::try_from(until).unwrap_or(0);
    }
    if writes && now < state.full_until_ms {
        return Some(StoreError::NoRoom("the disk is full".to_owned()));
    }
    if !draw.often(weather.store_fails) {
        return None;
    }
    if draw.often(weather.store_fatal) {
        return Some(StoreError::Fatal("disk I/O error".to_owned()));
    }
    let busy = || StoreError::Busy("database is locked".to_owned());
    let full = || StoreError::NoRoom("database or disk is full".to_owned());
    Some(match (call, draw.within(0, 9)) {
        (Call::Load, 0..2) => StoreError::BadRow("a row cannot be read".to_owned()),
        (Call::Save, 0..2) => StoreError::Constraint("a row is refused".to_owned()),
        (Call::Write | Call::Save | Call::Commit, 2..7) => full(),
        _ => busy(),
    })
}

impl Store for ModelStore {
    fn pack(json: &str) -> Option<Vec<u8>> {
        SqliteStore::pack(json)
    }

    fn info(&mut self) -> Result<StoreInfo, StoreError> {
        self.pass(Call::Read)?;
        self.both(
            "info",
            |state| {
                let disk = &state.disk;
                let event_time = match disk.log.last() {
                    Some(event) => Some(
                        decode(&event.bytes)
                            .map_err(|error| StoreError::Fatal(error.to_string()))?
                            .at,
                    ),
                    None => None,
                };
                let claimed = disk
                    .payments()
                    .filter(|(_, payment)| payment.state == PaymentState::Sending)
                    .filter_map(|(_, payment)| payment.sent_at)
                    .max();
                Ok(StoreInfo {
                    restored: None,
                    store: disk.store,
                    source: disk.store,
                    head: Head {
                        sequence: disk.log.len() as u64,
                        digest: disk.digest(),
                        time: event_time.max(claimed),
                    },
                    paused: disk.paused,
                })
            },
            SqliteStore::info,
        )
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.pass(Call::Begin)?;
        self.both(
            "begin",
            |state| {
                // What reached the gateway by now met the disk as it is.
                super::gateway::catch_up(state);
                state.disk.begin();
                Ok(())
            },
            SqliteStore::begin,
        )
    }

    fn expect(
        &mut self,
        expected: &mut dyn Iterator<Item = Expected<'_>>,
    ) -> Result<(), StoreError> {
        match &mut self.real {
            Some(real) => real.expect(expected),
            None => Ok(()),
        }
    }

    fn load(&mut self, invoice: &InvoiceId) -> Result<Option<Entry>, StoreError> {
        self.pass(Call::Load)?;
        self.both(
            "load",
            |state| {
                let Some(row) = state.disk.find(invoice) else {
                    return Ok(None);
                };
                let stored = &state.disk.rows[row];
                let aggregate = Aggregate {
                    invoice: stored.invoice.clone(),
                    payments: stored.payments.last().cloned().into_iter().collect(),
                };
                Ok(Some(Entry::loaded(
                    aggregate,
                    i64::try_from(row + 1).unwrap_or(0),
                    state.disk.newest_event(row),
                )))
            },
            |real| real.load(invoice),
        )
    }

    fn invoice_of(&mut self, payment: PaymentId) -> Result<Option<InvoiceId>, StoreError> {
        self.pass(Call::Read)?;
        self.both(
            "invoice_of",
            |state| {
                let found = state.disk.by_id(payment);
                Ok(found.map(|(row, _)| row.invoice.id().clone()))
            },
            |real| real.invoice_of(payment),
        )
    }

    fn payment(&mut self, payment: PaymentId) -> Result<Option<Payment>, StoreError> {
        self.pass(Call::Load)?;
        self.both(
            "payment",
            |state| {
                Ok(state
                    .disk
                    .by_id(payment)
                    .map(|(_, payment)| payment.clone()))
            },
            |real| real.payment(payment),
        )
    }

    fn queue(
        &mut self,
        queue: Queue,
        gateway: &str,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<InvoiceId>, StoreError> {
        self.pass(Call::Read)?;
        self.both(
            "queue",
            |state| {
                let queued = state.disk.queued(queue, gateway);
                let due = queued.into_iter().take_while(|(at, _)| *at <= until);
                Ok(due.take(limit).map(|(_, id)| id.clone()).collect())
            },
            |real| real.queue(queue, gateway, until, limit),
        )
    }

    fn next(&mut self, queue: Queue, gateway: &str) -> Result<Option<Timestamp>, StoreError> {
        self.pass(Call::Read)?;
        if queue == Queue::Lookups && self.forgets(Canary::StoreForgetsTimers) {
            return Ok(None);
        }
        self.both(
            "next",
            |state| {
                let queued = state.disk.queued(queue, gateway);
                let first = queued.first().map(|(at, _)| *at);
                Ok(first.filter(|_| queue != Queue::Elsewhere))
            },
            |real| real.next(queue, gateway),
        )
    }

    fn pull_lookups(&mut self, until: Timestamp) -> Result<usize, StoreError> {
        self.pass(Call::Write)?;
        self.both(
            "pull_lookups",
            |state| {
                let late = |payment: &Payment| {
                    matches!(
                        payment.state,
                        PaymentState::Accepted | PaymentState::Unknown
                    ) && payment.work.next_lookup_at.is_some_and(|at| at > until)
                };
                let mut pulled = 0;
                for row in 0..state.disk.rows.len() {
                    if !state.disk.rows[row].payments.iter().any(late) {
                        continue;
                    }
                    for payment in &mut state.disk.change(row).payments {
                        if late(payment) {
                            payment.work.next_lookup_at = Some(until);
                            pulled += 1;
                        }
                    }
                }
                Ok(pulled)
            },
            |real| real.pull_lookups(until),
        )
    }

    fn answer(&mut self, asked: AnswerName<'_>) -> Result<Option<StoredAnswer>, StoreError> {
        self.pass(Call::Read)?;
        self.both(
            "answer",
            |state| {
                let name = (asked.actor.to_string(), asked.key.to_owned());
                let kept = state.disk.answers.get(&name);
                Ok(kept.map(|(answer, _)| answer.clone()))
            },
            |real| real.answer(asked),
        )
    }

    fn save(&mut self, entry: &mut Entry) -> Result<(), StoreError> {
        self.pass(Call::Save)?;
        if self.forgets(Canary::StoreForgetsRows) && entry.row.is_some() {
            entry.payments_changed.pop();
        }
        let mut copy = self.real.is_some().then(|| entry.clone());
        self.both(
            "save",
            |state| state.disk.save(entry),
            |real| match &mut copy {
                Some(copy) => real.save(copy),
                None => Ok(()),
            },
        )
    }

    fn append(
        &mut self,
        record: EventRecord,
        previous: Option<u64>,
        invoice_row: i64,
    ) -> Result<(), StoreError> {
        self.pass(Call::Write)?;
        let copy = self.real.is_some().then(|| record.clone());
        self.both(
            "append",
            |state| {
                let next = state.disk.log.len() as u64 + 1;
                state.must(record.sequence == next, || {
                    format!(
                        "invariant 9: event {} where {next} comes next",
                        record.sequence
                    )
                });
                let row = usize::try_from(invoice_row - 1).unwrap_or(usize::MAX);
                let newest = state.disk.newest_event(row);
                state.must(previous == newest, || {
                    format!(
                        "event {}: {previous:?} is said to be the one of its invoice before it, and that is {newest:?}",
                        record.sequence
                    )
                });
                state.disk.log.push(Logged {
                    row,
                    kind: record.kind,
                    bytes: record.json.into_bytes(),
                    digest: record.digest,
                });
                Ok(())
            },
            |real| match copy {
                Some(copy) => real.append(copy, previous, invoice_row),
                None => Ok(()),
            },
        )
    }

    fn events(&mut self, first: u64, last: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        self.pass(Call::Read)?;
        self.both(
            "events",
            |state| {
                let place = |it: u64| usize::try_from(it).unwrap_or(usize::MAX);
                let log = state.disk.log.iter().take(place(last));
                let events = log.skip(place(first.saturating_sub(1)));
                Ok(events.map(|it| it.bytes.clone()).collect())
            },
            |real| real.events(first, last),
        )
    }

    fn keep_answer(
        &mut self,
        asked: AnswerName<'_>,
        answer: StoredAnswer,
    ) -> Result<(), StoreError> {
        self.pass(Call::Write)?;
        if self.forgets(Canary::StoreForgetsAnswers) {
            return Ok(());
        }
        self.both(
            "keep_answer",
            |state| {
                let name = (asked.actor.to_string(), asked.key.to_owned());
                let disk = &mut state.disk;
                if disk.answers.contains_key(&name) {
                    return Err(constraint("UNIQUE of answers: key, actor"));
                }
                disk.undo().new_answers.push(name.clone());
                disk.answers.insert(name, (answer.clone(), disk.age_ms));
                Ok(())
            },
            |real| real.keep_answer(asked, answer.clone()),
        )
    }

    fn expire_answers(&mut self, lived: Duration, limit: usize) -> Result<usize, StoreError> {
        self.pass(Call::Write)?;
        self.both(
            "expire_answers",
            |state| {
                let disk = &mut state.disk;
                disk.age_ms += u64::try_from(lived.as_millis()).unwrap_or(0);
                let now = disk.age_ms;
                let old: Vec<_> = disk
                    .answers
                    .iter()
                    .filter(|(_, (_, born))| born + ANSWER_AGE_MAX_MS < now)
                    .map(|(name, _)| name.clone())
                    .take(limit)
                    .collect();
                for name in &old {
                    if let Some(gone) = disk.answers.remove(name) {
                        disk.undo().expired.push((name.clone(), gone));
                    }
                }
                Ok(old.len())
            },
            |real| real.expire_answers(lived, limit),
        )
    }

    /// No store of the simulation comes from a backup.
    fn restore_done(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn set_paused(&mut self, paused: bool) -> Result<(), StoreError> {
        self.pass(Call::Write)?;
        self.both(
            "set_paused",
            |state| {
                state.disk.undo();
                state.disk.paused = paused;
                Ok(())
            },
            |real| real.set_paused(paused),
        )
    }

    fn tokens(&mut self) -> Result<Vec<Token>, StoreError> {
        self.pass(Call::Read)?;
        self.both(
            "tokens",
            |state| Ok(state.disk.tokens.clone()),
            SqliteStore::tokens,
        )
    }

    fn add_token(&mut self, token: &Token) -> Result<(), StoreError> {
        self.pass(Call::Write)?;
        self.both(
            "add_token",
            |state| {
                state.disk.undo();
                state.disk.tokens.push(token.clone());
                Ok(())
            },
            |real| real.add_token(token),
        )
    }

    fn revoke_token(&mut self, id: &str, at: Timestamp, by: &str) -> Result<(), StoreError> {
        self.pass(Call::Write)?;
        self.both(
            "revoke_token",
            |state| {
                state.disk.undo();
                let standing = |it: &&mut Token| it.id == id && it.revoked.is_none();
                if let Some(token) = state.disk.tokens.iter_mut().find(standing) {
                    token.revoked = Some((at, by.to_owned()));
                }
                Ok(())
            },
            |real| real.revoke_token(id, at, by),
        )
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.world.with(|state| state.passes(Place::BeforeCommit)) {
            die(&self.world);
        }
        // A commit that fails for good is on the disk, or it is not.
        let lost = match self.pass(Call::Commit) {
            Err(error @ StoreError::Fatal(_)) => {
                if self.world.with(|state| state.chance.store.often(5000)) {
                    self.rollback();
                    return Err(error);
                }
                Some(error)
            }
            Err(error) => {
                self.rollback();
                return Err(error);
            }
            Ok(()) => None,
        };
        if self.forgets(Canary::StoreDropsCommits) {
            self.rollback();
            return Ok(());
        }
        let result = self.both(
            "commit",
            |state| {
                state.counted.commits += 1;
                if let Some(before) = state.disk.commit() {
                    check::committed(state, &before);
                }
                Ok(())
            },
            SqliteStore::commit,
        );
        if self.world.with(|state| state.passes(Place::AfterCommit)) {
            die(&self.world);
        }
        match lost {
            Some(error) => Err(error),
            None => result,
        }
    }

    fn rollback(&mut self) {
        self.world.with(|state| state.disk.rollback());
        if let Some(real) = &mut self.real {
            real.rollback();
        }
    }
}
