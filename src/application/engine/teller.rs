//! Tells of what was committed: a log line and, where payd is traced, a span for each event. That is work,
//! and nobody waits for it, so where payd serves it is done on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::super::metrics::Metrics;
use super::batch::Line;

/// Lines that may wait for the thread. What is beyond that the engine tells itself: it can then not run
/// ahead of its log.
const WAITING_MAX: usize = 4096;

/// The engine's side.
pub(super) enum Teller {
    /// The engine tells of it itself.
    Here,
    /// A thread does.
    There {
        lines: Sender<Vec<Line>>,
        waiting: Arc<AtomicUsize>,
    },
}

/// The thread's side: to be run on it.
pub struct Telling {
    lines: Receiver<Vec<Line>>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<dyn Metrics>,
}

impl Teller {
    /// The two sides.
    pub(super) fn apart(metrics: Arc<dyn Metrics>) -> (Self, Telling) {
        let (sender, lines) = channel();
        let waiting = Arc::<AtomicUsize>::default();
        let there = Self::There {
            lines: sender,
            waiting: Arc::clone(&waiting),
        };
        let telling = Telling {
            lines,
            waiting,
            metrics,
        };
        (there, telling)
    }

    /// Tells, or has it told.
    pub(super) fn tell(&self, lines: Vec<Line>, metrics: &dyn Metrics) {
        let left = match self {
            Self::There {
                lines: thread,
                waiting,
            } if waiting.load(Ordering::Relaxed) < WAITING_MAX => {
                let count = lines.len();
                waiting.fetch_add(count, Ordering::Relaxed);
                // Where the thread is gone they come back.
                thread.send(lines).err().map(|back| {
                    waiting.fetch_sub(count, Ordering::Relaxed);
                    back.0
                })
            }
            Self::There { .. } | Self::Here => Some(lines),
        };
        if let Some(lines) = left {
            tell(&lines, metrics);
        }
    }
}

impl Telling {
    /// Tells until the engine is gone and all is told.
    pub fn run(self) {
        while let Ok(lines) = self.lines.recv() {
            tell(&lines, self.metrics.as_ref());
            self.waiting.fetch_sub(lines.len(), Ordering::Relaxed);
        }
    }
}

fn tell(lines: &[Line], metrics: &dyn Metrics) {
    for line in lines {
        line.log();
        metrics.event_told(&line.appended());
    }
}
