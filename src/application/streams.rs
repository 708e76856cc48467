//! The event streams that are open, and how far each has come: to see how far the slowest is behind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// See the module. There are a few dozen at most.
#[derive(Debug, Default)]
pub struct Streams {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    cursors: HashMap<u64, Arc<AtomicU64>>,
}

impl Streams {
    /// A stream opens, from this cursor.
    #[must_use]
    pub fn open(self: &Arc<Self>, cursor: u64) -> Place {
        let cursor = Arc::new(AtomicU64::new(cursor));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let number = open.next;
        open.next += 1;
        open.cursors.insert(number, Arc::clone(&cursor));
        Place {
            streams: Arc::clone(self),
            number,
            cursor,
        }
    }

    /// How many there are, and how many events the slowest is behind the end of the log.
    #[must_use]
    pub fn lag(&self, head: u64) -> (usize, u64) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let cursors = open.cursors.values();
        let slowest = cursors.map(|it| it.load(Ordering::Relaxed)).min();
        let lag = slowest.map_or(0, |cursor| head.saturating_sub(cursor));
        (open.cursors.len(), lag)
    }
}

/// A stream's place among the others, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    streams: Arc<Streams>,
    number: u64,
    cursor: Arc<AtomicU64>,
}

impl Place {
    /// All up to here has been handed to the client's connection.
    pub fn moved_to(&self, cursor: u64) {
        self.cursor.store(cursor, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self
            .streams
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.cursors.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_counts_as_long_as_it_is_there() {
        let streams = Arc::new(Streams::default());
        assert_eq!(streams.lag(9), (0, 0));
        let (slow, fast) = (streams.open(2), streams.open(7));
        assert_eq!(streams.lag(9), (2, 7));
        slow.moved_to(8);
        assert_eq!(streams.lag(9), (2, 2));
        drop(fast);
        assert_eq!(streams.lag(9), (1, 1));
        drop(slow);
        assert_eq!(streams.lag(9), (0, 0));
    }
}
