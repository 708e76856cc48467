//! An invoice as the API shows it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{self, Timestamp};

/// An invoice: a business obligation to be paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice<'a> {
    /// The client's id, or one made by payd.
    pub id: Cow<'a, str>,
    /// Minor units of `currency`.
    pub amount: u64,
    /// ISO 4217 code.
    pub currency: Cow<'a, str>,
    /// `PENDING`, `PROCESSING`, `PAID`, `FAILED` or `CANCELED`.
    pub status: Cow<'a, str>,
    /// What it is for.
    pub description: Option<Cow<'a, str>>,
    /// The client's own keys and values.
    pub metadata: Cow<'a, BTreeMap<String, String>>,
    /// The payment method that `pay` uses unless it names another.
    pub payment_method: Option<Cow<'a, str>>,
    /// When the business wants it paid. RFC 3339; payd only keeps it.
    pub due_at: Option<Cow<'a, str>>,
    /// Payments made for it so far.
    pub attempts: u32,
    /// An operator should look at it.
    pub needs_attention: bool,
    /// A cancel waits for the outcome of a payment that may have been sent.
    pub cancel_requested: bool,
    /// When the payment that waits will be sent. RFC 3339.
    pub next_attempt_at: Option<Cow<'a, str>>,
    /// RFC 3339.
    pub created_at: Cow<'a, str>,
    /// RFC 3339.
    pub updated_at: Cow<'a, str>,
    /// RFC 3339.
    pub paid_at: Option<Cow<'a, str>>,
}

impl<'a> Invoice<'a> {
    /// The view of an invoice. `next_attempt_at` comes from its latest payment.
    #[must_use]
    pub fn of(invoice: &'a domain::Invoice, next_attempt_at: Option<Timestamp>) -> Self {
        let content = &invoice.content;
        let text = |time: Timestamp| Cow::Owned(time.to_string());
        Self {
            id: content.id.as_str().into(),
            amount: content.money.amount.minor_units(),
            currency: content.money.currency.code().into(),
            status: invoice.status.as_str().into(),
            description: content.description.as_deref().map(Cow::Borrowed),
            metadata: Cow::Borrowed(&content.metadata),
            payment_method: content.payment_method.as_deref().map(Cow::Borrowed),
            due_at: content.due_at.map(text),
            attempts: invoice.attempts,
            needs_attention: invoice.needs_attention,
            cancel_requested: invoice.cancel_requested,
            next_attempt_at: next_attempt_at.map(text),
            created_at: text(invoice.created_at),
            updated_at: text(invoice.updated_at),
            paid_at: invoice.paid_at.map(text),
        }
    }
}

/// A page of invoices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoicePage<'a> {
    /// The invoices, newest first unless asked otherwise.
    pub invoices: Vec<Invoice<'a>>,
    /// The cursor of the next page; `None` on the last.
    pub next: Option<Cow<'a, str>>,
}
