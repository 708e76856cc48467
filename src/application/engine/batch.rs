//! One transaction: requests decided in turn on a working set, then written and committed.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::domain::{
    Aggregate, Command, Decision, Event, EventType, InvoiceId, InvoiceStatus, LookupPolicy,
    NewInvoice, Payment, PaymentId, PaymentState, Refusal, Timestamp, create, decide,
};
use crate::failpoints;

use super::super::event_log::{Draft, Origin, decode};
use super::super::metrics::{Appended, Decided};
use super::super::ports::{ChargeRequest, Expected, Head, PaymentRecord, Queue, Store, StoreError};
use super::super::request::{
    Action, Caller, Encode, Envelope, InvoiceView, Kept, Outcome, Reply, StoredAnswer, SubmitError,
};
use super::super::tokens::{self, Token};
use super::super::working_set::{Entry, WorkingSet};
use super::Engine;
use super::recent::{GENERATION_MAX, Recent};
use super::sealer::Unsealed;

/// The rules' word on an action.
type Ruled = Result<Reply, Refusal>;

/// What a caller gets, once it is durable.
pub(super) type Answered = Result<Outcome, SubmitError>;

/// A transaction under way.
pub(super) struct Batch<'e, S> {
    engine: &'e mut Engine<S>,
    caller_payd: Caller,
    now: Timestamp,
    /// The end of the log with what is decided; its digest is that of the last event that the store has.
    head: Head,
    paused: bool,
    set: WorkingSet,
    /// Events that are not with the store yet, in their order, and where they belong.
    unsealed: Unsealed,
    places: Vec<Placed>,
    lines: Vec<Line>,
    settled: Vec<InvoiceId>,
    due: Vec<ChargeRequest>,
    lookups: Vec<ChargeRequest>,
    /// Invoices whose payment was requested in this very batch and is due now, not in the tables yet.
    fresh: Vec<InvoiceId>,
    tokens_changed: bool,
    requests: usize,
    wrote: bool,
    commit: failpoints::Commit,
}

/// What a committed transaction leaves to be told.
pub(super) struct Done {
    pub(super) head: Head,
    pub(super) paused: bool,
    pub(super) lines: Vec<Line>,
    /// Invoices that have left PROCESSING; with which payment, where somebody waits for that.
    pub(super) settled: Vec<(InvoiceId, Option<PaymentRecord>)>,
    pub(super) due: Vec<ChargeRequest>,
    pub(super) lookups: Vec<ChargeRequest>,
    /// All of them, where some changed.
    pub(super) tokens: Option<Vec<Token>>,
    /// Requests that it decided.
    pub(super) requests: usize,
    /// How long the commit took, with its sync.
    pub(super) commit_took: Duration,
    pub(super) wrote: bool,
}

/// One state change, for the log of the process.
pub(super) struct Line {
    sequence: u64,
    pub(super) kind: EventType,
    invoice: InvoiceId,
    status: InvoiceStatus,
    payment: Option<(PaymentId, u32)>,
    traceparent: Option<String>,
    actor: Arc<str>,
    /// The payment is decided: so, by this gateway.
    pub(super) decided: Option<(Decided, String)>,
    /// When its commit was over, by the wall clock, and how long that took.
    pub(super) committed: (SystemTime, Duration),
}

/// Where an event belongs that is not with the store yet.
struct Placed {
    /// The place of its invoice in the set.
    place: usize,
    /// The event of that invoice before it.
    previous: Option<u64>,
}

/// What a decision comes to, before anybody sees it.
#[derive(Default)]
struct Folded {
    drafts: Vec<(Draft, Line)>,
    /// The payments that it changes, in order.
    payments: Vec<PaymentId>,
}

/// A command was not decided: refused by the rules, or its invoice cannot be read.
enum Undecided {
    Refused(Refusal),
    SetAside(String),
    Store(StoreError),
}

impl From<StoreError> for Undecided {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::BadRow(why) => Self::SetAside(why),
            error => Self::Store(error),
        }
    }
}

impl<'e, S: Store> Batch<'e, S> {
    pub(super) fn begin(engine: &'e mut Engine<S>, now: Timestamp) -> Result<Self, StoreError> {
        engine.store.begin()?;
        Ok(Self {
            caller_payd: Caller::payd(),
            now,
            head: engine.head(),
            paused: engine.info.paused,
            set: WorkingSet::default(),
            unsealed: Unsealed::after(engine.head().digest),
            places: Vec::new(),
            lines: Vec::new(),
            settled: Vec::new(),
            due: Vec::new(),
            lookups: Vec::new(),
            fresh: Vec::new(),
            tokens_changed: false,
            requests: 0,
            wrote: false,
            commit: failpoints::Commit::default(),
            engine,
        })
    }

    /// Tells the store what these will have it look for.
    pub(super) fn expect(&mut self, requests: &[Envelope]) -> Result<(), StoreError> {
        let Engine { store, recent, .. } = &mut *self.engine;
        let expected = |request| expected(request, recent);
        store.expect(&mut requests.iter().flat_map(expected))
    }

    /// Decides one request.
    pub(super) fn decide(&mut self, request: &Envelope) -> Result<Answered, StoreError> {
        self.requests += 1;
        let Some(key) = &request.idempotency else {
            return Ok(self
                .act(request)?
                .map(|result| Outcome::Fresh(result, None)));
        };
        let name = key.name(&request.caller.actor);
        match self.engine.store.answer(name)? {
            Some(kept) if kept.fingerprint == key.fingerprint => {
                return self.again(kept.kept, &key.encode);
            }
            Some(_) => return Ok(Ok(Outcome::KeyReused)),
            None => {}
        }
        let before = self.head.sequence;
        let result = match self.act(request)? {
            Ok(result) => result,
            Err(error) => return Ok(Err(error)),
        };
        let events = (before + 1, self.head.sequence);
        let (kept, answer) = if is_told_by(events, &request.action, &result) {
            let (first, last) = events;
            (Some(Kept::Events { first, last }), None)
        } else {
            let answer = (key.encode)(&result);
            (answer.clone().map(Kept::Whole), answer)
        };
        if let Some(kept) = kept {
            let stored = StoredAnswer {
                fingerprint: key.fingerprint,
                kept,
            };
            self.engine.store.keep_answer(name, stored)?;
            self.wrote = true;
        }
        Ok(Ok(Outcome::Fresh(result, answer)))
    }

    /// The answer that was given before.
    fn again(&mut self, kept: Kept, encode: &Encode) -> Result<Answered, StoreError> {
        let (first, last) = match kept {
            Kept::Whole(answer) => return Ok(Ok(Outcome::Replayed(answer))),
            Kept::Events { first, last } => (first, last),
        };
        // They may be as new as this batch.
        self.flush()?;
        let events = self.engine.store.events(first, last);
        let answer = events
            .and_then(|events| self.replied(&events))
            .and_then(|reply| {
                encode(&Ok(reply))
                    .ok_or_else(|| StoreError::BadRow("it is not one that is kept".to_owned()))
            });
        match answer {
            Ok(answer) => Ok(Ok(Outcome::Replayed(answer))),
            Err(StoreError::BadRow(why)) => {
                tracing::error!(
                    first, last, %why,
                    "a kept answer cannot be written from its events again; `payd verify` says more"
                );
                Ok(Err(SubmitError::Internal(why)))
            }
            Err(error) => Err(error),
        }
    }

    /// What was replied to the request that these events came of: the inverse of [`is_told_by`].
    fn replied(&mut self, events: &[Vec<u8>]) -> Result<Reply, StoreError> {
        let bad = |why: &str| StoreError::BadRow(why.to_owned());
        let mut created = Vec::with_capacity(events.len());
        for bytes in events {
            let decoded = decode(bytes).map_err(|error| StoreError::BadRow(error.to_string()))?;
            match decoded.event {
                Event::InvoiceCreated(invoice) => {
                    let view = view(&Aggregate::new(*invoice));
                    created.push(Ok((view, true)));
                }
                Event::PaymentRequested {
                    payment,
                    attempt,
                    key,
                    method,
                    due_at,
                    cause,
                } if events.len() == 1 && cause.is_new_payment() => {
                    let names = (payment, attempt, key);
                    let payment = Payment::requested(names, method, decoded.at, due_at);
                    let place = self.load(&decoded.invoice)?;
                    let entry = place.and_then(|place| self.set.at(place));
                    let entry = entry.ok_or_else(|| bad("its invoice is gone"))?;
                    return Ok(payment_reply(&entry.aggregate, &payment, true));
                }
                _ => return Err(bad("an event is not of a request that was answered")),
            }
        }
        if created.is_empty() {
            return Err(bad("its events are gone"));
        }
        Ok(Reply::Created(created))
    }

    /// The inner result is the rules' word; the outer one says that a row could not be read.
    fn act(&mut self, request: &Envelope) -> Result<Result<Ruled, SubmitError>, StoreError> {
        let caller = &request.caller;
        let result = match &request.action {
            Action::Create(invoices) => invoices
                .iter()
                .map(|new| match self.create(new, caller) {
                    Ok(created) => Ok(Ok(created)),
                    Err(Undecided::Refused(refusal)) => Ok(Err(refusal)),
                    // One invoice's damage is no other's.
                    Err(Undecided::SetAside(why)) => {
                        self.engine.set_aside(&new.id, &why);
                        Ok(Err(Refusal::InvoiceUnreadable))
                    }
                    Err(error @ Undecided::Store(_)) => Err(error),
                })
                .collect::<Result<Vec<_>, _>>()
                .map(Reply::Created),
            Action::OnInvoice(id, command) => self.on_invoice(id, command, caller),
            Action::OnPayment(payment, invoice, command) => {
                self.on_payment(*payment, invoice.as_ref(), command, caller)
            }
            Action::Pause(paused) => {
                self.paused = *paused;
                self.wrote = true;
                self.commit.changes("pause");
                self.engine
                    .store
                    .set_paused(*paused)
                    .map(|()| Reply::Done)
                    .map_err(Undecided::from)
            }
            Action::AddToken(request) => {
                self.tokens_changed = true;
                self.wrote = true;
                let by = (self.now, &*caller.actor);
                tokens::add(&mut self.engine.store, request, by)
                    .map(|token| Reply::Token(Box::new(token)))
                    .map_err(Undecided::from)
            }
            Action::RevokeToken(name) => {
                self.tokens_changed = true;
                self.wrote = true;
                let by = (self.now, &*caller.actor);
                tokens::revoke(&mut self.engine.store, name, by)
                    .map(|token| Reply::Token(Box::new(token)))
                    .map_err(Undecided::from)
            }
            Action::Beat => {
                self.wrote = true;
                let paused = self.paused;
                self.engine
                    .store
                    .set_paused(paused)
                    .map(|()| Reply::Done)
                    .map_err(Undecided::from)
            }
            Action::ExpireAnswers { lived } => {
                self.wrote = true;
                self.engine
                    .store
                    .expire_answers(*lived, EXPIRE_MAX)
                    .map(Reply::Expired)
                    .map_err(Undecided::from)
            }
            // Claims are answered by `claim`.
            Action::StopClaims
            | Action::ClaimDue { .. }
            | Action::ClaimLookups { .. }
            | Action::ClaimProbe
            // It has been heard already, and is in no table.
            | Action::Probed(_) => Ok(Reply::Done),
        };
        match result {
            Ok(reply) => Ok(Ok(Ok(reply))),
            Err(Undecided::Refused(refusal)) => Ok(Ok(Err(refusal))),
            Err(Undecided::SetAside(why)) => {
                tracing::error!(%why, "an invoice cannot be read and is set aside; `payd verify` says more");
                Ok(Err(SubmitError::Internal(why)))
            }
            Err(Undecided::Store(error)) => Err(error),
        }
    }

    fn create(
        &mut self,
        new: &Arc<NewInvoice>,
        caller: &Caller,
    ) -> Result<(InvoiceView, bool), Undecided> {
        let now = self.now;
        let standing = self.load(&new.id)?;
        let standing = standing.and_then(|place| self.set.at(place));
        let decision = create(standing.map(|entry| &entry.aggregate.invoice), new, now)
            .map_err(Undecided::Refused)?;
        if let Some(event @ Event::InvoiceCreated(invoice)) = decision.events.first() {
            let entry = Entry::new(Aggregate::new((**invoice).clone()));
            let view = view(&entry.aggregate);
            let traceparent = caller.traceparent.as_deref();
            let next = self.head.sequence + 1;
            let draft = self.draft(next, event, &entry.aggregate, caller, traceparent);
            let place = self.set.insert(entry);
            self.push(place, draft);
            self.commit.changes("create");
            return Ok((view, true));
        }
        let entry = standing.ok_or(Undecided::Refused(Refusal::InvoiceNotFound))?;
        Ok((view(&entry.aggregate), false))
    }

    fn on_invoice(
        &mut self,
        id: &InvoiceId,
        command: &Command,
        caller: &Caller,
    ) -> Result<Reply, Undecided> {
        self.load(id)?
            .ok_or(Undecided::Refused(Refusal::InvoiceNotFound))?;
        let changed = self.carry_out(id, command, caller)?;
        let aggregate = self.aggregate(id)?;
        match command {
            Command::Pay { .. } => {
                let payment = aggregate
                    .latest()
                    .ok_or(Undecided::Refused(Refusal::PaymentNotFound))?;
                Ok(payment_reply(aggregate, payment, changed))
            }
            _ => Ok(Reply::Invoice(view(aggregate))),
        }
    }

    fn on_payment(
        &mut self,
        payment: PaymentId,
        invoice: Option<&InvoiceId>,
        command: &Command,
        caller: &Caller,
    ) -> Result<Reply, Undecided> {
        let unknown = || Undecided::Refused(Refusal::PaymentNotFound);
        // What the caller says is believed where it is so.
        let told = match invoice {
            Some(id) => self
                .load(id)?
                .and_then(|place| self.set.at(place)?.aggregate.payment(payment))
                .map(|_| id.clone()),
            None => None,
        };
        // Paid in this very batch, it is in the set and not yet in the store.
        let known = match told.or_else(|| self.engine.recent.invoice_of(payment).cloned()) {
            Some(invoice) => Some(invoice),
            None => self.engine.store.invoice_of(payment)?,
        };
        let invoice = match known {
            Some(invoice) => invoice,
            None => self
                .set
                .find_payment(payment)
                .cloned()
                .ok_or_else(unknown)?,
        };
        self.load(&invoice)?.ok_or_else(unknown)?;
        if self.aggregate(&invoice)?.payment(payment).is_none() {
            let older = self.engine.store.payment(payment)?.ok_or_else(unknown)?;
            if let Some(entry) = self.set.get_mut(&invoice) {
                let place = entry
                    .aggregate
                    .payments
                    .partition_point(|it| it.attempt < older.attempt);
                entry.aggregate.payments.insert(place, older);
            }
        }
        let changed = self.carry_out(&invoice, command, caller)?;
        let aggregate = self.aggregate(&invoice)?;
        let payment = aggregate.payment(payment).ok_or_else(unknown)?;
        Ok(payment_reply(aggregate, payment, changed))
    }

    /// Leases that have run out: nobody knows what became of those sends.
    pub(super) fn lose_leases(
        &mut self,
        until: Timestamp,
        limit: usize,
        reason: &str,
    ) -> Result<usize, StoreError> {
        let mut lost = 0;
        for id in &self.queue(Queue::Leases, until, limit)? {
            if self.lose_lease(id, reason)? {
                lost += 1;
                self.commit.changes("recover");
            }
        }
        Ok(lost)
    }

    fn lose_lease(&mut self, id: &InvoiceId, reason: &str) -> Result<bool, StoreError> {
        let place = self.load_or_set_aside(id)?;
        let sending = place
            .and_then(|place| self.set.at(place)?.aggregate.latest())
            .map(|payment| (payment.id, payment.work.epoch));
        let Some((payment, epoch)) = sending else {
            return Ok(false);
        };
        let outcome = crate::domain::Outcome::Unknown {
            reason: reason.to_owned(),
        };
        let command = Command::Settle {
            payment,
            epoch,
            outcome,
        };
        self.do_own_work(id, &command)
    }

    /// Calls an operator to invoices whose open payment waits for another gateway.
    pub(super) fn leave_behind(&mut self, limit: usize) -> Result<usize, StoreError> {
        let gateway = self.engine.policy.gateway.clone();
        let command = Command::LeaveBehind { gateway };
        let mut called = 0;
        for id in self.queue(Queue::Elsewhere, self.now, limit)? {
            called += usize::from(self.do_own_work(&id, &command)?);
        }
        Ok(called)
    }

    /// Marks the open payments of a restored store, to be looked up before anything is sent. Says how
    /// many; after the last, notes that it is done.
    pub(super) fn mark_restored(&mut self, limit: usize) -> Result<usize, StoreError> {
        let gateway = self.engine.policy.gateway.clone();
        let command = Command::Restored { gateway };
        let mut marked = 0;
        for id in self.queue(Queue::Restored, self.now, limit)? {
            marked += usize::from(self.do_own_work(&id, &command)?);
        }
        // What is set aside may be readable again after the next start.
        if marked == 0 && self.engine.set_aside.is_empty() {
            self.engine.store.restore_done()?;
            self.wrote = true;
        }
        Ok(marked)
    }

    /// Does one piece of payd's own work, to see whether the database takes it. The caller rolls
    /// it back.
    pub(super) fn try_out(&mut self, queue: Queue, id: &InvoiceId) -> Result<(), StoreError> {
        let command = match queue {
            Queue::Leases => return self.lose_lease(id, "").and_then(|_| self.flush()),
            Queue::Due => Command::Claim {
                gateway: self.engine.policy.gateway.clone(),
            },
            Queue::Lookups => Command::Look,
            Queue::Elsewhere => Command::LeaveBehind {
                gateway: self.engine.policy.gateway.clone(),
            },
            Queue::Restored => Command::Restored {
                gateway: self.engine.policy.gateway.clone(),
            },
        };
        self.do_own_work(id, &command)?;
        self.flush()
    }

    /// Lookups that lie further ahead than any schedule would put them: the clock of an earlier
    /// process had run ahead.
    pub(super) fn pull_lookups(&mut self) -> Result<(), StoreError> {
        let policy = &self.engine.policy.lookup;
        let furthest = policy.cap.max(LookupPolicy::LATE_INTERVAL);
        let until = self.now.plus(furthest);
        let pulled = self.engine.store.pull_lookups(until)?;
        if pulled > 0 {
            tracing::warn!(
                payments = pulled,
                "lookups were scheduled by a clock that ran ahead; they are brought forward"
            );
            self.wrote = true;
        }
        Ok(())
    }

    /// Gives the workers that wait what is due, claimed in this same commit.
    pub(super) fn claim(&mut self) -> Result<(), StoreError> {
        let sending = if self.paused || !self.engine.gate.is_open() {
            0
        } else {
            self.engine.due.limit()
        };
        let looking = self.engine.lookups.limit();
        if sending > 0 {
            let gateway = self.engine.policy.gateway.clone();
            let due = self.due_now(sending)?;
            self.due = self.take(due, &Command::Claim { gateway })?;
        }
        if looking > 0 && self.may_be_due(Queue::Lookups) {
            let open = self.queue(Queue::Lookups, self.now, looking)?;
            self.lookups = self.take(open, &Command::Look)?;
        }
        Ok(())
    }

    /// Whether it is worth a look into a queue.
    pub(super) fn may_be_due(&self, queue: Queue) -> bool {
        self.engine.agenda.may_be_due(queue, self.now)
    }

    /// What may be sent now: first what the tables have, as they stand before this batch, and then what the batch has
    /// requested, which goes into them as it is claimed. What the batch has changed of the first is not written for
    /// this: a claim is decided on what stands in the set.
    fn due_now(&mut self, limit: usize) -> Result<Vec<InvoiceId>, StoreError> {
        let mut due = match self.may_be_due(Queue::Due) {
            true => self.queue_before(Queue::Due, self.now, limit)?,
            false => Vec::new(),
        };
        let set_aside = &self.engine.set_aside;
        self.fresh.retain(|id| !set_aside.contains(id));
        let left = limit.saturating_sub(due.len()).min(self.fresh.len());
        due.extend(self.fresh.drain(..left));
        Ok(due)
    }

    fn take(
        &mut self,
        ids: Vec<InvoiceId>,
        command: &Command,
    ) -> Result<Vec<ChargeRequest>, StoreError> {
        let mut taken = Vec::new();
        for id in ids {
            let changed = self.do_own_work(&id, command)?;
            if changed
                && let Some(entry) = self.set.get(&id)
                && let Some(payment) = entry.aggregate.latest()
            {
                taken.push(charge_request(&entry.aggregate, payment));
            }
        }
        Ok(taken)
    }

    /// The head of a queue as it stands within this transaction.
    pub(super) fn queue(
        &mut self,
        queue: Queue,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<InvoiceId>, StoreError> {
        self.flush()?;
        self.queue_before(queue, until, limit)
    }

    /// The same without what this transaction has not written yet.
    fn queue_before(
        &mut self,
        queue: Queue,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<InvoiceId>, StoreError> {
        let engine = &mut *self.engine;
        let limit_with_set_aside = limit + engine.set_aside.len();
        let mut ids =
            engine
                .store
                .queue(queue, &engine.policy.gateway, until, limit_with_set_aside)?;
        ids.retain(|id| !engine.set_aside.contains(id));
        ids.truncate(limit);
        Ok(ids)
    }

    /// Writes, and commits if there is anything to commit.
    pub(super) fn finish(mut self) -> Result<Done, StoreError> {
        self.flush()?;
        if !self.fresh.is_empty() {
            self.engine.agenda.lower(Queue::Due, Some(self.now));
        }
        let tokens = match self.tokens_changed {
            true => Some(self.engine.store.tokens()?),
            false => None,
        };
        let started = Instant::now();
        if self.wrote {
            self.commit.before()?;
            self.engine.store.commit()?;
            self.commit.after()?;
        } else {
            self.engine.store.rollback();
        }
        let ended = std::mem::take(&mut self.settled).into_iter();
        let settled = ended
            .map(|id| {
                let waited = self.engine.bus.is_waited_for(&id);
                let view = self.set.get(&id).filter(|_| waited).and_then(ended_with);
                (id, view)
            })
            .collect();
        // Where there are many, few of them are paid before they would have to go: invoices that come in bulk.
        let many = self.set.len() > KEPT_MAX;
        for entry in self.set.into_entries() {
            if !many || entry.aggregate.latest().is_some() {
                self.engine.recent.keep(entry);
            }
        }
        Ok(Done {
            head: self.head,
            paused: self.paused,
            lines: self.lines,
            settled,
            due: self.due,
            lookups: self.lookups,
            tokens,
            requests: self.requests,
            commit_took: started.elapsed(),
            wrote: self.wrote,
        })
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let Engine { store, sealer, .. } = &mut *self.engine;
        self.unsealed.end(sealer);
        let mut wrote = false;
        self.set.try_for_each(|entry| {
            if !entry.is_changed() {
                return Ok(());
            }
            wrote = true;
            store.save(entry)
        })?;
        let mut places = self.places.drain(..);
        let set = &self.set;
        self.head.digest = self.unsealed.seal(S::pack, |record| {
            let placed = places.next();
            let row = placed.as_ref().and_then(|it| set.at(it.place)?.row);
            let (Some(Placed { previous, .. }), Some(row)) = (placed, row) else {
                return Err(StoreError::Fatal(format!(
                    "the invoice of event {} has no row after it was saved",
                    record.sequence
                )));
            };
            store.append(record, previous, row)
        })?;
        self.wrote |= wrote;
        Ok(())
    }

    /// Decides a command on a loaded invoice, and folds what follows. Says whether anything did.
    fn carry_out(
        &mut self,
        id: &InvoiceId,
        command: &Command,
        caller: &Caller,
    ) -> Result<bool, Undecided> {
        let context = self.engine.context(self.now);
        let place = self.set.place(id);
        let there = place.and_then(|place| Some((place, &self.set.at(place)?.aggregate)));
        let (place, before) = there.ok_or(Undecided::Refused(Refusal::InvoiceNotFound))?;
        let decision = decide(before, command, &context).map_err(Undecided::Refused)?;
        if decision.is_nothing() {
            return Ok(false);
        }
        let status_before = before.invoice.status;
        let mut after = before.clone();
        let folded = self.fold(&mut after, &decision, caller)?;
        let settled = status_before == InvoiceStatus::Processing
            && after.invoice.status != InvoiceStatus::Processing;
        if let Some(entry) = self.set.at_mut(place) {
            entry.aggregate = after;
            entry.invoice_changed |= !decision.events.is_empty();
            for payment in folded.payments {
                entry.payment_changed(payment);
            }
            if let Some(latest) = entry.aggregate.latest() {
                let fresh = latest.state == PaymentState::Requested && latest.due_at <= self.now;
                if !fresh {
                    self.engine.agenda.note(latest);
                } else {
                    self.fresh.push(id.clone());
                }
            }
        }
        for draft in folded.drafts {
            self.push(place, draft);
        }
        if settled {
            self.settled.push(id.clone());
        }
        self.commit.changes(kind(command));
        Ok(true)
    }

    /// Folds a decision into a state that nobody sees yet, so that a fold that fails changes nothing.
    fn fold(
        &self,
        state: &mut Aggregate,
        decision: &Decision,
        caller: &Caller,
    ) -> Result<Folded, Undecided> {
        let mut folded = Folded::default();
        for (next, event) in (self.head.sequence + 1..).zip(&decision.events) {
            let inherited = state
                .latest()
                .and_then(|payment| payment.traceparent.clone());
            state
                .apply(event, self.now)
                .map_err(|error| Undecided::SetAside(error.to_string()))?;
            let traceparent = caller.traceparent.clone().or(inherited);
            if let Event::InvoiceAttentionRequired { restored: true, .. } = event {
                folded.payments.extend(state.latest().map(|it| it.id));
            }
            if let Some(id) = event.payment() {
                folded.payments.push(id);
                if let Some(payment) = state.payments.iter_mut().find(|payment| payment.id == id) {
                    payment.traceparent =
                        payment.traceparent.take().or_else(|| traceparent.clone());
                }
            }
            let draft = self.draft(next, event, state, caller, traceparent.as_deref());
            folded.drafts.push(draft);
        }
        if let Some(work) = &decision.work
            && let Some(payment) = state.payments.last_mut()
        {
            work.apply(payment, self.now);
            folded.payments.push(payment.id);
        }
        Ok(folded)
    }

    fn draft(
        &self,
        sequence: u64,
        event: &Event,
        state: &Aggregate,
        caller: &Caller,
        traceparent: Option<&str>,
    ) -> (Draft, Line) {
        let origin = Origin {
            source: self.engine.info.source,
            actor: &caller.actor,
            traceparent,
            at: self.now,
        };
        let draft = Draft::write(sequence, origin, event, state);
        let line = Line {
            sequence,
            kind: draft.kind,
            invoice: state.invoice.id().clone(),
            status: state.invoice.status,
            payment: event
                .payment()
                .and_then(|id| state.payment(id))
                .map(|payment| (payment.id, payment.attempt)),
            traceparent: traceparent.map(str::to_owned),
            actor: Arc::clone(&caller.actor),
            decided: decided(event),
            committed: (SystemTime::UNIX_EPOCH, Duration::ZERO),
        };
        (draft, line)
    }

    fn push(&mut self, place: usize, (draft, line): (Draft, Line)) {
        self.head.sequence = draft.sequence;
        self.head.time = Some(self.now);
        self.lines.push(line);
        let entry = self.set.at_mut(place);
        let previous = entry.and_then(|entry| entry.newest_event.replace(draft.sequence));
        self.places.push(Placed { place, previous });
        self.unsealed.push(draft, &self.engine.sealer);
    }

    /// Sees that an invoice is in the set, where there is one. Says in which place.
    fn load(&mut self, id: &InvoiceId) -> Result<Option<usize>, StoreError> {
        if let Some(place) = self.set.place(id) {
            return Ok(Some(place));
        }
        let known = match self.engine.recent.take(id) {
            Some(entry) => Some(entry),
            None => self.engine.store.load(id)?,
        };
        Ok(known.map(|entry| self.set.insert(entry)))
    }

    /// For work that payd does by itself: an invoice that cannot be read must not stop the others.
    fn load_or_set_aside(&mut self, id: &InvoiceId) -> Result<Option<usize>, StoreError> {
        match self.load(id) {
            Err(StoreError::BadRow(why)) => {
                self.engine.set_aside(id, &why);
                Ok(None)
            }
            // Any other error is about the database, not about this invoice.
            loaded => loaded,
        }
    }

    /// Loads an invoice and carries a command of payd's own out on it. Says whether anything
    /// followed.
    fn do_own_work(&mut self, id: &InvoiceId, command: &Command) -> Result<bool, StoreError> {
        if self.load_or_set_aside(id)?.is_none() {
            return Ok(false);
        }
        let caller = self.caller_payd.clone();
        match self.carry_out(id, command, &caller) {
            Ok(changed) => Ok(changed),
            Err(Undecided::Refused(_)) => Ok(false),
            Err(Undecided::SetAside(why)) => {
                self.engine.set_aside(id, &why);
                Ok(false)
            }
            Err(Undecided::Store(error)) => Err(error),
        }
    }

    fn aggregate(&self, id: &InvoiceId) -> Result<&Aggregate, Undecided> {
        self.set
            .get(id)
            .map(|entry| &entry.aggregate)
            .ok_or(Undecided::Refused(Refusal::InvoiceNotFound))
    }
}

/// What a request will have the store look for.
fn expected<'a>(request: &'a Envelope, recent: &'a Recent) -> impl Iterator<Item = Expected<'a>> {
    let (made, other) = match &request.action {
        Action::Create(invoices) => (invoices.as_slice(), None),
        Action::OnInvoice(id, _) | Action::OnPayment(_, Some(id), _) => (&[][..], Some(id)),
        _ => (&[][..], None),
    };
    let key = request.idempotency.as_ref();
    let key = key.map(|it| Expected::Answer(it.name(&request.caller.actor)));
    let invoices = made.iter().map(|new| &new.id).chain(other);
    let unknown = invoices.filter(|id| !recent.has(id));
    unknown.map(Expected::Invoice).chain(key)
}

/// Whether these events say all that is answered: each invoice of the request was made, or its payment requested.
fn is_told_by((first, last): (u64, u64), action: &Action, result: &Ruled) -> bool {
    let events = usize::try_from((last + 1).saturating_sub(first)).unwrap_or(0);
    match (action, result) {
        (Action::Create(invoices), Ok(Reply::Created(created))) => {
            let fresh = |it: &Result<_, _>| matches!(it, Ok((_, true)));
            events > 0
                && events == invoices.len()
                && events == created.len()
                && created.iter().all(fresh)
        }
        (Action::OnInvoice(_, Command::Pay { .. }), Ok(Reply::Payment { fresh, .. })) => {
            events == 1 && *fresh
        }
        _ => false,
    }
}

fn decided(event: &Event) -> Option<(Decided, String)> {
    match event {
        Event::PaymentSucceeded { gateway, .. } => Some((Decided::Succeeded, gateway.clone())),
        Event::PaymentFailed {
            gateway, failure, ..
        } => Some((Decided::Failed(failure.kind), gateway.clone())),
        _ => None,
    }
}

/// Invoices of a batch up to which all of them are kept in memory for their next step: half of a generation.
const KEPT_MAX: usize = GENERATION_MAX / 2;

/// Answers dropped at once: a few milliseconds of work, so that a purge never holds up payments.
const EXPIRE_MAX: usize = 1000;

impl Line {
    /// What it is about, for those who count and trace.
    pub(super) fn appended(&self) -> Appended<'_> {
        Appended {
            kind: self.kind,
            sequence: self.sequence,
            invoice: &self.invoice,
            status: self.status,
            payment: self.payment,
            traceparent: self.traceparent.as_deref(),
            actor: &self.actor,
            committed_at: self.committed.0,
            commit_took: self.committed.1,
        }
    }

    /// One line per state change, with all that connects it.
    pub(super) fn log(&self) {
        let payment = self
            .payment
            .as_ref()
            .map(|(id, _)| tracing::field::display(*id));
        let attempt = self.payment.as_ref().map(|(_, attempt)| *attempt);
        let trace_id = self
            .traceparent
            .as_deref()
            .and_then(|it| it.split('-').nth(1));
        tracing::info!(
            target: "payd::event",
            sequence = self.sequence,
            invoice = %self.invoice,
            status = self.status.as_str(),
            payment,
            attempt,
            trace_id,
            actor = &*self.actor,
            "{}",
            self.kind.as_str(),
        );
    }
}

/// The word for a command in the names of the places around its commit.
const fn kind(command: &Command) -> &'static str {
    match command {
        Command::Pay { .. } => "pay",
        Command::Cancel { .. } => "cancel",
        Command::Claim { .. } => "claim",
        Command::Settle { .. } => "settle",
        Command::LeaveBehind { .. } => "leave",
        Command::Restored { .. } => "restored",
        Command::Look => "look",
        Command::Found { .. } => "found",
        Command::Resolve { .. } => "resolve",
    }
}

fn view(aggregate: &Aggregate) -> InvoiceView {
    InvoiceView {
        invoice: aggregate.invoice.clone(),
        next_attempt_at: aggregate.next_attempt_at(),
    }
}

fn payment_reply(aggregate: &Aggregate, payment: &Payment, fresh: bool) -> Reply {
    Reply::Payment {
        payment: Box::new(payment_record(aggregate, payment)),
        fresh,
    }
}

fn payment_record(aggregate: &Aggregate, payment: &Payment) -> PaymentRecord {
    PaymentRecord {
        invoice: aggregate.invoice.content.clone(),
        payment: payment.clone(),
    }
}

/// The payment with which an invoice left PROCESSING, unless it is there again.
fn ended_with(entry: &Entry) -> Option<PaymentRecord> {
    let aggregate = &entry.aggregate;
    let payment = aggregate.latest()?;
    (aggregate.invoice.status != InvoiceStatus::Processing)
        .then(|| payment_record(aggregate, payment))
}

fn charge_request(aggregate: &Aggregate, payment: &Payment) -> ChargeRequest {
    ChargeRequest {
        invoice: aggregate.invoice.content.clone(),
        payment: payment.id,
        attempt: payment.attempt,
        key: payment.key.clone(),
        method: payment.method.clone(),
        send: payment.work.epoch,
        sent_at: payment.sent_at.unwrap_or(payment.requested_at),
        traceparent: payment.traceparent.clone(),
    }
}
