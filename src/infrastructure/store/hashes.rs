//! Which row has a key that belongs anywhere.
//!
//! Keys in no order cost an index of SQLite's a page each: read, logged and written back for one entry alone. Here a
//! key is found by a hash, and the newest entries are in memory. Once there are enough of them, they are put into the
//! table in the table's own order, a few with each commit that adds others: neighbours share their pages.
//!
//! Nothing is found only in memory that is not in the database: the keys themselves stand in their rows, and those that
//! the table does not have yet are read from these at a start. How far the table is complete stands in `late`, and now and
//! then how far those are that are on their way.
//!
//! What it must never do: miss an entry. A hash only says where to look; whoever looks compares the key itself.

use std::collections::{HashMap, HashSet, hash_map};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, Statement};
use sha2::{Digest, Sha256};

use crate::application::ports::StoreError;

use super::error::sort;
use super::together::Insert;

/// A hash, and the number of the row that has it.
pub(super) type Entry = (i64, i64);

/// Entries that gather in memory: a map of 2^17 places has room for these and a batch, which takes 1.6 MiB, and as many
/// on their way into the table 1.3. In a table of ten million, two of them share a page.
pub(super) const STEP: usize = 110_000;

/// It is noted how far the table is after every so many of what sets off: as many may go into it once more after a stop.
const NOTES: usize = 8;

/// How many hashes a table is asked for in one statement.
const MANY: usize = 16;

/// As many are worth a statement of their own.
const WORTH_IT: usize = 3;

/// The table of an index: of `hash` and `n`, in this order.
pub(super) struct Table {
    /// What `late` calls it.
    pub(super) name: &'static str,
    /// Puts entries in. One may be there already, from before a stop.
    pub(super) insert: Insert<Entry>,
    /// Says which of [`MANY`] hashes it has. Where there are fewer, some are given again.
    pub(super) find_many: &'static str,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A [`Table`] by its name.
macro_rules! table {
    ($name:literal) => {
        Table {
            name: $name,
            insert: super::together::Insert {
                verb: "INSERT OR IGNORE",
                into: concat!($name, " (hash, n)"),
                columns: 2,
                bind: hashes::bind,
                sql: [const { std::sync::OnceLock::new() }; 3],
            },
            find_many: concat!(
                "SELECT hash FROM ",
                $name,
                " WHERE hash IN (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
            ),
        }
    };
}
pub(super) use table;

/// Binds an entry, for [`table`].
pub(super) fn bind(
    statement: &mut Statement<'_>,
    at: usize,
    (hash, n): &Entry,
) -> rusqlite::Result<()> {
    statement.raw_bind_parameter(at, hash)?;
    statement.raw_bind_parameter(at + 1, n)
}

/// A hash in eight bytes that need not lie at a multiple of eight: an entry is 12 bytes then, and not 16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C, packed(4))]
struct Hash(i64);

/// A row by how many came after the base of its generation: 1 and up.
type Offset = u32;

/// Of an entry that is gone before it came to the table.
const GONE: Offset = 0;

/// Of a row that is beyond the base, and not too far.
fn offset(base: i64, n: i64) -> Option<Offset> {
    let offset = Offset::try_from(n.checked_sub(base)?).ok()?;
    (offset != GONE).then_some(offset)
}

/// Entries of rows beyond a base.
#[derive(Debug)]
struct Memory {
    /// The newest.
    gathering: HashMap<Hash, Offset, RandomState>,
    base: i64,
    /// Those on their way into the table, in its order, until all of them are there.
    moving: Vec<(Hash, Offset)>,
    moving_base: i64,
    /// Those that have no place among what gathers: their hash has one already, or their number is too far from the base.
    odd: Vec<Entry>,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hash = self.0;
        write!(f, "{hash}")
    }
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

    /// The numbers that a hash has here.
    fn find(&self, hash: i64) -> Vec<i64> {
        let gathered = self.gathering.get(&Hash(hash));
        let gathered = gathered.map(|it| self.base + i64::from(*it));
        let odd = self.odd.iter().filter(|it| it.0 == hash).map(|it| it.1);
        let moving = self.moving[self.place(hash)..]
            .iter()
            .take_while(|it| it.0 == Hash(hash))
            .filter(|it| it.1 != GONE)
            .map(|it| self.moving_base + i64::from(it.1));
        gathered.into_iter().chain(odd).chain(moving).collect()
    }

    /// Where a hash is among those on their way, or would be.
    fn place(&self, hash: i64) -> usize {
        self.moving.partition_point(|it| it.0 < Hash(hash))
    }

    /// Forgets one. Says whether the table has not had it: of those on their way the first so many are there.
    fn remove(&mut self, entry: Entry, moved: usize) -> bool {
        let (hash, n) = entry;
        if self.odd.contains(&entry) {
            self.odd.retain(|it| *it != entry);
            return true;
        }
        if let hash_map::Entry::Occupied(gathered) = self.gathering.entry(Hash(hash))
            && self.base + i64::from(*gathered.get()) == n
        {
            gathered.remove();
            return true;
        }
        let (place, Some(offset)) = (self.place(hash), offset(self.moving_base, n)) else {
            return false;
        };
        let same = self.moving[place..]
            .iter()
            .take_while(|it| it.0 == Hash(hash));
        let Some(at) = same.into_iter().position(|it| it.1 == offset) else {
            return false;
        };
        self.moving[place + at].1 = GONE;
        place + at >= moved
    }

    /// Whether a hash may have a row here.
    fn has(&self, hash: i64) -> bool {
        !self.find(hash).is_empty()
    }
}

/// How far a table is, as `late` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// It has all rows up to this one.
    pub(super) until: i64,
    /// And of those after it, up to this one, all up to this hash.
    pub(super) moving: Option<(i64, i64)>,
}

impl Standing {
    /// Nothing where it is not what was written.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn read(connection: &Connection, name: &str) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT until, moving_to, moved_to, digest FROM late WHERE name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let (until, to, hash, digest): (i64, Option<i64>, Option<i64>, Option<i64>) = statement
            .query_row([name], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let standing = Self {
            until,
            moving: to.zip(hash),
        };
        Ok((digest == Some(standing.digest(name))).then_some(standing))
    }

    fn note(self, connection: &Connection, name: &str) -> rusqlite::Result<()> {
        let (to, hash) = self.moving.unzip();
        let sql = "UPDATE late SET until = ?2, moving_to = ?3, moved_to = ?4, digest = ?5 WHERE name = ?1";
        let values = (name, self.until, to, hash, self.digest(name));
        connection.prepare_cached(sql)?.execute(values).map(|_| ())
    }

    /// The first eight bytes of SHA-256 of all that it says.
    fn digest(self, name: &str) -> i64 {
        let (to, hash) = self.moving.unwrap_or((self.until, i64::MIN));
        let mut digest = Sha256::new().chain_update(name);
        for number in [self.until, to, hash] {
            digest.update(number.to_be_bytes());
        }
        let first = digest.finalize().first_chunk().copied();
        i64::from_be_bytes(first.unwrap_or_default())
    }
}

/// Makes the digest known to SQL, for migrations.
///
/// # Errors
/// SQLite's.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("late_digest", 4, flags, |context| {
        let (to, hash): (Option<i64>, Option<i64>) = (context.get(2)?, context.get(3)?);
        let standing = Standing {
            until: context.get(1)?,
            moving: to.zip(hash),
        };
        let name: String = context.get(0)?;
        Ok(standing.digest(&name))
    })
}

/// What is wrong with a table, for who checks: it has each row up to where it is said to be, and nothing else. `rows` are
/// all there are, with `n` and `hash`; `what` is what those are of.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn fault(
    connection: &Connection,
    table: &Table,
    rows: &str,
    what: &str,
) -> rusqlite::Result<Option<String>> {
    let name = table.name;
    let Some(standing) = Standing::read(connection, name)? else {
        return Ok(Some(format!(
            "how far the index of {what} is is not what was written"
        )));
    };
    let there = "n <= ?1 OR (n <= ?2 AND hash <= ?3)";
    let sql = format!(
        "SELECT (SELECT count(*) FROM ({rows}) WHERE {there}), (SELECT count(*) FROM {name} WHERE {there}), \
         (SELECT count(*) FROM {name}), (SELECT count(*) FROM {name} k JOIN ({rows}) r ON r.n = k.n WHERE r.hash = k.hash)"
    );
    let (to, hash) = standing.moving.unwrap_or((standing.until, i64::MIN));
    let (rows, complete, all, right): (i64, i64, i64, i64) =
        connection.query_row(&sql, [standing.until, to, hash], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
    Ok((rows != complete || all != right).then(|| {
        format!(
            "the index of {what} has {all} entries of which {right} are right, and {complete} for {rows} that it should have"
        )
    }))
}

/// What is in memory of an index: its writer's, and known to readers.
#[derive(Debug)]
pub(super) struct Recent(Mutex<Memory>);

impl Recent {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows in memory that may have this hash. Whoever has not found one among them looks into the table, with a
    /// snapshot that begins after this: an entry is here until the table has it in a commit.
    pub(super) fn find(&self, hash: i64) -> Vec<i64> {
        self.memory().find(hash)
    }
}

/// An index by hashes, for its one writer.
#[derive(Debug)]
pub(super) struct Hashes {
    table: &'static Table,
    /// Entries that gather.
    step: usize,
    recent: Arc<Recent>,
    /// How many of those on their way are in the table: by what is committed, and after the transaction under way.
    moved: usize,
    moved_next: usize,
    /// How many of them were when that was noted last.
    noted: usize,
    noted_next: usize,
    /// The newest row of those on their way.
    moving_to: i64,
    /// How far the table is complete.
    until: i64,
    /// Whether it is complete up to those on their way, once the transaction under way is committed.
    all_there: bool,
    /// The greatest number that a row has had: with the transaction under way, and without.
    newest: i64,
    newest_before: i64,
    /// Up to here they were read when this was opened, and the table may have had them.
    read_to: i64,
    /// Hashes that the table does not have, for as long as the transaction under way puts none into it.
    absent: HashSet<i64, RandomState>,
    /// What the transaction under way has added.
    added: Vec<Entry>,
    /// Whether it has removed anything.
    removed: bool,
}

impl Hashes {
    /// With the entries of rows beyond where the table is complete, as `missing` reads them. It may have some of them all
    /// the same.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn open(
        connection: &Connection,
        table: &'static Table,
        step: usize,
        missing: impl FnOnce(i64, &mut dyn FnMut(Entry)) -> rusqlite::Result<()>,
    ) -> Result<Self, StoreError> {
        let standing = Standing::read(connection, table.name).map_err(sort)?;
        let Standing { until, moving } = standing.ok_or_else(|| {
            let name = table.name;
            StoreError::Fatal(format!(
                "how far the index of {name} is stands in payd.db, and is not what was written: payd.db is damaged; keep a copy, \
                 see what `payd verify` finds in it, and restore the newest backup"
            ))
        })?;
        let moving_to = moving.map_or(until, |(to, _)| to);
        let moved_to = moving.map(|(_, hash)| hash);
        let mut memory = Memory {
            gathering: HashMap::default(),
            base: moving_to,
            moving: Vec::new(),
            moving_base: until,
            odd: Vec::new(),
        };
        let mut newest = moving_to;
        missing(until, &mut |(hash, n)| {
            newest = newest.max(n);
            if n > moving_to {
                memory.add((hash, n));
            } else if let Some(offset) = offset(until, n) {
                if moved_to.is_none_or(|it| hash > it) {
                    memory.moving.push((Hash(hash), offset));
                }
            } else {
                memory.odd.push((hash, n));
            }
        })
        .map_err(sort)?;
        memory.moving.sort_unstable();
        memory.moving.shrink_to_fit();
        Ok(Self {
            table,
            step,
            recent: Arc::new(Recent(Mutex::new(memory))),
            moved: 0,
            moved_next: 0,
            moving_to,
            noted: 0,
            noted_next: 0,
            until,
            all_there: false,
            newest,
            newest_before: newest,
            read_to: newest,
            absent: HashSet::default(),
            added: Vec::new(),
            removed: false,
        })
    }

    /// What readers are to know.
    pub(super) fn recent(&self) -> Arc<Recent> {
        Arc::clone(&self.recent)
    }

    /// The greatest number that a row has had.
    pub(super) const fn newest(&self) -> i64 {
        self.newest
    }

    /// The rows in memory that may have this hash.
    pub(super) fn in_memory(&self, hash: i64) -> Vec<i64> {
        self.recent.find(hash)
    }

    /// Whether there are any.
    pub(super) fn has(&self, hash: i64) -> bool {
        self.recent.memory().has(hash)
    }

    /// A row that is new, and found by its hash from now on. Readers find it too, and see it once it is committed.
    pub(super) fn add(&mut self, entry: Entry) {
        self.newest = self.newest.max(entry.1);
        self.added.push(entry);
        self.recent.memory().add(entry);
    }

    /// Forgets a row.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn remove(
        &mut self,
        connection: &Connection,
        entry: Entry,
        delete: &str,
    ) -> rusqlite::Result<()> {
        self.removed = true;
        let only_here = self.recent.memory().remove(entry, self.moved_next);
        if !only_here || entry.1 <= self.read_to {
            connection.prepare_cached(delete)?.execute(entry)?;
        }
        Ok(())
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self) {
        self.absent.clear();
    }

    /// Looks for many at once: most are new, and need not be looked for one by one then. Says for how many.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn expect(
        &mut self,
        connection: &Connection,
        mut hashes: Vec<i64>,
    ) -> rusqlite::Result<usize> {
        let memory = self.recent.memory();
        hashes.retain(|hash| !memory.has(*hash));
        drop(memory);
        let mut looked = 0;
        for some in hashes.chunks(MANY).filter(|it| it.len() >= WORTH_IT) {
            let mut statement = connection.prepare_cached(self.table.find_many)?;
            for (place, hash) in some.iter().cycle().take(MANY).enumerate() {
                statement.raw_bind_parameter(place + 1, hash)?;
            }
            let found: Vec<i64> = statement
                .raw_query()
                .mapped(|row| row.get(0))
                .collect::<Result<_, _>>()?;
            self.absent
                .extend(some.iter().filter(|hash| !found.contains(hash)));
            looked += some.len();
        }
        Ok(looked)
    }

    /// The table was asked and does not have it.
    pub(super) fn not_there(&mut self, hash: i64) {
        self.absent.insert(hash);
    }

    /// Whether the table is known not to have it.
    pub(super) fn is_absent(&self, hash: i64) -> bool {
        self.absent.contains(&hash)
    }

    /// The transaction is about to be committed: puts some into the table, where it is time. Says whether the table is
    /// complete up to another row than before.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn bring(&mut self, connection: &Connection) -> rusqlite::Result<bool> {
        if self.added.is_empty() || self.until == self.moving_to {
            return Ok(false);
        }
        let memory = self.recent.memory();
        // They are all there when as many have gathered again as it takes to set off: mostly one for each that is added.
        let pace = self.added.len().saturating_mul(memory.moving.len());
        let end = self.moved.saturating_add(pace.div_ceil(self.step));
        let mut end = end.min(memory.moving.len());
        // Those with the same hash go together, so that one hash tells how far they are.
        while end > 0
            && memory
                .moving
                .get(end)
                .is_some_and(|it| it.0 == memory.moving[end - 1].0)
        {
            end += 1;
        }
        let these = &memory.moving[self.moved..end];
        let last = these.last().map(|it| (it.0).0);
        let entry = |it: &(Hash, Offset)| ((it.0).0, memory.moving_base + i64::from(it.1));
        let mut there: Vec<Entry> = these.iter().filter(|it| it.1 != GONE).map(entry).collect();
        self.moved_next = end;
        self.all_there = self.moved_next == memory.moving.len();
        if self.all_there {
            let odd = memory.odd.iter().filter(|it| it.1 <= self.moving_to);
            there.extend(odd);
        }
        drop(memory);
        self.absent.clear();
        self.table.insert.write(connection, &there)?;
        if self.all_there {
            let (until, moving) = (self.moving_to, None);
            Standing { until, moving }.note(connection, self.table.name)?;
        } else if let Some(last) = last
            && (self.noted == 0 || self.moved_next - self.noted >= self.step / NOTES)
        {
            let (until, moving) = (self.until, Some((self.moving_to, last)));
            Standing { until, moving }.note(connection, self.table.name)?;
            self.noted_next = self.moved_next;
        }
        Ok(self.all_there)
    }

    /// It is committed.
    pub(super) fn committed(&mut self) {
        self.added.clear();
        self.removed = false;
        self.moved = self.moved_next;
        self.noted = self.noted_next;
        self.newest_before = self.newest;
        if std::mem::take(&mut self.all_there) {
            let mut memory = self.recent.memory();
            memory.moving = Vec::new();
            memory.odd.retain(|it| it.1 > self.moving_to);
            self.until = self.moving_to;
            (self.moved, self.moved_next) = (0, 0);
            (self.noted, self.noted_next) = (0, 0);
        }
        self.set_off();
    }

    /// It is rolled back. Says whether this is again as it was before; if not, it is to be opened anew.
    pub(super) fn rolled_back(&mut self) -> bool {
        self.moved_next = self.moved;
        self.noted_next = self.noted;
        self.all_there = false;
        self.newest = self.newest_before;
        let mut memory = self.recent.memory();
        for entry in self.added.drain(..) {
            memory.remove(entry, 0);
        }
        !std::mem::take(&mut self.removed)
    }

    /// Those that have gathered are on their way from now on, if they are enough and no others are. Between two
    /// transactions.
    fn set_off(&mut self) {
        if self.until != self.moving_to {
            return;
        }
        let memory = self.recent.memory();
        if memory.gathering.len() + memory.odd.len() < self.step {
            return;
        }
        let base = memory.base;
        let odd = memory.odd.iter().copied();
        let odd = odd.filter_map(|(hash, n)| Some((Hash(hash), offset(base, n)?)));
        let gathered = memory
            .gathering
            .iter()
            .map(|(hash, offset)| (*hash, *offset));
        let mut moving: Vec<_> = gathered.chain(odd).collect();
        drop(memory);
        // Readers need not wait for this.
        moving.sort_unstable();
        let mut memory = self.recent.memory();
        memory.moving = moving;
        memory.moving_base = base;
        // What is too far goes into the table with the last of them.
        memory.odd.retain(|it| offset(base, it.1).is_none());
        memory.gathering.clear();
        memory.gathering.shrink_to(self.step);
        memory.base = self.newest;
        self.moving_to = self.newest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(base: i64) -> Memory {
        Memory {
            gathering: HashMap::default(),
            base,
            moving: Vec::new(),
            moving_base: base,
            odd: Vec::new(),
        }
    }

    #[test]
    fn an_entry_takes_twelve_bytes() {
        assert_eq!(size_of::<(Hash, Offset)>(), 12);
    }

    #[test]
    fn numbers_that_are_far_from_the_others_are_kept_as_they_are() {
        let mut memory = memory(10);
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
            let numbers: Vec<_> = numbers.collect();
            assert_eq!(memory.find(hash), numbers);
            assert_eq!(memory.has(hash), !numbers.is_empty());
        }
        for entry in entries {
            assert!(memory.remove(entry, 0));
            assert!(!memory.remove(entry, 0));
            assert!(!memory.find(entry.0).contains(&entry.1));
        }
    }
}
