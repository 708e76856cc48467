//! Lines on their way to a disk or a pipe that may be slow, or stuck: they wait in a bounded queue for a
//! thread of their own, and where that is full they are dropped and counted. A payment never waits for
//! its log line.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait. At some hundred bytes each a few megabytes, and seconds of a busy log.
const WAITING_MAX: usize = 8192;

/// Written at once, at most: enough to make the calls few.
const WRITE_MAX: usize = 64 * 1024;

/// The pause before a full queue is asked again whether it takes the wish to flush.
const FULL_PAUSE: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    /// Says so when all before it is written.
    Flush(SyncSender<()>),
}

/// Where lines go. Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub(super) struct Background {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    clean: fn(&str) -> Vec<u8>,
}

impl Background {
    /// Starts the thread. `clean` is what a line goes through on its way.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub(super) fn start(
        name: &str,
        mut out: impl Write + Send + 'static,
        clean: fn(&str) -> Vec<u8>,
    ) -> io::Result<Self> {
        let (queue, lines) = sync_channel(WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || write_all(&lines, &mut out, &lost))?;
        Ok(Self {
            queue,
            dropped,
            clean,
        })
    }

    /// Lines that were not written, since the start.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Waits until what waits now is written, `limit` at most: what is stuck must not hold up an end.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (written, wait) = sync_channel(1);
        let mut wish = Message::Flush(written);
        loop {
            match self.queue.try_send(wish) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    wish = back;
                    std::thread::sleep(FULL_PAUSE);
                }
                Err(TrySendError::Full(_)) => return,
            }
        }
        // In time or not: there is nobody left to tell.
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write_all(lines: &Receiver<Message>, out: &mut impl Write, dropped: &AtomicU64) {
    let mut bytes = Vec::with_capacity(WRITE_MAX);
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        let (mut count, mut waiting) = (0, None);
        while let Some(message) = next.take() {
            match message {
                Message::Line(line) => {
                    bytes.extend_from_slice(&line);
                    count += 1;
                }
                Message::Flush(written) => {
                    waiting = Some(written);
                    break;
                }
            }
            if bytes.len() < WRITE_MAX {
                next = lines.try_recv().ok();
            }
        }
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
            // The disk is full, or nobody reads: the next lines may fare better.
            dropped.fetch_add(count, Ordering::Relaxed);
        }
        bytes.clear();
        if let Some(written) = waiting {
            let _ = written.send(());
        }
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
        let line = (self.0.clean)(&String::from_utf8_lossy(bytes));
        match self.0.queue.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.0.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

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

    #[test]
    fn what_is_stuck_holds_up_nobody_and_its_lines_are_counted() {
        let (go_on, wait) = channel();
        let background =
            Background::start("test", Stuck(wait), |line| line.as_bytes().to_vec()).unwrap();
        let extra = 100;
        // The thread may have taken up to so many out of the queue before it got stuck.
        let taken = WRITE_MAX / b"line\n".len() + 1;
        for _ in 0..WAITING_MAX + taken + extra {
            background.make_writer().write_all(b"line\n").unwrap();
        }
        assert!(background.dropped().load(Ordering::Relaxed) >= extra as u64);
        background.flush(Duration::from_millis(20));
        drop(go_on);
        background.flush(Duration::from_secs(60));
    }
}
