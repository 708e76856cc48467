//! The invariants of `DESIGN.md`, section 2, as witnesses from outside see them: at every commit, at
//! every first byte to the gateway, at every charge, at every answer to a client, and at the end.
//!
//! Nothing here asks payd's own rules what is right, but for the fold: that an event moves a
//! payment is held against what the gateway or an operator has in fact said about it.

use std::collections::HashMap;

use payd::application::ports::ChargeRequest;
use payd::application::request::Answer;
use payd::application::{chain, decode, first_digest};
use payd::domain::{
    Aggregate, Cause, Command, Event, FailureKind, InvoiceStatus, Payment, PaymentId, PaymentState,
    ResolveAs,
};

use super::gateway::{Body, Sends, Verdict};
use super::store::Undo;
use super::world::State;

/// What everybody has said.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// The gateway's answers, by key.
    said: HashMap<String, Vec<Said>>,
    /// Operators' words, by payment.
    pub(crate) resolved: HashMap<PaymentId, Vec<ResolveAs>>,
    /// Answers of the gateway that may be delivered by another way.
    pub(crate) deliverable: Vec<Deliverable>,
    /// Those that have been: they must change nothing any more.
    pub(crate) delivered: Vec<Deliverable>,
    /// The first answer that was heard under each key of a client.
    pub(crate) told: HashMap<(String, String), Answer>,
    /// The fold of the log so far, by row.
    folded: Vec<Aggregate>,
    digest: Option<[u8; 32]>,
}

/// An answer of the gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    pub(crate) what: What,
    /// The send that it is about.
    pub(crate) send: u32,
    /// When that was asked, in true time.
    pub(crate) asked_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Approved,
    Declined,
    Pending,
    /// Not sent, or not executed.
    NotExecuted,
    NotFound,
    Mismatch,
    Unknown,
}

/// A command that tells payd what the gateway said.
#[derive(Debug, Clone)]
pub(crate) struct Deliverable {
    pub(crate) payment: PaymentId,
    pub(crate) command: Command,
    /// Only while this life lasts: it holds a time of payd's own.
    pub(crate) life: Option<u64>,
}

impl Witness {
    pub(crate) fn heard(&mut self, key: &str, said: Said) {
        self.said.entry(key.to_owned()).or_default().push(said);
    }

    pub(crate) fn deliverable(&mut self, payment: PaymentId, command: Command) {
        self.deliverable.push(Deliverable {
            payment,
            command,
            life: None,
        });
    }

    pub(crate) fn deliverable_in(&mut self, life: u64, payment: PaymentId, command: Command) {
        self.deliverable.push(Deliverable {
            payment,
            command,
            life: Some(life),
        });
    }

    fn has_said(&self, key: &str, f: impl Fn(&Said) -> bool) -> bool {
        self.said.get(key).is_some_and(|said| said.iter().any(f))
    }

    fn has_resolved(&self, payment: PaymentId, resolved: ResolveAs) -> bool {
        self.resolved
            .get(&payment)
            .is_some_and(|said| said.contains(&resolved))
    }
}

/// The name that redelivered answers go by: no event may carry it.
pub(crate) const AGAIN: &str = "again";

/// A transaction is durable. `before` is what stood before it.
pub(crate) fn committed(state: &mut State, before: &Undo) {
    let new_events = state.disk.log.len() - before.log;
    state.counted.events += new_events as u64;
    let mut touched: Vec<usize> = before.changed.iter().map(|(row, _)| *row).collect();
    touched.extend(before.rows..state.disk.rows.len());
    let mut resolved_before = None;
    for place in before.log..state.disk.log.len() {
        resolved_before = event(state, place, resolved_before);
        if state.failure.is_some() {
            return;
        }
    }
    // Claims are not given out while paused.
    if before.paused && state.disk.paused {
        for (row, was) in &before.changed {
            let claimed = claims(&state.disk.rows[*row]) > claims(was);
            state.must(!claimed, || "a payment was claimed while paused".to_owned());
        }
    }
    for row in touched {
        standing(state, row);
    }
    if !state.storm && is_settled(state) {
        state.settled = true;
    }
}

fn claims(row: &Aggregate) -> u32 {
    row.payments.iter().map(|it| it.work.epoch).sum()
}

/// One new event: the chain, the fold, and whether anybody has said what it says. Gives the
/// payment that it resolves, for the event that must follow.
fn event(
    state: &mut State,
    place: usize,
    resolved_before: Option<(PaymentId, ResolveAs)>,
) -> Option<(PaymentId, ResolveAs)> {
    let logged = state.disk.log[place].clone();
    let digest = state
        .witness
        .digest
        .unwrap_or_else(|| first_digest(state.disk.store));
    let digest = chain(&digest, &logged.bytes);
    state.witness.digest = Some(digest);
    state.must(digest == logged.digest, || {
        format!("the chain breaks at event {}", place + 1)
    });
    let decoded = match decode(&logged.bytes) {
        Ok(decoded) => decoded,
        Err(error) => {
            state.fail(|| format!("event {}: {error}", place + 1));
            return None;
        }
    };
    let text = String::from_utf8_lossy(&logged.bytes).into_owned();
    state.tell(|| format!("  event {} {}", place + 1, brief(&decoded.event)));
    state.must(decoded.sequence == place as u64 + 1, || {
        format!(
            "invariant 9: event {} stands in place {}",
            decoded.sequence,
            place + 1
        )
    });
    state.must(decoded.event.kind() == logged.kind, || {
        format!("event {} is indexed as {:?}", place + 1, logged.kind)
    });
    state.must(!text.contains(r#""actor":"again""#), || {
        format!("invariant 10: delivered again, it made event {text}")
    });
    evidence(state, logged.row, &decoded.event, resolved_before);
    // Invariant 8: the fold.
    let folded = &mut state.witness.folded;
    let known = folded.len();
    let result = match (&decoded.event, folded.get_mut(logged.row)) {
        (Event::InvoiceCreated(invoice), None) if logged.row == known => {
            folded.push(Aggregate::new((**invoice).clone()));
            Ok(())
        }
        (_, None) => Err("its invoice was never created".to_owned()),
        (event, Some(row)) => row
            .apply(event, decoded.at)
            .map_err(|error| error.to_string()),
    };
    let fits = result.and_then(|()| {
        let status = state.witness.folded[logged.row].invoice.status;
        if status == decoded.invoice_status {
            Ok(())
        } else {
            Err(format!(
                "it says {:?}, the fold {status:?}",
                decoded.invoice_status
            ))
        }
    });
    if let Err(why) = fits {
        state.fail(|| {
            format!(
                "invariant 8: event {} does not fold: {why}: {text}",
                place + 1
            )
        });
    }
    match decoded.event {
        Event::PaymentResolved {
            payment,
            resolved_as,
            ..
        } => Some((payment, resolved_as)),
        _ => None,
    }
}

fn brief(event: &Event) -> String {
    match event {
        Event::InvoiceCreated(invoice) => format!("InvoiceCreated {}", invoice.id()),
        Event::PaymentRequested {
            key,
            attempt,
            cause,
            due_at,
            ..
        } => format!("PaymentRequested {key} attempt {attempt} cause {cause:?} due {due_at}"),
        other => format!("{other:?}"),
    }
}

/// An outcome is never guessed: whatever moves a payment was said by who can know.
fn evidence(
    state: &mut State,
    row: usize,
    event: &Event,
    resolved: Option<(PaymentId, ResolveAs)>,
) {
    let Some(id) = event.payment() else {
        return;
    };
    // As it stands now, in the tables: key and epoch do not change with these events.
    let Some(payment) = state.disk.rows[row].payments.iter().find(|it| it.id == id) else {
        return state.fail(|| {
            format!("invariant 8: {event:?} is about a payment that is not in the tables")
        });
    };
    let key = payment.key.as_str().to_owned();
    let lying = state.weather.lying;
    let witness = &state.witness;
    let by_operator = |how| resolved == Some((id, how));
    let charge = state.ledger.charges.get(&key);
    let executed = charge.is_some_and(|charge| charge.executed > 0);
    // Only word on the send that stands counts. The next may have been claimed in this same commit.
    let epoch = payment.work.epoch - u32::from(payment.state == PaymentState::Sending);
    let said = |f: &dyn Fn(&Said) -> bool| witness.has_said(&key, |it| it.send == epoch && f(it));
    let holds = match event {
        Event::PaymentRequested { cause, .. } => match cause {
            Cause::Api | Cause::Manual => true,
            // In one commit with the failure, which has its own evidence.
            Cause::Retry => true,
            Cause::NotSent => said(&|said| said.what == What::NotExecuted),
            Cause::NotReceived => {
                // Where no byte of it has ever left, it is final at once.
                let sends = state.ledger.sends.get(&key);
                let final_ms = sends.map_or(i64::MIN, |sends| {
                    sends.last_ms + i64::try_from(state.weather.lag_ms).unwrap_or(0)
                });
                said(&|said| said.what == What::NotFound && said.asked_ms >= final_ms)
            }
        },
        Event::PaymentAccepted { .. } => said(&|said| said.what == What::Pending),
        Event::PaymentReviewRequired { .. } => {
            said(&|said| matches!(said.what, What::Mismatch | What::NotFound))
        }
        Event::PaymentResolved { resolved_as, .. } => witness.has_resolved(id, *resolved_as),
        Event::PaymentSucceeded { .. } => {
            (by_operator(ResolveAs::Succeeded) || said(&|said| said.what == What::Approved))
                && (executed || lying)
        }
        Event::PaymentFailed {
            failure,
            next_attempt_at,
            ..
        } => {
            // An operator's word is never followed by an attempt of payd's own (section 10).
            let resolved = failure.kind == FailureKind::Resolved
                && by_operator(ResolveAs::Failed)
                && next_attempt_at.is_none();
            let declined =
                failure.kind != FailureKind::Resolved && said(&|said| said.what == What::Declined);
            (resolved || declined) && (!executed || lying)
        }
        // Nothing of it can be at the gateway, nor come there.
        Event::PaymentCanceled { .. } => {
            lying || (charge.is_none() && state.ledger.truth(&key) == Some(false))
        }
        // Late word of an approval; against a decision it is a lie of the gateway or of an operator.
        Event::PaymentContradicted { .. } => {
            lying
                || (payment.state != PaymentState::Failed
                    && witness.has_said(&key, |said| said.what == What::Approved))
        }
        _ => true,
    };
    if !holds {
        let said = witness.said.get(&key).cloned();
        let charge = charge.cloned();
        state.fail(|| {
            format!(
                "nobody has said so: {event:?}; heard of {key}: {said:?}; its books: {charge:?}"
            )
        });
    }
}

/// An invoice as the tables have it: invariants 3, 4, and 8 against the fold.
fn standing(state: &mut State, row: usize) {
    let Some(folded) = state.witness.folded.get(row) else {
        return state
            .fail(|| format!("invariant 8: row {row} is in the tables and not in the log"));
    };
    let tables = &state.disk.rows[row];
    let what = match differ(tables, folded) {
        Some(what) => Some(format!(
            "invariant 8: {what}; tables {tables:?}; fold {folded:?}"
        )),
        None => counts(tables),
    };
    if let Some(what) = what {
        state.fail(|| what);
    }
}

/// What differs between tables and fold, but for working state.
fn differ(tables: &Aggregate, folded: &Aggregate) -> Option<&'static str> {
    if tables.invoice != folded.invoice {
        return Some("the invoices differ");
    }
    if tables.payments.len() != folded.payments.len() {
        return Some("the payments are not as many");
    }
    let same = |(table, fold): (&Payment, &Payment)| {
        // SENDING is working state: in the log it is REQUESTED.
        let state = match table.state {
            PaymentState::Sending => PaymentState::Requested,
            state => state,
        };
        let bound = !matches!(state, PaymentState::Requested | PaymentState::Canceled);
        state == fold.state
            && table.id == fold.id
            && table.attempt == fold.attempt
            && table.key == fold.key
            && table.method == fold.method
            && (table.gateway == fold.gateway || !bound)
            && table.gateway_reference == fold.gateway_reference
            && table.failure == fold.failure
            && table.requested_at == fold.requested_at
            && table.due_at == fold.due_at
            && table.finished_at == fold.finished_at
            && table.resends == fold.resends
            && table.contradicted == fold.contradicted
    };
    let all = tables.payments.iter().zip(&folded.payments).all(same);
    (!all).then_some("the payments differ")
}

fn counts(row: &Aggregate) -> Option<String> {
    let count = |f: fn(PaymentState) -> bool| row.payments.iter().filter(|it| f(it.state)).count();
    let succeeded = count(|state| state == PaymentState::Succeeded);
    let open = count(PaymentState::is_open);
    let status = row.invoice.status;
    let fits = (status == InvoiceStatus::Paid) == (succeeded == 1)
        && (status == InvoiceStatus::Processing) == (open == 1)
        && succeeded <= 1
        && open <= 1;
    (!fits).then(|| {
        format!(
            "invariants 3, 4: {} is {status:?} with {succeeded} succeeded and {open} open",
            row.invoice.id()
        )
    })
}

/// The first byte of a send leaves.
pub(crate) fn first_byte(state: &mut State, request: &ChargeRequest) {
    let key = request.key.as_str();
    let (now, gateway) = (state.now_ms(), state.gateway);
    let body = Body::of(request);
    // Invariant 7: intent is durable.
    let open = state.disk.is_open();
    let standing = state
        .disk
        .by_key(key)
        .map(|(_, payment)| (payment.state, payment.work.epoch));
    let intended = standing == Some((PaymentState::Sending, request.send)) && !open;
    state.must(intended, || {
        format!(
            "invariant 7: {key} send {} leaves while the disk says {standing:?}",
            request.send
        )
    });
    // Invariant 6: the same on every send, and what the client wanted.
    let other = state
        .ledger
        .sends
        .get(key)
        .is_some_and(|sends| sends.body != body);
    state.must(!other, || {
        format!("invariant 6: {key} is sent with another body: {body:?}")
    });
    let Some((row, payment)) = state.disk.by_key(key) else {
        return;
    };
    let early = payment.due_at > state.payd_now();
    let exact = row.invoice.content == request.invoice;
    // Invariant 5: every earlier key was declined, definitely; every later one was never sent.
    let lying = state.weather.lying;
    let mut out_of_order = None;
    for other in &row.payments {
        let name = other.key.as_str();
        if other.attempt > request.attempt && state.ledger.sends.contains_key(name) {
            out_of_order = Some(format!("{name} of a later attempt was sent before"));
        }
        if other.attempt >= request.attempt {
            continue;
        }
        let resolved = state.witness.has_resolved(other.id, ResolveAs::Failed);
        let declined = state
            .witness
            .has_said(name, |said| said.what == What::Declined);
        let books = state.ledger.charges.get(name);
        let never = books.is_none() && state.ledger.truth(name) == Some(false);
        let truly = books.is_some_and(|it| matches!(it.verdict, Verdict::Declined { .. }))
            || (never && resolved);
        if !(declined || resolved) || !(truly || lying) {
            out_of_order = Some(format!(
                "{name} before it was not declined: {:?}",
                other.state
            ));
        }
        // Doubt about an earlier key holds back the later ones.
        if other.contradicted {
            out_of_order = Some(format!("{name} before it has come into doubt"));
        }
    }
    state.must(!early, || format!("{key} is sent before it is due"));
    state.must(exact, || {
        format!("invariant 1: {key} is sent for another invoice content")
    });
    if let Some(what) = out_of_order {
        state.fail(|| format!("invariant 5: {key} is sent, and {what}"));
    }
    state
        .ledger
        .sends
        .entry(key.to_owned())
        .and_modify(|sends| sends.last_ms = now)
        .or_insert(Sends {
            body,
            gateway,
            last_ms: now,
        });
    asked(state, key);
}

/// A gateway hears of a key: it is the one that heard of it first.
pub(crate) fn asked(state: &mut State, key: &str) {
    let here = state.gateway;
    let bound = state.ledger.sends.get(key).map_or(here, |it| it.gateway);
    state.must(bound == here, || {
        format!("{here} hears of {key}, which belongs to {bound}")
    });
}

/// Whether a payment waits for a gateway that this payd does not send to, and an operator knows.
fn is_elsewhere(state: &State, row: &Aggregate, payment: &Payment) -> bool {
    let bound = payment.gateway.as_deref();
    row.invoice.needs_attention && bound.is_some_and(|bound| bound != state.gateway)
}

/// payd has looked after what an earlier process was sending, and is ready.
pub(crate) fn recovered(state: &mut State) {
    let sending = state
        .disk
        .payments()
        .any(|(_, payment)| payment.state == PaymentState::Sending);
    // What cannot be read is set aside.
    state.must(!sending || state.sets_aside, || {
        "payd is ready while a payment of an earlier life is SENDING".to_owned()
    });
}

/// Whether every client has what it wants, and every invoice has come to an end or waits for an
/// operator.
pub(crate) fn is_settled(state: &State) -> bool {
    state.clients.iter().all(|client| client.is_done())
        && state.disk.rows.iter().all(|row| match row.invoice.status {
            InvoiceStatus::Pending
            | InvoiceStatus::Paid
            | InvoiceStatus::Failed
            | InvoiceStatus::Canceled => true,
            InvoiceStatus::Processing => row.payments.last().is_some_and(|latest| {
                let held = row.invoice.contradicted_attempt.is_some();
                latest.state == PaymentState::Review
                    || is_elsewhere(state, row, latest)
                    || (held && latest.state == PaymentState::Requested)
            }),
        })
}

/// All has come to rest: what must be true now that nothing is on its way any more.
pub(crate) fn ended(state: &mut State) {
    super::gateway::finish(state);
    for row in 0..state.disk.rows.len() {
        standing(state, row);
    }
    let log = state.disk.digest();
    let seen = state.witness.digest.unwrap_or(log);
    state.must(log == seen, || {
        "the log is not what was committed".to_owned()
    });
    // Invariants 1 and 2, from the gateway's books.
    let charged: Vec<(String, u32)> = state
        .ledger
        .charges
        .iter()
        .filter(|(_, charge)| charge.executed > 0)
        .map(|(key, charge)| (key.clone(), charge.executed))
        .collect();
    let lying = state.weather.lying;
    for (key, times) in charged {
        state.must(times == 1, || {
            format!("invariant 1: {key} is charged {times} times")
        });
        let Some((row, payment)) = state.disk.by_key(&key) else {
            state.fail(|| format!("invariant 2: no payment knows the charge {key}"));
            return;
        };
        let known = payment.state == PaymentState::Succeeded
            || is_elsewhere(state, row, payment)
            || (payment.state == PaymentState::Review && row.invoice.needs_attention);
        let stands = payment.state;
        state.must(known || lying, || {
            format!("invariant 2: {key} is charged, and its payment is {stands:?}")
        });
    }
    // A contradiction is seen by an operator.
    let unseen = state.disk.payments().find_map(|(row, payment)| {
        let doubt = payment.contradicted && payment.state != PaymentState::Succeeded;
        (doubt && !row.invoice.needs_attention).then(|| payment.key.to_string())
    });
    if let Some(key) = unseen {
        state.fail(|| format!("{key} is contradicted, and nobody is told"));
    }
}
