//! An event stream under way: from its cursor to the end of the log, and on with what comes.
//!
//! Signals wake, tables tell: a stream reads the log from its cursor, and waits for the bus only
//! where it has seen all there is. So there is no gap and no duplicate, whatever is lost between. At
//! the end of the log a stream that leaves nothing out takes from the tail, which reads for all; what
//! the tail does not have it reads for itself again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::call::Call;
use super::context::StreamPlace;
use super::frames::{HEARTBEAT, frames, heartbeat};
use super::headers::Media;
use super::stream::{Gone, Sender, Source};
use super::tail::{Joins, Seat};
use crate::application::StreamCursor;
use crate::application::ports::{EventQuery, EventSlice};

/// Between two reads of a stream that reads for itself and has seen all there is: what gathers in this
/// time goes out together.
const PACE: Duration = Duration::from_millis(10);

/// A stream under way.
pub(super) struct Follower {
    /// Who asked, and what they may.
    pub(super) call: Arc<Call>,
    /// The end of the log, listened to since before the first read.
    pub(super) head: watch::Receiver<u64>,
    /// The format.
    pub(super) media: Media,
    /// What to read at a time, and what of it.
    pub(super) query: EventQuery,
    /// Among the streams that there may be.
    pub(super) _place: StreamPlace,
}

/// How far a stream has come.
pub(super) struct Position {
    /// All up to here is with the connection.
    after: u64,
    /// How many events it may have yet.
    left: usize,
    /// The same for who looks at the streams from outside.
    cursor: StreamCursor,
    /// When it was last not silent.
    sent_at: Instant,
}

impl Position {
    /// Where it begins.
    pub(super) fn new(after: u64, limit: Option<usize>, cursor: StreamCursor) -> Self {
        Self {
            after,
            left: limit.unwrap_or(usize::MAX),
            cursor,
            sent_at: Instant::now(),
        }
    }

    fn moved_to(&mut self, after: u64) {
        self.after = after;
        self.cursor.moved_to(after);
    }

    fn sent(&mut self, events: usize) {
        self.left = self.left.saturating_sub(events);
        self.sent_at = Instant::now();
    }
}

impl Follower {
    /// Until the client has gone or may see no more, its limit is reached, or payd drains.
    pub(super) async fn run(mut self, at: Position, first: EventSlice, sender: Sender) {
        let call = Arc::clone(&self.call);
        let ended = tokio::select! {
            biased;
            () = call.no_longer_allowed() => Ok(()),
            ended = self.pump(at, first, &sender) => ended,
        };
        if ended.is_ok() {
            sender.end().await;
        }
    }

    async fn pump(
        &mut self,
        mut at: Position,
        first: EventSlice,
        sender: &Sender,
    ) -> Result<(), Gone> {
        let shutdown = self.call.shared.shutdown.clone();
        let tail = Arc::clone(&self.call.shared.tail);
        let leaves_out = !self.query.types.is_empty() || self.query.invoice.is_some();
        let mut slice = Some(first);
        let mut read_at = Instant::now();
        loop {
            let mut slice = match slice.take() {
                Some(slice) => slice,
                None => {
                    // The last one is taken before the next is read: for who does not read, nothing is.
                    tokio::select! {
                        biased;
                        taken = sender.taken() => taken?,
                        () = shutdown.cancelled() => return Ok(()),
                    }
                    // Marked as seen before the log is read: what comes after that wakes.
                    self.head.mark_unchanged();
                    read_at = Instant::now();
                    self.query.after = at.after;
                    let query = self.query.clone();
                    let read = self.call.read(move |reader| reader.events(&query));
                    read.await.map_err(|error| {
                        tracing::error!(%error, "an event stream cannot read the log");
                        Gone
                    })?
                }
            };
            if !slice.events.is_empty() {
                slice.events.truncate(at.left);
                let bytes = frames(self.media, &slice.events);
                tokio::select! {
                    biased;
                    sent = sender.send(bytes) => sent?,
                    () = shutdown.cancelled() => return Ok(()),
                }
                at.sent(slice.events.len());
            }
            if at.left == 0 {
                return Ok(());
            }
            let more = slice.read_to > at.after && slice.read_to < slice.head;
            at.moved_to(slice.read_to.max(at.after));
            if !leaves_out && !shutdown.is_cancelled() {
                let joins = Joins {
                    after: at.after,
                    is_at_end: !more,
                };
                if let Some(seat) = tail.join(&joins) {
                    at = self.take_from_tail(at, seat, sender).await?;
                    if at.left == 0 {
                        return Ok(());
                    }
                    continue;
                }
            }
            if more && !shutdown.is_cancelled() {
                continue;
            }
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(()),
                    // Before what may be always ready: events that a filter leaves out are silence.
                    () = sleep_until(at.sent_at + HEARTBEAT) => {
                        sender.send(heartbeat(self.media)).await?;
                        at.sent(0);
                    }
                    changed = self.head.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        break;
                    }
                }
            }
            // At the end what is there is still read, and sent if it is taken at once.
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sleep_until(read_at + PACE) => {}
            }
        }
    }

    /// Has the connection take from the tail, until the tail has not what comes next, the limit is
    /// reached, or payd drains.
    async fn take_from_tail(
        &self,
        at: Position,
        seat: Seat,
        sender: &Sender,
    ) -> Result<Position, Gone> {
        let quiet = Box::pin(sleep_until(at.sent_at + HEARTBEAT));
        let media = self.media;
        let live = Live {
            at,
            seat,
            media,
            quiet,
        };
        let mut back = sender.lend(live).await?;
        let live = tokio::select! {
            live = &mut back => live,
            () = self.call.shared.shutdown.cancelled() => {
                sender.recall().await?;
                back.await
            }
        };
        live.map(|it| it.at).map_err(|_| Gone)
    }
}

/// A stream that takes from the tail, when its connection has room.
struct Live {
    at: Position,
    seat: Seat,
    media: Media,
    /// No later than the silence has been long enough; looked at only then.
    quiet: Pin<Box<Sleep>>,
}

impl Source for Live {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.at.left == 0 {
            return Poll::Ready(None);
        }
        if let Poll::Ready(next) = self.seat.poll_next(self.at.after, context) {
            let part = next.and_then(|it| it.part(self.media, self.at.after, self.at.left));
            return Poll::Ready(part.map(|part| {
                self.at.moved_to(part.last);
                self.at.sent(part.count);
                part.bytes
            }));
        }
        loop {
            ready!(self.quiet.as_mut().poll(context));
            let until = self.at.sent_at + HEARTBEAT;
            let is_silent = Instant::now() >= until;
            if is_silent {
                self.at.sent(0);
            }
            self.quiet.as_mut().reset(self.at.sent_at + HEARTBEAT);
            if is_silent {
                return Poll::Ready(Some(Bytes::from_static(heartbeat(self.media).as_bytes())));
            }
        }
    }
}
