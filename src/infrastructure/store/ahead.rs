//! Looks for what a batch is about to look for, where the disk has to be asked.
//!
//! An invoice's id has a page of its index to itself, once that is large, and so has an idempotency key. Most that are
//! new are known to be (filters.rs), and the others have rows to be read as well. Where the kernel does not have those
//! pages in memory, the writer waits for the disk, for one after the other; the disk itself can do many at once. So where
//! lookups turn out to be slow, threads with connections of their own look for what a batch names while the writer goes
//! through it: they get ahead of it, and it finds in memory what they have read.
//!
//! A merge (hashes.rs) goes through leaves one after the other, each of which was last touched by the merge before. One more
//! thread reads those that it comes to next.
//!
//! They change nothing, and what they find is nobody's: the writer looks for itself, whether they came first, last or
//! not at all. Where pages are in memory nothing is read twice: the threads begin once they are needed, and sleep when
//! they are not any more.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use crate::domain::InvoiceId;

use super::hashes::Table;
use super::open::open_reader;
use super::runs::Trouble;
use super::{answer_keys, invoice_events, invoice_ids, leaves, stretches};

/// Lookups at a time: a disk of a virtual machine takes 80 µs for one as for eight.
const THREADS: usize = 8;

/// A lookup that takes longer has asked the disk, as a rule: one in memory takes some 5 µs.
const SLOW: Duration = Duration::from_micros(30);

/// By how many the slow lookups have to outnumber the others, of the last ones, until the threads look ahead; and the
/// others them, until they do so no more.
const ENOUGH: i32 = 32;

/// What is looked for ahead of a batch, at most: more than the threads do until the writer is through with as much.
const LOOKS_MAX: usize = 4096;

/// Leaves that are read ahead of a merge at a time.
pub(super) const LEAVES: u16 = 64;

/// How often that may wait: for each of two indexes, once more than the thread has begun.
const MERGES: usize = 4;

/// What to look for.
#[derive(Debug)]
pub(super) enum Look {
    /// The hash of an invoice's id.
    Invoice(i64),
    /// An invoice's id that may have come in order, and its hash.
    InOrder(InvoiceId, i64),
    /// The hash of an idempotency key.
    Key(i64),
    /// The leaves of an index from a hash on.
    Leaves(&'static Table, i64),
}

impl Look {
    /// Of keys there may be few, and they say nothing of the ids.
    const fn is_of_id(&self) -> bool {
        matches!(self, Self::Invoice(_) | Self::InOrder(..))
    }
}

#[derive(Debug, Default)]
struct Queue {
    looks: VecDeque<Look>,
    over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Slow lookups less the others, of the last ones.
    votes: AtomicI32,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many lookups took so long together.
    fn vote(&self, count: usize, took: Duration) {
        let limit = 2 * ENOUGH;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let Some(each) = took.checked_div(count) else {
            return;
        };
        let votes = i32::try_from(count).map_or(limit, |it| it.min(limit));
        let votes = if each > SLOW { votes } else { -votes };
        let add = |standing: i32| Some((standing + votes).clamp(-limit, limit));
        // It always says yes.
        let _ = self
            .votes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ahead {
    path: PathBuf,
    shared: Arc<Shared>,
    /// Whether the threads look ahead.
    on: bool,
    threads: Vec<JoinHandle<()>>,
    /// The same of merges.
    merges: Arc<Shared>,
    merge_thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// For the database at `path`. There are no threads yet.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            shared: Arc::default(),
            on: false,
            threads: Vec::new(),
            merges: Arc::default(),
            merge_thread: None,
        }
    }

    /// Merges are about to come to the leaves of these indexes from these hashes on.
    pub(super) fn expect_leaves(&mut self, looks: impl Iterator<Item = Look>) {
        let mut looks = looks.peekable();
        if looks.peek().is_none() {
            return;
        }
        let mut queue = self.merges.queue();
        // Where it does not get ahead, what was asked for first is of no use any more.
        queue.looks.extend(looks);
        while queue.looks.len() > MERGES {
            queue.looks.pop_front();
        }
        drop(queue);
        self.merges.changed.notify_all();
        if self.merge_thread.is_none() {
            self.merge_thread = self.thread(&self.merges);
        }
    }

    /// How long the writer took to look for so many ids. While others look ahead that says nothing of the disk.
    pub(super) fn took(&self, count: usize, time: Duration) {
        if !self.on {
            self.shared.vote(count, time);
        }
    }

    /// Whether it is worth saying what a batch will look for.
    pub(super) fn is_on(&mut self) -> bool {
        let votes = self.shared.votes.load(Ordering::Relaxed);
        if !self.on && votes >= ENOUGH {
            self.on = true;
            self.start();
        } else if self.on && votes <= -ENOUGH {
            self.on = false;
        }
        self.on
    }

    /// What the next batch will look for. What is left of the one before is of no use any more. Where no
    /// id is looked for, nobody says whether it is still worth it, and keys alone are not.
    pub(super) fn expect(&self, looks: impl Iterator<Item = Look>) {
        let mut queue = self.shared.queue();
        queue.looks.clear();
        queue.looks.extend(looks.take(LOOKS_MAX));
        if !queue.looks.iter().any(Look::is_of_id) {
            queue.looks.clear();
            return;
        }
        drop(queue);
        self.shared.changed.notify_all();
    }

    fn start(&mut self) {
        while self.threads.len() < THREADS {
            let Some(thread) = self.thread(&self.shared) else {
                return;
            };
            self.threads.push(thread);
        }
    }

    fn thread(&self, shared: &Arc<Shared>) -> Option<JoinHandle<()>> {
        let (path, shared) = (self.path.clone(), Arc::clone(shared));
        let thread = std::thread::Builder::new()
            .name("ahead".to_owned())
            .spawn(move || run(&path, &shared));
        thread
            .inspect_err(|error| {
                tracing::warn!(%error, "there is no thread to look ahead; lookups wait for the disk one by one");
            })
            .ok()
    }

    /// Ends the threads, and with them their connections.
    pub(super) fn end(&mut self) {
        for shared in [&self.shared, &self.merges] {
            shared.queue().over = true;
            shared.changed.notify_all();
        }
        for thread in self.threads.drain(..).chain(self.merge_thread.take()) {
            // Its panic has been told where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(path: &Path, shared: &Shared) {
    let connection = match open_reader(path) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%error, "nothing is looked for ahead; lookups wait for the disk one by one");
            return;
        }
    };
    let mut queue = shared.queue();
    while !queue.over {
        let Some(look) = queue.looks.pop_front() else {
            let woken = shared.changed.wait(queue);
            queue = woken.unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(queue);
        let started = Instant::now();
        // What cannot be read is for the writer to tell, which is about to look for the same.
        let found = first(&connection, &look).unwrap_or_default();
        if look.is_of_id() {
            shared.vote(1, started.elapsed());
        }
        if let Some((n, attempts)) = found {
            let _ = rest(&connection, n, attempts);
        }
        queue = shared.queue();
    }
}

/// The one page that is certain to be read. Of an invoice that is there: its key, and its payments.
fn first(connection: &Connection, look: &Look) -> rusqlite::Result<Option<(i64, i64)>> {
    let none = |rows: Result<Vec<i64>, Trouble>| match rows {
        Err(Trouble::Sqlite(error)) => Err(error),
        rows => Ok(rows.unwrap_or_default()),
    };
    let rows = |table, hash| none(leaves::rows(connection, table, hash));
    let invoice = |n: Option<i64>| {
        let Some(n) = n else {
            return Ok(None);
        };
        let sql = "SELECT attempts FROM invoices WHERE n = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let attempts = statement.query_row([n], |row| row.get(0)).optional()?;
        Ok(attempts.map(|attempts| (n, attempts)))
    };
    match look {
        Look::Invoice(hash) => invoice(rows(&invoice_ids::TABLE, *hash)?.pop()),
        Look::InOrder(id, hash) => {
            invoice(none(stretches::rows(connection, id.as_str(), *hash))?.pop())
        }
        Look::Key(hash) => {
            for n in rows(&answer_keys::TABLE, *hash)? {
                let sql = "SELECT count(length(body)) FROM answers WHERE n = ?1";
                let mut statement = connection.prepare_cached(sql)?;
                statement.query_row([n], |_| Ok(()))?;
            }
            Ok(None)
        }
        Look::Leaves(table, hash) => {
            let mut statement = connection.prepare_cached(table.next_leaves)?;
            statement.query_row((hash, LEAVES), |_| Ok(None))
        }
    }
}

/// What else is read of an invoice that is there, before money moves for it.
fn rest(connection: &Connection, n: i64, attempts: i64) -> rusqlite::Result<()> {
    let mut payment = connection.prepare_cached(
        "SELECT count(length(idempotency_key)) FROM payments WHERE invoice = ?1 AND attempt = ?2",
    )?;
    payment.query_row([n, attempts], |_| Ok(()))?;
    invoice_events::sequences(connection, n, 0).map(|_| ())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::testing::insert_old;
    use super::super::{DATABASE, open_writer};
    use super::*;
    use crate::application::ports::{Expected, Store};
    use crate::application::request::AnswerName;
    use crate::domain::InvoiceId;

    fn id(n: usize) -> InvoiceId {
        InvoiceId::parse(&format!("inv-{n}")).unwrap()
    }

    #[test]
    fn threads_look_ahead_while_most_lookups_are_slow() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DATABASE);
        drop(open_writer(&path, Uuid::from_u128(7)).unwrap());
        let mut ahead = Ahead::new(&path);
        let slow = SLOW * 2;
        for _ in 0..1000 {
            ahead.took(1, Duration::ZERO);
        }
        // Some that are slow among others say nothing.
        for n in 0..1000 {
            ahead.took(1, if n % 3 == 0 { slow } else { Duration::ZERO });
            assert!(!ahead.is_on());
        }
        assert!(ahead.threads.is_empty());
        let count = (0..).take_while(|_| {
            ahead.took(1, slow);
            !ahead.is_on()
        });
        assert_eq!(count.count(), 94);
        assert_eq!(ahead.threads.len(), THREADS);
        // From then on the threads say how it is: so many that they cannot be half slow and half not.
        ahead.took(1, slow);
        let votes = || ahead.shared.votes.load(Ordering::Relaxed);
        assert_eq!(votes(), ENOUGH);
        ahead.expect([Look::Key(5)].into_iter().chain((0..11).map(Look::Invoice)));
        while votes() == ENOUGH {
            std::thread::yield_now();
        }
        // They may be at the last of them still.
        let mut tries = (0..1_000_000).map(|_| {
            ahead.shared.votes.store(-ENOUGH, Ordering::Relaxed);
            ahead.is_on()
        });
        assert!(tries.any(|on| !on));
    }

    #[test]
    fn leaves_that_a_merge_comes_to_are_read_by_a_thread_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DATABASE);
        drop(open_writer(&path, Uuid::from_u128(7)).unwrap());
        let mut ahead = Ahead::new(&path);
        ahead.expect_leaves(std::iter::empty());
        assert!(ahead.merge_thread.is_none());
        let looks = |count| (0..count).map(|n| Look::Leaves(&answer_keys::TABLE, n));
        ahead.expect_leaves(looks(2));
        while !ahead.merges.queue().looks.is_empty() {
            std::thread::yield_now();
        }
        assert!(ahead.threads.is_empty() && ahead.shared.queue().looks.is_empty());
        ahead.end();
        // Nobody takes them now.
        ahead.merge_thread = ahead.thread(&ahead.merges);
        ahead.expect_leaves(looks(9));
        let left: Vec<_> = ahead.merges.queue().looks.drain(..).collect();
        assert!(
            matches!(left[..], [Look::Leaves(_, 5), .., Look::Leaves(_, 8)]),
            "{left:?}"
        );
    }

    #[test]
    fn what_is_read_ahead_are_the_next_leaves_and_no_more() {
        let connection = super::super::testing::in_memory();
        let all = super::super::testing::Chance(41).hashes(3000);
        let all: Vec<_> = all.into_iter().map(|hash| (hash, 1)).collect();
        let table = &answer_keys::TABLE;
        leaves::put(&connection, table, &all).unwrap();
        let count = |hash| -> i64 {
            let mut statement = connection.prepare(table.next_leaves).unwrap();
            let count = statement.query_row((hash, LEAVES), |row| row.get(0));
            count.unwrap()
        };
        assert_eq!((count(i64::MIN), count(all[2999].0)), (64, 1));
        assert!((1..64).contains(&count(all[2900].0)));
    }

    #[test]
    fn keys_are_looked_for_beside_ids_and_never_alone() {
        let ahead = Ahead::new(Path::new("there is no thread"));
        let left = || ahead.shared.queue().looks.len();
        ahead.expect([Look::Key(1), Look::Invoice(1), Look::Key(2)].into_iter());
        assert_eq!(left(), 3);
        ahead.expect([Look::Key(3)].into_iter());
        assert_eq!(left(), 0);
        ahead.expect((0..).map(Look::Invoice).take(2 * LOOKS_MAX));
        assert_eq!(left(), LOOKS_MAX);
    }

    #[test]
    fn a_writer_that_looks_ahead_finds_the_same_and_leaves_nothing_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DATABASE);
        let store = open_writer(&path, Uuid::from_u128(7)).unwrap();
        insert_old(&store.connection, "inv");
        drop(store);
        let mut store = open_writer(&path, Uuid::from_u128(7)).unwrap();
        store.ahead.shared.votes.store(ENOUGH, Ordering::Relaxed);
        let ids: Vec<_> = (0..600).step_by(2).map(id).collect();
        store.begin().unwrap();
        let actor = "socket".into();
        let key = Expected::Answer(AnswerName::new(&actor, "key-1"));
        let mut expected = ids.iter().map(Expected::Invoice).chain([key]);
        store.expect(&mut expected).unwrap();
        assert!(expected.next().is_none());
        for (n, id) in (0..600).step_by(2).zip(&ids) {
            let there = (1..=300).contains(&n);
            assert_eq!(store.load(id).unwrap().is_some(), there, "{id}");
        }
        store.rollback();
        assert_eq!(store.ahead.threads.len(), THREADS);
        // The writer is the last to close the database, and moves its log: those that read beside it have nothing open.
        let _reader = store.reader().unwrap();
        drop(store);
        let log = super::super::room::beside(&path, "-wal");
        assert!(!log.exists());
    }
}
