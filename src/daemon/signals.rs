//! What the operator's signals mean.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Beyond a limit on the size of files (`RLIMIT_FSIZE`, systemd's `LimitFSIZE=`) the system would end payd
/// with SIGXFSZ; handled, it is a write that is refused, like one on a full disk. For a runtime's context.
pub(super) fn outlive_file_size_limit() -> io::Result<()> {
    // The handler stays when its receiver goes.
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}

/// The signals that payd listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Stop, by this signal.
    Stop(&'static str),
    /// Read the settings again.
    Reload,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next wish.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Wish::Stop("SIGINT"),
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}
