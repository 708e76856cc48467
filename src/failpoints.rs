//! Failpoints: places in the real binary at which a test may end, fail or hold the process.
//!
//! Only with the cargo feature `failpoints`, which no release has; without it [`reach`] is nothing.
//! `PAYD_FAILPOINTS` says what happens where, as `name=action` or `name=action@n` for the n-th time
//! that the place is reached, separated by `;`. Actions:
//!
//! - `kill`: SIGKILL to the process itself: no destructor runs, nothing is flushed.
//! - `error`: the place fails, where it can fail.
//! - `pause`: this thread makes the file `<name>.reached` in `PAYD_FAILPOINTS_DIR`, and waits until
//!   there is a file `<name>.go`; then it takes the first away and goes on. Other tasks of the
//!   runtime do not wait with it.
//!
//! | name | where |
//! |---|---|
//! | `commit.before.<kind>`, `commit.after.<kind>` | around the commit of a batch that changes something of this kind: `create`, `pay`, `cancel`, `claim`, `settle`, `look`, `found`, `resolve`, `leave`, `recover` (a lost lease, with `settle`), `pause` |
//! | `gateway.connected` | connected, nothing written |
//! | `gateway.mid_write` | half of the request is with the kernel |
//! | `gateway.written` | all of the request is with the kernel |
//! | `gateway.mid_answer` | the head of the answer is here, its body is not |
//! | `gateway.answered` | the answer is here, nothing has been made of it |
//! | `lookup.answered` | the answer to a lookup is here, nothing has been made of it |
//! | `resend.before` | before a payment goes out again that has been sent before |
//! | `migration.mid`, `migration.copied` | within the first migration; after the copy that is made before one |
//! | `drain.begin`, `drain.workers_done` | told to stop; sends and lookups have ended |

/// A place was told to fail.
#[derive(Debug, Clone, thiserror::Error)]
#[error("failpoint {0}")]
pub struct Failed(pub String);

/// Reaches a place.
///
/// # Errors
/// Where a test wants it to fail.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn reach(_name: &str) -> Result<(), Failed> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use armed::{lease_margin, reach};

/// How much longer a claim holds than a send may take. Always the one that the daemon says, but
/// that a test of the fence behind it cannot wait for half a minute, and so says its own in
/// `PAYD_FAILPOINTS_LEASE_MARGIN_MS`. It is no setting: a margin that is too short makes payd look up
/// what it is still waiting for, and nobody gains by that.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn lease_margin(usual: std::time::Duration) -> std::time::Duration {
    usual
}

/// What a transaction changes, for the names of the places around its commit. Without the feature
/// it is nothing.
#[derive(Debug, Default)]
pub struct Commit {
    #[cfg(feature = "failpoints")]
    kinds: std::collections::BTreeSet<&'static str>,
}

impl Commit {
    /// It changes something of this kind.
    #[cfg_attr(not(feature = "failpoints"), expect(unused_variables))]
    pub fn changes(&mut self, kind: &'static str) {
        #[cfg(feature = "failpoints")]
        self.kinds.insert(kind);
    }

    /// Nothing of it is durable.
    ///
    /// # Errors
    /// Where a test wants the commit to fail.
    pub fn before(&self) -> Result<(), Failed> {
        self.reach("before")
    }

    /// All of it is durable, and nobody has been told.
    ///
    /// # Errors
    /// Where a test wants the commit to seem to fail.
    pub fn after(&self) -> Result<(), Failed> {
        self.reach("after")
    }

    #[cfg(not(feature = "failpoints"))]
    const fn reach(&self, _side: &str) -> Result<(), Failed> {
        Ok(())
    }

    #[cfg(feature = "failpoints")]
    fn reach(&self, side: &str) -> Result<(), Failed> {
        let mut names = self
            .kinds
            .iter()
            .map(|kind| format!("commit.{side}.{kind}"));
        names.try_for_each(|name| reach(&name))
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use super::Failed;

    #[derive(Clone, Copy)]
    enum Action {
        Kill,
        Error,
        Pause,
    }

    struct Point {
        action: Action,
        /// The n-th time is meant; counts down. At 0 it is over.
        left: u32,
    }

    /// Reaches a place.
    ///
    /// # Errors
    /// Where a test wants it to fail.
    pub fn reach(name: &str) -> Result<(), Failed> {
        let action = {
            let mut points = points().lock().unwrap_or_else(PoisonError::into_inner);
            let Some(point) = points.get_mut(name) else {
                return Ok(());
            };
            let now = point.left == 1;
            point.left = point.left.saturating_sub(1);
            if !now {
                return Ok(());
            }
            point.action
        };
        match action {
            Action::Kill => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
                // The signal is on its way, and this thread must not go past this place.
                loop {
                    std::thread::park();
                }
            }
            Action::Error => Err(Failed(name.to_owned())),
            Action::Pause => {
                pause(name);
                Ok(())
            }
        }
    }

    /// See [`super::lease_margin`].
    ///
    /// # Panics
    /// Where it is not a number.
    #[must_use]
    pub fn lease_margin(usual: Duration) -> Duration {
        let said = std::env::var("PAYD_FAILPOINTS_LEASE_MARGIN_MS").ok();
        said.map_or(usual, |ms| {
            Duration::from_millis(ms.parse().expect("a margin is a number of milliseconds"))
        })
    }

    fn pause(name: &str) {
        let multi_thread = tokio::runtime::Handle::try_current()
            .is_ok_and(|it| it.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
        if multi_thread {
            // Else what this thread has woken would wait with it.
            tokio::task::block_in_place(|| wait(name));
        } else {
            wait(name);
        }
    }

    fn wait(name: &str) {
        let dir = PathBuf::from(std::env::var_os("PAYD_FAILPOINTS_DIR").unwrap_or_default());
        let reached = dir.join(format!("{name}.reached"));
        std::fs::write(&reached, b"").expect("PAYD_FAILPOINTS_DIR can be written");
        let go = dir.join(format!("{name}.go"));
        while !go.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::fs::remove_file(reached).expect("PAYD_FAILPOINTS_DIR can be written");
    }

    fn points() -> &'static Mutex<HashMap<String, Point>> {
        static POINTS: OnceLock<Mutex<HashMap<String, Point>>> = OnceLock::new();
        POINTS.get_or_init(|| {
            let said = std::env::var("PAYD_FAILPOINTS").unwrap_or_default();
            let points = said.split(';').filter(|it| !it.trim().is_empty());
            Mutex::new(points.map(|point| parse(point.trim())).collect())
        })
    }

    /// A test that is misspelled must not pass: this panics.
    fn parse(said: &str) -> (String, Point) {
        let (name, action) = said
            .split_once('=')
            .expect("PAYD_FAILPOINTS is name=action");
        let (action, left) = action.split_once('@').unwrap_or((action, "1"));
        let action = match action {
            "kill" => Action::Kill,
            "error" => Action::Error,
            "pause" => Action::Pause,
            other => panic!("PAYD_FAILPOINTS has no action {other:?}"),
        };
        let left = left.parse().expect("the number after @ is 1 or more");
        (name.to_owned(), Point { action, left })
    }
}
