//! Bodies without a known end, in constant memory: a producer writes as fast as the client reads,
//! and is gone when the client is. It never buffers more than [`CHUNKS_MAX`].

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use http_body::Frame;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::headers::Media;

/// Chunks between producer and connection: one is on its way while the next is read.
const CHUNKS_MAX: usize = 1;

enum Chunk {
    Data(Bytes),
    End,
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
        self.receiver.poll_recv(context).map(|chunk| match chunk {
            Some(Chunk::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Chunk::End) => None,
            None => Some(Err(BrokenOff)),
        })
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
}
