//! Indexes that are brought up to date for many rows at a time.
//!
//! An index of SQLite's takes each row as it comes, and where rows belong anywhere in it, each takes a page of
//! its own: of fifty-five pages that a commit of ten payments wrote, eleven were of the index of payment ids and
//! five of that of event types. Here a thousand rows are put in at once, in the commit of the last of them: what
//! they share is written once. What is newer is found by looking through the rows themselves: there are a thousand, or
//! some thousands, at most.
//!
//! They only help people to find something. What keeps money safe stands in indexes of SQLite's own.

use rusqlite::Connection;

use crate::application::ports::StoreError;

use super::error::sort;
use super::{answer_keys, invoice_ids};

/// Rows after which an index is brought up to date. It takes a millisecond or two, of which the commits in
/// between are spared more.
pub(super) const STEP: i64 = 1024;

/// The index of event types, as the table `late` calls it.
pub(super) const EVENT_TYPES: &str = "event_types";
/// The index of payment ids.
pub(super) const PAYMENT_IDS: &str = "payment_ids";
/// The index of invoices by status.
pub(super) const IN_STATUS: &str = "invoices_in_status";

/// By how many invoices that one is always behind the newest. It is the one whose entries change, and most invoices
/// change soon or never. To look through as many rows takes less than a millisecond.
const UNSETTLED: i64 = 3 * STEP;

/// One of them.
#[derive(Debug)]
struct Index {
    name: &'static str,
    /// Puts in what is after the first parameter, up to the second.
    add: &'static str,
    /// How far it goes: in the database, and after the transaction under way.
    until: i64,
    next: i64,
}

impl Index {
    fn open(
        connection: &Connection,
        name: &'static str,
        add: &'static str,
    ) -> rusqlite::Result<Self> {
        let until = until(connection, name)?;
        Ok(Self {
            name,
            add,
            until,
            next: until,
        })
    }

    /// Within a transaction, in which `newest` is the last row.
    fn bring(&mut self, connection: &Connection, newest: i64) -> rusqlite::Result<()> {
        if newest.saturating_sub(self.until) < STEP {
            return Ok(());
        }
        // A commit that makes many rows brings many up to date.
        connection
            .prepare_cached(self.add)?
            .execute([self.until, newest])?;
        connection
            .prepare_cached("UPDATE late SET until = ?2 WHERE name = ?1")?
            .execute((self.name, newest))?;
        self.next = newest;
        Ok(())
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Late {
    types: Index,
    ids: Index,
    statuses: Index,
    /// The newest rows of the transaction under way.
    event: i64,
    payment: i64,
    invoice: i64,
}

impl Late {
    /// As the database has them.
    pub(super) fn open(connection: &Connection) -> rusqlite::Result<Self> {
        // What one of them has already, since it was damaged, holds up no commit: `fault` tells of it.
        let types = "INSERT OR IGNORE INTO event_types SELECT type, sequence FROM events \
             WHERE sequence > ?1 AND sequence <= ?2";
        let ids = "INSERT OR IGNORE INTO payment_ids SELECT n >> 14, id, n FROM payments \
             WHERE n > ?1 AND n <= ?2";
        let statuses = "INSERT OR IGNORE INTO invoices_in_status SELECT status, n FROM invoices \
             WHERE n > ?1 AND n <= ?2";
        Ok(Self {
            types: Index::open(connection, EVENT_TYPES, types)?,
            ids: Index::open(connection, PAYMENT_IDS, ids)?,
            statuses: Index::open(connection, IN_STATUS, statuses)?,
            event: 0,
            payment: 0,
            invoice: 0,
        })
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self) {
        (self.event, self.payment, self.invoice) = (0, 0, 0);
        for index in [&mut self.types, &mut self.ids, &mut self.statuses] {
            index.next = index.until;
        }
    }

    /// It has a new event.
    pub(super) fn event(&mut self, sequence: i64) {
        self.event = sequence;
    }

    /// It has a new payment.
    pub(super) fn payment(&mut self, n: i64) {
        self.payment = n;
    }

    /// It has a new invoice.
    pub(super) fn invoice(&mut self, n: i64) {
        self.invoice = n;
    }

    /// It changes the status of an invoice: where the index has that one, it is told.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn status(
        &self,
        connection: &Connection,
        n: i64,
        (from, to): (i64, i64),
    ) -> rusqlite::Result<()> {
        if n > self.statuses.until || from == to {
            return Ok(());
        }
        let moved = connection
            .prepare_cached(
                "UPDATE OR REPLACE invoices_in_status SET status = ?3 WHERE status = ?2 AND n = ?1",
            )?
            .execute([n, from, to])?;
        if moved == 0 {
            // It was not where it belongs, which is for `payd verify` to tell: it holds up no payment.
            connection
                .prepare_cached("INSERT OR IGNORE INTO invoices_in_status VALUES (?2, ?1)")?
                .execute([n, to])?;
        }
        Ok(())
    }

    /// It is about to be committed.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn bring(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.types.bring(connection, self.event)?;
        self.ids.bring(connection, self.payment)?;
        let settled = self.invoice.saturating_sub(UNSETTLED);
        self.statuses.bring(connection, settled)
    }

    /// It is committed.
    pub(super) fn committed(&mut self) {
        for index in [&mut self.types, &mut self.ids, &mut self.statuses] {
            index.until = index.next;
        }
    }
}

/// How far an index goes.
pub(super) fn until(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT until FROM late WHERE name = ?1")
        .and_then(|mut statement| statement.query_row([name], |row| row.get(0)))
}

/// What is wrong with them, for who checks: each row up to where they go is in them, as it is, and nothing else.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn fault(connection: &Connection) -> Result<Option<String>, StoreError> {
    let types = "SELECT \
         (SELECT count(*) FROM event_types), \
         (SELECT count(*) FROM events WHERE sequence <= ?1), \
         (SELECT count(*) FROM event_types t JOIN events e ON e.sequence = t.sequence \
            WHERE e.type = t.type AND t.sequence <= ?1)";
    let ids = "SELECT \
         (SELECT count(*) FROM payment_ids), \
         (SELECT count(*) FROM payments WHERE n <= ?1), \
         (SELECT count(*) FROM payment_ids i JOIN payments p ON p.n = i.payment \
            WHERE p.id = i.id AND i.run = p.n >> 14 AND i.payment <= ?1)";
    let statuses = "SELECT \
         (SELECT count(*) FROM invoices_in_status), \
         (SELECT count(*) FROM invoices WHERE n <= ?1), \
         (SELECT count(*) FROM invoices_in_status s JOIN invoices i ON i.n = s.n \
            WHERE i.status = s.status AND s.n <= ?1)";
    for (name, sql, what) in [
        (EVENT_TYPES, types, "event types"),
        (PAYMENT_IDS, ids, "payment ids"),
        (IN_STATUS, statuses, "invoices by status"),
    ] {
        let until = until(connection, name).map_err(sort)?;
        let counts = connection.query_row(sql, [until], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        });
        let (there, rows, right): (i64, i64, i64) = counts.map_err(sort)?;
        if (there, right) != (rows, rows) {
            return Ok(Some(format!(
                "the index of {what} has {there} entries of which {right} are right, for {rows} rows"
            )));
        }
    }
    match answer_keys::fault(connection)? {
        None => invoice_ids::fault(connection),
        fault => Ok(fault),
    }
}
