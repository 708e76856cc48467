//! The store as `payd verify` reads it: one snapshot, row by row, beside a running daemon if need be.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::{Connection, Row};

use crate::application::ports::StoreError;
use crate::application::{LogRow, TableRow, TokenRow, VerifySource};
use crate::domain::{Aggregate, StoreId};

use super::error::{sort, sort_row};
use super::invoice_events;
use super::invoice_ids;
use super::late;
use super::open::{OpenError, open_reader};
use super::packed;
use super::rows::{self, invoice_columns, payment_columns, type_of};
use super::schema;
use super::writer::meta;

/// A snapshot of a database, to be checked.
pub struct SqliteCheck {
    connection: Connection,
}

impl SqliteCheck {
    /// Opens the database at `path`, which must exist, and holds a snapshot of it.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = open_reader(path)?;
        schema::current(&connection)?;
        connection.execute_batch("BEGIN")?;
        Ok(Self { connection })
    }
}

impl VerifySource for SqliteCheck {
    fn store(&self) -> Result<StoreId, StoreError> {
        StoreId::parse(&meta(&self.connection, "store_id")?)
            .map_err(|error| StoreError::Fatal(format!("meta.store_id {error}")))
    }

    fn integrity(&self) -> Result<Option<String>, StoreError> {
        let said: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(sort)?;
        if said != "ok" {
            return Ok(Some(said));
        }
        if let Err(error) = schema::guarded(&self.connection) {
            return Ok(Some(error.to_string()));
        }
        if let Some(fault) = late::fault(&self.connection)? {
            return Ok(Some(fault));
        }
        let changed = invoice_ids::changed(&self.connection).map_err(sort)?;
        Ok((changed > 0).then(|| format!("{changed} invoices have other ids than they had")))
    }

    fn extent(&self) -> Result<(u64, u64), StoreError> {
        let last = |sql: &str| -> Result<u64, StoreError> {
            let n: i64 = self
                .connection
                .query_row(sql, [], |row| row.get(0))
                .map_err(sort)?;
            Ok(u64::try_from(n).unwrap_or(0))
        };
        Ok((
            last("SELECT coalesce(max(sequence), 0) FROM events")?,
            last("SELECT coalesce(max(n), 0) FROM invoices")?,
        ))
    }

    fn log(&self, each: &mut dyn FnMut(LogRow) -> ControlFlow<()>) -> Result<(), StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT sequence, type, json, digest, packed FROM events ORDER BY sequence")
            .map_err(sort)?;
        let mut found = statement.query([]).map_err(sort)?;
        while let Some(row) = found.next().map_err(sort)? {
            let sequence: i64 = row.get(0).map_err(sort)?;
            let code: i64 = row.get(1).map_err(sort)?;
            let flow = each(LogRow {
                sequence: u64::try_from(sequence).unwrap_or(0),
                kind: type_of(code)
                    .map_or_else(|| code.to_string(), |kind| kind.as_str().to_owned()),
                // What cannot be read is not what the digest is over.
                bytes: packed::event(row, 2, 4).unwrap_or_default(),
                digest: row.get(3).map_err(sort)?,
            });
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn invoices(
        &self,
        each: &mut dyn FnMut(TableRow) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut invoices = self
            .connection
            .prepare(concat!(
                "SELECT ",
                invoice_columns!(),
                " FROM invoices i ORDER BY i.n"
            ))
            .map_err(sort)?;
        let mut found = invoices.query([]).map_err(sort)?;
        while let Some(row) = found.next().map_err(sort)? {
            let n: i64 = row.get(0).map_err(sort)?;
            let name = row
                .get::<_, String>(1)
                .unwrap_or_else(|_| format!("with n = {n}"));
            let mut tables = match self.aggregate(n, rows::invoice(row)) {
                Err(StoreError::BadRow(why)) => Err(why),
                other => Ok(other?),
            };
            let events = match invoice_events::all(&self.connection, n).map_err(sort_row) {
                Err(StoreError::BadRow(why)) => {
                    tables = Err(why);
                    Vec::new()
                }
                other => other?,
            };
            let flow = each(TableRow {
                name,
                tables,
                events,
            });
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn tokens(&self) -> Result<Vec<Result<TokenRow, String>>, StoreError> {
        let sql = "SELECT n, id, name, digest, scopes, created_at, expires_at, revoked_at, revoked_by \
                   FROM tokens ORDER BY n";
        let mut statement = self.connection.prepare(sql).map_err(sort)?;
        let mut found = statement.query([]).map_err(sort)?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(sort)? {
            rows.push(token(row).map_err(|error| format!("a row cannot be read: {error}")));
        }
        Ok(rows)
    }
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        n: row.get(0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        digest: row.get(3)?,
        scopes: row.get(4)?,
        created_at: row.get(5)?,
        expires_at: row.get(6)?,
        revoked_at: row.get(7)?,
        revoked_by: row.get(8)?,
    })
}

impl SqliteCheck {
    fn aggregate(
        &self,
        n: i64,
        invoice: Result<(i64, crate::domain::Invoice), StoreError>,
    ) -> Result<Aggregate, StoreError> {
        let mut aggregate = Aggregate::new(invoice?.1);
        let sql = concat!(
            "SELECT ",
            payment_columns!(),
            " FROM payments p WHERE p.invoice = ?1 ORDER BY p.attempt"
        );
        let mut statement = self.connection.prepare_cached(sql).map_err(sort)?;
        let mut found = statement.query([n]).map_err(sort)?;
        while let Some(row) = found.next().map_err(sort)? {
            aggregate.payments.push(rows::payment(row, 0)?);
        }
        Ok(aggregate)
    }
}
