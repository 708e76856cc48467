//! Migrations: embedded, checksummed, each in one transaction.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use sha2::{Digest, Sha256};

use super::open::OpenError;

/// All migrations, oldest first. What has been released is never edited: its checksum is in every
/// database that it made.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_tokens.sql"),
];

/// Marks the file as payd's (`PRAGMA application_id`): "payd" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x7061_7964;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migrations (
  version INTEGER PRIMARY KEY,
  checksum BLOB NOT NULL,
  applied_by TEXT NOT NULL
) STRICT";

/// Brings a database to the newest schema. A database of a newer payd is left untouched.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let standing = standing(connection)?;
    if standing.len() > MIGRATIONS.len() {
        return Err(OpenError::Newer {
            database: standing.len(),
            payd: MIGRATIONS.len(),
        });
    }
    for (checksum, (version, sql)) in standing.iter().zip((1..).zip(MIGRATIONS)) {
        if checksum[..] != checksum_of(sql) {
            return Err(OpenError::Edited { version });
        }
    }
    for (version, sql) in (1..).zip(MIGRATIONS).skip(standing.len()) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(TABLE)?;
        transaction.execute_batch(sql)?;
        transaction.execute(
            "INSERT INTO migrations (version, checksum, applied_by) VALUES (?1, ?2, ?3)",
            (
                version,
                checksum_of(sql).as_slice(),
                env!("CARGO_PKG_VERSION"),
            ),
        )?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Sees that the indexes are there which enforce invariant 4.
pub(super) fn guarded(connection: &Connection) -> Result<(), OpenError> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1 AND sql LIKE 'CREATE UNIQUE INDEX %'";
    for index in ["payments_one_open", "payments_one_succeeded"] {
        let there = connection.query_row(sql, [index], |_| Ok(())).optional()?;
        there.ok_or(OpenError::Unguarded(index))?;
    }
    Ok(())
}

/// The checksums of the migrations that the database has had, oldest first.
fn standing(connection: &Connection) -> Result<Vec<Vec<u8>>, OpenError> {
    let exists = connection
        .query_row(
            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'",
            [],
            |_| Ok(()),
        )
        .optional()?;
    if exists.is_none() {
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        return if tables == 0 {
            Ok(Vec::new())
        } else {
            Err(OpenError::NotOurs)
        };
    }
    let mut statement = connection.prepare("SELECT checksum FROM migrations ORDER BY version")?;
    let checksums = statement
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(checksums)
}

fn checksum_of(sql: &str) -> [u8; 32] {
    Sha256::digest(sql.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_migrated_once_and_known_again() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        let versions: i64 = connection
            .query_row("SELECT count(*) FROM migrations", [], |row| row.get(0))
            .unwrap();
        assert_eq!(usize::try_from(versions).unwrap(), MIGRATIONS.len());
    }

    #[test]
    fn a_database_without_its_guards_is_refused() {
        for index in ["payments_one_open", "payments_one_succeeded"] {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection).unwrap();
            guarded(&connection).unwrap();
            connection
                .execute_batch(&format!("DROP INDEX {index}"))
                .unwrap();
            let error = guarded(&connection).unwrap_err();
            assert!(
                matches!(error, OpenError::Unguarded(it) if it == index),
                "{error}"
            );
        }
    }

    #[test]
    fn a_newer_an_edited_and_a_foreign_database_are_refused_untouched() {
        type Expected = fn(&OpenError) -> bool;
        let rows: [(&str, Expected); 2] = [
            ("INSERT INTO migrations VALUES (999, x'00', '9.0.0')", |e| {
                matches!(e, OpenError::Newer { .. })
            }),
            ("UPDATE migrations SET checksum = x'00'", |e| {
                matches!(e, OpenError::Edited { version: 1 })
            }),
        ];
        for (sql, expected) in rows {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection).unwrap();
            connection.execute_batch(sql).unwrap();
            let error = migrate(&mut connection).unwrap_err();
            assert!(expected(&error), "{sql}: {error}");
        }
        let mut foreign = Connection::open_in_memory().unwrap();
        foreign
            .execute_batch("CREATE TABLE somebody_elses (x)")
            .unwrap();
        assert!(matches!(migrate(&mut foreign), Err(OpenError::NotOurs)));
    }
}
