//! The engine: a group-commit state machine, and the only writer.
//!
//! It takes whatever commands are waiting, loads the invoices that they touch, lets the domain
//! decide each in turn, writes all of it in one transaction, syncs once, and only then answers
//! each caller and rings the bus. A refusal costs its neighbours nothing.
//!
//! What it must never do: answer, ring or let a payment be sent before the commit; go on after a
//! commit whose fate nobody knows; call a gateway.

mod agenda;
mod batch;
mod drive;
mod recent;
mod sealer;
mod teller;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::domain::{Context, InvoiceId, LookupPolicy, RetryPolicy, Timestamp};

use super::bus::Bus;
use super::gate::{Closure, Gate, Shut};
use super::metrics::Metrics;
use super::ports::{ChargeRequest, Clock, Head, Queue, Random, Store, StoreError, StoreInfo};
use super::request::{Action, Envelope, Outcome, Reply, SubmitError};
use super::tokens::Tokens;

use agenda::Agenda;
use batch::Batch;
use recent::Recent;
use sealer::Sealer;
use teller::Teller;

pub use drive::{EngineHandle, Run, spawn};
pub use sealer::Sealing;
pub use teller::Telling;

use drive::BATCH_MAX;

/// What the rules leave to configuration, and which gateway payments go to.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How declined payments are followed by others.
    pub retry: RetryPolicy,
    /// How open questions are looked up.
    pub lookup: LookupPolicy,
    /// How soon after a send a "not found" of the gateway is final.
    pub lookup_lag: Duration,
    /// How long a claim holds: longer than any send may take.
    pub lease: Duration,
    /// The gateway's name.
    pub gateway: String,
}

/// The engine cannot go on: nobody knows what is on disk, so nothing may be done outside.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "payd stops here, before it does anything else: {0}. What was acknowledged is on disk; start payd again, and it looks up every open payment before it sends anything"
)]
pub struct Fatal(pub String);

/// How long to leave a queue alone whose head cannot be worked on.
const STUCK_PAUSE: Duration = Duration::from_secs(1);

/// Leases found at start are dealt with in batches of this size.
const RECOVERY_BATCH: usize = 1000;

/// The engine.
pub struct Engine<S> {
    store: S,
    info: StoreInfo,
    policy: Policy,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    bus: Bus,
    metrics: Arc<dyn Metrics>,
    started_at: Timestamp,
    recovered: bool,
    now: Timestamp,
    due: Claims,
    lookups: Claims,
    probes: Claims,
    gate: Gate,
    agenda: Agenda,
    recent: Recent,
    stopping: bool,
    set_aside: HashSet<InvoiceId>,
    wake_at: Option<Timestamp>,
    health: Arc<Health>,
    tokens: Arc<Tokens>,
    untold: Vec<batch::Line>,
    teller: Teller,
    sealer: Sealer,
    /// When to see whether there is room again.
    probe_at: Option<Timestamp>,
}

/// How the engine is. It changes before anybody is answered, so an answer never runs ahead of it.
#[derive(Debug)]
pub struct Health {
    writable: AtomicBool,
    paused: AtomicBool,
    gateway: Mutex<Option<Closure>>,
}

impl Health {
    const fn new(paused: bool) -> Self {
        Self {
            writable: AtomicBool::new(true),
            paused: AtomicBool::new(paused),
            gateway: Mutex::new(None),
        }
    }

    /// Whether the last attempt to write went through.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Whether an operator has paused sending.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Why nothing is sent to the gateway, though nobody has paused it; `None` while it is usable.
    #[must_use]
    pub fn closure(&self) -> Option<Closure> {
        self.gateway
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_closure(&self, closure: Option<Closure>) {
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = closure;
    }

    /// Says what it was before.
    fn set_writable(&self, writable: bool) -> bool {
        self.writable.swap(writable, Ordering::Relaxed)
    }
}

/// Standing requests for work of one kind, the oldest first.
#[derive(Default)]
struct Claims {
    parked: Vec<Envelope>,
}

/// Requests for work of one kind that may stand: while what one of them was given is on its way, the
/// other is there for the next batch.
const STANDING_MAX: usize = 2;

impl<S: Store> Engine<S> {
    /// Takes over a store. The bus is told where its log ends.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn new(
        mut store: S,
        policy: Policy,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        bus: Bus,
        metrics: Arc<dyn Metrics>,
    ) -> Result<Self, StoreError> {
        let info = store.info()?;
        let paused = info.paused;
        let tokens = Arc::new(Tokens::new(store.tokens()?));
        bus.advance(info.head.sequence);
        let now = info
            .head
            .time
            .map_or(clock.now(), |newest| newest.max(clock.now()));
        Ok(Self {
            store,
            info,
            policy,
            clock,
            random,
            bus,
            metrics,
            started_at: now,
            recovered: false,
            now,
            due: Claims::default(),
            lookups: Claims::default(),
            probes: Claims::default(),
            gate: Gate::default(),
            agenda: Agenda::unknown(),
            recent: Recent::default(),
            stopping: false,
            set_aside: HashSet::new(),
            wake_at: None,
            health: Arc::new(Health::new(paused)),
            tokens,
            untold: Vec::new(),
            teller: Teller::Here,
            sealer: Sealer::Here,
            probe_at: None,
        })
    }

    /// From here on, the events of large batches are linked into the log on whichever thread runs what this gives.
    #[must_use = "until it is run, a large batch waits for it; once it is dropped, the engine does it itself"]
    pub fn seal_elsewhere(&mut self) -> Sealing {
        let (sealer, sealing) = Sealer::apart(S::pack);
        self.sealer = sealer;
        sealing
    }

    /// What the store knows of itself.
    pub const fn info(&self) -> &StoreInfo {
        &self.info
    }

    /// Turns everything that was being sent when the last process ended into UNKNOWN: it is looked
    /// up before anything is sent again. Says how many there were. In a store that was restored from a
    /// backup, the same goes for all that was to be sent. Until it has gone through, the
    /// engine decides nothing and tries again with every batch.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn recover(&mut self) -> Result<usize, StoreError> {
        let restored = self.info.restored.as_ref().is_some_and(|it| it.pending);
        let mut recovered = 0;
        loop {
            let now = self.tick();
            let result = Batch::begin(self, now).and_then(|mut batch| {
                let ever = Timestamp::from_millis(i64::MAX);
                let lost = "payd stopped while it was being sent";
                let lost = batch.lose_leases(ever, RECOVERY_BATCH, lost)?;
                batch.pull_lookups()?;
                let left_behind = batch.leave_behind(RECOVERY_BATCH)?;
                let marked = match restored {
                    true => batch.mark_restored(RECOVERY_BATCH)?,
                    false => 0,
                };
                Ok((lost, left_behind, marked, batch.finish()?))
            });
            match result {
                Ok((lost, left_behind, marked, done)) => {
                    recovered += lost;
                    if marked > 0 {
                        tracing::warn!(
                            payments = marked,
                            "payd was restored from a backup; payments that were open in it are looked up before anything is sent"
                        );
                    }
                    if left_behind > 0 {
                        tracing::error!(
                            invoices = left_behind,
                            gateway = self.policy.gateway,
                            "open payments wait for another gateway than the one in the settings; their invoices need attention",
                        );
                    }
                    self.publish(done);
                    self.tell();
                    if lost + left_behind + marked == 0 {
                        self.recovered = true;
                        // Lookups may have been brought forward in the tables, past what is known here.
                        self.agenda = Agenda::unknown();
                        self.recent = Recent::default();
                        return Ok(recovered);
                    }
                }
                Err(error @ (StoreError::Constraint(_) | StoreError::BadRow(_))) => {
                    // One of them must not keep all the others from being looked after.
                    self.store.rollback();
                    if self.set_lost_aside(now)? == 0 {
                        return Err(error);
                    }
                }
                Err(error) => {
                    self.store.rollback();
                    if let StoreError::NoRoom(_) | StoreError::Busy(_) = error {
                        // Not ready before it has gone through, though nobody asks for anything.
                        self.health.set_writable(false);
                        self.probe_at = Some(now.plus(STUCK_PAUSE));
                        self.wake_at = self.probe_at;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Tries at start what [`Self::recover`] could not do in one piece, and sets aside what the database
    /// refuses. Says how many those were.
    fn set_lost_aside(&mut self, now: Timestamp) -> Result<usize, StoreError> {
        let before = self.set_aside.len();
        let ever = Timestamp::from_millis(i64::MAX);
        let head = Batch::begin(self, now)?.queue(Queue::Leases, ever, RECOVERY_BATCH);
        self.store.rollback();
        self.try_each(Queue::Leases, head?, now)?;
        Ok(self.set_aside.len() - before)
    }

    /// Nobody has asked for anything for a while: lets go of what is kept only to be faster.
    pub fn rest(&mut self) {
        self.recent = Recent::default();
        self.store.rest();
    }

    /// Decides a batch of requests, and what has become due besides. Every envelope is answered,
    /// but for claims, which may stay until there is something to claim.
    ///
    /// # Errors
    /// Where the process must end.
    pub fn run(&mut self, envelopes: Vec<Envelope>) -> Result<(), Fatal> {
        let now = self.tick();
        let mut requests = Vec::with_capacity(envelopes.len());
        for envelope in envelopes {
            if self.gate.hear(&envelope.action, now) {
                self.gate_has_moved();
            }
            self.sort(envelope, &mut requests);
        }
        self.claim_probe(now);
        match self.decide(&requests, true, now) {
            Ok(outcomes) => answer(requests, outcomes),
            Err(error @ (StoreError::Constraint(_) | StoreError::BadRow(_))) => {
                // One of them breaks a rule of the schema; the others, and payd's own work, must
                // not pay for it.
                tracing::error!(%error, "the database refused a batch; its requests are decided one by one");
                for request in requests {
                    self.run_alone(request, now)?;
                }
                let work = self
                    .set_culprits_aside(now)
                    .and_then(|()| self.decide(&[], true, now));
                if let Err(error) = work {
                    self.fail(Vec::new(), error)?;
                }
            }
            Err(error) => self.fail(requests, error)?,
        }
        self.tell();
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe()?;
        }
        self.wake_at = match self.next_wake() {
            Ok(at) => at,
            Err(StoreError::Fatal(why)) => return Err(Fatal(why)),
            Err(error) => {
                tracing::error!(%error, "what is due next cannot be read; trying again");
                Some(self.now.plus(STUCK_PAUSE))
            }
        };
        Ok(())
    }

    /// Says so, to those who read the log and to those who ask.
    fn gate_has_moved(&self) {
        let gateway = self.policy.gateway.as_str();
        self.health.set_closure(self.gate.closure().cloned());
        match self.gate.closure() {
            None => tracing::info!(gateway, "the gateway can be used again; payments are sent"),
            Some(Closure {
                why: Shut::Refused,
                reason,
                ..
            }) => tracing::error!(
                gateway, %reason,
                "the gateway does not let payd in, and nothing is sent to it: see to payd's token there; POST /admin/resume, or a probe that succeeds, goes on",
            ),
            Some(Closure {
                why: Shut::Unreachable,
                reason,
                ..
            }) => tracing::error!(
                gateway, %reason,
                "the gateway does not answer, and nothing is sent to it until it answers a probe; payments wait under their keys",
            ),
        }
    }

    /// Lets the prober ask, where it is time to.
    fn claim_probe(&mut self, now: Timestamp) {
        let due = self.gate.probe_at().is_some_and(|at| at <= now);
        if due && let Some(parked) = self.probes.parked.pop() {
            self.gate.probing(now);
            // A prober that is gone leaves the next probe to the next.
            let _ = parked
                .reply
                .send(Ok(Outcome::Fresh(Ok(Reply::Probe), None)));
        }
    }

    /// How it is, for others to look at.
    pub const fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// The tokens, for others to look at.
    pub const fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// Finds out whether there is room again, though nobody asks for anything to be written.
    fn probe(&mut self) -> Result<(), Fatal> {
        let paused = self.info.paused;
        let result = self
            .store
            .begin()
            .and_then(|()| self.store.set_paused(paused))
            .and_then(|()| self.store.commit());
        match result {
            Ok(()) => {
                tracing::info!("the database can be written again");
                self.health.set_writable(true);
                self.probe_at = None;
                Ok(())
            }
            Err(error) => {
                self.store.rollback();
                self.fail(Vec::new(), error)
            }
        }
    }

    /// How long [`Self::run`] may wait for requests: then something is due. `None`: for ever.
    pub fn sleep(&self) -> Option<Duration> {
        self.wake_at.map(|at| at.since(self.clock.now()))
    }

    fn run_alone(&mut self, request: Envelope, now: Timestamp) -> Result<(), Fatal> {
        let requests = vec![request];
        match self.decide(&requests, false, now) {
            Ok(outcomes) => answer(requests, outcomes),
            Err(error) => self.fail(requests, error)?,
        }
        Ok(())
    }

    /// Tries payd's own work piece by piece, and sets aside what the database refuses: it would
    /// hold up all the rest for ever.
    fn set_culprits_aside(&mut self, now: Timestamp) -> Result<(), StoreError> {
        for queue in [Queue::Leases, Queue::Due, Queue::Lookups] {
            let head = Batch::begin(self, now)?.queue(queue, now, BATCH_MAX);
            self.store.rollback();
            self.try_each(queue, head?, now)?;
        }
        Ok(())
    }

    fn try_each(
        &mut self,
        queue: Queue,
        head: Vec<InvoiceId>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for id in head {
            let tried = Batch::begin(self, now)?.try_out(queue, &id);
            self.store.rollback();
            match tried {
                Ok(()) => {}
                Err(StoreError::Constraint(why) | StoreError::BadRow(why)) => {
                    self.set_aside(&id, &why);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Leaves an invoice alone from here on, so that the others go on.
    fn set_aside(&mut self, id: &InvoiceId, why: &str) {
        tracing::error!(
            invoice = %id, %why,
            "the invoice cannot be worked on and is set aside; `payd verify` says more"
        );
        self.set_aside.insert(id.clone());
    }

    /// Claims wait; everything else is decided now.
    fn sort(&mut self, envelope: Envelope, requests: &mut Vec<Envelope>) {
        let claims = match envelope.action {
            Action::ClaimDue { .. } => &mut self.due,
            Action::ClaimLookups { .. } => &mut self.lookups,
            Action::ClaimProbe => &mut self.probes,
            Action::StopClaims => {
                self.stopping = true;
                self.due.send_home();
                self.lookups.send_home();
                self.probes.send_home();
                requests.push(envelope);
                return;
            }
            _ => {
                requests.push(envelope);
                return;
            }
        };
        claims.park(envelope);
        if self.stopping {
            claims.send_home();
        }
    }

    /// Decides requests, and with them what is due, in one transaction.
    fn decide(
        &mut self,
        requests: &[Envelope],
        with_work: bool,
        now: Timestamp,
    ) -> Result<Vec<batch::Answered>, StoreError> {
        if !self.recovered {
            self.recover()?;
        }
        let work = with_work
            && self
                .watched()
                .any(|queue| self.agenda.may_be_due(queue, now));
        if requests.is_empty() && !work {
            return Ok(Vec::new());
        }
        let mut batch = Batch::begin(self, now)?;
        let result = (|| {
            batch.expect(requests)?;
            let outcomes = requests
                .iter()
                .map(|request| batch.decide(request))
                .collect::<Result<Vec<_>, _>>()?;
            if with_work {
                let lost = "the worker that was sending it was lost";
                if batch.may_be_due(Queue::Leases) {
                    batch.lose_leases(now, RECOVERY_BATCH, lost)?;
                }
                batch.claim()?;
            }
            Ok((outcomes, batch.finish()?))
        })();
        match result {
            Ok((outcomes, done)) => {
                self.publish(done);
                Ok(outcomes)
            }
            Err(error) => {
                self.store.rollback();
                Err(error)
            }
        }
    }

    /// Tells the world what is durable now.
    fn publish(&mut self, mut done: batch::Done) {
        let committed = (SystemTime::now(), done.commit_took);
        if done.wrote {
            self.health.set_writable(true);
            self.probe_at = None;
            self.metrics
                .batch_committed(done.requests, done.commit_took);
        }
        self.info.head = done.head;
        self.info.paused = done.paused;
        self.health.paused.store(done.paused, Ordering::Relaxed);
        // Before whoever asked is answered: a token that was revoked is good for nothing by then.
        if let Some(tokens) = done.tokens {
            self.tokens.replace(tokens);
        }
        for line in &mut done.lines {
            line.committed = committed;
            self.metrics.event_appended(line.kind);
            if let Some((decided, gateway)) = &line.decided {
                self.metrics.payment_decided(gateway, *decided);
            }
        }
        for (claims, claimed) in [(&mut self.due, done.due), (&mut self.lookups, done.lookups)] {
            if !claimed.is_empty() {
                claims.give(claimed);
            }
        }
        if !done.lines.is_empty() {
            self.bus.advance(done.head.sequence);
            self.bus.settled(done.settled);
        }
        self.untold.extend(done.lines);
    }

    /// Tells of what was committed. Last of all, since nobody waits for it.
    fn tell(&mut self) {
        if !self.untold.is_empty() {
            let lines = std::mem::take(&mut self.untold);
            self.teller.tell(lines, self.metrics.as_ref());
        }
    }

    fn fail(&mut self, requests: Vec<Envelope>, error: StoreError) -> Result<(), Fatal> {
        let why = match error {
            StoreError::Fatal(why) => {
                // The process ends. Until it has, nobody may hear that nothing happened: perhaps it did.
                std::mem::forget(requests);
                return Err(Fatal(why));
            }
            StoreError::NoRoom(_) | StoreError::Busy(_) => {
                self.probe_at = Some(self.now.plus(STUCK_PAUSE));
                if self.health.set_writable(false) {
                    tracing::error!(%error, "nothing can be written; requests are refused until that changes");
                }
                SubmitError::Unwritable(error.to_string())
            }
            StoreError::Constraint(_) | StoreError::BadRow(_) => {
                tracing::error!(%error, "a request could not be carried out");
                SubmitError::Internal(error.to_string())
            }
        };
        for claims in [&mut self.due, &mut self.lookups, &mut self.probes] {
            for parked in claims.parked.drain(..) {
                // The worker comes back by itself.
                let _ = parked.reply.send(Err(why.clone()));
            }
        }
        for request in requests {
            let _ = request.reply.send(Err(why.clone()));
        }
        Ok(())
    }

    /// When the engine must run though nobody asks.
    fn next_wake(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let mut next: Option<Timestamp> = None;
        for queue in self.watched() {
            if self.agenda.may_be_due(queue, self.now) {
                let head = self.store.next(queue, &self.policy.gateway)?;
                self.agenda.learn(queue, head);
            }
            if let Some(at) = self.agenda.not_before(queue) {
                next = Some(next.map_or(at, |earliest| earliest.min(at)));
            }
        }
        let probes = !self.probes.parked.is_empty();
        let probe = self.gate.probe_at().filter(|_| probes);
        for at in [self.probe_at, probe].into_iter().flatten() {
            next = Some(next.map_or(at, |earliest| earliest.min(at)));
        }
        // What is due has just been looked at; what is still there cannot be worked on now.
        Ok(next.map(|at| {
            if at <= self.now {
                self.now.plus(STUCK_PAUSE)
            } else {
                at
            }
        }))
    }

    /// The queues in which something can be done now.
    fn watched(&self) -> impl Iterator<Item = Queue> + use<S> {
        let sends = !self.due.parked.is_empty() && !self.info.paused && self.gate.is_open();
        let looks = !self.lookups.parked.is_empty();
        let queues = [
            Some(Queue::Leases),
            sends.then_some(Queue::Due),
            looks.then_some(Queue::Lookups),
        ];
        queues.into_iter().flatten()
    }

    /// payd's time never goes backwards, not even against what an earlier process stored.
    fn tick(&mut self) -> Timestamp {
        self.now = self.now.max(self.clock.now());
        self.now
    }

    fn context(&self, now: Timestamp) -> Context {
        Context {
            now,
            draw: self.random.draw(),
            store: self.info.store,
            retry: self.policy.retry,
            lookup: self.policy.lookup,
            lookup_lag: self.policy.lookup_lag,
            started_at: self.started_at,
            lease: self.policy.lease,
        }
    }

    const fn head(&self) -> Head {
        self.info.head
    }
}

impl Claims {
    /// One more. Of those whose worker is gone none stays, and of the others the newest.
    fn park(&mut self, envelope: Envelope) {
        self.parked.retain(|parked| !parked.reply.is_closed());
        if self.parked.len() == STANDING_MAX {
            give(self.parked.remove(0), Vec::new());
        }
        self.parked.push(envelope);
    }

    /// Answers the workers that wait with nothing.
    fn send_home(&mut self) {
        for parked in self.parked.drain(..) {
            give(parked, Vec::new());
        }
    }

    /// Gives each what it takes, the one that has waited longest first.
    fn give(&mut self, mut claimed: Vec<ChargeRequest>) {
        while !claimed.is_empty() && !self.parked.is_empty() {
            let parked = self.parked.remove(0);
            let rest = claimed.split_off(limit(&parked).min(claimed.len()));
            give(parked, std::mem::replace(&mut claimed, rest));
        }
    }

    /// How many the workers would take.
    fn limit(&self) -> usize {
        self.parked.iter().map(limit).sum()
    }
}

fn limit(parked: &Envelope) -> usize {
    match &parked.action {
        Action::ClaimDue { places } | Action::ClaimLookups { places }
            if !parked.reply.is_closed() =>
        {
            places.free()
        }
        _ => 0,
    }
}

fn give(parked: Envelope, claimed: Vec<ChargeRequest>) {
    // A worker that is gone has left its claims to the lease.
    let reply = Reply::Claimed(claimed);
    let _ = parked.reply.send(Ok(Outcome::Fresh(Ok(reply), None)));
}

fn answer(requests: Vec<Envelope>, outcomes: Vec<batch::Answered>) {
    for (request, outcome) in requests.into_iter().zip(outcomes) {
        // Nobody listening any more is fine: what was decided stands.
        let _ = request.reply.send(outcome);
    }
}
