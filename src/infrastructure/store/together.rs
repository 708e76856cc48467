//! Rows that are written with one statement for several of them.
//!
//! Much of what a small INSERT costs is the statement around it: found in the cache, begun, its cursors
//! opened and closed. A batch of the engine's has many rows for the same few tables; they gather here until
//! somebody reads, or commits.

use std::sync::{Arc, OnceLock};

use rusqlite::types::Null;
use rusqlite::{Connection, Statement};

use crate::application::request::{Kept, StoredAnswer};
use crate::domain::{Invoice, Timestamp};

use super::rows::status_code;

/// Rows in a statement, and the most that gather.
const MANY: usize = 16;
/// The same for what is left over.
const FEW: usize = 4;

/// How a table's rows are inserted.
pub(super) struct Insert<R: 'static> {
    /// `INSERT OR FAIL`, as a rule: a row that is refused ends the transaction here, and what the statement has written
    /// before it need not be undone by itself.
    pub(super) verb: &'static str,
    /// The table with its columns: `events (sequence, invoice, …)`.
    pub(super) into: &'static str,
    /// How many those are.
    pub(super) columns: usize,
    /// Binds a row to the parameters from the given one on.
    pub(super) bind: fn(&mut Statement<'_>, usize, &R) -> rusqlite::Result<()>,
    /// The statements for [`MANY`], [`FEW`] and one.
    pub(super) sql: [OnceLock<String>; 3],
}

impl<R> Insert<R> {
    /// The statement for so many rows, which is as many as one of them takes.
    fn sql(&self, rows: usize) -> &str {
        let place = match rows {
            MANY => 0,
            FEW => 1,
            _ => 2,
        };
        self.sql[place].get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(", "));
            let rows = vec![row.as_str(); rows].join(", ");
            format!("{} INTO {} VALUES {rows}", self.verb, self.into)
        })
    }

    /// Writes these.
    pub(super) fn write(&self, connection: &Connection, rows: &[R]) -> rusqlite::Result<()> {
        let mut rest = rows;
        while !rest.is_empty() {
            let count = match rest.len() {
                MANY.. => MANY,
                FEW.. => FEW,
                _ => 1,
            };
            let (these, others) = rest.split_at(count);
            let mut statement = connection.prepare_cached(self.sql(count))?;
            for (place, row) in these.iter().enumerate() {
                (self.bind)(&mut statement, 1 + place * self.columns, row)?;
            }
            statement.raw_execute()?;
            rest = others;
        }
        Ok(())
    }
}

/// Rows that wait to be written.
pub(super) struct Together<R: 'static> {
    insert: &'static Insert<R>,
    rows: Vec<R>,
}

impl<R> Together<R> {
    /// None yet.
    pub(super) const fn new(insert: &'static Insert<R>) -> Self {
        Self {
            insert,
            rows: Vec::new(),
        }
    }

    /// Those that wait.
    pub(super) fn waiting(&self) -> &[R] {
        &self.rows
    }

    /// One more. Where there are many, they are written.
    pub(super) fn add(&mut self, connection: &Connection, row: R) -> rusqlite::Result<()> {
        self.rows.push(row);
        if self.rows.len() < MANY {
            return Ok(());
        }
        self.write(connection)
    }

    /// Writes those that wait. They are gone even where that fails: then the transaction is to be rolled back.
    pub(super) fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let written = self.insert.write(connection, &self.rows);
        self.rows.clear();
        written
    }

    /// The transaction is over, and they are not in it.
    pub(super) fn forget(&mut self) {
        self.rows.clear();
    }
}

/// An invoice that is new, with its key and its metadata as JSON.
pub(super) struct InvoiceRow {
    pub(super) n: i64,
    pub(super) metadata: String,
    pub(super) invoice: Invoice,
    pub(super) newest_event: Option<i64>,
    pub(super) id_hash: i64,
}

static INVOICES: Insert<InvoiceRow> = Insert {
    verb: "INSERT OR FAIL",
    into: "invoices (n, id, amount, currency, description, metadata, payment_method, due_at, status, attempts, \
        attempts_before_round, needs_attention, cancel_requested, cancel_reason, created_at, updated_at, paid_at, \
        contradicted_attempt, newest_event, id_hash)",
    columns: 20,
    bind: |statement, at, row| {
        let invoice = &row.invoice;
        let content = &invoice.content;
        statement.raw_bind_parameter(at, row.n)?;
        statement.raw_bind_parameter(at + 1, content.id.as_str())?;
        // Amounts are within what SQLite has; a CHECK would refuse -1.
        let amount = i64::try_from(content.money.amount.minor_units()).unwrap_or(-1);
        statement.raw_bind_parameter(at + 2, amount)?;
        statement.raw_bind_parameter(at + 3, content.money.currency.code())?;
        statement.raw_bind_parameter(at + 4, &content.description)?;
        statement.raw_bind_parameter(at + 5, &row.metadata)?;
        statement.raw_bind_parameter(at + 6, &content.payment_method)?;
        statement.raw_bind_parameter(at + 7, content.due_at.map(Timestamp::as_millis))?;
        statement.raw_bind_parameter(at + 8, status_code(invoice.status))?;
        statement.raw_bind_parameter(at + 9, invoice.attempts)?;
        statement.raw_bind_parameter(at + 10, invoice.attempts_before_round)?;
        statement.raw_bind_parameter(at + 11, invoice.needs_attention)?;
        statement.raw_bind_parameter(at + 12, invoice.cancel_requested)?;
        statement.raw_bind_parameter(at + 13, &invoice.cancel_reason)?;
        statement.raw_bind_parameter(at + 14, invoice.created_at.as_millis())?;
        statement.raw_bind_parameter(at + 15, invoice.updated_at.as_millis())?;
        statement.raw_bind_parameter(at + 16, invoice.paid_at.map(Timestamp::as_millis))?;
        statement.raw_bind_parameter(at + 17, invoice.contradicted_attempt)?;
        statement.raw_bind_parameter(at + 18, row.newest_event)?;
        statement.raw_bind_parameter(at + 19, row.id_hash)
    },
    sql: [const { OnceLock::new() }; 3],
};

/// An event, with the key of its invoice.
pub(super) struct EventRow {
    pub(super) sequence: i64,
    pub(super) invoice: i64,
    pub(super) kind: i64,
    pub(super) json: String,
    /// The same in fewer bytes, where it can be: then that is what is stored.
    pub(super) packed: Option<Vec<u8>>,
    pub(super) digest: [u8; 32],
    /// That of its invoice before it; 0: there is none.
    pub(super) previous: i64,
}

static EVENTS: Insert<EventRow> = Insert {
    verb: "INSERT OR FAIL",
    into: "events (sequence, invoice, type, json, digest, previous, packed)",
    columns: 7,
    bind: |statement, at, row| {
        statement.raw_bind_parameter(at, row.sequence)?;
        statement.raw_bind_parameter(at + 1, row.invoice)?;
        statement.raw_bind_parameter(at + 2, row.kind)?;
        let json = row.packed.as_ref().map_or(row.json.as_str(), |_| "");
        statement.raw_bind_parameter(at + 3, json)?;
        statement.raw_bind_parameter(at + 4, row.digest.as_slice())?;
        statement.raw_bind_parameter(at + 5, row.previous)?;
        statement.raw_bind_parameter(at + 6, &row.packed)
    },
    sql: [const { OnceLock::new() }; 3],
};

/// An answer under its idempotency key.
pub(super) struct AnswerRow {
    pub(super) n: i64,
    pub(super) actor: Arc<str>,
    pub(super) key: String,
    pub(super) stored: StoredAnswer,
    pub(super) born_at_age: i64,
}

static ANSWERS: Insert<AnswerRow> = Insert {
    verb: "INSERT OR FAIL",
    into: "answers (actor, key, fingerprint, status, location, body, born_at_age, first_event, last_event, n)",
    columns: 10,
    bind: |statement, at, row| {
        statement.raw_bind_parameter(at, &*row.actor)?;
        statement.raw_bind_parameter(at + 1, &row.key)?;
        statement.raw_bind_parameter(at + 2, row.stored.fingerprint.as_slice())?;
        statement.raw_bind_parameter(at + 6, row.born_at_age)?;
        statement.raw_bind_parameter(at + 9, row.n)?;
        match &row.stored.kept {
            Kept::Whole(answer) => {
                statement.raw_bind_parameter(at + 3, answer.status)?;
                statement.raw_bind_parameter(at + 4, &answer.location)?;
                statement.raw_bind_parameter(at + 5, &answer.body)?;
                statement.raw_bind_parameter(at + 7, Null)?;
                statement.raw_bind_parameter(at + 8, Null)
            }
            Kept::Events { first, last } => {
                statement.raw_bind_parameter(at + 3, 0)?;
                statement.raw_bind_parameter(at + 4, Null)?;
                statement.raw_bind_parameter(at + 5, b"".as_slice())?;
                // Sequences are within what SQLite has; a negative one would be no event's.
                statement.raw_bind_parameter(at + 7, i64::try_from(*first).unwrap_or(-1))?;
                statement.raw_bind_parameter(at + 8, i64::try_from(*last).unwrap_or(-1))
            }
        }
    },
    sql: [const { OnceLock::new() }; 3],
};

/// All that waits, of a transaction.
pub(super) struct Waiting {
    pub(super) invoices: Together<InvoiceRow>,
    pub(super) events: Together<EventRow>,
    pub(super) answers: Together<AnswerRow>,
}

impl Waiting {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self {
            invoices: Together::new(&INVOICES),
            events: Together::new(&EVENTS),
            answers: Together::new(&ANSWERS),
        }
    }

    /// Writes it: invoices before what refers to them.
    pub(super) fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.invoices.write(connection)?;
        self.events.write(connection)?;
        self.answers.write(connection)
    }

    /// The transaction is over without it.
    pub(super) fn forget(&mut self) {
        self.invoices.forget();
        self.events.forget();
        self.answers.forget();
    }
}
