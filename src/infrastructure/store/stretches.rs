//! Invoice ids that came in their own order.
//!
//! Most clients send ids that grow, and those of payd do: an index by hashes (hashes.rs) merges each of them into a leaf
//! that has nothing to do with the one before. Here the newest ids wait ([`Newest`]) until it is seen whether they are in
//! order. If so, some hundreds of them that follow each other become a stretch, which is written once and stays as it is;
//! what is in no order goes the way of all hashes. Also several that each have an order of their own, on many connections
//! at once, make stretches.
//!
//! Stretches lie side by side in the order of ids, and none in another. Each tells of all ids from its first one up to the
//! first one of the next, and the very first, which has no entries, from the least on. So each id has one stretch that
//! says whether it is in any.
//!
//! What it must never do: say that an id is not there that is. So a stretch has a check; one that is not what was written
//! is an error, and so is an id of which none tells.

use std::collections::VecDeque;

use rusqlite::{Connection, OptionalExtension, Row};

use crate::domain::InvoiceId;

use super::error::is_corrupt;
use super::filters;
use super::hashes::Entry;
use super::invoice_ids::UNKNOWN;
use super::leaves::{NARROW, check};
use super::runs::Trouble;

/// The index that it is part of.
const NAME: &str = "invoice_ids";

/// What the checks begin with.
const SEED: u64 = filters::seed("invoice_id_stretches");

/// Check, base of the rows' numbers, the newest of them, and how long first, last and next are.
const HEAD: usize = 8 + 8 + 8 + 3;

/// How much there is of what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// Ids that wait until it is seen whether they are in order.
    pub(super) waiting: usize,
    /// How many of a stretch may be of the newest quarter: they came late. Of ids in no order there are far more.
    pub(super) late: usize,
    /// The greatest of those that begin alike are in none: one that is greater than all that will come would end it.
    pub(super) top: usize,
    /// Ids of a stretch, of twelve bytes each: with its head it fits into a page.
    pub(super) stretch: usize,
}

/// What waits takes 0.2 MiB. Of ids in no order a stretch would have 75 of the newest quarter, give or take 7.
pub(super) const ORDER: Order = Order {
    waiting: 2048,
    late: 18,
    top: 64,
    stretch: 300,
};

/// Ids are in order with those that begin with the same bytes: so many of them.
const ALIKE: usize = 2;

/// An id that may come into a stretch.
#[derive(Debug, Clone)]
struct New {
    id: InvoiceId,
    entry: Entry,
}

/// The newest ids, oldest first. They are where all that is new is, too: here they only wait to be in order.
#[derive(Debug)]
pub(super) struct Newest {
    order: Order,
    ids: VecDeque<New>,
    /// How many there were before the transaction under way.
    before: usize,
    /// What that has written, by their places.
    written: Vec<usize>,
}

impl Newest {
    pub(super) const fn new(order: Order) -> Self {
        Self {
            order,
            ids: VecDeque::new(),
            before: 0,
            written: Vec::new(),
        }
    }

    /// One that a start has read, which is in no stretch.
    pub(super) fn read(&mut self, id: InvoiceId, entry: Entry) {
        self.add(id, entry);
        if self.ids.len() >= self.order.waiting {
            self.ids.pop_front();
        }
        self.before = self.ids.len();
    }

    /// A new one.
    pub(super) fn add(&mut self, id: InvoiceId, entry: Entry) {
        self.ids.push_back(New { id, entry });
    }

    /// All rows before this one have gone the one way or the other.
    pub(super) fn from(&self) -> i64 {
        let rows = self.ids.iter().map(|it| it.entry.1);
        rows.min().unwrap_or(i64::MAX)
    }

    /// Writes what is in order, if there is enough.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn bring(
        &mut self,
        connection: &Connection,
        bounds: &mut Bounds,
    ) -> Result<(), Trouble> {
        if self.ids.len() == self.before || self.ids.len() < self.order.waiting {
            return Ok(());
        }
        // In the order of the rows.
        let mut left: Vec<usize> = (0..self.ids.len()).collect();
        while left.len() >= self.order.waiting && self.may_be_in_order(&left) {
            let mut written = Vec::new();
            let brought = self.write(connection, &left, bounds, &mut written);
            written.sort_unstable();
            left.retain(|place| written.binary_search(place).is_err());
            let is_done = written.is_empty();
            self.written.extend(written);
            if let Err(Trouble::Leaf(_) | Trouble::Damaged(_)) = brought {
                // Those in it are found by nobody, and `verify` tells of it. Others are looked for by their hashes.
                tell_of_damage();
                break;
            }
            brought?;
            if is_done {
                break;
            }
        }
        self.written.sort_unstable();
        Ok(())
    }

    /// Whether it is worth a closer look: of ids in no order, half of those are greater that come later.
    fn may_be_in_order(&self, places: &[usize]) -> bool {
        let half = places.len() / 2;
        let pairs = (0..half).step_by((half / 32).max(1));
        let grows = |at: &usize| self.ids[places[*at]].id < self.ids[places[at + half]].id;
        let all = pairs.clone().count();
        pairs.filter(grows).count() * 8 >= all * 5
    }

    /// Writes those of these, by their places, that are next to each other among all that wait. Says which those are.
    fn write(
        &self,
        connection: &Connection,
        places: &[usize],
        bounds: &mut Bounds,
        written: &mut Vec<usize>,
    ) -> Result<(), Trouble> {
        let id = |place: &usize| self.ids[*place].id.as_str();
        let begin = |place: &usize| {
            let id = id(place).as_bytes();
            &id[..id.len().min(ALIKE)]
        };
        let young = places.get(places.len() / 4 * 3).copied().unwrap_or(0);
        let mut in_order = places.to_vec();
        in_order.sort_unstable_by_key(id);
        for group in in_order.chunk_by(|one, other| begin(one) == begin(other)) {
            let mut rest = &group[..group.len().saturating_sub(self.order.top)];
            while let Some((these, others)) = rest.split_at_checked(self.order.stretch) {
                let (first, last) = (id(&these[0]), id(&these[these.len() - 1]));
                let before = Stretch::of(connection, first)?;
                let in_the_way = before.as_ref().and_then(|it| it.in_the_way(first, last));
                if let Some(end) = in_the_way {
                    let after = rest.partition_point(|place| end.is_before(id(place)));
                    rest = &rest[after..];
                    continue;
                }
                rest = others;
                let late = these.iter().filter(|it| **it >= young).count();
                let entries = these.iter().map(|it| self.ids[*it].entry).collect();
                if late <= self.order.late
                    && let Some(stretch) = Stretch::new((first, last), entries)
                {
                    stretch.put_after(connection, before)?;
                    bounds.widen(first, last);
                    written.extend(these);
                }
            }
        }
        Ok(())
    }

    /// It is committed. Says what is in stretches now.
    pub(super) fn committed(&mut self) -> Vec<Entry> {
        let waiting = self.order.waiting;
        let places = std::mem::take(&mut self.written);
        let written = places.iter().map(|it| self.ids[*it].entry).collect();
        if !places.is_empty() {
            let mut place = 0;
            self.ids.retain(|_| {
                place += 1;
                places.binary_search(&(place - 1)).is_err()
            });
        }
        // Where nothing was in order, half of them need not wait any more; where some was, others may be soon.
        if self.ids.len() >= waiting {
            let left = if places.is_empty() {
                waiting / 2
            } else {
                waiting / 4 * 3
            };
            self.ids.drain(..self.ids.len() - left);
        }
        // Some never are.
        let newest = self.ids.back().map_or(0, |it| it.entry.1);
        let oldest = newest.saturating_sub_unsigned(2 * waiting as u64);
        while self.ids.front().is_some_and(|it| it.entry.1 < oldest) {
            self.ids.pop_front();
        }
        self.before = self.ids.len();
        written
    }

    /// It is rolled back.
    pub(super) fn rolled_back(&mut self) {
        self.written.clear();
        self.ids.truncate(self.before);
    }
}

fn tell_of_damage() {
    tracing::error!(
        "a part of the index of {NAME} is not what was written: payd.db is damaged, see what `payd verify` finds in it"
    );
}

/// Between which ids there are any in stretches: whatever is known without a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bounds {
    /// There are none.
    Nothing,
    /// From this one up to that one.
    Between(String, String),
    /// That cannot be read.
    Unknown,
}

impl Bounds {
    /// As the database has them.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let read = || {
            let Some(least) = Stretch::of(connection, "")? else {
                return Ok(Self::Nothing);
            };
            let greatest = Stretch::of(connection, UNKNOWN)?;
            let bounds = least.next.zip(greatest.map(|it| it.last));
            let (least, greatest) = bounds.ok_or(Trouble::Leaf(NAME))?;
            // What was there before the newest that was written is whole, too.
            if first_after(connection, "")?.as_ref() != Some(&least) {
                return Err(Trouble::Leaf(NAME));
            }
            Ok(Self::Between(least, greatest))
        };
        match read() {
            Ok(bounds) => Ok(bounds),
            Err(Trouble::Sqlite(error)) if !is_corrupt(&error) => Err(error),
            Err(_) => {
                tell_of_damage();
                Ok(Self::Unknown)
            }
        }
    }

    /// Whether there may be this one.
    pub(super) fn have(&self, id: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Between(least, greatest) => (least.as_str()..=greatest.as_str()).contains(&id),
            Self::Unknown => true,
        }
    }

    /// No id in any of them is greater.
    pub(super) fn greatest(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Between(_, greatest) => greatest,
            Self::Unknown => UNKNOWN,
        }
    }

    /// There are these, too.
    fn widen(&mut self, first: &str, last: &str) {
        match self {
            Self::Nothing => *self = Self::Between(first.to_owned(), last.to_owned()),
            Self::Between(least, greatest) => {
                if first < least.as_str() {
                    first.clone_into(least);
                }
                if last > greatest.as_str() {
                    last.clone_into(greatest);
                }
            }
            Self::Unknown => {}
        }
    }
}

/// What is written of a stretch, known to be whole.
#[derive(Debug, Clone, Copy)]
struct Written<'a> {
    row: i64,
    first: &'a str,
    last: &'a str,
    next: Option<&'a str>,
    base: i64,
    newest: i64,
    entries: &'a [[u8; NARROW]],
}

impl<'a> Written<'a> {
    fn read(row: &'a Row<'_>) -> Result<Self, Trouble> {
        let first = row.get_ref(1)?.as_bytes().unwrap_or_default();
        let newest = row.get_ref(2)?.as_i64().ok();
        let bytes = row.get_ref(3)?.as_bytes().unwrap_or_default();
        let written = Self::parse(row.get(0)?, bytes);
        let written =
            written.filter(|it| it.first.as_bytes() == first && Some(it.newest) == newest);
        written.ok_or(Trouble::Leaf(NAME))
    }

    /// What [`Stretch::bytes`] has made.
    fn parse(row: i64, bytes: &'a [u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_at_checked(HEAD)?;
        let word = |at: usize| head[at..].first_chunk().copied().map(i64::from_be_bytes);
        if word(0)?.cast_unsigned() != check(SEED, row, &bytes[8..]) {
            return None;
        }
        let mut text = |at: usize| {
            let (text, others) = rest.split_at_checked(usize::from(head[at]))?;
            rest = others;
            std::str::from_utf8(text).ok()
        };
        let (first, last, next) = (text(24)?, text(25)?, text(26)?);
        let (entries, rest) = rest.as_chunks();
        let written = Self {
            row,
            first,
            last,
            next: (!next.is_empty()).then_some(next),
            base: word(8)?,
            newest: word(16)?,
            entries,
        };
        rest.is_empty().then_some(written)
    }

    fn entry(&self, entry: &[u8; NARROW]) -> Entry {
        let offset = entry.last_chunk().copied().map_or(0, u32::from_be_bytes);
        (hash_of(entry), self.base.wrapping_add(i64::from(offset)))
    }

    fn entries(self) -> impl Iterator<Item = Entry> {
        self.entries.iter().map(move |it| self.entry(it))
    }

    fn rows(&self, hash: i64) -> Vec<i64> {
        let place = self.entries.partition_point(|it| hash_of(it) < hash);
        let from = self.entries[place..].iter();
        from.take_while(|it| hash_of(it) == hash)
            .map(|it| self.entry(it).1)
            .collect()
    }
}

fn hash_of(entry: &[u8; NARROW]) -> i64 {
    entry.first_chunk().copied().map_or(0, i64::from_be_bytes)
}

/// A stretch, as it is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stretch {
    /// Its row, if it has one.
    row: Option<i64>,
    first: String,
    last: String,
    /// The first id of the next one, if there is one.
    next: Option<String>,
    base: i64,
    newest: i64,
    /// In the order of their hashes.
    entries: Vec<Entry>,
}

/// Where others can begin.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Beyond this id.
    Beyond(String),
    /// At this one.
    At(String),
}

impl End {
    /// Whether an id is before it.
    fn is_before(&self, id: &str) -> bool {
        match self {
            Self::Beyond(end) => id <= end.as_str(),
            Self::At(end) => id < end.as_str(),
        }
    }
}

impl Stretch {
    /// None, where the numbers are too far from each other.
    fn new((first, last): (&str, &str), mut entries: Vec<Entry>) -> Option<Self> {
        entries.sort_unstable();
        let rows = entries.iter().map(|it| it.1);
        let (base, newest) = (rows.clone().min()?, rows.max()?);
        u32::try_from(newest.checked_sub(base)?).ok()?;
        Some(Self {
            row: None,
            first: first.to_owned(),
            last: last.to_owned(),
            next: None,
            base,
            newest,
            entries,
        })
    }

    /// The one that tells of all ids before any other. It has none.
    const fn least() -> Self {
        Self {
            row: None,
            first: String::new(),
            last: String::new(),
            next: None,
            base: 0,
            newest: 0,
            entries: Vec::new(),
        }
    }

    /// The one that tells of an id, if there are any.
    ///
    /// # Errors
    /// Where it cannot be read, or is not what was written.
    fn of(connection: &Connection, id: &str) -> Result<Option<Self>, Trouble> {
        let stretch = with(connection, id, |written| Self {
            row: Some(written.row),
            first: written.first.to_owned(),
            last: written.last.to_owned(),
            next: written.next.map(str::to_owned),
            base: written.base,
            newest: written.newest,
            entries: written.entries().collect(),
        });
        match stretch {
            Err(Trouble::Sqlite(error)) if is_corrupt(&error) => Err(Trouble::Leaf(NAME)),
            stretch => stretch,
        }
    }

    /// Whether there can be none from an id that this one tells of up to another: where others can begin, then.
    fn in_the_way(&self, first: &str, last: &str) -> Option<End> {
        if first <= self.last.as_str() {
            return Some(End::Beyond(self.last.clone()));
        }
        let next = self.next.as_ref().filter(|next| next.as_str() <= last)?;
        Some(End::At(next.clone()))
    }

    /// Puts it after the one that has told of its ids so far; where there is none, it is the first.
    ///
    /// # Errors
    /// SQLite's, and where that one is whole and not the newest that was written: it does not know of one that is in the way.
    fn put_after(mut self, connection: &Connection, before: Option<Self>) -> Result<(), Trouble> {
        let next = first_after(connection, &self.first)?;
        if next.is_some_and(|next| next <= self.last) {
            return Err(Trouble::Leaf(NAME));
        }
        let mut before = before.unwrap_or_else(Self::least);
        self.next = before.next.replace(self.first.clone());
        before.put(connection)?;
        Ok(self.put(connection)?)
    }

    fn put(&self, connection: &Connection) -> rusqlite::Result<()> {
        let Some(row) = self.row else {
            let row: i64 = connection
                .prepare_cached("SELECT coalesce(max(n), 0) + 1 FROM invoice_id_stretches")?
                .query_row([], |row| row.get(0))?;
            let sql = "INSERT INTO invoice_id_stretches (n, first, newest, entries) VALUES (?1, ?2, ?3, ?4)";
            let values = (row, &self.first, self.newest, self.bytes(row));
            return connection.prepare_cached(sql)?.execute(values).map(|_| ());
        };
        let sql = "UPDATE invoice_id_stretches SET entries = ?2 WHERE n = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        statement.execute((row, self.bytes(row))).map(|_| ())
    }

    fn bytes(&self, row: i64) -> Vec<u8> {
        let next = self.next.as_deref().unwrap_or_default();
        let texts = [self.first.as_str(), self.last.as_str(), next];
        let mut bytes = vec![0; 8];
        bytes.extend(self.base.to_be_bytes());
        bytes.extend(self.newest.to_be_bytes());
        // An id has 64 bytes at most.
        bytes.extend(texts.map(|it| u8::try_from(it.len()).unwrap_or(u8::MAX)));
        bytes.extend(texts.iter().flat_map(|it| it.bytes()));
        for (hash, n) in &self.entries {
            bytes.extend(hash.to_be_bytes());
            // They are that near.
            let offset = u32::try_from(n - self.base).unwrap_or(u32::MAX);
            bytes.extend(offset.to_be_bytes());
        }
        let check = check(SEED, row, &bytes[8..]);
        bytes[..8].copy_from_slice(&check.to_be_bytes());
        bytes
    }
}

/// What `look` makes of the stretch that tells of an id, if there are any.
fn with<T>(
    connection: &Connection,
    id: &str,
    look: impl Fn(Written<'_>) -> T,
) -> Result<Option<T>, Trouble> {
    let sql = "SELECT n, first, newest, entries FROM invoice_id_stretches \
         WHERE first <= ?1 ORDER BY first DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    // A reader has a snapshot for each statement: the first of them may come after the first one.
    for _ in 0..2 {
        let mut found = statement.query([id])?;
        if let Some(row) = found.next()? {
            let written = Written::read(row)?;
            if id < written.first || written.next.is_some_and(|next| id >= next) {
                break;
            }
            return Ok(Some(look(written)));
        }
        drop(found);
        // By its rows, and by no index of them.
        let any: bool = connection
            .prepare_cached("SELECT max(n) IS NOT NULL FROM invoice_id_stretches")?
            .query_row([], |row| row.get(0))?;
        if !any {
            return Ok(None);
        }
    }
    Err(Trouble::Leaf(NAME))
}

/// The first id of the first stretch after one.
fn first_after(connection: &Connection, first: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT first FROM invoice_id_stretches WHERE first > ?1 ORDER BY first LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([first], |row| {
        let bytes = row.get_ref(0)?.as_bytes().unwrap_or_default();
        Ok(String::from_utf8_lossy(bytes).into_owned())
    });
    found.optional()
}

/// The rows that have a hash, as far as they are in the stretch that tells of an id.
///
/// # Errors
/// Where they cannot be read, or are not what was written.
pub(super) fn rows(connection: &Connection, id: &str, hash: i64) -> Result<Vec<i64>, Trouble> {
    let rows = with(connection, id, |written| written.rows(hash))?;
    Ok(rows.unwrap_or_default())
}

/// The rows after a number that are in stretches, in their order. What cannot be read has none.
///
/// # Errors
/// SQLite's.
pub(super) fn after(connection: &Connection, n: i64) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT n, first, newest, entries FROM invoice_id_stretches WHERE newest > ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query([n])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        if let Ok(written) = Written::read(row) {
            rows.extend(written.entries().map(|it| it.1).filter(|it| *it > n));
        }
    }
    rows.sort_unstable();
    Ok(rows)
}

/// What is wrong with them, for who checks: each id has its stretch, and the entries are those of invoices. `each` gets all
/// of these.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn fault(
    connection: &Connection,
    mut each: impl FnMut(Entry),
) -> Result<Option<String>, Trouble> {
    let sql = "SELECT n, first, newest, entries FROM invoice_id_stretches ORDER BY first";
    let mut statement = connection.prepare(sql)?;
    let mut found = statement.query([])?;
    let mut invoice =
        connection.prepare("SELECT id FROM invoices WHERE n = ?1 AND id_hash = ?2")?;
    let damaged = || {
        Ok(Some(
            "the index of invoice ids in order is not what was written".to_owned(),
        ))
    };
    // Where the next one begins.
    let mut begins = Some(String::new());
    let mut is_any = false;
    while let Some(row) = found.next()? {
        is_any = true;
        let Ok(written) = Written::read(row) else {
            return damaged();
        };
        if begins.as_deref() != Some(written.first) {
            return damaged();
        }
        begins = written.next.map(str::to_owned);
        let mut before = None;
        let mut newest = None;
        for entry in written.entries() {
            let (hash, n) = entry;
            let ids = written.first.as_bytes()..=written.last.as_bytes();
            let is_right = invoice
                .query_row((n, hash), |row| {
                    let id = row.get_ref(0)?.as_bytes();
                    Ok(id.is_ok_and(|id| ids.contains(&id)))
                })
                .optional()?
                .unwrap_or(false);
            if !is_right || before.is_some_and(|before| before >= entry) {
                return Ok(Some(format!(
                    "the index of invoice ids in order has an entry for row {n} that is not right"
                )));
            }
            before = Some(entry);
            newest = newest.max(Some(n));
            each(entry);
        }
        let is_least = written.first.is_empty() && newest.is_none();
        if !is_least && newest != Some(written.newest) {
            return damaged();
        }
    }
    if is_any && begins.is_some() {
        return damaged();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::invoice_ids::{id_hash, register};
    use super::super::testing::{Chance, in_memory};
    use super::*;

    /// Ids that come, in transactions of so many, and what becomes of them.
    struct Coming {
        connection: Connection,
        newest: Newest,
        bounds: Bounds,
        /// All that came, by their ids.
        all: BTreeMap<String, Entry>,
        in_stretches: usize,
    }

    impl Coming {
        fn new() -> Self {
            let connection = in_memory();
            register(&connection).unwrap();
            Self {
                connection,
                newest: Newest::new(ORDER),
                bounds: Bounds::Nothing,
                all: BTreeMap::new(),
                in_stretches: 0,
            }
        }

        fn come(&mut self, ids: impl IntoIterator<Item = String>, batch: usize) {
            let ids: Vec<_> = ids.into_iter().collect();
            for batch in ids.chunks(batch) {
                for text in batch {
                    let n = i64::try_from(self.all.len()).unwrap() + 1;
                    let entry = (id_hash(text.as_bytes()), n);
                    self.newest.add(InvoiceId::parse(text).unwrap(), entry);
                    assert_eq!(self.all.insert(text.clone(), entry), None, "{text}");
                }
                self.newest
                    .bring(&self.connection, &mut self.bounds)
                    .unwrap();
                self.in_stretches += self.newest.committed().len();
                let last = i64::try_from(self.all.len()).unwrap();
                assert!(self.newest.ids.len() < ORDER.waiting);
                assert!(self.newest.from() + 2 * 2048 >= last);
            }
        }

        fn of_hundred(&self) -> usize {
            100 * self.in_stretches / self.all.len()
        }

        /// Each is found where it is, and those that are in none are not.
        fn check(&self) {
            let mut there = 0;
            for (text, (hash, n)) in &self.all {
                let rows = rows(&self.connection, text, *hash).unwrap();
                assert!(rows.is_empty() || rows == [*n], "{text}: {rows:?}");
                assert!(rows.is_empty() || self.bounds.have(text));
                there += rows.len();
            }
            assert_eq!(there, self.in_stretches);
            let read = Bounds::read(&self.connection).unwrap();
            assert_eq!(read, self.bounds);
            let after = after(&self.connection, 0).unwrap();
            assert!(after.is_sorted() && after.len() == there);
            let newer = super::after(&self.connection, 3000).unwrap();
            assert!(newer.iter().eq(after.iter().filter(|it| **it > 3000)));
        }
    }

    /// As they come on so many connections at once.
    fn mixed(chance: &mut Chance, ids: impl Iterator<Item = String>, span: u64) -> Vec<String> {
        let mut out = Vec::new();
        let mut waiting = Vec::new();
        for id in ids {
            waiting.push(id);
            if waiting.len() as u64 == span {
                out.push(waiting.swap_remove(chance.place(span)));
            }
        }
        out.extend(waiting);
        out
    }

    #[test]
    fn what_comes_in_order_is_in_stretches_but_for_the_newest() {
        let mut chance = Chance(51);
        for (batch, span) in [(1, 1), (60, 64), (250, 256), (9000, 1)] {
            let mut coming = Coming::new();
            let ids = (0..20_000).map(|n| format!("order-{n:016x}"));
            coming.come(mixed(&mut chance, ids, span), batch);
            assert!(coming.of_hundred() > 89, "{span}: {}", coming.of_hundred());
            coming.check();
        }
    }

    #[test]
    fn several_that_have_an_order_of_their_own_are_in_stretches_side_by_side() {
        for streams in [2, 3, 4_u64] {
            let mut coming = Coming::new();
            let mut chance = Chance(52);
            let ids = (0..30_000).map(|n| {
                let stream = ["a-", "inv_", "order-", "z"][chance.place(streams)];
                format!("{stream}{n:08}")
            });
            coming.come(ids, 50);
            assert!(
                coming.of_hundred() > 50,
                "{streams}: {}",
                coming.of_hundred()
            );
            coming.check();
        }
    }

    #[test]
    fn what_comes_in_no_order_is_in_none_and_is_not_in_the_way() {
        let mut coming = Coming::new();
        let mut chance = Chance(53);
        for batch in [1, 64, 10_000] {
            let random: Vec<_> = (0..30_000)
                .map(|_| format!("inv_{:016x}", chance.next()))
                .collect();
            coming.come(random, batch);
            assert_eq!(
                (coming.in_stretches, &coming.bounds),
                (0, &Bounds::Nothing),
                "{batch}"
            );
        }
        let before = coming.all.len();
        coming.come((0..20_000).map(|n| format!("inv_8{n:015x}")), 64);
        let came = coming.all.len() - before;
        assert!(
            coming.in_stretches * 10 > came * 8,
            "{}",
            coming.in_stretches
        );
        coming.check();
    }

    /// Now and then there is one that is greater, or less, than all that will come.
    #[test]
    fn one_that_is_far_from_the_others_does_not_end_it() {
        let mut coming = Coming::new();
        let ids = (0..20_000).map(|n| match n % 500 {
            7 => format!("order-z{n}"),
            8 => format!("order-{n}"),
            9 => format!("{n}"),
            10 => format!("z{n}"),
            _ => format!("order-1-{n:08}"),
        });
        coming.come(ids, 30);
        assert!(coming.of_hundred() > 85, "{}", coming.of_hundred());
        coming.check();
    }

    /// Ids between those of before have a stretch of their own where none is in the way.
    #[test]
    fn what_comes_between_stretches_has_its_own_and_what_comes_into_one_has_none() {
        let mut coming = Coming::new();
        coming.come((0..6000).map(|n| format!("m-{:08}", 10 * n)), 40);
        let first = coming.in_stretches;
        // Each of these would be inside one of those that there are.
        coming.come((0..4000).map(|n| format!("m-{:08}", 10 * n + 5)), 40);
        assert_eq!(coming.in_stretches, first);
        // These are before, after and beyond.
        for begin in ["ma-", "m--", "m-1", "a", "m-5"] {
            let before = coming.in_stretches;
            coming.come((0..8000).map(|n| format!("{begin}{n:08}")), 40);
            assert!(coming.in_stretches > before + 5000, "{begin}");
        }
        coming.check();
    }

    #[test]
    fn what_is_rolled_back_was_never_there() {
        let mut coming = Coming::new();
        coming.come((0..2000).map(|n| format!("m-{n:08}")), 40);
        coming.connection.execute_batch("BEGIN").unwrap();
        let before = coming.newest.ids.len();
        for n in 2000..3000 {
            let id = InvoiceId::parse(&format!("m-{n:08}")).unwrap();
            coming.newest.add(id, (n, n));
        }
        let Coming {
            connection,
            newest,
            bounds,
            ..
        } = &mut coming;
        newest.bring(connection, bounds).unwrap();
        assert!(!newest.written.is_empty() && after(connection, 0).unwrap().len() > 1000);
        connection.execute_batch("ROLLBACK").unwrap();
        newest.rolled_back();
        assert!(newest.written.is_empty());
        assert_eq!(newest.ids.len(), before);
        let found = rows(&coming.connection, "m-00000001", 1).unwrap();
        assert!(found.is_empty());
        // The bounds are wider than they need be, and nothing is missed.
        coming.come((2000..9000).map(|n| format!("m-{n:08}")), 40);
        assert!(coming.of_hundred() > 70);
        coming.check();
    }

    #[test]
    fn a_stretch_of_the_longest_ids_fits_into_a_page() {
        let id = "x".repeat(InvoiceId::LEN_MAX);
        let entries = (0..300).map(|n| (n, n)).collect();
        let mut stretch = Stretch::new((&id, &id), entries).unwrap();
        stretch.next = Some(id.clone());
        // What SQLite adds: a page's head, a cell's, and a record's.
        let length = stretch.bytes(1 << 40).len() + id.len() + 9 + 12 + 16 + 12;
        assert!(length <= 4096, "{length}");
    }

    #[test]
    fn numbers_that_are_too_far_from_each_other_make_none() {
        for far in [1 << 40, i64::MIN] {
            assert_eq!(Stretch::new(("a", "b"), vec![(1, 1), (2, far)]), None);
        }
    }

    /// A bit of what is written flips, or all of a stretch goes.
    fn damage(connection: &Connection, chance: &mut Chance, kind: u64) -> i64 {
        let count = "SELECT count(*) FROM invoice_id_stretches";
        let count: i64 = connection.query_row(count, [], |row| row.get(0)).unwrap();
        let n = i64::try_from(chance.below(count.cast_unsigned())).unwrap() + 1;
        let get = "SELECT entries FROM invoice_id_stretches WHERE n = ?1";
        let mut bytes: Vec<u8> = connection.query_row(get, [n], |row| row.get(0)).unwrap();
        let sql = match kind {
            0 => "DELETE FROM invoice_id_stretches WHERE n = ?1",
            1 => "UPDATE invoice_id_stretches SET first = first || '0' WHERE n = ?1",
            2 => "UPDATE invoice_id_stretches SET first = 'm-000' || n WHERE n = ?1",
            3 => "UPDATE invoice_id_stretches SET newest = newest + 1 WHERE n = ?1",
            4 => "UPDATE invoice_id_stretches SET n = n + 1000 WHERE n = ?1",
            5 => "UPDATE invoice_id_stretches SET entries = substr(entries, 1, 30) WHERE n = ?1",
            6 => {
                "UPDATE invoice_id_stretches SET entries = (SELECT entries FROM invoice_id_stretches WHERE n = 3) WHERE n = ?1"
            }
            _ => {
                let place = chance.place(bytes.len() as u64);
                bytes[place] ^= 1 << chance.below(8);
                let sql = "UPDATE invoice_id_stretches SET entries = ?2 WHERE n = ?1";
                connection.execute(sql, (n, bytes)).unwrap();
                return n;
            }
        };
        connection.execute(sql, [n]).unwrap();
        n
    }

    #[test]
    fn what_is_damaged_never_says_that_something_is_not_there() {
        let mut coming = Coming::new();
        coming.come((0..9000).map(|n| format!("m-{n:08}")), 40);
        let connection = &coming.connection;
        // None of these are invoices, which the check asks for.
        let insert = "INSERT INTO invoices (n, id, amount, currency, metadata, status, attempts, attempts_before_round, \
             needs_attention, cancel_requested, created_at, updated_at, id_hash) \
             VALUES (?1, ?2, 1, 'EUR', '{}', 0, 0, 0, 0, 0, 0, 0, ?3)";
        for (text, (hash, n)) in &coming.all {
            connection.execute(insert, (n, text, hash)).unwrap();
        }
        assert_eq!(fault(connection, |_| ()).unwrap(), None);
        let written: BTreeMap<_, _> = coming
            .all
            .iter()
            .filter(|(text, (hash, _))| !rows(connection, text, *hash).unwrap().is_empty())
            .collect();
        let mut chance = Chance(54);
        for round in 0..120 {
            connection.execute_batch("BEGIN").unwrap();
            let n = damage(connection, &mut chance, round % 16);
            // What was copied onto itself is whole.
            if round % 16 == 6 && n == 3 {
                connection.execute_batch("ROLLBACK").unwrap();
                continue;
            }
            let mut hit = 0;
            for (text, (hash, n)) in &written {
                match rows(connection, text, *hash) {
                    Ok(rows) => assert_eq!(rows, [*n], "{round}"),
                    Err(Trouble::Leaf(_)) => hit += 1,
                    Err(other) => panic!("{round}: {other:?}"),
                }
            }
            let bounds = Bounds::read(connection).unwrap();
            assert!(hit > 0 || n == 1 || round % 16 == 3, "{round}: {n}");
            assert!(written.keys().all(|text| bounds.have(text)), "{round}");
            assert!(fault(connection, |_| ()).unwrap().is_some(), "{round}: {n}");
            connection.execute_batch("ROLLBACK").unwrap();
        }
    }

    /// The newest write of a page was lost, so that it is whole, and as it was before.
    #[test]
    fn a_stretch_that_does_not_know_of_the_next_one_is_noticed() {
        let entries = "SELECT entries FROM invoice_id_stretches WHERE n = ?1";
        let put = "UPDATE invoice_id_stretches SET entries = ?2 WHERE n = ?1";
        let mut coming = Coming::new();
        coming.come((0..3000).map(|n| format!("m-{n:08}")), 40);
        coming.come((0..3000).map(|n| format!("x-{n:08}")), 40);
        let of = |coming: &Coming, id: &str| Stretch::of(&coming.connection, id).unwrap().unwrap();
        let before = of(&coming, "q");
        let row = before.row.unwrap();
        let get = |coming: &Coming, row: i64| -> Vec<u8> {
            coming
                .connection
                .query_row(entries, [row], |row| row.get(0))
                .unwrap()
        };
        let (old, least) = (get(&coming, row), get(&coming, 1));
        coming.come((0..3000).map(|n| format!("q-{n:08}")), 40);
        let first = first_after(&coming.connection, "p").unwrap().unwrap();
        assert!(first.starts_with("q-"), "{first}");
        coming.connection.execute(put, (row, old)).unwrap();
        let between = Stretch::new(("p", &first), vec![(1, 1)]).unwrap();
        let known = of(&coming, "p");
        assert_eq!(known.in_the_way("p", &first), None);
        let refused = between.put_after(&coming.connection, Some(known));
        assert!(matches!(refused, Err(Trouble::Leaf(_))), "{refused:?}");
        coming.come((0..3000).map(|n| format!("a-{n:08}")), 40);
        coming.connection.execute(put, (1, least)).unwrap();
        assert_eq!(Bounds::read(&coming.connection).unwrap(), Bounds::Unknown);
    }

    /// The check of another payd is the same.
    #[test]
    fn what_databases_have() {
        let stretch = Stretch {
            next: Some("c".to_owned()),
            ..Stretch::new(("a", "b"), vec![(7, 2), (-1, 3)]).unwrap()
        };
        let bytes = stretch.bytes(5);
        let hex: String = bytes.iter().map(|it| format!("{it:02x}")).collect();
        let known = "4ae146a3e6266d1200000000000000020000000000000003010101616263ffffffffffffffff00000001000000000000000700000000";
        assert_eq!(hex, known);
        let written = Written::parse(5, &bytes).unwrap();
        assert_eq!(
            (written.first, written.last, written.next),
            ("a", "b", Some("c"))
        );
        assert_eq!(written.entries().collect::<Vec<_>>(), [(-1, 3), (7, 2)]);
        assert!(Written::parse(6, &bytes).is_none());
    }
}
