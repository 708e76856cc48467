//! Readers: connections of their own, in snapshots that never hold up the writer.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Row, Statement, params_from_iter};

use crate::application::Upkeep;
use crate::application::ports::{
    EventQuery, EventSlice, InvoiceQuery, InvoiceRecord, PaymentRecord, Reader, StoreError, Tally,
};
use crate::domain::{InvoiceId, InvoiceStatus, PaymentId, PaymentState, Timestamp};

use super::error::sort;
use super::hashes::Recent;
use super::invoice_events;
use super::invoice_ids::Look;
use super::late;
use super::open::{OpenError, open_reader};
use super::packed;
use super::rows::{
    self, INVOICE_WIDTH, from_payment_by_id, invoice_columns, payment_columns, state_code,
    status_code, type_code,
};

/// Connections kept open between reads: as many as the daemon has threads to read on. With fewer, a
/// busy daemon would open one, read its schema and prepare its statements for a single look.
const IDLE_MAX: usize = 16;

/// Connections that nobody reads with just now.
#[derive(Debug, Default)]
pub(super) struct Idle(pub(super) Mutex<Vec<Connection>>);

impl Idle {
    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes them. Who wants one meanwhile does not wait for that.
    pub(super) fn close(&self) {
        let connections = std::mem::take(&mut *self.connections());
        drop(connections);
    }
}

/// Readers of one database.
pub struct SqliteReader {
    pub(super) path: PathBuf,
    pub(super) idle: Arc<Idle>,
    /// The ids of new invoices, which the writer has in memory.
    pub(super) recent_ids: Option<Arc<Recent>>,
}

impl SqliteReader {
    /// Readers of the database at `path`, whose writer is somewhere else, or nowhere: of invoices that are too new for
    /// the index of ids they look through all. [`SqliteStore::reader`](super::SqliteStore::reader) gives those that
    /// need not.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::with_ids(path, None, Arc::default())
    }

    /// Beside the writer that has these ids in memory, and closes these connections when it rests, and when it ends.
    pub(super) fn beside(
        path: &Path,
        recent_ids: Arc<Recent>,
        idle: Arc<Idle>,
    ) -> Result<Self, OpenError> {
        Self::with_ids(path, Some(recent_ids), idle)
    }

    fn with_ids(
        path: &Path,
        recent_ids: Option<Arc<Recent>>,
        idle: Arc<Idle>,
    ) -> Result<Self, OpenError> {
        idle.connections().push(open_reader(path)?);
        Ok(Self {
            path: path.to_owned(),
            idle,
            recent_ids,
        })
    }

    /// A look for an invoice, for a snapshot that begins after this.
    fn look<'a>(&'a self, id: &'a InvoiceId) -> Look<'a> {
        Look::new(self.recent_ids.as_deref(), id)
    }

    fn with<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = self.idle.connections().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                open_reader(&self.path).map_err(|error| StoreError::Fatal(error.to_string()))?
            }
        };
        let result = read(&connection);
        let mut idle = self.idle.connections();
        if idle.len() < IDLE_MAX && connection.is_autocommit() {
            idle.push(connection);
        }
        result
    }

    /// Reads in one snapshot.
    fn snapshot<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.with(|connection| {
            let transaction = connection.unchecked_transaction().map_err(sort)?;
            let result = read(&transaction)?;
            transaction.finish().map_err(sort)?;
            Ok(result)
        })
    }
}

/// Invoices `i` with what their latest payments add, from a table or two.
macro_rules! invoices_with_next {
    () => {
        invoices_with_next!("invoices i")
    };
    ($from:literal) => {
        concat!(
            "SELECT ",
            invoice_columns!(),
            ", (SELECT p.due_at FROM payments p WHERE p.invoice = i.n AND p.attempt = i.attempts AND p.state = 0) FROM ",
            $from
        )
    };
}

const PAYMENT_WITH_INVOICE: &str = concat!(
    "SELECT ",
    invoice_columns!(),
    ", ",
    payment_columns!(),
    " FROM payments p JOIN invoices i ON i.n = p.invoice"
);

const PAYMENT_BY_ID: &str = concat!(
    "SELECT ",
    invoice_columns!(),
    ", ",
    payment_columns!(),
    from_payment_by_id!()
);

impl Reader for SqliteReader {
    fn upkeep(&self) -> &dyn Upkeep {
        self
    }

    fn invoice(&self, id: &InvoiceId) -> Result<Option<InvoiceRecord>, StoreError> {
        let look = self.look(id);
        self.with(|connection| {
            // Its number never changes: this need not be one snapshot.
            let Some(n) = look.number(connection)? else {
                return Ok(None);
            };
            let mut statement = connection
                .prepare_cached(concat!(invoices_with_next!(), " WHERE i.n = ?1"))
                .map_err(sort)?;
            let mut found = statement.query([n]).map_err(sort)?;
            found.next().map_err(sort)?.map(invoice_record).transpose()
        })
    }

    fn invoices(
        &self,
        query: InvoiceQuery,
        each: &mut dyn FnMut(InvoiceRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let start = if query.ascending { 0 } else { i64::MAX };
        let after = query
            .after
            .map_or(start, |after| i64::try_from(after).unwrap_or(i64::MAX));
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
        self.snapshot(|connection| {
            let Some(status) = query.status else {
                let sql = if query.ascending {
                    concat!(
                        invoices_with_next!(),
                        " WHERE i.n > ?1 ORDER BY i.n LIMIT ?2"
                    )
                } else {
                    concat!(
                        invoices_with_next!(),
                        " WHERE i.n < ?1 ORDER BY i.n DESC LIMIT ?2"
                    )
                };
                return list(connection, sql, &[after, limit], each).map(|_| ());
            };
            in_status(connection, (status, query.ascending, after, limit), each)
        })
    }

    fn payment(&self, id: PaymentId) -> Result<Option<PaymentRecord>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(PAYMENT_BY_ID).map_err(sort)?;
            let mut found = statement.query([id.as_bytes().as_slice()]).map_err(sort)?;
            found.next().map_err(sort)?.map(payment_record).transpose()
        })
    }

    fn payments(&self, invoice: &InvoiceId) -> Result<Option<Vec<PaymentRecord>>, StoreError> {
        let look = self.look(invoice);
        self.with(|connection| {
            let Some(n) = look.number(connection)? else {
                return Ok(None);
            };
            // One statement is one snapshot.
            let mut statement = connection
                .prepare_cached(&format!(
                    "{PAYMENT_WITH_INVOICE} WHERE p.invoice = ?1 ORDER BY p.attempt"
                ))
                .map_err(sort)?;
            let mut found = statement.query([n]).map_err(sort)?;
            let mut records = Vec::new();
            while let Some(row) = found.next().map_err(sort)? {
                records.push(payment_record(row)?);
            }
            Ok(Some(records))
        })
    }

    fn latest_payment(
        &self,
        invoice: &InvoiceId,
    ) -> Result<Option<(InvoiceStatus, PaymentRecord)>, StoreError> {
        let look = self.look(invoice);
        self.with(|connection| {
            let Some(n) = look.number(connection)? else {
                return Ok(None);
            };
            // One statement is one snapshot.
            let mut statement = connection
                .prepare_cached(&format!(
                    "{PAYMENT_WITH_INVOICE} WHERE i.n = ?1 AND p.attempt = i.attempts"
                ))
                .map_err(sort)?;
            let mut found = statement.query([n]).map_err(sort)?;
            let Some(row) = found.next().map_err(sort)? else {
                return Ok(None);
            };
            let (_, invoice) = rows::invoice(row)?;
            let status = invoice.status;
            let record = PaymentRecord {
                invoice: invoice.content,
                payment: rows::payment(row, INVOICE_WIDTH)?,
            };
            Ok(Some((status, record)))
        })
    }

    fn events(&self, query: &EventQuery) -> Result<EventSlice, StoreError> {
        // One that is made while it is looked for may not be found, though the snapshot has its events: then nothing is
        // known of it beyond what there was before.
        let before = match query.invoice {
            Some(_) => Some(self.with(head)?),
            None => None,
        };
        let look = query.invoice.as_ref().map(|invoice| self.look(invoice));
        self.snapshot(|connection| {
            let of_invoice = match &look {
                Some(look) => Some(look.number(connection)?),
                None => None,
            };
            let head = head(connection)?;
            let known_to = match (of_invoice, before) {
                (Some(None), Some(before)) => before,
                _ => head,
            };
            let (events, cut) = read_events(connection, query, of_invoice)?;
            let full = cut || events.len() >= query.limit;
            let read_to = match events.last() {
                Some((sequence, _)) if full => *sequence,
                _ => known_to.max(query.after),
            };
            Ok(EventSlice {
                events,
                head,
                read_to,
            })
        })
    }

    fn tally(&self, now: Timestamp) -> Result<Tally, StoreError> {
        let count =
            |connection: &Connection, sql: &str, values: &[i64]| -> Result<u64, StoreError> {
                let n: i64 = connection
                    .prepare_cached(sql)
                    .and_then(|mut statement| {
                        statement.query_row(params_from_iter(values), |row| row.get(0))
                    })
                    .map_err(sort)?;
                Ok(u64::try_from(n).unwrap_or(0))
            };
        let earliest =
            |connection: &Connection, sql: &str| -> Result<Option<Timestamp>, StoreError> {
                let at: Option<i64> = connection
                    .prepare_cached(sql)
                    .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
                    .map_err(sort)?;
                Ok(at.map(Timestamp::from_millis))
            };
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        let (database_bytes, wal_bytes) = (size(&self.path), size(Path::new(&wal)));
        self.snapshot(|connection| {
            let mut open_payments = Vec::new();
            for state in PaymentState::ALL
                .into_iter()
                .filter(|state| state.is_open())
            {
                // The state in the text, not as a parameter: only so are the partial indexes used.
                let condition = match state {
                    PaymentState::Accepted | PaymentState::Unknown => {
                        format!("state IN (2, 3) AND state = {}", state_code(state))
                    }
                    _ => format!("state = {}", state_code(state)),
                };
                let n = count(
                    connection,
                    &format!("SELECT count(*) FROM payments WHERE {condition}"),
                    &[],
                )?;
                open_payments.push((state, n));
            }
            let due = "SELECT count(*) FROM payments WHERE state = 0 AND due_at <= ?1";
            let attention = "SELECT count(*) FROM invoices WHERE needs_attention = 1";
            let due_since = "SELECT min(due_at) FROM payments WHERE state = 0";
            // Both conditions: the first is the partial index's own.
            let unknown_since =
                "SELECT min(open_since) FROM payments WHERE state IN (2, 3) AND state = 3";
            Ok(Tally {
                open_payments,
                due: count(connection, due, &[now.as_millis()])?,
                due_since: earliest(connection, due_since)?.filter(|at| *at <= now),
                unknown_since: earliest(connection, unknown_since)?,
                needs_attention: count(connection, attention, &[])?,
                database_bytes,
                wal_bytes,
            })
        })
    }
}

/// The sequence of the newest event.
fn head(connection: &Connection) -> Result<u64, StoreError> {
    let head: i64 = connection
        .prepare_cached("SELECT coalesce(max(sequence), 0) FROM events")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(sort)?;
    Ok(u64::try_from(head).unwrap_or(0))
}

/// Who takes invoices, until it breaks off.
type Each<'a> = &'a mut dyn FnMut(InvoiceRecord) -> ControlFlow<()>;

/// Gives each invoice that a statement finds. Says how many it gave, or that there shall be no more.
fn list(
    connection: &Connection,
    sql: &str,
    values: &[i64],
    each: Each<'_>,
) -> Result<ControlFlow<(), i64>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(sort)?;
    list_with(&mut statement, values, each)
}

fn list_with(
    statement: &mut Statement<'_>,
    values: &[i64],
    each: Each<'_>,
) -> Result<ControlFlow<(), i64>, StoreError> {
    let mut found = statement.query(params_from_iter(values)).map_err(sort)?;
    let mut given = 0;
    while let Some(row) = found.next().map_err(sort)? {
        if each(invoice_record(row)?).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        given += 1;
    }
    Ok(ControlFlow::Continue(given))
}

/// The invoices in a status: those that the late index has, and those that are too new for it, in the order asked for.
fn in_status(
    connection: &Connection,
    (status, ascending, after, limit): (InvoiceStatus, bool, i64, i64),
    each: Each<'_>,
) -> Result<(), StoreError> {
    let until = late::until(connection, late::IN_STATUS.name).map_err(sort)?;
    let status = status_code(status);
    // The status of the row counts; the index says where to look. The plus keeps the order from being chosen anew.
    let (sql, first, last) = if ascending {
        (
            concat!(
                invoices_with_next!(),
                " WHERE i.n >= ?1 AND i.n <= ?2 AND +i.status = ?3 ORDER BY i.n LIMIT ?4"
            ),
            after.saturating_add(1),
            i64::MAX,
        )
    } else {
        (
            concat!(
                invoices_with_next!(),
                " WHERE i.n >= ?1 AND i.n <= ?2 AND +i.status = ?3 ORDER BY i.n DESC LIMIT ?4"
            ),
            0,
            after.saturating_sub(1),
        )
    };
    let mut statement = connection.prepare_cached(sql).map_err(sort)?;
    let mut left = limit;
    let mut list = |(first, last): (i64, i64)| {
        Ok(
            match list_with(&mut statement, &[first, last, status, left], each)? {
                ControlFlow::Continue(given) if given < left => {
                    left -= given;
                    ControlFlow::Continue(())
                }
                _ => ControlFlow::Break(()),
            },
        )
    };
    let newest = (first.max(until.saturating_add(1)), last);
    let indexed = (first, last.min(until));
    if !ascending && list(newest)?.is_break() {
        return Ok(());
    }
    let flow = late::IN_STATUS.runs(connection, status, indexed, ascending, &mut list)?;
    if ascending && flow.is_continue() {
        let _ = list(newest)?;
    }
    Ok(())
}

/// Sequence and bytes, oldest first.
type Events = Vec<(u64, Vec<u8>)>;

/// The events of a type, and whether there was too much of them: what the index has, and then what is too new
/// for it.
fn events_of_type(
    connection: &Connection,
    query: &EventQuery,
    indexed_to: i64,
    kind: i64,
) -> Result<(Events, bool), StoreError> {
    let after = i64::try_from(query.after).unwrap_or(i64::MAX);
    let mut statement = connection
        .prepare_cached(
            "SELECT sequence, json, packed FROM events WHERE sequence BETWEEN ?1 AND ?2 AND type = ?3 ORDER BY sequence",
        )
        .map_err(sort)?;
    let mut run = Run::new(query.bytes);
    let mut cut = false;
    let mut read = |(first, last): (i64, i64)| -> Result<ControlFlow<()>, StoreError> {
        let mut rows = statement.query([first, last, kind]).map_err(sort)?;
        while run.events.len() < query.limit
            && let Some(row) = rows.next().map_err(sort)?
        {
            if run.add(row)? {
                cut = true;
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(if run.events.len() < query.limit {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    };
    let first = after.saturating_add(1);
    let indexed = (first, indexed_to);
    if late::EVENT_TYPES
        .runs(connection, kind, indexed, true, &mut read)?
        .is_continue()
    {
        let _ = read((first.max(indexed_to.saturating_add(1)), i64::MAX))?;
    }
    Ok((run.events, cut))
}

/// The events, and whether there may be more that the limit of bytes has left out. `of_invoice`: of one alone, if it is
/// there.
fn read_events(
    connection: &Connection,
    query: &EventQuery,
    of_invoice: Option<Option<i64>>,
) -> Result<(Events, bool), StoreError> {
    let after = i64::try_from(query.after).unwrap_or(i64::MAX);
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let types: Vec<i64> = query.types.iter().copied().map(type_code).collect();
    match of_invoice {
        None => {}
        Some(None) => return Ok((Vec::new(), false)),
        Some(Some(n)) => return events_of_invoice(connection, query, n, &types),
    }
    if types.is_empty() {
        return rows_of(
            connection,
            "SELECT sequence, json, packed FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
            &[after, limit],
            query.bytes,
        );
    }
    // Each type has its own run in the index, in order; the runs are merged here. Beyond the end of one
    // that was cut nothing is known of its type.
    let indexed_to = late::until(connection, late::EVENT_TYPES.name).map_err(sort)?;
    let mut events = Vec::new();
    let mut known_to = None;
    for kind in types {
        let (run, cut) = events_of_type(connection, query, indexed_to, kind)?;
        if let Some((end, _)) = run.last().filter(|_| cut) {
            known_to = Some(known_to.map_or(*end, |to: u64| to.min(*end)));
        }
        events.extend(run);
    }
    events.sort_unstable_by_key(|(sequence, _)| *sequence);
    events.dedup_by_key(|(sequence, _)| *sequence);
    if let Some(to) = known_to {
        events.retain(|(sequence, _)| *sequence <= to);
    }
    events.truncate(query.limit);
    Ok((events, known_to.is_some()))
}

/// An invoice has few events: each is looked at, and the types are sifted from those.
fn events_of_invoice(
    connection: &Connection,
    query: &EventQuery,
    invoice: i64,
    types: &[i64],
) -> Result<(Events, bool), StoreError> {
    let after = i64::try_from(query.after).unwrap_or(i64::MAX);
    let mut statement = connection
        .prepare_cached("SELECT sequence, json, packed, type FROM events WHERE sequence = ?1")
        .map_err(sort)?;
    let mut run = Run::new(query.bytes);
    let sequences = invoice_events::sequences(connection, invoice, after).map_err(sort)?;
    let damaged = || StoreError::BadRow("an invoice's events are not all there".to_owned());
    if !sequences.whole {
        return Err(damaged());
    }
    for sequence in sequences.events {
        if run.events.len() >= query.limit {
            break;
        }
        let mut found = statement.query([sequence]).map_err(sort)?;
        let row = found.next().map_err(sort)?.ok_or_else(damaged)?;
        let kind: i64 = row.get(3).map_err(sort)?;
        if (types.is_empty() || types.contains(&kind)) && run.add(row)? {
            return Ok((run.events, true));
        }
    }
    Ok((run.events, false))
}

/// Events that are read in order, up to a limit of bytes.
struct Run {
    events: Events,
    bytes: usize,
    bytes_max: Option<usize>,
}

impl Run {
    fn new(bytes_max: Option<usize>) -> Self {
        Self {
            events: Events::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds the event of a row that begins with its sequence, its JSON and that packed. Says whether that is as much as there may be.
    fn add(&mut self, row: &Row<'_>) -> Result<bool, StoreError> {
        let sequence: i64 = row.get(0).map_err(sort)?;
        let event = match packed::event(row, 1, 2).map_err(sort) {
            // One that is damaged must neither be passed over nor keep others from who reads them: it is in its place, and
            // no CloudEvent.
            Err(StoreError::BadRow(why)) => {
                tracing::warn!(sequence, %why, "an event is damaged; `payd verify` says more");
                format!(r#"{{"id":"{sequence}","damaged":true}}"#).into_bytes()
            }
            event => event?,
        };
        self.bytes += event.len();
        self.events
            .push((u64::try_from(sequence).unwrap_or(0), event));
        Ok(self.bytes_max.is_some_and(|max| self.bytes >= max))
    }
}

fn rows_of(
    connection: &Connection,
    sql: &str,
    values: &[i64],
    bytes_max: Option<usize>,
) -> Result<(Events, bool), StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(sort)?;
    let mut rows = statement.query(params_from_iter(values)).map_err(sort)?;
    let mut run = Run::new(bytes_max);
    while let Some(row) = rows.next().map_err(sort)? {
        if run.add(row)? {
            return Ok((run.events, true));
        }
    }
    Ok((run.events, false))
}

fn invoice_record(row: &Row<'_>) -> Result<InvoiceRecord, StoreError> {
    let (n, invoice) = rows::invoice(row)?;
    let next: Option<i64> = row.get(INVOICE_WIDTH).map_err(sort)?;
    Ok(InvoiceRecord {
        cursor: u64::try_from(n).unwrap_or(0),
        invoice,
        next_attempt_at: next.map(Timestamp::from_millis),
    })
}

fn payment_record(row: &Row<'_>) -> Result<PaymentRecord, StoreError> {
    let (_, invoice) = rows::invoice(row)?;
    Ok(PaymentRecord {
        invoice: invoice.content,
        payment: rows::payment(row, INVOICE_WIDTH)?,
    })
}
