//! Rows to domain types and back. A row that cannot be read is a typed error: its invoice is set
//! aside, and the others go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::Row;

use crate::api;
use crate::application::ports::StoreError;
use crate::domain::{
    Amount, Currency, EventType, Failure, FailureKind, GatewayKey, Invoice, InvoiceId,
    InvoiceStatus, Money, NewInvoice, Payment, PaymentId, PaymentState, Timestamp, Working,
};

use super::error::sort;

/// The columns that [`invoice`] reads.
macro_rules! invoice_columns {
    () => {
        "i.n, i.id, i.amount, i.currency, i.description, i.metadata, i.payment_method, i.due_at, i.status, i.attempts, \
         i.attempts_before_round, i.needs_attention, i.cancel_requested, i.cancel_reason, i.created_at, i.updated_at, i.paid_at, i.contradicted_attempt"
    };
}
pub(super) use invoice_columns;

/// How many they are.
pub(super) const INVOICE_WIDTH: usize = 18;

/// The columns that [`payment`] reads.
macro_rules! payment_columns {
    () => {
        "p.id, p.attempt, p.idempotency_key, p.method, p.state, p.gateway, p.gateway_reference, p.failure, p.requested_at, \
         p.due_at, p.sent_at, p.finished_at, p.resends, p.contradicted, p.traceparent, p.epoch, p.lease_until, p.open_since, \
         p.lookups, p.next_lookup_at, p.restored"
    };
}
pub(super) use payment_columns;

/// The payment `p` whose id is the first parameter, with its invoice `i`: what follows the columns. The newest are
/// not in the index yet (late.rs), and those are looked through first; then each run is asked, the newest first.
macro_rules! from_payment_by_id {
    () => {
        " FROM (SELECT n FROM payments WHERE n > (SELECT until FROM late WHERE name = 'payment_ids') AND id = ?1 \
         UNION ALL SELECT d.payment FROM (WITH RECURSIVE runs (run) AS ( \
             SELECT until >> 14 FROM late WHERE name = 'payment_ids' UNION ALL SELECT run - 1 FROM runs WHERE run > 0) \
           SELECT run FROM runs) r CROSS JOIN payment_ids d ON d.run = r.run AND d.id = ?1 LIMIT 1) f \
         CROSS JOIN payments p ON p.n = f.n CROSS JOIN invoices i ON i.n = p.invoice"
    };
}
pub(super) use from_payment_by_id;

/// Reads an invoice from the first columns of a row; with its own key.
pub(super) fn invoice(row: &Row<'_>) -> Result<(i64, Invoice), StoreError> {
    let read = Read(row);
    let metadata: BTreeMap<String, String> = serde_json::from_str(&read.text(5)?)
        .map_err(|error| StoreError::BadRow(format!("invoices.metadata: {error}")))?;
    let amount = read.parse(2, "amount", |it: i64| {
        u64::try_from(it).ok().and_then(|it| Amount::new(it).ok())
    })?;
    let currency = read.parse(3, "currency", |it: String| Currency::parse(&it).ok())?;
    let invoice = Invoice {
        content: Arc::new(NewInvoice {
            id: read.parse(1, "id", |it: String| InvoiceId::parse(&it).ok())?,
            money: Money { amount, currency },
            description: read.get(4)?,
            metadata,
            payment_method: read.get(6)?,
            due_at: read.time_or_none(7)?,
        }),
        status: read.parse(8, "status", |it: i64| {
            InvoiceStatus::ALL
                .get(usize::from(u8::try_from(it).ok()?))
                .copied()
        })?,
        attempts: read.get(9)?,
        attempts_before_round: read.get(10)?,
        needs_attention: read.get(11)?,
        cancel_requested: read.get(12)?,
        cancel_reason: read.get(13)?,
        created_at: read.time(14)?,
        updated_at: read.time(15)?,
        paid_at: read.time_or_none(16)?,
        contradicted_attempt: read.get(17)?,
    };
    Ok((read.get(0)?, invoice))
}

/// Reads a payment from the columns that start at `first`.
pub(super) fn payment(row: &Row<'_>, first: usize) -> Result<Payment, StoreError> {
    let read = Read(row);
    Ok(Payment {
        id: PaymentId::from_bytes(read.get(first)?),
        attempt: read.get(first + 1)?,
        key: GatewayKey::from_stored(read.text(first + 2)?),
        method: read.get(first + 3)?,
        state: read.parse(first + 4, "state", |it: i64| {
            PaymentState::ALL
                .get(usize::from(u8::try_from(it).ok()?))
                .copied()
        })?,
        gateway: read.get(first + 5)?,
        gateway_reference: read.get(first + 6)?,
        failure: read
            .get::<Option<String>>(first + 7)?
            .map(|json| failure(&json))
            .transpose()?,
        requested_at: read.time(first + 8)?,
        due_at: read.time(first + 9)?,
        sent_at: read.time_or_none(first + 10)?,
        finished_at: read.time_or_none(first + 11)?,
        resends: read.get(first + 12)?,
        contradicted: read.get(first + 13)?,
        restored: read.get(first + 20)?,
        traceparent: read.get(first + 14)?,
        work: Working {
            epoch: read.get(first + 15)?,
            lease_until: read.time_or_none(first + 16)?,
            open_since: read.time_or_none(first + 17)?,
            lookups: read.get(first + 18)?,
            next_lookup_at: read.time_or_none(first + 19)?,
        },
    })
}

/// A failure as it is stored: as the API shows it.
pub(super) fn failure_json(failure: &Failure) -> String {
    serde_json::to_string(&api::Failure::of(failure)).expect("a failure is always JSON")
}

fn failure(json: &str) -> Result<Failure, StoreError> {
    let bad = |why: String| StoreError::BadRow(format!("payments.failure: {why}"));
    let view: api::Failure<'_> =
        serde_json::from_str(json).map_err(|error| bad(error.to_string()))?;
    Ok(Failure {
        kind: FailureKind::parse(&view.kind).ok_or_else(|| bad(format!("kind {}", view.kind)))?,
        code: view.code.into_owned(),
        message: view.message.map(std::borrow::Cow::into_owned),
        retryable: view.retryable,
    })
}

/// The code under which a status is stored.
pub(super) fn status_code(status: InvoiceStatus) -> i64 {
    code(&InvoiceStatus::ALL, &status)
}

/// The code under which a state is stored.
pub(super) fn state_code(state: PaymentState) -> i64 {
    code(&PaymentState::ALL, &state)
}

/// The code under which a type is stored.
pub(super) fn type_code(kind: EventType) -> i64 {
    code(EventType::ALL, &kind)
}

/// The type that is stored under a code.
pub(super) fn type_of(code: i64) -> Option<EventType> {
    usize::try_from(code)
        .ok()
        .and_then(|code| EventType::ALL.get(code))
        .copied()
}

fn code<T: PartialEq>(all: &[T], it: &T) -> i64 {
    // `ALL` has every variant.
    all.iter()
        .zip(0..)
        .find(|(other, _)| *other == it)
        .map_or(-1, |(_, code)| code)
}

/// Reads columns, with errors that name them.
struct Read<'a, 'r>(&'a Row<'r>);

impl Read<'_, '_> {
    fn get<T: rusqlite::types::FromSql>(&self, column: usize) -> Result<T, StoreError> {
        self.0.get(column).map_err(sort)
    }

    fn text(&self, column: usize) -> Result<String, StoreError> {
        self.get(column)
    }

    fn time(&self, column: usize) -> Result<Timestamp, StoreError> {
        self.get(column).map(Timestamp::from_millis)
    }

    fn time_or_none(&self, column: usize) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.get::<Option<i64>>(column)?.map(Timestamp::from_millis))
    }

    fn parse<R: rusqlite::types::FromSql, T>(
        &self,
        column: usize,
        name: &str,
        parse: impl FnOnce(R) -> Option<T>,
    ) -> Result<T, StoreError> {
        parse(self.get(column)?).ok_or_else(|| {
            StoreError::BadRow(format!("`{name}` has a value that payd never writes"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes are in every database: a variant may be added at an end, never moved.
    #[test]
    fn stored_codes_do_not_move() {
        let statuses = InvoiceStatus::ALL
            .map(|it| format!("{}={}", status_code(it), it.as_str()))
            .join(" ");
        assert_eq!(
            statuses,
            "0=PENDING 1=PROCESSING 2=PAID 3=FAILED 4=CANCELED"
        );
        let states = PaymentState::ALL
            .map(|it| format!("{}={}", state_code(it), it.as_str()))
            .join(" ");
        assert_eq!(
            states,
            "0=REQUESTED 1=SENDING 2=ACCEPTED 3=UNKNOWN 4=REVIEW 5=SUCCEEDED 6=FAILED 7=CANCELED"
        );
        let types: Vec<_> = EventType::ALL
            .iter()
            .map(|it| format!("{}={}", type_code(*it), it.as_str()))
            .collect();
        assert_eq!(
            types.join(" "),
            "0=InvoiceCreated 1=PaymentRequested 2=PaymentAccepted 3=PaymentUnknown 4=PaymentReviewRequired \
             5=PaymentResolved 6=PaymentSucceeded 7=PaymentFailed 8=PaymentCanceled 9=PaymentContradicted \
             10=InvoiceCancelRequested 11=InvoiceCanceled 12=InvoiceAttentionRequired"
        );
    }
}
