//! What a failure of SQLite means for payd.

use rusqlite::{ErrorCode, ffi};

use crate::application::ports::StoreError;

/// Sorts an error by what may be done about it. Whatever is not surely harmless is fatal: after a
/// failed sync nobody knows what is on disk (invariant 11).
#[expect(clippy::needless_pass_by_value)] // for `map_err(sort)`
pub(super) fn sort(error: rusqlite::Error) -> StoreError {
    let why = error.to_string();
    // Somebody has put another file in its place: what is written goes nowhere.
    if error.sqlite_error().map(|it| it.extended_code) == Some(ffi::SQLITE_READONLY_DBMOVED) {
        return StoreError::Fatal(format!("{why}: payd.db was moved while payd has it open"));
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => StoreError::Constraint(why),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy(why),
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly) => StoreError::NoRoom(why),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Fatal(format!(
            "{why}: payd.db is damaged; keep a copy, and see what `payd verify` finds in it"
        )),
        Some(_) => StoreError::Fatal(why),
        None => match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => StoreError::BadRow(why),
            _ => StoreError::Fatal(why),
        },
    }
}

/// The same for reading one invoice: a damaged page costs those whose rows are on it, and not the others.
pub(super) fn sort_row(error: rusqlite::Error) -> StoreError {
    if is_corrupt(&error) {
        StoreError::BadRow(error.to_string())
    } else {
        sort(error)
    }
}

/// Whether it says that a page is not what SQLite wrote.
pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    fn failure(connection: &Connection, sql: &str) -> StoreError {
        sort(connection.execute_batch(sql).unwrap_err())
    }

    #[test]
    fn sqlites_own_errors_mean_what_they_mean() {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let connection = Connection::open(directory.path().join("t.db")).unwrap();
            connection.busy_timeout(std::time::Duration::ZERO).unwrap();
            connection
        };
        let connection = open();
        connection
            .execute_batch("CREATE TABLE t (x UNIQUE); INSERT INTO t VALUES (1)")
            .unwrap();
        assert!(matches!(
            failure(&connection, "INSERT INTO t VALUES (1)"),
            StoreError::Constraint(_)
        ));

        connection
            .execute_batch("PRAGMA max_page_count = 4")
            .unwrap();
        let full = failure(&connection, "INSERT INTO t VALUES (zeroblob(100000))");
        assert!(matches!(full, StoreError::NoRoom(_)), "{full:?}");

        let other = open();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let busy = failure(&connection, "BEGIN IMMEDIATE");
        assert!(matches!(busy, StoreError::Busy(_)), "{busy:?}");
        other
            .execute_batch("ROLLBACK; PRAGMA query_only = ON")
            .unwrap();
        let read_only = failure(&other, "INSERT INTO t VALUES (2)");
        assert!(matches!(read_only, StoreError::NoRoom(_)), "{read_only:?}");

        // Whatever is not known to be harmless is not.
        let other = failure(&connection, "SELECT * FROM nowhere");
        assert!(matches!(other, StoreError::Fatal(_)), "{other:?}");
        let bad = connection
            .query_row("SELECT 'text'", [], |row| row.get::<_, i64>(0))
            .unwrap_err();
        assert!(matches!(sort(bad), StoreError::BadRow(_)));
    }
}
