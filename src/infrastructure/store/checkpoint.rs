//! Moves what was committed from the write-ahead log into the database, beside the writer.
//!
//! SQLite by itself does it within a commit: whoever made the log a thousand pages long waits until all of
//! them are in the database and synced, and the larger the database, the further apart they lie. Here a
//! thread with a connection of its own does it while commits go on (a *pass*, `PASSIVE`).
//!
//! The log starts again at its beginning only when all of it has been moved. Under a load that never pauses
//! there is always something behind a pass, and the log would grow for ever. So once it is long, the writer
//! moves the rest between two commits: what was committed during the last pass, and no more (`RESTART`).
//! It waits a moment for readers that still need the log; while one stays, such as a backup, the log grows
//! and nobody waits.
//!
//! What a pass has moved is synced by the pass. SQLite syncs the database only where a checkpoint has reached
//! the end of the log, which under load is the one that the writer makes, and pages that lie far apart take the
//! disk long: 4,000 of them held every commit up for 30 to 50 ms. Passes are small, since the log's own syncs
//! stand in line behind theirs.
//!
//! It never weakens anything: frames are synced in the log before they are moved, and SQLite syncs the database
//! before the log is written over, as in any checkpoint. A failed one leaves everything in the log,
//! and the next one writes it again. Where a sync has failed, none follows: the pages of passes before may not be
//! on disk, and Linux says that once (`fsync(2)`); the next sync would succeed, and the log be gone. So the log
//! stays whole, and grows, until payd is started again and moves all of it anew.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};

use super::open::{BUSY_TIMEOUT, OpenError, connect, set};

/// Frames, of a page each, after which a pass is worth its syncs: a MiB. With 1000, as in SQLite, commits wait
/// longer for the disk; with 128 the passes take processor time from them.
const PASS_FRAMES: u32 = 256;

/// Frames from which on the writer sees to it that the log starts again: some 16 MiB.
const LONG_FRAMES: u32 = 4096;

/// Frames that the writer moves between two commits, at most; or twice those of its newest commit, which took as
/// long.
const REST_FRAMES: u32 = 512;

/// Frames from which on the writer moves whatever there is: some 64 MiB.
const FULL_FRAMES: u32 = 4 * LONG_FRAMES;

/// Frames that passes may be behind before commits wait for them.
const BEHIND_FRAMES: u32 = 1000;

/// How long the writer waits before a commit for every [`BEHIND_FRAMES`] that the passes are behind, beyond the
/// first: else commits could come faster than a busy disk takes them in the database, for ever.
const PAUSE: Duration = Duration::from_millis(2);

/// The longest of these waits.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// What the log's file is cut to when it starts again, in bytes: twice what is long. It is longer only after a
/// reader that stayed.
const FILE_BYTES: i64 = 2 * LONG_FRAMES as i64 * 4120;

/// How long the writer waits for readers that need the log.
const READERS_WAIT: Duration = Duration::from_millis(10);

/// What is known of the log.
#[derive(Debug, Default)]
struct Log {
    /// Frames in it after the newest commit.
    frames: u32,
    /// Those of the newest commit.
    newest: u32,
    /// How often it has started again.
    starts: u64,
    /// Frames that the last pass found in it, and those of them that are in the database.
    seen: u32,
    moved: u32,
    /// A pass is under way.
    passing: bool,
    /// The last pass had to leave much that readers need, or failed.
    held: bool,
    /// The log is long and nearly all of it moved: the writer may see to the rest.
    rest: bool,
    /// Its length from which on the writer tries again, after readers have held it up.
    patience: u32,
    stop: bool,
    /// A sync of the database has failed: nothing may be moved any more.
    unsynced: bool,
}

impl Log {
    /// After a commit.
    fn grow(&mut self, frames: u32) {
        if frames < self.frames {
            let starts = self.starts + 1;
            *self = Self {
                starts,
                passing: self.passing,
                stop: self.stop,
                unsynced: self.unsynced,
                ..Self::default()
            };
        }
        self.newest = frames.saturating_sub(self.frames);
        self.frames = frames;
    }

    /// Whether it is for the writer to move the rest.
    fn is_nearly_done(&self) -> bool {
        self.is_long() && (self.behind() <= self.rest_max() || self.frames >= FULL_FRAMES)
    }

    fn rest_max(&self) -> u32 {
        REST_FRAMES.max(self.newest.saturating_mul(2))
    }

    /// Frames that are not in the database, as far as is known.
    const fn behind(&self) -> u32 {
        self.frames.saturating_sub(self.moved)
    }

    /// Whether it is to start again.
    fn is_long(&self) -> bool {
        !self.held && self.frames >= LONG_FRAMES.max(self.patience)
    }

    fn is_worth_a_pass(&self) -> bool {
        self.frames >= self.seen.saturating_add(PASS_FRAMES)
            || (self.is_long() && !self.is_nearly_done())
    }

    /// How long the next commit had better wait for the pass that is under way.
    fn pause(&self) -> Duration {
        if !self.passing || self.held {
            return Duration::ZERO;
        }
        let times = (self.behind() / BEHIND_FRAMES).saturating_sub(1);
        let least = if self.is_long() {
            PAUSE
        } else {
            Duration::ZERO
        };
        (PAUSE * times).clamp(least, PAUSE_MAX)
    }
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
    passed: Condvar,
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sync of the database has failed.
    fn give_up(&self, why: &str) {
        let mut log = self.log();
        if !std::mem::replace(&mut log.unsynced, true) {
            tracing::error!(
                error = why,
                "the disk has failed to take the database; nothing is lost, and its log grows from here on: see to the disk, and start payd again"
            );
        }
        log.stop = true;
        log.passing = false;
    }
}

/// The thread, for as long as the writer is open.
#[derive(Debug)]
pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// The database's file, to be synced. It must outlive the writer's connection: a process that closes a file
    /// gives up all its locks on it, those of SQLite among them.
    /// Source: <https://www.sqlite.org/howtocorrupt.html>, section 2.2.
    _database: Arc<File>,
}

impl Checkpointer {
    /// Takes the checkpoints of the database at `path` over from its `writer`.
    ///
    /// # Errors
    /// Where it cannot be opened once more.
    pub(super) fn start(path: &Path, writer: &mut Connection) -> Result<Self, OpenError> {
        let database =
            File::open(path).map_err(|error| OpenError::Unwritable(error.to_string()))?;
        Self::start_with(path, writer, database)
    }

    fn start_with(path: &Path, writer: &mut Connection, database: File) -> Result<Self, OpenError> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // The syncs of a checkpoint go by the settings of the connection that makes it.
        set(&connection, "synchronous", "FULL", "2")?;
        set(&connection, "query_only", "ON", "1")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        writer.pragma_update(None, "journal_size_limit", FILE_BYTES)?;
        let shared = Arc::new(Shared::default());
        let hearer = Arc::clone(&shared);
        // This takes the place of SQLite's own checkpoints.
        writer.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, frames: i32| {
            let mut log = hearer.log();
            log.grow(u32::try_from(frames).unwrap_or(0));
            if log.is_worth_a_pass() {
                hearer.changed.notify_one();
            }
            Ok(())
        }))?;
        let database = Arc::new(database);
        let its = (Arc::clone(&database), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&connection, &its.0, &its.1))
            .map_err(|error| OpenError::Unwritable(error.to_string()))?;
        Ok(Self {
            shared,
            thread: Some(thread),
            _database: database,
        })
    }

    /// Starts no other pass: what is on disk is to stay as it is.
    pub(super) fn cease(&self) {
        self.shared.log().stop = true;
        self.shared.changed.notify_one();
    }

    /// Ends the thread. Says whether the database may be brought up to date: not after a failed sync.
    pub(super) fn end(&mut self) -> bool {
        self.cease();
        if let Some(thread) = self.thread.take() {
            // Its panic has been told where it happened.
            let _ = thread.join();
        }
        !self.shared.log().unsynced
    }

    /// Between two commits of the `writer`: moves the rest of a long log, where there is little left.
    pub(super) fn see_to_the_rest(&self, writer: &Connection) {
        {
            let mut log = self.shared.log();
            let pause = log.pause();
            if !pause.is_zero() {
                // A pass that ends sooner ends the wait.
                let waited = self.shared.passed.wait_timeout(log, pause);
                (log, _) = waited.unwrap_or_else(PoisonError::into_inner);
            }
            if !std::mem::take(&mut log.rest) || log.stop {
                return;
            }
        }
        let restarted = writer
            .busy_timeout(READERS_WAIT)
            .and_then(|()| checkpoint(writer, "RESTART"));
        let put_back = writer.busy_timeout(BUSY_TIMEOUT);
        match restarted.and_then(|moved| put_back.map(|()| moved)) {
            Ok(moved) if !moved.held_up => {}
            Err(error) if is_unsynced(&error) => self.shared.give_up(&error.to_string()),
            // The thread says it where it is more than a reader.
            Ok(_) | Err(_) => {
                let mut log = self.shared.log();
                log.patience = log.frames.saturating_add(LONG_FRAMES);
            }
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a checkpoint has done.
struct Moved {
    held_up: bool,
    frames: u32,
    done: u32,
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<Moved> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        // Both are -1 where there is no log.
        let count =
            |at| Ok::<_, rusqlite::Error>(u32::try_from(row.get::<_, i64>(at)?).unwrap_or(0));
        Ok(Moved {
            held_up: row.get(0)?,
            frames: count(1)?,
            done: count(2)?,
        })
    })
}

/// Whether it is a sync that has failed.
fn is_unsynced(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|it| it.extended_code);
    code == Some(ffi::SQLITE_IOERR_FSYNC)
}

fn run(connection: &Connection, database: &File, shared: &Shared) {
    let mut failed = false;
    while let Some(starts) = wait(shared) {
        let result = checkpoint(connection, "PASSIVE");
        match result {
            Ok(moved) => {
                if let Err(error) = database.sync_data() {
                    shared.give_up(&error.to_string());
                    break;
                }
                if std::mem::take(&mut failed) {
                    tracing::info!("the database takes what is in its log again");
                }
                let mut log = shared.log();
                if log.starts == starts {
                    (log.seen, log.moved) = (moved.frames, moved.done);
                    log.held = moved.frames.saturating_sub(moved.done) > REST_FRAMES;
                    log.rest = log.is_nearly_done();
                }
                log.passing = false;
            }
            Err(error) if is_unsynced(&error) => {
                shared.give_up(&error.to_string());
                break;
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::error!(%error, "the log of the database cannot be moved into it; nothing is lost, and the log grows until it can");
                }
                let mut log = shared.log();
                (log.seen, log.held, log.passing) = (log.frames, true, false);
            }
        }
        shared.passed.notify_one();
    }
    // Who waits for a pass waits for none.
    shared.passed.notify_one();
}

/// Until there is something to do. `None`: until the end.
fn wait(shared: &Shared) -> Option<u64> {
    let mut log = shared
        .changed
        .wait_while(shared.log(), |log| !log.stop && !log.is_worth_a_pass())
        .unwrap_or_else(PoisonError::into_inner);
    log.passing = !log.stop;
    log.passing.then_some(log.starts)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;

    use uuid::Uuid;

    use super::super::{DATABASE, SqliteStore, open_writer};
    use super::*;
    use crate::application::ports::Store;

    struct Writer {
        store: SqliteStore,
        path: PathBuf,
        written: u32,
        _directory: tempfile::TempDir,
    }

    impl Writer {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(DATABASE);
            Self {
                store: open_writer(&path, Uuid::from_u128(7)).unwrap(),
                path,
                written: 0,
                _directory: directory,
            }
        }

        /// Commits of fifty frames or so, until it is so many. Says how long the log was at most.
        fn commit(&mut self, frames: u32) -> u32 {
            let (mut longest, until) = (0, self.written + frames);
            while self.written < until {
                self.store.begin().unwrap();
                let sql = "INSERT INTO answers (actor, key, fingerprint, status, body, born_at_age)
                    VALUES ('test', ?1, zeroblob(32), 200, randomblob(200000), 0)";
                self.store.connection.execute(sql, [self.written]).unwrap();
                self.store.commit().unwrap();
                self.written += 50;
                longest = longest.max(self.store.checkpointer.shared.log().frames);
            }
            longest
        }

        /// Another connection, and what it sees of the log: how many frames, and how many were moved.
        fn other(&self) -> Connection {
            connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
        }

        fn moved(&self) -> u32 {
            checkpoint(&self.other(), "NOOP").unwrap().done
        }

        fn file(&self) -> u64 {
            let wal = super::super::room::beside(&self.path, "-wal");
            std::fs::metadata(wal).unwrap().len()
        }
    }

    #[test]
    fn the_log_starts_again_under_a_load_that_never_pauses() {
        let mut writer = Writer::new();
        let longest = writer.commit(16 * LONG_FRAMES);
        assert!(longest < 4 * LONG_FRAMES, "{longest} frames");
        assert!(writer.store.checkpointer.shared.log().starts > 0);
    }

    #[test]
    fn a_reader_that_stays_holds_up_the_log_and_nobody_and_leaves_no_long_file() {
        let mut writer = Writer::new();
        writer.commit(50);
        let reader = writer.other();
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM answers")
            .unwrap();
        let longest = writer.commit(4 * LONG_FRAMES);
        assert!(
            longest >= 4 * LONG_FRAMES,
            "its snapshot is in {longest} frames"
        );
        let held = writer.file();
        reader.execute_batch("COMMIT").unwrap();
        let starts = writer.store.checkpointer.shared.log().starts;
        // The writer looks again once the log has grown by as much as is long.
        writer.commit(6 * LONG_FRAMES);
        assert!(writer.store.checkpointer.shared.log().starts > starts);
        let limit = u64::try_from(FILE_BYTES).unwrap();
        assert!(
            held > limit && writer.file() <= 2 * limit,
            "{held} bytes, then {}",
            writer.file()
        );
    }

    #[test]
    fn once_it_is_to_cease_the_database_stays_as_it_is() {
        let mut writer = Writer::new();
        let moved = writer.moved();
        writer.store.checkpointer.cease();
        writer.commit(2 * LONG_FRAMES);
        let thread = writer.store.checkpointer.thread.take().unwrap();
        thread.join().unwrap();
        assert_eq!(writer.moved(), moved);
    }

    #[test]
    fn after_a_failed_sync_the_log_stays_whole_and_the_next_start_moves_it_anew() {
        let mut writer = Writer::new();
        // What no disk is behind cannot be synced.
        let (pipe, _other_end) = std::io::pipe().unwrap();
        let pipe = File::from(OwnedFd::from(pipe));
        let connection = &mut writer.store.connection;
        let ours = Checkpointer::start_with(&writer.path, connection, pipe).unwrap();
        let its_own = std::mem::replace(&mut writer.store.checkpointer, ours);
        let _locks = Arc::clone(&its_own._database);
        drop(its_own);
        // Those that read beside the writer are closed before it; or after it, where somebody reads just then.
        let reader = writer.store.reader().unwrap();
        let in_use = reader.idle.0.lock().unwrap().pop().unwrap();
        let other = writer.store.reader().unwrap();
        let longest = writer.commit(4 * LONG_FRAMES);
        assert!(longest >= 4 * LONG_FRAMES, "{longest} frames");
        assert!(writer.store.checkpointer.shared.log().unsynced);
        assert!(writer.moved() <= LONG_FRAMES, "no pass follows");
        let Writer {
            store,
            path,
            _directory,
            ..
        } = writer;
        let rows = |connection: &Connection| -> i64 {
            let sql = "SELECT count(*) FROM answers";
            connection.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        let there = rows(&store.connection);
        drop(store);
        drop((in_use, reader, other));
        let log = super::super::room::beside(&path, "-wal");
        let bytes = std::fs::metadata(&log).unwrap().len();
        assert!(bytes >= u64::from(longest) * 4096, "{bytes}");
        let store = open_writer(&path, Uuid::from_u128(7)).unwrap();
        assert_eq!(rows(&store.connection), there);
        drop(store);
        assert!(!log.exists());
    }

    #[test]
    fn the_writer_waits_the_longer_the_further_a_pass_is_behind_and_never_long() {
        let log = |frames, moved, passing, held| Log {
            frames,
            moved,
            passing,
            held,
            ..Log::default()
        };
        let ms = Duration::from_millis;
        for (log, pause) in [
            (log(1_500, 0, true, false), ms(0)),
            (log(2_500, 0, true, false), ms(2)),
            (log(3_500, 0, true, false), ms(4)),
            (log(5_000, 4_900, true, false), ms(2)),
            (log(90_000, 0, true, false), PAUSE_MAX),
            (log(90_000, 0, true, true), ms(0)),
            (log(90_000, 0, false, false), ms(0)),
        ] {
            assert_eq!(log.pause(), pause, "{log:?}");
        }
    }
}
