//! An invoice with its payments, folded from events. The engine and `payd verify` fold with the
//! same function, so what the tables hold can be held against the log.

use super::event::Event;
use super::payment::Working;
use super::{Invoice, InvoiceInput, InvoiceStatus, Payment, PaymentId, PaymentState, Timestamp};

/// An invoice and those of its payments that are loaded, in order of attempt. The latest is always
/// among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// The invoice.
    pub invoice: Invoice,
    /// In order of attempt; the last is the latest.
    pub payments: Vec<Payment>,
}

/// The events do not fit the state: the log or the tables are damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} does not follow from what stands before it: {why}")]
pub struct FoldError {
    /// The type of the event.
    pub event: &'static str,
    /// What does not fit.
    pub why: String,
}

impl Aggregate {
    /// A new invoice.
    #[must_use]
    pub const fn new(invoice: Invoice) -> Self {
        Self {
            invoice,
            payments: Vec::new(),
        }
    }

    /// The latest payment: the one that stands.
    #[must_use]
    pub fn latest(&self) -> Option<&Payment> {
        self.payments.last()
    }

    /// A payment by its id.
    #[must_use]
    pub fn payment(&self, id: PaymentId) -> Option<&Payment> {
        self.payments.iter().find(|payment| payment.id == id)
    }

    /// When the payment that waits will be sent.
    #[must_use]
    pub fn next_attempt_at(&self) -> Option<Timestamp> {
        self.latest()
            .filter(|payment| payment.state == PaymentState::Requested)
            .map(|payment| payment.due_at)
    }

    /// Folds one event in.
    ///
    /// # Errors
    /// Where the event does not follow from the state. The engine only folds what [`super::decide`]
    /// decided on this very state, so there it means a mistake in the rules.
    pub fn apply(&mut self, event: &Event, at: Timestamp) -> Result<(), FoldError> {
        let error = |why: &str| FoldError {
            event: event.kind().as_str(),
            why: why.to_owned(),
        };
        let invoice = &mut self.invoice;
        invoice.updated_at = at;
        if let Event::PaymentRequested {
            payment: id,
            attempt,
            key,
            method,
            due_at,
            cause,
        } = event
            && cause.is_new_payment()
        {
            if self
                .payments
                .last()
                .is_some_and(|latest| latest.state.is_open())
            {
                return Err(error("another payment is open"));
            }
            if *attempt != invoice.attempts + 1 {
                return Err(error("the attempt number is not the next one"));
            }
            if !matches!(cause, super::Cause::Retry) {
                invoice.attempts_before_round = invoice.attempts;
                invoice.status =
                    next(invoice.status, InvoiceInput::Pay).map_err(|why| error(&why))?;
            }
            invoice.attempts = *attempt;
            let names = (*id, *attempt, key.clone());
            self.payments
                .push(Payment::requested(names, method.clone(), at, *due_at));
            return Ok(());
        }
        let payment = match event.payment() {
            Some(id) => Some(
                self.payments
                    .iter_mut()
                    .find(|payment| payment.id == id)
                    .ok_or_else(|| error("there is no such payment"))?,
            ),
            None => None,
        };
        // Every payment event below has its payment, by `Event::payment`.
        match (event, payment) {
            (Event::InvoiceCreated(_), _) => return Err(error("the invoice exists")),
            (
                Event::PaymentRequested {
                    key,
                    method,
                    due_at,
                    cause,
                    ..
                },
                Some(payment),
            ) => {
                // Ambiguity never mints a new key, and every send says the same.
                if payment.key != *key || payment.method != *method {
                    return Err(error("its key or method is not the payment's own"));
                }
                move_to(payment, PaymentState::Requested, at).map_err(|why| error(&why))?;
                payment.due_at = *due_at;
                if *cause == super::Cause::NotReceived {
                    payment.resends += 1;
                }
            }
            (
                Event::PaymentAccepted {
                    gateway, reference, ..
                },
                Some(payment),
            ) => {
                move_to(payment, PaymentState::Accepted, at).map_err(|why| error(&why))?;
                payment.gateway = Some(gateway.clone());
                payment.gateway_reference.clone_from(reference);
                payment.work.open_since = payment.work.open_since.or(Some(at));
            }
            (Event::PaymentUnknown { gateway, .. }, Some(payment)) => {
                move_to(payment, PaymentState::Unknown, at).map_err(|why| error(&why))?;
                payment.gateway = Some(gateway.clone());
                payment.work.open_since = payment.work.open_since.or(Some(at));
            }
            (Event::PaymentReviewRequired { gateway, .. }, Some(payment)) => {
                move_to(payment, PaymentState::Review, at).map_err(|why| error(&why))?;
                payment.gateway = Some(gateway.clone());
                invoice.needs_attention = true;
            }
            (
                Event::PaymentSucceeded {
                    gateway, reference, ..
                },
                Some(payment),
            ) => {
                move_to(payment, PaymentState::Succeeded, at).map_err(|why| error(&why))?;
                payment.gateway = Some(gateway.clone());
                payment.gateway_reference.clone_from(reference);
                invoice.status = next(invoice.status, InvoiceInput::PaymentSucceeded)
                    .map_err(|why| error(&why))?;
                invoice.paid_at = Some(at);
                // What the gateway had said too early is what it says now.
                if invoice.contradicted_attempt == Some(payment.attempt) {
                    invoice.contradicted_attempt = None;
                }
                invoice.needs_attention = invoice.contradicted_attempt.is_some();
            }
            (
                Event::PaymentFailed {
                    gateway,
                    failure,
                    next_attempt_at,
                    ..
                },
                Some(payment),
            ) => {
                move_to(payment, PaymentState::Failed, at).map_err(|why| error(&why))?;
                payment.gateway = Some(gateway.clone());
                payment.failure = Some(failure.clone());
                let input = match next_attempt_at {
                    Some(_) => InvoiceInput::PaymentFailedRetrying,
                    None => InvoiceInput::PaymentFailedForGood,
                };
                invoice.status = next(invoice.status, input).map_err(|why| error(&why))?;
                invoice.needs_attention = invoice.contradicted_attempt.is_some();
            }
            (Event::PaymentCanceled { .. }, Some(payment)) => {
                move_to(payment, PaymentState::Canceled, at).map_err(|why| error(&why))?;
            }
            (Event::PaymentContradicted { .. }, Some(payment)) => {
                payment.contradicted = true;
                invoice.contradicted_attempt =
                    invoice.contradicted_attempt.max(Some(payment.attempt));
                invoice.needs_attention = true;
            }
            (Event::PaymentResolved { .. }, Some(payment)) => {
                // Whoever resolves it has seen the evidence, and it is their word from here on.
                payment.contradicted = false;
                if invoice.contradicted_attempt == Some(payment.attempt) {
                    invoice.contradicted_attempt = None;
                }
            }
            (Event::InvoiceCancelRequested { reason }, _) => {
                invoice.status =
                    next(invoice.status, InvoiceInput::CancelSent).map_err(|why| error(&why))?;
                invoice.cancel_requested = true;
                invoice.cancel_reason.clone_from(reason);
            }
            (Event::InvoiceCanceled { reason }, _) => {
                invoice.status =
                    next(invoice.status, InvoiceInput::CancelUnsent).map_err(|why| error(&why))?;
                invoice.cancel_reason.clone_from(reason);
                invoice.needs_attention = invoice.contradicted_attempt.is_some();
            }
            (Event::InvoiceAttentionRequired { restored, .. }, _) => {
                invoice.needs_attention = true;
                if *restored && let Some(latest) = self.payments.last_mut() {
                    latest.restored = true;
                }
            }
            (_, None) => return Err(error("it names no payment")),
        }
        Ok(())
    }
}

fn next(status: InvoiceStatus, input: InvoiceInput) -> Result<InvoiceStatus, String> {
    status
        .next(input)
        .map_err(|no| format!("{} refuses: {no:?}", status.as_str()))
}

/// Moves a payment, and drops the working state that the old state had. That the move is one of
/// the table was [`super::decide`]'s to see to; here only a decided payment is held.
fn move_to(payment: &mut Payment, state: PaymentState, at: Timestamp) -> Result<(), String> {
    if !payment.state.is_open() {
        return Err(format!("the payment is {}", payment.state.as_str()));
    }
    let still_open_question = matches!(state, PaymentState::Accepted | PaymentState::Unknown);
    let epoch = payment.work.epoch;
    payment.work = if still_open_question {
        Working {
            lease_until: None,
            ..payment.work
        }
    } else {
        Working {
            epoch,
            ..Working::default()
        }
    };
    payment.state = state;
    if !state.is_open() {
        payment.finished_at = Some(at);
    }
    Ok(())
}
