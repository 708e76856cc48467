//! Backups: the database as it stands, in one file that is whole, verified and sealed, or not there.
//!
//! The copy is made page by page within one read transaction of a connection of its own: it is the
//! database at one moment, and payments go on meanwhile. What it must never do: take the place of a
//! file, or give a file its name before its last byte is on disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup as Pages, StepResult};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};
use sha2::{Digest, Sha256};

use crate::api::seal;
use crate::application::{Progress, Report, Stage, UpkeepError, Watch, verify_watched};
use crate::domain::Timestamp;

use super::check::SqliteCheck;
use super::error::sort;
use super::open::{OpenError, connect, open_reader};
use super::schema;

/// Pages copied between two looks at whether to go on: some 4 MiB.
const STEP_PAGES: i32 = 1024;

/// Steps between two syncs of the copy. Without, the kernel would hold all of it back and write it at
/// once, and the commits of payments would wait behind that.
const SYNC_STEPS: u32 = 4;

/// Room left beside a copy, for the write-ahead log that goes on growing.
const ROOM_MARGIN_BYTES: u64 = 16 * 1024 * 1024;

/// What SQLite keeps beside a database, by what it appends to the name.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Bytes read at a time.
const CHUNK: usize = 256 * 1024;

/// What was put in a file.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its size.
    pub bytes: u64,
    /// What was checked in it.
    pub report: Report,
}

/// Copies the database at `source` to the file `target`, which must not be there. Until it is whole it is
/// called `target.partial`; one of an earlier try is overwritten.
///
/// # Errors
/// Where there is no sound copy; then there is no file `target`.
pub fn backup(
    source: &Path,
    target: &Path,
    now: Timestamp,
    watch: Watch<'_>,
) -> Result<Written, UpkeepError> {
    refuse_existing(target)?;
    let partial = beside(target, ".partial");
    let file = claim(&partial)?;
    let written = copy(source, &partial, &file, now, watch)
        .and_then(|written| publish(&partial, target).map(|()| written));
    if written.is_err() {
        // What is left of it would only take room; where it stays, the next backup overwrites it.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// The same into a file without a name, for whoever reads it: however payd ends, nothing is left.
pub(super) fn backup_unnamed(
    source: &Path,
    partial: &Path,
    now: Timestamp,
    watch: Watch<'_>,
) -> Result<(File, Written), UpkeepError> {
    let mut file = claim(partial)?;
    let written = copy(source, partial, &file, now, watch);
    let removed = std::fs::remove_file(partial);
    let written = written?;
    removed.map_err(|error| at(partial, &error))?;
    file.seek(SeekFrom::Start(0))
        .map_err(|error| at(partial, &error))?;
    Ok((file, written))
}

/// Refuses a name that is taken.
pub(super) fn refuse_existing(path: &Path) -> Result<(), UpkeepError> {
    match path.symlink_metadata() {
        Ok(_) => Err(UpkeepError::Failed(format!(
            "{} is there already, and is not overwritten: choose another name, or move it away",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(path, &error)),
    }
}

/// Opens a file that is only this process's to write, empty. The claim goes with the file.
pub(super) fn claim(partial: &Path) -> Result<File, UpkeepError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false) // it may be another's
        .mode(0o600)
        .open(partial)
        .map_err(|error| at(partial, &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            return Err(UpkeepError::Failed(format!(
                "another process writes {}: wait for it",
                partial.display()
            )));
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(at(partial, &error)),
    }
    file.set_len(0).map_err(|error| at(partial, &error))?;
    // Of an earlier try that was killed: SQLite would take it for this file's.
    for companion in COMPANIONS {
        match std::fs::remove_file(beside(partial, companion)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at(partial, &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(file)
}

/// Gives a finished file its name, if that is still free, and makes the name durable.
pub(super) fn publish(partial: &Path, target: &Path) -> Result<(), UpkeepError> {
    let renamed = match renameat_with(CWD, partial, CWD, target, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            refuse_existing(target)?;
            std::fs::rename(partial, target)
        }
        Err(rustix::io::Errno::EXIST) => return refuse_existing(target),
        other => other.map_err(io::Error::from),
    };
    renamed.map_err(|error| at(target, &error))?;
    let parent = target.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .map_err(|error| at(target, &error))
}

/// Refuses to start what there is no room for.
pub(super) fn see_room(directory_of: &Path, needed: u64) -> Result<(), UpkeepError> {
    let free = free_bytes(directory_of).map_err(|error| at(directory_of, &error))?;
    if free < needed.saturating_add(ROOM_MARGIN_BYTES) {
        let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
        return Err(UpkeepError::NoRoom(format!(
            "there is no room for it beside {}: it takes {} MiB, and {} MiB are free",
            directory_of.display(),
            mib(needed.saturating_add(ROOM_MARGIN_BYTES)),
            mib(free),
        )));
    }
    Ok(())
}

/// Bytes that this process may still write where a file lies.
pub(super) fn free_bytes(file: &Path) -> io::Result<u64> {
    let parent = file.parent().filter(|it| !it.as_os_str().is_empty());
    let there = statvfs(parent.unwrap_or(Path::new(".")))?;
    Ok(there.f_bavail.saturating_mul(there.f_frsize))
}

/// A file beside another, by what is appended to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A failure at a file, in words.
pub(super) fn at(path: &Path, error: &io::Error) -> UpkeepError {
    let why = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::FileTooLarge
        | io::ErrorKind::ReadOnlyFilesystem => UpkeepError::NoRoom(why),
        _ => UpkeepError::Failed(why),
    }
}

impl From<OpenError> for UpkeepError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Store(error) => error.into(),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Copies, notes the time, verifies and seals; the file is whole and on disk after.
fn copy(
    source: &Path,
    partial: &Path,
    file: &File,
    now: Timestamp,
    watch: Watch<'_>,
) -> Result<Written, UpkeepError> {
    copy_pages(source, partial, file, watch)?;
    {
        let copy = connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // One file, not three: the copy is in WAL mode as its original is.
        as_one_file(&copy)?;
        copy.execute(
            "INSERT INTO meta (name, value) VALUES ('backup_at', ?1) ON CONFLICT (name) DO UPDATE SET value = ?1",
            [now.to_string()],
        )
        .map_err(sort)?;
    }
    let report = sound(partial, watch)?;
    let bytes = put_seal(partial, file, watch)?;
    file.sync_all().map_err(|error| at(partial, &error))?;
    Ok(Written { bytes, report })
}

fn copy_pages(
    source: &Path,
    partial: &Path,
    file: &File,
    watch: Watch<'_>,
) -> Result<(), UpkeepError> {
    let from = open_reader(source)?;
    // What is newer or older could not be verified.
    schema::current(&from)?;
    // Held until the last page is copied: without it, every commit would start the copy anew.
    from.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")
        .map_err(sort)?;
    let pragma = |name| from.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count").map_err(sort)?;
    let size = pages.saturating_mul(pragma("page_size").map_err(sort)?);
    see_room(partial, u64::try_from(size).unwrap_or(0))?;
    let mut to = connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // It has no name yet, and is synced as a whole.
    to.pragma_update(None, "journal_mode", "OFF")
        .map_err(sort)?;
    to.pragma_update(None, "synchronous", "OFF").map_err(sort)?;
    let copying = Pages::new(&from, &mut to).map_err(sort)?;
    for step in 1_u32.. {
        let result = copying.step(STEP_PAGES).map_err(sort)?;
        let progress = copying.progress();
        let count = |pages: i32| u64::try_from(pages).unwrap_or(0);
        go_on(
            watch,
            Stage::Copy,
            count(progress.pagecount - progress.remaining),
            count(progress.pagecount),
        )?;
        if step % SYNC_STEPS == 0 {
            file.sync_data().map_err(|error| at(partial, &error))?;
        }
        match result {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => {
                return Err(UpkeepError::Failed(
                    "another process holds the database".to_owned(),
                ));
            }
        }
    }
    Ok(())
}

/// Takes a database out of WAL mode, so that it is one file.
pub(super) fn as_one_file(connection: &Connection) -> Result<(), UpkeepError> {
    let mode: String = connection
        .query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))
        .map_err(sort)?;
    if mode == "delete" {
        Ok(())
    } else {
        Err(UpkeepError::Failed(format!(
            "SQLite leaves it in journal_mode={mode}"
        )))
    }
}

/// Verifies a database, and refuses one that is not what payd wrote.
pub(super) fn sound(path: &Path, watch: Watch<'_>) -> Result<Report, UpkeepError> {
    let report = verify_watched(&SqliteCheck::open(path)?, watch)?;
    if !report.complete {
        return Err(UpkeepError::Stopped);
    }
    let Some(first) = report.findings.first() else {
        return Ok(report);
    };
    Err(UpkeepError::NotSound(format!(
        "the database is not what payd wrote: {} findings, the first: {first}",
        report.found
    )))
}

/// Tells how far it is.
pub(super) fn go_on(
    watch: Watch<'_>,
    stage: Stage,
    done: u64,
    total: u64,
) -> Result<(), UpkeepError> {
    match watch(Progress { stage, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(UpkeepError::Stopped),
    }
}

/// Appends the digest of all that is in the file. Says how long it is then.
fn put_seal(partial: &Path, mut file: &File, watch: Watch<'_>) -> Result<u64, UpkeepError> {
    let failed = |error: io::Error| at(partial, &error);
    let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let digest = digest(file, length, partial, watch, |_| Ok(()))?;
    let line = seal(&digest);
    file.write_all(line.as_bytes()).map_err(failed)?;
    Ok(length + line.len() as u64)
}

/// The SHA-256 of the next `length` bytes, each of which goes through `each`.
pub(super) fn digest(
    mut file: &File,
    length: u64,
    path: &Path,
    watch: Watch<'_>,
    mut each: impl FnMut(&[u8]) -> Result<(), UpkeepError>,
) -> Result<[u8; 32], UpkeepError> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < length {
        let wanted = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
        let read = file
            .read(&mut buffer[..wanted])
            .map_err(|error| at(path, &error))?;
        if read == 0 {
            return Err(UpkeepError::Failed(format!(
                "{} became shorter while it was read",
                path.display()
            )));
        }
        digest.update(&buffer[..read]);
        each(&buffer[..read])?;
        done += read as u64;
        go_on(watch, Stage::Digest, done, length)?;
    }
    Ok(digest.finalize().into())
}

impl From<rusqlite::Error> for UpkeepError {
    fn from(error: rusqlite::Error) -> Self {
        sort(error).into()
    }
}
