//! Bodies without a known end, in constant memory: a producer writes as fast as the client reads,
//! and is gone when the client is. It never buffers more than [`CHUNKS_MAX`]. A producer can lend the
//! body a [`Source`], from which the connection then takes by itself: no task stands between them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use http_body::Frame;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::headers::Media;

/// Chunks between producer and connection: one is on its way while the next is read.
const CHUNKS_MAX: usize = 1;

enum Chunk {
    Data(Bytes),
    Lent(Box<dyn Lending>),
    Recall,
    End,
}

/// Where a body takes bytes from by itself.
pub(super) trait Source: Send + 'static {
    /// The next bytes, never none of them. `None`: it has no more, and goes back to who lent it.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

/// A source that is lent, whatever it is.
trait Lending: Send {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>>;
    fn give_back(self: Box<Self>);
}

struct Lent<S> {
    source: S,
    owner: oneshot::Sender<S>,
}

impl<S: Source> Lending for Lent<S> {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.source.poll_next(context)
    }

    fn give_back(self: Box<Self>) {
        // An owner that is gone ends the body.
        drop(self.owner.send(self.source));
    }
}

/// The producer's end.
pub(super) struct Sender(mpsc::Sender<Chunk>);

/// The client has gone.
pub(super) struct Gone;

impl Sender {
    /// Hands on bytes, when there is room for them.
    pub(super) async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        let sent = self.0.send(Chunk::Data(bytes.into())).await;
        sent.map_err(|_| Gone)
    }

    /// Waits until what was sent is with the connection.
    pub(super) async fn taken(&self) -> Result<(), Gone> {
        let room = self.0.reserve().await;
        room.map(drop).map_err(|_| Gone)
    }

    /// Lends the body a source. It comes back when it has no more, or is recalled.
    pub(super) async fn lend<S: Source>(&self, source: S) -> Result<oneshot::Receiver<S>, Gone> {
        let (owner, back) = oneshot::channel();
        let lent = Chunk::Lent(Box::new(Lent { source, owner }));
        self.0.send(lent).await.map_err(|_| Gone)?;
        Ok(back)
    }

    /// Wants the source back.
    pub(super) async fn recall(&self) -> Result<(), Gone> {
        self.0.send(Chunk::Recall).await.map_err(|_| Gone)
    }

    /// Ends the body. A producer that ends otherwise breaks it off, and the client sees that.
    pub(super) async fn end(self) {
        // Nobody there to be told is fine.
        drop(self.0.send(Chunk::End).await);
    }
}

/// A response whose body is what the producer sends.
pub(super) fn response<P, F>(media: Media, produce: P) -> Response
where
    P: FnOnce(Sender) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let producer = tokio::spawn(produce(Sender(sender)).in_current_span());
    let mut response = Response::new(Body::new(Chunks {
        receiver,
        lent: None,
        _producer: AbortOnDropHandle::new(producer),
    }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media.as_str()));
    // Nothing between here and the client may keep it back.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Chunks {
    receiver: mpsc::Receiver<Chunk>,
    lent: Option<Box<dyn Lending>>,
    _producer: AbortOnDropHandle<()>,
}

#[derive(Debug, thiserror::Error)]
#[error("the stream broke off")]
struct BrokenOff;

impl From<Infallible> for BrokenOff {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            // What the producer says comes first: it may end a source that never does.
            match self.receiver.poll_recv(context) {
                Poll::Ready(Some(Chunk::Data(bytes))) => {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Poll::Ready(Some(Chunk::Lent(source))) => {
                    self.lent = Some(source);
                    continue;
                }
                Poll::Ready(Some(Chunk::Recall)) => {
                    if let Some(source) = self.lent.take() {
                        source.give_back();
                    }
                    continue;
                }
                Poll::Ready(Some(Chunk::End)) => return Poll::Ready(None),
                Poll::Ready(None) => return Poll::Ready(Some(Err(BrokenOff))),
                Poll::Pending => {}
            }
            let Some(source) = &mut self.lent else {
                return Poll::Pending;
            };
            if let Some(bytes) = ready!(source.poll_next(context)) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(source) = self.lent.take() {
                source.give_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn an_end_is_told_from_a_break() {
        let whole = response(Media::Ndjson, |sender| async move {
            for part in ["a\n", "b\n"] {
                if sender.send(part).await.is_err() {
                    return;
                }
            }
            sender.end().await;
        });
        let body = whole.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "a\nb\n");

        let broken = response(Media::Ndjson, |sender| async move {
            drop(sender.send("a\n").await);
        });
        assert!(broken.into_body().collect().await.is_err());
    }

    /// A source that counts down, and then waits or goes back.
    struct Count {
        left: usize,
        waits: bool,
    }

    impl Source for Count {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Bytes>> {
            let Some(left) = self.left.checked_sub(1) else {
                return if self.waits {
                    Poll::Pending
                } else {
                    Poll::Ready(None)
                };
            };
            self.left = left;
            Poll::Ready(Some(Bytes::from(format!("{left}\n"))))
        }
    }

    #[tokio::test]
    async fn a_source_is_read_in_its_place_and_comes_back() {
        let response = response(Media::Ndjson, |sender| async move {
            let sent = async {
                sender.send("a\n").await?;
                let (left, waits) = (3, false);
                let back = sender.lend(Count { left, waits }).await?;
                assert_eq!(back.await.map_err(|_| Gone)?.left, 0);
                sender.send("b\n").await?;
                let (left, waits) = (1, true);
                let back = sender.lend(Count { left, waits }).await?;
                sender.recall().await?;
                // It may be recalled before anything was taken.
                let left = back.await.map_err(|_| Gone)?.left;
                sender.send(format!("{left} left\n")).await?;
                // Nothing to recall is fine, and so is an end while one is lent.
                sender.recall().await?;
                let (left, waits) = (0, true);
                sender.lend(Count { left, waits }).await.map(drop)
            };
            if sent.await.is_ok() {
                sender.end().await;
            }
        });
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let rest = body.strip_prefix("a\n2\n1\n0\nb\n").unwrap();
        assert!(["0\n0 left\n", "1 left\n"].contains(&rest), "{body}");
    }
}
