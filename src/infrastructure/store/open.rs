//! Opening the database: with the settings that durability stands on, read back, or not at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use uuid::Uuid;

use crate::application::ports::StoreError;

use super::answer_keys::{self, AnswerKeys};
use super::checkpoint::Checkpointer;
use super::invoice_ids::{self, InvoiceIds};
use super::late::{self, Late};
use super::mark::{MARK, Mark, Position};
use super::room::{self, beside};
use super::schema;
use super::wal::{self, WalDamage};
use super::wal_writes;
use super::writer::{SqliteStore, position};

/// The database's name in the data directory.
pub const DATABASE: &str = "payd.db";

/// Earlier versions can lose a commit when a WAL is reset while it is being checkpointed.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// How long to wait for another process that holds the database, such as a `sqlite3` shell.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the writer keeps of the database in memory, as SQLite takes it: KiB, negative. A request touches pages
/// of a few indexes at random, and what it has read is written and read again within milliseconds.
const WRITER_CACHE: &str = "-8192";

/// Databases up to this size, in bytes, are checked at every start, pages and indexes. payd is to be ready
/// within a second of it, whatever it holds: 16 MiB take some 30 ms, and 10 GB do not. Of larger ones each
/// page is checked as it is read, each invoice before money moves for it, and all by `payd verify`.
const CHECKED_BYTES_MAX: i64 = 16 << 20;

/// What to do about a damaged database, whatever the damage.
const WHAT_TO_DO: &str = "payd does not start on it, so that nothing is paid twice. Keep a copy of payd.db, payd.db-wal and \
     payd.head; then restore the newest backup. What was paid since then, payd finds at the gateway under the same keys";

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite says no.
    #[error("SQLite: {0}")]
    Sqlite(rusqlite::Error),
    /// It is not what was written.
    #[error("it is damaged: {0}. {WHAT_TO_DO}")]
    Damaged(String),
    /// Its log is not what was written.
    #[error("payd.db-wal is damaged: {0}. {WHAT_TO_DO}")]
    WalDamaged(WalDamage),
    /// Commits are missing.
    #[error(
        "it ends at event {sequence}, and payd has acknowledged event {acknowledged} or a commit after it: payd.db-wal was \
         removed or damaged, or an older copy was put in place. {WHAT_TO_DO}. Where this older copy is what you want, though \
         payments may be missing from it, remove payd.head"
    )]
    Lost {
        /// The newest event that it has.
        sequence: u64,
        /// The newest event that it had.
        acknowledged: u64,
    },
    /// It can be read and not written, or there is no room beside it.
    #[error(
        "it cannot be written: {0}. See that its directory and the files payd.db* belong to payd's user, that the file \
         system is mounted read-write and that it has room; then start payd again"
    )]
    Unwritable(String),
    /// A file beside the database cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The copy that is made before a migration cannot be made.
    #[error(
        "before its migration to schema {version} payd copies it to {}, and cannot: {why}. Make room for a copy of it; it has \
         not been changed", copy.display()
    )]
    NotCopied {
        /// To which schema.
        version: usize,
        /// The copy's name.
        copy: PathBuf,
        /// Why not.
        why: String,
    },
    /// The linked SQLite is too old.
    #[error(
        "SQLite {0} is linked; payd needs 3.51.3 or later, which does not lose a commit in a WAL reset"
    )]
    SqliteTooOld(&'static str),
    /// A setting did not take.
    #[error(
        "SQLite does not take {setting}={wanted} and says {got}; the file system may not support it"
    )]
    Setting {
        /// Which.
        setting: &'static str,
        /// What payd needs.
        wanted: &'static str,
        /// What SQLite has.
        got: String,
    },
    /// Written by a newer payd.
    #[error(
        "the database has schema {database}, and this payd knows {payd}: run the newer payd that made it"
    )]
    Newer {
        /// The database's.
        database: usize,
        /// This binary's.
        payd: usize,
    },
    /// Its schema was made by a migration that reads otherwise here.
    #[error(
        "migration {version} of the database is not the one in this payd: one of them was edited, or the database is damaged. \
         {WHAT_TO_DO}"
    )]
    Edited {
        /// Which.
        version: usize,
    },
    /// An older payd made it, and it is only to be read.
    #[error(
        "the database has schema {database}, of an older payd, and this one knows {payd}: start this payd on it once, which copies \
         it first and brings it up to date, or use the older payd"
    )]
    Older {
        /// The database's.
        database: usize,
        /// This binary's.
        payd: usize,
    },
    /// An index that invariant 4 stands on is gone.
    #[error(
        "the index {0}, which keeps invoices from being charged twice, is gone: somebody has changed the database; restore a backup"
    )]
    Unguarded(&'static str),
    /// Another program's database.
    #[error("it is not a payd database: move it away, or choose another --data-dir")]
    NotOurs,
    /// It does not exist.
    #[error("there is no database at {0}: check --data-dir; `payd serve` makes one")]
    Missing(PathBuf),
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            Some(ErrorCode::ReadOnly | ErrorCode::DiskFull | ErrorCode::CannotOpen) => {
                Self::Unwritable(error.to_string())
            }
            _ => Self::Sqlite(error),
        }
    }
}

/// Opens the database for its one writer, making and migrating it as needed. The caller holds the
/// lock that keeps other daemons out.
///
/// # Errors
/// Where it cannot be used safely.
pub fn open_writer(path: &Path, new_id: Uuid) -> Result<SqliteStore, OpenError> {
    open(path, new_id).map_err(|error| match error {
        OpenError::Sqlite(why)
            if why
                .sqlite_error()
                .is_some_and(|it| room::may_be_for_want_of_room(it.extended_code)) =>
        {
            match room::refusal(path) {
                Some(refusal) => OpenError::Unwritable(refusal.to_string()),
                None => OpenError::Sqlite(why),
            }
        }
        error => error,
    })
}

fn open(path: &Path, new_id: Uuid) -> Result<SqliteStore, OpenError> {
    // Before SQLite sees it: what SQLite does not take of its log it may write over.
    let wal = beside(path, "-wal");
    wal::examine(&wal)
        .map_err(|source| OpenError::Unreadable { path: wal, source })?
        .map_err(OpenError::WalDamaged)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | NO_MUTEX;
    let mut connection = prepared(Connection::open_with_flags_and_vfs(
        path,
        flags,
        wal_writes::vfs()?,
    )?)?;
    // Where it is refused below, it is left as it was found, with its log.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    if connection.is_readonly("main")? {
        return Err(OpenError::Unwritable(
            "SQLite opens it for reading only".to_owned(),
        ));
    }
    set(&connection, "journal_mode", "WAL", "wal")?;
    set(&connection, "synchronous", "FULL", "2")?;
    set(&connection, "foreign_keys", "ON", "1")?;
    set(&connection, "cache_size", WRITER_CACHE, WRITER_CACHE)?;
    if size(&connection)? <= CHECKED_BYTES_MAX {
        check(&connection)?;
    }
    let mark = beside_in_directory(path);
    let marked = Mark::read(&mark).map_err(|source| OpenError::Unreadable {
        path: mark.clone(),
        source,
    })?;
    if let Some(marked) = marked {
        not_lost(&connection, &marked)?;
    }
    schema::migrate(&mut connection, path)?;
    schema::guarded(&connection)?;
    schema::whole(&connection)?;
    if size(&connection)? <= CHECKED_BYTES_MAX
        && let Some(fault) = late::fault(&connection)?
    {
        return Err(OpenError::Damaged(fault));
    }
    // What SQLite keeps of pages to undo a single statement goes into a file of its own from 64 KiB on: with random ids
    // and keys, as many writes as the log has. A migration before this may have to sort more than belongs in memory.
    set(&connection, "temp_store", "MEMORY", "2")?;
    let late = Late::open(&connection)?;
    // Rows that are read once need not stay.
    set(&connection, "cache_size", READER_CACHE, READER_CACHE)?;
    let mut answer_keys = AnswerKeys::open(&connection)?;
    let invoice_ids = InvoiceIds::open(&connection)?;
    answer_keys.share(&invoice_ids);
    set(&connection, "cache_size", WRITER_CACHE, WRITER_CACHE)?;
    name(&connection, new_id)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    let mark = Mark::keep(&mark, position(&connection)?);
    let checkpointer = Checkpointer::start(path, &mut connection)?;
    Ok(SqliteStore::new(
        connection,
        checkpointer,
        path,
        mark,
        late,
        answer_keys,
        invoice_ids,
    ))
}

/// The mark lies in the database's directory.
fn beside_in_directory(database: &Path) -> PathBuf {
    database.with_file_name(MARK)
}

/// Bytes in the database.
fn size(connection: &Connection) -> Result<i64, OpenError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(pragma("page_count")?.saturating_mul(pragma("page_size")?))
}

/// SQLite's own check of its pages, and of its indexes against the tables: a damaged index hides
/// payments that are due, or an invoice that is paid.
fn check(connection: &Connection) -> Result<(), OpenError> {
    let said: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if said == "ok" {
        Ok(())
    } else {
        Err(OpenError::Damaged(said))
    }
}

/// Sees that the database has what the mark says it had.
fn not_lost(connection: &Connection, marked: &Position) -> Result<(), OpenError> {
    let lost = |sequence| OpenError::Lost {
        sequence,
        acknowledged: marked.sequence,
    };
    if !schema::is_ours(connection)? {
        // Empty: it was removed, or its log was before the first checkpoint.
        return Err(lost(0));
    }
    let now = position(connection)?;
    if marked.is_lost_in(&now) {
        return Err(lost(now.sequence));
    }
    Ok(())
}

/// What a reader keeps of the database's pages: 128 KiB, for the upper pages of the trees. There are up to
/// 16 readers, and the rest is in the kernel's memory, once for all of them.
const READER_CACHE: &str = "-128";

/// Opens the database for reading only. It must exist. A log that is there stays as it is.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let has_log = beside(path, "-wal").exists();
    // Not SQLITE_OPEN_READ_ONLY: after a crash, reading needs to recover the WAL.
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // What is to become of a log is for the writer to say, also where this is closed after it: it may have to stay whole.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    set(&connection, "query_only", "ON", "1")?;
    set(&connection, "cache_size", READER_CACHE, READER_CACHE)?;
    Ok(connection)
}

/// A connection is used by one thread at a time.
const NO_MUTEX: OpenFlags = OpenFlags::SQLITE_OPEN_NO_MUTEX;

pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    prepared(Connection::open_with_flags(path, flags | NO_MUTEX)?)
}

/// What all connections have in common.
fn prepared(connection: Connection) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(OpenError::SqliteTooOld(rusqlite::version()));
    }
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Without it SQLite peeks at bound values to see whether a partial index fits, and prepares a
    // statement anew each time that they change: most statements here, on every run.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    answer_keys::register(&connection)?;
    invoice_ids::register(&connection)?;
    // A damaged page is an error when it is read, and not something else's content.
    connection.pragma_update(None, "cell_size_check", "ON")?;
    Ok(connection)
}

/// Sets a pragma and reads it back.
pub(super) fn set(
    connection: &Connection,
    setting: &'static str,
    wanted: &'static str,
    expected: &'static str,
) -> Result<(), OpenError> {
    connection.pragma_update(None, setting, wanted)?;
    let got = connection.pragma_query_value(None, setting, |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            other => other.as_str().unwrap_or_default().to_owned(),
        })
    })?;
    if got == expected {
        Ok(())
    } else {
        Err(OpenError::Setting {
            setting,
            wanted,
            got,
        })
    }
}

/// Gives a new database its id. A restored one keeps its own: it is part of every gateway key.
fn name(connection: &Connection, new_id: Uuid) -> Result<(), OpenError> {
    let id = new_id.hyphenated().to_string();
    connection.execute(
        "INSERT INTO meta (name, value) VALUES ('store_id', ?1), ('source_id', ?1), ('paused', '0'), ('age_ms', '0'), ('quiet_commits', '0')
         ON CONFLICT (name) DO NOTHING",
        [&id],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_does_not_take_is_an_error() {
        let memory = Connection::open_in_memory().unwrap();
        set(&memory, "synchronous", "FULL", "2").unwrap();
        // A database in memory has no WAL.
        let error = set(&memory, "journal_mode", "WAL", "wal").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("journal_mode=WAL and says memory"),
            "{error}"
        );
    }

    #[test]
    fn the_writer_syncs_every_commit() {
        let directory = tempfile::tempdir().unwrap();
        let store = open_writer(&directory.path().join(DATABASE), Uuid::from_u128(7)).unwrap();
        let setting = |name| -> String {
            store
                .connection
                .pragma_query_value(None, name, |row| {
                    Ok(row
                        .get_ref(0)?
                        .as_str()
                        .map_or_else(|_| row.get::<_, i64>(0).unwrap().to_string(), str::to_owned))
                })
                .unwrap()
        };
        assert_eq!(
            (
                setting("journal_mode").as_str(),
                setting("synchronous").as_str(),
                setting("foreign_keys").as_str()
            ),
            ("wal", "2", "1")
        );
        assert_eq!(setting("temp_store"), "2");
    }
    /// `.cargo/config.toml`, which has `HAVE_FDATASYNC` too: SQLite does not tell of that one. Cargo reads it for who
    /// builds within the repository.
    #[test]
    fn sqlite_is_compiled_as_payd_wants_it() {
        if option_env!("LIBSQLITE3_FLAGS").is_none() {
            return;
        }
        let memory = Connection::open_in_memory().unwrap();
        let options = memory
            .prepare("PRAGMA compile_options")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<Vec<String>, _>>()
            .unwrap();
        let has = |option: &str| options.iter().any(|it| it == option);
        for option in [
            "OMIT_LOAD_EXTENSION",
            "OMIT_SHARED_CACHE",
            "DEFAULT_MEMSTATUS=0",
        ] {
            assert!(has(option), "{option} is not in {options:?}");
        }
        for option in ["ENABLE_LOAD_EXTENSION", "ENABLE_FTS5", "ENABLE_RTREE"] {
            assert!(!has(option), "{option}");
        }
    }
}
