//! The file with the admin's token, in the data directory: made at the first start, 0600, whole or not
//! at all. It never writes over one that is there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::application::Secret;

/// Who may read it: its owner.
const MODE: u32 = 0o600;

/// A token is some 60 characters; more than this is another file.
const BYTES_MAX: u64 = 4096;

/// The admin's token, and what is to be said about its file.
#[derive(Debug)]
pub struct Found {
    /// The token.
    pub secret: Secret,
    /// Whether the file was made just now.
    pub fresh: bool,
    /// Whether others than its owner may read it.
    pub open_to_others: bool,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read or made.
    #[error("the admin's token cannot be kept in {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else is in it.
    #[error("{} does not hold a token of payd's: remove it and start payd again, which makes another", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the token, or makes one with `fresh` and writes it down durably.
///
/// # Errors
/// [`TokenFileError`].
pub fn find_or_make(path: &Path, fresh: impl FnOnce() -> Secret) -> Result<Found, TokenFileError> {
    let failed = |source| TokenFileError::Io {
        path: path.to_owned(),
        source,
    };
    match File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            let mode = file.metadata().map_err(failed)?.permissions().mode();
            file.take(BYTES_MAX)
                .read_to_string(&mut text)
                .map_err(failed)?;
            let secret = Secret::parse(text.trim()).ok_or_else(|| TokenFileError::NotOne {
                path: path.to_owned(),
            })?;
            Ok(Found {
                secret,
                fresh: false,
                open_to_others: mode & 0o077 != 0,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = fresh();
            write(path, &secret).map_err(failed)?;
            Ok(Found {
                secret,
                fresh: true,
                open_to_others: false,
            })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Beside it, synced, and then under its name: a crash leaves a whole one or none.
fn write(path: &Path, secret: &Secret) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&beside)?;
    writeln!(file, "{}", secret.reveal())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infrastructure::random::SystemRandom;

    #[test]
    fn it_is_made_once_for_its_owner_and_read_ever_after() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let make = || Secret::new(&SystemRandom);
        let first = find_or_make(&path, make).unwrap();
        assert!(first.fresh);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = find_or_make(&path, || unreachable!()).unwrap();
        assert!(!second.fresh && !second.open_to_others);
        assert_eq!(first.secret.digest(), second.secret.digest());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(find_or_make(&path, make).unwrap().open_to_others);
        for wrong in ["", "hunter2", &first.secret.reveal()[1..]] {
            fs::write(&path, wrong).unwrap();
            let error = find_or_make(&path, make).unwrap_err();
            assert!(matches!(error, TokenFileError::NotOne { .. }), "{error}");
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                wrong,
                "it is left alone"
            );
        }
        let nowhere = directory.path().join("none/token");
        assert!(matches!(
            find_or_make(&nowhere, make),
            Err(TokenFileError::Io { .. })
        ));
    }
}
