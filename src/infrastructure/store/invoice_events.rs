//! Which events are an invoice's.
//!
//! An index would take an entry for each event, and with invoices that are paid long after they were made, a page for
//! each. Instead an event has the sequence of the one of its invoice before it, and the invoice's row, which changes
//! with each event anyhow, that of its newest. What was written before there was this stands in an index still.
//!
//! It only says where to look. What an invoice's events come to is held against its row before money moves for it, and
//! `payd verify` counts those that it finds this way: an event that is left out shows in both.

use rusqlite::{Connection, OptionalExtension, Row};

/// The sequences of an invoice's events, as they are found.
pub(super) struct Sequences {
    /// Oldest first.
    pub(super) found: Vec<i64>,
    /// Whether these are all. Otherwise the database is damaged.
    pub(super) whole: bool,
}

/// The sequences of an invoice's events beyond `after`; the invoice by its key. Takes a step for each of them.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn sequences(
    connection: &Connection,
    invoice: i64,
    after: i64,
) -> rusqlite::Result<Sequences> {
    let mut newest_first = Vec::new();
    let mut whole = true;
    let mut next: Option<i64> = connection
        .prepare_cached("SELECT newest_event FROM invoices WHERE n = ?1")?
        .query_row([invoice], |row| row.get(0))
        .optional()?
        .flatten();
    let mut before = connection
        .prepare_cached("SELECT previous FROM events WHERE sequence = ?1 AND invoice = ?2")?;
    while let Some(sequence) = next.filter(|it| *it > after) {
        let found: Option<Option<i64>> = before
            .query_row([sequence, invoice], |row| row.get(0))
            .optional()?;
        // What leads nowhere, or among those of before, which the index has, or not back: that is damaged.
        let Some(Some(previous)) = found.filter(|it| it.is_some_and(|it| it < sequence)) else {
            whole = false;
            break;
        };
        newest_first.push(sequence);
        next = Some(previous);
    }
    let mut found: Vec<i64> = connection
        .prepare_cached(
            "SELECT sequence FROM events WHERE invoice = ?1 AND previous IS NULL AND sequence > ?2 ORDER BY sequence",
        )?
        .query_map([invoice, after], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    found.extend(newest_first.into_iter().rev());
    Ok(Sequences { found, whole })
}

/// The JSON of an invoice's events, oldest first, for who holds them against its row: that some are missing shows there.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn all(connection: &Connection, invoice: i64) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut event = connection.prepare_cached("SELECT json FROM events WHERE sequence = ?1")?;
    let bytes = |row: &Row<'_>| Ok(row.get_ref(0)?.as_bytes()?.to_vec());
    sequences(connection, invoice, 0)?
        .found
        .into_iter()
        .filter_map(|sequence| event.query_row([sequence], bytes).optional().transpose())
        .collect()
}
