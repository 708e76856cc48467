//! The copy of the database that is made before a migration, beside it.
//!
//! It has its name only once it is whole and synced: a file of that name can be put back as it is. It
//! never takes the place of an earlier one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::open::OpenError;
use super::room::beside;
use super::writer::position;

/// Copies kept of one version. More say that something is wrong with how payd is installed.
const COPIES_MAX: u32 = 100;

/// Copies the database that `connection` has open at `path`, before it is brought to `version`. Says where
/// the copy is: `payd.db.before-2`, and where another state of it has that name, `payd.db.before-2.1`.
///
/// # Errors
/// [`OpenError::NotCopied`]; then there is nothing of that name.
pub(super) fn before_migration(
    connection: &Connection,
    path: &Path,
    version: usize,
) -> Result<PathBuf, OpenError> {
    let name = |n: u32| match n {
        0 => beside(path, &format!(".before-{version}")),
        n => beside(path, &format!(".before-{version}.{n}")),
    };
    let refused = |copy: &Path, why: String| OpenError::NotCopied {
        version,
        copy: copy.to_owned(),
        why,
    };
    let mut copy = name(0);
    for n in 1.. {
        if !copy.exists() {
            break;
        }
        // A start that ended in the middle of its migration has copied it already.
        if same_state(connection, &copy) {
            return Ok(copy);
        }
        if n > COPIES_MAX {
            return Err(refused(&copy, "there are too many copies".to_owned()));
        }
        copy = name(n);
    }
    let partial = beside(&copy, ".partial");
    let copied = write(connection, &partial)
        .and_then(|()| std::fs::rename(&partial, &copy).map_err(|error| error.to_string()))
        .and_then(|()| sync_directory(path).map_err(|error| error.to_string()));
    copied.map_err(|why| {
        // What is left of it would only take room; where it stays, the next copy overwrites it.
        let _ = std::fs::remove_file(&partial);
        refused(&copy, why)
    })?;
    Ok(copy)
}

fn write(connection: &Connection, partial: &Path) -> Result<(), String> {
    match std::fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
        Ok(()) | Err(_) => {}
    }
    let name = partial
        .to_str()
        .ok_or("the path is not UTF-8, which SQLite needs")?;
    connection
        .execute("VACUUM INTO ?1", [name])
        .map_err(|error| error.to_string())?;
    let file = File::open(partial).map_err(|error| error.to_string())?;
    if let Some(original) = connection.path().filter(|it| !it.is_empty()) {
        std::fs::metadata(original)
            .and_then(|it| file.set_permissions(it.permissions()))
            .map_err(|error| error.to_string())?;
    }
    file.sync_all().map_err(|error| error.to_string())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new("."))).and_then(|it| it.sync_all())
}

/// Whether a copy stands where the database stands. A copy that cannot be read does not.
fn same_state(connection: &Connection, copy: &Path) -> bool {
    let there = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(OpenError::from)
        .and_then(|copy| Ok(position(&copy)?));
    match (there, position(connection)) {
        (Ok(there), Ok(here)) => there == here,
        _ => false,
    }
}
