//! Migrations: embedded, checksummed, each in one transaction.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use sha2::{Digest, Sha256};

use crate::failpoints::{Failed, reach};

use super::open::OpenError;
use super::rows::{invoice_columns, payment_columns};
use super::{answer_keys, copy, filters, hashes, invoice_ids, late, leaves};

/// All migrations, oldest first. What has been released is never edited: its checksum is in every
/// database that it made.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_tokens.sql"),
    include_str!("migrations/0003_restored.sql"),
    include_str!("migrations/0004_late_indexes.sql"),
    include_str!("migrations/0005_answers_by_events.sql"),
    include_str!("migrations/0006_answer_keys.sql"),
    include_str!("migrations/0007_events_of_an_invoice.sql"),
    include_str!("migrations/0008_invoices_in_status.sql"),
    include_str!("migrations/0009_invoice_ids.sql"),
    include_str!("migrations/0010_filters.sql"),
    include_str!("migrations/0011_leaves.sql"),
    include_str!("migrations/0012_packed_events.sql"),
    include_str!("migrations/0013_stretches.sql"),
    include_str!("migrations/0014_ribbons.sql"),
    include_str!("migrations/0015_places.sql"),
];

/// The migration whose tables are filled by [`leaves::fill`].
const LEAVES: i32 = 11;

/// The one whose tables are filled by [`filters::fill`].
const FILTERS: i32 = 14;

/// The one whose tables are filled by [`late::fill`].
const PLACES: i32 = 15;

/// Marks the file as payd's (`PRAGMA application_id`): "payd" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x7061_7964;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migrations (
  version INTEGER PRIMARY KEY,
  checksum BLOB NOT NULL,
  applied_by TEXT NOT NULL
) STRICT";

/// Brings the database at `path` to the newest schema, once there is a copy of it as it was. A database of a
/// newer payd is left untouched.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    migrate_to(connection, path, MIGRATIONS)
}

fn migrate_to(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), OpenError> {
    let standing = version(connection, migrations)?;
    if standing > 0 && standing < migrations.len() {
        let copy = copy::before_migration(connection, path, standing + 1)?;
        tracing::info!(copy = %copy.display(), "the database is copied before it is migrated");
        reach("migration.copied")?;
    }
    bring(connection, standing, migrations)
}

/// The same for what is a copy already, and must be payd's.
pub(super) fn migrate_copy(connection: &mut Connection) -> Result<(), OpenError> {
    match version(connection, MIGRATIONS)? {
        0 => Err(OpenError::NotOurs),
        standing => bring(connection, standing, MIGRATIONS),
    }
}

/// Sees that the database has this payd's schema, for who only reads it.
pub(super) fn current(connection: &Connection) -> Result<(), OpenError> {
    match version(connection, MIGRATIONS)? {
        0 => Err(OpenError::NotOurs),
        standing if standing < MIGRATIONS.len() => Err(OpenError::Older {
            database: standing,
            payd: MIGRATIONS.len(),
        }),
        _ => Ok(()),
    }
}

/// How many of the migrations the database has had; it has had none but those.
fn version(connection: &Connection, migrations: &[&str]) -> Result<usize, OpenError> {
    let standing = standing(connection)?;
    if standing.len() > migrations.len() {
        return Err(OpenError::Newer {
            database: standing.len(),
            payd: migrations.len(),
        });
    }
    for (checksum, (version, sql)) in standing.iter().zip((1..).zip(migrations)) {
        if checksum[..] != checksum_of(sql) {
            return Err(OpenError::Edited { version });
        }
    }
    Ok(standing.len())
}

fn bring(
    connection: &mut Connection,
    standing: usize,
    migrations: &[&str],
) -> Result<(), OpenError> {
    if standing == migrations.len() {
        return Ok(());
    }
    answer_keys::register(connection)?;
    invoice_ids::register(connection)?;
    hashes::register(connection)?;
    // A table to which others refer is made anew in one of them. Within a transaction this cannot be set.
    let guarded: bool = connection.pragma_query_value(None, "foreign_keys", |row| row.get(0))?;
    connection.pragma_update(None, "foreign_keys", false)?;
    let brought = bring_each(connection, standing, migrations);
    connection.pragma_update(None, "foreign_keys", guarded)?;
    brought
}

fn bring_each(
    connection: &mut Connection,
    standing: usize,
    migrations: &[&str],
) -> Result<(), OpenError> {
    for (version, sql) in (1..).zip(migrations).skip(standing) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(TABLE)?;
        transaction.execute_batch(sql)?;
        if version == LEAVES {
            leaves::fill(&transaction)?;
        }
        if version == FILTERS {
            filters::fill(&transaction)?;
        }
        if version == PLACES {
            late::fill(&transaction)?;
        }
        transaction.execute(
            "INSERT INTO migrations (version, checksum, applied_by) VALUES (?1, ?2, ?3)",
            (
                version,
                checksum_of(sql).as_slice(),
                env!("CARGO_PKG_VERSION"),
            ),
        )?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        reach("migration.mid")?;
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

/// Sees that the tables have the columns that payd reads and writes: a bit that flips in the schema changes a name.
pub(super) fn whole(connection: &Connection) -> Result<(), OpenError> {
    let selects = [
        concat!(
            "SELECT ",
            invoice_columns!(),
            ", i.newest_event, i.id_hash FROM invoices i"
        ),
        concat!(
            "SELECT ",
            payment_columns!(),
            ", p.n, p.invoice FROM payments p"
        ),
        "SELECT sequence, invoice, type, json, digest, previous, packed FROM events",
        "SELECT n, actor, key, fingerprint, status, location, body, born_at_age, first_event, last_event FROM answers",
        "SELECT n, id, name, digest, scopes, created_at, created_by, expires_at, revoked_at, revoked_by FROM tokens",
        "SELECT name, value FROM meta",
        "SELECT name, until, merging_to, merged_to, digest FROM late",
        "SELECT n, entries FROM invoice_id_runs",
        "SELECT n, entries FROM answer_key_runs",
        "SELECT last, bits FROM invoice_id_filters",
        "SELECT last, bits FROM answer_key_filters",
        "SELECT last, entries FROM invoice_id_leaves",
        "SELECT last, entries FROM answer_key_leaves",
        "SELECT n, first, newest, entries FROM invoice_id_stretches",
        "SELECT type, stretch, places FROM event_types",
        "SELECT run, id, payment FROM payment_ids",
        "SELECT status, stretch, places FROM invoices_in_status",
    ];
    for sql in selects {
        connection.prepare(sql).map_err(|error| {
            OpenError::Damaged(format!("its schema is not what payd made: {error}"))
        })?;
    }
    Ok(())
}

/// Whether payd has ever made a schema in it.
pub(super) fn is_ours(connection: &Connection) -> Result<bool, OpenError> {
    match standing(connection) {
        Ok(standing) => Ok(!standing.is_empty()),
        Err(OpenError::NotOurs) => Ok(false),
        Err(error) => Err(error),
    }
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

impl From<Failed> for OpenError {
    fn from(failed: Failed) -> Self {
        Self::Damaged(failed.to_string())
    }
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
        migrate(&mut connection, Path::new("")).unwrap();
        migrate(&mut connection, Path::new("")).unwrap();
        let versions: i64 = connection
            .query_row("SELECT count(*) FROM migrations", [], |row| row.get(0))
            .unwrap();
        assert_eq!(usize::try_from(versions).unwrap(), MIGRATIONS.len());
    }

    #[test]
    fn a_database_without_its_guards_is_refused() {
        for index in ["payments_one_open", "payments_one_succeeded"] {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection, Path::new("")).unwrap();
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
            migrate(&mut connection, Path::new("")).unwrap();
            connection.execute_batch(sql).unwrap();
            let error = migrate(&mut connection, Path::new("")).unwrap_err();
            assert!(expected(&error), "{sql}: {error}");
        }
        let mut foreign = Connection::open_in_memory().unwrap();
        foreign
            .execute_batch("CREATE TABLE somebody_elses (x)")
            .unwrap();
        assert!(matches!(
            migrate(&mut foreign, Path::new("")),
            Err(OpenError::NotOurs)
        ));
    }

    /// A database with an event, as an older payd left it, and what a newer one knows.
    fn old(directory: &Path) -> (Connection, std::path::PathBuf, [&'static str; 2]) {
        let path = directory.join("payd.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate_to(&mut connection, &path, &MIGRATIONS[..1]).unwrap();
        connection
            .execute_batch(
                "INSERT INTO meta VALUES ('store_id', '00000000-0000-0000-0000-000000000007'),
                 ('source_id', '00000000-0000-0000-0000-000000000007'), ('quiet_commits', '0')",
            )
            .unwrap();
        let newer = [MIGRATIONS[0], "CREATE TABLE added (x INTEGER) STRICT"];
        (connection, path, newer)
    }

    /// The newest migration that makes a table anew keeps what is in it, and finds it again.
    #[test]
    fn payments_of_an_older_database_are_kept_and_found_by_their_ids() {
        use crate::application::ports::{Reader, Store};
        use crate::application::request::{AnswerName, Kept};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("payd.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate_to(&mut connection, &path, &MIGRATIONS[..3]).unwrap();
        connection
            .execute_batch(
                "INSERT INTO meta VALUES ('store_id', '00000000-0000-0000-0000-000000000007'),
                 ('source_id', '00000000-0000-0000-0000-000000000007'), ('quiet_commits', '0');
                 INSERT INTO invoices (n, id, amount, currency, metadata, status, attempts, attempts_before_round,
                   needs_attention, cancel_requested, created_at, updated_at)
                 VALUES (1, 'a', 1, 'EUR', '{}', 1, 1, 0, 0, 0, 0, 0), (2, 'b', 1, 'EUR', '{}', 1, 1, 0, 0, 0, 0, 0);
                 INSERT INTO payments (n, id, invoice, attempt, idempotency_key, state, requested_at, due_at, resends,
                   contradicted, epoch, lookups, restored)
                 VALUES (5, x'00000000000070008000000000000001', 1, 1, 'k1', 0, 0, 9, 0, 0, 0, 0, 1),
                   (200000, x'00000000000070008000000000000002', 2, 1, 'k2', 0, 0, 8, 0, 0, 0, 0, 0);
                 INSERT INTO answers (n, actor, key, fingerprint, status, body, born_at_age)
                 VALUES (3, 'socket', 'key-1', zeroblob(32), 201, x'7b7d', 0), (9, 'socket', 'key-2', zeroblob(32), 409, x'7b7d', 5)",
            )
            .unwrap();
        drop(connection);
        let mut store = super::super::open_writer(&path, uuid::Uuid::from_u128(9)).unwrap();
        let reader = super::super::SqliteReader::open(&path).unwrap();
        for (n, invoice, due, restored) in [(1, "a", 9, true), (2, "b", 8, false)] {
            let id = format!("pay_00000000-0000-7000-8000-00000000000{n}");
            let id = crate::domain::PaymentId::parse(&id).unwrap();
            let payment = store.payment(id).unwrap().unwrap();
            assert_eq!(
                (payment.due_at.as_millis(), payment.restored),
                (due, restored)
            );
            assert_eq!(store.invoice_of(id).unwrap().unwrap().as_str(), invoice);
            assert_eq!(reader.payment(id).unwrap().unwrap().payment, payment);
        }
        // So are invoices, by theirs, and others are new.
        let beside = store.reader().unwrap();
        for (id, there) in [("a", true), ("b", true), ("aa", false), ("c", false)] {
            let id = crate::domain::InvoiceId::parse(id).unwrap();
            for reader in [&reader, &beside] {
                let found = reader.invoice(&id).unwrap();
                assert_eq!(
                    found.map(|it| it.invoice.id().clone()),
                    there.then(|| id.clone())
                );
            }
            let events = store.load(&id);
            assert_eq!(!matches!(events, Ok(None)), there, "{id}: {events:?}");
        }
        let unknown = "pay_00000000-0000-7000-8000-000000000003";
        let unknown = crate::domain::PaymentId::parse(unknown).unwrap();
        assert!(reader.payment(unknown).unwrap().is_none());
        // So are answers, by their keys.
        let actor = "socket".into();
        for (key, status) in [("key-1", Some(201)), ("key-2", Some(409)), ("key-3", None)] {
            let kept = store.answer(AnswerName::new(&actor, key)).unwrap();
            let kept = kept.map(|it| it.kept);
            let found = kept.map(|kept| match kept {
                Kept::Whole(answer) => answer.status,
                Kept::Events { .. } => 0,
            });
            assert_eq!(found, status, "{key}");
        }
        let check: String = store
            .connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        // Both late indexes have all of it, and where one has not, that is seen.
        let late = || super::super::late::fault(&store.connection).unwrap();
        assert_eq!(late(), None);
        let broken = "UPDATE payment_ids SET payment = 6 WHERE payment = 5";
        store.connection.execute_batch(broken).unwrap();
        assert!(late().unwrap().contains("payment ids"));
        // Invariant 4 holds in it as before.
        let second = "INSERT INTO payments (id, invoice, attempt, idempotency_key, state, requested_at, due_at, resends,
              contradicted, epoch, lookups)
            VALUES (x'00000000000070008000000000000009', 1, 2, 'k9', 0, 0, 9, 0, 0, 0, 0)";
        assert!(store.connection.execute_batch(second).is_err());
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn has(path: &Path, table: &str) -> bool {
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
        let connection = Connection::open(path).unwrap();
        let found: i64 = connection
            .query_row(sql, [table], |row| row.get(0))
            .unwrap();
        found == 1
    }

    #[test]
    fn before_a_migration_the_database_is_copied_beside_itself() {
        let directory = tempfile::tempdir().unwrap();
        let (mut connection, path, newer) = old(directory.path());
        assert_eq!(
            names(directory.path()),
            ["payd.db"],
            "a new one needs no copy"
        );
        migrate_to(&mut connection, &path, &newer).unwrap();
        let copy = directory.path().join("payd.db.before-2");
        assert!(has(&path, "added") && !has(&copy, "added") && has(&copy, "invoices"));
        assert_eq!(names(directory.path()), ["payd.db", "payd.db.before-2"]);
        let check: String = Connection::open(&copy)
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        // Nothing to migrate, nothing to copy.
        migrate_to(&mut connection, &path, &newer).unwrap();
        assert_eq!(names(directory.path()).len(), 2);
    }

    #[test]
    fn a_copy_is_never_overwritten_and_not_made_twice() {
        let directory = tempfile::tempdir().unwrap();
        let (mut connection, path, newer) = old(directory.path());
        let broken = [newer[0], "this is no SQL"];
        for _ in 0..2 {
            migrate_to(&mut connection, &path, &broken).unwrap_err();
            assert_eq!(names(directory.path()), ["payd.db", "payd.db.before-2"]);
        }
        // The older payd went on for a while.
        connection
            .execute_batch("UPDATE meta SET value = '1' WHERE name = 'quiet_commits'")
            .unwrap();
        let first = std::fs::read(directory.path().join("payd.db.before-2")).unwrap();
        migrate_to(&mut connection, &path, &newer).unwrap();
        let all = ["payd.db", "payd.db.before-2", "payd.db.before-2.1"];
        assert_eq!(names(directory.path()), all);
        assert_eq!(std::fs::read(directory.path().join(all[1])).unwrap(), first);
    }

    #[test]
    fn without_its_copy_a_database_is_not_migrated() {
        let directory = tempfile::tempdir().unwrap();
        let (mut connection, path, newer) = old(directory.path());
        // Neither a file nor removable: the copy cannot be written.
        std::fs::create_dir(directory.path().join("payd.db.before-2.partial")).unwrap();
        let error = migrate_to(&mut connection, &path, &newer).unwrap_err();
        assert!(matches!(error, OpenError::NotCopied { version: 2, .. }));
        assert!(error.to_string().contains("Make room"), "{error}");
        assert!(!has(&path, "added"));
    }
}
