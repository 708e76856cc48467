//! Lines on their way to a disk or a pipe that may be slow, or stuck: they wait in a bounded queue for a
//! thread of their own, and where that is full they are dropped and counted. A payment never waits for
//! its log line.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait: some ten thousand lines, and a second or more of a busy log.
const WAITING_MAX: usize = 4 * 1024 * 1024;

/// How long the thread lets lines gather after the first. Without, each line wakes it, and being woken
/// costs more than writing does.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes for which it does not wait any longer.
const GATHERED: usize = 64 * 1024;

/// Where lines go. Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub(super) struct Background {
    queue: Arc<Queue>,
    /// The thread ends after the last of these.
    _alive: Arc<Alive>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    /// For the thread: there is something to do.
    changed: Condvar,
    /// For those who flush: something was written.
    written: Condvar,
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    /// What was ever put in, and what of it is written or lost, in lines.
    put: u64,
    done: u64,
    /// Who flushes does not want to wait for more lines.
    hurry: bool,
    /// The thread waits for a first line, and wants to be woken for it.
    idle: bool,
    over: bool,
}

struct Alive(Arc<Queue>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > WAITING_MAX {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = waiting.bytes.len();
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        waiting.put += 1;
        let enough = before < GATHERED && waiting.bytes.len() >= GATHERED;
        let wake = std::mem::take(&mut waiting.idle) || enough;
        drop(waiting);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Waits for lines, and for some more after the first; then takes them all, into an empty buffer.
    /// Says how many; `None`: there will be no more.
    fn take(&self, into: &mut Vec<u8>) -> Option<u64> {
        let mut waiting = self.lock();
        while waiting.lines == 0 {
            if waiting.over {
                return None;
            }
            waiting.idle = true;
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        waiting.idle = false;
        let hurries = |it: &mut Waiting| !it.hurry && !it.over && it.bytes.len() < GATHERED;
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, GATHER, hurries)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.hurry = false;
        std::mem::swap(&mut waiting.bytes, into);
        Some(std::mem::take(&mut waiting.lines))
    }
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub(super) fn start(name: &str, mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            written: Condvar::new(),
            dropped: Arc::default(),
        });
        let source = Arc::clone(&queue);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || write_all(&source, &mut out))?;
        Ok(Self {
            _alive: Arc::new(Alive(Arc::clone(&queue))),
            queue,
        })
    }

    /// Puts a line in, clean and with its end; or drops it.
    pub(super) fn put(&self, line: &[u8]) {
        self.queue.put(line);
    }

    /// Lines that were not written, since the start.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.queue.dropped)
    }

    /// Waits until what waits now is written, `limit` at most: what is stuck must not hold up an end.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut waiting = self.queue.lock();
        let until = waiting.put;
        while waiting.done < until {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // There is nobody left to tell.
                return;
            }
            waiting.hurry = true;
            self.queue.changed.notify_one();
            (waiting, _) = self
                .queue
                .written
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn write_all(queue: &Queue, out: &mut impl Write) {
    let mut bytes = Vec::new();
    while let Some(lines) = queue.take(&mut bytes) {
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
            // The disk is full, or nobody reads: the next lines may fare better.
            queue.dropped.fetch_add(lines, Ordering::Relaxed);
        }
        bytes.clear();
        // What a burst took is not kept for ever.
        bytes.shrink_to(GATHERED * 2);
        queue.lock().done += lines;
        queue.written.notify_all();
    }
}

impl<'a> MakeWriter<'a> for Background {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// One line. The formatter writes each whole.
pub(super) struct Line<'a>(&'a Background);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Takes nothing until it is told to.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Told, or nobody is there to tell any more: either way it goes on.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LINE: &[u8] = b"a line of a log\n";

    #[test]
    fn what_is_stuck_holds_up_nobody_and_its_lines_are_counted() {
        let (go_on, wait) = channel();
        let background = Background::start("test", Stuck(wait)).unwrap();
        let extra = 100;
        // The thread may have taken all that fits before it got stuck, and then as much fits again.
        for _ in 0..2 * (WAITING_MAX / LINE.len() + 1) + extra {
            background.put(LINE);
        }
        assert!(background.dropped().load(Ordering::Relaxed) >= extra as u64);
        background.flush(Duration::from_millis(20));
        drop(go_on);
        background.flush(Duration::from_secs(60));
    }

    #[test]
    fn what_was_put_in_is_written_in_order_and_flush_waits_for_it() {
        let (lines, written) = channel();
        let background = Background::start("test", Into(lines)).unwrap();
        let mut want = Vec::new();
        for round in 0..3 {
            for n in 0..5000 {
                let line = format!("{round} {n}\n");
                background.put(line.as_bytes());
                want.extend_from_slice(line.as_bytes());
            }
            background.flush(Duration::from_secs(60));
            let got: Vec<u8> = written.try_iter().flatten().collect();
            assert!(got == want, "round {round}");
            want.clear();
        }
        background.put(LINE);
        drop(background);
        // The last of them is written though nobody flushes, and then the thread is gone.
        let rest: Vec<u8> = written.iter().flatten().collect();
        assert_eq!(rest, LINE);
    }

    /// Hands on what it gets.
    struct Into(std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Into {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
