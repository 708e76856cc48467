//! A client that takes nothing holds up itself, and not the end of payd: while payd drains, what is
//! written must be taken within [`DRAIN_STALL_MAX`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

/// How long a client may take nothing while payd drains: ample for one that reads, and little
/// beside the grace time.
const DRAIN_STALL_MAX: Duration = Duration::from_secs(2);

/// A connection whose writes fail where nobody takes them while payd drains.
pub(super) struct Draining<S> {
    io: S,
    shutdown: CancellationToken,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: Unpin> Draining<S> {
    /// The same connection.
    pub(super) const fn new(io: S, shutdown: CancellationToken) -> Self {
        Self {
            io,
            shutdown,
            stalled: None,
        }
    }

    // The cancellation itself wakes nobody here: it has the connection polled once more, and that
    // starts the clock.
    fn unless_stalled<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() || !self.shutdown.is_cancelled() {
            self.stalled = None;
            return polled;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(DRAIN_STALL_MAX)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Draining<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Draining<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.unless_stalled(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.unless_stalled(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(context);
        self.unless_stalled(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(context);
        self.unless_stalled(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn only_while_payd_drains_is_a_stalled_write_given_up() {
        let shutdown = CancellationToken::new();
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = Draining::new(ours, shutdown.clone());
        ours.write_all(b"full").await.unwrap();
        let soon = Duration::from_millis(50);
        let waits = tokio::time::timeout(soon, ours.write_all(b"more"));
        assert!(waits.await.is_err(), "it waits for its client");
        shutdown.cancel();
        let error = ours.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut taken = [0; 4];
        theirs.read_exact(&mut taken).await.unwrap();
        ours.write_all(b"last").await.unwrap();
    }
}
