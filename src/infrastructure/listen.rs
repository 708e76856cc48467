//! The sockets that payd listens on, bound and ready, and what they are called.
//!
//! It never takes a place away from anyone: a socket that someone answers on, or a file that is no socket,
//! is an error; only a socket that nobody answers on is replaced. It accepts no connection; the HTTP layer
//! does.

use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::directories::{self, DirectoriesError, SHARED_MODE};

/// Who may open the file may use the API: the owner and the group.
const SOCKET_MODE: u32 = 0o660;
/// Connections that wait to be accepted. The kernel takes its own limit where that is lower.
const BACKLOG: i32 = 1024;
/// The longest path of a Unix socket on Linux. Source: unix(7), `sun_path`, less the NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Another payd that starts in the same directory is through long before 2 s.
const STARTING_STEPS_MAX: u32 = 1_000;
const STARTING_STEP: Duration = Duration::from_millis(2);

/// A Unix socket that listens.
#[derive(Debug)]
pub struct UnixSocket {
    /// Non-blocking, as tokio wants it.
    pub listener: UnixListener,
    /// Its name in the file system, to be kept until payd stops.
    pub file: SocketFile,
}

/// A TCP socket that listens.
#[derive(Debug)]
pub struct TcpSocket {
    /// Non-blocking, as tokio wants it.
    pub listener: TcpListener,
    /// Its address with the port that it really has.
    pub address: SocketAddr,
}

impl TcpSocket {
    /// `http://127.0.0.1:8080`, or `https://…`
    #[must_use]
    pub fn url(&self, tls: bool) -> String {
        tcp_url(self.address, tls)
    }
}

/// The socket in the file system. It is removed when this is dropped, if it is still this one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Keeps the inode, so that its number is not given to another while we compare by it.
    inode: OwnedFd,
}

impl SocketFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `unix:///run/payd/payd.sock`
    #[must_use]
    pub fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Whether the path still leads to this socket.
    fn is_ours(&self) -> bool {
        let here = open_inode(&self.path).and_then(rustix::fs::fstat);
        match (here, rustix::fs::fstat(&self.inode)) {
            (Ok(here), Ok(ours)) => (here.st_dev, here.st_ino) == (ours.st_dev, ours.st_ino),
            _ => false,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours() {
            // If it cannot be removed, the next start replaces it: nobody answers on it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Why payd cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Someone answers on the socket.
    #[error("another payd{} listens on {}; stop it, or give this one a socket of its own with --socket",
        holder.map(|pid| format!(", process {pid},")).unwrap_or_default(), path.display())]
    Live {
        /// The socket.
        path: PathBuf,
        /// The process that listens, where the kernel tells.
        holder: Option<i32>,
    },
    /// Another one starts and does not get on with it.
    #[error("another process holds the directory of {}; try again, or choose another with --socket", path.display())]
    Starting {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket of ours is in the place.
    #[error("{} is in the place of the socket and is not one that payd may replace: {what}; move it away, or \
        choose another place with --socket", path.display())]
    Occupied {
        /// The socket.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The path does not fit into a socket's address.
    #[error("the socket path {} has more than {SOCKET_PATH_BYTES_MAX} bytes, the longest that Linux takes; \
        choose a shorter one with --socket", path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
    },
    /// Its directory cannot be made.
    #[error("{0}; choose another place for the socket with --socket")]
    Directory(#[from] DirectoriesError),
    /// The system refuses.
    #[error("cannot listen on {}: {source}; choose another place with --socket", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Someone else has the port.
    #[error(
        "{address} is in use by another process; choose another with --listen, such as 127.0.0.1:0 for any \
        free port, or --listen none for the Unix socket only"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error(
        "cannot listen on {address}: {source}; choose another address with --listen, or --listen none for \
        the Unix socket only"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Listens on a Unix socket: its directory made 0750 where it is missing, the socket 0660.
///
/// # Errors
///
/// All of [`ListenError`] but those of TCP.
pub fn bind_unix(path: &Path) -> Result<UnixSocket, ListenError> {
    if path.as_os_str().as_bytes().len() > SOCKET_PATH_BYTES_MAX {
        return Err(ListenError::TooLong {
            path: path.to_owned(),
        });
    }
    let refused = |source: io::Error| ListenError::Unix {
        path: path.to_owned(),
        source,
    };
    let parent = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    directories::make(parent, SHARED_MODE)?;
    // Two that start at once could both find the old socket stale, and one remove the other's new one.
    let _alone = lock_directory(parent, path)?;
    remove_stale(path)?;
    let socket = unix_socket().map_err(refused)?;
    let listening = bind_and_listen(socket, path);
    listening.map_err(|errno| match errno {
        Errno::ADDRINUSE => ListenError::Occupied {
            path: path.to_owned(),
            what: "it appeared just now",
        },
        errno => refused(errno.into()),
    })
}

/// Listens on a TCP address. Whether it is one that may be listened on is for the settings to say.
///
/// # Errors
///
/// [`ListenError::InUse`] and [`ListenError::Tcp`].
pub fn bind_tcp(address: SocketAddr) -> Result<TcpSocket, ListenError> {
    let bind = || {
        let listener = TcpListener::bind(address)?; // with SO_REUSEADDR: a restart need not wait
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(TcpSocket { listener, address })
    };
    bind().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address },
        _ => ListenError::Tcp { address, source },
    })
}

/// What a Unix socket that listens already is called: `unix:///run/payd/payd.sock`.
#[must_use]
pub fn unix_url(listener: &UnixListener) -> String {
    let address = listener.local_addr().ok();
    let path = address.as_ref().and_then(|address| address.as_pathname());
    path.map_or_else(
        || "unix:(no name)".to_owned(),
        |path| format!("unix://{}", path.display()),
    )
}

/// What a TCP socket at this address is called: `http://127.0.0.1:8080`, or `https://…`.
#[must_use]
pub fn tcp_url(address: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{address}")
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// The mode is on the socket before it has a name, so that the file is never open wider, and without a
/// umask of the whole process, that would hit files which other threads make meanwhile. A tighter umask
/// would take the group's bits away; they are put back before anyone can connect.
fn bind_and_listen(socket: OwnedFd, path: &Path) -> Result<UnixSocket, Errno> {
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let inode = open_inode(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        inode,
    };
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixSocket {
        listener: UnixListener::from(socket),
        file,
    })
}

fn open_inode(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Held while a socket is looked at and replaced. Where the directory may not be read, or the file system
/// has no locks, it goes without.
fn lock_directory(dir: &Path, path: &Path) -> Result<Option<File>, ListenError> {
    let Ok(handle) = File::open(dir) else {
        return Ok(None);
    };
    for _ in 0..STARTING_STEPS_MAX {
        match handle.try_lock() {
            Ok(()) => return Ok(Some(handle)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(STARTING_STEP),
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
    Err(ListenError::Starting {
        path: path.to_owned(),
    })
}

/// Clears the place if what is there is a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let refused = |source: io::Error| ListenError::Unix {
        path: path.to_owned(),
        source,
    };
    let occupied = |what| ListenError::Occupied {
        path: path.to_owned(),
        what,
    };
    let kind = match path.symlink_metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
    };
    if kind.is_symlink() {
        return Err(occupied("it is a symbolic link"));
    }
    if kind.is_dir() {
        return Err(occupied("it is a directory"));
    }
    if !kind.is_socket() {
        return Err(occupied("it is another kind of file"));
    }
    let probe = unix_socket().map_err(refused)?;
    let address = SocketAddrUnix::new(path).map_err(|errno| refused(errno.into()))?;
    match rustix::net::connect(&probe, &address) {
        // EAGAIN: it listens, but its queue is full.
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::Live {
            path: path.to_owned(),
            holder: listening_process(&probe),
        }),
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(refused),
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::PROTOTYPE) => Err(occupied("it is a socket of another type")),
        Err(Errno::ACCESS | Errno::PERM) => {
            Err(occupied("it is a socket that this user may not open"))
        }
        Err(errno) => Err(refused(errno.into())),
    }
}

/// Who called `listen` on the other side, as the kernel remembers. Source: unix(7), `SO_PEERCRED`.
fn listening_process(probe: impl AsFd) -> Option<i32> {
    let peer = rustix::net::sockopt::socket_peercred(probe).ok()?;
    Some(peer.pid.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests;
