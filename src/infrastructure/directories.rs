//! Where payd's files lie: given, else systemd's directories, else XDG's (`DESIGN.md`, section 5).
//!
//! Which place it is follows from the arguments alone; only [`Surroundings::of_process`] reads the process.
//! payctl looks for the socket in the same places in the same order. Sources: systemd.exec(5),
//! "RuntimeDirectory="; XDG Base Directory Specification 0.8.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The folder in shared directories that is payd's.
const FOLDER: &str = "payd";
/// The socket in its directory.
const SOCKET: &str = "payd.sock";
/// The runtime directory of root where nobody names one.
const SYSTEM_RUNTIME_DIR: &str = "/run/payd";
/// Directories that a group may look into: the socket's, the logs'.
pub const SHARED_MODE: u32 = 0o750;
/// The data directory, with the money and the tokens, unless the socket is in it.
pub const PRIVATE_MODE: u32 = 0o700;

/// What the places follow from.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The process's environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// Whether this is root.
    pub root: bool,
}

impl Surroundings {
    /// This process's.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            environment: std::env::vars_os().collect(),
            home: directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned()),
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// An absolute path in a variable; of a colon-separated list, as systemd gives them, the first.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.environment.get(OsStr::new(name))?;
        let first = value.as_bytes().split(|b| *b == b':').next()?;
        Some(PathBuf::from(OsStr::from_bytes(first))).filter(|path| path.is_absolute())
    }
}

/// What settings say about places.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// `store.data_dir`
    pub data_dir: Option<&'a Path>,
    /// `server.socket`
    pub socket: Option<&'a Path>,
    /// `log.dir`
    pub log_dir: Option<&'a Path>,
}

/// A path and why it is that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Absolute.
    pub path: PathBuf,
    /// In a word or two, such as `STATE_DIRECTORY`.
    pub why: &'static str,
}

/// Where everything lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Database, lock and admin token.
    pub data_dir: Place,
    /// The Unix socket.
    pub socket: Place,
    /// The rolling log file, if there is to be one.
    pub log_dir: Option<Place>,
    /// Secrets that systemd hands over.
    pub credentials_dir: Option<PathBuf>,
}

/// Why there is no place, or why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoriesError {
    /// Nothing says where the data goes.
    #[error("there is no home directory to keep data in; give one with --data-dir")]
    NoHome,
    /// The current directory is gone, or a path is empty.
    #[error("the path {} cannot be made absolute: {source}", path.display())]
    NotAbsolute {
        /// The path as given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory cannot be made.
    #[error(
        "the directory {} cannot be made: {source}; see that there is no file in its place and that payd's user may write \
         above it, or choose another", path.display()
    )]
    NotMade {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Finds the places; makes none of them.
///
/// The socket does not follow a data directory that is given: clients look for it in the usual places.
///
/// # Errors
///
/// [`DirectoriesError::NoHome`] and [`DirectoriesError::NotAbsolute`].
pub fn find(given: Given<'_>, around: &Surroundings) -> Result<Places, DirectoriesError> {
    let data_dir = match given.data_dir {
        Some(path) => place(absolute(path)?, "given"),
        None => usual_data_dir(around).ok_or(DirectoriesError::NoHome)?,
    };
    let socket = match given.socket {
        Some(path) => place(absolute(path)?, "given"),
        None => usual_socket(around, &data_dir.path),
    };
    let log_dir = match given.log_dir {
        Some(path) => Some(place(absolute(path)?, "given")),
        None => around
            .path("LOGS_DIRECTORY")
            .map(|path| place(path, "LOGS_DIRECTORY")),
    };
    let credentials_dir = around.path("CREDENTIALS_DIRECTORY");
    Ok(Places {
        data_dir,
        socket,
        log_dir,
        credentials_dir,
    })
}

fn usual_data_dir(around: &Surroundings) -> Option<Place> {
    if let Some(path) = around.path("STATE_DIRECTORY") {
        return Some(place(path, "STATE_DIRECTORY"));
    }
    if let Some(path) = around.path("XDG_DATA_HOME") {
        return Some(place(path.join(FOLDER), "XDG_DATA_HOME"));
    }
    let home = around.home.as_ref().filter(|home| home.is_absolute())?;
    Some(place(
        home.join(".local/share").join(FOLDER),
        "home directory",
    ))
}

fn usual_socket(around: &Surroundings, data_dir: &Path) -> Place {
    if let Some(path) = around.path("RUNTIME_DIRECTORY") {
        return place(path.join(SOCKET), "RUNTIME_DIRECTORY");
    }
    if let Some(path) = around.path("XDG_RUNTIME_DIR") {
        return place(path.join(FOLDER).join(SOCKET), "XDG_RUNTIME_DIR");
    }
    if around.root {
        return place(
            Path::new(SYSTEM_RUNTIME_DIR).join(SOCKET),
            "system directory",
        );
    }
    place(
        data_dir.join(SOCKET),
        "data directory, for want of a runtime directory",
    )
}

fn place(path: PathBuf, why: &'static str) -> Place {
    Place { path, why }
}

fn absolute(path: &Path) -> Result<PathBuf, DirectoriesError> {
    std::path::absolute(path).map_err(|source| DirectoriesError::NotAbsolute {
        path: path.to_owned(),
        source,
    })
}

impl Places {
    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.data_dir.path.join("payd.db")
    }

    /// The lock that keeps a second daemon off the database.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.data_dir.path.join("payd.lock")
    }

    /// Where payd's time stood when it last started.
    #[must_use]
    pub fn clock(&self) -> PathBuf {
        self.data_dir.path.join("payd.clock")
    }

    /// The admin token that the first start writes.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.data_dir.path.join("token")
    }

    /// A file with a secret: one named by a relative path is systemd's to hand over, where it does.
    ///
    /// # Errors
    ///
    /// [`DirectoriesError::NotAbsolute`].
    pub fn credential(&self, path: &Path) -> Result<PathBuf, DirectoriesError> {
        match &self.credentials_dir {
            Some(dir) if path.is_relative() => Ok(dir.join(path)),
            _ => absolute(path),
        }
    }

    /// Makes the data and log directories where they are missing. The socket's is made as it is bound.
    ///
    /// # Errors
    ///
    /// [`DirectoriesError::NotMade`].
    pub fn make(&self) -> Result<(), DirectoriesError> {
        let socket_inside = self.socket.path.parent() == Some(&self.data_dir.path);
        let data_mode = if socket_inside {
            SHARED_MODE
        } else {
            PRIVATE_MODE
        };
        make(&self.data_dir.path, data_mode)?;
        self.log_dir
            .as_ref()
            .map_or(Ok(()), |dir| make(&dir.path, SHARED_MODE))
    }
}

/// Makes a directory and those above it, durably: after a crash it is still there, and what is in it.
/// It has this mode whatever the umask; one that is there already stays as it is.
///
/// # Errors
///
/// [`DirectoriesError::NotMade`].
pub fn make(path: &Path, mode: u32) -> Result<(), DirectoriesError> {
    let not_made = |source| DirectoriesError::NotMade {
        path: path.to_owned(),
        source,
    };
    let named = |dir: &&Path| !dir.as_os_str().is_empty(); // the last ancestor of a relative path is not
    let missing: Vec<&Path> = path
        .ancestors()
        .filter(named)
        .take_while(|dir| !dir.exists())
        .collect();
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(not_made)?;
    if missing.is_empty() {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(not_made)?;
    for dir in missing {
        let parent = dir.parent().filter(named).unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(not_made)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
