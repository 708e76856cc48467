//! Tells of what was committed: a log line and, where payd is traced, a span for each event. That is work,
//! and nobody waits for it, so where payd serves it is done on a thread of its own. That thread lets events
//! gather: to be woken for each commit costs more than to tell of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::metrics::Metrics;
use super::batch::Line;

/// Lines that may wait for the thread. What is beyond that the engine tells itself: it can then not run
/// ahead of its log.
const WAITING_MAX: usize = 4096;

/// How long the thread lets lines gather after the first.
const GATHER: Duration = Duration::from_millis(5);

/// Lines for which it does not wait any longer.
const GATHERED: usize = 512;

/// The engine's side.
pub(super) enum Teller {
    /// The engine tells of it itself.
    Here,
    /// A thread does.
    There(Side),
}

/// The thread's side: to be run on it.
pub struct Telling {
    side: Side,
    metrics: Arc<dyn Metrics>,
}

/// A side of the queue between them. Where one is gone, the other knows.
pub(super) struct Side(Arc<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<Line>,
    /// The thread waits for a first line, and wants to be woken for it.
    idle: bool,
    over: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts lines in; gives them back where there is no room for them, or nobody to take them.
    fn put(&self, mut lines: Vec<Line>) -> Option<Vec<Line>> {
        let mut waiting = self.lock();
        let before = waiting.lines.len();
        if waiting.over || before + lines.len() > WAITING_MAX {
            return Some(lines);
        }
        waiting.lines.append(&mut lines);
        let enough = before < GATHERED && waiting.lines.len() >= GATHERED;
        let wake = std::mem::take(&mut waiting.idle) || enough;
        drop(waiting);
        if wake {
            self.changed.notify_one();
        }
        None
    }

    /// Waits for lines, and for some more after the first; then takes them all. `None`: there will be no more.
    fn take(&self) -> Option<Vec<Line>> {
        let mut waiting = self.lock();
        while waiting.lines.is_empty() {
            if waiting.over {
                return None;
            }
            waiting.idle = true;
            let woken = self.changed.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        waiting.idle = false;
        let gathers = |it: &mut Waiting| !it.over && it.lines.len() < GATHERED;
        let gathered = self.changed.wait_timeout_while(waiting, GATHER, gathers);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut waiting.lines))
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_one();
    }
}

impl Teller {
    /// The two sides.
    pub(super) fn apart(metrics: Arc<dyn Metrics>) -> (Self, Telling) {
        let queue = Arc::<Queue>::default();
        let side = Side(Arc::clone(&queue));
        (Self::There(Side(queue)), Telling { side, metrics })
    }

    /// Tells, or has it told.
    pub(super) fn tell(&self, lines: Vec<Line>, metrics: &dyn Metrics) {
        let left = match self {
            Self::There(side) => side.0.put(lines),
            Self::Here => Some(lines),
        };
        if let Some(lines) = left {
            tell(&lines, metrics);
        }
    }
}

impl Telling {
    /// Tells until the engine is gone and all is told.
    pub fn run(self) {
        while let Some(lines) = self.side.0.take() {
            tell(&lines, self.metrics.as_ref());
        }
    }
}

fn tell(lines: &[Line], metrics: &dyn Metrics) {
    for line in lines {
        line.log();
        metrics.event_told(&line.appended());
    }
}
