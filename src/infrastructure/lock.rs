//! One daemon per database: a lock of the operating system on a file beside it.
//!
//! The kernel lets go of it when the process ends, however it ends; so it is never stale, and the file stays.
//! Only who made it and then did nothing takes it away again ([`DatabaseLock::undo`]); so whoever gets the lock
//! looks whether the file still has its name, or a second daemon would be let in by another of that name. What is
//! written in the file is for people; only the lock counts.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Held for as long as this lives.
#[derive(Debug)]
#[must_use = "the lock is let go when this is dropped"]
pub struct DatabaseLock {
    _file: File,
    path: PathBuf,
    /// Whether there was none before.
    made: bool,
}

impl DatabaseLock {
    /// Lets go of it, and removes the file if there was none before. For who has done nothing to the database.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub fn undo(self) -> io::Result<()> {
        // Held until the name is gone: who has opened the file by then finds it held, or without its name.
        match self.made {
            true => std::fs::remove_file(&self.path),
            false => Ok(()),
        }
    }
}

/// How often a file that has lost its name is left for another.
const TRIES: u32 = 10;

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
    #[error(
        "the lock file {} cannot be used: {source}; see that its directory belongs to the user that payd runs as, and has \
         room", path.display()
    )]
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
    for _ in 0..TRIES {
        if let Some(lock) = try_acquire(path, pid, since)? {
            return Ok(lock);
        }
    }
    Err(LockError::Unusable {
        path: path.to_owned(),
        source: io::Error::other("it is removed again and again"),
    })
}

/// `None` where the file lost its name before it was locked.
fn try_acquire(path: &Path, pid: u32, since: Timestamp) -> Result<Option<DatabaseLock>, LockError> {
    let unusable = |source| LockError::Unusable {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    // It may be another's, who is to be named: what is in it stays.
    let (mut file, made) = match options.clone().create_new(true).open(path) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match options.open(path) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(error)),
        },
        Err(error) => return Err(unusable(error)),
    };
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
    let held = file.metadata().map_err(unusable)?;
    match std::fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error)),
    }
    let noted = file
        .set_len(0)
        .and_then(|()| write!(file, "pid {pid}\nsince {since:.0}\n"));
    let lock = DatabaseLock {
        _file: file,
        path: path.to_owned(),
        made,
    };
    match noted {
        Ok(()) => Ok(Some(lock)),
        Err(source) => {
            // On a full disk there is room for a name, and for nothing in it. Why it is full is what counts.
            let _ = lock.undo();
            Err(unusable(source))
        }
    }
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
    fn who_did_nothing_leaves_no_file_and_lets_nobody_in_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payd.lock");
        let now = at("2026-01-03T00:00:00Z");
        acquire(&path, 1, now).unwrap().undo().unwrap();
        assert!(!path.exists());
        // One that was there stays.
        std::fs::write(&path, "").unwrap();
        acquire(&path, 1, now).unwrap().undo().unwrap();
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();

        // Many that come and go at once: never two inside.
        let inside = std::sync::atomic::AtomicU32::new(0);
        let came_in = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    use std::sync::atomic::Ordering::SeqCst;
                    for _ in 0..500 {
                        let Ok(lock) = acquire(&path, 1, now) else {
                            continue;
                        };
                        assert_eq!(inside.fetch_add(1, SeqCst), 0, "two hold it");
                        came_in.fetch_add(1, SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, SeqCst);
                        lock.undo().unwrap();
                    }
                });
            }
        });
        assert!(came_in.into_inner() > 0);
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
