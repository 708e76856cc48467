//! A request as handlers see it: who calls, what was said, and the body, read within its limits.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{EXPECT, HeaderValue};
use axum::http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::auth::Proof;
use super::context::Shared;
use super::headers::{self, BodyType, Media};
use super::prefer;
use super::problem::Reject;
use super::query::Query;
use super::room::{Share, Side};
use crate::api::Code;
use crate::application::App;
use crate::application::ports::{Reader, StoreError};
use crate::application::request::Caller;
use crate::domain::{InvoiceId, PaymentId};

/// A body, in bytes (`DESIGN.md`, section 8).
pub(super) const BODY_MAX: usize = 64 * 1024;

/// A batch, in bytes (`DESIGN.md`, section 4).
pub(super) const BATCH_BODY_MAX: usize = 1024 * 1024;

/// How long a body may take to arrive: just less than the request as a whole may take, so that it is
/// this that is said.
const BODY_READ_MAX: Duration = Duration::from_secs(9);

/// A body up to which no room is asked for: most are smaller, and all connections' together are little.
const BODY_SMALL: usize = 4 * 1024;

/// How much of a body that is too large is still read, and for how long, so that a client that
/// sends all of it before it reads sees the answer rather than a reset connection.
const DRAIN_MAX: usize = 8 * 1024 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Between two looks at a token that was good: no sooner than clocks tell apart, and now and then.
const LOOK_SOONEST: Duration = Duration::from_millis(1);
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What was asked, and by whom. All that has to do with the request shares it.
pub(super) struct Asked {
    /// The request's id.
    pub(super) id: Option<HeaderValue>,
    /// Who asks.
    pub(super) caller: Caller,
    /// What shows who asks.
    pub(super) proof: Proof,
    /// Where it came from, over TCP.
    pub(super) remote: Option<IpAddr>,
    /// What was said, but for the body.
    pub(super) parts: Parts,
    /// For how many seconds they would have the answer held.
    pub(super) wait: Option<u64>,
}

/// A request. It is small: it is moved from hand to hand.
pub(super) struct Call {
    /// What all requests share.
    pub(super) shared: Arc<Shared>,
    asked: Arc<Asked>,
    // Held until the request is done with its body.
    room: Option<Share>,
    // A body is not Sync, and handlers lend the call out while they wait; it is never locked.
    body: Mutex<Body>,
}

/// A body that has been read.
pub(super) struct Read {
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// What it is.
    pub(super) media: Media,
}

impl Asked {
    /// Reads what the head says.
    pub(super) fn new(
        id: Option<HeaderValue>,
        (caller, proof, remote): (Caller, Proof, Option<IpAddr>),
        parts: Parts,
    ) -> Self {
        Self {
            id,
            caller,
            proof,
            remote,
            wait: prefer::wait(&parts.headers),
            parts,
        }
    }

    /// Whether it came over the Unix socket.
    pub(super) const fn over_unix(&self) -> bool {
        matches!(self.proof, Proof::Socket)
    }
}

impl Deref for Call {
    type Target = Asked;

    fn deref(&self) -> &Asked {
        &self.asked
    }
}

impl Call {
    /// A request whose body has not been read.
    pub(super) const fn new(shared: Arc<Shared>, asked: Arc<Asked>, body: Body) -> Self {
        Self {
            shared,
            asked,
            room: None,
            body: Mutex::new(body),
        }
    }

    /// The application.
    pub(super) fn app(&self) -> &Arc<App> {
        &self.shared.app
    }

    /// What the side that it came from may use.
    pub(super) fn side(&self) -> &Side {
        match self.over_unix() {
            true => &self.shared.socket,
            false => &self.shared.tcp,
        }
    }

    /// Reads from the store, when it is the turn of this side's.
    pub(super) async fn read<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    {
        self.side().read(self.app(), f).await
    }

    /// Whether who asked may still do so, for answers that take long.
    pub(super) fn is_still_allowed(&self) -> bool {
        let (tokens, wall) = (self.app().engine().tokens(), self.app().wall());
        self.proof.holds(tokens, wall)
    }

    /// Comes back when who asked may do so no more: at once when their token is revoked, and when it
    /// expires.
    pub(super) async fn no_longer_allowed(&self) {
        let mut replaced = self.app().engine().tokens().replaced();
        let expires_at = self.proof.expires_at();
        while self.is_still_allowed() {
            // It is looked at again in any case: the wall clock jumps.
            let left = expires_at.map_or(LOOK_AGAIN, |at| at.since(self.app().wall()));
            tokio::select! {
                _ = replaced.changed() => {}
                () = tokio::time::sleep(left.clamp(LOOK_SOONEST, LOOK_AGAIN)) => {}
            }
        }
    }

    /// The `{name}` of `/admin/tokens/{name}…`, percent-decoded.
    pub(super) fn token_name(&self) -> Option<String> {
        self.segment(3).map(Cow::into_owned)
    }

    /// The `{id}` of `/invoices/{id}…` and `/payments/{id}…`, percent-decoded.
    fn id(&self) -> Option<Cow<'_, str>> {
        self.segment(2)
    }

    fn segment(&self, place: usize) -> Option<Cow<'_, str>> {
        let segment = self.parts.uri.path().split('/').nth(place)?;
        let decoded = percent_encoding::percent_decode_str(segment).decode_utf8();
        decoded.ok()
    }

    /// The invoice that the path names. What cannot be an id is the id of no invoice: 404.
    pub(super) fn invoice_id(&self) -> Result<InvoiceId, Reject> {
        self.id()
            .and_then(|id| InvoiceId::parse(&id).ok())
            .ok_or_else(Reject::no_invoice)
    }

    /// The payment that the path names. What cannot be an id is the id of no payment: 404.
    pub(super) fn payment_id(&self) -> Result<PaymentId, Reject> {
        self.id()
            .and_then(|id| PaymentId::parse(&id).ok())
            .ok_or_else(Reject::no_payment)
    }

    /// The query, on a route that takes none.
    pub(super) fn no_query(&self) -> Result<(), Reject> {
        Query::read(self.parts.uri.query(), &[], &[]).finish(())
    }

    /// The body, of one of these types. Without body and type it is an empty JSON one: whether one
    /// is needed is for the route to say.
    pub(super) async fn body(&mut self, takes: &[Media]) -> Result<Read, Reject> {
        let body = std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner));
        // A client that waits for leave to send its body is told no without one.
        let drains = !self.parts.headers.contains_key(EXPECT);
        let said = http_body::Body::size_hint(&body).exact();
        let media = match headers::body_type(&self.parts.headers) {
            BodyType::Known(media) if takes.contains(&media) => media,
            BodyType::Unsaid => {
                self.make_room(said, BODY_MAX).await?;
                let bytes = collect(body, BODY_MAX, drains).await?;
                if bytes.is_empty() {
                    let media = Media::Json;
                    return Ok(Read { bytes, media });
                }
                return Err(unsupported(takes));
            }
            BodyType::Known(_) | BodyType::Other => {
                if drains {
                    drain(body).await;
                }
                return Err(unsupported(takes));
            }
        };
        let limit = match media {
            Media::Ndjson => BATCH_BODY_MAX,
            Media::Json | Media::EventStream => BODY_MAX,
        };
        self.make_room(said, limit).await?;
        let bytes = collect(body, limit, drains).await?;
        Ok(Read { bytes, media })
    }

    /// Waits for room for a body, as large as it says, or may be.
    async fn make_room(&mut self, said: Option<u64>, limit: usize) -> Result<(), Reject> {
        let size = said.map_or(limit, |said| {
            usize::try_from(said).unwrap_or(limit).min(limit)
        });
        // Who may open the socket is waited for: none of theirs is turned away for another's.
        if size > BODY_SMALL && !self.over_unix() {
            self.room = Some(self.shared.tcp.body(size).await?);
        }
        Ok(())
    }
}

fn unsupported(takes: &[Media]) -> Reject {
    let types: Vec<_> = takes.iter().map(|media| media.as_str()).collect();
    Reject::new(
        Code::UnsupportedMediaType,
        format!(
            "Send the body with Content-Type: {}, in UTF-8 and without Content-Encoding.",
            types.join(" or ")
        ),
    )
}

async fn collect(body: Body, limit: usize, drains: bool) -> Result<Bytes, Reject> {
    let too_large = || {
        Reject::new(
            Code::BodyTooLarge,
            format!("The body must have at most {limit} bytes; send less at a time."),
        )
    };
    let said = http_body::Body::size_hint(&body).lower();
    if usize::try_from(said).is_ok_and(|said| said > limit) {
        if drains {
            drain(body).await;
        }
        return Err(too_large());
    }
    if http_body::Body::is_end_stream(&body) {
        return Ok(Bytes::new());
    }
    // Chunked bodies do not say how long they are: those are counted as they come.
    let mut body = body;
    let read = Limited::new(&mut body, limit).collect();
    match tokio::time::timeout(BODY_READ_MAX, read).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            drain(body).await;
            Err(too_large())
        }
        Ok(Err(error)) => Err(Reject::new(
            Code::MalformedRequest,
            format!("The body ended before it was complete ({error}); send it again."),
        )),
        Err(_) => Err(Reject::new(
            Code::RequestTimeout,
            format!(
                "The body did not arrive within {} s. Nothing has happened; send it again, all of it.",
                BODY_READ_MAX.as_secs()
            ),
        )),
    }
}

async fn drain(body: Body) {
    let read = Limited::new(body, DRAIN_MAX).collect();
    // Whatever comes of it: the answer is the same.
    drop(tokio::time::timeout(DRAIN_TIME_MAX, read).await);
}
