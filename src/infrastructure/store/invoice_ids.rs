//! Which invoice has an id.
//!
//! Clients choose ids. Those in order (UUIDv7, numbers) cost an index of text next to nothing, and those in no order a
//! page each, of a tree with sixty on a page. So ids are found by hashes (hashes.rs), but for those that come in order, which
//! are written as they are, in stretches (stretches.rs).
//!
//! Of an id that is greater than all that there are it is known without a look that it is new. One that is greater than all
//! of those that have left memory can only be in memory: clients who send them in order, on many connections, never wait
//! for the disk.
//!
//! What it must never do: miss an invoice, or take a second one with the same id. So [`InvoiceIds::add`] sees for itself
//! that there is none. And a row has the hash beside its id: a bit that flips in either does not make another invoice of
//! it, since it is found under both, and is not what it says.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use crate::application::ports::StoreError;
use crate::application::request::first_eight;
use crate::domain::InvoiceId;

use super::error::{is_corrupt, sort, sort_row};
use super::filters::Known;
use super::hashes::{self, Hashes, Missing, Recent, Sizes, Table, table};
use super::runs::Trouble;
use super::stretches::{Bounds, Newest, ORDER, Order};
use super::{ahead, late, leaves, stretches};

/// Where the greatest id is noted that an invoice may have of those that the table has: its hash in hexadecimal, a space,
/// and the id.
const GREATEST: &str = "greatest_invoice_id";

/// Greater than any id.
pub(super) const UNKNOWN: &str = "\u{10ffff}";

pub(super) static TABLE: Table = table!(
    "invoice_ids",
    "invoice_id_runs",
    "invoice_id_filters",
    "invoice_id_leaves"
);

/// Fewer gather than of keys, since newest ids wait beside them.
const SIZES: Sizes = Sizes {
    run: hashes::SIZES.run - ORDER.waiting,
    ..hashes::SIZES
};

/// The first eight bytes of an id's SHA-256, by which it is found. Nobody finds two ids with the same one by trying as
/// long as an id costs.
pub(super) fn id_hash(id: &[u8]) -> i64 {
    first_eight(&Sha256::digest(id))
}

/// Makes [`id_hash`] known to SQL, for migrations and checks.
///
/// # Errors
/// SQLite's.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    hashes::define(connection, "invoice_hash", 1, |context| {
        // What is no text is damaged: it is found under no id.
        Ok(id_hash(context.get_raw(0).as_bytes().unwrap_or_default()))
    })
}

/// Where an id is to be looked for.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) hash: i64,
    /// Rows, by number, that may have it, and are not in the table of hashes.
    pub(super) rows: Vec<i64>,
    /// Whether that may have others.
    pub(super) table: bool,
}

/// The index, for the writer.
#[derive(Debug)]
pub(super) struct InvoiceIds {
    hashes: Hashes,
    /// What may come into stretches, and what is there.
    newest: Newest,
    bounds: Bounds,
    /// Rows that stretches have under some ids, for as long as the transaction writes none.
    in_stretches: HashMap<InvoiceId, Vec<i64>, RandomState>,
    /// No invoice has an id that is greater. SQLite compares text by its bytes, as Rust does.
    greatest: String,
    /// The same of those that do not gather.
    written: String,
}

impl InvoiceIds {
    /// As the database has them.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn open(connection: &Connection) -> Result<Self, StoreError> {
        Self::open_with(connection, SIZES, ORDER)
    }

    fn open_with(connection: &Connection, sizes: Sizes, order: Order) -> Result<Self, StoreError> {
        // It was noted as a run was written.
        let in_runs = greatest(connection).map_err(sort)?;
        let bounds = Bounds::read(connection).map_err(sort)?;
        let mut greatest = in_runs.clone();
        let mut newest = Newest::new(order);
        let hashes = Hashes::open(connection, &TABLE, sizes, |from, each| {
            let in_stretches = stretches::after(connection, from)?;
            let sql = "SELECT n, id_hash, id FROM invoices WHERE n > ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let mut found = statement.query([from])?;
            while let Some(row) = found.next()? {
                let (n, hash) = (row.get(0)?, row.get(1)?);
                let is_written = in_stretches.binary_search(&n).is_ok();
                each(if is_written {
                    Missing::Elsewhere(n)
                } else {
                    Missing::Entry((hash, n))
                });
                let id = row.get_ref(2)?.as_bytes().unwrap_or_default();
                let own = id_hash(id);
                if own != hash {
                    // Damaged: whoever looks for it finds that, and what it was nobody knows.
                    each(Missing::Entry((own, n)));
                    UNKNOWN.clone_into(&mut greatest);
                    continue;
                }
                if id > greatest.as_bytes() {
                    greatest = String::from_utf8_lossy(id).into_owned();
                }
                let id = std::str::from_utf8(id).ok().map(InvoiceId::parse);
                if let Some(Ok(id)) = id
                    && !is_written
                {
                    newest.read(id, (hash, n));
                }
            }
            Ok(())
        })?;
        if hashes.is_damaged() {
            // Some of what gathers once more may be in the table.
            newest = Newest::new(order);
        }
        let written = in_runs.max(bounds.greatest().to_owned());
        Ok(Self {
            hashes,
            newest,
            bounds,
            in_stretches: HashMap::default(),
            greatest,
            written,
        })
    }

    /// What readers are to know.
    pub(super) fn recent(&self) -> Arc<Recent> {
        self.hashes.recent()
    }

    /// What is known of filters, to be shared.
    pub(super) fn known(&self) -> Arc<Mutex<Known>> {
        self.hashes.known()
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self) {
        self.hashes.begin();
        self.in_stretches.clear();
    }

    /// Whether no invoice has this id, as far as that is known without a look.
    fn is_beyond_all(&self, id: &InvoiceId) -> bool {
        id.as_str() > self.greatest.as_str()
    }

    /// Whether an invoice with this id, if there is one, gathers in memory.
    pub(super) fn is_beyond_written(&self, id: &InvoiceId) -> bool {
        id.as_str() > self.written.as_str()
    }

    /// Whether a stretch may have this id.
    pub(super) fn may_be_in_stretch(&self, id: &InvoiceId) -> bool {
        self.bounds.have(id.as_str())
    }

    /// Looks for an id in the stretches. Says whether there is anything under its hash. What cannot be read there costs who
    /// asks for it again.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn look_in_stretches(
        &mut self,
        connection: &Connection,
        (id, hash): (&InvoiceId, i64),
    ) -> rusqlite::Result<bool> {
        match stretches::rows(connection, id.as_str(), hash) {
            Ok(rows) => {
                let is_any = !rows.is_empty();
                self.in_stretches.insert(id.clone(), rows);
                Ok(is_any)
            }
            Err(Trouble::Sqlite(error)) if !is_corrupt(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// The rows that stretches have under an id's hash.
    fn in_stretches(
        &self,
        connection: &Connection,
        (id, hash): (&InvoiceId, i64),
    ) -> Result<Vec<i64>, StoreError> {
        if !self.may_be_in_stretch(id) {
            return Ok(Vec::new());
        }
        if let Some(rows) = self.in_stretches.get(id) {
            return Ok(rows.clone());
        }
        stretches::rows(connection, id.as_str(), hash).map_err(Trouble::of_row)
    }

    /// Those of many hashes that the table may have, but for what gathers.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn sift(
        &mut self,
        connection: &Connection,
        hashes: Vec<i64>,
    ) -> rusqlite::Result<Vec<i64>> {
        self.hashes.sift(connection, hashes)
    }

    /// Looks for these in the table. Says how long that took.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn look(
        &mut self,
        connection: &Connection,
        hashes: &[i64],
    ) -> rusqlite::Result<Duration> {
        let started = Instant::now();
        self.hashes.look(connection, hashes)?;
        Ok(started.elapsed())
    }

    /// The rows that the table has under a hash.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn in_table(
        &self,
        connection: &Connection,
        hash: i64,
    ) -> Result<Vec<i64>, StoreError> {
        let rows = self.hashes.rows_in_table(connection, hash);
        rows.map_err(Trouble::of_row)
    }

    /// Where an invoice is, if it is anywhere. What waits to be written is in memory already.
    ///
    /// # Errors
    /// Where it cannot be looked for.
    pub(super) fn places(
        &self,
        connection: &Connection,
        id: &InvoiceId,
    ) -> Result<Option<Places>, StoreError> {
        if self.is_beyond_all(id) {
            return Ok(None);
        }
        let hash = id_hash(id.as_str().as_bytes());
        let (rows, table) = if self.is_beyond_written(id) {
            (self.hashes.gathered(hash), false)
        } else {
            let rows = self.hashes.rows(connection, hash);
            let mut rows = rows.map_err(Trouble::of_row)?;
            rows.extend(self.in_stretches(connection, (id, hash))?);
            (rows, self.hashes.may_be_in_table(hash))
        };
        let places = Places { hash, rows, table };
        Ok((places.table || !places.rows.is_empty()).then_some(places))
    }

    /// It was looked for everywhere, and nothing has this hash.
    pub(super) fn not_there(&mut self, hash: i64) {
        self.hashes.not_there(hash);
    }

    /// A new invoice has this id. Those have been written that may have the same: [`Self::may_wait`].
    ///
    /// # Errors
    /// Where there is one already, or that cannot be seen.
    pub(super) fn add(
        &mut self,
        connection: &Connection,
        (id, hash, n): (&InvoiceId, i64, i64),
    ) -> Result<(), StoreError> {
        let text = id.as_str();
        let gathers = self.is_beyond_written(id) || self.is_beyond_all(id);
        let rows = if gathers {
            self.hashes.gathered(hash)
        } else {
            self.hashes.rows(connection, hash)?
        };
        let mut other = None;
        for n in rows {
            other = other.or(by_number(connection, n, (hash, id))?.flatten());
        }
        if other.is_none() && !gathers {
            let rows = self.in_stretches(connection, (id, hash))?;
            other = the_one(connection, rows, (hash, id))?;
        }
        if other.is_none() && !gathers && self.hashes.may_be_in_table(hash) {
            let rows = self.in_table(connection, hash)?;
            other = the_one(connection, rows, (hash, id))?;
        }
        if other.is_some() {
            return Err(StoreError::Constraint(format!("there is an invoice {id}")));
        }
        self.hashes.add((hash, n));
        self.newest.add(id.clone(), (hash, n));
        if text > self.greatest.as_str() {
            text.clone_into(&mut self.greatest);
        }
        Ok(())
    }

    /// Whether an invoice with this hash may not have been written yet.
    pub(super) fn may_wait(&self, hash: i64) -> bool {
        !self.hashes.gathered(hash).is_empty()
    }

    /// The transaction is about to be committed: writes some of it, where it is time.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub(super) fn bring(&mut self, connection: &Connection) -> Result<(), Trouble> {
        self.in_stretches.clear();
        self.newest.bring(connection, &mut self.bounds)?;
        if self
            .hashes
            .bring(connection, i64::MIN, || self.newest.from())?
        {
            // What is newer than the runs is read at a start.
            connection
                .prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")
                .and_then(|mut statement| statement.execute((GREATEST, noted(&self.greatest))))?;
        }
        Ok(())
    }

    /// Whether there are runs that have more than a few entries.
    pub(super) fn has_runs(&self) -> bool {
        self.hashes.has_runs()
    }

    /// Whether the other index has some.
    pub(super) const fn other_has_runs(&mut self, has_runs: bool) {
        self.hashes.other_has_runs(has_runs);
    }

    /// The leaves that are merged next, where it is time to read them.
    pub(super) fn next_leaves(&mut self) -> Option<ahead::Look> {
        self.hashes.next_leaves()
    }

    /// It is committed.
    pub(super) fn committed(&mut self) {
        let in_stretches = self.newest.committed();
        if !in_stretches.is_empty() && self.bounds.greatest() > self.written.as_str() {
            self.bounds.greatest().clone_into(&mut self.written);
        }
        if self.hashes.committed(&in_stretches) {
            self.written.clone_from(&self.greatest);
        }
    }

    /// It is rolled back. What was the greatest may not be there, and nothing is beyond it all the same.
    pub(super) fn rolled_back(&mut self) {
        self.hashes.rolled_back();
        self.newest.rolled_back();
    }
}

/// How the greatest id is noted.
fn noted(id: &str) -> String {
    format!("{:016x} {id}", id_hash(id.as_bytes()))
}

/// The greatest id that is noted. A note that is damaged says nothing.
fn greatest(connection: &Connection) -> rusqlite::Result<String> {
    let note: String = connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([GREATEST], |row| row.get(0))?;
    let id = note.split_once(' ').map(|(_, id)| id);
    let id = id.filter(|id| noted(id) == note).unwrap_or(UNKNOWN);
    Ok(id.to_owned())
}

/// A look for an invoice, for readers.
pub(super) struct Look<'a> {
    id: &'a InvoiceId,
    hash: i64,
    /// What the writer has in memory, if it is in this process, and where that says to look.
    recent: Option<(&'a Recent, hashes::Places)>,
}

impl<'a> Look<'a> {
    /// Before the snapshot begins in which it is looked for.
    pub(super) fn new(recent: Option<&'a Recent>, id: &'a InvoiceId) -> Self {
        let hash = id_hash(id.as_str().as_bytes());
        Self {
            id,
            hash,
            recent: recent.map(|recent| (recent, recent.places(hash))),
        }
    }

    /// The invoice's number.
    ///
    /// # Errors
    /// Where it cannot be looked for, or has another id than it had.
    pub(super) fn number(&self, connection: &Connection) -> Result<Option<i64>, StoreError> {
        let (id, hash) = (self.id, self.hash);
        let in_table = || leaves::rows(connection, &TABLE, hash).map_err(Trouble::of_row);
        let in_stretches =
            || stretches::rows(connection, id.as_str(), hash).map_err(Trouble::of_row);
        let Some((recent, places)) = &self.recent else {
            if let Some(n) = the_one(connection, in_stretches()?, (hash, id))? {
                return Ok(Some(n));
            }
            if let Some(n) = the_one(connection, in_table()?, (hash, id))? {
                return Ok(Some(n));
            }
            let sql = "SELECT n FROM invoices \
                 WHERE n > (SELECT until FROM late WHERE name = 'invoice_ids') AND (id_hash = ?1 OR invoice_hash(id) = ?1)";
            let mut statement = connection.prepare_cached(sql).map_err(sort)?;
            let mut found = statement.query([hash]).map_err(sort)?;
            while let Some(row) = found.next().map_err(sort_row)? {
                let n = row.get(0).map_err(sort)?;
                if let Some(n) = the_one(connection, vec![n], (hash, id))? {
                    return Ok(Some(n));
                }
            }
            return Ok(None);
        };
        let rows = places.rows(connection, &TABLE, hash);
        for n in rows.map_err(Trouble::of_row)? {
            match by_number(connection, n, (hash, id)) {
                Ok(None | Some(None)) => {}
                // It was to be another's, whose transaction was rolled back.
                Err(StoreError::BadRow(_)) if places.gathered(n) && !recent.gathers(hash, n) => {}
                found => return Ok(found?.flatten()),
            }
        }
        if let Some(n) = the_one(connection, in_stretches()?, (hash, id))? {
            return Ok(Some(n));
        }
        the_one(connection, in_table()?, (hash, id))
    }
}

/// The number of the invoice with this id, of those with these numbers, which are all there.
fn the_one(
    connection: &Connection,
    rows: Vec<i64>,
    (hash, id): (i64, &InvoiceId),
) -> Result<Option<i64>, StoreError> {
    for n in rows {
        let found = by_number(connection, n, (hash, id))?;
        let found = found.ok_or_else(|| gone(n, id))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Whether the invoice with a number has this id: if there is one.
fn by_number(
    connection: &Connection,
    n: i64,
    (hash, id): (i64, &InvoiceId),
) -> Result<Option<Option<i64>>, StoreError> {
    let sql = "SELECT id FROM invoices WHERE n = ?1";
    let mut statement = connection.prepare_cached(sql).map_err(sort)?;
    let mut found = statement.query([n]).map_err(sort)?;
    let Some(row) = found.next().map_err(sort_row)? else {
        return Ok(None);
    };
    let has = row.get_ref(0).map_err(sort)?.as_bytes().unwrap_or_default();
    if has == id.as_str().as_bytes() {
        return Ok(Some(Some(n)));
    }
    unlike(n, has, (hash, id))?;
    Ok(Some(None))
}

/// The index names an invoice that is not there, and may have been this one: none ever goes.
pub(super) fn gone(n: i64, id: &InvoiceId) -> StoreError {
    let why = format!("invoice {n} is gone, which is looked for under {id}");
    StoreError::BadRow(why)
}

/// An invoice that was found by the hash of an id has another one. Once in all time that may be so.
///
/// # Errors
/// Otherwise it is damaged.
pub(super) fn unlike(n: i64, has: &[u8], (hash, id): (i64, &InvoiceId)) -> Result<(), StoreError> {
    if id_hash(has) == hash {
        return Ok(());
    }
    let has = String::from_utf8_lossy(has);
    let why = format!("invoices.id of {n} is {has:?}, and it is found under {id}");
    Err(StoreError::BadRow(why))
}

/// What is wrong with the index, for who checks: each invoice up to where it is complete is in it, nothing else is, and
/// no two have one id.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn fault(connection: &Connection) -> Result<Option<String>, StoreError> {
    let rows = ("SELECT n, id_hash AS hash FROM invoices", i64::MIN);
    let in_stretches: &hashes::Elsewhere = &|connection, each| stretches::fault(connection, each);
    if let Some(fault) = hashes::fault(connection, &TABLE, rows, in_stretches, "invoice ids")? {
        return Ok(Some(fault));
    }
    let until = late::until(connection, TABLE.name).map_err(sort)?;
    let written_to = hashes::written_to(connection, &TABLE).map_err(sort)?;
    let last: Option<String> = connection
        .query_row(
            "SELECT max(id) FROM invoices WHERE n <= ?1",
            [written_to],
            |row| row.get(0),
        )
        .map_err(sort)?;
    let greatest = greatest(connection).map_err(sort)?;
    if greatest == UNKNOWN || last.is_some_and(|last| last > greatest) {
        return Ok(Some(
            "the greatest id of an invoice is not the one that is noted".to_owned(),
        ));
    }
    let twice = twice(connection, until)?;
    Ok(twice.map(|id| format!("there are two invoices {id}")))
}

/// An id that two invoices have; those up to a number are in the table.
fn twice(connection: &Connection, until: i64) -> Result<Option<String>, StoreError> {
    let new = "SELECT id FROM invoices WHERE n > ?1 GROUP BY id HAVING count(*) > 1";
    let new: Option<String> = connection
        .query_row(new, [until], |row| row.get(0))
        .optional()
        .map_err(sort)?;
    if new.is_some() {
        return Ok(new);
    }
    let same =
        "SELECT i.id FROM invoices i JOIN invoices j ON j.id = i.id WHERE i.n = ?1 AND j.n = ?2";
    let mut same = connection.prepare_cached(same).map_err(sort)?;
    let mut same = |one: i64, other: i64| {
        let id = same.query_row([one, other], |row| row.get(0)).optional();
        id.map(|id: Option<String>| id.filter(|_| one != other))
    };
    // Those in the table that have one hash, which are next to each other.
    let mut found = Ok(None);
    let mut group: Vec<(i64, i64)> = Vec::new();
    leaves::between(connection, &TABLE, (i64::MIN, i64::MAX), |entry| {
        group.retain(|it| it.0 == entry.0);
        for (_, n) in &group {
            found = same(*n, entry.1);
            if !matches!(found, Ok(None)) {
                return ControlFlow::Break(());
            }
        }
        group.push(entry);
        ControlFlow::Continue(())
    })?;
    let found = found.map_err(sort)?;
    if found.is_some() {
        return Ok(found);
    }
    // Those in one stretch, and others in the table.
    let mut found = Ok(None);
    let mut group: Vec<(i64, i64)> = Vec::new();
    stretches::fault(connection, |(hash, n)| {
        if !matches!(found, Ok(None)) {
            return;
        }
        group.retain(|it| it.0 == hash);
        let others = leaves::rows(connection, &TABLE, hash);
        found = others.and_then(|others| {
            let others = others.into_iter().chain(group.iter().map(|it| it.1));
            for other in others {
                let found = same(n, other)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        });
        group.push((hash, n));
    })?;
    let found = found?;
    if found.is_some() {
        return Ok(found);
    }
    // Those that are new, and others in the table or in stretches.
    let new = "SELECT n, invoice_hash(id), id FROM invoices WHERE n > ?1";
    let mut new = connection.prepare_cached(new).map_err(sort)?;
    let mut new = new.query([until]).map_err(sort)?;
    while let Some(row) = new.next().map_err(sort)? {
        let (n, hash) = (row.get(0).map_err(sort)?, row.get(1).map_err(sort)?);
        let id = row.get_ref(2).map_err(sort)?.as_bytes().unwrap_or_default();
        let id = String::from_utf8_lossy(id);
        let mut others = leaves::rows(connection, &TABLE, hash)?;
        others.extend(stretches::rows(connection, &id, hash)?);
        for other in others {
            let found = same(n, other).map_err(sort)?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// How many invoices have another id than they had: nobody finds those any more.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn changed(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT count(*) FROM invoices WHERE id_hash <> invoice_hash(id)";
    connection.query_row(sql, [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::schema;
    use super::super::testing::{Chance, FEW, LARGER, SMALL, SOME, entries, put};
    use super::*;

    fn id(text: &str) -> InvoiceId {
        InvoiceId::parse(text).unwrap()
    }

    fn migrated(path: &Path) -> Connection {
        let mut connection = Connection::open(path).unwrap();
        schema::migrate(&mut connection, path).unwrap();
        register(&connection).unwrap();
        connection
    }

    fn open(connection: &Connection) -> InvoiceIds {
        InvoiceIds::open_with(connection, SMALL, FEW).unwrap()
    }

    /// As the writer does: an id that it has not found is looked for once more as it is added.
    fn make(connection: &Connection, ids: &mut InvoiceIds, text: &str, n: i64) {
        let hash = id_hash(text.as_bytes());
        ids.add(connection, (&id(text), hash, n)).unwrap();
        let sql = "INSERT INTO invoices (n, id, amount, currency, metadata, status, attempts, attempts_before_round, \
             needs_attention, cancel_requested, created_at, updated_at, id_hash) \
             VALUES (?1, ?2, 1, 'EUR', '{}', 0, 0, 0, 0, 0, 0, 0, ?3)";
        connection.execute(sql, (n, text, hash)).unwrap();
    }

    fn find(connection: &Connection, ids: &InvoiceIds, text: &str) -> Option<i64> {
        let id = id(text);
        let places = ids.places(connection, &id).unwrap()?;
        let name = (places.hash, &id);
        let look = |n: &i64| by_number(connection, *n, name).unwrap().flatten();
        let found = places.rows.iter().find_map(look);
        if found.is_some() || !places.table {
            return found;
        }
        let rows = ids.in_table(connection, places.hash).unwrap();
        the_one(connection, rows, name).unwrap()
    }

    #[test]
    fn what_was_made_is_found_and_nothing_else_over_rollbacks_and_restarts() {
        for (sizes, order) in [(SMALL, FEW), (LARGER, SOME)] {
            invoices_are_found(sizes, order);
        }
    }

    fn invoices_are_found(sizes: Sizes, order: Order) {
        let connection = migrated(Path::new(""));
        let open =
            |connection: &Connection| InvoiceIds::open_with(connection, sizes, order).unwrap();
        let mut ids = open(&connection);
        let mut chance = Chance(11);
        let mut made: BTreeMap<String, i64> = BTreeMap::new();
        let (mut newest, mut in_order, mut beyond) = (0, 0, 0);
        let (mut absent, mut spared) = (0, 0);
        let mut late: Vec<String> = Vec::new();
        for round in 0..2400 {
            connection.execute_batch("BEGIN").unwrap();
            ids.begin();
            let before = (made.clone(), newest);
            // At times very many are made, and rolled back.
            let flood = round % 12 == 0;
            // Of one hundred rounds ids come in no order, of one in order, of one in two orders, and then again.
            let orders = round / 100 % 3;
            let asked: Vec<_> = (0..chance.below(if flood { 90 } else { 9 }))
                .map(|_| {
                    if chance.below(if orders == 0 { 2 } else { 20 }) == 0 {
                        return format!("{:x}", chance.below(4000));
                    }
                    if chance.below(40) == 0 {
                        // One of before, or one that will come later or never.
                        let n = chance.below(2 * in_order + 2);
                        return format!("m-{n:06}");
                    }
                    in_order += 1;
                    let stream = ["m-", "m-", "b."][usize::from(orders == 2) * chance.place(3)];
                    late.push(format!("{stream}{in_order:06}"));
                    late.swap_remove(chance.place(late.len().min(3) as u64))
                })
                .collect();
            if chance.below(3) > 0 {
                let hashes = asked.iter().map(|it| id_hash(it.as_bytes())).collect();
                let left = ids.sift(&connection, hashes).unwrap();
                spared += asked.len() - left.len();
                absent += left.len();
                ids.look(&connection, &left).unwrap();
            }
            for text in asked {
                let standing = made.get(&text).copied();
                beyond += usize::from(ids.is_beyond_all(&id(&text)));
                assert_eq!(find(&connection, &ids, &text), standing, "{round}: {text}");
                let entry = (&id(&text), id_hash(text.as_bytes()), newest + 1);
                if standing.is_some() {
                    let refused = ids.add(&connection, entry).unwrap_err();
                    assert!(matches!(refused, StoreError::Constraint(_)), "{refused:?}");
                } else {
                    newest += 1;
                    make(&connection, &mut ids, &text, newest);
                    made.insert(text, newest);
                }
            }
            ids.bring(&connection).unwrap();
            if flood || chance.below(4) == 0 {
                connection.execute_batch("ROLLBACK").unwrap();
                ids.rolled_back();
                (made, newest) = before;
            } else {
                connection.execute_batch("COMMIT").unwrap();
                ids.committed();
            }
            if chance.below(20) == 0 {
                ids = open(&connection);
            }
            // A flood takes some more.
            let room = 2 * sizes.merged + 2 + 90 / sizes.run;
            assert!(ids.hashes.runs() <= room, "{round}: {}", ids.hashes.runs());
            if round % 50 == 0 {
                assert_eq!(fault(&connection).unwrap(), None, "{round}");
                let recent = ids.recent();
                for (text, n) in &made {
                    assert_eq!(find(&connection, &ids, text), Some(*n), "{round}: {text}");
                    for recent in [Some(&*recent), None] {
                        let seen = Look::new(recent, &id(text)).number(&connection).unwrap();
                        assert_eq!(seen, Some(*n), "{round}: {text}");
                    }
                }
                assert_eq!(
                    Look::new(Some(&recent), &id("none"))
                        .number(&connection)
                        .unwrap(),
                    None
                );
            }
        }
        let moved = late::until(&connection, TABLE.name).unwrap();
        let mut in_stretches = 0;
        stretches::fault(&connection, |_| in_stretches += 1).unwrap();
        let enough =
            moved > 2000 && beyond > 20 && absent > 300 && spared > 2000 && in_stretches > 1000;
        assert!(
            enough,
            "{moved}, {beyond}, {absent}, {spared}, {in_stretches}"
        );
    }

    /// An entry leaves memory as the table gets it: nobody who looks meanwhile may find it in neither.
    #[test]
    fn readers_find_what_was_committed_while_it_moves() {
        for in_order in [false, true] {
            readers_find_what_moves(in_order);
        }
    }

    fn readers_find_what_moves(in_order: bool) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("payd.db");
        let connection = migrated(&path);
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        connection
            .pragma_update(None, "synchronous", "OFF")
            .unwrap();
        let mut ids = open(&connection);
        let (recent, made, over) = (ids.recent(), Mutex::new(Vec::new()), AtomicBool::new(false));
        let read = || {
            let reader = Connection::open(&path).unwrap();
            let mut chance = Chance(3);
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                // The newest are those that move.
                let text: String = {
                    let made: std::sync::MutexGuard<'_, Vec<String>> = made.lock().unwrap();
                    let near = made.len().min(100);
                    if near == 0 {
                        continue;
                    }
                    let back = usize::try_from(chance.below(near as u64)).unwrap();
                    made[made.len() - 1 - back].clone()
                };
                let found = Look::new(Some(&recent), &id(&text))
                    .number(&reader)
                    .unwrap();
                assert!(found.is_some(), "{text}");
                looks += 1;
            }
            looks
        };
        std::thread::scope(|scope| {
            let readers = [scope.spawn(read), scope.spawn(read)];
            for n in 1..=6000 {
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                ids.begin();
                let text = if in_order {
                    format!("m-{n:08}")
                } else {
                    format!("{:x}", id_hash(&i64::to_be_bytes(n)))
                };
                make(&connection, &mut ids, &text, n);
                ids.bring(&connection).unwrap();
                connection.execute_batch("COMMIT").unwrap();
                ids.committed();
                made.lock().unwrap().push(text);
            }
            over.store(true, Ordering::Relaxed);
            for reader in readers {
                assert!(reader.join().unwrap() > 0);
            }
        });
        assert!(late::until(&connection, TABLE.name).unwrap() > 5000);
        let in_stretches = stretches::after(&connection, 0).unwrap().len();
        assert!(!in_order || in_stretches > 5000, "{in_stretches}");
    }

    /// What comes in order, and now and then one that does not: runs have little, are merged all the same, and a start reads
    /// few rows.
    #[test]
    fn where_most_are_in_stretches_runs_are_as_few_as_ever() {
        let connection = migrated(Path::new(""));
        let (sizes, order) = (LARGER, SOME);
        let mut ids = InvoiceIds::open_with(&connection, sizes, order).unwrap();
        let mut most = 0;
        for n in 1..=9000 {
            connection.execute_batch("BEGIN").unwrap();
            ids.begin();
            let text = if n % 50 == 7 {
                format!("{:x}", id_hash(&i64::to_be_bytes(n)))
            } else {
                format!("m-{n:08}")
            };
            make(&connection, &mut ids, &text, n);
            ids.bring(&connection).unwrap();
            connection.execute_batch("COMMIT").unwrap();
            ids.committed();
            most = most.max(ids.hashes.runs());
        }
        assert!(most <= 2 * sizes.merged, "{most}");
        let written_to = hashes::written_to(&connection, &TABLE).unwrap();
        let room = sizes.run + 2 * order.waiting;
        assert!(
            9000 - written_to <= i64::try_from(room).unwrap(),
            "{written_to}"
        );
        let in_table = entries(&connection, &TABLE).len();
        assert!((100..600).contains(&in_table), "{in_table}");
        assert_eq!(fault(&connection).unwrap(), None);
    }

    /// One of them is in a stretch; the other one comes after, or is in the table.
    #[test]
    fn a_second_invoice_with_an_id_that_is_in_a_stretch_is_seen() {
        for in_table in [false, true] {
            let connection = migrated(Path::new(""));
            let mut ids = open(&connection);
            make_in_order(&connection, &mut ids, 1..101);
            assert!(stretches::after(&connection, 0).unwrap().contains(&1));
            ids.begin();
            let entry = (&id("m-00000001"), id_hash(b"m-00000001"), 101);
            let refused = ids.add(&connection, entry).unwrap_err();
            assert!(matches!(refused, StoreError::Constraint(_)), "{refused:?}");
            make(&connection, &mut ids, "n", 101);
            let twice = "UPDATE invoices SET id = 'm-00000001', id_hash = invoice_hash('m-00000001') WHERE n = 101";
            connection.execute_batch(twice).unwrap();
            if in_table {
                let stretches = stretches::after(&connection, 0).unwrap();
                let stretches: Vec<_> = stretches.iter().map(i64::to_string).collect();
                let greatest = "UPDATE meta SET value = ?1 WHERE name = 'greatest_invoice_id'";
                connection.execute(greatest, [noted("m-00000100")]).unwrap();
                let all = "DELETE FROM invoice_id_leaves; DELETE FROM invoice_id_runs; DELETE FROM invoice_id_filters;
                     UPDATE late SET until = 101, merging_to = NULL, merged_to = NULL, digest = late_digest(name, 101)
                     WHERE name = 'invoice_ids'";
                connection.execute_batch(all).unwrap();
                let rest = format!(
                    "SELECT id_hash, n FROM invoices WHERE n NOT IN ({})",
                    stretches.join(", ")
                );
                put(&connection, &TABLE, &rest);
            }
            let said = fault(&connection).unwrap().unwrap();
            assert_eq!(said, "there are two invoices m-00000001", "{in_table}");
        }
    }

    /// In order, each in a commit.
    fn make_in_order(connection: &Connection, ids: &mut InvoiceIds, rows: std::ops::Range<i64>) {
        for n in rows {
            ids.begin();
            make(connection, ids, &format!("m-{n:08}"), n);
            ids.bring(connection).unwrap();
            ids.committed();
        }
    }

    #[test]
    fn where_the_last_stretch_or_the_least_is_damaged_invoices_are_made_all_the_same() {
        for which in ["max", "min"] {
            let connection = migrated(Path::new(""));
            let mut ids = open(&connection);
            make_in_order(&connection, &mut ids, 1..200);
            let damage = format!(
                "UPDATE invoice_id_stretches SET entries = zeroblob(50) \
                 WHERE first = (SELECT {which}(first) FROM invoice_id_stretches)"
            );
            assert_eq!(connection.execute(&damage, []).unwrap(), 1);
            for last in [230, 300, 400] {
                ids = open(&connection);
                assert_eq!(ids.bounds, Bounds::Unknown);
                let first = ids.hashes.newest() + 1;
                make_in_order(&connection, &mut ids, first..last);
                let second = id("m-00000007");
                let refused = ids.add(&connection, (&second, id_hash(b"m-00000007"), last));
                assert!(
                    matches!(refused, Err(StoreError::Constraint(_))),
                    "{refused:?}"
                );
            }
            assert!(fault(&connection).unwrap().is_some());
        }
    }

    #[test]
    fn an_id_in_a_stretch_that_is_no_text_any_more_is_told_of() {
        let connection = migrated(Path::new(""));
        let mut ids = open(&connection);
        make_in_order(&connection, &mut ids, 1..200);
        let damage = "UPDATE invoices SET id = CAST(x'6d2dff' AS TEXT) WHERE n = 20";
        connection.execute(damage, []).unwrap();
        let said = fault(&connection).unwrap().unwrap();
        assert!(said.contains("for row 20 that is not right"), "{said}");
    }

    /// What is read from the rows once more is in the table in part, and comes into no stretch.
    #[test]
    fn where_runs_are_made_anew_nothing_is_in_two_places() {
        let connection = migrated(Path::new(""));
        let mut ids =
            InvoiceIds::open_with(&connection, SMALL, Order { waiting: 1, ..FEW }).unwrap();
        make_in_order(&connection, &mut ids, 1..75);
        assert!(!entries(&connection, &TABLE).is_empty() && ids.hashes.runs() > 1);
        let damage = "UPDATE invoice_id_runs SET entries = x'00'";
        assert!(connection.execute(damage, []).unwrap() > 0);
        let mut ids = open(&connection);
        make_in_order(&connection, &mut ids, 75..400);
        assert!(!stretches::after(&connection, 75).unwrap().is_empty());
        assert_eq!(fault(&connection).unwrap(), None);
    }

    /// Whoever asks for an id in it gets an error, whatever payd knows; others do not notice, and what is newer can come.
    #[test]
    fn a_stretch_that_is_damaged_costs_those_that_are_in_it() {
        let connection = migrated(Path::new(""));
        let mut ids = open(&connection);
        make_in_order(&connection, &mut ids, 1..201);
        let damage = "UPDATE invoice_id_stretches SET entries = zeroblob(100) WHERE n = 5";
        assert_eq!(connection.execute(damage, []).unwrap(), 1);
        let said = fault(&connection).unwrap().unwrap();
        assert!(said.contains("ids in order"), "{said}");
        for reopened in [false, true] {
            ids.begin();
            let recent = ids.recent();
            let mut hit = 0;
            for n in 1..=200 {
                let id = id(&format!("m-{n:08}"));
                let look = Look::new(Some(&recent), &id).number(&connection);
                let places = ids.places(&connection, &id);
                let added = ids.add(&connection, (&id, id_hash(id.as_str().as_bytes()), 201));
                match look {
                    Ok(found) => {
                        assert_eq!(found, Some(n));
                        assert!(matches!(added, Err(StoreError::Constraint(_))), "{added:?}");
                        let rows = places.unwrap().unwrap().rows;
                        assert!(rows.is_empty() || rows == [n]);
                    }
                    Err(StoreError::BadRow(_)) => {
                        assert!(matches!(places, Err(StoreError::BadRow(_))), "{places:?}");
                        assert!(added.is_err());
                        hit += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(hit, 3, "{reopened}");
            ids.rolled_back();
            ids.begin();
            make(
                &connection,
                &mut ids,
                if reopened { "n-2" } else { "n-1" },
                201 + i64::from(reopened),
            );
            ids.bring(&connection).unwrap();
            ids.committed();
            ids = open(&connection);
        }
    }

    #[test]
    fn two_invoices_with_one_id_are_seen_wherever_they_are() {
        // Of invoices 1 and 2, so many are in the table.
        for in_table in 0..=2 {
            let connection = migrated(Path::new(""));
            let mut ids = open(&connection);
            ids.begin();
            make(&connection, &mut ids, "a", 1);
            make(&connection, &mut ids, "b", 2);
            let until = "UPDATE late SET until = ?1, digest = late_digest('invoice_ids', ?1) WHERE name = 'invoice_ids'";
            connection.execute(until, [in_table]).unwrap();
            let greatest = "UPDATE meta SET value = ?1 WHERE name = 'greatest_invoice_id'";
            connection.execute(greatest, [noted("b")]).unwrap();
            let entries = format!("SELECT id_hash, n FROM invoices WHERE n <= {in_table}");
            put(&connection, &TABLE, &entries);
            assert_eq!(fault(&connection).unwrap(), None);
            let twice = "UPDATE invoices SET id = 'a', id_hash = invoice_hash('a');
                 DELETE FROM invoice_id_leaves";
            connection.execute_batch(twice).unwrap();
            put(&connection, &TABLE, &entries);
            let said = fault(&connection).unwrap().unwrap();
            assert_eq!(said, "there are two invoices a", "{in_table}");
        }
    }

    /// So many invoices, each in a commit.
    fn make_many(connection: &Connection, ids: &mut InvoiceIds, rows: std::ops::Range<i64>) {
        for n in rows {
            connection.execute_batch("BEGIN").unwrap();
            ids.begin();
            make(
                connection,
                ids,
                &format!("{:x}", id_hash(&n.to_be_bytes())),
                n,
            );
            ids.bring(connection).unwrap();
            connection.execute_batch("COMMIT").unwrap();
            ids.committed();
        }
    }

    #[test]
    fn runs_that_are_damaged_are_made_anew_from_the_rows() {
        for damage in [
            "UPDATE invoice_id_runs SET entries = x'00'",
            "UPDATE invoice_id_runs SET entries = x'00' WHERE n = (SELECT max(n) FROM invoice_id_runs)",
            "DELETE FROM invoice_id_runs WHERE n = (SELECT min(n) FROM invoice_id_runs)",
        ] {
            let connection = migrated(Path::new(""));
            let mut ids = open(&connection);
            // Two runs are half merged, and there is one more.
            make_many(&connection, &mut ids, 1..50);
            assert_eq!(fault(&connection).unwrap(), None);
            assert!(connection.execute(damage, []).unwrap() > 0);
            assert!(
                fault(&connection).unwrap().unwrap().contains("runs"),
                "{damage}"
            );
            let mut ids = open(&connection);
            for last in [50, 52, 80, 200] {
                let recent = ids.recent();
                for n in 1..ids.hashes.newest() + 1 {
                    let text = format!("{:x}", id_hash(&n.to_be_bytes()));
                    assert_eq!(find(&connection, &ids, &text), Some(n), "{damage}");
                    let id = id(&text);
                    let look = Look::new(Some(&recent), &id);
                    assert_eq!(look.number(&connection).unwrap(), Some(n), "{damage}");
                }
                let first = ids.hashes.newest() + 1;
                make_many(&connection, &mut ids, first..last);
            }
            assert_eq!(fault(&connection).unwrap(), None, "{damage}");
        }
    }

    /// Rows whose number is too far from the others' for a run go straight into the table, and its filter is told.
    #[test]
    fn what_is_in_no_run_for_its_number_is_found() {
        let connection = migrated(Path::new(""));
        let none_wait = Order { waiting: 1, ..FEW };
        let open = || InvoiceIds::open_with(&connection, SMALL, none_wait).unwrap();
        let mut ids = open();
        make_many(&connection, &mut ids, 1..50);
        let far = 1 << 40;
        make_many(&connection, &mut ids, far..far + 20);
        let in_table = entries(&connection, &TABLE);
        let in_table = in_table.iter().filter(|it| it.1 >= far).count();
        assert!(in_table > 10, "{in_table}");
        for reopened in [false, true] {
            for n in (1..50).chain(far..far + 20) {
                let text = format!("{:x}", id_hash(&i64::to_be_bytes(n)));
                ids.begin();
                ids.sift(&connection, vec![id_hash(text.as_bytes())])
                    .unwrap();
                assert_eq!(find(&connection, &ids, &text), Some(n), "{n}, {reopened}");
            }
            ids = open();
        }
        assert_eq!(fault(&connection).unwrap(), None);
    }

    /// The same in a table that has nothing else.
    #[test]
    fn what_is_alone_in_the_table_is_found() {
        let connection = migrated(Path::new(""));
        let mut ids = open(&connection);
        let far = 1 << 40;
        make_many(&connection, &mut ids, far..far + 20);
        let text = format!("{:x}", id_hash(&i64::to_be_bytes(far)));
        ids.begin();
        ids.sift(&connection, vec![id_hash(text.as_bytes())])
            .unwrap();
        assert_eq!(find(&connection, &ids, &text), Some(far));
    }

    #[test]
    fn an_entry_without_its_invoice_is_none_that_is_not_there() {
        let connection = migrated(Path::new(""));
        let mut ids = open(&connection);
        make_many(&connection, &mut ids, 1..70);
        let first = format!("{:x}", id_hash(&1_i64.to_be_bytes()));
        let hash = id_hash(first.as_bytes());
        let mut all = entries(&connection, &TABLE);
        let first_entry = all.iter_mut().find(|it| it.1 == 1).unwrap();
        first_entry.1 += 1 << 20;
        let lost = "DELETE FROM invoice_id_leaves";
        connection.execute(lost, []).unwrap();
        leaves::put(&connection, &TABLE, &all).unwrap();
        ids.begin();
        let first = id(&first);
        let refused = ids.add(&connection, (&first, hash, 70));
        assert!(matches!(refused, Err(StoreError::BadRow(_))), "{refused:?}");
        let (recent, first) = (ids.recent(), &first);
        for recent in [Some(&*recent), None] {
            let look = Look::new(recent, first).number(&connection);
            assert!(matches!(look, Err(StoreError::BadRow(_))), "{look:?}");
        }
    }

    /// A reader has its number, whose transaction is rolled back and whose number another one gets.
    #[test]
    fn an_invoice_that_was_not_made_after_all_is_not_damaged() {
        let connection = migrated(Path::new(""));
        let mut ids = open(&connection);
        ids.begin();
        connection.execute_batch("BEGIN").unwrap();
        make(&connection, &mut ids, "a", 1);
        let (recent, id) = (ids.recent(), id("a"));
        let look = Look::new(Some(&recent), &id);
        connection.execute_batch("ROLLBACK").unwrap();
        ids.rolled_back();
        ids.begin();
        make(&connection, &mut ids, "b", 1);
        ids.committed();
        assert_eq!(look.number(&connection).unwrap(), None);
    }

    #[test]
    fn a_note_of_the_greatest_that_is_damaged_says_nothing() {
        let connection = migrated(Path::new(""));
        for (note, known) in [
            (noted("m"), true),
            (noted("m").replace('m', "l"), false),
            (noted("m").replacen(' ', "", 1), false),
            (String::new(), false),
        ] {
            let sql = "UPDATE meta SET value = ?1 WHERE name = 'greatest_invoice_id'";
            connection.execute(sql, [note]).unwrap();
            let ids = open(&connection);
            assert_eq!(ids.is_beyond_all(&id("n")), known);
            assert!(!ids.is_beyond_all(&id("m")));
        }
    }

    #[test]
    fn the_hash_is_what_databases_have() {
        assert_eq!(id_hash(b"inv-123"), HELD);
    }

    /// The first eight bytes of SHA-256 of `inv-123`.
    const HELD: i64 = 6_441_285_285_328_754_333;
}
