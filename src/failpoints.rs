//! Failpoints: places in the real binary at which a test may end, fail or hold the process.
//!
//! Only with the cargo feature `failpoints`, which no release has; without it [`reach`] is nothing.
//! `PAYD_FAILPOINTS` says what happens where, as `name=action` or `name=action@n` for the n-th time
//! that the place is reached, separated by `;`. Actions:
//!
//! - `kill`: SIGKILL to the process itself: no destructor runs, nothing is flushed.
//! - `error`: the place fails, where it can fail.
//! - `pause`: this thread makes the file `<name>.reached` in `PAYD_FAILPOINTS_DIR`, and waits until
//!   there is a file `<name>.go`.
//!
//! | name | where |
//! |---|---|
//! | `commit.before.<kind>`, `commit.after.<kind>` | around the commit of a batch that has such a request: `create`, `pay`, `cancel`, `claim`, `settle`, `look`, `found`, `resolve`, `recover`, `pause` |
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
pub use armed::reach;

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

    fn pause(name: &str) {
        let dir = PathBuf::from(std::env::var_os("PAYD_FAILPOINTS_DIR").unwrap_or_default());
        let reached = std::fs::write(dir.join(format!("{name}.reached")), b"");
        reached.expect("PAYD_FAILPOINTS_DIR can be written");
        let go = dir.join(format!("{name}.go"));
        while !go.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
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
