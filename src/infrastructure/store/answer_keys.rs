//! Which answer is kept under an idempotency key.
//!
//! Keys are mostly random: in an index of SQLite's each took a page to itself, which was a sixth of what a payment
//! costs. They are found by hashes (hashes.rs). An entry may outlive its answer, and never comes to mean another: numbers
//! are given once, and whoever finds a row compares key and actor.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::application::ports::StoreError;
use crate::application::request::{AnswerName, key_hash};

use super::ahead::Look;
use super::error::sort;
use super::hashes::{self, Entry, Hashes, Missing, Sizes, Table, table};
use super::invoice_ids::InvoiceIds;
use super::runs::Trouble;

pub(super) static TABLE: Table = table!(
    "answer_keys",
    "answer_key_runs",
    "answer_key_filters",
    "answer_key_leaves"
);

/// Makes [`key_hash`] known to SQL, for migrations and checks.
///
/// # Errors
/// SQLite's.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    hashes::define(connection, "answer_hash", 2, |context| {
        Ok(key_hash(
            bytes(context.get_raw(0)),
            bytes(context.get_raw(1)),
        ))
    })
}

/// The index, for the writer.
#[derive(Debug)]
pub(super) struct AnswerKeys {
    hashes: Hashes,
    /// The number of the oldest answer: with the transaction under way, and without.
    oldest: i64,
    oldest_before: i64,
}

impl AnswerKeys {
    /// As the database has them.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn open(connection: &Connection) -> Result<Self, StoreError> {
        Self::open_with(connection, hashes::SIZES)
    }

    fn open_with(connection: &Connection, sizes: Sizes) -> Result<Self, StoreError> {
        let hashes = Hashes::open(connection, &TABLE, sizes, |from, each| {
            let sql = "SELECT n, actor, key FROM answers WHERE n > ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let mut found = statement.query([from])?;
            while let Some(row) = found.next()? {
                each(Missing::Entry(entry(row)?));
            }
            Ok(())
        })?;
        let oldest = oldest(connection, &hashes).map_err(sort)?;
        Ok(Self {
            hashes,
            oldest,
            oldest_before: oldest,
        })
    }

    /// Shares what is known of filters with the index of invoice ids.
    pub(super) fn share(&mut self, ids: &InvoiceIds) {
        self.hashes.share(ids.known());
    }

    /// Frees what is known of filters, of the other index too.
    pub(super) fn rest(&self) {
        self.hashes.rest();
    }

    /// A number for an answer that is new, under whose hash it is found from now on.
    pub(super) fn add(&mut self, hash: i64) -> Option<i64> {
        let n = self.hashes.newest().checked_add(1)?;
        self.hashes.add((hash, n));
        Some(n)
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self) {
        self.hashes.begin();
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

    /// Looks for these in the table.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn look(&mut self, connection: &Connection, hashes: &[i64]) -> rusqlite::Result<()> {
        self.hashes.look(connection, hashes)
    }

    /// What `read` makes of the answer under a key, if there is one. The statement gives a row by its number, if it has key
    /// and actor.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn find<T>(
        &self,
        connection: &Connection,
        name: AnswerName<'_>,
        by_number: &str,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let AnswerName { actor, key, hash } = name;
        let look = |rows: Vec<i64>| -> Result<Option<T>, StoreError> {
            for n in rows {
                let mut statement = connection.prepare_cached(by_number).map_err(sort)?;
                let found = statement.query_row((n, key, &**actor), &read).optional();
                if let Some(found) = found.map_err(sort)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        };
        let found = look(self.hashes.rows(connection, hash)?)?;
        if found.is_some() || !self.hashes.may_be_in_table(hash) {
            return Ok(found);
        }
        look(
            self.hashes
                .rows_in_table(connection, hash)
                .map_err(Trouble::of_row)?,
        )
    }

    /// Whether an answer under this hash may not be in the database's tables yet.
    pub(super) fn may_wait(&self, hash: i64) -> bool {
        !self.hashes.gathered(hash).is_empty()
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
        let sql =
            "SELECT n FROM (SELECT * FROM answers ORDER BY n LIMIT ?2) WHERE born_at_age < ?1";
        let expired = connection
            .prepare_cached(sql)?
            .query_map([age, limit], |row| row.get(0))?
            .collect::<Result<Vec<i64>, _>>()?;
        for n in &expired {
            // An entry of the index goes when a merge comes by, and before that leads nowhere.
            connection
                .prepare_cached("DELETE FROM answers WHERE n = ?1")?
                .execute([n])?;
        }
        if !expired.is_empty() {
            self.oldest = oldest(connection, &self.hashes)?;
        }
        Ok(expired.len())
    }

    /// The transaction is about to be committed: writes some of it, where it is time.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub(super) fn bring(&mut self, connection: &Connection) -> Result<(), Trouble> {
        let none_wait = || i64::MAX;
        self.hashes
            .bring(connection, self.oldest, none_wait)
            .map(|_| ())
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
    pub(super) fn next_leaves(&mut self) -> Option<Look> {
        self.hashes.next_leaves()
    }

    /// It is committed.
    pub(super) fn committed(&mut self) {
        self.oldest_before = self.oldest;
        self.hashes.committed(&[]);
    }

    /// It is rolled back.
    pub(super) fn rolled_back(&mut self) {
        self.oldest = self.oldest_before;
        self.hashes.rolled_back();
    }
}

/// The number of the oldest answer that there is, or that there will be.
fn oldest(connection: &Connection, hashes: &Hashes) -> rusqlite::Result<i64> {
    let sql = "SELECT min(n) FROM answers";
    let oldest: Option<i64> = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))?;
    Ok(oldest.unwrap_or_else(|| hashes.newest().saturating_add(1)))
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

/// What is wrong with the index, for who checks.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn fault(connection: &Connection) -> Result<Option<String>, StoreError> {
    let rows = "SELECT n, answer_hash(actor, key) AS hash FROM answers";
    let oldest = "SELECT coalesce(min(n), 9223372036854775807) FROM answers";
    let oldest = connection
        .query_row(oldest, [], |row| row.get(0))
        .map_err(sort)?;
    Ok(hashes::fault(
        connection,
        &TABLE,
        (rows, oldest),
        &|_, _| Ok(None),
        "idempotency keys",
    )?)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::super::testing::{Chance, LARGER, SMALL, entries, in_memory};
    use super::super::{late, leaves};
    use super::*;

    /// With many that are small.
    const MANY_RUNS: Sizes = Sizes {
        run: 100,
        merged: 8,
    };

    fn keep(connection: &Connection, keys: &mut AnswerKeys, (actor, key): (&str, &str), age: i64) {
        let n = keys.add(name(&actor.into(), key).hash).unwrap();
        let sql = "INSERT INTO answers (n, actor, key, fingerprint, status, body, born_at_age) \
             VALUES (?1, ?2, ?3, zeroblob(32), 200, x'', ?4)";
        connection.execute(sql, (n, actor, key, age)).unwrap();
    }

    fn name<'a>(actor: &'a Arc<str>, key: &'a str) -> AnswerName<'a> {
        AnswerName::new(actor, key)
    }

    /// A key of its own, in a commit of its own.
    fn commit_one(connection: &Connection, keys: &mut AnswerKeys, n: usize) {
        keep(connection, keys, ("socket", &format!("key-{n}")), 0);
        keys.bring(connection).unwrap();
        keys.committed();
    }

    fn find(connection: &Connection, keys: &AnswerKeys, (actor, key): (&str, &str)) -> Option<i64> {
        find_under(connection, keys, name(&actor.into(), key))
    }

    fn find_under(connection: &Connection, keys: &AnswerKeys, name: AnswerName<'_>) -> Option<i64> {
        let sql = "SELECT n FROM answers WHERE n = ?1 AND key = ?2 AND actor = ?3";
        keys.find(connection, name, sql, |row| row.get(0)).unwrap()
    }

    fn in_table(connection: &Connection) -> i64 {
        i64::try_from(entries(connection, &TABLE).len()).unwrap()
    }

    #[test]
    fn whatever_is_kept_is_found_and_nothing_else_over_rollbacks_restarts_and_expiry() {
        for sizes in [SMALL, LARGER] {
            keys_are_found(sizes);
        }
    }

    fn keys_are_found(sizes: Sizes) {
        let connection = in_memory();
        let mut keys = AnswerKeys::open_with(&connection, sizes).unwrap();
        let mut chance = Chance(7);
        let mut kept: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let (mut moved, mut expired, mut looked, mut spared) = (0, 0, 0, 0);
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
                let hashes: Vec<_> = hashes.collect();
                let count = hashes.len();
                let left = keys.sift(&connection, hashes).unwrap();
                spared += count - left.len();
                looked += left.len();
                keys.look(&connection, &left).unwrap();
            }
            for key in asked {
                let standing = kept.get(&key).map(|(n, _)| *n);
                assert_eq!(find(&connection, &keys, ("socket", &key)), standing);
                assert_eq!(find(&connection, &keys, ("somebody else", &key)), None);
                if standing.is_none() {
                    keep(&connection, &mut keys, ("socket", &key), age);
                    kept.insert(key, (keys.hashes.newest(), age));
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
                keys.rolled_back();
            } else {
                connection.execute_batch("COMMIT").unwrap();
                keys.committed();
                let numbers: BTreeSet<_> = kept.values().map(|(n, _)| n).collect();
                assert_eq!(numbers.len(), kept.len(), "two have one number");
            }
            if chance.below(30) == 0 {
                keys = AnswerKeys::open_with(&connection, sizes).unwrap();
            }
            moved = moved.max(late::until(&connection, TABLE.name).unwrap());
            assert_eq!(fault(&connection).unwrap(), None, "{age}");
            for (key, (n, _)) in &kept {
                assert_eq!(find(&connection, &keys, ("socket", key)), Some(*n), "{key}");
            }
        }
        let enough = moved > 500 && expired > 300 && looked > 300 && spared > 10_000;
        assert!(enough, "{moved}, {expired}, {looked}, {spared}");
    }

    #[test]
    fn they_go_into_the_table_a_few_at_a_time_and_in_its_order() {
        let connection = in_memory();
        let mut keys = AnswerKeys::open_with(&connection, SMALL).unwrap();
        let (mut counts, mut greatest) = (Vec::new(), i64::MIN);
        for n in 0..65 {
            commit_one(&connection, &mut keys, n);
            let count = in_table(&connection);
            // The next merge begins anew.
            let before = counts.last().copied().unwrap_or(0);
            if n < 64 && count > before {
                assert!(usize::try_from(count - before).unwrap() <= leaves::SHARE);
                let (hash, _) = *entries(&connection, &TABLE).last().unwrap();
                assert!(hash > greatest);
                greatest = hash;
            }
            counts.push(count);
        }
        // Once two runs of sixteen are written, at least one with each.
        assert_eq!(counts[..32], [0; 32]);
        let with_each = (1..).zip(&counts[32..64]);
        assert!(with_each.into_iter().all(|(n, count)| *count >= n));
        assert_eq!(counts[63], 32);
        assert_eq!(late::until(&connection, TABLE.name).unwrap(), 32);
        // The others are in runs of their own, and those that were merged are gone.
        let runs = "SELECT group_concat(n >> 20) FROM answer_key_runs";
        let runs: String = connection.query_row(runs, [], |row| row.get(0)).unwrap();
        assert_eq!(runs, "3,4");
    }

    /// A stop makes a merge begin again where it was noted last. However many there are, it is done before there are twice as
    /// many runs again, which is what there is room for in memory.
    #[test]
    fn merges_keep_up_over_many_stops() {
        for between in [3, 8, 70, 2000] {
            let connection = in_memory();
            let mut keys = AnswerKeys::open_with(&connection, MANY_RUNS).unwrap();
            let mut most = 0;
            for n in 0..5000 {
                if n % between == 0 {
                    keys = AnswerKeys::open_with(&connection, MANY_RUNS).unwrap();
                }
                commit_one(&connection, &mut keys, n);
                most = most.max(keys.hashes.runs());
            }
            assert!((9..=16).contains(&most), "{between}: {most}");
            assert_eq!(fault(&connection).unwrap(), None);
        }
    }

    /// A batch may bring more at once than a run has room for.
    #[test]
    fn what_a_batch_brings_at_once_is_as_many_runs_as_it_takes() {
        let connection = in_memory();
        let mut keys = AnswerKeys::open_with(&connection, MANY_RUNS).unwrap();
        let mut all = 0;
        // Beside those that gather; three more than a run, which one takes all the same; and four.
        for (count, runs) in [(70, 0), (690, 7), (43, 8), (3, 8), (101, 9)] {
            connection.execute_batch("BEGIN").unwrap();
            for n in all..all + count {
                keep(&connection, &mut keys, ("socket", &format!("key-{n}")), 0);
            }
            all += count;
            keys.bring(&connection).unwrap();
            connection.execute_batch("COMMIT").unwrap();
            keys.committed();
            for _ in 0..2 {
                assert_eq!(keys.hashes.runs(), runs, "{count}");
                for n in 0..all {
                    let key = format!("key-{n}");
                    let found = find(&connection, &keys, ("socket", &key));
                    assert_eq!(found, Some(i64::from(n) + 1));
                }
                let mut chance = Chance(53);
                let read: usize = (0..1000).map(|_| keys.hashes.parts(chance.hash())).sum();
                assert!(read < 30, "{read}");
                assert_eq!(fault(&connection).unwrap(), None);
                keys = AnswerKeys::open_with(&connection, MANY_RUNS).unwrap();
            }
        }
    }

    /// As of a damaged row: both lead to it.
    #[test]
    fn two_entries_of_one_row_are_in_one_run() {
        for (other, rest) in [(-5, 49), (5, 49), (-5, 200), (5, 200)] {
            let connection = in_memory();
            let mut keys = AnswerKeys::open_with(&connection, MANY_RUNS).unwrap();
            let hash = |n: i64| n << 40;
            for n in 1..=100 + rest {
                keys.hashes.add((hash(n), n));
                if n == 100 {
                    keys.hashes.add((other, n));
                }
            }
            keys.bring(&connection).unwrap();
            keys.committed();
            assert!(keys.hashes.runs() > 0);
            for (hash, n) in [
                (other, 100),
                (hash(100), 100),
                (hash(99), 99),
                (hash(101), 101),
            ] {
                let rows = keys.hashes.rows(&connection, hash).unwrap();
                assert_eq!(rows, [n], "{other}, {rest}");
            }
        }
    }

    /// What the filters of both indexes take is bounded.
    #[test]
    fn more_runs_are_kept_while_the_other_index_has_none() {
        let connection = in_memory();
        let mut keys = AnswerKeys::open_with(&connection, MANY_RUNS).unwrap();
        let mut n = 0;
        let mut commit = |keys: &mut AnswerKeys, other_has_runs, count| {
            let mut most = 0;
            for _ in 0..count {
                keys.other_has_runs(other_has_runs);
                commit_one(&connection, keys, n);
                n += 1;
                most = most.max(keys.hashes.runs());
            }
            most
        };
        assert_eq!(commit(&mut keys, false, 1500), 15);
        assert_eq!(late::until(&connection, TABLE.name).unwrap(), 0);
        let most = commit(&mut keys, false, 6000);
        assert!((26..=30).contains(&most), "{most}");
        assert!(commit(&mut keys, true, 500) <= 30);
        let most = commit(&mut keys, true, 6000);
        let left = commit(&mut keys, true, 3000);
        assert!(left <= 16, "{most}, {left}");
        assert_eq!(fault(&connection).unwrap(), None);
    }

    /// Also after a start, which reads them.
    #[test]
    fn of_runs_little_is_read_for_what_is_new() {
        let connection = in_memory();
        let mut keys = AnswerKeys::open_with(&connection, MANY_RUNS).unwrap();
        for n in 0..790 {
            commit_one(&connection, &mut keys, n);
        }
        for _ in 0..2 {
            assert_eq!(keys.hashes.runs(), 7);
            let mut chance = Chance(51);
            let read = (0..1000).map(|_| keys.hashes.parts(chance.hash()));
            let read: usize = read.sum();
            // Of seven thousand.
            assert!((1..100).contains(&read), "{read}");
            let known = |n: usize| {
                let key = format!("key-{n}");
                keys.hashes.parts(name(&"socket".into(), &key).hash)
            };
            assert!((0..700).all(|n| known(n) >= 1));
            keys = AnswerKeys::open_with(&connection, MANY_RUNS).unwrap();
        }
        // Nor once many have come and gone.
        for n in 790..9000 {
            commit_one(&connection, &mut keys, n);
        }
        let mut chance = Chance(52);
        let read = (0..1000).map(|_| keys.hashes.parts(chance.hash()));
        let read: usize = read.sum();
        assert!((1..20 * keys.hashes.runs()).contains(&read), "{read}");
    }

    #[test]
    fn a_hash_says_where_to_look_and_no_more() {
        let connection = in_memory();
        let mut keys = AnswerKeys::open_with(&connection, SMALL).unwrap();
        keep(&connection, &mut keys, ("socket", "one"), 0);
        // As if two keys had the same hash, in memory and in the table.
        keys.hashes.add((key_hash(b"socket", b"other"), 1));
        assert_eq!(find(&connection, &keys, ("socket", "other")), None);
        keys.rolled_back();
        for name in ["one", "other"] {
            let row = (key_hash(b"socket", name.as_bytes()), 1);
            leaves::put(&connection, &TABLE, &[row]).unwrap();
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
        let connection = in_memory();
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
        for round in 0..90 {
            let actor = &actor;
            for (key, n) in &kept {
                let name = AnswerName { actor, key, hash };
                assert_eq!(find_under(&connection, &keys, name), Some(*n), "{round}");
            }
            let key = "four";
            let other = AnswerName { actor, key, hash };
            assert_eq!(find_under(&connection, &keys, other), None);
            there.push(leaves::rows(&connection, &TABLE, hash).unwrap().len());
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
        let (first, last) = (there[0], there[89]);
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
