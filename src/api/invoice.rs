//! An invoice as the API shows it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Object;
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

    /// The view of an invoice as JSON: what serde makes of [`Invoice::of`], written at once.
    #[must_use]
    pub fn json(invoice: &domain::Invoice, next_attempt_at: Option<Timestamp>) -> String {
        let mut json = String::with_capacity(JSON_LEN);
        let mut object = Object::begin(&mut json);
        Self::write(&mut object, invoice, next_attempt_at);
        object.end();
        json
    }

    /// Its members, into an object that may have others.
    pub fn write(
        object: &mut Object<'_>,
        invoice: &domain::Invoice,
        next_attempt_at: Option<Timestamp>,
    ) {
        let content = &invoice.content;
        object
            .text("id", content.id.as_str())
            .number("amount", content.money.amount.minor_units())
            .text("currency", content.money.currency.code())
            .text("status", invoice.status.as_str())
            .text_or_null("description", content.description.as_deref())
            .texts("metadata", &content.metadata)
            .text_or_null("payment_method", content.payment_method.as_deref())
            .shown_or_null("due_at", content.due_at)
            .number("attempts", invoice.attempts.into())
            .truth("needs_attention", invoice.needs_attention)
            .truth("cancel_requested", invoice.cancel_requested)
            .shown_or_null("next_attempt_at", next_attempt_at)
            .shown("created_at", invoice.created_at)
            .shown("updated_at", invoice.updated_at)
            .shown_or_null("paid_at", invoice.paid_at);
    }
}

/// Room for most invoices.
const JSON_LEN: usize = 512;

/// A page of invoices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoicePage<'a> {
    /// The invoices, newest first unless asked otherwise.
    pub invoices: Vec<Invoice<'a>>,
    /// The cursor of the next page; `None` on the last.
    pub next: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{Amount, Currency, InvoiceId, InvoiceStatus, Money, NewInvoice};

    #[test]
    fn it_is_written_as_serde_writes_it() {
        let time = Timestamp::from_millis;
        let content = NewInvoice {
            id: InvoiceId::parse("inv-1").unwrap(),
            money: Money {
                amount: Amount::new(1000).unwrap(),
                currency: Currency::DEFAULT,
            },
            description: None,
            metadata: BTreeMap::new(),
            payment_method: None,
            due_at: None,
        };
        let bare = domain::Invoice::new(content.clone(), time(1));
        let full = domain::Invoice {
            content: Arc::new(NewInvoice {
                description: Some("a \"line\"\nand {".to_owned()),
                metadata: [
                    ("{".to_owned(), "\\".to_owned()),
                    ("ä".to_owned(), String::new()),
                ]
                .into(),
                payment_method: Some("pm\u{7f}".to_owned()),
                due_at: Some(time(2)),
                ..content
            }),
            attempts: 3,
            needs_attention: true,
            cancel_requested: true,
            paid_at: Some(time(4)),
            ..bare.clone()
        };
        for invoice in [bare, full] {
            for status in InvoiceStatus::ALL {
                let invoice = domain::Invoice {
                    status,
                    ..invoice.clone()
                };
                for next in [None, Some(time(5))] {
                    let view = serde_json::to_string(&Invoice::of(&invoice, next)).unwrap();
                    assert_eq!(Invoice::json(&invoice, next), view);
                }
            }
        }
    }
}
