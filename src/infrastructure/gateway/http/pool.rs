//! Connections that wait for their next request.
//!
//! Only a connection whose last answer was read to its end comes in here. What waits is looked at
//! again before it is used, and is never used after [`IDLE_MAX`]: many servers close after five
//! seconds, and a request that crosses with the close has an unknown outcome.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::connect::Connection;

/// Below the five seconds after which Node.js and Apache close, the shortest of the usual ones.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// See the module.
pub(super) struct Pool {
    inner: Arc<Mutex<Inner>>,
    /// Connections that may wait at once.
    idle_max: usize,
}

#[derive(Default)]
struct Inner {
    /// Oldest first.
    idle: Vec<(Instant, Connection)>,
    /// Someone sleeps until the oldest is too old.
    swept: bool,
}

impl Pool {
    pub(super) fn new(idle_max: usize) -> Self {
        Self {
            inner: Arc::default(),
            idle_max,
        }
    }

    /// The connection that was used last. Whoever takes it looks whether it can be used again.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((since, connection)) = inner.idle.pop() {
            if since.elapsed() < IDLE_MAX {
                return Some(connection);
            }
        }
        None
    }

    /// A connection whose last answer was read to its end.
    pub(super) fn give_back(&self, connection: Connection) {
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.idle.len() >= self.idle_max {
            return;
        }
        inner.idle.push((now, connection));
        if !inner.swept {
            inner.swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.inner), now + IDLE_MAX));
        }
    }
}

/// Closes what has waited too long, until nothing waits.
async fn sweep(pool: Weak<Mutex<Inner>>, first: Instant) {
    let mut next = first;
    loop {
        sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut inner = pool.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        inner.idle.retain(|(since, _)| *since + IDLE_MAX > now);
        match inner.idle.first() {
            Some((oldest, _)) => next = *oldest + IDLE_MAX,
            None => {
                inner.swept = false;
                return;
            }
        }
    }
}
