//! What each side, TCP and the Unix socket, may hold in memory and have read at a time. Each has its
//! own, so that whatever TCP holds, the socket has all of its share.
//!
//! What is taken for an answer goes with its bytes, and comes back when the connection has written
//! them: a client that reads nothing holds a share and no more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Method;
use axum::response::Response;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Reject;
use crate::application::App;
use crate::application::ports::{Reader, StoreError};

/// An answer up to which nothing is asked for: all connections' together are a few MiB.
pub(super) const SMALL: usize = 16 * 1024;

/// Lists that are sent in pieces at a time. A connection holds about three pieces of one
/// (`lists::PIECE`, and an item more), so that all that nobody reads are 3 to 10 MiB.
const LISTS_MAX: usize = 32;

/// Whole answers that are not small, in KiB, until they are written.
const ANSWERS_KIB_MAX: usize = 4 * 1024;

/// Bodies that are read or worked on at a time, in KiB, but for small ones: half-sent ones of every
/// connection would be half a gigabyte.
const BODIES_KIB_MAX: usize = 4 * 1024;

/// Reads at a time for TCP. They cost processor time more than they wait for the disk, and what they
/// have read is in memory: more at a time are no faster, and would be in the way of the socket's.
const TCP_READS_MAX: usize = 4;

/// Reads at a time for the socket: about as many threads as there are for them.
const SOCKET_READS_MAX: usize = 12;

/// How long to wait for room. Those who read their answers give it back within milliseconds; where it
/// takes longer, somebody does not read.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// What one side may use.
pub(super) struct Side {
    lists: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

/// A share, while it is held.
#[derive(Clone)]
pub(super) struct Share {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Share {
    fn of(permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: Arc::new(permit),
        }
    }

    /// The same answer, which holds the share until it is written.
    pub(super) fn go_with(self, response: Response) -> Response {
        response.map(|body| Body::new(Held { body, share: self }))
    }
}

impl Side {
    /// What TCP may use.
    pub(super) fn tcp() -> Self {
        Self::new(TCP_READS_MAX)
    }

    /// What the Unix socket may use.
    pub(super) fn socket() -> Self {
        Self::new(SOCKET_READS_MAX)
    }

    fn new(reads: usize) -> Self {
        Self {
            lists: Arc::new(Semaphore::new(LISTS_MAX)),
            answers: Arc::new(Semaphore::new(ANSWERS_KIB_MAX)),
            bodies: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
            reads: Arc::new(Semaphore::new(reads)),
        }
    }

    /// Reads from the store in its turn. The turn ends when the result is in the caller's hands, or the
    /// read itself has ended where the caller has gone.
    pub(super) async fn read<T, F>(&self, app: &App, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    {
        // The semaphore is never closed.
        let turn = Arc::clone(&self.reads).acquire_owned().await.ok();
        let read = app.read(move |reader| f(reader).map(|it| (it, turn)));
        read.await.map(|(it, _turn)| it)
    }

    /// A place for a list that is sent in pieces, if there is one at once.
    pub(super) fn list_now(&self) -> Option<Share> {
        let place = Arc::clone(&self.lists).try_acquire_owned().ok();
        place.map(Share::of)
    }

    /// The same, and if there is one soon.
    pub(super) async fn list(&self) -> Result<Share, Reject> {
        take(&self.lists, 1).await.ok_or_else(|| {
            Reject::unavailable(
                "payd is sending as many long lists as it does at a time, and some are not read. Try \
                 again after Retry-After, or ask for less: limit.",
            )
        })
    }

    /// Room for a whole answer of so many bytes, before what it answers is done.
    pub(super) async fn answer(&self, bytes: usize) -> Result<Share, Reject> {
        take(&self.answers, kib(bytes, ANSWERS_KIB_MAX))
            .await
            .ok_or_else(|| {
                Reject::unavailable(
                    "payd holds as many large answers as it does at a time, and some are not read. \
                     Nothing has happened; send it again after Retry-After, or in smaller parts.",
                )
            })
    }

    /// Room for a body of so many bytes.
    pub(super) async fn body(&self, bytes: usize) -> Result<Share, Reject> {
        take(&self.bodies, kib(bytes, BODIES_KIB_MAX))
            .await
            .ok_or_else(|| {
                Reject::unavailable(
                    "payd reads as many large bodies as it takes at a time. Nothing has happened; send it \
                     again after Retry-After, or in smaller parts.",
                )
            })
    }

    /// The answer with room for it, where it is whole and not small and has none yet; or another one.
    /// It does not wait: while it did, it would be held without room.
    pub(super) fn fit(&self, mut response: Response, method: &Method) -> Result<Response, Reject> {
        if let Some(share) = response.extensions_mut().remove::<Share>() {
            return Ok(share.go_with(response));
        }
        let size = response.body().size_hint().exact();
        let size = size.map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if size <= SMALL {
            return Ok(response);
        }
        let room = Arc::clone(&self.answers).try_acquire_many_owned(kib(size, ANSWERS_KIB_MAX));
        match room {
            Ok(room) => Ok(Share::of(room).go_with(response)),
            Err(_) if method.is_safe() => Err(Reject::unavailable(
                "payd holds as many large answers as it does at a time, and some are not read. Try again \
                 after Retry-After.",
            )),
            Err(_) => Err(Reject::unavailable(
                "The answer is large, and payd holds as many such as it does at a time. Whether the \
                 request took effect is not told here: send it again with the same Idempotency-Key, or \
                 look.",
            )),
        }
    }
}

/// In KiB, at least one and no more than there are.
fn kib(bytes: usize, max: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024).clamp(1, max)).unwrap_or(u32::MAX)
}

async fn take(from: &Arc<Semaphore>, count: u32) -> Option<Share> {
    let room = Arc::clone(from).acquire_many_owned(count);
    let room = tokio::time::timeout(WAIT_MAX, room).await.ok()?;
    // The semaphore is never closed.
    room.ok().map(Share::of)
}

/// A body whose bytes hold a share for as long as they are there.
struct Held {
    body: Body,
    share: Share,
}

/// Bytes of such a body. The connection drops them when they are written.
struct HeldBytes {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| {
            frame.map_data(|bytes| {
                Bytes::from_owner(HeldBytes {
                    bytes,
                    _share: self.share.clone(),
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_share_is_held_until_the_last_byte_is_gone() {
        let side = Side::tcp();
        let free = || side.answers.available_permits();
        let whole = free();
        let large = Response::new(Body::from(vec![0; 64 * 1024]));
        let response = side.fit(large, &Method::GET).unwrap();
        assert_eq!(whole - free(), 64);
        assert_eq!(response.body().size_hint().exact(), Some(64 * 1024));
        let mut body = response.into_body();
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!(whole - free(), 64, "the connection has them still");
        drop(bytes);
        assert_eq!(free(), whole);
    }

    #[tokio::test]
    async fn where_there_is_no_room_an_answer_is_another_and_small_ones_are_not_asked() {
        let side = Side::tcp();
        let _all = side.answer(ANSWERS_KIB_MAX * 1024).await.ok().unwrap();
        let large = || Response::new(Body::from(vec![0; SMALL + 1]));
        for method in [Method::GET, Method::POST] {
            let response = side.fit(large(), &method).unwrap_err().into_response();
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key("retry-after"));
            let told = response.into_body().collect().await.unwrap().to_bytes();
            let unknown =
                String::from_utf8_lossy(&told).contains("Whether the request took effect");
            assert_eq!(unknown, method == Method::POST);
        }
        let small = Response::new(Body::from(vec![0; SMALL]));
        assert!(side.fit(small, &Method::GET).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn lists_beyond_their_places_wait_a_little_and_are_told() {
        let side = Arc::new(Side::tcp());
        let mut held: Vec<_> = (0..LISTS_MAX).map(|_| side.list_now().unwrap()).collect();
        assert!(side.list_now().is_none());
        assert!(side.list().await.is_err());
        let waiting = tokio::spawn({
            let side = Arc::clone(&side);
            async move { side.list().await.is_ok() }
        });
        tokio::task::yield_now().await;
        held.pop();
        assert!(waiting.await.unwrap());
    }
}
