//! Looks ahead of the writer, side by side.
//!
//! Where ids or idempotency keys come in no order, each has a page of its index to itself. In a large store most of
//! these pages are on the disk, and the writer would wait for one after the other. Before a batch begins, threads
//! look for what it will look for, all at once, so that the writer finds the pages in the kernel's memory.
//!
//! What they find is used for nothing: it may be otherwise a moment later. Only the pages count. So whatever goes
//! wrong here costs time and nothing else.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::open::{OpenError, open_reader};

/// Threads: as many reads as a disk likes to have at a time. They have next to nothing to do but wait.
const THREADS: usize = 8;

/// Looks below which a batch is not worth it.
const LOOKS_MIN: usize = 4;

/// A database below this many bytes is in memory anyway.
const BYTES_MIN: u64 = 256 << 20;

/// A look that takes this long on average has waited for the disk. One that need not takes a few microseconds.
const SLOW: Duration = Duration::from_micros(25);

/// Batches that are left alone after one for which it was not worth it.
const PAUSE: u32 = 64;

/// How long a batch is held up for it, whatever the disk does.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// What is looked for.
#[derive(Debug, Clone)]
pub(super) enum Look {
    /// An invoice, by its id.
    Invoice(String),
    /// An answer, by key and actor.
    Answer(String, String),
}

/// The threads, for as long as the writer is open.
#[derive(Debug)]
pub(super) struct Ahead {
    database: PathBuf,
    crew: Option<Crew>,
    /// Batches for which nothing is done any more.
    pause: u32,
    failed: bool,
}

#[derive(Debug)]
struct Crew {
    /// None: they end.
    work: Vec<Sender<Vec<Look>>>,
    done: Receiver<Duration>,
    /// Parts that are not done yet: of a batch that did not wait for them.
    late: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Ahead {
    /// Nothing is started before it is needed.
    pub(super) fn new(database: &Path) -> Self {
        Self {
            database: database.to_owned(),
            crew: None,
            pause: 0,
            failed: false,
        }
    }

    /// Whether it is worth gathering what a batch of so many looks will look for.
    pub(super) fn is_worth_it(&mut self, looks: usize) -> bool {
        if self.failed || looks < LOOKS_MIN {
            return false;
        }
        self.pause = self.pause.saturating_sub(1);
        if self.pause > 0 {
            return false;
        }
        let large = std::fs::metadata(&self.database).is_ok_and(|it| it.len() >= BYTES_MIN);
        if !large {
            self.pause = PAUSE;
        }
        large
    }

    /// Looks for all of it, and comes back when that is done.
    pub(super) fn look(&mut self, looks: Vec<Look>) {
        let count = looks.len();
        if count < LOOKS_MIN {
            return;
        }
        let crew = match &mut self.crew {
            Some(crew) => crew,
            None => match Crew::start(&self.database) {
                Ok(crew) => self.crew.insert(crew),
                Err(error) => {
                    self.failed = true;
                    tracing::warn!(%error, "payd cannot look ahead in a large database; requests with ids in no order take longer");
                    return;
                }
            },
        };
        match crew.look(looks) {
            // What has just been looked for is in memory the next time: one in so many is enough to find out.
            Some(took) if took < SLOW * u32::try_from(count).unwrap_or(u32::MAX) => {
                self.pause = PAUSE;
            }
            Some(_) => {}
            None => self.pause = PAUSE,
        }
    }
}

impl Crew {
    fn start(database: &Path) -> Result<Self, OpenError> {
        let (tell, done) = channel();
        let mut crew = Self {
            work: Vec::new(),
            done,
            late: 0,
            threads: Vec::new(),
        };
        for _ in 0..THREADS {
            let connection = open_reader(database)?;
            let (give, work) = channel();
            let tell = tell.clone();
            let thread = std::thread::Builder::new()
                .name("ahead".to_owned())
                .spawn(move || run(&connection, &work, &tell))
                .map_err(|error| OpenError::Unwritable(error.to_string()))?;
            crew.work.push(give);
            crew.threads.push(thread);
        }
        Ok(crew)
    }

    /// Says how long all looks took together; `None`: they are not done, and nobody waits any longer.
    fn look(&mut self, mut looks: Vec<Look>) -> Option<Duration> {
        let deadline = Instant::now() + WAIT_MAX;
        let part = looks.len().div_ceil(self.work.len()).max(1);
        for thread in &self.work {
            if looks.is_empty() {
                break;
            }
            let rest = looks.split_off(part.min(looks.len()));
            // A thread is gone only where it has panicked; that is its own line in the log.
            if thread.send(std::mem::replace(&mut looks, rest)).is_ok() {
                self.late += 1;
            }
        }
        let mut took = Duration::ZERO;
        while self.late > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            took += self.done.recv_timeout(left).ok()?;
            self.late -= 1;
        }
        Some(took)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.work.clear();
        for thread in self.threads.drain(..) {
            // Its panic has been told where it happened.
            let _ = thread.join();
        }
    }
}

fn run(connection: &Connection, work: &Receiver<Vec<Look>>, tell: &Sender<Duration>) {
    while let Ok(looks) = work.recv() {
        let since = Instant::now();
        for look in &looks {
            // The writer will meet what is wrong, and knows what to do about it.
            let _ = reach(connection, look);
        }
        if tell.send(since.elapsed()).is_err() {
            return;
        }
    }
}

/// Reads the pages by which it is found.
fn reach(connection: &Connection, look: &Look) -> rusqlite::Result<bool> {
    match look {
        Look::Invoice(id) => connection
            .prepare_cached("SELECT 1 FROM invoices WHERE id = ?1")?
            .exists([id]),
        Look::Answer(key, actor) => connection
            .prepare_cached("SELECT 1 FROM answers WHERE key = ?1 AND actor = ?2")?
            .exists([key, actor]),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::{DATABASE, open_writer};
    use super::*;

    fn looks(count: usize) -> Vec<Look> {
        let look = |n| match n % 2 {
            0 => Look::Invoice(format!("inv-{n}")),
            _ => Look::Answer(format!("k-{n}"), "test".to_owned()),
        };
        (0..count).map(look).collect()
    }

    #[test]
    fn all_is_looked_for_and_what_is_not_there_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DATABASE);
        drop(open_writer(&path, Uuid::from_u128(7)).unwrap());
        let mut crew = Crew::start(&path).unwrap();
        for count in [1, THREADS - 1, THREADS, THREADS + 1, 1000] {
            // A busy machine may take its time.
            let took = crew.look(looks(count));
            assert!(took.is_none_or(|it| it > Duration::ZERO), "{count}");
        }
        let reader = open_reader(&path).unwrap();
        for look in looks(2) {
            assert!(!reach(&reader, &look).unwrap(), "{look:?}");
        }
    }

    #[test]
    fn it_begins_where_a_database_is_large_and_pauses_where_there_is_nothing_to_wait_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(DATABASE);
        drop(open_writer(&path, Uuid::from_u128(7)).unwrap());
        let mut ahead = Ahead::new(&path);
        let mut is_worth_it = |looks| {
            let asked = 0..=PAUSE;
            asked.filter(|_| ahead.is_worth_it(looks)).count()
        };
        assert_eq!(is_worth_it(100), 0, "it is small");
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(BYTES_MIN).unwrap();
        assert!(is_worth_it(100) > 0);
        assert_eq!(is_worth_it(LOOKS_MIN - 1), 0, "it is little");
        assert!(ahead.crew.is_none(), "nothing was started");
    }
}
