//! A payment as the API shows it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Object;
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

    /// The view of a payment as JSON: what serde makes of [`Payment::of`], written at once.
    #[must_use]
    pub fn json(invoice: &domain::NewInvoice, payment: &domain::Payment) -> String {
        let mut json = String::with_capacity(JSON_LEN);
        let mut object = Object::begin(&mut json);
        object
            .shown("id", payment.id)
            .text("invoice_id", invoice.id.as_str())
            .number("attempt", payment.attempt.into())
            .number("amount", invoice.money.amount.minor_units())
            .text("currency", invoice.money.currency.code())
            .text("status", payment.state.as_str())
            .text_or_null("gateway", payment.gateway.as_deref())
            .text_or_null("gateway_reference", payment.gateway_reference.as_deref())
            .text("idempotency_key", payment.key.as_str());
        match &payment.failure {
            None => {
                object.null("failure");
            }
            Some(failure) => {
                let mut inner = object.object("failure");
                Failure::write(&mut inner, failure);
                inner.end();
            }
        }
        object
            .shown("requested_at", payment.requested_at)
            .shown("due_at", payment.due_at)
            .shown_or_null("sent_at", payment.sent_at)
            .shown_or_null("finished_at", payment.finished_at);
        object.end();
        json
    }
}

/// Room for most payments.
const JSON_LEN: usize = 512;

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

    /// Its members, into an object.
    pub fn write(object: &mut Object<'_>, failure: &domain::Failure) {
        object
            .text("kind", failure.kind.as_str())
            .text("code", &failure.code)
            .text_or_null("message", failure.message.as_deref())
            .truth("retryable", failure.retryable);
    }
}

/// All payments of an invoice, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentPage<'a> {
    /// Oldest first.
    pub payments: Vec<Payment<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Amount, Currency, FailureKind, InvoiceId, Money, NewInvoice, PaymentState, StoreId, names,
    };

    #[test]
    fn it_is_written_as_serde_writes_it() {
        let invoice = NewInvoice {
            id: InvoiceId::parse("inv-1").unwrap(),
            money: Money {
                amount: Amount::new(1000).unwrap(),
                currency: Currency::DEFAULT,
            },
            description: None,
            metadata: std::collections::BTreeMap::new(),
            payment_method: None,
            due_at: None,
        };
        let store = StoreId::from_uuid(uuid::Uuid::from_u128(7));
        let (id, key) = names(store, &invoice.id, 1, invoice.money);
        let bare = domain::Payment {
            id,
            attempt: 1,
            key,
            method: None,
            state: PaymentState::Requested,
            gateway: None,
            gateway_reference: None,
            failure: None,
            requested_at: Timestamp::from_millis(1),
            due_at: Timestamp::from_millis(2),
            sent_at: None,
            finished_at: None,
            resends: 0,
            contradicted: false,
            restored: false,
            traceparent: None,
            work: domain::Working::default(),
        };
        let failure = |message: Option<&str>| domain::Failure {
            kind: FailureKind::Declined,
            code: "a \"code\"".to_owned(),
            message: message.map(str::to_owned),
            retryable: message.is_some(),
        };
        let full = domain::Payment {
            attempt: u32::MAX,
            gateway: Some("g\\".to_owned()),
            gateway_reference: Some("r\u{1}ä".to_owned()),
            failure: Some(failure(Some("line\nline"))),
            sent_at: Some(Timestamp::from_millis(3)),
            finished_at: Some(Timestamp::from_millis(4)),
            ..bare.clone()
        };
        let failed = domain::Payment {
            failure: Some(failure(None)),
            ..bare.clone()
        };
        for payment in [bare, full, failed] {
            for state in PaymentState::ALL {
                let payment = domain::Payment {
                    state,
                    ..payment.clone()
                };
                let view = serde_json::to_string(&Payment::of(&invoice, &payment)).unwrap();
                assert_eq!(Payment::json(&invoice, &payment), view);
            }
        }
    }
}
