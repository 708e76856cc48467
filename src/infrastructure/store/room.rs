//! Whether writing is refused for want of room, rather than broken.
//!
//! SQLite tells a full disk (`SQLITE_FULL`), and calls every other failed write an I/O error: an
//! exhausted quota, a file-size limit, a file system that has become read-only. Those pass, and must not
//! end payd. So payd asks by itself, once SQLite has rolled back: it writes where the failed write would
//! have gone, in a file of its own, and looks at the error.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::ffi;
use rustix::io::Errno;

use super::wal_writes;

/// As much as is written at a time, and some more: some file systems take a write as a whole, or not.
const PROBE: usize = wal_writes::ROOM + 8192;

/// The failures of which the reason may be that there is no room: a write, and making space for the
/// index of the log. Never a sync: after a failed one nobody knows what is on disk.
pub(super) const fn may_be_for_want_of_room(extended_code: i32) -> bool {
    matches!(
        extended_code,
        ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMOPEN
    )
}

/// Why nothing can be written beside this database, where that is for want of room. `None` where it can,
/// or where it fails for another reason.
pub(super) fn refusal(database: &Path) -> Option<io::Error> {
    let path = beside(database, "-probe");
    // A limit on the size of files shows only at that size; the hole before it takes no room.
    let place = ["", "-wal"]
        .iter()
        .filter_map(|suffix| std::fs::metadata(beside(database, suffix)).ok())
        .map(|it| it.len())
        .max()
        .unwrap_or(0);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    let result = file.and_then(|file| {
        file.write_all_at(&vec![0; PROBE], place)?;
        // Some file systems find out only now.
        file.sync_data()
    });
    // Where it cannot be removed it is overwritten the next time.
    let _ = std::fs::remove_file(&path);
    result.err().filter(is_for_want_of_room)
}

/// Whether this is the answer of a file system that takes no more, or nothing.
pub(super) fn is_for_want_of_room(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::ROFS)
    )
}

/// A file beside the database, by what SQLite and payd append to its name.
pub(super) fn beside(database: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_room_nothing_is_refused_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("payd.db");
        assert!(refusal(&database).is_none());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        // Nor is what is no question of room.
        assert!(refusal(&directory.path().join("nowhere/payd.db")).is_none());
    }

    #[test]
    fn a_device_that_is_full_is_told_from_one_that_is_broken() {
        let full = io::Error::from(Errno::NOSPC);
        let broken = io::Error::from(Errno::IO);
        assert!(is_for_want_of_room(&full) && !is_for_want_of_room(&broken));
        assert!(may_be_for_want_of_room(ffi::SQLITE_IOERR_WRITE));
        assert!(!may_be_for_want_of_room(ffi::SQLITE_IOERR_FSYNC));
    }
}
