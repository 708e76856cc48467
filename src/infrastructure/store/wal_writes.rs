//! Writes to the write-ahead log, many frames at a time.
//!
//! SQLite writes each frame of a commit with two calls: 24 bytes of its header, and its page. A commit of twenty-five
//! payments has some forty frames, and eighty calls took longer than all that they moved. Here they wait in memory, one
//! behind the other, and are one call.
//!
//! It is a VFS (<https://www.sqlite.org/vfs.html>) around SQLite's own: of the files that a connection has open it stands
//! before the log's alone, and of that before what is written within [`at_once`], which is told what commits. Whatever else is asked
//! of the log is asked of SQLite's own once all that waits is written, and in the order in which it was to be.
//!
//! What it must never do: let anybody believe that something is in the file that is not. SQLite tells other connections of a
//! commit after all its frames are written, and after the sync if it makes one: so what waits is written with the page that ends a
//! commit, whether a sync follows or not, and before a sync. What does not end a commit, such as pages for which there is no
//! memory, is written as it comes: so a transaction that is rolled back leaves nothing that waits. Where a commit fails, SQLite
//! takes it back, and what still waits of it is dropped: it has told nobody of those frames.
//!
//! This is the one place in payd with unsafe code, but for one call (spare.rs): SQLite knows a VFS as functions of C.

#![expect(unsafe_code, reason = "SQLite's interface for files is one of C")]

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

/// Bytes of a frame's header: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.
const HEADER: usize = 24;
/// Bytes of a page, at least.
const PAGE: usize = 512;
/// Bytes that wait, at most: 31 frames with pages of 4096 bytes. SQLite's own takes no more than this at a time (`seekAndWriteFd`
/// in its `os_unix.c`).
pub(super) const ROOM: usize = 31 * (HEADER + 4096);
const _: () = assert!(ROOM <= 0x1ffff);

/// What SQLite calls it.
const NAME: &CStr = c"payd";

/// SQLite's own, which does the work.
static OWN: AtomicPtr<sqlite3_vfs> = AtomicPtr::new(null_mut());

/// The VFS's name, for a connection that writes: SQLite knows it from now on.
///
/// # Errors
/// SQLite's.
pub(super) fn vfs() -> rusqlite::Result<&'static CStr> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    match *REGISTERED.get_or_init(register) {
        ffi::SQLITE_OK => Ok(NAME),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

fn register() -> c_int {
    // SAFETY: the name may be null, which is the default; what is found stays.
    let own = unsafe { ffi::sqlite3_vfs_find(null()) };
    // SAFETY: what is found is one, and nobody changes it but SQLite, which has a lock for that in its list alone.
    let Some(it) = (unsafe { own.as_ref() }) else {
        return ffi::SQLITE_ERROR;
    };
    let Ok(more) = c_int::try_from(size_of::<Log>()) else {
        return ffi::SQLITE_ERROR;
    };
    OWN.store(own, Ordering::Release);
    let vfs = sqlite3_vfs {
        szOsFile: it.szOsFile.saturating_add(more),
        pNext: null_mut(),
        zName: NAME.as_ptr(),
        xOpen: Some(open),
        // All else is SQLite's own, which finds what it needs of itself in pAppData, as there.
        ..*it
    };
    // SAFETY: it is never freed, and neither is its name.
    unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) }
}

thread_local! {
    /// SQLite calls from the thread that asks it.
    static COMMITS: Cell<bool> = const { Cell::new(false) };
}

/// What is done here commits a transaction, and nothing else: its frames are written at once.
pub(super) fn at_once<T>(commit: impl FnOnce() -> T) -> T {
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            COMMITS.set(false);
        }
    }
    COMMITS.set(true);
    let _ends = Ends;
    commit()
}

/// Writes that wait: one behind the other in the file.
#[derive(Debug, Default)]
struct Waiting {
    from: i64,
    bytes: Vec<u8>,
    /// The last of them is the header of a frame that ends a commit, and its page follows.
    ends: bool,
}

impl Waiting {
    /// Whether these come right behind what waits, and there is room.
    fn has_room(&self, bytes: &[u8], at: i64) -> bool {
        let len = self.bytes.len();
        let behind = i64::try_from(len)
            .ok()
            .and_then(|len| self.from.checked_add(len));
        len == 0 || behind == Some(at) && len + bytes.len() <= ROOM
    }

    /// Takes these, for which there is room; whether all is to be written now.
    fn add(&mut self, bytes: &[u8], at: i64) -> bool {
        let is_alone = self.bytes.is_empty();
        if is_alone {
            self.from = at;
            self.bytes.reserve_exact(ROOM);
        }
        self.bytes.extend_from_slice(bytes);
        let len = bytes.len();
        let ended = self.ends;
        // The size of the database after a commit, and 0 in a frame that does not end one.
        self.ends = len == HEADER && bytes[4..8] != [0; 4];
        // A header that is alone may be of a page that is in the file already, as where checksums are made anew.
        ended || (self.ends && is_alone) || (len != HEADER && len < PAGE)
    }

    /// What was to end a commit did not.
    fn drop_all(&mut self) {
        self.bytes.clear();
        self.ends = false;
    }
}

/// The log, as SQLite has it open: its own follows in memory.
#[repr(C)]
struct Log {
    base: sqlite3_file,
    waiting: *mut Waiting,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // What came with later versions, shared memory and mapping, is asked of the database and not of its log.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// SQLite's own file, behind ours.
///
/// # Safety
/// `file` is one that [`open`] has opened as a log.
unsafe fn own(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite gives as much memory as the VFS has asked for, which is that of both.
    unsafe { file.cast::<Log>().add(1).cast() }
}

/// Asks SQLite's own, which has all methods of the first version.
macro_rules! ask {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        // SAFETY: SQLite calls only for files that are open, in one thread at a time; what it passes on is as its own expects.
        unsafe {
            let own = own($file);
            match (*own).pMethods.as_ref().and_then(|it| it.$method) {
                Some(method) => method(own $(, $argument)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

/// Writes what waits.
///
/// # Safety
/// As for [`own`].
unsafe fn flush(file: *mut sqlite3_file) -> c_int {
    // SAFETY: it was made as the file was opened, and is nobody else's.
    let waiting = unsafe { &mut *(*file.cast::<Log>()).waiting };
    if !COMMITS.get() {
        waiting.drop_all();
    }
    if waiting.bytes.is_empty() {
        return ffi::SQLITE_OK;
    }
    let len = c_int::try_from(waiting.bytes.len()).unwrap_or(c_int::MAX);
    let code = ask!(
        file,
        xWrite,
        waiting.bytes.as_ptr().cast(),
        len,
        waiting.from
    );
    // If it cannot be written, SQLite is told now, and takes its transaction back.
    waiting.bytes.clear();
    code
}

/// Asks SQLite's own once nothing waits any more.
macro_rules! flush_and_ask {
    ($file:expr, $($rest:tt)*) => {{
        // SAFETY: as for `ask`.
        match unsafe { flush($file) } {
            ffi::SQLITE_OK => ask!($file, $($rest)*),
            code => code,
        }
    }};
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let vfs = OWN.load(Ordering::Acquire);
    // SAFETY: there is one since ours is registered, and it stays.
    let Some(method) = (unsafe { vfs.as_ref() }).and_then(|it| it.xOpen) else {
        return ffi::SQLITE_CANTOPEN;
    };
    if flags & ffi::SQLITE_OPEN_WAL == 0 {
        // SAFETY: there is memory for more than its own file, and all methods will be its own.
        return unsafe { method(vfs, name, file, flags, out) };
    }
    // SAFETY: there is memory for both. A file that has methods is closed by SQLite, even if it was not opened.
    unsafe {
        let own = own(file);
        (*own).pMethods = null();
        (*file).pMethods = null();
        let code = method(vfs, name, own, flags, out);
        if !(*own).pMethods.is_null() {
            (*file.cast::<Log>()).waiting = Box::into_raw(Box::default());
            (*file).pMethods = &raw const METHODS;
        }
        code
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: as for `ask`.
    let flushed = unsafe { flush(file) };
    let closed = ask!(file, xClose);
    // SAFETY: it was made as the file was opened, and nothing is asked of it any more.
    unsafe {
        drop(Box::from_raw((*file.cast::<Log>()).waiting));
        (*file).pMethods = null();
    }
    match flushed {
        ffi::SQLITE_OK => closed,
        code => code,
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    len: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    let Ok(count) = usize::try_from(len) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    if !COMMITS.get() {
        return flush_and_ask!(file, xWrite, from, len, at);
    }
    // SAFETY: SQLite says that there are so many; and as for `flush`.
    let (bytes, waiting) = unsafe {
        let bytes = std::slice::from_raw_parts(from.cast::<u8>(), count);
        (bytes, (*file.cast::<Log>()).waiting)
    };
    // SAFETY: as for `flush`, which ends before it is used again.
    unsafe {
        if !(*waiting).has_room(bytes, at) {
            match flush(file) {
                ffi::SQLITE_OK => {}
                code => return code,
            }
        }
        if (*waiting).add(bytes, at) {
            flush(file)
        } else {
            ffi::SQLITE_OK
        }
    }
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    into: *mut c_void,
    len: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    flush_and_ask!(file, xRead, into, len, at)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, len: ffi::sqlite3_int64) -> c_int {
    flush_and_ask!(file, xTruncate, len)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    flush_and_ask!(file, xSync, flags)
}

unsafe extern "C" fn size(file: *mut sqlite3_file, into: *mut ffi::sqlite3_int64) -> c_int {
    flush_and_ask!(file, xFileSize, into)
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    flush_and_ask!(file, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    flush_and_ask!(file, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, into: *mut c_int) -> c_int {
    flush_and_ask!(file, xCheckReservedLock, into)
}

unsafe extern "C" fn control(file: *mut sqlite3_file, what: c_int, with: *mut c_void) -> c_int {
    flush_and_ask!(file, xFileControl, what, with)
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    ask!(file, xSectorSize)
}

unsafe extern "C" fn characteristics(file: *mut sqlite3_file) -> c_int {
    ask!(file, xDeviceCharacteristics)
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, OpenFlags};

    use super::super::testing::Chance;
    use super::super::wal::examine;
    use super::*;

    #[test]
    fn what_follows_waits_and_is_written_with_the_end_of_a_commit() {
        let page = vec![7; 4096];
        let (header, mut end) = ([1, 1, 1, 1, 0, 0, 0, 0].repeat(3), [0; HEADER]);
        end[7] = 1;
        let mut waiting = Waiting::default();
        let mut at = 32;
        for round in 0..31 {
            for (bytes, is_last) in [(&header, false), (&page, round == 30)] {
                let bytes = match (round, bytes.len()) {
                    (30, HEADER) => &end[..],
                    _ => bytes,
                };
                assert!(waiting.has_room(bytes, at), "{round}");
                assert_eq!(waiting.add(bytes, at), is_last, "{round}");
                at += i64::try_from(bytes.len()).unwrap();
            }
        }
        assert_eq!((waiting.from, waiting.bytes.len()), (32, ROOM));
        // Neither more than there is room for, nor what is elsewhere.
        assert!(!waiting.has_room(&header, at));
        waiting.bytes.truncate(HEADER);
        for (at, fits) in [
            (32 + 24, true),
            (32 + 23, false),
            (32 + 25, false),
            (32, false),
        ] {
            assert_eq!(waiting.has_room(&page, at), fits, "{at}");
        }
        // What begins anew, wherever; what is neither does not wait, nor does what comes before it.
        waiting.bytes.clear();
        assert!(waiting.has_room(&page, 9));
        assert!(!waiting.add(&page, 9) && waiting.from == 9);
        assert!(waiting.add(&[0; 32], 9 + 4096));
        // The header of an end, and something else than its page.
        waiting.bytes.clear();
        waiting.ends = false;
        assert!(!waiting.add(&header, 0) && !waiting.add(&end, 24));
        assert!(waiting.add(&header, 48));
        // One that is alone, and its page.
        waiting.drop_all();
        assert!(waiting.add(&end, 0));
        waiting.bytes.clear();
        assert!(waiting.add(&page, 24));
    }

    /// As payd opens it, and with as little memory for pages as there can be, so that they are written and read before a commit.
    fn writer(path: &std::path::Path, synchronous: &str) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = Connection::open_with_flags_and_vfs(path, flags, vfs().unwrap()).unwrap();
        let settings = format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = 10; PRAGMA cache_spill = 10;
             PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 100000"
        );
        connection.execute_batch(&settings).unwrap();
        connection
    }

    /// Commits, rollbacks and checkpoints of all sizes, with a connection beside that sees all of what was committed at once, and
    /// nothing else; whether SQLite syncs or not.
    #[test]
    fn others_see_what_was_committed_and_nothing_else() {
        for (seed, synchronous) in [(60, "FULL"), (61, "NORMAL"), (62, "OFF")] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("payd.db");
            let mut connection = writer(&path, synchronous);
            let schema =
                "CREATE TABLE t (n INTEGER PRIMARY KEY, what BLOB); CREATE INDEX i ON t (what)";
            connection.execute_batch(schema).unwrap();
            let beside = Connection::open(&path).unwrap();
            let sum = "SELECT count(*), coalesce(sum(n * length(what)), 0) FROM t";
            let all = |of: &Connection| -> (i64, i64) {
                of.query_row(sum, [], |row| Ok((row.get(0)?, row.get(1)?)))
                    .unwrap()
            };
            let mut chance = Chance(seed);
            let mut committed = (0, 0);
            for round in 0..150 {
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                let most = if round % 3 == 0 { 200 } else { 20 };
                for _ in 0..chance.below(most) {
                    let (n, len) = (chance.below(400), chance.below(3000));
                    let change = match chance.below(5) {
                        0 => format!("DELETE FROM t WHERE n = {n}"),
                        1 => format!(
                            "SAVEPOINT s; DELETE FROM t WHERE n > {n}; ROLLBACK TO s; RELEASE s"
                        ),
                        _ => format!("INSERT OR REPLACE INTO t VALUES ({n}, randomblob({len}))"),
                    };
                    connection.execute_batch(&change).unwrap();
                }
                assert_eq!(all(&beside), committed, "{synchronous} {round}");
                if chance.below(3) == 0 {
                    // Without a look, which would have all written that waits.
                    connection.execute_batch("ROLLBACK").unwrap();
                } else {
                    let now = all(&connection);
                    at_once(|| connection.execute_batch("COMMIT")).unwrap();
                    committed = now;
                }
                assert_eq!(all(&beside), committed, "{synchronous} {round}");
                // It is in the files, and not in memory alone.
                let copy = tempfile::tempdir().unwrap();
                for name in ["payd.db", "payd.db-wal"] {
                    std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
                }
                let copied = Connection::open(copy.path().join("payd.db")).unwrap();
                assert_eq!(all(&copied), committed, "{synchronous} {round}");
                // Another one writes now and then, whatever this one has left.
                if chance.below(2) == 0 {
                    beside
                        .execute_batch("DELETE FROM t WHERE n IN (SELECT max(n) FROM t)")
                        .unwrap();
                    committed = all(&beside);
                }
                assert_eq!(all(&connection), committed, "{synchronous} {round}");
                assert_eq!(
                    examine(&directory.path().join("payd.db-wal")).unwrap(),
                    Ok(())
                );
                match chance.below(12) {
                    0 => connection
                        .execute_batch("PRAGMA wal_checkpoint(RESTART)")
                        .unwrap(),
                    1 => beside
                        .execute_batch("PRAGMA wal_checkpoint(PASSIVE)")
                        .unwrap(),
                    2 => beside
                        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
                        .unwrap(),
                    // The log stays, since it is open beside.
                    3 => connection = writer(&path, synchronous),
                    _ => {}
                }
            }
            assert!(committed.0 > 100);
            drop(beside);
            let check: String = connection
                .query_row("PRAGMA integrity_check", [], |row| row.get(0))
                .unwrap();
            assert_eq!(check, "ok");
            connection.close().unwrap();
            // The last one that closes it moves all of it into the database, which anybody may read.
            assert!(!directory.path().join("payd.db-wal").exists());
            assert_eq!(all(&Connection::open(&path).unwrap()), committed);
        }
    }

    /// Pages that were written before a commit for want of memory, and change again in it: their checksums are made anew, and the
    /// header that ends the commit has no page behind it.
    #[test]
    fn a_commit_whose_checksums_are_made_anew_is_in_the_file() {
        for synchronous in ["FULL", "NORMAL", "OFF"] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("payd.db");
            let connection = writer(&path, synchronous);
            let rows = "CREATE TABLE t (n INTEGER PRIMARY KEY, v INTEGER, what BLOB);
                WITH RECURSIVE k (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < 300)
                INSERT INTO t SELECT n, 1, zeroblob(2000) FROM k";
            connection.execute_batch(rows).unwrap();
            let change = "BEGIN; UPDATE t SET v = 2; UPDATE t SET v = 3";
            connection.execute_batch(change).unwrap();
            at_once(|| connection.execute_batch("COMMIT")).unwrap();
            let copy = tempfile::tempdir().unwrap();
            for name in ["payd.db", "payd.db-wal"] {
                std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
            }
            let copied = Connection::open(copy.path().join("payd.db")).unwrap();
            let sum: i64 = copied
                .query_row("SELECT sum(v) FROM t", [], |row| row.get(0))
                .unwrap();
            assert_eq!(sum, 900, "{synchronous}");
        }
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("payd.db");
        std::fs::create_dir(directory.path().join("payd.db-wal")).unwrap();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = Connection::open_with_flags_and_vfs(&path, flags, vfs().unwrap()).unwrap();
        let error = connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n)");
        assert!(error.is_err());
    }
}
