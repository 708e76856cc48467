//! Every error has words. Where a request's head cannot be read there is no request, and hyper answers
//! by itself, with a status and nothing else, and offers no way to say more. [`Worded`] writes payd's
//! answer in that one's place.
//!
//! It does not look for it among the bytes: [`Exchange`] knows when payd owes the client nothing, and
//! what hyper writes then is its own. Where the bad head comes behind a request whose answer the client
//! has not read yet, it is not known, and hyper's answer stays.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether a request of a connection is being answered. All that touches it is one task, hyper's.
#[derive(Default)]
pub(super) struct Exchange {
    /// A request is with payd, or its answer is not all with hyper.
    is_open: AtomicBool,
    /// Something of an answer may not be written yet.
    is_unwritten: AtomicBool,
}

impl Exchange {
    /// A request is there.
    pub(super) fn begin(exchange: &Arc<Self>) -> Answering {
        exchange.is_open.store(true, Ordering::Relaxed);
        exchange.is_unwritten.store(true, Ordering::Relaxed);
        Answering(Arc::clone(exchange))
    }

    /// hyper flushes when it has written all it has.
    fn flushed(&self) {
        let is_open = self.is_open.load(Ordering::Relaxed);
        self.is_unwritten.store(is_open, Ordering::Relaxed);
    }

    fn owes_nothing(&self) -> bool {
        !self.is_unwritten.load(Ordering::Relaxed)
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Exchange>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.is_open.store(false, Ordering::Relaxed);
    }
}

impl Answering {
    /// The answer's body: the exchange ends when hyper has taken all of it.
    pub(super) const fn until_sent(self, body: Body) -> AnswerBody {
        AnswerBody {
            body,
            _answering: self,
        }
    }
}

/// The body of an answer.
pub(super) struct AnswerBody {
    body: Body,
    _answering: Answering,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection on which errors have words: `refuse` makes the whole answer for a status.
pub(super) struct Worded<S, F> {
    io: S,
    exchange: Arc<Exchange>,
    refuse: F,
    /// What is written in the place of hyper's answer, and how much of it has been.
    words: Vec<u8>,
    written: usize,
}

impl<S, F> Worded<S, F>
where
    S: AsyncWrite + Unpin,
    F: Fn(StatusCode) -> Option<Vec<u8>> + Unpin,
{
    /// The same connection.
    pub(super) const fn new(io: S, exchange: Arc<Exchange>, refuse: F) -> Self {
        Self {
            io,
            exchange,
            refuse,
            words: Vec::new(),
            written: 0,
        }
    }

    /// Takes hyper's own answer, if this is one.
    fn takes(&mut self, bytes: &[u8]) -> bool {
        if !self.exchange.owes_nothing() {
            return false;
        }
        let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|it| it.get(..3));
        let status = status.and_then(|it| StatusCode::from_bytes(it).ok());
        match status.and_then(&self.refuse) {
            Some(words) => {
                self.words = words;
                true
            }
            None => false,
        }
    }

    fn poll_words(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.words.get(self.written..).filter(|it| !it.is_empty()) {
            match ready!(Pin::new(&mut self.io).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin, F: Unpin> AsyncRead for Worded<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S, F> AsyncWrite for Worded<S, F>
where
    S: AsyncWrite + Unpin,
    F: Fn(StatusCode) -> Option<Vec<u8>> + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.takes(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if parts.first().is_some_and(|first| self.takes(first)) {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange.flushed();
        ready!(self.poll_words(context))?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_words(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
