//! A payment as the API shows it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::domain::{self, Timestamp};

/// A payment: one technical attempt to fulfil an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment<'a> {
    /// `pay_` and a UUIDv7.
    pub id: Cow<'a, str>,
    /// The invoice that it is for.
    pub invoice_id: Cow<'a, str>,
    /// 1, 2, 3, … over the life of the invoice.
    pub attempt: u32,
    /// Minor units of `currency`.
    pub amount: u64,
    /// ISO 4217 code.
    pub currency: Cow<'a, str>,
    /// `REQUESTED`, `SENDING`, `ACCEPTED`, `UNKNOWN`, `REVIEW`, `SUCCEEDED`, `FAILED` or `CANCELED`.
    pub status: Cow<'a, str>,
    /// The gateway that it was first sent to.
    pub gateway: Option<Cow<'a, str>>,
    /// The gateway's own id of the charge.
    pub gateway_reference: Option<Cow<'a, str>>,
    /// The key that every send of it carries.
    pub idempotency_key: Cow<'a, str>,
    /// Why it failed.
    pub failure: Option<Failure<'a>>,
    /// RFC 3339.
    pub requested_at: Cow<'a, str>,
    /// When it may be sent. RFC 3339.
    pub due_at: Cow<'a, str>,
    /// When it was last sent. RFC 3339.
    pub sent_at: Option<Cow<'a, str>>,
    /// When it was decided. RFC 3339.
    pub finished_at: Option<Cow<'a, str>>,
}

impl<'a> Payment<'a> {
    /// The view of a payment, with its invoice's content.
    #[must_use]
    pub fn of(invoice: &'a domain::NewInvoice, payment: &'a domain::Payment) -> Self {
        let text = |time: Timestamp| Cow::Owned(time.to_string());
        Self {
            id: payment.id.to_string().into(),
            invoice_id: invoice.id.as_str().into(),
            attempt: payment.attempt,
            amount: invoice.money.amount.minor_units(),
            currency: invoice.money.currency.code().into(),
            status: payment.state.as_str().into(),
            gateway: payment.gateway.as_deref().map(Cow::Borrowed),
            gateway_reference: payment.gateway_reference.as_deref().map(Cow::Borrowed),
            idempotency_key: payment.key.as_str().into(),
            failure: payment.failure.as_ref().map(Failure::of),
            requested_at: text(payment.requested_at),
            due_at: text(payment.due_at),
            sent_at: payment.sent_at.map(text),
            finished_at: payment.finished_at.map(text),
        }
    }
}

/// Why a payment failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure<'a> {
    /// `declined`, `rejected` or `resolved`.
    pub kind: Cow<'a, str>,
    /// The decline code, such as `do_not_honor`.
    pub code: Cow<'a, str>,
    /// The gateway's words, or the operator's reason.
    pub message: Option<Cow<'a, str>>,
    /// Whether another attempt could succeed.
    pub retryable: bool,
}

impl<'a> Failure<'a> {
    /// The view of a failure.
    #[must_use]
    pub fn of(failure: &'a domain::Failure) -> Self {
        Self {
            kind: failure.kind.as_str().into(),
            code: failure.code.as_str().into(),
            message: failure.message.as_deref().map(Cow::Borrowed),
            retryable: failure.retryable,
        }
    }
}

/// All payments of an invoice, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentPage<'a> {
    /// Oldest first.
    pub payments: Vec<Payment<'a>>,
}
