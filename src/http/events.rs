//! `GET /events`: the log, page by page or as a stream without end. What is sent are the bytes that
//! were stored, never made anew.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;

use super::call::Call;
use super::follow::{Follower, Position};
use super::headers::{Media, accepted};
use super::lists::{self, Piece, Source, Writer};
use super::problem::{Reject, both};
use super::query::{self, PAGE_DEFAULT, PAGE_MAX, Query};
use super::reply::json_bytes;
use super::stream;
use crate::application::ports::{EventQuery, EventSlice};
use crate::domain::{EventType, InvoiceId};

/// Events read at a time for a stream: enough to make the reads few.
const STREAM_SLICE: usize = 64;

/// And so many bytes of them, and one event more: some slices of a stream are on their way at a time,
/// and so all streams that nobody reads hold a few MiB together.
const STREAM_SLICE_BYTES: usize = 32 * 1024;

/// Both, this many times, over the Unix socket: who catches up with a long log there is let to, and all
/// its streams still hold little.
const SOCKET_SLICES: usize = 4;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    After(u64),
    Now,
}

/// `GET /events`.
pub(super) async fn list(call: Call) -> Result<Response, Reject> {
    let offers = [Media::Json, Media::EventStream, Media::Ndjson];
    match accepted(&call.parts.headers, &offers) {
        Media::Json => page(call).await,
        media => follow(call, media).await,
    }
}

async fn page(call: Call) -> Result<Response, Reject> {
    let (start, limit, mut query) = read(call.parts.uri.query(), PAGE_MAX)?;
    let writer = Writer::new(Media::Json, "events");
    match start {
        Start::Now => {
            query.limit = 1;
            let slice = call.read(move |reader| reader.events(&query)).await?;
            let mut writer = writer;
            writer.end(Some(slice.head));
            Ok(json_bytes(writer.take()))
        }
        Start::After(after) => {
            query.after = after;
            query.limit = limit.unwrap_or(PAGE_DEFAULT);
            lists::answer(call, Media::Json, Listed { query, writer }).await
        }
    }
}

/// Events that are listed, from where the list stands. They are JSON already.
#[derive(Clone)]
struct Listed {
    query: EventQuery,
    writer: Writer,
}

impl Source for Listed {
    async fn read(&mut self, call: &Call, bytes: usize) -> Result<Piece, Reject> {
        let mut query = self.query.clone();
        query.bytes = Some(bytes);
        let slice = call.read(move |reader| reader.events(&query)).await?;
        within(self.query.after, &slice)?;
        for (_, event) in &slice.events {
            self.writer.item(event);
        }
        self.query.limit = self.query.limit.saturating_sub(slice.events.len());
        self.query.after = slice.read_to.max(self.query.after);
        let is_last = self.query.limit == 0 || self.query.after >= slice.head;
        if is_last {
            self.writer.end(Some(self.query.after));
        }
        let bytes = self.writer.take();
        Ok(Piece { bytes, is_last })
    }
}

async fn follow(call: Call, media: Media) -> Result<Response, Reject> {
    let last = last_event_id(&call.parts.headers);
    let read = read(call.parts.uri.query(), usize::MAX);
    let (last, (start, limit, mut query)) = both(last, read)?;
    let place = call.shared.streams.take(call.over_unix()).ok_or_else(|| {
        Reject::unavailable(
            "All places for event streams are taken. Try again after Retry-After, or read \
             pages: Accept: application/json.",
        )
    })?;
    if call.shared.shutdown.is_cancelled() {
        return Err(Reject::unavailable(
            "payd is shutting down. Go on from the same cursor when it is back.",
        ));
    }
    // Listened to before the first read: what is committed between that read and the first wait
    // wakes the stream, rather than lie there until the next event.
    let head = call.app().bus().head();
    // The first read says where the log ends, in the same snapshot as the events.
    let start = last.map_or(start, Start::After);
    query.after = match start {
        Start::After(after) => after,
        Start::Now => 0,
    };
    let slices = if call.over_unix() { SOCKET_SLICES } else { 1 };
    let slice = slices * STREAM_SLICE;
    query.limit = if start == Start::Now { 1 } else { slice };
    query.bytes = Some(slices * STREAM_SLICE_BYTES);
    let probe = query.clone();
    let mut first = call.read(move |reader| reader.events(&probe)).await?;
    match start {
        Start::After(after) => within(after, &first)?,
        Start::Now => {
            first.events.clear();
            first.read_to = first.head;
        }
    }
    query.limit = slice;
    let begins = match start {
        Start::After(after) => after,
        Start::Now => first.head,
    };
    let at = Position::new(begins, limit, call.app().streams().open(begins));
    let follower = Follower {
        call: Arc::new(call),
        head,
        media,
        query,
        _place: place,
    };
    Ok(stream::response(media, |sender| {
        follower.run(at, first, sender)
    }))
}

/// A cursor from another log would skip events in silence: it is told instead.
fn within(after: u64, slice: &EventSlice) -> Result<(), Reject> {
    if after <= slice.head {
        return Ok(());
    }
    Err(Reject::field(
        "after",
        format!(
            "is beyond the end of the log, which is {}; a cursor of another store, or of one before \
             a restore, does not fit here",
            slice.head
        ),
    ))
}

/// Where a client that comes back stopped. It wins over `after` (section 10): a browser that
/// reconnects repeats the URL that it began with.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Reject> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    match value.to_str().ok().map(str::trim) {
        // What a client sends that has seen no event.
        Some("") => Ok(None),
        Some(text) => match query::cursor(text) {
            Ok(cursor) => Ok(Some(cursor)),
            Err(message) => Err(Reject::field("Last-Event-ID", message)),
        },
        None => Err(Reject::field("Last-Event-ID", "must be a sequence number")),
    }
}

fn read(
    query: Option<&str>,
    limit_max: usize,
) -> Result<(Start, Option<usize>, EventQuery), Reject> {
    let mut query = Query::read(query, &["after", "type", "invoice", "limit"], &["type"]);
    let start = query.parsed("after", |text| match text {
        "now" => Ok(Start::Now),
        text => query::cursor(text)
            .map(Start::After)
            .map_err(|_| "must be a cursor: the `next` of a page, a sequence from 0, or `now`"),
    });
    let types = query.list("type", |text| {
        EventType::parse(text).ok_or_else(|| {
            let known: Vec<_> = EventType::ALL.iter().map(|it| it.as_str()).collect();
            format!("has an unknown type; known are {}", known.join(", "))
        })
    });
    let invoice = query.parsed("invoice", |text| {
        InvoiceId::parse(text).map_err(|error| error.to_string())
    });
    let limit = query.limit(limit_max);
    let events = EventQuery {
        after: 0,
        types,
        invoice,
        limit: 0,
        bytes: None,
    };
    query.finish((start.unwrap_or(Start::After(0)), limit, events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_query_says_where_to_begin_and_what_to_leave_out() {
        let (start, limit, query) = read(
            Some("after=7&type=InvoiceCreated,PaymentFailed&type=PaymentUnknown&invoice=a&limit=3"),
            PAGE_MAX,
        )
        .unwrap();
        assert_eq!((start, limit), (Start::After(7), Some(3)));
        assert_eq!(query.types.len(), 3);
        assert_eq!(query.invoice.unwrap().as_str(), "a");
        assert_eq!(read(Some("after=now"), PAGE_MAX).unwrap().0, Start::Now);
        assert_eq!(read(None, PAGE_MAX).unwrap().0, Start::After(0));
        for bad in [
            "after=-1",
            "after=Now",
            "after=",
            "type=",
            "type=invoiceCreated",
            "type=InvoiceCreated,",
            "invoice=..",
            "limit=1001",
            "limit=0",
            "from=1",
            "after=1&after=2",
        ] {
            assert!(read(Some(bad), PAGE_MAX).is_err(), "{bad}");
        }
        assert!(read(Some("limit=1001"), usize::MAX).is_ok());
    }

    #[test]
    fn a_cursor_beyond_the_end_is_told() {
        let slice = EventSlice {
            head: 5,
            ..EventSlice::default()
        };
        assert!(within(5, &slice).is_ok());
        let reject = within(6, &slice).unwrap_err();
        assert_eq!(reject.problem().status, 422);
        assert_eq!(reject.problem().errors[0].field, "after");
    }

    #[test]
    fn a_client_that_comes_back_says_where_it_stopped() {
        for (value, want) in [
            (None, Ok(None)),
            (Some(""), Ok(None)),
            (Some("42"), Ok(Some(42))),
            (Some("x"), Err(())),
            (Some("-1"), Err(())),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert("last-event-id", HeaderValue::from_static(value));
            }
            assert_eq!(last_event_id(&headers).map_err(|_| ()), want, "{value:?}");
        }
    }
}
