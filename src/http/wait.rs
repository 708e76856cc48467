//! `Prefer: wait=N` on `pay`: the answer is held until the invoice is decided or the time is up. It
//! never changes what is kept under an idempotency key: that is the answer before any waiting.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderName;
use axum::http::header::HeaderValue;
use axum::response::Response;
use tokio::time::Instant;

use super::call::Call;
use super::headers::Media;
use super::idempotency::{Given, told};
use super::payments::location;
use super::problem::Reject;
use crate::api::Payment;
use crate::application::Bell;
use crate::application::ports::PaymentRecord;
use crate::domain::{InvoiceId, InvoiceStatus, PaymentId};

/// RFC 7240, section 3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The status of an answer that says that a payment was requested just now.
const ACCEPTED: u16 = 202;

/// How often a replay looks at its own payment, which may be decided while the invoice is not: a
/// retry that follows it rings no bell.
const REPLAY_LOOK: Duration = Duration::from_secs(1);

/// What waiting came to.
enum Heard {
    /// The bell: this is how it ended, if it says so.
    Ring(Option<Arc<PaymentRecord>>),
    /// There is nothing more to wait for: the time is up, or payd drains.
    Enough,
}

/// Waits for a ring, until the deadline, or until payd drains.
async fn listen(bell: &mut Bell, call: &Call, deadline: Instant) -> Heard {
    tokio::select! {
        biased;
        payment = bell.ring() => Heard::Ring(payment),
        () = call.shared.shutdown.cancelled() => Heard::Enough,
        () = tokio::time::sleep_until(deadline) => Heard::Enough,
    }
}

/// Holds the answer to `pay`. The bell was made before the payment was asked for.
pub(super) async fn answer(
    call: &Call,
    invoice: &InvoiceId,
    bell: Bell,
    given: Given,
    seconds: u64,
) -> Result<Response, Reject> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (record, decided) = if given.replayed {
        let first: Payment<'_> = serde_json::from_slice(&given.answer.body)
            .map_err(|error| Reject::internal(format!("a kept answer cannot be read: {error}")))?;
        let id = PaymentId::parse(&first.id)
            .map_err(|error| Reject::internal(format!("a kept answer cannot be read: {error}")))?;
        same_payment(call, bell, id, deadline).await?
    } else {
        let fresh = given.answer.status == ACCEPTED;
        latest_payment(call, invoice, bell, deadline, fresh).await?
    };
    let json = Payment::json(&record.invoice, &record.payment);
    let answer = if decided {
        told(200, None, json)
    } else {
        told(202, Some(location(record.payment.id)), json)
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
    mut bell: Bell,
    deadline: Instant,
    fresh: bool,
) -> Result<(Arc<PaymentRecord>, bool), Reject> {
    // What this very request has asked for is being sent: there is nothing to see before it rings.
    let mut look = !fresh;
    let mut more = true;
    loop {
        if !look {
            match listen(&mut bell, call, deadline).await {
                // As it was committed: the tables say the same, until something else happens.
                Heard::Ring(Some(ended)) => {
                    let decided = !ended.payment.state.is_open();
                    return Ok((ended, decided));
                }
                Heard::Ring(None) => {}
                Heard::Enough => more = false,
            }
        }
        look = false;
        let id = invoice.clone();
        let read = call.read(move |reader| reader.latest_payment(&id));
        let (status, latest) = read
            .await?
            .ok_or_else(|| Reject::internal("a paid invoice has no payment"))?;
        let left = status != InvoiceStatus::Processing;
        if left || !more {
            let decided = left && !latest.payment.state.is_open();
            return Ok((Arc::new(latest), decided));
        }
    }
}

/// Waits until that very payment is decided.
async fn same_payment(
    call: &Call,
    mut bell: Bell,
    id: PaymentId,
    deadline: Instant,
) -> Result<(Arc<PaymentRecord>, bool), Reject> {
    let mut last_look = false;
    loop {
        let record = call.read(move |reader| reader.payment(id)).await?;
        let record = record.ok_or_else(|| Reject::internal("a kept answer's payment is gone"))?;
        let decided = !record.payment.state.is_open();
        if decided || last_look {
            return Ok((Arc::new(record), decided));
        }
        let next_look = deadline.min(Instant::now() + REPLAY_LOOK);
        let heard = listen(&mut bell, call, next_look).await;
        last_look = matches!(heard, Heard::Enough)
            && (next_look == deadline || call.shared.shutdown.is_cancelled());
    }
}
