//! systemd's side of payd: sockets that it hands over, and what it wants to hear.
//!
//! Outside systemd all of this is nothing: no socket is there, and nobody listens.
//! Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use sd_notify::NotifyState;

/// Sockets that listen already, from a socket unit.
#[derive(Debug, Default)]
pub struct Passed {
    /// The Unix socket.
    pub unix: Option<UnixListener>,
    /// The TCP socket.
    pub tcp: Option<TcpListener>,
}

/// Why what was handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// It is no stream socket of the two kinds, or cannot be used.
    #[error(
        "socket {number} from the socket unit cannot be used ({source}); payd.socket has one ListenStream= with a path, and one with an address"
    )]
    Unusable {
        /// Which, from 1.
        number: usize,
        /// Why.
        source: io::Error,
    },
    /// There are two of a kind.
    #[error(
        "the socket unit hands over two {0} sockets; payd takes one Unix socket and one TCP socket"
    )]
    Two(&'static str),
}

/// Takes the sockets that were handed over. To be called once, before any thread is started: it
/// removes the variables that name them, so that no child takes them for its own.
///
/// # Errors
/// Where there is something that payd cannot listen on.
pub fn passed() -> Result<Passed, PassedError> {
    let mut handed = listenfd::ListenFd::from_env();
    let mut passed = Passed::default();
    for index in 0..handed.len() {
        let unusable = |source| PassedError::Unusable {
            number: index + 1,
            source,
        };
        if let Ok(Some(unix)) = handed.take_unix_listener(index) {
            unix.set_nonblocking(true).map_err(unusable)?;
            if passed.unix.replace(unix).is_some() {
                return Err(PassedError::Two("Unix"));
            }
        } else if let Some(tcp) = handed.take_tcp_listener(index).map_err(unusable)? {
            tcp.set_nonblocking(true).map_err(unusable)?;
            if passed.tcp.replace(tcp).is_some() {
                return Err(PassedError::Two("TCP"));
            }
        }
    }
    Ok(passed)
}

/// Says that payd is ready: what was open has been recovered, and requests are answered.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says how payd is, in a line for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says that the settings are being read again; [`ready`] says that it is done.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the clock for systemd's reload cannot be read"),
    }
}

/// Says that payd is stopping, and may take this long.
pub fn stopping(within: Duration) {
    let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(within),
        NotifyState::Status("stopping: what is in flight is finished"),
    ]);
}

/// Says that payd is alive. Only for who has just seen that it is.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How long payd may be silent before systemd takes it for dead; `None` where nobody watches.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Whether somebody listens.
#[must_use]
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|it| !it.is_empty())
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
