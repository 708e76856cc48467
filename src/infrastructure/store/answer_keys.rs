//! Which answer is kept under an idempotency key.
//!
//! Keys are mostly random: in an index of SQLite's each takes a page to itself, read, logged and written back
//! for it alone, which was a sixth of what a payment costs. Here the newest keys are in memory. Once there are
//! [`STEP`] of them, they are put into the table `answer_keys` in the table's own order, a few with each commit that
//! adds others: neighbours share their pages.
//!
//! Nothing is found only in memory that is not in the database: the keys themselves stand in `answers`, in the
//! commit of what they answer, and those that the table does not have yet are read from there at a start. An entry
//! goes with its answer, so that it never comes to mean another one.
//!
//! What it must never do: miss a key that is kept. A hash only says where to look; actor and key are compared.

use std::collections::{HashMap, HashSet, hash_map};
use std::sync::OnceLock;

use foldhash::fast::RandomState;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::application::request::{AnswerName, key_hash};

use super::late;
use super::together::Insert;

/// The index of answers' keys, as the table `late` calls it.
const NAME: &str = "answer_keys";

/// Keys that gather in memory: a few hundred KiB. With as many, a table of a million takes a third of a page for
/// each.
const STEP: usize = 16 * 1024;

/// Keys that go into the table for each one that is added: the table is done before as many have gathered again.
const PACE: usize = 2;

/// Makes [`key_hash`] known to SQL, for migrations and checks.
///
/// # Errors
/// SQLite's.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("answer_hash", 2, flags, |context| {
        Ok(key_hash(
            bytes(context.get_raw(0)),
            bytes(context.get_raw(1)),
        ))
    })
}

/// A hash, and the number of the answer.
type Entry = (i64, i64);

static ENTRIES: Insert<Entry> = Insert {
    into: "answer_keys (hash, n)",
    columns: 2,
    bind: |statement, at, (hash, n)| {
        statement.raw_bind_parameter(at, hash)?;
        statement.raw_bind_parameter(at + 1, n)
    },
    sql: [const { OnceLock::new() }; 3],
};

/// Looks for many hashes at once: which of these the table has. Some are given again where there are fewer.
const FIND_MANY: &str = "SELECT hash FROM answer_keys WHERE hash IN \
     (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";

/// How many those are.
const MANY: usize = 16;

/// As many are worth a statement of their own.
const WORTH_IT: usize = 3;

/// The number of an entry that has expired on its way into the table. Answers have numbers from 1 on.
const GONE: i64 = 0;

/// The keys that are in memory.
#[derive(Debug)]
pub(super) struct AnswerKeys {
    step: usize,
    /// The newest: numbers by hash.
    gathering: HashMap<i64, i64, RandomState>,
    /// Those of them whose hash another one has.
    twins: Vec<Entry>,
    /// Those on their way into the table, in its order, and how many of them are there.
    moving: Vec<Entry>,
    moved: usize,
    /// The newest answer of which those on their way tell, or told.
    moving_to: i64,
    /// How far the table is complete, and how far the database says so.
    until: i64,
    noted: i64,
    newest: i64,
    /// Hashes that the table does not have, for as long as the transaction under way puts none into it.
    absent: HashSet<i64, RandomState>,
    /// Keys that the transaction under way has added.
    added: usize,
    /// Whether it has changed anything here.
    touched: bool,
}

impl AnswerKeys {
    /// As the database has them.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn open(connection: &Connection) -> rusqlite::Result<Self> {
        Self::open_with(connection, STEP)
    }

    fn open_with(connection: &Connection, step: usize) -> rusqlite::Result<Self> {
        let noted = late::until(connection, NAME)?;
        // Of those that were on their way some are there, beyond where it is complete.
        let sql = "SELECT a.n, a.actor, a.key FROM answers a WHERE a.n > ?1 AND NOT EXISTS \
             (SELECT 1 FROM answer_keys k WHERE k.hash = answer_hash(a.actor, a.key) AND k.n = a.n)";
        let missing = connection
            .prepare_cached(sql)?
            .query_map([noted], entry)?
            .collect::<Result<Vec<_>, _>>()?;
        let newest: i64 = connection
            .prepare_cached("SELECT coalesce(max(n), 0) FROM answers")?
            .query_row([], |row| row.get(0))?;
        let newest = newest.max(noted);
        let first = missing.iter().map(|(_, n)| *n).min();
        let until = first.map_or(newest, |n| n - 1);
        let mut keys = Self {
            step,
            gathering: HashMap::default(),
            twins: Vec::new(),
            moving: Vec::new(),
            moved: 0,
            moving_to: until,
            until,
            noted,
            newest,
            absent: HashSet::default(),
            added: 0,
            touched: false,
        };
        for (hash, n) in missing {
            keys.gather(hash, n);
        }
        Ok(keys)
    }

    fn gather(&mut self, hash: i64, n: i64) {
        match self.gathering.entry(hash) {
            hash_map::Entry::Vacant(free) => {
                free.insert(n);
            }
            hash_map::Entry::Occupied(_) => self.twins.push((hash, n)),
        }
    }

    /// A number for an answer that is new, under whose hash it is found from now on.
    pub(super) fn add(&mut self, hash: i64) -> Option<i64> {
        let n = self.newest.checked_add(1)?;
        self.newest = n;
        self.gather(hash, n);
        self.added += 1;
        self.touched = true;
        Some(n)
    }

    /// The numbers that a hash has in memory.
    fn in_memory(&self, hash: i64) -> impl Iterator<Item = i64> {
        let gathered = self.gathering.get(&hash).copied();
        let twins = self.twins.iter().filter(move |it| it.0 == hash);
        let moving = self.moving[self.place(hash)..]
            .iter()
            .take_while(move |it| it.0 == hash);
        let others = twins.chain(moving).map(|(_, n)| *n);
        gathered.into_iter().chain(others).filter(|n| *n != GONE)
    }

    /// Where a hash is among those on their way, or would be.
    fn place(&self, hash: i64) -> usize {
        let left = &self.moving[self.moved..];
        self.moved + left.partition_point(|it| it.0 < hash)
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self) {
        self.absent.clear();
    }

    /// Looks for many at once: most are new, and need not be looked for one by one then.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn expect(
        &mut self,
        connection: &Connection,
        hashes: impl Iterator<Item = i64>,
    ) -> rusqlite::Result<()> {
        let unknown: Vec<i64> = hashes
            .filter(|hash| self.in_memory(*hash).next().is_none())
            .collect();
        for some in unknown.chunks(MANY).filter(|it| it.len() >= WORTH_IT) {
            let mut statement = connection.prepare_cached(FIND_MANY)?;
            for (place, hash) in some.iter().cycle().take(MANY).enumerate() {
                statement.raw_bind_parameter(place + 1, hash)?;
            }
            let found: Vec<i64> = statement
                .raw_query()
                .mapped(|row| row.get(0))
                .collect::<Result<_, _>>()?;
            self.absent
                .extend(some.iter().filter(|hash| !found.contains(hash)));
        }
        Ok(())
    }

    /// What `read` makes of the answer under a key, if there is one. The two statements give its row by its number, and
    /// by the hash with what the table has; both compare key and actor.
    ///
    /// # Errors
    /// SQLite's, and those of `read`.
    pub(super) fn find<T>(
        &self,
        connection: &Connection,
        name: AnswerName<'_>,
        [by_number, by_hash]: [&str; 2],
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        let AnswerName { actor, key, hash } = name;
        for n in self.in_memory(hash) {
            let mut statement = connection.prepare_cached(by_number)?;
            let found = statement.query_row((n, key, &**actor), &read).optional()?;
            if found.is_some() {
                return Ok(found);
            }
        }
        if self.absent.contains(&hash) {
            return Ok(None);
        }
        let mut statement = connection.prepare_cached(by_hash)?;
        statement.query_row((hash, key, &**actor), read).optional()
    }

    /// Whether an answer under this hash may not be in the database's tables yet.
    pub(super) fn has(&self, hash: i64) -> bool {
        self.in_memory(hash).next().is_some()
    }

    /// Forgets one that has expired. Says whether it was here.
    fn remove(&mut self, entry: Entry) -> bool {
        let (hash, n) = entry;
        if self.gathering.get(&hash) == Some(&n) {
            self.gathering.remove(&hash);
            return true;
        }
        let twins = self.twins.len();
        self.twins.retain(|it| *it != entry);
        if self.twins.len() < twins {
            return true;
        }
        let place = self.place(hash);
        let mut same = self.moving[place..]
            .iter_mut()
            .take_while(|it| it.0 == hash);
        same.find(|it| it.1 == n).map(|it| it.1 = GONE).is_some()
    }

    /// Drops answers that were born before this age, of the oldest so many. Says how many those were.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn expire(
        &mut self,
        connection: &Connection,
        age: i64,
        limit: i64,
    ) -> rusqlite::Result<usize> {
        let sql = "SELECT n, actor, key FROM (SELECT * FROM answers ORDER BY n LIMIT ?2) WHERE born_at_age < ?1";
        let expired = connection
            .prepare_cached(sql)?
            .query_map([age, limit], entry)?
            .collect::<Result<Vec<_>, _>>()?;
        for entry in &expired {
            self.touched = true;
            if !self.remove(*entry) {
                connection
                    .prepare_cached("DELETE FROM answer_keys WHERE hash = ?1 AND n = ?2")?
                    .execute(*entry)?;
            }
            connection
                .prepare_cached("DELETE FROM answers WHERE n = ?1")?
                .execute([entry.1])?;
        }
        Ok(expired.len())
    }

    /// The transaction is about to be committed: puts some into the table, where it is time.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn bring(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.added == 0 {
            return Ok(());
        }
        if self.moving.is_empty() {
            if self.gathering.len() + self.twins.len() < self.step {
                return Ok(());
            }
            self.moving.extend(self.gathering.drain());
            self.moving.append(&mut self.twins);
            self.moving.sort_unstable();
            self.moved = 0;
            self.moving_to = self.newest;
        }
        let count = self.added.saturating_mul(PACE);
        let left = &self.moving[self.moved..];
        let these = &left[..count.min(left.len())];
        self.absent.clear();
        if these.iter().any(|it| it.1 == GONE) {
            let there: Vec<Entry> = these.iter().copied().filter(|it| it.1 != GONE).collect();
            ENTRIES.write(connection, &there)?;
        } else {
            ENTRIES.write(connection, these)?;
        }
        self.moved += these.len();
        if self.moved == self.moving.len() {
            self.moving.clear();
            self.moved = 0;
            self.until = self.moving_to;
        }
        if self.until != self.noted {
            connection
                .prepare_cached("UPDATE late SET until = ?2 WHERE name = ?1")?
                .execute((NAME, self.until))?;
            self.noted = self.until;
        }
        Ok(())
    }

    /// It is committed.
    pub(super) fn committed(&mut self) {
        self.added = 0;
        self.touched = false;
    }

    /// Whether what is here is not what the database has, once the transaction under way is rolled back.
    pub(super) const fn is_touched(&self) -> bool {
        self.touched
    }
}

/// Of a row with an answer's number, actor and key.
fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok((
        key_hash(bytes(row.get_ref(1)?), bytes(row.get_ref(2)?)),
        row.get(0)?,
    ))
}

/// Of what is no text there is nothing: a row that is damaged is not found, costs no other, and [`fault`] tells of it.
fn bytes(value: ValueRef<'_>) -> &[u8] {
    value.as_bytes().unwrap_or_default()
}

/// What is wrong with the table, for who checks: each answer up to where it is complete is in it, and nothing else is.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn fault(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT \
         (SELECT count(*) FROM answers WHERE n <= ?1), \
         (SELECT count(*) FROM answer_keys WHERE n <= ?1), \
         (SELECT count(*) FROM answer_keys), \
         (SELECT count(*) FROM answer_keys k JOIN answers a ON a.n = k.n WHERE k.hash = answer_hash(a.actor, a.key))";
    let until = late::until(connection, NAME)?;
    let (answers, complete, all, right): (i64, i64, i64, i64) =
        connection.query_row(sql, [until], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
    Ok((answers != complete || all != right).then(|| {
        format!(
            "the index of idempotency keys has {all} entries of which {right} are right, and {complete} for {answers} answers"
        )
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::super::schema;
    use super::*;

    /// Few enough that a test goes through many rounds of gathering and moving.
    const SMALL: usize = 16;

    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection, std::path::Path::new("")).unwrap();
        connection
    }

    fn keep(connection: &Connection, keys: &mut AnswerKeys, (actor, key): (&str, &str), age: i64) {
        let n = keys.add(name(&actor.into(), key).hash).unwrap();
        let sql = "INSERT INTO answers (n, actor, key, fingerprint, status, body, born_at_age) \
             VALUES (?1, ?2, ?3, zeroblob(32), 200, x'', ?4)";
        connection.execute(sql, (n, actor, key, age)).unwrap();
    }

    fn name<'a>(actor: &'a Arc<str>, key: &'a str) -> AnswerName<'a> {
        AnswerName::new(actor, key)
    }

    fn find(connection: &Connection, keys: &AnswerKeys, (actor, key): (&str, &str)) -> Option<i64> {
        find_under(connection, keys, name(&actor.into(), key))
    }

    fn find_under(connection: &Connection, keys: &AnswerKeys, name: AnswerName<'_>) -> Option<i64> {
        let sql = [
            "SELECT n FROM answers WHERE n = ?1 AND key = ?2 AND actor = ?3",
            "SELECT a.n FROM answer_keys k JOIN answers a ON a.n = k.n \
             WHERE k.hash = ?1 AND a.key = ?2 AND a.actor = ?3",
        ];
        keys.find(connection, name, sql, |row| row.get(0)).unwrap()
    }

    fn in_table(connection: &Connection) -> i64 {
        let sql = "SELECT count(*) FROM answer_keys";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// SplitMix64.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % end
        }
    }

    #[test]
    fn whatever_is_kept_is_found_and_nothing_else_over_rollbacks_restarts_and_expiry() {
        let connection = database();
        let mut keys = AnswerKeys::open_with(&connection, SMALL).unwrap();
        let mut chance = Chance(7);
        let mut kept: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let (mut moved, mut expired, mut looked) = (0, 0, 0);
        for age in 0..1500 {
            // At times nearly all of them expire, also those in memory, and little else happens.
            let flood = age % 50 >= 40;
            connection.execute_batch("BEGIN").unwrap();
            keys.begin();
            let before = kept.clone();
            let asked: Vec<_> = (0..chance.below(if flood { 2 } else { 6 }))
                .map(|_| format!("key-{}", chance.below(4000)))
                .collect();
            if chance.below(3) > 0 {
                // More than one statement takes, and some twice.
                let others = (0..chance.below(40)).map(|_| format!("key-{}", chance.below(4000)));
                let all: Vec<_> = asked.iter().cloned().chain(others).collect();
                let actor = "socket".into();
                let hashes = all.iter().map(|key| name(&actor, key).hash);
                keys.expect(&connection, hashes).unwrap();
                looked += keys.absent.len();
            }
            for key in asked {
                let standing = kept.get(&key).map(|(n, _)| *n);
                assert_eq!(find(&connection, &keys, ("socket", &key)), standing);
                assert_eq!(find(&connection, &keys, ("somebody else", &key)), None);
                if standing.is_none() {
                    keep(&connection, &mut keys, ("socket", &key), age);
                    kept.insert(key, (keys.newest, age));
                }
            }
            if chance.below(4) == 0 {
                let (old, limit) = if flood {
                    (age - 3, 999)
                } else {
                    (age - 200, 7)
                };
                let count = keys.expire(&connection, old, limit).unwrap();
                let mut oldest: Vec<_> =
                    kept.iter().map(|(key, (n, age))| (*n, *age, key)).collect();
                oldest.sort_unstable();
                let oldest = oldest.into_iter().take(usize::try_from(limit).unwrap());
                let gone = oldest.filter(|(_, age, _)| *age < old);
                let gone: Vec<_> = gone.map(|(_, _, key)| key.clone()).collect();
                assert_eq!(count, gone.len());
                kept.retain(|key, _| !gone.contains(key));
                expired += count;
            }
            keys.bring(&connection).unwrap();
            if chance.below(if flood { 2 } else { 5 }) == 0 {
                connection.execute_batch("ROLLBACK").unwrap();
                kept = before;
                if keys.is_touched() {
                    keys = AnswerKeys::open_with(&connection, SMALL).unwrap();
                }
            } else {
                connection.execute_batch("COMMIT").unwrap();
                keys.committed();
                let numbers: BTreeSet<_> = kept.values().map(|(n, _)| n).collect();
                assert_eq!(numbers.len(), kept.len(), "two have one number");
            }
            if chance.below(30) == 0 {
                keys = AnswerKeys::open_with(&connection, SMALL).unwrap();
            }
            moved = moved.max(keys.until);
            assert_eq!(fault(&connection).unwrap(), None, "{age}");
            for (key, (n, _)) in &kept {
                assert_eq!(find(&connection, &keys, ("socket", key)), Some(*n), "{key}");
            }
        }
        let enough = moved > 500 && expired > 300 && looked > 1000;
        assert!(enough, "{moved}, {expired}, {looked}");
    }

    #[test]
    fn they_go_into_the_table_a_few_at_a_time_and_in_its_order() {
        let connection = database();
        let mut keys = AnswerKeys::open_with(&connection, SMALL).unwrap();
        let (mut counts, mut greatest) = (Vec::new(), i64::MIN);
        for n in 0..24 {
            keep(&connection, &mut keys, ("socket", &format!("key-{n}")), 0);
            keys.bring(&connection).unwrap();
            keys.committed();
            let count = in_table(&connection);
            if count > counts.last().copied().unwrap_or(0) {
                let sql = "SELECT max(hash) FROM answer_keys";
                let hash: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
                assert!(hash > greatest);
                greatest = hash;
            }
            counts.push(count);
        }
        assert_eq!(counts[..15], [0; 15]);
        assert_eq!(counts[15..], [2, 4, 6, 8, 10, 12, 14, 16, 16]);
        assert_eq!(keys.until, 16);
    }

    #[test]
    fn a_hash_says_where_to_look_and_no_more() {
        let connection = database();
        let mut keys = AnswerKeys::open_with(&connection, SMALL).unwrap();
        keep(&connection, &mut keys, ("socket", "one"), 0);
        // As if two keys had the same hash, in memory and in the table.
        keys.gathering.insert(key_hash(b"socket", b"other"), 1);
        assert_eq!(find(&connection, &keys, ("socket", "other")), None);
        keys.gathering.clear();
        for name in ["one", "other"] {
            let row = (key_hash(b"socket", name.as_bytes()), 1);
            connection
                .execute("INSERT INTO answer_keys VALUES (?1, ?2)", row)
                .unwrap();
        }
        assert_eq!(find(&connection, &keys, ("socket", "other")), None);
        assert_eq!(find(&connection, &keys, ("socket", "one")), Some(1));
        assert!(
            fault(&connection)
                .unwrap()
                .is_some_and(|it| it.contains("idempotency keys"))
        );
    }

    /// As if three keys had the same hash.
    #[test]
    fn keys_of_one_hash_are_told_apart_wherever_they_are() {
        let connection = database();
        let mut keys = AnswerKeys::open_with(&connection, SMALL).unwrap();
        let actor = "socket".into();
        let hash = name(&actor, "one").hash;
        let mut kept = Vec::new();
        for key in ["one", "two", "three"] {
            let n = keys.add(hash).unwrap();
            let sql = "INSERT INTO answers (n, actor, key, fingerprint, status, body, born_at_age) \
                 VALUES (?1, 'socket', ?2, zeroblob(32), 200, x'', 0)";
            connection.execute(sql, (n, key)).unwrap();
            kept.push((key, n));
        }
        let mut there = Vec::new();
        for round in 0..30 {
            let actor = &actor;
            for (key, n) in &kept {
                let name = AnswerName { actor, key, hash };
                assert_eq!(find_under(&connection, &keys, name), Some(*n), "{round}");
            }
            let key = "four";
            let other = AnswerName { actor, key, hash };
            assert_eq!(find_under(&connection, &keys, other), None);
            let sql = "SELECT count(*) FROM answer_keys WHERE hash = ?1";
            there.push(connection.query_row(sql, [hash], |row| row.get(0)).unwrap());
            keep(
                &connection,
                &mut keys,
                ("socket", &format!("key-{round}")),
                1,
            );
            keys.bring(&connection).unwrap();
            keys.committed();
        }
        // They were in memory, on their way, and in the table.
        let (first, last): (i64, i64) = (there[0], there[29]);
        assert_eq!((first, last), (0, 3));
        // The first of them expires.
        assert_eq!(keys.expire(&connection, 1, 1).unwrap(), 1);
        let left: Vec<_> = kept
            .iter()
            .map(|(key, _)| AnswerName {
                actor: &actor,
                key,
                hash,
            })
            .map(|name| find_under(&connection, &keys, name).is_some())
            .collect();
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn the_hash_is_what_databases_have() {
        assert_eq!(key_hash(b"socket", b"key-1"), HELD);
        assert_ne!(key_hash(b"socketk", b"ey-1"), HELD);
    }

    /// The first eight bytes of SHA-256 of `06 00 00 00 00 00 00 00 "socketkey-1"`.
    const HELD: i64 = -822_659_660_147_296_290;
}
