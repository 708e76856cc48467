//! Restores: a backup becomes the database of a data directory that has none.
//!
//! A backup is older than the world. What it says of open payments may be out of date, so the store is
//! marked: at the first start each of them is looked up at the gateway before anything is sent. The store's
//! id stays, since every gateway key is made of it: what is paid again meets the charge that stands. The
//! source of events is another from here on, since sequence numbers will be used again for other events.
//!
//! What it must never do: take the place of a database, write to the backup, or give the database its name
//! before it is whole, verified and on disk.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use uuid::Uuid;

use crate::api::{SEAL_LEN, is_seal_of};
use crate::application::{Report, Stage, UpkeepError, Watch};
use crate::domain::Timestamp;

use super::backup::{
    COMPANIONS, as_one_file, at, beside, claim, digest, go_on, publish, refuse_existing, see_room,
    sound,
};
use super::error::sort;
use super::open::{OpenError, connect};
use super::schema;

/// How a SQLite database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What was restored.
#[derive(Debug, Clone)]
pub struct RestoredStore {
    /// What was checked in it.
    pub report: Report,
    /// Its open payments, to be looked up.
    pub open_payments: u64,
    /// When the backup was made, where it says so.
    pub backup_at: Option<Timestamp>,
    /// Whether it had a seal: then every byte of it was checked.
    pub sealed: bool,
    /// Whether sending is paused in it.
    pub paused: bool,
    /// The names of the tokens that were good in the backup, and are revoked now unless they were to be kept.
    pub tokens: Vec<String>,
}

/// How to restore.
#[derive(Debug, Clone, Copy)]
pub struct Restoring {
    /// By the wall clock.
    pub now: Timestamp,
    /// The new source of events.
    pub source: Uuid,
    /// Whether sending is to be paused until an operator resumes it.
    pub pause: bool,
    /// Whether tokens stay as good as they were. Without, all are revoked: the backup does not know which were
    /// revoked since, and those would be good again.
    pub keep_tokens: bool,
}

/// Who revokes what a backup brings back.
const REVOKED_BY: &str = "payd restore";

/// Makes the backup in `file` the database `target`, of which nothing may be there. The caller holds the
/// lock that keeps daemons out.
///
/// # Errors
/// Where it is no sound backup, or there is a database; then nothing has changed.
pub fn restore(
    file: &Path,
    target: &Path,
    how: Restoring,
    watch: Watch<'_>,
) -> Result<RestoredStore, UpkeepError> {
    for suffix in ["", COMPANIONS[0], COMPANIONS[1], COMPANIONS[2]] {
        refuse_existing(&beside(target, suffix)).map_err(|_| {
            UpkeepError::Failed(format!(
                "there is a database already ({}{suffix}), and it is not overwritten: move {}* to another directory first, and keep it",
                target.display(),
                target.display(),
            ))
        })?;
    }
    let partial = beside(target, ".restoring");
    let copy = claim(&partial)?;
    let restored = take_over(file, &partial, &copy, how, watch)
        .and_then(|restored| publish(&partial, target).map(|()| restored));
    if restored.is_err() {
        for suffix in ["", COMPANIONS[0], COMPANIONS[1], COMPANIONS[2]] {
            // What is left would only take room; the next restore overwrites it.
            let _ = std::fs::remove_file(beside(&partial, suffix));
        }
    }
    restored
}

fn take_over(
    file: &Path,
    partial: &Path,
    copy: &File,
    how: Restoring,
    watch: Watch<'_>,
) -> Result<RestoredStore, UpkeepError> {
    let sealed = copy_checked(file, partial, copy, watch)?;
    {
        let mut connection = connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        as_one_file(&connection).map_err(|error| damaged(file, error))?;
        // Of an older payd it is brought to this one's schema: the backup itself stays as it is.
        schema::migrate_copy(&mut connection)
            .and_then(|()| schema::guarded(&connection))
            .map_err(|error| not_taken(file, error))?;
    }
    let report = sound(partial, watch).map_err(|error| damaged(file, error))?;
    let connection = connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let marked = mark(&connection, how)?;
    drop(connection);
    copy.sync_all().map_err(|error| at(partial, &error))?;
    Ok(RestoredStore {
        report,
        sealed,
        ..marked
    })
}

/// Copies the pages and holds them against the seal. Says whether there was one.
fn copy_checked(
    file: &Path,
    partial: &Path,
    mut copy: &File,
    watch: Watch<'_>,
) -> Result<bool, UpkeepError> {
    let failed = |error: io::Error| at(file, &error);
    let log = beside(file, "-wal");
    if std::fs::metadata(&log).is_ok_and(|it| it.len() > 0) {
        return Err(UpkeepError::Failed(format!(
            "{} lies beside it: it is a database in use, or the copy of one, and no backup. `payd backup` makes one",
            log.display()
        )));
    }
    let mut backup = File::open(file).map_err(failed)?;
    let found = backup.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(no_backup(file, "it is not a file"));
    }
    let length = found.len();
    let mut header = [0; 100];
    let whole = backup.read_exact(&mut header);
    if length == 0 {
        return Err(no_backup(file, "it is empty"));
    }
    if whole.is_err() || !header.starts_with(MAGIC) {
        return Err(no_backup(
            file,
            "it is not a SQLite database; one that is compressed or encrypted has to be unpacked first",
        ));
    }
    backup.seek(SeekFrom::Start(0)).map_err(failed)?;
    // The file format's "database page size", where 1 stands for 65536.
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        size => u64::from(size).max(512),
    };
    let sealed = match length % page {
        0 => false,
        rest if rest == SEAL_LEN as u64 => true,
        _ => {
            return Err(UpkeepError::NotSound(format!(
                "{} is damaged: its end is cut off, or it has been added to. Take another backup",
                file.display()
            )));
        }
    };
    let pages = if sealed {
        length - SEAL_LEN as u64
    } else {
        length
    };
    see_room(partial, pages)?;
    let digest = digest(&backup, pages, file, watch, |bytes| {
        copy.write_all(bytes).map_err(|error| at(partial, &error))
    })?;
    if sealed {
        let mut line = [0; SEAL_LEN];
        backup.read_exact(&mut line).map_err(failed)?;
        if !is_seal_of(&line, &digest) {
            return Err(UpkeepError::NotSound(format!(
                "{} is damaged: it is not what was written when the backup was made. Take another backup",
                file.display()
            )));
        }
    }
    go_on(watch, Stage::Digest, pages, pages)?;
    Ok(sealed)
}

fn no_backup(file: &Path, why: &str) -> UpkeepError {
    UpkeepError::NotSound(format!(
        "{} is no backup of payd: {why}. `payctl backup FILE` and `payd backup FILE` make one",
        file.display()
    ))
}

/// Why what may be a sound database is not taken. What is said of a database in the data directory does not help
/// with a backup.
fn not_taken(file: &Path, error: OpenError) -> UpkeepError {
    match error {
        OpenError::NotOurs => no_backup(file, "it is another program's SQLite database"),
        OpenError::Newer { database, payd } => UpkeepError::Failed(format!(
            "{} is from a newer payd (schema {database}, and this one knows {payd}): run the newer payd that made it, \
             and have that restore it",
            file.display()
        )),
        OpenError::Edited { .. } | OpenError::Unguarded(_) => UpkeepError::NotSound(format!(
            "{} is not what payd wrote: {error}. Take another backup",
            file.display()
        )),
        OpenError::Damaged(why) => damaged(file, UpkeepError::NotSound(why)),
        error => error.into(),
    }
}

fn damaged(file: &Path, error: UpkeepError) -> UpkeepError {
    match error {
        UpkeepError::NotSound(why) | UpkeepError::Failed(why) => UpkeepError::NotSound(format!(
            "{} is no sound backup: {why}. Take another one",
            file.display()
        )),
        other => other,
    }
}

/// Writes into the copy that it was restored.
fn mark(connection: &Connection, how: Restoring) -> Result<RestoredStore, UpkeepError> {
    let transaction = connection.unchecked_transaction()?;
    let number = |sql: &str| -> Result<u64, UpkeepError> {
        let n: i64 = transaction
            .query_row(sql, [], |row| row.get(0))
            .map_err(sort)?;
        Ok(u64::try_from(n).unwrap_or(0))
    };
    let head = number("SELECT coalesce(max(sequence), 0) FROM events")?;
    let open_payments = number("SELECT count(*) FROM payments WHERE state < 5")?;
    let note = |name: &str, value: &str| {
        transaction.execute(
            "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            [name, value],
        )
    };
    note("restored_at", &how.now.to_string())?;
    note("restored_head", &head.to_string())?;
    note("restore_pending", "1")?;
    note("source_id", &how.source.hyphenated().to_string())?;
    if how.pause {
        note("paused", "1")?;
    }
    let good = "FROM tokens WHERE revoked_at IS NULL";
    let tokens = transaction
        .prepare(&format!("SELECT name {good} ORDER BY n"))?
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    if !how.keep_tokens {
        transaction.execute(
            "UPDATE tokens SET revoked_at = ?1, revoked_by = ?2 WHERE revoked_at IS NULL",
            (how.now.as_millis(), REVOKED_BY),
        )?;
    }
    let read = |name: &str| -> Result<Option<String>, rusqlite::Error> {
        let sql = "SELECT value FROM meta WHERE name = ?1";
        transaction
            .query_row(sql, [name], |row| row.get(0))
            .optional()
    };
    let backup_at = read("backup_at")?.and_then(|it| Timestamp::parse(&it).ok());
    let paused = read("paused")?.as_deref() == Some("1");
    transaction.commit()?;
    Ok(RestoredStore {
        report: Report::default(),
        open_payments,
        backup_at,
        sealed: false,
        paused,
        tokens,
    })
}
