//! The one writer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::application::ports::{Expected, Head, Queue, Restored, Store, StoreError, StoreInfo};
use crate::application::request::{Answer, AnswerName, Kept, StoredAnswer};
use crate::application::{
    Entry, EventRecord, Token, chain, decode, first_digest, is_what_its_events_say,
};
use crate::domain::{
    Aggregate, Invoice, InvoiceId, InvoiceStatus, Payment, PaymentId, PaymentState, StoreId,
    Timestamp,
};

use super::ahead::{Ahead, Look};
use super::answer_keys::AnswerKeys;
use super::checkpoint::Checkpointer;
use super::error::{sort, sort_row};
use super::invoice_events;
use super::invoice_ids::{InvoiceIds, Places, gone, id_hash, unlike};
use super::late::Late;
use super::mark::{Mark, Position};
use super::open::OpenError;
use super::packed;
use super::reader::{Idle, SqliteReader};
use super::room;
use super::rows::{
    self, INVOICE_WIDTH, failure_json, from_payment_by_id, invoice_columns, payment_columns,
    state_code, status_code, type_code,
};
use super::runs::Trouble;
use super::spare;
use super::together::{AnswerRow, EventRow, InvoiceRow, Waiting};
use super::{tokens, wal_writes};

/// Answers are kept for 30 days (section 4), counted in time lived.
const ANSWER_AGE_MAX_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// A payment that is new.
const INSERT_PAYMENT: &str = "INSERT INTO payments (id, invoice, attempt, idempotency_key, method, state, gateway, \
    gateway_reference, failure, requested_at, due_at, sent_at, finished_at, resends, contradicted, traceparent, epoch, \
    lease_until, open_since, lookups, next_lookup_at, restored) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)";

/// What may change of a payment that is there. Its key, its method and the rest never do.
const UPDATE_PAYMENT: &str = "UPDATE payments SET state = ?6, gateway = ?7, gateway_reference = ?8, failure = ?9, \
    due_at = ?11, sent_at = ?12, finished_at = ?13, resends = ?14, contradicted = ?15, traceparent = ?16, epoch = ?17, \
    lease_until = ?18, open_since = ?19, lookups = ?20, next_lookup_at = ?21, restored = ?22 \
    WHERE invoice = ?2 AND attempt = ?3 AND id = ?1";

/// The store, to be written.
pub struct SqliteStore {
    pub(super) connection: Connection,
    path: PathBuf,
    mark: Mark,
    late: Late,
    answer_keys: AnswerKeys,
    invoice_ids: InvoiceIds,
    waiting: Waiting,
    /// The key of the newest invoice, and payd's age in time lived, where they are known.
    newest_invoice: Option<i64>,
    age: Option<i64>,
    /// The newest event of the transaction under way, with its digest.
    newest: Option<(u64, [u8; 32])>,
    pub(super) ahead: Ahead,
    /// Connections of those that read beside it.
    readers: Arc<Idle>,
    // After the connection: it holds the database's file open.
    pub(super) checkpointer: Checkpointer,
}

impl Drop for SqliteStore {
    /// Other connections go before the writer's, which then is the last to be closed, and moves what is left of the log.
    /// One that is read with just now goes later, and leaves the log as it is.
    fn drop(&mut self) {
        self.ahead.end();
        self.readers.close();
        if !self.checkpointer.end() {
            self.leave_as_it_is();
        }
    }
}

impl SqliteStore {
    pub(super) fn new(
        connection: Connection,
        checkpointer: Checkpointer,
        path: &Path,
        mark: Mark,
        late: Late,
        answer_keys: AnswerKeys,
        invoice_ids: InvoiceIds,
    ) -> Self {
        Self {
            connection,
            path: path.to_owned(),
            mark,
            late,
            answer_keys,
            invoice_ids,
            waiting: Waiting::new(),
            newest_invoice: None,
            age: None,
            newest: None,
            ahead: Ahead::new(path),
            readers: Arc::default(),
            checkpointer,
        }
    }

    /// Readers of the same database, which know what the writer has in memory.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn reader(&self) -> Result<SqliteReader, OpenError> {
        SqliteReader::beside(
            &self.path,
            self.invoice_ids.recent(),
            Arc::clone(&self.readers),
        )
    }

    fn execute(&self, sql: &str, values: &[&dyn ToSql]) -> Result<usize, StoreError> {
        let written = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values));
        self.sorted(written)
    }

    /// The one value that a query without parameters gives.
    fn one<T: FromSql>(&self, sql: &str) -> Result<T, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(sort)
    }

    /// What writing came to.
    fn sorted<T>(&self, written: rusqlite::Result<T>) -> Result<T, StoreError> {
        written.map_err(|error| self.sort_write(error))
    }

    /// Sorts the failure of a write: some I/O errors only say that there is no room.
    fn sort_write(&self, error: rusqlite::Error) -> StoreError {
        let code = error.sqlite_error().map_or(0, |it| it.extended_code);
        if room::may_be_for_want_of_room(code)
            && let Some(why) = room::refusal(&self.path)
        {
            return StoreError::NoRoom(why.to_string());
        }
        let error = sort(error);
        if let StoreError::Fatal(_) = error {
            self.leave_as_it_is();
        }
        error
    }

    /// payd ends, and nobody knows what is on disk: closing the database must not move the log into it and
    /// remove the log. The next start recovers it.
    fn leave_as_it_is(&self) {
        self.checkpointer.cease();
        let no_checkpoint = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        if let Err(error) = self.connection.set_db_config(no_checkpoint, true) {
            tracing::error!(%error, "the log of the database may be gone after this");
        }
    }

    /// The invoice's key, which a new one gets. It waits to be written with others.
    fn save_invoice(&mut self, entry: &Entry) -> Result<i64, StoreError> {
        let newest_event = entry.newest_event.map(as_stored).transpose()?;
        let invoice = &entry.aggregate.invoice;
        let content = &invoice.content;
        let Some(row) = entry.row else {
            let metadata = serde_json::to_string(&content.metadata)
                .map_err(|error| StoreError::Fatal(error.to_string()))?;
            let n = self.next_invoice()?;
            let id_hash = self.take_id(&content.id, n)?;
            let row = InvoiceRow {
                n,
                metadata,
                invoice: invoice.clone(),
                newest_event,
                id_hash,
            };
            let added = self.waiting.invoices.add(&self.connection, row);
            self.sorted(added)?;
            self.newest_invoice = Some(n);
            self.late.invoice(n);
            return Ok(n);
        };
        self.write_waiting_invoices()?;
        // The content never changes.
        let changed = self.execute(
            "UPDATE invoices SET status = ?2, attempts = ?3, attempts_before_round = ?4, needs_attention = ?5, \
             cancel_requested = ?6, cancel_reason = ?7, updated_at = ?8, paid_at = ?9, contradicted_attempt = ?10, newest_event = ?11 \
             WHERE n = ?1",
            &[
                &row,
                &status_code(invoice.status),
                &invoice.attempts,
                &invoice.attempts_before_round,
                &invoice.needs_attention,
                &invoice.cancel_requested,
                &invoice.cancel_reason,
                &invoice.updated_at.as_millis(),
                &invoice.paid_at.map(Timestamp::as_millis),
                &invoice.contradicted_attempt,
                &newest_event,
            ],
        )?;
        if changed != 1 {
            return Err(StoreError::Fatal(format!("invoice {} is gone", content.id)));
        }
        let statuses = (
            status_code(entry.status_stored),
            status_code(invoice.status),
        );
        let told = self.late.status(&self.connection, row, statuses);
        self.sorted(told)?;
        Ok(row)
    }

    /// Keys are given in order, from what is in the table.
    fn next_invoice(&self) -> Result<i64, StoreError> {
        let newest = match self.newest_invoice {
            Some(n) => n,
            None => self.one("SELECT coalesce(max(n), 0) FROM invoices")?,
        };
        newest
            .checked_add(1)
            .ok_or_else(|| StoreError::Fatal("there are no more keys for invoices".to_owned()))
    }

    /// Gives a new invoice its id, if no other has it. Says what that one's hash is.
    fn take_id(&mut self, id: &InvoiceId, n: i64) -> Result<i64, StoreError> {
        let hash = id_hash(id.as_str().as_bytes());
        if self.invoice_ids.may_wait(hash) {
            self.write_waiting_invoices()?;
        }
        self.invoice_ids.add(&self.connection, (id, hash, n))?;
        Ok(hash)
    }

    /// The row of an invoice with its number and its newest event, if it is in one of these places.
    fn row_of(&mut self, id: &InvoiceId, places: &Places) -> Result<Option<Loaded>, StoreError> {
        // Whatever is found there has the hash: another id with another hash is not what was written.
        let the_one = |row: &Row<'_>| -> Result<Option<Loaded>, StoreError> {
            let (n, invoice) = rows::invoice(row)?;
            if invoice.id() == id {
                let newest_event: Option<i64> = row.get(INVOICE_WIDTH).map_err(sort)?;
                return Ok(Some((n, invoice, newest_event)));
            }
            unlike(n, invoice.id().as_str().as_bytes(), (places.hash, id))?;
            Ok(None)
        };
        let by_number = |n: i64| {
            let mut statement = self
                .connection
                .prepare_cached(concat!(
                    "SELECT ",
                    invoice_columns!(),
                    ", i.newest_event FROM invoices i WHERE i.n = ?1"
                ))
                .map_err(sort)?;
            let mut found = statement.query([n]).map_err(sort)?;
            let row = found.next().map_err(sort_row)?;
            the_one(row.ok_or_else(|| gone(n, id))?)
        };
        for n in &places.rows {
            if let Some(found) = by_number(*n)? {
                return Ok(Some(found));
            }
        }
        if !places.table {
            return Ok(None);
        }
        let started = Instant::now();
        let in_table = self.invoice_ids.in_table(&self.connection, places.hash)?;
        for n in &in_table {
            if let Some(found) = by_number(*n)? {
                self.ahead.took(1, started.elapsed());
                return Ok(Some(found));
            }
        }
        self.ahead.took(1, started.elapsed());
        if in_table.is_empty() && places.rows.is_empty() {
            self.invoice_ids.not_there(places.hash);
        }
        Ok(None)
    }

    /// Brings the indexes up to date that are not those of SQLite, where it is time.
    fn bring(&mut self) -> Result<(), Trouble> {
        self.late.bring(&self.connection)?;
        let has_runs = self.answer_keys.has_runs();
        self.answer_keys.other_has_runs(self.invoice_ids.has_runs());
        self.invoice_ids.other_has_runs(has_runs);
        self.answer_keys.bring(&self.connection)?;
        self.invoice_ids.bring(&self.connection)?;
        let next = [
            self.answer_keys.next_leaves(),
            self.invoice_ids.next_leaves(),
        ];
        self.ahead.expect_leaves(next.into_iter().flatten());
        Ok(())
    }

    /// Payd's age in time lived, by which answers expire.
    fn age(&mut self) -> Result<i64, StoreError> {
        if let Some(age) = self.age {
            return Ok(age);
        }
        let age = self.one("SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'age_ms'")?;
        self.age = Some(age);
        Ok(age)
    }

    /// Before something reads, or refers to, what waits.
    fn write_waiting(&mut self) -> Result<(), StoreError> {
        let written = self.waiting.write(&self.connection);
        self.sorted(written)
    }

    fn write_waiting_invoices(&mut self) -> Result<(), StoreError> {
        let written = self.waiting.invoices.write(&self.connection);
        self.sorted(written)
    }

    /// Writes a payment with one of the two statements for it, which have the same parameters. Says how many rows
    /// that were.
    fn save_payment(
        &self,
        sql: &str,
        invoice: i64,
        payment: &Payment,
    ) -> Result<usize, StoreError> {
        self.execute(
            sql,
            &[
                &payment.id.as_bytes().as_slice(),
                &invoice,
                &payment.attempt,
                &payment.key.as_str(),
                &payment.method,
                &state_code(payment.state),
                &payment.gateway,
                &payment.gateway_reference,
                &payment.failure.as_ref().map(failure_json),
                &payment.requested_at.as_millis(),
                &payment.due_at.as_millis(),
                &payment.sent_at.map(Timestamp::as_millis),
                &payment.finished_at.map(Timestamp::as_millis),
                &payment.resends,
                &payment.contradicted,
                &payment.traceparent,
                &payment.work.epoch,
                &payment.work.lease_until.map(Timestamp::as_millis),
                &payment.work.open_since.map(Timestamp::as_millis),
                &payment.work.lookups,
                &payment.work.next_lookup_at.map(Timestamp::as_millis),
                &payment.restored,
            ],
        )
    }
}

impl SqliteStore {
    /// Sees that an invoice is what its events say, before money moves for it: SQLite does not notice a bit
    /// that flips within a value, and an amount is read in two places here.
    fn held_against_the_log(&self, n: i64, aggregate: &Aggregate) -> Result<(), StoreError> {
        let bad = |why| StoreError::BadRow(format!("invoice {}: {why}", aggregate.invoice.id()));
        let events = match invoice_events::all(&self.connection, n).map_err(sort_row) {
            Err(StoreError::BadRow(why)) => return Err(bad(why)),
            events => events?,
        };
        is_what_its_events_say(aggregate, &events).map_err(bad)
    }
}

/// Number, invoice and newest event.
type Loaded = (i64, Invoice, Option<i64>);

/// What is kept of an answer, as [`stored_answer`] reads it.
macro_rules! answer_columns {
    () => {
        "a.fingerprint, a.status, a.location, a.body, a.first_event, a.last_event"
    };
}

fn stored_answer(row: &Row<'_>) -> rusqlite::Result<StoredAnswer> {
    let sequence = |it: i64| u64::try_from(it).unwrap_or(0);
    let kept = match (row.get(4)?, row.get(5)?) {
        (Some(first), Some(last)) => Kept::Events {
            first: sequence(first),
            last: sequence(last),
        },
        _ => Kept::Whole(Answer {
            status: row.get(1)?,
            location: row.get(2)?,
            body: row.get(3)?,
        }),
    };
    Ok(StoredAnswer {
        fingerprint: row.get(0)?,
        kept,
    })
}

/// An event's sequence, as it is stored.
fn as_stored(sequence: u64) -> Result<i64, StoreError> {
    i64::try_from(sequence).map_err(|error| StoreError::Fatal(error.to_string()))
}

/// Whether a command on it may lead to a send: then it is worth looking twice. While a payment is with the
/// gateway, or once it is decided, nothing is sent before it has been loaded again.
fn may_move_money(aggregate: &Aggregate) -> bool {
    match aggregate.invoice.status {
        InvoiceStatus::Paid | InvoiceStatus::Canceled => false,
        InvoiceStatus::Pending | InvoiceStatus::Failed => true,
        InvoiceStatus::Processing => aggregate
            .latest()
            .is_none_or(|payment| payment.state != PaymentState::Sending),
    }
}

impl Store for SqliteStore {
    fn pack(json: &str) -> Option<Vec<u8>> {
        packed::pack(json)
    }

    fn info(&mut self) -> Result<StoreInfo, StoreError> {
        let id = |name| {
            let text = meta(&self.connection, name)?;
            StoreId::parse(&text)
                .map_err(|_| StoreError::Fatal(format!("meta.{name} is not a UUID")))
        };
        let store = id("store_id")?;
        let newest = self
            .connection
            .query_row(
                "SELECT sequence, digest, json, packed FROM events ORDER BY sequence DESC LIMIT 1",
                [],
                |row| {
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, [u8; 32]>(1)?,
                        // What cannot be read is not what the digest is over.
                        packed::event(row, 2, 3).unwrap_or_default(),
                    ))
                },
            )
            .optional()
            .map_err(sort)?;
        let (sequence, digest, event_time) = match newest {
            Some((sequence, digest, json)) => {
                let before = self
                    .connection
                    .query_row(
                        "SELECT digest FROM events WHERE sequence = ?1 - 1",
                        [sequence],
                        |row| row.get(0),
                    )
                    .optional()
                    .map_err(sort)?;
                // payd's time goes on from this event's: it must be the one that was written.
                if chain(&before.unwrap_or(first_digest(store)), &json) != digest {
                    return Err(StoreError::Fatal(format!(
                        "event {sequence}, the newest, is not what was written: payd.db is damaged; keep a copy, see what \
                         `payd verify` finds in it, and restore the newest backup"
                    )));
                }
                let event = decode(&json)
                    .map_err(|error| StoreError::Fatal(format!("event {sequence}: {error}")))?;
                (u64::try_from(sequence).unwrap_or(0), digest, Some(event.at))
            }
            None => (0, first_digest(store), None),
        };
        // A claim is the one thing with a time of its own and no event. One that ends before it began is no
        // time to go by.
        let claimed: Option<i64> = self
            .connection
            .query_row(
                "SELECT max(sent_at) FROM payments WHERE state = 1 AND sent_at <= lease_until",
                [],
                |row| row.get(0),
            )
            .map_err(sort)?;
        let time = event_time.max(claimed.map(Timestamp::from_millis));
        Ok(StoreInfo {
            store,
            source: id("source_id")?,
            head: Head {
                sequence,
                digest,
                time,
            },
            paused: meta(&self.connection, "paused")? == "1",
            restored: restored(&self.connection)?,
        })
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.newest = None;
        self.waiting.forget();
        self.late.begin();
        self.answer_keys.begin();
        self.invoice_ids.begin();
        self.checkpointer.see_to_the_rest(&self.connection);
        self.execute("BEGIN IMMEDIATE", &[]).map(|_| ())
    }

    fn expect(
        &mut self,
        expected: &mut dyn Iterator<Item = Expected<'_>>,
    ) -> Result<(), StoreError> {
        let connection = &self.connection;
        let looks_ahead = self.ahead.is_on();
        let (mut ids, mut in_order, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for it in expected {
            match it {
                Expected::Invoice(id) if self.invoice_ids.is_beyond_written(id) => {}
                Expected::Invoice(id) => {
                    let hash = id_hash(id.as_str().as_bytes());
                    let mut is_found = false;
                    if self.invoice_ids.may_be_in_stretch(id) {
                        if looks_ahead {
                            in_order.push(Look::InOrder(id.clone(), hash));
                        } else {
                            let started = Instant::now();
                            let found = self.invoice_ids.look_in_stretches(connection, (id, hash));
                            is_found = found.map_err(sort)?;
                            self.ahead.took(1, started.elapsed());
                        }
                    }
                    if !is_found {
                        ids.push(hash);
                    }
                }
                Expected::Answer(name) => keys.push(name.hash),
            }
        }
        let ids = self.invoice_ids.sift(connection, ids).map_err(sort)?;
        let keys = self.answer_keys.sift(connection, keys).map_err(sort)?;
        if looks_ahead {
            let keys = keys.into_iter().map(Look::Key);
            let ids = ids.into_iter().map(Look::Invoice);
            self.ahead.expect(keys.chain(in_order).chain(ids));
            return Ok(());
        }
        let time = self.invoice_ids.look(connection, &ids).map_err(sort)?;
        self.ahead.took(ids.len(), time);
        self.answer_keys.look(connection, &keys).map_err(sort)
    }

    fn rest(&mut self) {
        self.answer_keys.rest();
        self.readers.close();
        // Pages as they are in the database.
        if let Err(error) = self.connection.execute_batch("PRAGMA shrink_memory") {
            tracing::warn!(%error, "memory that is not needed now could not be given back");
        }
        spare::give_back();
    }

    fn load(&mut self, id: &InvoiceId) -> Result<Option<Entry>, StoreError> {
        let Some(places) = self.invoice_ids.places(&self.connection, id)? else {
            return Ok(None);
        };
        self.write_waiting_invoices()?;
        let Some((n, invoice, newest_event)) = self.row_of(id, &places)? else {
            return Ok(None);
        };
        let attempts = invoice.attempts;
        let mut aggregate = Aggregate::new(invoice);
        if attempts > 0 {
            let mut statement = self
                .connection
                .prepare_cached(concat!(
                    "SELECT ",
                    payment_columns!(),
                    " FROM payments p WHERE p.invoice = ?1 AND p.attempt = ?2"
                ))
                .map_err(sort)?;
            let mut found = statement.query((n, attempts)).map_err(sort)?;
            match found.next().map_err(sort_row)? {
                Some(row) => aggregate.payments.push(rows::payment(row, 0)?),
                None => {
                    return Err(StoreError::BadRow(format!(
                        "invoice {id} has no payment {attempts}"
                    )));
                }
            }
        }
        if may_move_money(&aggregate) {
            let written = self.waiting.events.write(&self.connection);
            self.sorted(written)?;
            self.held_against_the_log(n, &aggregate)?;
        }
        let newest_event = newest_event
            .map(u64::try_from)
            .transpose()
            .map_err(|error| StoreError::BadRow(format!("invoices.newest_event: {error}")))?;
        Ok(Some(Entry::loaded(aggregate, n, newest_event)))
    }

    fn invoice_of(&mut self, payment: PaymentId) -> Result<Option<InvoiceId>, StoreError> {
        self.write_waiting_invoices()?;
        let sql = concat!("SELECT i.id", from_payment_by_id!());
        let mut statement = self.connection.prepare_cached(sql).map_err(sort)?;
        let id: Option<String> = statement
            .query_row([payment.as_bytes().as_slice()], |row| row.get(0))
            .optional()
            .map_err(sort)?;
        id.map(|id| invoice_id(&id)).transpose()
    }

    fn payment(&mut self, payment: PaymentId) -> Result<Option<Payment>, StoreError> {
        self.write_waiting_invoices()?;
        let sql = concat!("SELECT ", payment_columns!(), from_payment_by_id!());
        let mut statement = self.connection.prepare_cached(sql).map_err(sort)?;
        let mut found = statement
            .query([payment.as_bytes().as_slice()])
            .map_err(sort)?;
        found
            .next()
            .map_err(sort)?
            .map(|row| rows::payment(row, 0))
            .transpose()
    }

    fn queue(
        &mut self,
        queue: Queue,
        gateway: &str,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<InvoiceId>, StoreError> {
        self.write_waiting()?;
        // A lease has run out whatever the gateway is: that query takes its name and does not use it.
        let sql = match queue {
            Queue::Due => {
                "SELECT i.id FROM payments p JOIN invoices i ON i.n = p.invoice \
                 WHERE p.state = 0 AND p.due_at <= ?1 AND (p.gateway IS NULL OR p.gateway = ?2) \
                 AND coalesce(i.contradicted_attempt, p.attempt) >= p.attempt ORDER BY p.due_at LIMIT ?3"
            }
            Queue::Lookups => {
                "SELECT i.id FROM payments p JOIN invoices i ON i.n = p.invoice \
                 WHERE p.state IN (2, 3) AND p.next_lookup_at <= ?1 AND p.gateway = ?2 ORDER BY p.next_lookup_at LIMIT ?3"
            }
            Queue::Leases => {
                "SELECT i.id FROM payments p JOIN invoices i ON i.n = p.invoice \
                 WHERE p.state = 1 AND p.lease_until <= ?1 AND ?2 IS NOT NULL ORDER BY p.lease_until LIMIT ?3"
            }
            // `state < 5` is what the index of open payments says.
            Queue::Elsewhere => {
                "SELECT i.id FROM payments p JOIN invoices i ON i.n = p.invoice \
                 WHERE p.state < 5 AND p.state IN (0, 2, 3) AND p.gateway <> ?2 AND i.needs_attention = 0 \
                 AND ?1 IS NOT NULL LIMIT ?3"
            }
            // What is marked leaves the queue: it is not REQUESTED any more.
            Queue::Restored => {
                "SELECT i.id FROM payments p JOIN invoices i ON i.n = p.invoice \
                 WHERE p.state < 5 AND (p.state = 0 OR p.restored = 0) AND ?1 IS NOT NULL AND ?2 IS NOT NULL LIMIT ?3"
            }
        };
        let mut statement = self.connection.prepare_cached(sql).map_err(sort)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let ids = statement
            .query_map((until.as_millis(), gateway, limit), |row| {
                Ok(
                    String::from_utf8_lossy(row.get_ref(0)?.as_bytes().unwrap_or_default())
                        .into_owned(),
                )
            })
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(sort)?;
        // A row that cannot be read must not stop the others.
        let readable = |id: &String| match invoice_id(id) {
            Ok(id) => Some(id),
            Err(error) => {
                tracing::error!(%error, "an invoice has work to do and an id that payd never wrote; it is left alone");
                None
            }
        };
        Ok(ids.iter().filter_map(readable).collect())
    }

    fn next(&mut self, queue: Queue, gateway: &str) -> Result<Option<Timestamp>, StoreError> {
        self.write_waiting()?;
        let sql = match queue {
            Queue::Due => {
                "SELECT p.due_at FROM payments p JOIN invoices i ON i.n = p.invoice \
                 WHERE p.state = 0 AND (p.gateway IS NULL OR p.gateway = ?1) \
                 AND coalesce(i.contradicted_attempt, p.attempt) >= p.attempt ORDER BY p.due_at LIMIT 1"
            }
            Queue::Lookups => {
                "SELECT next_lookup_at FROM payments WHERE state IN (2, 3) AND gateway = ?1 ORDER BY next_lookup_at LIMIT 1"
            }
            Queue::Leases => {
                "SELECT lease_until FROM payments WHERE state = 1 AND ?1 IS NOT NULL ORDER BY lease_until LIMIT 1"
            }
            Queue::Elsewhere | Queue::Restored => return Ok(None),
        };
        let mut statement = self.connection.prepare_cached(sql).map_err(sort)?;
        let at: Option<Option<i64>> = statement
            .query_row([gateway], |row| row.get(0))
            .optional()
            .map_err(sort)?;
        Ok(at.flatten().map(Timestamp::from_millis))
    }

    fn pull_lookups(&mut self, until: Timestamp) -> Result<usize, StoreError> {
        self.execute(
            "UPDATE payments SET next_lookup_at = ?1 WHERE state IN (2, 3) AND next_lookup_at > ?1",
            &[&until.as_millis()],
        )
    }

    fn answer(&mut self, name: AnswerName<'_>) -> Result<Option<StoredAnswer>, StoreError> {
        if self.answer_keys.may_wait(name.hash) {
            let mut waiting = self.waiting.answers.waiting().iter();
            let same = |row: &&AnswerRow| row.key == name.key && row.actor == *name.actor;
            if let Some(row) = waiting.find(same) {
                return Ok(Some(row.stored.clone()));
            }
        }
        let sql = concat!(
            "SELECT ",
            answer_columns!(),
            " FROM answers a WHERE a.n = ?1 AND a.key = ?2 AND a.actor = ?3"
        );
        self.answer_keys
            .find(&self.connection, name, sql, stored_answer)
    }

    fn save(&mut self, entry: &mut Entry) -> Result<(), StoreError> {
        let row = match entry.row {
            Some(row) if !entry.invoice_changed => row,
            _ => self.save_invoice(entry)?,
        };
        for id in &entry.payments_changed {
            let Some(payment) = entry.aggregate.payment(*id) else {
                continue;
            };
            if payment.attempt > entry.attempts_stored {
                // Its invoice may be as new.
                self.write_waiting_invoices()?;
                self.save_payment(INSERT_PAYMENT, row, payment)?;
                self.late.payment(self.connection.last_insert_rowid());
            } else if self.save_payment(UPDATE_PAYMENT, row, payment)? != 1 {
                return Err(StoreError::Constraint(format!(
                    "attempt {} of its invoice is another payment than {}",
                    payment.attempt, payment.id
                )));
            }
        }
        entry.saved(row);
        Ok(())
    }

    fn append(
        &mut self,
        record: EventRecord,
        previous: Option<u64>,
        invoice_row: i64,
    ) -> Result<(), StoreError> {
        let sequence = as_stored(record.sequence)?;
        let kind = type_code(record.kind);
        let row = EventRow {
            sequence,
            invoice: invoice_row,
            kind,
            packed: record.packed,
            json: record.json,
            digest: record.digest,
            previous: as_stored(previous.unwrap_or(0))?,
        };
        // Its invoice may wait too.
        self.write_waiting_invoices()?;
        let added = self.waiting.events.add(&self.connection, row);
        self.sorted(added)?;
        self.late.event(sequence, kind);
        self.newest = Some((record.sequence, record.digest));
        Ok(())
    }

    fn events(&mut self, first: u64, last: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        self.write_waiting()?;
        let sequence = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
        self.connection
            .prepare_cached(
                "SELECT json, packed FROM events WHERE sequence BETWEEN ?1 AND ?2 ORDER BY sequence",
            )
            .and_then(|mut statement| {
                statement
                    .query_map([sequence(first), sequence(last)], |row| packed::event(row, 0, 1))?
                    .collect()
            })
            .map_err(sort_row)
    }

    fn keep_answer(
        &mut self,
        name: AnswerName<'_>,
        stored: StoredAnswer,
    ) -> Result<(), StoreError> {
        let born_at_age = self.age()?;
        let n = self
            .answer_keys
            .add(name.hash)
            .ok_or_else(|| StoreError::Fatal("there are no more numbers for answers".to_owned()))?;
        let row = AnswerRow {
            n,
            actor: Arc::clone(name.actor),
            key: name.key.to_owned(),
            stored,
            born_at_age,
        };
        let added = self.waiting.answers.add(&self.connection, row);
        self.sorted(added)
    }

    fn expire_answers(
        &mut self,
        lived: std::time::Duration,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.write_waiting()?;
        self.age = None;
        let lived_ms = i64::try_from(lived.as_millis()).unwrap_or(0);
        self.execute(
            "UPDATE meta SET value = CAST(CAST(value AS INTEGER) + ?1 AS TEXT) WHERE name = 'age_ms'",
            &[&lived_ms],
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let age = self.age()?.saturating_sub(ANSWER_AGE_MAX_MS);
        let expired = self.answer_keys.expire(&self.connection, age, limit);
        self.sorted(expired)
    }

    fn restore_done(&mut self) -> Result<(), StoreError> {
        self.execute("DELETE FROM meta WHERE name = 'restore_pending'", &[])?;
        Ok(())
    }

    fn set_paused(&mut self, paused: bool) -> Result<(), StoreError> {
        self.execute(
            "UPDATE meta SET value = ?1 WHERE name = 'paused'",
            &[&if paused { "1" } else { "0" }],
        )?;
        Ok(())
    }

    fn tokens(&mut self) -> Result<Vec<Token>, StoreError> {
        tokens::all(&self.connection)
    }

    fn add_token(&mut self, token: &Token) -> Result<(), StoreError> {
        tokens::add(&self.connection, token)
    }

    fn revoke_token(&mut self, id: &str, at: Timestamp, by: &str) -> Result<(), StoreError> {
        tokens::revoke(&self.connection, id, at, by)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.write_waiting()?;
        if self.newest.is_none() {
            // The log does not show that this commit was there; this does.
            self.execute(
                "UPDATE meta SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE name = 'quiet_commits'",
                &[],
            )?;
        }
        if let Err(trouble) = self.bring() {
            let error = match trouble {
                Trouble::Sqlite(error) => self.sort_write(error),
                damaged @ (Trouble::Damaged(_) | Trouble::Leaf(_)) => damaged.into(),
            };
            self.rollback();
            return Err(error);
        }
        match wal_writes::at_once(|| self.execute("COMMIT", &[])) {
            Ok(_) => {
                self.late.committed();
                self.answer_keys.committed();
                self.invoice_ids.committed();
                self.mark.advance(self.newest.take());
                Ok(())
            }
            Err(error @ (StoreError::NoRoom(_) | StoreError::Busy(_))) => {
                self.rollback();
                Err(error)
            }
            // Deferred constraints there are none; whatever this is, nobody knows what is on disk.
            Err(error) => Err(StoreError::Fatal(error.to_string())),
        }
    }

    fn rollback(&mut self) {
        self.waiting.forget();
        (self.newest_invoice, self.age) = (None, None);
        self.answer_keys.rolled_back();
        self.invoice_ids.rolled_back();
        // SQLite rolls back by itself after some errors; then there is nothing left to do.
        if !self.connection.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK", &[])
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }
}

/// How far a database has come.
pub(super) fn position(connection: &Connection) -> Result<Position, StoreError> {
    let id = |name| {
        StoreId::parse(&meta(connection, name)?)
            .map_err(|_| StoreError::Fatal(format!("meta.{name} is not a UUID")))
    };
    let newest = connection
        .query_row(
            "SELECT sequence, digest FROM events ORDER BY sequence DESC LIMIT 1",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?)),
        )
        .optional()
        .map_err(sort)?;
    let (sequence, digest) = match newest {
        Some((sequence, digest)) => (u64::try_from(sequence).unwrap_or(0), digest),
        None => (0, first_digest(id("store_id")?)),
    };
    // Not there yet in a database of before there was a mark.
    let quiet: Option<String> = connection
        .query_row(
            "SELECT value FROM meta WHERE name = 'quiet_commits'",
            [],
            |row| row.get(0),
        )
        .optional()
        .map_err(sort)?;
    Ok(Position {
        source: id("source_id")?,
        sequence,
        digest,
        quiet: quiet.and_then(|it| it.parse().ok()).unwrap_or(0),
    })
}

pub(super) fn meta(connection: &Connection, name: &str) -> Result<String, StoreError> {
    connection
        .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .map_err(|error| StoreError::Fatal(format!("meta.{name}: {error}")))
}

/// What `payd restore` has noted.
fn restored(connection: &Connection) -> Result<Option<Restored>, StoreError> {
    let noted = |name: &str| {
        connection
            .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| {
                row.get::<_, String>(0)
            })
            .optional()
            .map_err(sort)
    };
    let wrong = || StoreError::Fatal("meta.restored_at or meta.restored_head is wrong".to_owned());
    let Some(at) = noted("restored_at")? else {
        return Ok(None);
    };
    let sequence = noted("restored_head")?.and_then(|it| it.parse().ok());
    Ok(Some(Restored {
        at: Timestamp::parse(&at).map_err(|_| wrong())?,
        sequence: sequence.ok_or_else(wrong)?,
        pending: noted("restore_pending")?.is_some(),
    }))
}

fn invoice_id(text: &str) -> Result<InvoiceId, StoreError> {
    InvoiceId::parse(text)
        .map_err(|error| StoreError::BadRow(format!("invoice id {text:?} {error}")))
}
