//! A payment as the API shows it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

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

/// All payments of an invoice, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentPage<'a> {
    /// Oldest first.
    pub payments: Vec<Payment<'a>>,
}
