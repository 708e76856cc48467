//! The end of the log, read once for all who follow it. Thirty-two readers of the same events would
//! each read, copy and frame them for itself, and all of that would be taken from the payments.
//!
//! One task reads what is new, and only while somebody waits for it; who follows takes it from a ring
//! of the last [`RING_BYTES`]. Bytes are framed once for each format, and all send the same ones.
//! Signals wake, tables tell: nothing is handed over by the engine. Who is not within the ring, or
//! finds it gone because the log could not be read, reads the log for itself.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::frames::Segment;
use crate::application::ports::{EventQuery, EventSlice, StoreError};

/// Between two reads of the end of the log. Under load each commit would wake each stream for a few
/// events: the first of them goes out at once, and then what gathers in this time. Each time costs every
/// stream a wake-up, a write and a read on the other side.
const PACE: Duration = Duration::from_millis(20);

/// A segment, and one event more. A connection writes one at a time, and each write costs both sides
/// wake-ups: so it is as much as an empty socket takes at once, of its 208 KiB (`net.core.wmem_default`),
/// with room for frames. A larger buffer for the socket would cost more than it spares: what lies there
/// has left the caches when it is read. What a stream that nobody reads keeps from leaving memory is one
/// of them, or two: 6 to 12 MiB for 32 that have all stopped elsewhere.
const SEGMENT_BYTES: usize = 192 * 1024;

/// Read at a time, and one event more: what gathers in a [`PACE`] under load.
const READ_BYTES: usize = 3 * SEGMENT_BYTES;

/// The same, counted: events have 300 bytes and more.
const READ_EVENTS: usize = 2048;

/// What the ring holds, as lines; if somebody reads frames, as much again. Some 100 ms of all that payd
/// can write: who is further behind reads for itself.
const RING_BYTES: usize = 2 * 1024 * 1024;

/// How many events the ring may be behind one that joins. It is taken for who reads it: where all have
/// stopped for long, it would be read through what nobody wants.
const BEHIND_MAX: u64 = 4 * READ_EVENTS as u64;

/// After a read that failed, all read for themselves for so long.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// The last events of the log, without a gap.
#[derive(Default)]
struct Ring {
    segments: VecDeque<Arc<Segment>>,
    bytes: usize,
    /// All after `start` and up to `end` is there, while the task runs.
    start: u64,
    end: u64,
    /// Which task it is that runs.
    running: Option<u64>,
    runs: u64,
    /// Not before that is it tried again.
    pause_until: Option<Instant>,
    followers: usize,
    seats: u64,
    /// Who has seen all of it, to be woken.
    waiting: Vec<(u64, Waker)>,
}

/// What there is after a cursor.
enum Next {
    Segment(Arc<Segment>),
    /// Nothing yet.
    Wait,
    /// The ring does not know.
    Behind,
}

/// What the task is to do.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// Nobody follows.
    End,
    /// All have something to take.
    Rest,
    /// Somebody waits for what comes after this.
    After(u64),
}

impl Ring {
    const fn covers(&self, after: u64) -> bool {
        self.running.is_some() && after >= self.start
    }

    /// Begins behind a cursor, with nothing.
    fn begin(&mut self, after: u64) {
        self.segments = VecDeque::new();
        self.bytes = 0;
        (self.start, self.end) = (after, after);
    }

    fn close(&mut self) {
        self.running = None;
        self.begin(0);
    }

    /// What comes after a cursor; whoever waits is woken when there is more.
    fn next(&mut self, seat: u64, after: u64, waker: &Waker) -> Next {
        if !self.covers(after) {
            return Next::Behind;
        }
        let at = self.segments.partition_point(|it| it.last() <= after);
        if let Some(segment) = self.segments.get(at) {
            return Next::Segment(Arc::clone(segment));
        }
        match self.waiting.iter_mut().find(|(it, _)| *it == seat) {
            Some((_, known)) => known.clone_from(waker),
            None => self.waiting.push((seat, waker.clone())),
        }
        Next::Wait
    }

    /// What was read after a cursor, if that is still where the ring ends.
    fn push(&mut self, after: u64, events: &[(u64, Vec<u8>)]) {
        if after != self.end {
            return;
        }
        let mut rest = events;
        while !rest.is_empty() {
            let mut size = 0;
            let full = rest.iter().position(|(_, event)| {
                size += event.len() + 1;
                size >= SEGMENT_BYTES
            });
            let (these, others) = rest.split_at(full.map_or(rest.len(), |last| last + 1));
            let segment = Segment::new(these);
            self.end = segment.last();
            self.bytes += segment.size();
            self.segments.push_back(Arc::new(segment));
            rest = others;
        }
        // The newest stays, however large.
        while self.bytes > RING_BYTES && self.segments.len() > 1 {
            if let Some(oldest) = self.segments.pop_front() {
                self.start = oldest.last();
                self.bytes -= oldest.size();
            }
        }
    }
}

/// How the log is read.
pub(super) type Read = dyn Fn(EventQuery) -> Pin<Box<dyn Future<Output = Result<EventSlice, StoreError>> + Send>>
    + Send
    + Sync;

/// See the module.
pub(super) struct Tail {
    ring: Mutex<Ring>,
    read: Box<Read>,
    head: watch::Receiver<u64>,
    /// Rung when the task is to look at the ring again.
    bell: Notify,
    runtime: Handle,
}

/// What is to be said of who joins.
pub(super) struct Joins {
    /// All up to here they have.
    pub(super) after: u64,
    /// Whether that was all there is, a moment ago.
    pub(super) is_at_end: bool,
}

impl Tail {
    /// Nothing yet. Its task runs on `runtime`, and waits for `head`, the end of the log, to advance.
    pub(super) fn new(runtime: Handle, head: watch::Receiver<u64>, read: Box<Read>) -> Self {
        Self {
            ring: Mutex::default(),
            read,
            head,
            bell: Notify::new(),
            runtime,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for who has come near the end of the log, if what comes next is in the ring, or will be.
    pub(super) fn join(self: &Arc<Self>, who: &Joins) -> Option<Seat> {
        let mut ring = self.ring();
        if ring.running.is_none() {
            let pauses = ring.pause_until.is_some_and(|until| Instant::now() < until);
            if !who.is_at_end || pauses {
                return None;
            }
            ring.begin(who.after);
            ring.runs += 1;
            let run = ring.runs;
            ring.running = Some(run);
            let task = Task {
                tail: Arc::clone(self),
                head: self.head.clone(),
                run,
            };
            self.runtime.spawn(task.run());
        } else if who.after > ring.end.saturating_add(BEHIND_MAX) {
            ring.begin(who.after);
            wake(ring);
            self.bell.notify_one();
            ring = self.ring();
        }
        if !ring.covers(who.after) {
            return None;
        }
        ring.followers += 1;
        ring.seats += 1;
        Some(Seat {
            tail: Arc::clone(self),
            number: ring.seats,
        })
    }
}

/// Wakes all who wait: the ring is not what it was.
fn wake(mut ring: MutexGuard<'_, Ring>) {
    let waiting = std::mem::take(&mut ring.waiting);
    drop(ring);
    for (_, waker) in waiting {
        waker.wake();
    }
}

/// A follower's, while it takes from the ring.
pub(super) struct Seat {
    tail: Arc<Tail>,
    number: u64,
}

impl Seat {
    /// What comes after a cursor. `None`: the ring does not know.
    pub(super) fn poll_next(
        &self,
        after: u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<Arc<Segment>>> {
        let mut ring = self.tail.ring();
        match ring.next(self.number, after, context.waker()) {
            Next::Segment(segment) => Poll::Ready(Some(segment)),
            Next::Behind => Poll::Ready(None),
            Next::Wait => {
                // The first who waits has it read on.
                let is_first = ring.waiting.len() == 1;
                drop(ring);
                if is_first {
                    self.tail.bell.notify_one();
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut ring = self.tail.ring();
        ring.waiting.retain(|(seat, _)| *seat != self.number);
        ring.followers -= 1;
        let is_last = ring.followers == 0;
        drop(ring);
        if is_last {
            self.tail.bell.notify_one();
        }
    }
}

/// Reads the end of the log, for as long as somebody follows.
struct Task {
    tail: Arc<Tail>,
    head: watch::Receiver<u64>,
    run: u64,
}

impl Task {
    async fn run(mut self) {
        let mut pace_until = Instant::now();
        loop {
            let after = match self.wish() {
                Wish::End => return,
                Wish::Rest => {
                    self.tail.bell.notified().await;
                    continue;
                }
                Wish::After(after) => after,
            };
            tokio::select! {
                biased;
                () = self.tail.bell.notified() => continue,
                advanced = self.head.wait_for(|head| *head > after) => {
                    if advanced.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep_until(pace_until).await;
            let read_at = Instant::now();
            let query = EventQuery {
                after,
                limit: READ_EVENTS,
                bytes: Some(READ_BYTES),
                ..EventQuery::default()
            };
            match (self.tail.read)(query).await {
                Ok(slice) => {
                    // What was too much for once is not waited for.
                    let is_all = slice.read_to >= slice.head;
                    pace_until = if is_all { read_at + PACE } else { read_at };
                    let mut ring = self.tail.ring();
                    if ring.running == Some(self.run) {
                        ring.push(after, &slice.events);
                        wake(ring);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the end of the log cannot be read for all event streams at once; each reads for itself");
                    self.tail.ring().pause_until = Some(Instant::now() + FAILED_PAUSE);
                    return;
                }
            }
        }
    }

    fn wish(&self) -> Wish {
        let mut ring = self.tail.ring();
        if ring.running != Some(self.run) {
            return Wish::End;
        }
        if ring.followers == 0 {
            // Under the same lock: who joins from now on has it begin anew.
            ring.close();
            return Wish::End;
        }
        match ring.waiting.is_empty() {
            true => Wish::Rest,
            false => Wish::After(ring.end),
        }
    }
}

/// However it ends: nobody waits for a task that is gone.
impl Drop for Task {
    fn drop(&mut self) {
        let mut ring = self.tail.ring();
        if ring.running == Some(self.run) {
            ring.close();
            wake(ring);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::Media;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::Waker;

    /// A log of numbered events, which counts how often it is read.
    struct Log {
        head: watch::Sender<u64>,
        event: usize,
        reads: AtomicUsize,
        fails: AtomicBool,
    }

    impl Log {
        fn new(event: usize) -> Arc<Self> {
            Arc::new(Self {
                head: watch::Sender::new(0),
                event,
                reads: AtomicUsize::new(0),
                fails: AtomicBool::new(false),
            })
        }

        fn tail(self: &Arc<Self>) -> Arc<Tail> {
            let log = Arc::clone(self);
            let read = move |query: EventQuery| {
                let slice = log.read(&query);
                let read: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async { slice });
                read
            };
            let (runtime, head) = (Handle::current(), self.head.subscribe());
            Arc::new(Tail::new(runtime, head, Box::new(read)))
        }

        fn read(&self, query: &EventQuery) -> Result<EventSlice, StoreError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.fails.load(Ordering::Relaxed) {
                return Err(StoreError::Fatal("as told".to_owned()));
            }
            let head = *self.head.borrow();
            let count = (query.bytes.unwrap() / self.event).min(query.limit).max(1);
            let events: Vec<_> = (query.after + 1..=head)
                .take(count)
                .map(|n| (n, vec![b'x'; self.event]))
                .collect();
            let read_to = events.last().map_or(head.max(query.after), |it| it.0);
            Ok(EventSlice {
                events,
                head,
                read_to,
            })
        }

        fn reads(&self) -> usize {
            self.reads.load(Ordering::Relaxed)
        }
    }

    fn joins(after: u64) -> Joins {
        Joins {
            after,
            is_at_end: true,
        }
    }

    /// What comes after a cursor, when it is there; its last sequence.
    async fn next(seat: &Seat, after: u64) -> Option<u64> {
        let segment = std::future::poll_fn(|context| seat.poll_next(after, context));
        let segment = tokio::time::timeout(PACE * 1000, segment).await;
        segment
            .expect("nothing comes")
            .map(|it| it.part(Media::Ndjson, after, usize::MAX).unwrap().last)
    }

    fn waits(seat: &Seat, after: u64) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        seat.poll_next(after, &mut context).is_pending()
    }

    /// Lets the task do what it can.
    async fn settle() {
        tokio::time::sleep(PACE * 10).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_read_once_for_all_and_paced() {
        let log = Log::new(100);
        let tail = log.tail();
        log.head.send_replace(5);
        let seats: Vec<_> = (0..3).map(|_| tail.join(&joins(5)).unwrap()).collect();
        settle().await;
        assert_eq!(log.reads(), 0, "nobody waits yet, and nothing is there");
        let begin = Instant::now();
        for n in 6..=8 {
            log.head.send_replace(n);
            for seat in &seats {
                assert_eq!(next(seat, n - 1).await, Some(n));
            }
        }
        assert_eq!(log.reads(), 3);
        // The first at once.
        assert_eq!(begin.elapsed(), PACE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_has_nothing_read() {
        let log = Log::new(100);
        let tail = log.tail();
        let seat = tail.join(&joins(0)).unwrap();
        log.head.send_replace(1);
        assert_eq!(next(&seat, 0).await, Some(1));
        for n in 2..=9 {
            log.head.send_replace(n);
            settle().await;
        }
        assert_eq!(log.reads(), 1);
        assert_eq!(next(&seat, 1).await, Some(9));
        assert_eq!(log.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_falls_behind_the_ring_is_told_and_the_others_see_all() {
        let log = Log::new(64 * 1024);
        let tail = log.tail();
        let (slow, quick) = (tail.join(&joins(0)).unwrap(), tail.join(&joins(0)).unwrap());
        let held = RING_BYTES as u64 / (64 * 1024);
        let mut seen = 0;
        for n in 1..held {
            log.head.send_replace(n);
            seen = next(&quick, seen).await.unwrap();
            assert_eq!(seen, n);
        }
        assert_eq!(next(&slow, 0).await, Some(1), "it is all there still");
        for n in held..=held + 3 {
            log.head.send_replace(n);
            assert_eq!(next(&quick, n - 1).await, Some(n));
        }
        assert!(tail.ring().bytes <= RING_BYTES);
        assert_eq!(next(&slow, 1).await, None);
        assert!(tail.join(&joins(1)).is_none());
        // Where the ring begins, and in the middle of it.
        let start = tail.ring().start;
        for after in [start, held] {
            let again = tail.join(&joins(after)).unwrap();
            assert_eq!(next(&again, after).await, Some(after + 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn segments_have_their_size_and_no_gap() {
        let log = Log::new(1000);
        let tail = log.tail();
        let seat = tail.join(&joins(0)).unwrap();
        log.head.send_replace(1000);
        let mut seen = 0;
        while seen < 1000 {
            seen = next(&seat, seen).await.unwrap();
        }
        let ring = tail.ring();
        let mut last = ring.start;
        for segment in &ring.segments {
            assert!(segment.size() <= SEGMENT_BYTES + 1001);
            let part = segment.part(Media::Ndjson, 0, usize::MAX).unwrap();
            assert_eq!(part.last, last + part.count as u64);
            last = part.last;
        }
        assert_eq!((last, ring.end), (1000, 1000));
        assert!(ring.segments.len() >= 1000 * 1000 / (SEGMENT_BYTES + 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_last_follower_all_of_it_is_gone() {
        let log = Log::new(100);
        let tail = log.tail();
        let seats = [tail.join(&joins(0)).unwrap(), tail.join(&joins(0)).unwrap()];
        log.head.send_replace(3);
        assert_eq!(next(&seats[0], 0).await, Some(3));
        let [one, other] = seats;
        drop(one);
        settle().await;
        assert_eq!(tail.ring().segments.len(), 1);
        // Even while it waits for more.
        assert!(waits(&other, 3));
        drop(other);
        settle().await;
        {
            let ring = tail.ring();
            assert!(ring.running.is_none() && ring.waiting.is_empty());
            assert_eq!((ring.segments.capacity(), ring.bytes), (0, 0));
        }
        assert_eq!(Arc::strong_count(&tail), 1, "the task has ended");
        log.head.send_replace(9);
        settle().await;
        assert_eq!(log.reads(), 1);
        let seat = tail.join(&joins(9)).unwrap();
        log.head.send_replace(10);
        assert_eq!(next(&seat, 9).await, Some(10), "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_fails_sends_all_to_read_for_themselves_for_a_while() {
        let log = Log::new(100);
        let tail = log.tail();
        let seat = tail.join(&joins(0)).unwrap();
        log.fails.store(true, Ordering::Relaxed);
        log.head.send_replace(1);
        assert_eq!(next(&seat, 0).await, None);
        assert!(tail.join(&joins(1)).is_none());
        log.fails.store(false, Ordering::Relaxed);
        tokio::time::sleep(FAILED_PAUSE).await;
        let again = tail.join(&joins(1)).unwrap();
        log.head.send_replace(2);
        assert_eq!(next(&again, 1).await, Some(2));
        // The seat of before is as good as any.
        assert_eq!(next(&seat, 1).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_joins_far_ahead_does_not_wait_for_those_who_stopped() {
        let log = Log::new(100);
        let tail = log.tail();
        let stopped = tail.join(&joins(0)).unwrap();
        log.head.send_replace(1);
        assert_eq!(next(&stopped, 0).await, Some(1));
        let end = BEHIND_MAX + 2;
        log.head.send_replace(end);
        let joined = tail.join(&joins(end)).unwrap();
        assert!(waits(&joined, end));
        settle().await;
        assert_eq!(log.reads(), 1, "what is between is read by who wants it");
        log.head.send_replace(end + 1);
        assert_eq!(next(&joined, end).await, Some(end + 1));
        assert_eq!(next(&stopped, 1).await, None);
        // Who is a little ahead waits for it.
        let ahead = tail.join(&joins(end + 2)).unwrap();
        assert!(waits(&ahead, end + 2));
        log.head.send_replace(end + 3);
        assert_eq!(next(&ahead, end + 2).await, Some(end + 3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_more_to_read_joins_what_is_there_and_starts_nothing() {
        let log = Log::new(100);
        let tail = log.tail();
        let more = Joins {
            after: 0,
            is_at_end: false,
        };
        assert!(tail.join(&more).is_none());
        let _seat = tail.join(&joins(0)).unwrap();
        assert!(tail.join(&more).is_some());
    }
}
