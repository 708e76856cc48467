//! Runs of an index's entries (hashes.rs), in the order of their hashes.
//!
//! What has gathered in memory is written once, in one piece, and stays there until it is merged with others into the
//! table. In memory are a filter of each run (sieve.rs), and where its parts begin: most of what is looked for is in none of
//! them, and what is in one costs a page.
//!
//! What it must never do: say that a run does not have what it has. So a part has a digest, and one that is not what was
//! written is an error.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use crate::application::ports::StoreError;
use crate::application::request::first_eight;

use super::error::{sort, sort_row};
use super::hashes::{Entry, Table};
use super::sieve::{Sieve, Slots};

/// A row's number by how many come after the base of its run: 1 and up.
pub(super) type Offset = u32;

/// Entries in a part, of twelve bytes each: with its head it fits into one page.
const PART: usize = 330;

/// Parts that a run may have.
const PARTS_MAX: i64 = 1 << 20;

/// Digest, base, end, and how many entries the run has.
const HEAD: usize = 32;

/// Of a row that is beyond the base, and not too far.
pub(super) fn offset(base: i64, n: i64) -> Option<Offset> {
    let offset = Offset::try_from(n.checked_sub(base)?).ok()?;
    (offset > 0).then_some(offset)
}

/// What is in memory of a run: of the rows after `base`, up to `end`.
#[derive(Debug)]
pub(super) struct Run {
    /// Runs have numbers in the order in which they were written.
    pub(super) number: i64,
    base: i64,
    pub(super) end: i64,
    pub(super) entries: usize,
    /// The first hash of each part.
    firsts: Vec<i64>,
    /// Where its filter is.
    pub(super) slots: Slots,
}

/// What is in the database.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Up to the first that is not what was written.
    pub(super) runs: Vec<Run>,
    /// Whether there is one.
    pub(super) damaged: bool,
    /// The last part of those that have been merged, by its key.
    pub(super) merged: Option<i64>,
}

impl Run {
    /// Writes the entries of all rows after `base`, up to `end`; they are in order.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn write(
        connection: &Connection,
        table: &Table,
        number: i64,
        (base, end): (i64, i64),
        entries: &[(i64, Offset)],
    ) -> rusqlite::Result<Self> {
        let mut run = Self {
            number,
            base,
            end,
            entries: 0,
            firsts: Vec::with_capacity(entries.len() / PART + 1),
            slots: Slots::Any,
        };
        let mut statement = connection.prepare_cached(table.add_part)?;
        let mut rest = entries;
        let mut bytes = Vec::with_capacity(HEAD + 12 * PART);
        // Also of no entries there is a part, which says so.
        while !rest.is_empty() || run.firsts.is_empty() {
            let mut count = rest.len().min(PART);
            // What has the same hash is in one part.
            while count > 1 && rest.get(count).is_some_and(|it| it.0 == rest[count - 1].0) {
                count -= 1;
            }
            let (these, others) = rest.split_at(count);
            bytes.clear();
            bytes.extend([0; 8]);
            bytes.extend(base.to_be_bytes());
            bytes.extend(end.to_be_bytes());
            bytes.extend((entries.len() as u64).to_be_bytes());
            for (hash, offset) in these {
                bytes.extend(hash.to_be_bytes());
                bytes.extend(offset.to_be_bytes());
            }
            let key = run.key(run.firsts.len());
            let digest = digest(table, key, &bytes);
            bytes[..8].copy_from_slice(&digest);
            statement.execute((key, &bytes))?;
            run.know(these.first().map(|it| it.0), these.len());
            rest = others;
        }
        Ok(run)
    }

    /// The runs that are in the database, oldest first: of the rows after `until`, without a gap. The filter gets to know
    /// them.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn all(
        connection: &Connection,
        table: &Table,
        until: i64,
        sieve: &mut Sieve,
    ) -> rusqlite::Result<Found> {
        let mut found = Found::default();
        // Entries of the last of them that are to come, and the hashes of those that have.
        let mut left = 0;
        let mut hashes = Vec::new();
        let mut statement = connection.prepare_cached(table.parts)?;
        let mut parts = statement.query([])?;
        while let Some(row) = parts.next()? {
            let key: i64 = row.get(0)?;
            let bytes = row.get_ref(1)?.as_bytes().unwrap_or_default();
            let Ok(part) = Part::read(table, key, bytes) else {
                found.damaged = true;
                break;
            };
            if part.end <= until {
                found.merged = Some(key);
                continue;
            }
            let number = number_of(key);
            if found.runs.last().is_none_or(|run| run.number != number) {
                let end = found.runs.last().map_or(until, |run| run.end);
                if left > 0 || end != part.base {
                    found.damaged = true;
                    break;
                }
                left = part.of;
                found.runs.push(Self {
                    number,
                    base: part.base,
                    end: part.end,
                    entries: 0,
                    firsts: Vec::new(),
                    slots: Slots::Any,
                });
            }
            let run = found.runs.last_mut();
            let run = run.filter(|it| it.key(it.firsts.len()) == key);
            let (Some(run), Some(rest)) = (run, left.checked_sub(part.entries.len())) else {
                left = usize::MAX;
                break;
            };
            left = rest;
            run.know(part.entries.first().map(|it| it.0), part.entries.len());
            hashes.extend(part.entries.iter().map(|it| it.0));
            if left == 0 {
                run.slots = sieve.add(&hashes);
                hashes.clear();
            }
        }
        if left > 0 {
            found.runs.pop();
            found.damaged = true;
        }
        Ok(found)
    }

    /// The next part begins with this hash, and has so many.
    fn know(&mut self, first: Option<i64>, count: usize) {
        self.entries += count;
        self.firsts.push(first.unwrap_or(i64::MIN));
    }

    const fn key(&self, part: usize) -> i64 {
        self.number * PARTS_MAX + part as i64
    }

    /// The part that may have a hash, by its key.
    pub(super) fn part(&self, hash: i64) -> Option<i64> {
        let after = self.firsts.partition_point(|first| *first <= hash);
        Some(self.key(after.checked_sub(1)?))
    }

    /// Its parts, by their keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = i64> {
        (0..self.firsts.len()).map(|part| self.key(part))
    }

    /// The last of them.
    pub(super) const fn last_key(&self) -> i64 {
        self.key(self.firsts.len().saturating_sub(1))
    }

    /// Of the rows after this one it has all.
    pub(super) const fn base(&self) -> i64 {
        self.base
    }
}

/// The number of the run that a part belongs to.
pub(super) const fn number_of(part: i64) -> i64 {
    part / PARTS_MAX
}

/// Hash and row of each entry of a part. None, where it is no longer there.
///
/// # Errors
/// Where it cannot be read, or is not what was written.
pub(super) fn part(
    connection: &Connection,
    table: &Table,
    key: i64,
) -> Result<Option<Vec<Entry>>, Trouble> {
    let mut statement = connection.prepare_cached(table.part)?;
    let read = statement.query_row([key], |row| {
        let bytes = row.get_ref(0)?.as_bytes().unwrap_or_default();
        Ok(Part::read(table, key, bytes))
    });
    let part = read.optional()?.transpose()?;
    Ok(part.map(|part| part.entries))
}

struct Part {
    base: i64,
    end: i64,
    /// Entries of its run.
    of: usize,
    entries: Vec<Entry>,
}

impl Part {
    fn read(table: &Table, key: i64, bytes: &[u8]) -> Result<Self, Trouble> {
        let whole = || {
            let (head, entries) = bytes.split_at_checked(HEAD)?;
            let (chunks, rest) = entries.as_chunks::<12>();
            let number = |at: usize| head[at..].first_chunk().map(|it| i64::from_be_bytes(*it));
            let base = number(8)?;
            let entry = |it: &[u8; 12]| {
                let (hash, offset) = (it.first_chunk()?, it.last_chunk()?);
                Some((
                    i64::from_be_bytes(*hash),
                    base.checked_add(i64::from(u32::from_be_bytes(*offset)))?,
                ))
            };
            let part = Self {
                base,
                end: number(16)?,
                of: usize::try_from(number(24)?).ok()?,
                entries: chunks.iter().map(entry).collect::<Option<_>>()?,
            };
            (rest.is_empty() && head[..8] == digest(table, key, bytes)).then_some(part)
        };
        whole().ok_or_else(|| damaged(table))
    }
}

/// The first eight bytes of SHA-256 of where a part is and of all that follows the digest.
fn digest(table: &Table, key: i64, bytes: &[u8]) -> [u8; 8] {
    let digest = Sha256::new()
        .chain_update(table.name)
        .chain_update(key.to_be_bytes())
        .chain_update(bytes.get(8..).unwrap_or_default())
        .finalize();
    first_eight(&digest).to_be_bytes()
}

/// Why an index cannot be read or written.
#[derive(Debug)]
pub(super) enum Trouble {
    /// SQLite says no.
    Sqlite(rusqlite::Error),
    /// The index with this name is not what was written.
    Damaged(&'static str),
    /// The same of one of its leaves (leaves.rs).
    Leaf(&'static str),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Sqlite(error) => sort(error),
            Trouble::Damaged(name) | Trouble::Leaf(name) => Self::Fatal(format!(
                "the index of {name} is not what was written: payd.db is damaged; keep a copy, see what `payd verify` finds in \
                 it, and restore the newest backup"
            )),
        }
    }
}

impl Trouble {
    /// What it means for one row: a damaged page costs those that are on it, and not the others.
    pub(super) fn of_row(self) -> StoreError {
        match self {
            Self::Sqlite(error) => sort_row(error),
            Self::Leaf(name) => StoreError::BadRow(format!(
                "a part of the index of {name} is not what was written: payd.db is damaged, see what `payd verify` finds in it"
            )),
            damaged @ Self::Damaged(_) => damaged.into(),
        }
    }
}

/// The index is not what was written.
pub(super) const fn damaged(table: &Table) -> Trouble {
    Trouble::Damaged(table.name)
}

/// Runs that are merged: their entries in order.
#[derive(Debug, Default)]
pub(super) struct Merge {
    heads: Vec<Head>,
    /// The next entry of each of them that has one, and which that is.
    next: BinaryHeap<Reverse<(Entry, usize)>>,
}

#[derive(Debug)]
struct Head {
    run: std::sync::Arc<Run>,
    /// The part that comes next.
    next: usize,
    /// What is left of the one before, its first entry last, but for the one that is next.
    entries: Vec<Entry>,
}

impl Merge {
    /// Of these, what is beyond a hash.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn beyond(
        connection: &Connection,
        table: &Table,
        runs: &[std::sync::Arc<Run>],
        hash: Option<i64>,
    ) -> Result<Self, Trouble> {
        let mut merge = Self::default();
        for run in runs {
            let after = hash.map_or(0, |hash| run.firsts.partition_point(|it| *it <= hash));
            let mut head = Head {
                run: std::sync::Arc::clone(run),
                next: after.saturating_sub(1),
                entries: Vec::new(),
            };
            head.fill(connection, table)?;
            head.entries
                .retain(|it| hash.is_none_or(|hash| it.0 > hash));
            merge.heads.push(head);
            merge.advance(connection, table, merge.heads.len() - 1)?;
        }
        Ok(merge)
    }

    /// The next entry of this head is known.
    fn advance(
        &mut self,
        connection: &Connection,
        table: &Table,
        number: usize,
    ) -> Result<(), Trouble> {
        let head = &mut self.heads[number];
        head.fill(connection, table)?;
        if let Some(entry) = head.entries.pop() {
            self.next.push(Reverse((entry, number)));
        }
        Ok(())
    }

    /// The next one, in order.
    pub(super) fn peek(&self) -> Option<Entry> {
        self.next.peek().map(|Reverse((entry, _))| *entry)
    }

    /// Takes it.
    ///
    /// # Errors
    /// Where what follows it cannot be read.
    pub(super) fn next(
        &mut self,
        connection: &Connection,
        table: &Table,
    ) -> Result<Option<Entry>, Trouble> {
        let Some(Reverse((entry, number))) = self.next.pop() else {
            return Ok(None);
        };
        self.advance(connection, table, number)?;
        Ok(Some(entry))
    }
}

impl Head {
    /// Reads on, where nothing is left.
    fn fill(&mut self, connection: &Connection, table: &Table) -> Result<(), Trouble> {
        while self.entries.is_empty() && self.next < self.run.firsts.len() {
            let key = self.run.key(self.next);
            self.entries = part(connection, table, key)?.ok_or_else(|| damaged(table))?;
            self.entries.reverse();
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::invoice_ids::{TABLE, id_hash};
    use super::super::sieve::may_have;
    use super::super::testing::in_memory;
    use super::*;

    /// As good as random, and the same each time.
    fn hash(n: i64) -> i64 {
        id_hash(&n.to_be_bytes())
    }

    /// Entries of the rows after `base`, in order; of every tenth two have one hash.
    fn entries(base: i64, count: Offset) -> Vec<(i64, Offset)> {
        let entry = |it: Offset| (hash(base + i64::from(it - it % 10 / 9)), it);
        let mut entries: Vec<_> = (1..=count).map(entry).collect();
        entries.sort_unstable();
        entries
    }

    fn write(connection: &Connection, number: i64, base: i64, count: Offset) -> Run {
        let rows = (base, base + i64::from(count));
        Run::write(connection, &TABLE, number, rows, &entries(base, count)).unwrap()
    }

    #[test]
    fn a_run_is_found_again_as_it_was_written_and_each_hash_in_one_part() {
        let connection = in_memory();
        let written = [
            write(&connection, 3, 100, 5000),
            write(&connection, 4, 5100, 1),
        ];
        let mut sieve = Sieve::new(5000);
        let found = Run::all(&connection, &TABLE, 100, &mut sieve).unwrap();
        assert!(!found.damaged);
        let found = found.runs;
        for (written, found) in written.iter().zip(&found) {
            assert_eq!(written.firsts, found.firsts);
            let is = |run: &Run| (run.number, run.base, run.end, run.entries);
            assert_eq!(is(written), is(found));
        }
        assert_eq!(found.len(), 2);
        for run in [&written[0], &found[0]] {
            let whole = entries(100, 5000);
            for (hash, offset) in &whole {
                let key = run.part(*hash).unwrap();
                assert!(may_have(sieve.look(*hash), found[0].slots));
                let part = part(&connection, &TABLE, key).unwrap().unwrap();
                assert!(part.contains(&(*hash, 100 + i64::from(*offset))));
                let twins = whole.iter().filter(|it| it.0 == *hash).count();
                assert_eq!(part.iter().filter(|it| it.0 == *hash).count(), twins);
            }
        }
        assert!(found[0].keys().count() > 10);
        let sql = "SELECT max(length(entries)) FROM invoice_id_runs";
        let longest: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(usize::try_from(longest).unwrap(), HEAD + 12 * PART);
    }

    #[test]
    fn what_is_damaged_or_missing_is_told_and_what_is_before_it_is_known() {
        let flip = "UPDATE invoice_id_runs SET entries = CAST(substr(entries, 1, 99) || x'00' || substr(entries, 101) AS BLOB) \
             WHERE n = (SELECT max(n) FROM invoice_id_runs)";
        for (damage, left) in [
            (flip, 2),
            (
                "UPDATE invoice_id_runs SET entries = x'' WHERE n = (2 << 20)",
                1,
            ),
            ("UPDATE invoice_id_runs SET n = 7 WHERE n = (2 << 20)", 0),
            ("DELETE FROM invoice_id_runs WHERE n = (1 << 20)", 0),
            ("DELETE FROM invoice_id_runs WHERE n = (1 << 20) + 1", 0),
            ("DELETE FROM invoice_id_runs WHERE n = (2 << 20) + 1", 1),
            ("DELETE FROM invoice_id_runs WHERE n >> 20 = 1", 0),
            ("DELETE FROM invoice_id_runs WHERE n >> 20 = 2", 1),
            (
                "DELETE FROM invoice_id_runs WHERE n = (SELECT max(n) FROM invoice_id_runs)",
                2,
            ),
        ] {
            let connection = in_memory();
            for n in 1..=3 {
                write(&connection, n, (n - 1) * 1000, 1000);
            }
            let all = || {
                let mut sieve = Sieve::new(1000);
                let found = Run::all(&connection, &TABLE, 0, &mut sieve).unwrap();
                for run in &found.runs {
                    let entries = entries(run.base, 1000);
                    let has = |it: &(i64, Offset)| may_have(sieve.look(it.0), run.slots);
                    assert!(entries.iter().all(has));
                }
                sieve.release(found.runs.iter().map(|run| run.slots));
                // One that is not whole is not left there.
                assert_eq!(sieve.look(1), 0);
                assert_eq!(sieve.add(&[1]), Slots::Of(1));
                (found.runs.len(), found.damaged)
            };
            assert_eq!(all(), (3, false));
            connection.execute_batch(damage).unwrap();
            assert_eq!(all(), (left, true), "{damage}");
        }
    }

    #[test]
    fn what_has_been_merged_is_on_its_way_out() {
        let connection = in_memory();
        for n in 1..=3 {
            write(&connection, n, (n - 1) * 1000, 1000);
        }
        let last = (2 << 20) + 3;
        let mut statement = connection.prepare(TABLE.drop_parts).unwrap();
        assert_eq!(statement.execute([last, 2]).unwrap(), 2);
        let found = Run::all(&connection, &TABLE, 2000, &mut Sieve::new(0)).unwrap();
        let numbers: Vec<_> = found.runs.iter().map(|run| run.number).collect();
        assert_eq!(
            (numbers, found.merged, found.damaged),
            (vec![3], Some(last), false)
        );
    }

    #[test]
    fn runs_are_merged_in_order_from_wherever_it_was() {
        let connection = in_memory();
        let runs = [(1, 0, 2000), (2, 2000, 700), (3, 2700, 3)];
        let runs = runs.map(|(n, base, count)| Arc::new(write(&connection, n, base, count)));
        let mut all: Vec<Entry> = [(0, 2000), (2000, 700), (2700, 3)]
            .into_iter()
            .flat_map(|(base, count)| {
                let entries = entries(base, count).into_iter();
                entries.map(move |(hash, offset)| (hash, base + i64::from(offset)))
            })
            .collect();
        all.sort_unstable();
        let hashes = all.iter().map(|it| it.0).step_by(97);
        let places = hashes.flat_map(|hash| [Some(hash - 1), Some(hash)]);
        for from in places.chain([None, Some(i64::MIN), Some(i64::MAX)]) {
            let mut merge = Merge::beyond(&connection, &TABLE, &runs, from).unwrap();
            let mut merged = Vec::new();
            while let Some(entry) = merge.peek() {
                assert_eq!(merge.next(&connection, &TABLE).unwrap(), Some(entry));
                merged.push(entry);
            }
            assert_eq!(merge.next(&connection, &TABLE).unwrap(), None);
            let beyond = all.partition_point(|it| from.is_some_and(|from| it.0 <= from));
            assert_eq!(merged, all[beyond..]);
        }
    }
}
