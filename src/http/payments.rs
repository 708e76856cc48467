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
