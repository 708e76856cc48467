//! Payments: pay an invoice, list its payments, show one, resolve one by an operator's word.

use axum::response::Response;

use super::call::Call;
use super::headers::Media;
use super::idempotency::{self, refused, submit, told};
use super::problem::{Reject, both};
use super::reply::{json, json_bytes};
use super::{parse, wait};
use crate::api::{Payment, PaymentPage};
use crate::application::ports::PaymentRecord;
use crate::application::request::{Action, Answer, Reply};
use crate::domain::{Command, PaymentId, Refusal};

/// `POST /invoices/{id}/pay`.
pub(super) async fn pay(mut call: Call) -> Result<Response, Reject> {
    let id = call.invoice_id()?;
    let read = call.body(&[Media::Json]).await?;
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    let (((), key), command) = both(said, parse::pay(&read.bytes))?;
    let action = Action::OnInvoice(id.clone(), command);
    let wait = call.wait;
    // Made before the payment is requested, so that whatever is decided after that rings it.
    let bell = wait.map(|_| call.app().bus().bell(&id));
    let given = submit(
        &call,
        (key, read.media, &read.bytes),
        action,
        |result| match result {
            Ok(Reply::Payment { payment, fresh }) => paid(payment, *fresh),
            Ok(_) => refused(Refusal::NothingToDo),
            Err(refusal) => refused(*refusal),
        },
    );
    let given = given.await?;
    match wait.zip(bell) {
        Some((seconds, bell)) if given.answer.status < 300 => {
            wait::answer(&call, &id, bell, given, seconds).await
        }
        _ => Ok(given.into_response(Media::Json)),
    }
}

fn paid(view: &PaymentRecord, fresh: bool) -> Answer {
    let json = Payment::json(&view.invoice, &view.payment);
    if fresh {
        told(202, Some(location(view.payment.id)), json)
    } else {
        told(200, None, json)
    }
}

/// Where a payment is.
pub(super) fn location(payment: PaymentId) -> String {
    format!("/payments/{payment}")
}

/// `GET /invoices/{id}/payments`.
pub(super) async fn list(call: Call) -> Result<Response, Reject> {
    let id = call.invoice_id()?;
    call.no_query()?;
    let records = call.read(move |reader| reader.payments(&id)).await?;
    let records = records.ok_or_else(Reject::no_invoice)?;
    let payments = records
        .iter()
        .map(|it| Payment::of(&it.invoice, &it.payment));
    Ok(json(&PaymentPage {
        payments: payments.collect(),
    }))
}

/// `GET /payments/{id}`.
pub(super) async fn show(call: Call) -> Result<Response, Reject> {
    let id = call.payment_id()?;
    call.no_query()?;
    let record = call.read(move |reader| reader.payment(id)).await?;
    let record = record.ok_or_else(Reject::no_payment)?;
    let json = Payment::json(&record.invoice, &record.payment);
    Ok(json_bytes(json))
}

/// `POST /payments/{id}/resolve`.
pub(super) async fn resolve(mut call: Call) -> Result<Response, Reject> {
    let id = call.payment_id()?;
    let read = call.body(&[Media::Json]).await?;
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    let (((), key), resolution) = both(said, parse::resolve(&read.bytes))?;
    let command = Command::Resolve {
        payment: id,
        resolve_as: resolution.resolve_as,
        reason: resolution.reason,
        reference: resolution.reference,
        actor: call.caller.actor.to_string(),
    };
    let action = Action::OnPayment(id, None, command);
    let given = submit(
        &call,
        (key, read.media, &read.bytes),
        action,
        |result| match result {
            Ok(Reply::Payment { payment, .. }) => {
                told(200, None, Payment::json(&payment.invoice, &payment.payment))
            }
            Ok(_) => refused(Refusal::NothingToDo),
            Err(refusal) => refused(*refusal),
        },
    );
    Ok(given.await?.into_response(Media::Json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Amount, Currency, InvoiceId, Money, NewInvoice, Payment as Standing, StoreId, Timestamp,
        names,
    };

    /// As for invoices: kept answers are written anew, and have to be these bytes.
    #[test]
    fn a_requested_payment_is_told_of_in_these_bytes() {
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
        let at = Timestamp::from_millis(1_767_323_045_678);
        let payment = Standing::requested((id, 1, key), Some("pm".to_owned()), at, at);
        let view = PaymentRecord {
            invoice: invoice.into(),
            payment,
        };
        let answer = paid(&view, true);
        assert_eq!(
            (answer.status, answer.location),
            (202, Some(format!("/payments/{id}")))
        );
        let body = String::from_utf8(answer.body).unwrap();
        assert_eq!(
            body,
            r#"{"id":"pay_00000000-0000-732d-b77c-d67d8ec91bc2","invoice_id":"inv-1","attempt":1,"amount":1000,"currency":"USD","status":"REQUESTED","gateway":null,"gateway_reference":null,"idempotency_key":"payd_a143bbe8a121a27acd93e0704dab542114d05a7b","failure":null,"requested_at":"2026-01-02T03:04:05.678Z","due_at":"2026-01-02T03:04:05.678Z","sent_at":null,"finished_at":null}"#
        );
    }
}
