//! `/invoices`: make, list, show, cancel. (A batch is in `batch`, paying in `payments`.)

use std::sync::Arc;

use axum::response::Response;

use super::batch;
use super::call::Call;
use super::headers::{Media, accepted};
use super::idempotency::{self, refused, submit, written};
use super::parse;
use super::problem::{Reject, both};
use super::query::{self, PAGE_DEFAULT, PAGE_MAX, Query};
use super::reply::{json, json_bytes, to_json};
use super::stream::{self, Sender};
use crate::api::{Code, Invoice, InvoicePage};
use crate::application::ports::{InvoiceQuery, InvoiceRecord};
use crate::application::request::{Action, Answer, InvoiceView, Reply};
use crate::domain::{InvoiceId, InvoiceStatus, Refusal};

/// Invoices read at a time for a stream, at first and at most: it bounds the stream's memory.
const STREAM_PAGE_FIRST: usize = 16;
const STREAM_PAGE: usize = 256;

/// Pages of more bytes are followed by smaller ones: invoices can be large.
const STREAM_PAGE_BYTES: usize = 128 * 1024;

/// `POST /invoices`.
pub(super) async fn create(mut call: Call) -> Result<Response, Reject> {
    let read = call.body(&[Media::Json, Media::Ndjson]).await?;
    if read.media == Media::Ndjson {
        return batch::create(call, read.bytes).await;
    }
    if read.bytes.is_empty() {
        return Err(Reject::new(
            Code::MalformedRequest,
            "Send the invoice as a JSON object, such as {\"amount\":1000,\"currency\":\"USD\"}.",
        ));
    }
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    let invoice = parse::invoice(&read.bytes, || new_id(&call));
    let (((), key), invoice) = both(said, invoice)?;
    let action = Action::Create(vec![invoice]);
    let given = submit(
        &call,
        (key, read.media, &read.bytes),
        action,
        |result| match result {
            Ok(Reply::Created(created)) => match created.first() {
                Some(Ok((view, fresh))) => created_one(view, *fresh),
                Some(Err(refusal)) => refused(*refusal),
                None => refused(Refusal::NothingToDo),
            },
            Ok(_) => refused(Refusal::NothingToDo),
            Err(refusal) => refused(*refusal),
        },
    );
    Ok(given.await?.into_response(Media::Json))
}

fn created_one(view: &InvoiceView, fresh: bool) -> Answer {
    let invoice = Invoice::of(&view.invoice, view.next_attempt_at);
    if fresh {
        written(201, Some(format!("/invoices/{}", invoice.id)), &invoice)
    } else {
        written(200, None, &invoice)
    }
}

/// An id for an invoice whose client gave none. A replay gives the first one: the answer that is
/// kept has it.
pub(super) fn new_id(call: &Call) -> InvoiceId {
    InvoiceId::from_uuid(call.app().new_uuid())
}

/// `GET /invoices/{id}`.
pub(super) async fn show(call: Call) -> Result<Response, Reject> {
    let id = call.invoice_id()?;
    call.no_query()?;
    let record = call.app().read(move |reader| reader.invoice(&id)).await?;
    let record = record.ok_or_else(Reject::no_invoice)?;
    Ok(json(&view(&record)))
}

fn view(record: &InvoiceRecord) -> Invoice<'_> {
    Invoice::of(&record.invoice, record.next_attempt_at)
}

/// `GET /invoices`.
pub(super) async fn list(call: Call) -> Result<Response, Reject> {
    let media = accepted(&call.parts.headers, &[Media::Json, Media::Ndjson]);
    let streamed = media == Media::Ndjson;
    let limit_max = if streamed { usize::MAX } else { PAGE_MAX };
    let (query, limit) = read(call.parts.uri.query(), limit_max)?;
    within(&call, query.after).await?;
    if streamed {
        let left = limit.unwrap_or(usize::MAX);
        let place = if call.over_unix() {
            None
        } else {
            let place = Arc::clone(&call.shared.exports).try_acquire_owned();
            Some(place.map_err(|_| {
                Reject::unavailable(
                    "All places for exports over TCP are taken. Try again after Retry-After, or read \
                     pages: Accept: application/json.",
                )
            })?)
        };
        return Ok(stream::response(media, move |sender| async move {
            export(call, query, left, sender).await;
            drop(place);
        }));
    }
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    let body = call.app().read(move |reader| {
        // One more than asked says whether there is another page.
        let mut records = reader.invoices(InvoiceQuery {
            limit: limit + 1,
            ..query
        })?;
        let more = records.len() > limit;
        records.truncate(limit);
        let last = records.last().filter(|_| more);
        Ok(to_json(&InvoicePage {
            next: last.map(|record| record.cursor.to_string().into()),
            invoices: records.iter().map(view).collect(),
        }))
    });
    Ok(json_bytes(body.await?))
}

/// A cursor beyond the newest invoice is of another store, or of one before a restore: it would skip
/// or repeat invoices in silence (`DESIGN.md`, section 10).
async fn within(call: &Call, after: Option<u64>) -> Result<(), Reject> {
    let Some(after) = after else {
        return Ok(());
    };
    let newest = call.app().read(|reader| {
        let newest = reader.invoices(InvoiceQuery {
            status: None,
            after: None,
            ascending: false,
            limit: 1,
        })?;
        Ok(newest.first().map_or(0, |record| record.cursor))
    });
    if after <= newest.await? {
        return Ok(());
    }
    Err(Reject::field(
        "after",
        "is beyond the newest invoice; a cursor of another store, or of one before a restore, does \
         not fit here",
    ))
}

/// All that match, one a line. It has an end, so payd waits for it when it drains.
async fn export(call: Call, mut query: InvoiceQuery, mut left: usize, sender: Sender) {
    let mut page_len = STREAM_PAGE_FIRST;
    while left > 0 {
        query.limit = page_len.min(left);
        let page = call.app().read(move |reader| {
            let records = reader.invoices(query)?;
            let mut lines = Vec::new();
            for record in &records {
                lines.extend_from_slice(&to_json(&view(record)));
                lines.push(b'\n');
            }
            let last = records.last().map(|record| record.cursor);
            Ok((records.len(), last, lines))
        });
        let (count, last, lines) = match page.await {
            Ok(page) => page,
            Err(error) => {
                // The body breaks off, so that nobody takes what there is for all there is.
                tracing::error!(%error, "a stream of invoices cannot go on");
                return;
            }
        };
        page_len = if lines.len() > STREAM_PAGE_BYTES {
            (page_len / 2).max(1)
        } else {
            (page_len * 2).min(STREAM_PAGE)
        };
        if count > 0 && sender.send(lines).await.is_err() {
            return;
        }
        if count < query.limit {
            break;
        }
        left = left.saturating_sub(count);
        query.after = last.or(query.after);
    }
    sender.end().await;
}

fn read(query: Option<&str>, limit_max: usize) -> Result<(InvoiceQuery, Option<usize>), Reject> {
    let mut query = Query::read(query, &["status", "after", "limit", "order"], &[]);
    let status = query.parsed("status", |text| {
        InvoiceStatus::parse(text).ok_or_else(|| {
            let known = InvoiceStatus::ALL.map(InvoiceStatus::as_str);
            format!("must be one of {}", known.join(", "))
        })
    });
    let after = query.parsed("after", query::cursor);
    let limit = query.limit(limit_max);
    let ascending = query.parsed("order", |text| match text {
        "asc" => Ok(true),
        "desc" => Ok(false),
        _ => Err("must be asc or desc"),
    });
    let invoices = InvoiceQuery {
        status,
        after,
        ascending: ascending.unwrap_or(false),
        limit: 0,
    };
    query.finish((invoices, limit))
}

/// `POST /invoices/{id}/cancel`.
pub(super) async fn cancel(mut call: Call) -> Result<Response, Reject> {
    let id = call.invoice_id()?;
    let read = call.body(&[Media::Json]).await?;
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    let (((), key), command) = both(said, parse::cancel(&read.bytes))?;
    let action = Action::OnInvoice(id, command);
    let given = submit(
        &call,
        (key, read.media, &read.bytes),
        action,
        |result| match result {
            Ok(Reply::Invoice(view)) => canceled(view),
            Ok(_) => refused(Refusal::NothingToDo),
            Err(refusal) => refused(*refusal),
        },
    );
    Ok(given.await?.into_response(Media::Json))
}

fn canceled(view: &InvoiceView) -> Answer {
    let invoice = Invoice::of(&view.invoice, view.next_attempt_at);
    let done = view.invoice.status == InvoiceStatus::Canceled;
    written(if done { 200 } else { 202 }, None, &invoice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_newest_first_unless_asked_otherwise() {
        let (query, limit) = read(None, PAGE_MAX).unwrap();
        assert_eq!((query.ascending, query.after, limit), (false, None, None));
        let (query, limit) = read(Some("status=PAID&after=9&limit=2&order=asc"), PAGE_MAX).unwrap();
        assert_eq!(query.status, Some(InvoiceStatus::Paid));
        assert_eq!(
            (query.ascending, query.after, limit),
            (true, Some(9), Some(2))
        );
        for bad in [
            "status=paid",
            "order=up",
            "after=x",
            "limit=0",
            "limit=1001",
            "page=2",
            "status=PAID&status=PAID",
        ] {
            assert!(read(Some(bad), PAGE_MAX).is_err(), "{bad}");
        }
    }
}
