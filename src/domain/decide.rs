//! What follows from a command: a function of state, command and context, and of nothing else.
//!
//! Order of reading: one function a command, each a ladder of early returns. None of them changes
//! the state; the caller folds the events that come back.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Aggregate, Cause, Command, Event, Failure, FailureKind, Finding, Invoice, InvoiceInput,
    InvoiceRefusal, InvoiceStatus, LookupPolicy, NewInvoice, Outcome, Payment, PaymentId,
    PaymentInput, PaymentRefusal, PaymentState, Refusal, ResolveAs, RetryPolicy, StoreId,
    Timestamp, names,
};

/// How often a payment is sent again because the gateway never had it, before an operator must look.
const RESENDS_MAX: u32 = 5;

/// What a decision may depend on besides state and command.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The time of the commit.
    pub now: Timestamp,
    /// A draw, uniform over all of `u32`.
    pub draw: u32,
    /// The store that the invoice is in.
    pub store: StoreId,
    /// How declined payments are followed by others.
    pub retry: RetryPolicy,
    /// How open questions are looked up.
    pub lookup: LookupPolicy,
    /// How soon after a send a "not found" of the gateway is final.
    pub lookup_lag: Duration,
    /// When this process started. The lag is not measured over a restart, where the wall clock may
    /// have jumped.
    pub started_at: Timestamp,
    /// How long a claim holds: longer than any send may take.
    pub lease: Duration,
}

/// What follows from a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// The facts, in order.
    pub events: Vec<Event>,
    /// The change of working state of the latest payment, once the events are folded in.
    pub work: Option<Work>,
}

/// A change of a payment's working state: in the tables, not in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// It is SENDING from now on.
    Claim {
        /// Through this gateway.
        gateway: String,
        /// Until when the claim holds.
        lease_until: Timestamp,
    },
    /// It will be looked up.
    Look {
        /// Lookups begun so far.
        lookups: u32,
        /// When.
        at: Timestamp,
    },
}

impl Decision {
    const NOTHING: Self = Self {
        events: Vec::new(),
        work: None,
    };

    /// Whether the state stays as it is.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.events.is_empty() && self.work.is_none()
    }
}

impl Work {
    /// Changes the payment. The caller has decided that it may.
    pub fn apply(&self, payment: &mut Payment, now: Timestamp) {
        match self {
            Self::Claim {
                gateway,
                lease_until,
            } => {
                payment.state = PaymentState::Sending;
                payment.gateway = Some(gateway.clone());
                payment.sent_at = Some(now);
                payment.work.epoch += 1;
                payment.work.lease_until = Some(*lease_until);
            }
            Self::Look { lookups, at } => {
                payment.work.lookups = *lookups;
                payment.work.next_lookup_at = Some(*at);
            }
        }
    }
}

/// Makes an invoice, or finds that the one that stands is the same.
///
/// # Errors
/// Where the one that stands has other content.
pub fn create(
    standing: Option<&Invoice>,
    new: &Arc<NewInvoice>,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    match standing {
        None => Ok(events([Event::InvoiceCreated(Box::new(Invoice::new(
            Arc::clone(new),
            now,
        )))])),
        Some(invoice) if invoice.content == *new => Ok(Decision::NOTHING),
        Some(_) => Err(Refusal::InvoiceExists),
    }
}

/// What follows from a command on an invoice.
///
/// # Errors
/// Where it is refused, and why. A refusal changes nothing.
pub fn decide(
    state: &Aggregate,
    command: &Command,
    context: &Context,
) -> Result<Decision, Refusal> {
    match command {
        Command::Pay { method } => pay(state, method.as_ref(), context),
        Command::Cancel { reason } => cancel(state, reason.as_deref()),
        Command::Claim { gateway } => claim(state, gateway, context),
        Command::Settle {
            payment,
            epoch,
            outcome,
        } => settle(state, *payment, *epoch, outcome, context),
        Command::LeaveBehind { gateway } => leave_behind(state, gateway),
        Command::Restored { gateway } => restored(state, gateway, context),
        Command::Look => look(state, context),
        Command::Found {
            payment,
            epoch,
            asked_at,
            finding,
        } => found(state, *payment, *epoch, *asked_at, finding, context),
        Command::Resolve {
            payment,
            resolve_as,
            reason,
            reference,
            actor,
        } => resolve(
            state,
            *payment,
            *resolve_as,
            reason,
            reference.as_ref(),
            actor,
        ),
    }
}

fn pay(state: &Aggregate, method: Option<&String>, context: &Context) -> Result<Decision, Refusal> {
    let invoice = &state.invoice;
    match invoice.status.next(InvoiceInput::Pay) {
        Ok(_) => {}
        // The payment that stands is the answer; nothing is made.
        Err(InvoiceRefusal::AlreadyProcessing | InvoiceRefusal::AlreadyPaid) => {
            return Ok(Decision::NOTHING);
        }
        Err(InvoiceRefusal::AlreadyCanceled | InvoiceRefusal::NoOpenPayment) => {
            return Err(Refusal::InvoiceCanceled);
        }
    }
    let cause = if invoice.attempts == 0 {
        Cause::Api
    } else {
        Cause::Manual
    };
    let method = method.or(invoice.content.payment_method.as_ref()).cloned();
    Ok(events([request(
        invoice,
        method,
        context.now,
        cause,
        context.store,
    )]))
}

fn cancel(state: &Aggregate, reason: Option<&str>) -> Result<Decision, Refusal> {
    let open = state.latest().filter(|payment| payment.state.is_open());
    let may_have_been_sent = open.is_some_and(|payment| {
        // The gateway has once said that it has it after all.
        payment.contradicted || payment.state.next(PaymentInput::Cancel).is_err()
    });
    let input = if may_have_been_sent {
        InvoiceInput::CancelSent
    } else {
        InvoiceInput::CancelUnsent
    };
    match state.invoice.status.next(input) {
        Ok(_) => {}
        Err(InvoiceRefusal::AlreadyPaid) => return Err(Refusal::InvoicePaid),
        Err(_) => return Err(Refusal::InvoiceCanceled),
    }
    let reason = reason.map(str::to_owned);
    match (state.invoice.status, input) {
        (InvoiceStatus::Canceled, _) => Ok(Decision::NOTHING),
        (_, InvoiceInput::CancelSent) if state.invoice.cancel_requested => Ok(Decision::NOTHING),
        (_, InvoiceInput::CancelSent) => Ok(events([Event::InvoiceCancelRequested { reason }])),
        _ => {
            let withdrawn = open.map(|payment| Event::PaymentCanceled {
                payment: payment.id,
                reason: reason.clone(),
            });
            Ok(events(
                withdrawn
                    .into_iter()
                    .chain([Event::InvoiceCanceled { reason }]),
            ))
        }
    }
}

fn claim(state: &Aggregate, gateway: &str, context: &Context) -> Result<Decision, Refusal> {
    let payment = state.latest().ok_or(Refusal::NothingToDo)?;
    if payment.state.next(PaymentInput::Claim).is_err() || payment.due_at > context.now {
        return Err(Refusal::NothingToDo);
    }
    // Key n+1 goes out only after a definite decline of key n (invariant 5), and one of those has
    // come into doubt: an operator must look first.
    let doubted = state.invoice.contradicted_attempt;
    if doubted.is_some_and(|attempt| attempt < payment.attempt) {
        return Err(Refusal::NothingToDo);
    }
    // A key belongs to one gateway for life: elsewhere it would be a second charge.
    if payment
        .gateway
        .as_deref()
        .is_some_and(|bound| bound != gateway)
    {
        return Err(Refusal::NothingToDo);
    }
    let work = Work::Claim {
        gateway: gateway.to_owned(),
        lease_until: context.now.plus(context.lease),
    };
    Ok(Decision {
        events: Vec::new(),
        work: Some(work),
    })
}

/// A key belongs to one gateway for life: where another takes its place, only an operator can help.
fn leave_behind(state: &Aggregate, gateway: &str) -> Result<Decision, Refusal> {
    let payment = state.latest().ok_or(Refusal::NothingToDo)?;
    let bound = payment.gateway.as_deref().filter(|bound| *bound != gateway);
    let (true, Some(bound)) = (payment.state.is_open(), bound) else {
        return Err(Refusal::NothingToDo);
    };
    if state.invoice.needs_attention {
        return Ok(Decision::NOTHING);
    }
    Ok(events([Event::InvoiceAttentionRequired {
        reason: format!(
            "payment {} waits for gateway \"{bound}\", and payd now uses \"{gateway}\": set gateway.kind back until it is decided",
            payment.id,
        ),
        restored: false,
    }]))
}

/// A backup is older than the world: its open payment may have been sent since, declined, and followed
/// by others. So it is looked up before anything is sent, and an operator is called.
fn restored(state: &Aggregate, gateway: &str, context: &Context) -> Result<Decision, Refusal> {
    let payment = state.latest().ok_or(Refusal::NothingToDo)?;
    let to = payment
        .state
        .next(PaymentInput::Restored)
        .map_err(|_| Refusal::NothingToDo)?;
    let mut events = Vec::new();
    let moves = to != payment.state;
    if moves || !payment.restored {
        events.push(Event::InvoiceAttentionRequired {
            reason: format!(
                "payd was restored from a backup in which payment {} was {}: what was done about this invoice after the backup is not known here",
                payment.id,
                payment.state.as_str(),
            ),
            restored: true,
        });
    }
    if moves {
        // What was never sent is bound to no gateway yet; it can only have gone to the one in use.
        let bound = payment.gateway.as_deref().unwrap_or(gateway);
        events.push(Event::PaymentUnknown {
            payment: payment.id,
            gateway: bound.to_owned(),
            reason: "payd was restored from a backup, and it may have been sent since".to_owned(),
        });
    }
    let looked_up = matches!(to, PaymentState::Accepted | PaymentState::Unknown);
    let work = looked_up.then_some(Work::Look {
        lookups: payment.work.lookups,
        at: context.now,
    });
    Ok(Decision { events, work })
}

fn settle(
    state: &Aggregate,
    id: PaymentId,
    epoch: u32,
    outcome: &Outcome,
    context: &Context,
) -> Result<Decision, Refusal> {
    let payment = state.payment(id).ok_or(Refusal::PaymentNotFound)?;
    let (input, says) = match outcome {
        Outcome::Approved { .. } => (PaymentInput::Approved, "approved"),
        Outcome::Declined { .. } => (PaymentInput::Declined, "declined"),
        Outcome::Accepted { .. } => (PaymentInput::Pending, "accepted"),
        Outcome::NotSent { .. } => (PaymentInput::NotSent, "not sent"),
        Outcome::Refused { .. } | Outcome::NotExecuted { .. } => {
            (PaymentInput::NotExecuted, "not executed")
        }
        Outcome::Unknown { .. } => (PaymentInput::Ambiguous, "no answer"),
        Outcome::KeyReused { .. } => (PaymentInput::KeyReused, "key used with other parameters"),
    };
    if let Heard::Enough(decision) = hear(payment, epoch, input, says, context)? {
        return Ok(decision);
    }
    let gateway = gateway_of(payment);
    match outcome {
        Outcome::Approved { reference } => Ok(events([succeeded(payment, reference.as_ref())])),
        Outcome::Declined {
            failure,
            retry_after,
        } => Ok(fail(state, payment, failure, *retry_after, context)),
        Outcome::Accepted { reference, reason } => {
            let accepted = Event::PaymentAccepted {
                payment: id,
                gateway,
                reference: reference.clone(),
                reason: reason.clone(),
            };
            Ok(open_question(accepted, payment, context))
        }
        Outcome::NotSent { .. } => Ok(send_again(
            state,
            payment,
            Cause::NotSent,
            backoff(payment, None, context),
        )),
        // Nothing is sent before the gateway lets payd in again; then it may go at once.
        Outcome::Refused { .. } => Ok(send_again(state, payment, Cause::NotSent, context.now)),
        Outcome::NotExecuted { retry_after, .. } => Ok(send_again(
            state,
            payment,
            Cause::NotSent,
            backoff(payment, *retry_after, context),
        )),
        Outcome::Unknown { reason } => Ok(open_question(
            Event::PaymentUnknown {
                payment: id,
                gateway,
                reason: reason.clone(),
            },
            payment,
            context,
        )),
        Outcome::KeyReused { reason } => Ok(events([Event::PaymentReviewRequired {
            payment: id,
            gateway,
            reason: reason.clone(),
        }])),
    }
}

fn look(state: &Aggregate, context: &Context) -> Result<Decision, Refusal> {
    let payment = state.latest().ok_or(Refusal::NothingToDo)?;
    if !matches!(
        payment.state,
        PaymentState::Accepted | PaymentState::Unknown
    ) {
        return Err(Refusal::NothingToDo);
    }
    if payment
        .work
        .next_lookup_at
        .is_some_and(|at| at > context.now)
    {
        return Err(Refusal::NothingToDo);
    }
    let lookups = payment.work.lookups.saturating_add(1);
    let open_for = payment
        .work
        .open_since
        .map_or(Duration::ZERO, |since| context.now.since(since));
    let at = context
        .now
        .plus(context.lookup.delay(lookups.saturating_add(1), open_for));
    let late = open_for >= context.lookup.attention_after && !state.invoice.needs_attention;
    let attention = late.then(|| Event::InvoiceAttentionRequired {
        reason: format!(
            "payment {} has been {} since {}; the gateway does not say how it ended",
            payment.id,
            payment.state.as_str(),
            payment.work.open_since.unwrap_or(context.now),
        ),
        restored: false,
    });
    Ok(Decision {
        events: attention.into_iter().collect(),
        work: Some(Work::Look { lookups, at }),
    })
}

fn found(
    state: &Aggregate,
    id: PaymentId,
    epoch: u32,
    asked_at: Timestamp,
    finding: &Finding,
    context: &Context,
) -> Result<Decision, Refusal> {
    let payment = state.payment(id).ok_or(Refusal::PaymentNotFound)?;
    let (input, says) = match finding {
        Finding::Approved { .. } => (PaymentInput::Approved, "approved"),
        Finding::Declined { .. } => (PaymentInput::Declined, "declined"),
        Finding::Pending { .. } => (PaymentInput::Pending, "pending"),
        Finding::NotFound => (PaymentInput::NotFound, "not found"),
        Finding::Mismatch { .. } => (PaymentInput::Mismatch, "another charge under this key"),
        Finding::Refused { .. } => return Ok(Decision::NOTHING),
        Finding::Inconclusive { retry_after, .. } => {
            return Ok(look_later(payment, epoch, *retry_after, context));
        }
    };
    // Too soon after the send, "not found" may only mean "not yet".
    let too_soon = payment
        .work
        .open_since
        .is_none_or(|since| asked_at < since.max(context.started_at).plus(context.lookup_lag));
    if matches!(finding, Finding::NotFound) && too_soon {
        return Ok(Decision::NOTHING);
    }
    let to = match hear(payment, epoch, input, says, context)? {
        Heard::Enough(decision) => return Ok(decision),
        Heard::Moves(to) => to,
    };
    let gateway = gateway_of(payment);
    let review = |reason: String| {
        Ok(events([Event::PaymentReviewRequired {
            payment: id,
            gateway: gateway.clone(),
            reason,
        }]))
    };
    match finding {
        Finding::Approved { reference } => Ok(events([succeeded(payment, reference.as_ref())])),
        Finding::Declined {
            failure,
            retry_after,
        } => Ok(fail(state, payment, failure, *retry_after, context)),
        Finding::Pending { reference } => {
            let accepted = Event::PaymentAccepted {
                payment: id,
                gateway: gateway_of(payment),
                reference: reference.clone(),
                reason: None,
            };
            Ok(events([accepted]))
        }
        Finding::NotFound if to == PaymentState::Review => {
            review("the gateway had accepted it and now says that it never received it".to_owned())
        }
        Finding::NotFound if payment.resends >= RESENDS_MAX => review(format!(
            "sent {} times, and the gateway says each time that it never received it",
            RESENDS_MAX + 1
        )),
        // Nothing of it is there: it may go out at once, under the same key.
        Finding::NotFound => Ok(send_again(state, payment, Cause::NotReceived, context.now)),
        Finding::Mismatch { reason } => review(reason.clone()),
        Finding::Refused { .. } | Finding::Inconclusive { .. } => Ok(Decision::NOTHING),
    }
}

/// A lookup that taught nothing leaves the schedule alone, unless the gateway asks for more time.
fn look_later(
    payment: &Payment,
    epoch: u32,
    retry_after: Option<Duration>,
    context: &Context,
) -> Decision {
    let (Some(wait), Some(next)) = (retry_after, payment.work.next_lookup_at) else {
        return Decision::NOTHING;
    };
    let at = context.now.plus(wait.min(RetryPolicy::RETRY_AFTER_MAX));
    if payment.work.epoch != epoch || at <= next {
        return Decision::NOTHING;
    }
    Decision {
        events: Vec::new(),
        work: Some(Work::Look {
            lookups: payment.work.lookups,
            at,
        }),
    }
}

fn resolve(
    state: &Aggregate,
    id: PaymentId,
    resolved_as: ResolveAs,
    reason: &str,
    reference: Option<&String>,
    actor: &str,
) -> Result<Decision, Refusal> {
    let payment = state.payment(id).ok_or(Refusal::PaymentNotFound)?;
    let input = match resolved_as {
        ResolveAs::Succeeded => PaymentInput::ResolveSucceeded,
        ResolveAs::Failed => PaymentInput::ResolveFailed,
    };
    payment
        .state
        .next(input)
        .map_err(|_| Refusal::PaymentNotResolvable)?;
    let said = Event::PaymentResolved {
        payment: id,
        actor: actor.to_owned(),
        reason: reason.to_owned(),
        resolved_as,
    };
    let mut decision = events([said]);
    match resolved_as {
        ResolveAs::Succeeded => decision.events.push(succeeded(payment, reference)),
        ResolveAs::Failed => {
            let failure = Failure {
                kind: FailureKind::Resolved,
                code: "resolved_as_failed".to_owned(),
                message: Some(reason.to_owned()),
                // Section 10: never retried automatically.
                retryable: false,
            };
            decision
                .events
                .extend(fail_for_good(state, payment, &failure));
        }
    }
    Ok(decision)
}

/// What an answer of the gateway comes to, whichever way it came.
enum Heard {
    /// It moves the payment.
    Moves(PaymentState),
    /// It does not, and this is all that follows.
    Enough(Decision),
}

/// Holds an answer against the table and the claim that it belongs to.
///
/// An answer to an earlier claim changes nothing, but that an approval is proof about the key itself:
/// it decides a payment in REVIEW, which nobody sends or looks up any more.
fn hear(
    payment: &Payment,
    epoch: u32,
    input: PaymentInput,
    says: &str,
    context: &Context,
) -> Result<Heard, Refusal> {
    let to = match payment.state.next(input) {
        Err(PaymentRefusal::Contradicts) => {
            return contradiction(payment, says).map(Heard::Enough);
        }
        Err(_) => return Err(Refusal::Stale),
        Ok(to) => to,
    };
    if payment.work.epoch != epoch {
        return late(payment, epoch, input, context).map(Heard::Enough);
    }
    if to == payment.state {
        return Ok(Heard::Enough(Decision::NOTHING));
    }
    Ok(Heard::Moves(to))
}

/// Word on an earlier send decides nothing. An approval among it is kept as evidence, and a reason
/// to ask now; whatever else an earlier send came to, no money has moved by it.
fn late(
    payment: &Payment,
    epoch: u32,
    input: PaymentInput,
    context: &Context,
) -> Result<Decision, Refusal> {
    if input != PaymentInput::Approved {
        return Err(Refusal::Stale);
    }
    let says = format!("send {epoch} of it was approved");
    let evidence = contradiction(payment, &says);
    let looked_up = matches!(
        payment.state,
        PaymentState::Accepted | PaymentState::Unknown
    );
    if !looked_up {
        return evidence;
    }
    Ok(Decision {
        events: evidence.map_or(Vec::new(), |decision| decision.events),
        work: Some(Work::Look {
            lookups: payment.work.lookups,
            at: context.now,
        }),
    })
}

/// Word that contradicts what stands is recorded once, and changes nothing else.
fn contradiction(payment: &Payment, says: &str) -> Result<Decision, Refusal> {
    if payment.contradicted {
        return Err(Refusal::Stale);
    }
    let evidence = format!(
        "the gateway says: {says}; the payment is {}",
        payment.state.as_str()
    );
    Ok(events([Event::PaymentContradicted {
        payment: payment.id,
        evidence,
    }]))
}

/// A definite failure, and the next payment in the same commit where one follows.
fn fail(
    state: &Aggregate,
    payment: &Payment,
    failure: &Failure,
    retry_after: Option<Duration>,
    context: &Context,
) -> Decision {
    let invoice = &state.invoice;
    let attempt_in_round = payment
        .attempt
        .saturating_sub(invoice.attempts_before_round);
    let attempts_left = attempt_in_round < context.retry.max_attempts.get();
    if payment.restored {
        // Section 10: no new key. Where another attempt was made after the backup, it has that key.
        let attention = Event::InvoiceAttentionRequired {
            reason: format!(
                "payment {} was open in the backup that payd was restored from, and has failed; attempts made after the backup are not known here. Look for them at the gateway; `payctl pay` makes the next one",
                payment.id
            ),
            restored: false,
        };
        return events(fail_for_good(state, payment, failure).chain([attention]));
    }
    if !failure.retryable || !attempts_left || invoice.cancel_requested {
        return events(fail_for_good(state, payment, failure));
    }
    let due_at = context.now.plus(
        context
            .retry
            .delay(attempt_in_round, context.draw, retry_after),
    );
    let failed = Event::PaymentFailed {
        payment: payment.id,
        gateway: gateway_of(payment),
        failure: failure.clone(),
        next_attempt_at: Some(due_at),
    };
    events([
        failed,
        request(
            invoice,
            payment.method.clone(),
            due_at,
            Cause::Retry,
            context.store,
        ),
    ])
}

fn fail_for_good(
    state: &Aggregate,
    payment: &Payment,
    failure: &Failure,
) -> impl Iterator<Item = Event> {
    let failed = Event::PaymentFailed {
        payment: payment.id,
        gateway: gateway_of(payment),
        failure: failure.clone(),
        next_attempt_at: None,
    };
    [Some(failed), cancel_that_waited(state)]
        .into_iter()
        .flatten()
}

/// Back to REQUESTED under the same key; where a cancel waits, it is withdrawn in the same commit.
fn send_again(state: &Aggregate, payment: &Payment, cause: Cause, due_at: Timestamp) -> Decision {
    let requested = Event::PaymentRequested {
        payment: payment.id,
        attempt: payment.attempt,
        key: payment.key.clone(),
        method: payment.method.clone(),
        due_at,
        cause,
    };
    let Some(canceled) = cancel_that_waited(state) else {
        return events([requested]);
    };
    let reason = state.invoice.cancel_reason.clone();
    events([
        requested,
        Event::PaymentCanceled {
            payment: payment.id,
            reason,
        },
        canceled,
    ])
}

fn cancel_that_waited(state: &Aggregate) -> Option<Event> {
    let invoice = &state.invoice;
    invoice.cancel_requested.then(|| Event::InvoiceCanceled {
        reason: invoice.cancel_reason.clone(),
    })
}

/// An outcome that is open: its first lookup is scheduled in the same commit.
fn open_question(event: Event, payment: &Payment, context: &Context) -> Decision {
    let first = context.now.plus(context.lookup.delay(1, Duration::ZERO));
    let work = Work::Look {
        lookups: payment.work.lookups,
        at: first,
    };
    Decision {
        events: vec![event],
        work: Some(work),
    }
}

/// When to send again what was not executed: the count is that of its claims.
fn backoff(payment: &Payment, retry_after: Option<Duration>, context: &Context) -> Timestamp {
    context.now.plus(
        context
            .retry
            .delay(payment.work.epoch.max(1), context.draw, retry_after),
    )
}

fn request(
    invoice: &Invoice,
    method: Option<String>,
    due_at: Timestamp,
    cause: Cause,
    store: StoreId,
) -> Event {
    let attempt = invoice.attempts + 1;
    let (payment, key) = names(store, invoice.id(), attempt, invoice.content.money);
    Event::PaymentRequested {
        payment,
        attempt,
        key,
        method,
        due_at,
        cause,
    }
}

fn succeeded(payment: &Payment, reference: Option<&String>) -> Event {
    let reference = reference.or(payment.gateway_reference.as_ref()).cloned();
    Event::PaymentSucceeded {
        payment: payment.id,
        gateway: gateway_of(payment),
        reference,
    }
}

/// The gateway that it was sent to. What has an outcome was claimed, and a claim sets it.
fn gateway_of(payment: &Payment) -> String {
    payment.gateway.clone().unwrap_or_default()
}

fn events(events: impl IntoIterator<Item = Event>) -> Decision {
    Decision {
        events: events.into_iter().collect(),
        work: None,
    }
}
