//! Opening the database: with the settings that durability stands on, read back, or not at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

use crate::application::ports::StoreError;

use super::schema;
use super::writer::SqliteStore;

/// The database's name in the data directory.
pub const DATABASE: &str = "payd.db";

/// Earlier versions can lose a commit when a WAL is reset while it is being checkpointed.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// How long to wait for another process that holds the database, such as a `sqlite3` shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite says no.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
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
        "migration {version} of the database is not the one in this payd: one of them was edited"
    )]
    Edited {
        /// Which.
        version: usize,
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

/// Opens the database for its one writer, making and migrating it as needed. The caller holds the
/// lock that keeps other daemons out.
///
/// # Errors
/// Where it cannot be used safely.
pub fn open_writer(path: &Path, new_id: Uuid) -> Result<SqliteStore, OpenError> {
    let mut connection = connect(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    )?;
    set(&connection, "journal_mode", "WAL", "wal")?;
    set(&connection, "synchronous", "FULL", "2")?;
    set(&connection, "foreign_keys", "ON", "1")?;
    schema::migrate(&mut connection)?;
    schema::guarded(&connection)?;
    name(&connection, new_id)?;
    Ok(SqliteStore::new(connection))
}

/// Opens the database for reading only. It must exist.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    // Not SQLITE_OPEN_READ_ONLY: after a crash, reading needs to recover the WAL.
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    set(&connection, "query_only", "ON", "1")?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN {
        return Err(OpenError::SqliteTooOld(rusqlite::version()));
    }
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Without it SQLite peeks at bound values to see whether a partial index fits, and prepares a
    // statement anew each time that they change: most statements here, on every run.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(connection)
}

/// Sets a pragma and reads it back.
fn set(
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
        "INSERT INTO meta (name, value) VALUES ('store_id', ?1), ('source_id', ?1), ('paused', '0'), ('age_ms', '0')
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
    }
}
