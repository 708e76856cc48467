//! All that an index by hashes (hashes.rs) has, but for what is in runs.
//!
//! In a table of SQLite's with a row for each entry, an entry takes 27 bytes and a statement's work. Here some hundreds of
//! entries lie in a leaf of at most a page, in order, twelve bytes each, and what is merged goes into a leaf all at once.
//! A leaf tells of all hashes from its first one to its last; the first leaf begins with the least hash that there is, and
//! the last ends with the greatest. So each hash has its leaf, unless there is none at all.
//!
//! An entry whose row has gone stays until a merge comes by: whoever finds it finds no row.
//!
//! What it must never do: say that something is not there that is. So a leaf has a check, that names table and leaf; what
//! is not what was written is an error, and so is a hash of which no leaf tells.

use std::ops::ControlFlow;

use rusqlite::{Connection, Row};

use super::hashes::{Entry, Table};
use super::open::OpenError;
use super::runs::Trouble;
use super::{answer_keys, invoice_ids};

/// Check, first hash, base of the rows' numbers, and how long an entry is.
const HEAD: usize = 32;

/// Hash and number, counted from the base; and where that has no room, the number as it is.
pub(super) const NARROW: usize = 12;
const WIDE: usize = 16;

/// Bytes of a leaf: with what SQLite adds, it fits into a page of 4096.
const BYTES: usize = HEAD + if cfg!(test) { 12 } else { 330 } * NARROW;

/// Narrow entries of a leaf that was made of a part of another's.
pub(super) const SHARE: usize = (BYTES - HEAD) / NARROW * 2 / 3;

/// A leaf, as it is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// The hashes that it tells of.
    first: i64,
    pub(super) last: i64,
    /// In order.
    entries: Vec<Entry>,
}

/// What a check is made of, here and in filters. Each step is one to one: whatever word changes, the check does.
pub(super) const fn step(check: u64, word: u64) -> u64 {
    let check = (check ^ word).wrapping_mul(0x94d0_49bb_1331_11eb);
    check ^ (check >> 32)
}

/// The check of the bytes behind it. Four words at a time, which do not wait for each other.
pub(super) fn check(seed: u64, last: i64, bytes: &[u8]) -> u64 {
    let mut lanes = [seed, last.cast_unsigned(), bytes.len() as u64, 0];
    let mut add = |chunk: &[u8; 32]| {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks().0) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    };
    let (chunks, rest) = bytes.as_chunks();
    chunks.iter().for_each(&mut add);
    let mut filled = [0; 32];
    filled[..rest.len()].copy_from_slice(rest);
    add(&filled);
    lanes.into_iter().fold(0, step)
}

/// What is written of a leaf, known to be whole.
#[derive(Clone, Copy)]
struct Written<'a> {
    first: i64,
    base: i64,
    width: usize,
    entries: &'a [u8],
}

impl<'a> Written<'a> {
    fn read(table: &Table, last: i64, bytes: &'a [u8]) -> Result<Self, Trouble> {
        let whole = || {
            let (head, entries) = bytes.split_at_checked(HEAD)?;
            let word = |at: usize| head[at..].first_chunk().copied().map(i64::from_be_bytes);
            let written = Self {
                first: word(8)?,
                base: word(16)?,
                width: usize::try_from(word(24)?).ok()?,
                entries,
            };
            let is_whole = word(0)?.cast_unsigned() == check(table.seed, last, &bytes[8..])
                && matches!(written.width, NARROW | WIDE)
                && entries.len().is_multiple_of(written.width);
            is_whole.then_some(written)
        };
        whole().ok_or(Trouble::Leaf(table.name))
    }

    const fn len(&self) -> usize {
        self.entries.len() / self.width
    }

    fn hash(&self, place: usize) -> i64 {
        let entry = &self.entries[place * self.width..];
        entry.first_chunk().copied().map_or(0, i64::from_be_bytes)
    }

    fn entry(&self, place: usize) -> Entry {
        let number = &self.entries[place * self.width + 8..];
        let n = if self.width == NARROW {
            let offset = number.first_chunk().copied().map_or(0, u32::from_be_bytes);
            self.base.wrapping_add(i64::from(offset))
        } else {
            number.first_chunk().copied().map_or(0, i64::from_be_bytes)
        };
        (self.hash(place), n)
    }

    /// The place of the first entry that is not before a hash.
    fn place(&self, hash: i64) -> usize {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = usize::midpoint(from, to);
            if self.hash(middle) < hash {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }

    fn entries_from(self, hash: i64) -> impl Iterator<Item = Entry> {
        (self.place(hash)..self.len()).map(move |place| self.entry(place))
    }
}

impl Leaf {
    /// Of all hashes; it has none yet.
    const fn of_all() -> Self {
        Self {
            first: i64::MIN,
            last: i64::MAX,
            entries: Vec::new(),
        }
    }

    /// The leaf that tells of a hash.
    ///
    /// # Errors
    /// Where it cannot be read, or is not what was written.
    pub(super) fn at(connection: &Connection, table: &Table, hash: i64) -> Result<Self, Trouble> {
        let leaf = with(connection, table, hash, |last, written| Self {
            first: written.first,
            last,
            entries: written.entries_from(i64::MIN).collect(),
        });
        Ok(leaf?.unwrap_or_else(Self::of_all))
    }

    /// Puts these in, which are in order and of its hashes; some may be there already. Those of rows before the oldest that
    /// there is go.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn put(
        mut self,
        connection: &Connection,
        table: &Table,
        entries: &[Entry],
        oldest: i64,
    ) -> rusqlite::Result<()> {
        self.entries.extend(entries);
        self.entries.retain(|it| it.1 >= oldest);
        // Both parts are in order, which this makes use of.
        self.entries.sort();
        self.entries.dedup();
        self.write(connection, table)
    }

    /// Writes it, as several where it is too long for one.
    fn write(mut self, connection: &Connection, table: &Table) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(table.put_leaf)?;
        let mut bytes = self.bytes(table);
        while bytes.len() > BYTES {
            let shares = self.entries.len().div_ceil(SHARE).max(2);
            let Some(end) = self.end_near(self.entries.len() / shares) else {
                break;
            };
            let rest = self.entries.split_off(end);
            // The hash before the one that the rest begins with.
            let last = rest[0].0 - 1;
            let part = Self {
                first: self.first,
                last,
                entries: std::mem::replace(&mut self.entries, rest),
            };
            statement.execute((last, part.bytes(table)))?;
            self.first = last + 1;
            bytes = self.bytes(table);
        }
        statement.execute((self.last, bytes)).map(|_| ())
    }

    /// The nearest place to this one, from it on if there is any, where entries of one hash end and others follow.
    fn end_near(&self, place: usize) -> Option<usize> {
        let is_end = |at: &usize| self.entries[at - 1].0 < self.entries[*at].0;
        let place = place.max(1);
        let mut after = place..self.entries.len();
        after.find(is_end).or_else(|| (1..place).rev().find(is_end))
    }

    fn bytes(&self, table: &Table) -> Vec<u8> {
        let base = self.entries.iter().map(|it| it.1).min().unwrap_or(0);
        let offset = |n: i64| u32::try_from(n.checked_sub(base)?).ok();
        let is_narrow = self.entries.iter().all(|it| offset(it.1).is_some());
        let width = if is_narrow { NARROW } else { WIDE };
        let mut bytes = Vec::with_capacity(HEAD + width * self.entries.len());
        bytes.extend([0; 8]);
        for word in [self.first, base, width as i64] {
            bytes.extend(word.to_be_bytes());
        }
        for (hash, n) in &self.entries {
            bytes.extend(hash.to_be_bytes());
            match offset(*n) {
                Some(offset) if is_narrow => bytes.extend(offset.to_be_bytes()),
                _ => bytes.extend(n.to_be_bytes()),
            }
        }
        let check = check(table.seed, self.last, &bytes[8..]);
        bytes[..8].copy_from_slice(&check.to_be_bytes());
        bytes
    }
}

fn read<'a>(table: &Table, row: &'a Row<'_>) -> Result<(i64, Written<'a>), Trouble> {
    let last = row.get(0)?;
    let bytes = row.get_ref(1)?.as_bytes().unwrap_or_default();
    Ok((last, Written::read(table, last, bytes)?))
}

/// What `look` makes of the leaf that tells of a hash, if there are any leaves.
fn with<T>(
    connection: &Connection,
    table: &Table,
    hash: i64,
    look: impl Fn(i64, Written<'_>) -> T,
) -> Result<Option<T>, Trouble> {
    let mut statement = connection.prepare_cached(table.leaf)?;
    // A reader has a snapshot for each statement: the first leaves may come after the first one.
    for _ in 0..2 {
        let mut found = statement.query([hash])?;
        if let Some(row) = found.next()? {
            let (last, written) = read(table, row)?;
            if hash < written.first {
                break;
            }
            return Ok(Some(look(last, written)));
        }
        drop(found);
        if !any(connection, table)? {
            return Ok(None);
        }
    }
    Err(Trouble::Leaf(table.name))
}

/// Whether there are any.
///
/// # Errors
/// SQLite's.
pub(super) fn any(connection: &Connection, table: &Table) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(table.any_leaf)?
        .query_row([], |row| row.get(0))
}

/// The rows that have a hash, as far as they are here.
///
/// # Errors
/// Where they cannot be read, or are not what was written.
pub(super) fn rows(connection: &Connection, table: &Table, hash: i64) -> Result<Vec<i64>, Trouble> {
    let rows = with(connection, table, hash, |_, written| {
        let entries = written.entries_from(hash);
        entries
            .take_while(|it| it.0 == hash)
            .map(|it| it.1)
            .collect()
    });
    Ok(rows?.unwrap_or_default())
}

/// Puts these in, which are in order.
///
/// # Errors
/// Where their leaves cannot be read, are not what was written, or cannot be written.
pub(super) fn put(
    connection: &Connection,
    table: &Table,
    entries: &[Entry],
) -> Result<(), Trouble> {
    let mut rest = entries;
    while let Some((hash, _)) = rest.first() {
        let leaf = Leaf::at(connection, table, *hash)?;
        let these = rest.partition_point(|it| it.0 <= leaf.last);
        let (these, others) = rest.split_at(these);
        leaf.put(connection, table, these, i64::MIN)?;
        rest = others;
    }
    Ok(())
}

/// Goes through the entries of some hashes, in order, until told to stop.
///
/// # Errors
/// Where they cannot be read, or are not what was written: so also where a leaf is missing, or in another's place.
pub(super) fn between(
    connection: &Connection,
    table: &Table,
    (first, last): (i64, i64),
    mut each: impl FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), Trouble> {
    let mut statement = connection.prepare_cached(table.leaves)?;
    let mut found = statement.query([first])?;
    // Where the next leaf begins, once there was one.
    let mut begins = None;
    let mut before = None;
    while let Some(row) = found.next()? {
        let (end, written) = read(table, row)?;
        let is_next = begins.map_or(written.first <= first, |it| written.first == it);
        if !is_next {
            return Err(Trouble::Leaf(table.name));
        }
        for entry in written.entries_from(first) {
            if entry.0 > last {
                return Ok(());
            }
            if before.is_some_and(|before| before >= entry) {
                return Err(Trouble::Leaf(table.name));
            }
            before = Some(entry);
            if each(entry).is_break() {
                return Ok(());
            }
        }
        if end >= last {
            return Ok(());
        }
        begins = Some(end + 1);
    }
    if begins.is_none() && !any(connection, table)? {
        return Ok(());
    }
    Err(Trouble::Leaf(table.name))
}

/// Fills the leaves of both indexes from the tables of rows that there were before, and drops these.
///
/// # Errors
/// SQLite's, and where rows are not in their order: one of them is not what was written, and would hide others.
pub(super) fn fill(connection: &Connection) -> Result<(), OpenError> {
    for table in [&invoice_ids::TABLE, &answer_keys::TABLE] {
        let name = table.name;
        let rows = format!("SELECT hash, n FROM {name} ORDER BY hash, n");
        fill_from(connection, table, &rows)?;
        connection.execute_batch(&format!("DROP TABLE {name}"))?;
    }
    Ok(())
}

fn fill_from(connection: &Connection, table: &Table, rows: &str) -> Result<(), OpenError> {
    let mut leaf = Leaf::of_all();
    let mut before = None;
    let mut statement = connection.prepare(rows)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let entry: Entry = (row.get(0)?, row.get(1)?);
        if before.is_some_and(|before| before >= entry) {
            let why = format!("the index of {} is not in order", table.name);
            return Err(OpenError::Damaged(why));
        }
        before = Some(entry);
        let ends = leaf.entries.last().filter(|it| it.0 != entry.0);
        if let Some((last, _)) = ends
            && leaf.entries.len() >= SHARE
        {
            leaf.last = *last;
            let next = Leaf {
                first: leaf.last + 1,
                ..Leaf::of_all()
            };
            std::mem::replace(&mut leaf, next).write(connection, table)?;
        }
        leaf.entries.push(entry);
    }
    if !leaf.entries.is_empty() {
        leaf.write(connection, table)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::testing::{Chance, entries, in_memory};
    use super::*;

    const TABLE: &Table = &invoice_ids::TABLE;

    /// First, last, and length of each.
    fn leaves(connection: &Connection) -> Vec<(i64, i64, usize)> {
        let mut statement = connection.prepare(TABLE.leaves).unwrap();
        let mut found = statement.query([i64::MIN]).unwrap();
        let mut leaves = Vec::new();
        while let Some(row) = found.next().unwrap() {
            let (last, written) = read(TABLE, row).unwrap();
            leaves.push((written.first, last, HEAD + written.entries.len()));
        }
        leaves
    }

    #[test]
    fn whatever_is_put_there_is_found_and_nothing_else() {
        let connection = in_memory();
        let mut chance = Chance(21);
        let mut all: BTreeSet<Entry> = BTreeSet::new();
        assert_eq!(entries(&connection, TABLE), []);
        for round in 0..150 {
            let mut new: Vec<Entry> = (0..chance.below(40))
                .map(|_| match chance.below(12) {
                    // One that is there, others with its hash, those at the ends, and numbers far from the others.
                    0 => all.iter().next().copied().unwrap_or((7, 7)),
                    1 => (all.last().map_or(5, |it| it.0), 1000 + round),
                    2 => (i64::MIN, 2000 + round),
                    3 => (i64::MAX, 3000 + round),
                    4 => (chance.hash(), i64::MAX - round),
                    5 => (chance.hash(), i64::MIN + round),
                    _ => (chance.hash(), round),
                })
                .collect();
            new.sort_unstable();
            put(&connection, TABLE, &new).unwrap();
            all.extend(&new);
            assert!(entries(&connection, TABLE).iter().eq(&all), "{round}");
            let others: Vec<_> = (0..20).map(|_| (chance.hash(), 0)).collect();
            for (hash, _) in new.iter().chain(&others) {
                let rows: Vec<_> = all.range((*hash, i64::MIN)..=(*hash, i64::MAX)).collect();
                let rows: Vec<_> = rows.into_iter().map(|it| it.1).collect();
                assert_eq!(super::rows(&connection, TABLE, *hash).unwrap(), rows);
            }
            // They follow each other, from the least hash to the greatest.
            let leaves = leaves(&connection);
            assert!(leaves.windows(2).all(|it| it[0].1 + 1 == it[1].0));
            let ends = leaves.first().zip(leaves.last()).map(|it| (it.0.0, it.1.1));
            assert_eq!(ends, (!all.is_empty()).then_some((i64::MIN, i64::MAX)));
            // What is too long for a page are the entries of one hash.
            for (first, last, length) in leaves {
                let mut of_it = all.range((first, i64::MIN)..=(last, i64::MAX));
                let one = of_it.next().map(|it| it.0);
                assert!(length <= BYTES || of_it.all(|it| Some(it.0) == one));
            }
            let (one, other) = (chance.hash(), chance.hash());
            let (from, to) = (one.min(other), one.max(other));
            let mut some = Vec::new();
            between(&connection, TABLE, (from, to), |entry| {
                some.push(entry);
                ControlFlow::Continue(())
            })
            .unwrap();
            assert!(some.iter().eq(all.range((from, i64::MIN)..=(to, i64::MAX))));
        }
        let leaves = leaves(&connection).len();
        assert!(leaves > 100 && leaves < all.len() / 3, "{leaves}");
    }

    #[test]
    fn entries_of_rows_that_have_gone_go_as_others_come() {
        let connection = in_memory();
        let mut hashes = Chance(22).hashes(300);
        let old: Vec<Entry> = hashes.iter().map(|hash| (*hash, 5)).collect();
        put(&connection, TABLE, &old).unwrap();
        let first = hashes.pop_first().unwrap();
        let leaf = Leaf::at(&connection, TABLE, first).unwrap();
        let last = leaf.last;
        leaf.put(&connection, TABLE, &[(first, 6)], 6).unwrap();
        let left: Vec<_> = old.iter().copied().filter(|it| it.0 > last).collect();
        assert_eq!(
            entries(&connection, TABLE),
            [vec![(first, 6)], left].concat()
        );
    }

    /// Flips a bit of a leaf, gives it another place, or takes it away.
    fn damage(connection: &Connection, chance: &mut Chance, kind: u64) -> (i64, i64) {
        let all = leaves(connection);
        let (first, last, length) = match kind {
            // After the last one, nothing is found.
            5 => all[all.len() - 1],
            _ => all[chance.place(all.len() as u64)],
        };
        let get = "SELECT entries FROM invoice_id_leaves WHERE last = ?1";
        let mut bytes: Vec<u8> = connection.query_row(get, [last], |row| row.get(0)).unwrap();
        match kind {
            0 | 5 => {
                let sql = "DELETE FROM invoice_id_leaves WHERE last = ?1";
                connection.execute(sql, [last]).unwrap();
            }
            1 => {
                // As that of another table.
                let other = Leaf::at(connection, TABLE, last).unwrap();
                bytes = other.bytes(&answer_keys::TABLE);
            }
            2 => bytes.truncate(chance.place(length as u64)),
            3 => {
                let moved = last ^ (1 << (chance.below(60) + 2));
                let sql = "UPDATE OR REPLACE invoice_id_leaves SET last = ?2 WHERE last = ?1";
                connection.execute(sql, [last, moved]).unwrap();
                return (first, last);
            }
            _ => bytes[chance.place(length as u64)] ^= 1 << chance.below(8),
        }
        let sql = "UPDATE invoice_id_leaves SET entries = ?2 WHERE last = ?1";
        connection.execute(sql, (last, bytes)).unwrap();
        (first, last)
    }

    #[test]
    fn what_is_damaged_never_says_that_something_is_not_there() {
        let connection = in_memory();
        let mut chance = Chance(23);
        let hashes = chance.hashes(200);
        let all: Vec<Entry> = hashes.iter().zip(1..).map(|(hash, n)| (*hash, n)).collect();
        put(&connection, TABLE, &all).unwrap();
        for round in 0..300 {
            connection.execute_batch("BEGIN").unwrap();
            let (first, last) = damage(&connection, &mut chance, round % 12);
            let mut hit = 0;
            for (hash, n) in &all {
                match rows(&connection, TABLE, *hash) {
                    Ok(rows) => assert_eq!(rows, [*n], "{round}"),
                    Err(Trouble::Leaf("invoice_ids")) => {
                        // In another place it is in the way of others.
                        let is_its = (first..=last).contains(hash);
                        assert!(is_its || round % 12 == 3, "{round}");
                        hit += 1;
                    }
                    Err(other) => panic!("{round}: {other:?}"),
                }
            }
            assert!(hit > 0, "{round}");
            let whole = between(&connection, TABLE, (i64::MIN, i64::MAX), |_| {
                ControlFlow::Continue(())
            });
            assert!(matches!(whole, Err(Trouble::Leaf(_))), "{round}");
            let merged = put(&connection, TABLE, &[(first, 1000), (last, 1000)]);
            assert!(matches!(merged, Err(Trouble::Leaf(_))), "{round}");
            connection.execute_batch("ROLLBACK").unwrap();
        }
    }

    #[test]
    fn a_check_tells_of_each_word_and_of_the_length() {
        let bytes: Vec<u8> = (0..=99).collect();
        let known = check(1, 2, &bytes);
        assert_ne!(known, check(1, 3, &bytes));
        assert_ne!(known, check(3, 2, &bytes));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(known, check(1, 2, &other));
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_ne!(known, check(1, 2, &longer));
        // What databases have.
        assert_eq!(known, 9_993_381_886_631_753_170);
    }

    #[test]
    fn the_tables_of_rows_that_there_were_are_moved_into_leaves() {
        let connection = in_memory();
        let mut chance = Chance(24);
        let mut rows: Vec<Entry> = chance
            .hashes(500)
            .into_iter()
            .map(|it| (it, it & 7))
            .collect();
        // Of some, there are many.
        let many = rows[250].0;
        rows.extend((10..40).map(|n| (many, n)));
        rows.extend([(i64::MIN, 1), (i64::MAX, 1)]);
        rows.sort_unstable();
        for (name, count) in [("invoice_ids", rows.len()), ("answer_keys", 0)] {
            let sql = format!(
                "CREATE TABLE {name} (hash INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (hash, n)) STRICT, WITHOUT ROWID"
            );
            connection.execute_batch(&sql).unwrap();
            let sql = format!("INSERT INTO {name} VALUES (?1, ?2)");
            let mut insert = connection.prepare(&sql).unwrap();
            for row in &rows[..count] {
                insert.execute(*row).unwrap();
            }
        }
        fill(&connection).unwrap();
        assert_eq!(entries(&connection, TABLE), rows);
        assert!(!any(&connection, &answer_keys::TABLE).unwrap());
        let (first, last) = (
            leaves(&connection)[0].0,
            leaves(&connection).pop().unwrap().1,
        );
        assert_eq!((first, last), (i64::MIN, i64::MAX));
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('invoice_ids', 'answer_keys')";
        let left: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0);
    }

    /// A bit of a row's hash has flipped, which SQLite does not notice.
    #[test]
    fn a_table_of_rows_that_is_not_in_order_is_not_moved() {
        let connection = in_memory();
        let rows = "SELECT column1, column2 FROM (VALUES (1, 1), (5, 2), (3, 3), (9, 4))";
        let refused = fill_from(&connection, TABLE, rows);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("the index of invoice_ids"), "{refused}");
    }
}
