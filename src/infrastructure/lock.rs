//! One daemon per database: a lock of the operating system on a file beside it.
//!
//! The kernel lets go of it when the process ends, however it ends; so it is never stale, and the file is
//! never removed: whoever removed it would let a second daemon in. What is written in the file is for
//! people; only the lock counts.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Held for as long as this lives.
#[derive(Debug)]
#[must_use = "the lock is let go when this is dropped"]
pub struct DatabaseLock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error(
        "another payd runs on this database: {holder}; stop that one first, or give this one a database of \
         its own with --data-dir (the lock is {})", path.display()
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Process and start time, as far as the file tells.
        holder: String,
    },
    /// The file cannot be opened, locked or written.
    #[error("the lock file {} cannot be used: {source}", path.display())]
    Unusable {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Takes the lock, without waiting, and notes in the file who holds it since when.
///
/// # Errors
///
/// [`LockError::Held`] where another process, or another part of this one, holds it;
/// [`LockError::Unusable`] where the file system will not have it.
pub fn acquire(path: &Path, pid: u32, since: Timestamp) -> Result<DatabaseLock, LockError> {
    let unusable = |source| LockError::Unusable {
        path: path.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false) // it may be another's, who is to be named
        .mode(0o600)
        .open(path)
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = read_holder(&mut file);
            return Err(LockError::Held {
                path: path.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    file.set_len(0).map_err(unusable)?;
    write!(file, "pid {pid}\nsince {since:.0}\n").map_err(unusable)?;
    Ok(DatabaseLock { _file: file })
}

/// "process 12, since 2026-01-02T03:04:05Z", or that it is not known: between taking the lock and writing
/// there is a moment.
fn read_holder(file: &mut File) -> String {
    /// The two lines are far shorter.
    const HOLDER_BYTES_MAX: u64 = 256;
    let mut text = String::new();
    let read = file.take(HOLDER_BYTES_MAX).read_to_string(&mut text);
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let pid = field("pid ").and_then(|pid| pid.parse::<u32>().ok());
    let since = field("since ").and_then(|since| since.parse::<Timestamp>().ok());
    match (read, pid, since) {
        (Ok(_), Some(pid), Some(since)) => format!("process {pid}, since {since}"),
        _ => "it has only just started".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_second_one_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payd.lock");
        let first = acquire(&path, 1_234_567, at("2026-01-02T03:04:05.678Z")).unwrap();
        let error = acquire(&path, 2, at("2026-01-03T00:00:00Z")).unwrap_err();
        assert!(matches!(error, LockError::Held { .. }), "{error:?}");
        let message = error.to_string();
        for part in [
            "process 1234567, since 2026-01-02T03:04:05Z",
            "--data-dir",
            "payd.lock",
        ] {
            assert!(message.contains(part), "{part} is not in {message}");
        }

        drop(first);
        let second = acquire(&path, 2, at("2026-01-03T00:00:00Z")).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "pid 2\nsince 2026-01-03T00:00:00Z\n"
        );
        drop(second);
    }

    #[test]
    fn what_a_file_says_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payd.lock");
        for text in [
            &b""[..],
            b"pid 1",
            b"pid x\nsince now\n",
            b"\xff\xfe",
            &[b'x'; 1000],
        ] {
            std::fs::write(&path, text).unwrap();
            let held = File::open(&path).unwrap();
            held.lock().unwrap();
            let message = acquire(&path, 2, at("2026-01-03T00:00:00Z"))
                .unwrap_err()
                .to_string();
            assert!(message.contains("it has only just started"), "{message}");
            assert_eq!(
                std::fs::read(&path).unwrap(),
                text,
                "the holder's file was changed"
            );
        }
    }

    #[test]
    fn an_old_file_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payd.lock");
        std::fs::write(
            &path,
            "pid 1\nsince 2020-01-01T00:00:00Z\nand something longer than ours\n",
        )
        .unwrap();
        let _lock = acquire(&path, 2, at("2026-01-03T00:00:00Z")).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "pid 2\nsince 2026-01-03T00:00:00Z\n"
        );
    }

    #[test]
    fn without_a_directory_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = acquire(
            &dir.path().join("none/payd.lock"),
            1,
            at("2026-01-03T00:00:00Z"),
        )
        .unwrap_err();
        assert!(matches!(error, LockError::Unusable { .. }), "{error:?}");
    }
}
