//! `Prefer: wait=N` on `pay`: the answer is held until the invoice is decided or the time is up. It
//! never changes what is kept under an idempotency key: that is the answer before any waiting.

use std::time::Duration;

use axum::http::HeaderName;
use axum::http::header::HeaderValue;
use axum::response::Response;
use tokio::time::Instant;

use super::call::Call;
use super::headers::Media;
use super::idempotency::{Given, written};
use super::payments::location;
use super::problem::Reject;
use crate::api::Payment;
use crate::application::ports::{PaymentRecord, StoreError};
use crate::domain::{InvoiceId, InvoiceStatus, PaymentId};

/// RFC 7240, section 3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// How often a replay looks at its own payment, which may be decided while the invoice is not: a
/// retry that follows it rings no bell.
const REPLAY_LOOK: Duration = Duration::from_secs(1);

/// Holds the answer to `pay`.
pub(super) async fn answer(
    call: &Call,
    invoice: &InvoiceId,
    given: Given,
    seconds: u64,
) -> Result<Response, Reject> {
    let limit = Duration::from_secs(seconds);
    let (record, decided) = if given.replayed {
        let first: Payment<'_> = serde_json::from_slice(&given.answer.body)
            .map_err(|error| Reject::internal(format!("a kept answer cannot be read: {error}")))?;
        let id = PaymentId::parse(&first.id)
            .map_err(|error| Reject::internal(format!("a kept answer cannot be read: {error}")))?;
        same_payment(call, invoice, id, limit).await?
    } else {
        latest_payment(call, invoice, limit).await?
    };
    let payment = Payment::of(&record.invoice, &record.payment);
    let answer = if decided {
        written(200, None, &payment)
    } else {
        written(202, Some(location(&payment)), &payment)
    };
    let replayed = given.replayed;
    let mut response = Given { answer, replayed }.into_response(Media::Json);
    if let Ok(applied) = HeaderValue::from_str(&format!("wait={seconds}")) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// Waits until the invoice has left PROCESSING, and gives its latest payment and whether that is
/// decided.
async fn latest_payment(
    call: &Call,
    invoice: &InvoiceId,
    limit: Duration,
) -> Result<(PaymentRecord, bool), Reject> {
    settled(call, invoice, limit).await?;
    let id = invoice.clone();
    let read = call.app().read(move |reader| {
        let standing = reader.invoice(&id)?;
        Ok((standing, reader.payments(&id)?))
    });
    let (standing, payments) = read.await?;
    let latest = payments.and_then(|mut payments| payments.pop());
    let latest = latest.ok_or_else(|| Reject::internal("a paid invoice has no payment"))?;
    let left = standing.is_some_and(|it| it.invoice.status != InvoiceStatus::Processing);
    // Both: another round may have begun between the two reads.
    let decided = left && !latest.payment.state.is_open();
    Ok((latest, decided))
}

/// Waits until that very payment is decided.
async fn same_payment(
    call: &Call,
    invoice: &InvoiceId,
    id: PaymentId,
    limit: Duration,
) -> Result<(PaymentRecord, bool), Reject> {
    let deadline = Instant::now() + limit;
    let mut last_look = false;
    loop {
        let record = call.app().read(move |reader| reader.payment(id)).await?;
        let record = record.ok_or_else(|| Reject::internal("a kept answer's payment is gone"))?;
        let decided = !record.payment.state.is_open();
        let left = deadline.saturating_duration_since(Instant::now());
        if decided || last_look || left.is_zero() || call.shared.shutdown.is_cancelled() {
            return Ok((record, decided));
        }
        // What the invoice has left PROCESSING with is there on the next look.
        last_look = settled(call, invoice, left.min(REPLAY_LOOK)).await?;
    }
}

/// Waits until the invoice has left PROCESSING, the time is up or payd drains. Says whether it has.
async fn settled(call: &Call, invoice: &InvoiceId, limit: Duration) -> Result<bool, StoreError> {
    tokio::select! {
        biased;
        record = call.app().wait_until_settled(invoice, limit) => {
            let status = record?.map(|it| it.invoice.status);
            Ok(status != Some(InvoiceStatus::Processing))
        }
        () = call.shared.shutdown.cancelled() => Ok(false),
    }
}
