//! Which row has a key that belongs anywhere.
//!
//! Keys in no order cost an index of SQLite's a page each: read, logged and written back for one entry alone. Here a
//! key is found by a hash, and an entry comes to its table in three steps. It gathers in memory, with others; once there
//! are enough of them, they are written as a sorted run (runs.rs), a few hundred on a page; and once there are enough
//! runs, these are merged into the table in the table's own order, as many entries as are added. The table is leaves
//! (leaves.rs) of a page: by then entries are so many that each leaf gets some, also where the table is large.
//!
//! Of most that is looked for the table's filter (filters.rs) says that it is not there.
//!
//! Nothing is found only in memory that is not in the database: the keys themselves stand in their rows, and those that
//! are in no run yet are read from these at a start. How far the table is complete stands in `late`, and now and then how
//! far those are that are merged.
//!
//! What it must never do: miss an entry. A hash only says where to look; whoever looks compares the key itself.

use std::collections::{HashMap, HashSet, hash_map};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use sha2::{Digest, Sha256};

use crate::application::request::first_eight;

use super::ahead::{LEAVES, Look};
use super::error::is_corrupt;
use super::filters::{self, Known, Told};
use super::late;
use super::leaves::{self, Leaf, SHARE};
use super::runs::{self, Merge, Offset, Run, Trouble, offset};
use super::sieve::{Sieve, may_have};

/// A hash, and the number of the row that has it.
pub(super) type Entry = (i64, i64);

/// A row that is in no run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Missing {
    /// It gathers.
    Entry(Entry),
    /// It is found elsewhere, by this number.
    Elsewhere(i64),
}

/// How much there is of what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Entries that gather in memory until they are a run.
    pub(super) run: usize,
    /// Runs that are merged at a time, and nearly twice as many where the other index has none.
    pub(super) merged: usize,
}

impl Sizes {
    /// Entries of a run, at most: a batch may bring some more at once.
    pub(super) const fn run_max(&self) -> usize {
        self.run + self.run / 32
    }
}

/// A map of 2^16 places has room for what gathers and a batch, which takes 0.8 MiB; the filters of thirty-two runs take 2.7
/// (sieve.rs). Each leaf of a table of ten million gets twenty entries in a merge.
pub(super) const SIZES: Sizes = Sizes {
    run: 56_000,
    merged: 16,
};

/// How often it is noted how far a merge is, beside the first time after a start: what has come after it is merged once more
/// after a stop.
const NOTES: usize = 512;

/// Nothing has been noted since the start, or since the merge began.
const UNNOTED: usize = usize::MAX;

/// Entries that are merged with a commit, at most, if it does not add half as many itself.
const MERGED_MAX: usize = 4096;

/// Parts of merged runs that are removed with a commit, at most.
const DROPPED: usize = 32;

/// The tables of an index: its leaves, of `last` and `entries`; its runs, of `n` and `entries`; and the blocks of its filter,
/// of `last` and `bits`.
pub(super) struct Table {
    /// What `late` calls it, and so people.
    pub(super) name: &'static str,
    /// What the checks of its filter begin with.
    pub(super) seed: u64,
    /// Adds a part of a run, by its key.
    pub(super) add_part: &'static str,
    /// Reads one.
    pub(super) part: &'static str,
    /// Reads all, in order.
    pub(super) parts: &'static str,
    /// Removes those up to a key, the first so many of them.
    pub(super) drop_parts: &'static str,
    /// Removes those after a key.
    pub(super) drop_parts_after: &'static str,
    /// The block of its filter (filters.rs) that ends at a hash or after it, if any: the first of them.
    pub(super) block: &'static str,
    /// Puts one there.
    pub(super) put_block: &'static str,
    /// Removes those that end between two hashes.
    pub(super) drop_blocks: &'static str,
    /// All of them, in order.
    pub(super) blocks: &'static str,
    /// The leaf (leaves.rs) that ends at a hash or after it, if any: the first of them.
    pub(super) leaf: &'static str,
    /// All of those.
    pub(super) leaves: &'static str,
    /// Reads so many from a hash on, and says how many those were.
    pub(super) next_leaves: &'static str,
    /// Puts one there.
    pub(super) put_leaf: &'static str,
    /// Whether there is one.
    pub(super) any_leaf: &'static str,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A [`Table`] by its name, and those of its runs and its filter.
macro_rules! table {
    ($name:literal, $runs:literal, $filters:literal, $leaves:literal) => {
        Table {
            name: $name,
            seed: $crate::infrastructure::store::filters::seed($name),
            add_part: concat!("INSERT INTO ", $runs, " (n, entries) VALUES (?1, ?2)"),
            part: concat!("SELECT entries FROM ", $runs, " WHERE n = ?1"),
            parts: concat!("SELECT n, entries FROM ", $runs, " ORDER BY n"),
            drop_parts: concat!(
                "DELETE FROM ",
                $runs,
                " WHERE n IN (SELECT n FROM ",
                $runs,
                " WHERE n <= ?1 ORDER BY n LIMIT ?2)"
            ),
            drop_parts_after: concat!("DELETE FROM ", $runs, " WHERE n > ?1"),
            block: concat!(
                "SELECT last, bits FROM ",
                $filters,
                " WHERE last >= ?1 ORDER BY last LIMIT 1"
            ),
            put_block: concat!(
                "INSERT OR REPLACE INTO ",
                $filters,
                " (last, bits) VALUES (?1, ?2)"
            ),
            drop_blocks: concat!("DELETE FROM ", $filters, " WHERE last BETWEEN ?1 AND ?2"),
            blocks: concat!("SELECT last, bits FROM ", $filters, " ORDER BY last"),
            leaf: concat!(
                "SELECT last, entries FROM ",
                $leaves,
                " WHERE last >= ?1 ORDER BY last LIMIT 1"
            ),
            leaves: concat!(
                "SELECT last, entries FROM ",
                $leaves,
                " WHERE last >= ?1 ORDER BY last"
            ),
            next_leaves: concat!(
                "SELECT count(length(entries)) FROM (SELECT entries FROM ",
                $leaves,
                " WHERE last >= ?1 ORDER BY last LIMIT ?2)"
            ),
            put_leaf: concat!(
                "INSERT OR REPLACE INTO ",
                $leaves,
                " (last, entries) VALUES (?1, ?2)"
            ),
            any_leaf: concat!("SELECT EXISTS (SELECT 1 FROM ", $leaves, ")"),
        }
    };
}
pub(super) use table;

/// A hash in eight bytes that need not lie at a multiple of eight: an entry is 12 bytes then, and not 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, packed(4))]
struct Hash(i64);

/// What is in memory.
#[derive(Debug)]
struct Memory {
    /// The newest entries, by how many rows they are beyond the base.
    gathering: HashMap<Hash, Offset, RandomState>,
    base: i64,
    /// Those that have no place among these: their hash has one already, or their number is too far from the base.
    odd: Vec<Entry>,
    /// How many rows after the base have left: they are in stretches.
    left: usize,
    /// What has been written and is not merged, oldest first.
    runs: Vec<Arc<Run>>,
    sieve: Sieve,
}

/// Where entries may be that have a hash.
#[derive(Debug)]
pub(super) struct Places {
    /// Rows that have it.
    rows: Vec<i64>,
    /// Parts of runs that may know of others.
    parts: Vec<i64>,
}

impl Memory {
    fn add(&mut self, (hash, n): Entry) {
        if let Some(offset) = offset(self.base, n)
            && let hash_map::Entry::Vacant(free) = self.gathering.entry(Hash(hash))
        {
            free.insert(offset);
        } else {
            self.odd.push((hash, n));
        }
    }

    /// The rows of those that gather.
    fn gathered(&self, hash: i64) -> Vec<i64> {
        let gathered = self.gathering.get(&Hash(hash));
        let gathered = gathered.map(|it| self.base + i64::from(*it));
        let odd = self.odd.iter().filter(|it| it.0 == hash).map(|it| it.1);
        gathered.into_iter().chain(odd).collect()
    }

    fn places(&self, hash: i64) -> Places {
        let found = self.sieve.look(hash);
        let runs = self.runs.iter().filter(|it| may_have(found, it.slots));
        Places {
            rows: self.gathered(hash),
            parts: runs.filter_map(|it| it.part(hash)).collect(),
        }
    }

    fn remove(&mut self, entry: Entry) {
        let (hash, n) = entry;
        if self.odd.contains(&entry) {
            self.odd.retain(|it| *it != entry);
        } else if let hash_map::Entry::Occupied(gathered) = self.gathering.entry(Hash(hash))
            && self.base + i64::from(*gathered.get()) == n
        {
            gathered.remove();
        }
    }

    fn len(&self) -> usize {
        self.gathering.len() + self.odd.len()
    }

    /// What gathers of rows up to the run's end is in it, or in the table. Its hashes are in order.
    fn is_in(&mut self, (mut run, hashes): (Run, Vec<i64>), newest: i64, room: usize) {
        run.slots = self.sieve.add(&hashes);
        let all = self.gathering.drain();
        let all = all.map(|(hash, offset)| (hash.0, self.base + i64::from(offset)));
        let all = all.chain(self.odd.drain(..));
        let rest: Vec<Entry> = all.filter(|it| it.1 > run.end).collect();
        self.gathering.shrink_to(room);
        self.left = usize::try_from(newest.saturating_sub(run.end)).map_or(self.left, |rows| {
            // Of the rows after it, those that do not gather.
            rows.saturating_sub(rest.len()).min(self.left)
        });
        self.base = run.end;
        self.runs.push(Arc::new(run));
        for entry in rest {
            self.add(entry);
        }
    }

    /// Runs up to a row have been merged.
    fn let_go(&mut self, merged_to: i64) {
        let merged = self.runs.extract_if(.., |run| run.end <= merged_to);
        self.sieve.release(merged.map(|run| run.slots));
    }
}

/// What is in memory of an index: its writer's, and known to readers.
#[derive(Debug)]
pub(super) struct Recent(Mutex<Memory>);

impl Recent {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a hash may be that is not in the table. Whoever does not find it there looks into the table, in snapshots that
    /// begin after this, one after the other: an entry gathers until a commit has it in a run, and is in a run until one has
    /// it in the table.
    pub(super) fn places(&self, hash: i64) -> Places {
        self.memory().places(hash)
    }

    /// Whether a row gathers under this hash.
    pub(super) fn gathers(&self, hash: i64, n: i64) -> bool {
        self.memory().gathered(hash).contains(&n)
    }
}

impl Places {
    /// Whether a row gathered under the hash.
    pub(super) fn gathered(&self, n: i64) -> bool {
        self.rows.contains(&n)
    }

    /// The rows that may have the hash and are not in the table, as far as `connection` sees them.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn rows(
        &self,
        connection: &Connection,
        table: &Table,
        hash: i64,
    ) -> Result<Vec<i64>, Trouble> {
        let mut rows = self.rows.clone();
        for &key in &self.parts {
            // What is gone since is in the table.
            let part = runs::part(connection, table, key)?.unwrap_or_default();
            let place = part.partition_point(|it| it.0 < hash);
            rows.extend(
                part[place..]
                    .iter()
                    .take_while(|it| it.0 == hash)
                    .map(|it| it.1),
            );
        }
        Ok(rows)
    }
}

/// How far a table is, as `late` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// It has all rows up to this one.
    until: i64,
    /// And of those after it, up to this one, all up to this hash.
    merged: Option<(i64, i64)>,
}

impl Standing {
    /// Nothing where it is not what was written.
    ///
    /// # Errors
    /// SQLite's.
    fn read(connection: &Connection, name: &str) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT until, merging_to, merged_to, digest FROM late WHERE name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let (until, to, hash, digest): (i64, Option<i64>, Option<i64>, Option<i64>) = statement
            .query_row([name], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let standing = Self {
            until,
            merged: to.zip(hash),
        };
        Ok((digest == Some(standing.digest(name))).then_some(standing))
    }

    fn note(self, connection: &Connection, name: &str) -> rusqlite::Result<()> {
        let (to, hash) = self.merged.unzip();
        let sql = "UPDATE late SET until = ?2, merging_to = ?3, merged_to = ?4, digest = ?5 WHERE name = ?1";
        let values = (name, self.until, to, hash, self.digest(name));
        connection.prepare_cached(sql)?.execute(values).map(|_| ())
    }

    /// The first eight bytes of SHA-256 of all that it says.
    fn digest(self, name: &str) -> i64 {
        let (to, hash) = self.merged.unwrap_or((self.until, i64::MIN));
        let mut digest = Sha256::new().chain_update(name);
        for number in [self.until, to, hash] {
            digest.update(number.to_be_bytes());
        }
        first_eight(&digest.finalize())
    }
}

/// Makes a function of ours known to SQL, for migrations and checks: it always gives the same, and nothing in the schema
/// can call it.
///
/// # Errors
/// SQLite's.
pub(super) fn define(
    connection: &Connection,
    name: &str,
    arguments: i32,
    function: fn(&mut Context<'_>) -> rusqlite::Result<i64>,
) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function(name, arguments, flags, function)
}

/// Makes the digest known to SQL, for migrations.
///
/// # Errors
/// SQLite's.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    define(connection, "late_digest", 2, |context| {
        let standing = Standing {
            until: context.get(1)?,
            merged: None,
        };
        let name: String = context.get(0)?;
        Ok(standing.digest(&name))
    })
}

/// What the filter has still to be told of what is merged. Until then it is in runs, and looked for there.
#[derive(Debug)]
struct Untold {
    told: Told,
    /// What has come after that, in order.
    hashes: Vec<i64>,
    /// How many of these there were before the transaction under way, and what they were, if it has told the filter.
    before: usize,
    told_before: Option<(Told, Vec<i64>)>,
}

impl Untold {
    const fn from(told_to: Option<i64>) -> Self {
        Self {
            told: Told::new(told_to),
            hashes: Vec::new(),
            before: 0,
            told_before: None,
        }
    }

    /// Whether it is time to tell, once the table has all up to this hash.
    fn is_due(&self, to: Option<i64>) -> bool {
        to.is_some_and(|to| self.told.is_due(to, self.hashes.len()))
    }

    /// Finds out where the next block ends.
    fn find_next(&mut self, connection: &Connection, table: &Table) -> rusqlite::Result<()> {
        self.told = filters::next(connection, table, self.told.to)?;
        Ok(())
    }

    /// The filter gets them, as far as it is time to: the table has nothing else up to this hash.
    fn tell(
        &mut self,
        connection: &Connection,
        table: &Table,
        known: &mut Known,
        to: i64,
    ) -> Result<(), Trouble> {
        let range = (self.told.to, to);
        let told = filters::extend(connection, table, known, range, &self.hashes)?;
        let is_told = |hash: &i64| told.to.is_some_and(|to| *hash <= to);
        let rest = self.hashes.split_off(self.hashes.partition_point(is_told));
        let mut all = std::mem::replace(&mut self.hashes, rest);
        all.extend(&self.hashes);
        self.told_before = Some((std::mem::replace(&mut self.told, told), all));
        Ok(())
    }

    fn committed(&mut self) {
        self.told_before = None;
        self.before = self.hashes.len();
    }

    fn rolled_back(&mut self) {
        if let Some(before) = self.told_before.take() {
            (self.told, self.hashes) = before;
        }
        self.hashes.truncate(self.before);
    }
}

fn known(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An index by hashes, for its one writer.
#[derive(Debug)]
pub(super) struct Hashes {
    table: &'static Table,
    sizes: Sizes,
    /// Whether the other index has no runs: then there is room for more of this one's.
    is_alone: bool,
    recent: Arc<Recent>,
    /// The runs that the transaction under way has written, with their hashes.
    written: Vec<(Run, Vec<i64>)>,
    /// What is merged: the runs up to this row, of which all entries up to a hash are in the table. With the transaction
    /// under way, and without.
    merging_to: i64,
    merged_to: Option<i64>,
    merged_before: Option<i64>,
    merge: Option<Merge>,
    untold: Untold,
    /// Of the filter, and of that of the other index.
    known: Arc<Mutex<Known>>,
    /// Whether the table may have anything.
    has_any: bool,
    /// Leaves that the merge has gone through since it was said which come next; and which do, until somebody asks.
    gone_through: usize,
    to_come: Option<i64>,
    /// Entries that are due to be merged; fewer than none, where a leaf had more. With the transaction under way, and
    /// without.
    owed: isize,
    owed_before: isize,
    /// Entries since it was noted how far that is.
    unnoted: usize,
    /// Whether nothing has been noted since the start, which was in the middle of a merge.
    was_stopped: bool,
    /// Whether there are parts of runs that are not what was written, which are in nobody's way until the next run; and
    /// whether the transaction under way has removed them.
    damaged: bool,
    mended: bool,
    /// The last part of runs that are merged, which are removed a few at a time; and whether they are gone with the
    /// transaction under way.
    merged_part: Option<i64>,
    none_left: bool,
    /// How far the table is complete.
    until: i64,
    /// Whether it is complete up to those that are merged, once the transaction under way is committed.
    all_there: bool,
    /// The greatest number that a row has had: with the transaction under way, and without.
    newest: i64,
    newest_before: i64,
    /// Hashes that are in no run, and rows that the table has under some, for as long as the transaction writes neither.
    not_in_runs: HashSet<i64, RandomState>,
    in_table: HashMap<i64, Vec<i64>, RandomState>,
    /// What the transaction under way has added.
    added: Vec<Entry>,
}

impl Hashes {
    /// With the entries of rows that are in no run, as `missing` reads them.
    ///
    /// # Errors
    /// Where they cannot be read, or are not what was written.
    pub(super) fn open(
        connection: &Connection,
        table: &'static Table,
        sizes: Sizes,
        missing: impl FnOnce(i64, &mut dyn FnMut(Missing)) -> rusqlite::Result<()>,
    ) -> Result<Self, Trouble> {
        let standing = Standing::read(connection, table.name)?;
        let Standing { until, merged } = standing.ok_or_else(|| runs::damaged(table))?;
        let mut sieve = Sieve::new(sizes.run_max());
        let found = Run::all(connection, table, until, &mut sieve)?;
        if found.damaged {
            let index = table.name;
            tracing::error!(
                index,
                "runs of an index are not what was written: payd.db is damaged, see what `payd verify` finds in it; this is \
                 made anew from the rows"
            );
        }
        // What is merged into the table once more changes nothing.
        let merged = merged.filter(|(to, _)| found.runs.iter().any(|run| run.end == *to));
        let in_runs = found.runs.last().map_or(until, |run| run.end);
        let mut memory = Memory {
            gathering: HashMap::default(),
            base: in_runs,
            odd: Vec::new(),
            left: 0,
            runs: found.runs.into_iter().map(Arc::new).collect(),
            sieve,
        };
        let mut newest = in_runs;
        missing(in_runs, &mut |found| match found {
            Missing::Entry(entry) => {
                newest = newest.max(entry.1);
                memory.add(entry);
            }
            Missing::Elsewhere(n) => {
                newest = newest.max(n);
                memory.left += 1;
            }
        })?;
        let merged_to = merged.map(|(_, hash)| hash);
        // What cannot be read is there, and found out by who looks for it.
        let has_any = match leaves::any(connection, table) {
            Err(error) if is_corrupt(&error) => true,
            any => any?,
        };
        Ok(Self {
            table,
            sizes,
            is_alone: false,
            recent: Arc::new(Recent(Mutex::new(memory))),
            written: Vec::new(),
            merging_to: merged.map_or(until, |(to, _)| to),
            merged_to,
            merged_before: merged_to,
            merge: None,
            untold: Untold::from(merged_to),
            known: Arc::default(),
            has_any,
            gone_through: usize::MAX / 2,
            to_come: None,
            owed: 0,
            owed_before: 0,
            unnoted: UNNOTED,
            was_stopped: merged_to.is_some(),
            damaged: found.damaged,
            mended: false,
            merged_part: found.merged,
            none_left: false,
            until,
            all_there: false,
            newest,
            newest_before: newest,
            not_in_runs: HashSet::default(),
            in_table: HashMap::default(),
            added: Vec::new(),
        })
    }

    /// What readers are to know.
    pub(super) fn recent(&self) -> Arc<Recent> {
        Arc::clone(&self.recent)
    }

    /// What is known of the filters, to be shared.
    pub(super) fn known(&self) -> Arc<Mutex<Known>> {
        Arc::clone(&self.known)
    }

    /// From now on it is shared with another index.
    pub(super) fn share(&mut self, known: Arc<Mutex<Known>>) {
        self.known = known;
    }

    /// The leaves that the merge comes to next, where it is time to read them.
    pub(super) fn next_leaves(&mut self) -> Option<Look> {
        let after = self.to_come.take()?;
        Some(Look::Leaves(self.table, after))
    }

    /// Whether runs are made anew from the rows.
    pub(super) const fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Frees what is known of filters.
    pub(super) fn rest(&self) {
        known(&self.known).rest();
    }

    /// Whether there are runs that have more than a few entries.
    pub(super) fn has_runs(&self) -> bool {
        self.recent.memory().sieve.is_large()
    }

    /// Whether the other index has some.
    pub(super) const fn other_has_runs(&mut self, has_runs: bool) {
        self.is_alone = !has_runs;
    }

    /// Runs that are merged at a time: filters of so many and as many more are in memory, of which there are 64 at most
    /// (sieve.rs), also where merges are behind.
    const fn merged(&self) -> usize {
        if self.is_alone {
            self.sizes.merged * 15 / 8
        } else {
            self.sizes.merged
        }
    }

    /// How many parts of runs are read for a hash.
    #[cfg(test)]
    pub(super) fn parts(&self, hash: i64) -> usize {
        self.recent.places(hash).parts.len()
    }

    /// How many runs there are that are not merged.
    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        self.recent.memory().runs.len()
    }

    /// The greatest number that a row has had.
    pub(super) const fn newest(&self) -> i64 {
        self.newest
    }

    /// The rows that may have this hash, and are not in the table.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn rows(&self, connection: &Connection, hash: i64) -> Result<Vec<i64>, Trouble> {
        if self.not_in_runs.contains(&hash) {
            return Ok(self.gathered(hash));
        }
        let places = self.recent.places(hash);
        places.rows(connection, self.table, hash)
    }

    /// The rows of those that gather, which may not have been written yet.
    pub(super) fn gathered(&self, hash: i64) -> Vec<i64> {
        self.recent.memory().gathered(hash)
    }

    /// A row that is new, and found by its hash from now on. Readers find it too, and see it once it is committed.
    pub(super) fn add(&mut self, entry: Entry) {
        self.newest = self.newest.max(entry.1);
        self.added.push(entry);
        self.recent.memory().add(entry);
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self) {
        self.forget();
    }

    /// What was looked for may be there soon.
    fn forget(&mut self) {
        self.not_in_runs.clear();
        self.in_table.clear();
    }

    /// Those of many hashes that the table may have, but for what gathers. Most are new, and need not be looked for then.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn sift(
        &mut self,
        connection: &Connection,
        mut hashes: Vec<i64>,
    ) -> rusqlite::Result<Vec<i64>> {
        let memory = self.recent.memory();
        memory.sieve.touch(&hashes);
        hashes.retain(|hash| {
            let places = memory.places(*hash);
            if places.parts.is_empty() {
                self.not_in_runs.insert(*hash);
            }
            places.rows.is_empty()
        });
        drop(memory);
        if !self.has_any {
            let absent = hashes.into_iter().map(|hash| (hash, Vec::new()));
            self.in_table.extend(absent);
            return Ok(Vec::new());
        }
        let known = &mut *known(&self.known);
        filters::sift(connection, self.table, known, hashes, |hash| {
            self.in_table.insert(hash, Vec::new());
        })
    }

    /// Looks for these in the table. What cannot be read there costs who asks for it again.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn look(&mut self, connection: &Connection, hashes: &[i64]) -> rusqlite::Result<()> {
        for hash in hashes {
            match leaves::rows(connection, self.table, *hash) {
                Ok(rows) => {
                    self.in_table.insert(*hash, rows);
                }
                Err(Trouble::Sqlite(error)) if !is_corrupt(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// It was looked for everywhere, and is not there.
    pub(super) fn not_there(&mut self, hash: i64) {
        self.not_in_runs.insert(hash);
        self.in_table.insert(hash, Vec::new());
    }

    /// Whether it may be in the table, as far as that is known without a look.
    pub(super) fn may_be_in_table(&self, hash: i64) -> bool {
        self.in_table.get(&hash).is_none_or(|rows| !rows.is_empty())
    }

    /// The rows that the table has under this hash.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn rows_in_table(
        &self,
        connection: &Connection,
        hash: i64,
    ) -> Result<Vec<i64>, Trouble> {
        match self.in_table.get(&hash) {
            Some(rows) => Ok(rows.clone()),
            None => leaves::rows(connection, self.table, hash),
        }
    }

    /// The transaction is about to be committed: writes a run, or puts some entries into the table, where it is time; of
    /// rows before the oldest that there is, none, and into a run none from `wait` on, which may be written elsewhere. Says
    /// whether a start will read from another row on than before.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub(super) fn bring(
        &mut self,
        connection: &Connection,
        oldest: i64,
        wait: impl FnOnce() -> i64,
    ) -> Result<bool, Trouble> {
        if self.added.is_empty() {
            return Ok(false);
        }
        self.forget();
        self.write_runs(connection, wait)?;
        if let Some(last) = self.merged_part {
            let mut statement = connection.prepare_cached(self.table.drop_parts)?;
            let dropped = statement.execute((last, i64::try_from(DROPPED).unwrap_or(1)))?;
            self.none_left = dropped < DROPPED;
        }
        if self.until < self.merging_to {
            self.merge(connection, oldest)?;
        }
        Ok(!self.written.is_empty())
    }

    /// Writes what gathers of rows before some, as runs, as far as it is enough.
    fn write_runs(
        &mut self,
        connection: &Connection,
        wait: impl FnOnce() -> i64,
    ) -> Result<(), Trouble> {
        let memory = self.recent.memory();
        let (base, run) = (memory.base, self.sizes.run);
        if memory.len() + memory.left < run {
            return Ok(());
        }
        let last = memory.runs.last().map(|run| run.last_key());
        // Beyond those that are on their way out.
        let last = last.or(self.merged_part).unwrap_or(0);
        drop(memory);
        let newest = self.newest.min(wait().saturating_sub(1));
        let rows_after = |base| usize::try_from(newest.saturating_sub(base)).unwrap_or(0);
        // What waits may hold up most of them.
        if rows_after(base) < run / 2 {
            return Ok(());
        }
        if self.damaged {
            let mut statement = connection.prepare_cached(self.table.drop_parts_after)?;
            statement.execute([last])?;
            // It is no run of before that ends where one of these may.
            let standing = Standing {
                until: self.until,
                merged: None,
            };
            standing.note(connection, self.table.name)?;
            self.mended = true;
        }
        let (mut near, far) = self.gathered_to(newest);
        leaves::put(connection, self.table, &far)?;
        let hashes = far.iter().map(|it| it.0);
        filters::add(connection, self.table, &mut known(&self.known), hashes)?;
        self.has_any |= !far.is_empty();
        if near.len() > self.sizes.run_max() {
            near.sort_unstable_by_key(|it| it.1);
        }
        let (mut base, mut number, mut rest) = (base, runs::number_of(last) + 1, &near[..]);
        loop {
            // No more than a filter has room for.
            let mut count = if rest.len() > self.sizes.run_max() {
                run
            } else {
                rest.len()
            };
            // A damaged row has two entries.
            while count > 0 && rest.get(count).is_some_and(|it| it.1 == rest[count - 1].1) {
                count += 1;
            }
            let (these, others) = rest.split_at(count);
            let end = match these.last() {
                Some((_, n)) if !others.is_empty() => *n,
                _ => newest,
            };
            let entry = |it: &Entry| Some((it.0, offset(base, it.1)?));
            let mut entries: Vec<_> = these.iter().filter_map(entry).collect();
            if entries.len() < these.len() {
                return Err(runs::damaged(self.table));
            }
            entries.sort_unstable();
            let run_of_these = Run::write(connection, self.table, number, (base, end), &entries)?;
            let hashes = entries.iter().map(|it| it.0).collect();
            self.written.push((run_of_these, hashes));
            if others.len() < run {
                // They gather on.
                return Ok(());
            }
            (base, number, rest) = (end, number + 1, others);
        }
    }

    /// What gathers of rows up to one: those that have a place in a run, and others.
    fn gathered_to(&self, end: i64) -> (Vec<Entry>, Vec<Entry>) {
        let memory = self.recent.memory();
        let base = memory.base;
        let gathered = memory.gathering.iter();
        let gathered = gathered.map(|(hash, offset)| (hash.0, base + i64::from(*offset)));
        let all = gathered.chain(memory.odd.iter().copied());
        let all = all.filter(|it| it.1 <= end);
        let (near, mut far): (Vec<Entry>, Vec<Entry>) =
            all.partition(|it| offset(base, it.1).is_some());
        far.sort_unstable();
        (near, far)
    }

    /// Merges on, by whole leaves, so far that it is done when as many runs have been written again: mostly an entry for each
    /// that is added.
    fn merge(&mut self, connection: &Connection, oldest: i64) -> Result<(), Trouble> {
        let runs = self.merged_runs();
        let all: usize = runs.iter().map(|run| run.entries).sum();
        let due = self.due(all);
        if self.merge.is_none() {
            let merge = Merge::beyond(connection, self.table, &runs, self.merged_to)?;
            self.merge = Some(merge);
        }
        let Some(merge) = self.merge.as_mut() else {
            return Ok(());
        };
        self.owed = self.owed.saturating_add_unsigned(due);
        // After a start as far as can be noted, so that a merge gets on however many stops there are.
        if self.was_stopped {
            self.untold.find_next(connection, self.table)?;
        }
        let mut entries = Vec::new();
        let least = self.owed.saturating_sub_unsigned(8 * MERGED_MAX);
        while (self.owed > 0
            || self.was_stopped && self.owed > least && !self.untold.is_due(self.merged_to))
            && let Some((hash, _)) = merge.peek()
        {
            let leaf = Leaf::at(connection, self.table, hash)?;
            entries.clear();
            while let Some(entry) = merge.peek() {
                // Those with the same hash go together, so that one hash tells how far they are.
                let is_next = entry.0 <= leaf.last && entries.len() < SHARE;
                if !is_next && self.merged_to != Some(entry.0) {
                    break;
                }
                self.merged_to = Some(entry.0);
                entries.extend(merge.next(connection, self.table)?);
            }
            self.unnoted = self.unnoted.saturating_add(entries.len());
            self.owed = self.owed.saturating_sub_unsigned(entries.len());
            entries.retain(|it| it.1 >= oldest);
            self.untold.hashes.extend(entries.iter().map(|it| it.0));
            self.has_any |= !entries.is_empty();
            self.gone_through += 1;
            if self.gone_through >= usize::from(LEAVES) * 3 / 4 {
                (self.gone_through, self.to_come) = (0, Some(leaf.last));
            }
            leaf.put(connection, self.table, &entries, oldest)?;
        }
        self.all_there = merge.peek().is_none();
        // Before it is noted that these are in the table, and before they leave the runs.
        let to = match self.all_there {
            true => Some(i64::MAX),
            false => self.merged_to,
        };
        let untold = &mut self.untold;
        let is_due = self.all_there || untold.is_due(to);
        let Some(to) = to.filter(|_| is_due) else {
            return Ok(());
        };
        let told_before = untold.told.to;
        untold.tell(connection, self.table, &mut known(&self.known), to)?;
        let told_to = untold.told.to;
        let standing = if self.all_there {
            Standing {
                until: self.merging_to,
                merged: None,
            }
        } else if told_to != told_before && self.unnoted >= all / NOTES {
            self.unnoted = 0;
            Standing {
                until: self.until,
                merged: told_to.map(|hash| (self.merging_to, hash)),
            }
        } else {
            return Ok(());
        };
        Ok(standing.note(connection, self.table.name)?)
    }

    /// How many of so many entries are to be merged for those that the transaction has added. A stop makes a merge begin
    /// again where it was noted last, and those that have come meanwhile have come: it is what is left that is due by then.
    fn due(&self, all: usize) -> usize {
        let rest = i64::MAX.abs_diff(self.merged_to.unwrap_or(i64::MIN));
        // Hashes come in no order, so that this says nearly how many; the last of them are few, and not none.
        let left = ((all as u128 * u128::from(rest)) >> 64) + 1;
        let memory = self.recent.memory();
        let run = self.sizes.run;
        // What has gone elsewhere takes no room, and a run as much as any.
        let runs = memory.runs.iter().map(|it| it.entries.max(run));
        let there = runs.sum::<usize>() + memory.len() + memory.left;
        // One less than may be: a merge may be a leaf behind.
        let room = ((2 * self.merged() - 1) * run + run / 2).saturating_sub(there);
        let least = run / 4 + 1;
        let due = self.added.len() as u128 * left;
        let due = if room > least {
            // What is left over becomes due as there is less room.
            (due / room as u128).max(1)
        } else {
            due.div_ceil(least as u128)
        };
        // Where it is far behind, a commit of many is not to wait for ever so many.
        let most = self.added.len().saturating_mul(2).max(MERGED_MAX);
        usize::try_from(due).unwrap_or(most).min(most)
    }

    fn merged_runs(&self) -> Vec<Arc<Run>> {
        let memory = self.recent.memory();
        let runs = memory.runs.iter().filter(|run| run.end <= self.merging_to);
        runs.cloned().collect()
    }

    /// It is committed, and what it has written elsewhere gathers no more. Says whether there is a run more.
    pub(super) fn committed(&mut self, elsewhere: &[Entry]) -> bool {
        self.added.clear();
        self.newest_before = self.newest;
        self.merged_before = self.merged_to;
        self.owed_before = self.owed;
        self.was_stopped &= self.unnoted == UNNOTED;
        self.untold.committed();
        let mut memory = self.recent.memory();
        if std::mem::take(&mut self.none_left) {
            self.merged_part = None;
        }
        if std::mem::take(&mut self.mended) {
            self.damaged = false;
        }
        if std::mem::take(&mut self.all_there) {
            let merged = memory.runs.iter().filter(|run| run.end <= self.merging_to);
            self.merged_part = merged
                .max_by_key(|run| run.number)
                .map(|run| run.last_key())
                .or(self.merged_part);
            memory.let_go(self.merging_to);
            self.until = self.merging_to;
            (self.merge, self.merged_to, self.merged_before) = (None, None, None);
            self.untold = Untold::from(None);
        }
        for entry in elsewhere {
            memory.remove(*entry);
        }
        memory.left += elsewhere.len();
        let is_written = !self.written.is_empty();
        // They may take the places of some of those.
        for run in self.written.drain(..) {
            memory.is_in(run, self.newest, self.sizes.run);
        }
        drop(memory);
        self.begin_to_merge();
        is_written
    }

    /// It is rolled back.
    pub(super) fn rolled_back(&mut self) {
        self.written.clear();
        (self.all_there, self.mended, self.none_left) = (false, false, false);
        self.newest = self.newest_before;
        self.owed = self.owed_before;
        self.untold.rolled_back();
        // Whatever was noted was not.
        self.unnoted = UNNOTED;
        if self.merged_to != self.merged_before {
            (self.merge, self.merged_to) = (None, self.merged_before);
        }
        let mut memory = self.recent.memory();
        for entry in self.added.drain(..) {
            memory.remove(entry);
        }
    }

    /// The runs that there are, if they are enough and none are being merged.
    fn begin_to_merge(&mut self) {
        if self.until < self.merging_to {
            return;
        }
        let memory = self.recent.memory();
        if memory.runs.len() >= self.merged()
            && let Some(last) = memory.runs.last()
        {
            self.merging_to = last.end;
            self.unnoted = UNNOTED;
        }
    }
}

/// Up to this row all are in the table or in runs, and a start does not read them.
///
/// # Errors
/// Where that cannot be read.
pub(super) fn written_to(connection: &Connection, table: &Table) -> rusqlite::Result<i64> {
    let until = late::until(connection, table.name)?;
    let found = Run::all(connection, table, until, &mut Sieve::new(0))?;
    Ok(found.runs.last().map_or(until, |run| run.end))
}

/// Gives all entries that are found elsewhere than in a table and its runs; or says what is wrong there.
pub(super) type Elsewhere =
    dyn Fn(&Connection, &mut dyn FnMut(Entry)) -> Result<Option<String>, Trouble>;

/// What is wrong with a table and its runs, for who checks: they have each row that is not elsewhere, and nothing else but
/// what has gone, which is before the oldest row. `rows` are all there are, with `n` and `hash`; `what` is what those are
/// of.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn fault(
    connection: &Connection,
    table: &Table,
    (rows, oldest): (&str, i64),
    elsewhere: &Elsewhere,
    what: &str,
) -> Result<Option<String>, Trouble> {
    let name = table.name;
    let Some(standing) = Standing::read(connection, name)? else {
        let why = format!("how far the index of {what} is is not what was written");
        return Ok(Some(why));
    };
    let (to, merged_to) = standing.merged.unwrap_or((standing.until, i64::MIN));
    let is_there = |hash, n| n <= standing.until || (n <= to && hash <= merged_to);
    let sql = format!("SELECT count(*) FROM ({rows}) WHERE n <= ?1 OR (n <= ?2 AND hash <= ?3)");
    let values = [standing.until, to, merged_to];
    let mut expected: i64 = connection.query_row(&sql, values, |row| row.get(0))?;
    let mut newer_elsewhere = HashSet::new();
    let fault = elsewhere(connection, &mut |(hash, n)| {
        expected -= i64::from(is_there(hash, n));
        if n > standing.until {
            newer_elsewhere.insert(n);
        }
    })?;
    if fault.is_some() {
        return Ok(fault);
    }
    let sql = format!("SELECT 1 FROM ({rows}) WHERE n = ?1 AND hash = ?2");
    let mut row = connection.prepare_cached(&sql)?;
    let (mut all, mut right, mut complete) = (0, 0, 0);
    let mut failed = Ok(());
    let gone_through = leaves::between(connection, table, (i64::MIN, i64::MAX), |(hash, n)| {
        if n < oldest {
            return ControlFlow::Continue(());
        }
        all += 1;
        complete += i64::from(is_there(hash, n));
        match row.exists((n, hash)) {
            Ok(is_right) => right += i64::from(is_right),
            Err(error) => {
                failed = Err(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    });
    failed?;
    match gone_through {
        Err(Trouble::Leaf(_)) => {
            let why = format!("the index of {what} is not what was written");
            return Ok(Some(why));
        }
        other => other?,
    }
    if expected != complete || all != right {
        return Ok(Some(format!(
            "the index of {what} has {all} entries of which {right} are right, and {complete} for {expected} that it should have"
        )));
    }
    let required = |hash, n| n >= oldest && is_there(hash, n);
    if let Some(why) = filters::fault(connection, table, required)? {
        return Ok(Some(format!("the filter of the index of {what} {why}")));
    }
    let found = Run::all(connection, table, standing.until, &mut Sieve::new(0))?;
    if found.damaged {
        let why = format!("the runs of the index of {what} are not what was written");
        return Ok(Some(why));
    }
    let sql = format!("SELECT hash, n FROM ({rows}) WHERE n > ?1 AND n <= ?2");
    for run in found.runs {
        let mut known: HashSet<Entry> = HashSet::new();
        for key in run.keys() {
            known.extend(runs::part(connection, table, key)?.unwrap_or_default());
        }
        let mut statement = connection.prepare_cached(&sql)?;
        let mut found = statement.query([run.base(), run.end])?;
        while let Some(row) = found.next()? {
            let entry = (row.get(0)?, row.get(1)?);
            // One whose number is too far from the others' is in the table already.
            let is_known = known.contains(&entry)
                || newer_elsewhere.contains(&entry.1)
                || leaves::rows(connection, table, entry.0)?.contains(&entry.1);
            if !is_known {
                let why = format!("the index of {what} does not have row {}", entry.1);
                return Ok(Some(why));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::invoice_ids::TABLE;
    use super::super::testing::in_memory;
    use super::*;

    /// What a transaction that is rolled back has told, and what it would have.
    #[test]
    fn what_was_not_told_after_all_is_told_again() {
        let connection = in_memory();
        let tell = |untold: &mut Untold, to| {
            let known = &mut Known::default();
            untold.tell(&connection, &TABLE, known, to).unwrap();
        };
        // Enough for two blocks.
        let entries: Vec<Entry> = (1..=80).map(|hash| (hash, 1)).collect();
        leaves::put(&connection, &TABLE, &entries).unwrap();
        let mut untold = Untold::from(None);
        untold.hashes.push(2);
        tell(&mut untold, 40);
        untold.committed();
        assert_eq!((untold.told.to, &untold.hashes), (Some(40), &vec![]));
        untold.hashes.extend([41, 42]);
        untold.committed();
        for told in [false, true] {
            connection.execute_batch("BEGIN").unwrap();
            untold.hashes.push(80);
            if told {
                tell(&mut untold, 80);
                assert_eq!((untold.told.to, &untold.hashes), (Some(80), &vec![]));
            }
            connection.execute_batch("ROLLBACK").unwrap();
            untold.rolled_back();
            assert_eq!((untold.told.to, &untold.hashes), (Some(40), &vec![41, 42]));
        }
        tell(&mut untold, 80);
        untold.committed();
        // The first block is told once more; for the second, what comes is waited for.
        let mut untold = Untold::from(None);
        untold.hashes.extend([1, 40, 41]);
        untold.committed();
        for _ in 0..2 {
            connection.execute_batch("BEGIN").unwrap();
            untold.hashes.push(50);
            tell(&mut untold, 50);
            assert_eq!((untold.told.to, &untold.hashes), (Some(40), &vec![41, 50]));
            assert_eq!(untold.told.next, Some(80));
            connection.execute_batch("ROLLBACK").unwrap();
            untold.rolled_back();
            let before = (untold.told.to, &untold.hashes);
            assert_eq!(before, (None, &vec![1, 40, 41]));
        }
        tell(&mut untold, 50);
        untold.committed();
        untold.hashes.push(60);
        untold.rolled_back();
        assert_eq!((untold.told.to, &untold.hashes), (Some(40), &vec![41]));
    }

    #[test]
    fn an_entry_takes_twelve_bytes() {
        assert_eq!(size_of::<(Hash, Offset)>(), 12);
    }

    #[test]
    fn numbers_that_are_far_from_the_others_are_kept_as_they_are() {
        let mut memory = Memory {
            gathering: HashMap::default(),
            base: 10,
            odd: Vec::new(),
            left: 0,
            runs: Vec::new(),
            sieve: Sieve::new(1),
        };
        let far = 11 + (1 << 40);
        let entries = [
            (5, 11),
            (5, 12),
            (6, far),
            (7, 10),
            (i64::MIN, 9),
            (i64::MAX, 13),
        ];
        for entry in entries {
            memory.add(entry);
        }
        assert_eq!(memory.odd, [(5, 12), (6, far), (7, 10), (i64::MIN, 9)]);
        for hash in [5, 6, 7, i64::MIN, i64::MAX, 8] {
            let numbers = entries.iter().filter(|it| it.0 == hash).map(|it| it.1);
            assert_eq!(memory.gathered(hash), numbers.collect::<Vec<_>>());
        }
        for entry in entries {
            memory.remove(entry);
            assert!(!memory.gathered(entry.0).contains(&entry.1));
        }
        assert_eq!(memory.len(), 0);
    }
}
