//! Which events are an invoice's.
//!
//! An index would take an entry for each event, and with invoices that are paid long after they were made, a page for
//! each. Instead an event has the sequence of the one of its invoice before it, and the invoice's row, which changes
//! with each event anyhow, that of its newest. What was written before there was this stands in an index still.
//!
//! It only says where to look. What an invoice's events come to is held against its row before money moves for it, and
//! `payd verify` counts those that it finds this way: an event that is left out shows in both.

use rusqlite::{Connection, OptionalExtension, Row};

use super::packed;

/// What was read of an invoice's events.
pub(super) struct Found<T> {
    /// Oldest first.
    pub(super) events: Vec<T>,
    /// Whether these are all. Otherwise the database is damaged.
    pub(super) whole: bool,
}

/// Reads each event of an invoice beyond `after`; the invoice by its key. Takes a step for each of them. The statements are
/// for an event of the chain and for those of before there was one; both begin with the event before it.
fn walk<T>(
    connection: &Connection,
    (invoice, after): (i64, i64),
    [chained, of_before]: [&str; 2],
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Found<T>> {
    let mut newest_first = Vec::new();
    let mut whole = true;
    let mut next: Option<i64> = connection
        .prepare_cached("SELECT newest_event FROM invoices WHERE n = ?1")?
        .query_row([invoice], |row| row.get(0))
        .optional()?
        .flatten();
    let mut chained = connection.prepare_cached(chained)?;
    while let Some(sequence) = next.filter(|it| *it > after) {
        let found: Option<(T, Option<i64>)> = chained
            .query_row([sequence, invoice], |row| Ok((read(row)?, row.get(0)?)))
            .optional()?;
        // What leads nowhere, or among those of before, which the index has, or not back: that is damaged.
        let Some((event, Some(previous))) =
            found.filter(|(_, before)| before.is_some_and(|it| it < sequence))
        else {
            whole = false;
            break;
        };
        newest_first.push(event);
        next = Some(previous);
    }
    let mut events: Vec<T> = connection
        .prepare_cached(of_before)?
        .query_map([invoice, after], &read)?
        .collect::<Result<_, _>>()?;
    events.extend(newest_first.into_iter().rev());
    Ok(Found { events, whole })
}

/// The sequences of an invoice's events beyond `after`.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn sequences(
    connection: &Connection,
    invoice: i64,
    after: i64,
) -> rusqlite::Result<Found<i64>> {
    let sql = [
        "SELECT previous, sequence FROM events WHERE sequence = ?1 AND invoice = ?2",
        "SELECT previous, sequence FROM events WHERE invoice = ?1 AND previous IS NULL AND sequence > ?2 ORDER BY sequence",
    ];
    walk(connection, (invoice, after), sql, |row| row.get(1))
}

/// The JSON of an invoice's events, for who holds them against its row: that some are missing shows there.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn all(connection: &Connection, invoice: i64) -> rusqlite::Result<Vec<Vec<u8>>> {
    let sql = [
        "SELECT previous, json, packed FROM events WHERE sequence = ?1 AND invoice = ?2",
        "SELECT previous, json, packed FROM events WHERE invoice = ?1 AND previous IS NULL AND sequence > ?2 ORDER BY sequence",
    ];
    let found = walk(connection, (invoice, 0), sql, |row| {
        packed::event(row, 1, 2)
    })?;
    Ok(found.events)
}
