//! Which events are an invoice's.
//!
//! An index would take an entry for each event, and with invoices that are paid long after they were made, a page for
//! each. Instead an event has the sequence of the one of its invoice before it, and the invoice's row, which changes
//! with each event anyhow, that of its newest. What was written before there was this stands in an index still.
//!
//! It only says where to look. What an invoice's events come to is held against its row before money moves for it, and
//! `payd verify` counts those that it finds this way: an event that is left out shows in both.

use rusqlite::{Connection, OptionalExtension};

/// The sequences of an invoice's events beyond `after`, oldest first; the invoice by its key. Takes a step for each of
/// them.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn sequences(
    connection: &Connection,
    invoice: i64,
    after: i64,
) -> rusqlite::Result<Vec<i64>> {
    let mut newest_first = Vec::new();
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
        let Some(Some(previous)) = found else { break };
        newest_first.push(sequence);
        next = Some(previous).filter(|it| *it < sequence);
    }
    let mut sequences: Vec<i64> = connection
        .prepare_cached(
            "SELECT sequence FROM events WHERE invoice = ?1 AND previous IS NULL AND sequence > ?2 ORDER BY sequence",
        )?
        .query_map([invoice, after], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    sequences.extend(newest_first.into_iter().rev());
    Ok(sequences)
}

/// The JSON of all events of an invoice, oldest first.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn all(connection: &Connection, invoice: i64) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut event = connection.prepare_cached("SELECT json FROM events WHERE sequence = ?1")?;
    sequences(connection, invoice, 0)?
        .into_iter()
        .map(|sequence| event.query_row([sequence], |row| Ok(row.get_ref(0)?.as_bytes()?.to_vec())))
        .collect()
}
