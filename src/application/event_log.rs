//! Events as the log stores them: CloudEvents 1.0 in JSON, each written once, for log, streams and
//! hash chain together; and read back to fold them.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::{self, Object};
use crate::domain::{
    Aggregate, Amount, Cause, Currency, Event, EventType, Failure, FailureKind, GatewayKey,
    Invoice, InvoiceId, InvoiceStatus, Money, NewInvoice, PaymentId, ResolveAs, StoreId, Timestamp,
};

use super::ports::Pack;

/// Bytes of an event, as most are.
const USUAL_BYTES: usize = 768;

/// An event that has its place in the log, and is not in the chain yet.
#[derive(Debug)]
pub(super) struct Draft {
    /// 1, 2, 3, … in commit order.
    pub(super) sequence: u64,
    /// Its type.
    pub(super) kind: EventType,
    /// The JSON, as it is stored and streamed.
    pub(super) json: String,
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// 1, 2, 3, … in commit order.
    pub sequence: u64,
    /// Its type.
    pub kind: EventType,
    /// The JSON, as it is stored and streamed.
    pub json: String,
    /// What the store keeps in its place, where it has something shorter ([`Store::pack`]).
    ///
    /// [`Store::pack`]: super::ports::Store::pack
    pub packed: Option<Vec<u8>>,
    /// The digest of the chain up to and including it.
    pub digest: [u8; 32],
}

/// The digest before the first event.
#[must_use]
pub fn first_digest(store: StoreId) -> [u8; 32] {
    Sha256::digest(format!("payd log of {store}").as_bytes()).into()
}

/// The digest after an event: SHA-256 over the digest before and the event's own bytes.
#[must_use]
pub fn chain(before: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(before)
        .chain_update(bytes)
        .finalize()
        .into()
}

/// What an event carries besides the fact.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    /// The source of events.
    pub source: StoreId,
    /// Who caused it: `uid:1000`, or payd itself.
    pub actor: &'a str,
    /// W3C trace context.
    pub traceparent: Option<&'a str>,
    /// When it is committed.
    pub at: Timestamp,
}

impl Draft {
    /// Writes an event. `state` is the invoice with the event folded in.
    pub(super) fn write(
        sequence: u64,
        origin: Origin<'_>,
        event: &Event,
        state: &Aggregate,
    ) -> Self {
        Self {
            sequence,
            kind: event.kind(),
            json: write(sequence, &origin, event, state),
        }
    }

    /// Links it to the event before it, which has this digest.
    pub(super) fn seal(self, before: &[u8; 32], pack: Pack) -> EventRecord {
        EventRecord {
            sequence: self.sequence,
            kind: self.kind,
            packed: pack(&self.json),
            digest: chain(before, self.json.as_bytes()),
            json: self.json,
        }
    }
}

/// The envelope, and in it the data. What only `payd verify` needs to fold it stands at the end.
fn write(sequence: u64, origin: &Origin<'_>, event: &Event, state: &Aggregate) -> String {
    let mut json = String::with_capacity(USUAL_BYTES);
    let mut envelope = Object::begin(&mut json);
    envelope
        .text("specversion", "1.0")
        .text("id", itoa::Buffer::new().format(sequence))
        .shown("source", format_args!("/payd/{}", origin.source))
        .text("type", event.kind().as_str())
        .text("subject", state.invoice.id().as_str())
        .shown("time", origin.at)
        .text("datacontenttype", "application/json");
    if let Some(traceparent) = origin.traceparent {
        envelope.text("traceparent", traceparent);
    }
    envelope.text("actor", origin.actor);
    let mut data = envelope.object("data");
    write_data(&mut data, event, state);
    data.end();
    envelope.end();
    json
}

fn write_data(data: &mut Object<'_>, event: &Event, state: &Aggregate) {
    let invoice = &state.invoice;
    let money = &invoice.content.money;
    data.text("invoice_id", invoice.id().as_str())
        .text("invoice_status", invoice.status.as_str());
    if let Some(payment) = event.payment() {
        data.shown("payment_id", payment);
        match state.payment(payment) {
            Some(payment) => data.number("attempt", payment.attempt.into()),
            None => data.null("attempt"),
        };
        data.number("amount", money.amount.minor_units())
            .text("currency", money.currency.code());
    }
    match event {
        Event::InvoiceCreated(created) => {
            api::Invoice::write(data, created, None);
        }
        Event::PaymentRequested {
            key,
            method,
            due_at,
            cause,
            ..
        } => {
            data.shown("due_at", due_at)
                .text("cause", cause.as_str())
                .text_or_null("payment_method", method.as_deref())
                .text("idempotency_key", key.as_str());
        }
        Event::PaymentAccepted {
            gateway,
            reference,
            reason,
            ..
        } => {
            data.text_or_null("reason", reason.as_deref())
                .text("gateway", gateway)
                .text_or_null("gateway_reference", reference.as_deref());
        }
        Event::PaymentUnknown {
            gateway, reason, ..
        }
        | Event::PaymentReviewRequired {
            gateway, reason, ..
        } => {
            data.text("reason", reason).text("gateway", gateway);
        }
        Event::PaymentResolved {
            actor,
            reason,
            resolved_as,
            ..
        } => {
            data.text("actor", actor)
                .text("reason", reason)
                .text("as", resolved_as.as_str());
        }
        Event::PaymentSucceeded {
            gateway, reference, ..
        } => {
            data.text("gateway", gateway)
                .text_or_null("gateway_reference", reference.as_deref());
        }
        Event::PaymentFailed {
            gateway,
            failure,
            next_attempt_at,
            ..
        } => {
            let mut written = data.object("failure");
            api::Failure::write(&mut written, failure);
            written.end();
            data.truth("will_retry", next_attempt_at.is_some())
                .shown_or_null("next_attempt_at", *next_attempt_at)
                .text("gateway", gateway);
        }
        Event::PaymentCanceled { reason, .. }
        | Event::InvoiceCanceled { reason }
        | Event::InvoiceCancelRequested { reason } => {
            data.text_or_null("reason", reason.as_deref());
        }
        Event::PaymentContradicted { evidence, .. } => {
            data.text("evidence", evidence);
        }
        Event::InvoiceAttentionRequired { reason, restored } => {
            data.text("reason", reason);
            // Only where it is so: events of before there were restores are as they were.
            if *restored {
                data.truth("restored", true);
            }
        }
    }
}

/// An event read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Its place in the log.
    pub sequence: u64,
    /// The invoice that it is about.
    pub invoice: InvoiceId,
    /// When it was committed.
    pub at: Timestamp,
    /// The fact.
    pub event: Event,
    /// The invoice's status after it, as the event says.
    pub invoice_status: InvoiceStatus,
}

/// The bytes are not an event of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an event that payd wrote: {0}")]
pub struct DecodeError(String);

/// Reads an event back.
///
/// # Errors
/// Where the bytes are not an event as it comes to the log.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let envelope: api::Event<'_> =
        serde_json::from_slice(bytes).map_err(|error| DecodeError(error.to_string()))?;
    let data: Value = serde_json::from_str(envelope.data.get())
        .map_err(|error| DecodeError(error.to_string()))?;
    let data = Fields(&data);
    let kind = parsed("type", EventType::parse(&envelope.kind))?;
    let at = parsed("time", Timestamp::parse(&envelope.time).ok())?;
    let invoice = data.parse("invoice_id", |it| InvoiceId::parse(it).ok())?;
    let payment = || data.parse("payment_id", |it| PaymentId::parse(it).ok());
    let event = match kind {
        EventType::InvoiceCreated => {
            Event::InvoiceCreated(Box::new(Invoice::new(content(&data, &invoice)?, at)))
        }
        EventType::PaymentRequested => Event::PaymentRequested {
            payment: payment()?,
            attempt: data
                .number("attempt")
                .and_then(|n| parsed("attempt", u32::try_from(n).ok()))?,
            key: key(&data)?,
            method: data.optional("payment_method")?,
            due_at: data.parse("due_at", |it| Timestamp::parse(it).ok())?,
            cause: data.parse("cause", Cause::parse)?,
        },
        EventType::PaymentAccepted => Event::PaymentAccepted {
            payment: payment()?,
            gateway: data.text("gateway")?,
            reference: data.optional("gateway_reference")?,
            reason: data.optional("reason")?,
        },
        EventType::PaymentUnknown => Event::PaymentUnknown {
            payment: payment()?,
            gateway: data.text("gateway")?,
            reason: data.text("reason")?,
        },
        EventType::PaymentReviewRequired => Event::PaymentReviewRequired {
            payment: payment()?,
            gateway: data.text("gateway")?,
            reason: data.text("reason")?,
        },
        EventType::PaymentResolved => Event::PaymentResolved {
            payment: payment()?,
            actor: data.text("actor")?,
            reason: data.text("reason")?,
            resolved_as: data.parse("as", ResolveAs::parse)?,
        },
        EventType::PaymentSucceeded => Event::PaymentSucceeded {
            payment: payment()?,
            gateway: data.text("gateway")?,
            reference: data.optional("gateway_reference")?,
        },
        EventType::PaymentFailed => Event::PaymentFailed {
            payment: payment()?,
            gateway: data.text("gateway")?,
            failure: failure(&data)?,
            next_attempt_at: time(&data, "next_attempt_at")?,
        },
        EventType::PaymentCanceled => Event::PaymentCanceled {
            payment: payment()?,
            reason: data.optional("reason")?,
        },
        EventType::PaymentContradicted => Event::PaymentContradicted {
            payment: payment()?,
            evidence: data.text("evidence")?,
        },
        EventType::InvoiceCancelRequested => Event::InvoiceCancelRequested {
            reason: data.optional("reason")?,
        },
        EventType::InvoiceCanceled => Event::InvoiceCanceled {
            reason: data.optional("reason")?,
        },
        EventType::InvoiceAttentionRequired => Event::InvoiceAttentionRequired {
            reason: data.text("reason")?,
            restored: match data.0.get("restored") {
                None => false,
                Some(said) => parsed("restored", said.as_bool())?,
            },
        },
    };
    Ok(Decoded {
        sequence: parsed("id", envelope.id.parse().ok())?,
        invoice,
        at,
        event,
        invoice_status: data.parse("invoice_status", InvoiceStatus::parse)?,
    })
}

fn content(data: &Fields<'_>, id: &InvoiceId) -> Result<NewInvoice, DecodeError> {
    let amount = data
        .number("amount")
        .and_then(|n| parsed("amount", Amount::new(n).ok()))?;
    let currency = data.parse("currency", |it| Currency::parse(it).ok())?;
    let metadata = data
        .0
        .get("metadata")
        .and_then(|it| serde_json::from_value(it.clone()).ok());
    Ok(NewInvoice {
        id: id.clone(),
        money: Money { amount, currency },
        description: data.optional("description")?,
        metadata: parsed("metadata", metadata)?,
        payment_method: data.optional("payment_method")?,
        due_at: time(data, "due_at")?,
    })
}

fn key(data: &Fields<'_>) -> Result<GatewayKey, DecodeError> {
    data.text("idempotency_key").map(GatewayKey::from_stored)
}

fn failure(data: &Fields<'_>) -> Result<Failure, DecodeError> {
    let failure = Fields(parsed("failure", data.0.get("failure"))?);
    Ok(Failure {
        kind: failure.parse("kind", FailureKind::parse)?,
        code: failure.text("code")?,
        message: failure.optional("message")?,
        retryable: parsed(
            "retryable",
            failure.0.get("retryable").and_then(Value::as_bool),
        )?,
    })
}

fn time(data: &Fields<'_>, name: &str) -> Result<Option<Timestamp>, DecodeError> {
    match data.optional(name)? {
        Some(text) => parsed(name, Timestamp::parse(&text).ok()).map(Some),
        None => Ok(None),
    }
}

fn parsed<T>(name: &str, value: Option<T>) -> Result<T, DecodeError> {
    value.ok_or_else(|| DecodeError(format!("`{name}` is missing or wrong")))
}

/// The fields of a JSON object that payd wrote.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn text(&self, name: &str) -> Result<String, DecodeError> {
        parsed(
            name,
            self.0.get(name).and_then(Value::as_str).map(str::to_owned),
        )
    }

    fn optional(&self, name: &str) -> Result<Option<String>, DecodeError> {
        match self.0.get(name) {
            Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            _ => Err(DecodeError(format!("`{name}` is missing or wrong"))),
        }
    }

    fn number(&self, name: &str) -> Result<u64, DecodeError> {
        parsed(name, self.0.get(name).and_then(Value::as_u64))
    }

    fn parse<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, DecodeError> {
        parsed(
            name,
            self.0.get(name).and_then(Value::as_str).and_then(parse),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// The figures are from another implementation: `printf … | sha256sum`.
    #[test]
    fn the_chain_is_sha_256_over_the_digest_before_and_the_bytes() {
        let store = StoreId::from_uuid(uuid::Uuid::from_u128(7));
        let first = first_digest(store);
        assert_eq!(
            hex(&first),
            "c6f71444bb6ae3765e464ba76c6920b7c9c38bff827fe469335d90c308419469"
        );
        let second = chain(&first, b"{}");
        assert_eq!(
            hex(&second),
            "c9805ce1aa863e1561f5aad7afc7d07b7c61d7d8fba5ac8c922ff1dcbadde201"
        );
        assert_ne!(
            chain(&second, b"{}"),
            second,
            "the digest before is part of it"
        );
    }
}
