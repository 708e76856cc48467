//! `/invoices`: make, list, show, cancel. (A batch is in `batch`, paying in `payments`.)

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::response::Response;

use super::batch;
use super::call::Call;
use super::headers::{Media, accepted};
use super::idempotency::{self, refused, submit, told};
use super::lists::{self, Piece, Source, Writer};
use super::parse;
use super::problem::{Reject, both};
use super::query::{self, PAGE_DEFAULT, PAGE_MAX, Query};
use super::reply::json_bytes;
use crate::api::{Code, Invoice};
use crate::application::ports::{InvoiceQuery, InvoiceRecord};
use crate::application::request::{Action, Answer, InvoiceView, Reply};
use crate::domain::{InvoiceId, InvoiceStatus, Refusal};

/// `POST /invoices`.
pub(super) async fn create(mut call: Call) -> Result<Response, Reject> {
    let read = call.body(&[Media::Json, Media::Ndjson]).await?;
    if read.media == Media::Ndjson {
        // Few requests: the others need no room for it.
        return Box::pin(batch::create(call, read.bytes)).await;
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
    let action = Action::Create(vec![Arc::new(invoice)]);
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
    let json = Invoice::json(&view.invoice, view.next_attempt_at);
    if fresh {
        let id = view.invoice.content.id.as_str();
        told(201, Some(["/invoices/", id].concat()), json)
    } else {
        told(200, None, json)
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
    let record = call.read(move |reader| reader.invoice(&id)).await?;
    let record = record.ok_or_else(Reject::no_invoice)?;
    Ok(json_bytes(view(&record)))
}

fn view(record: &InvoiceRecord) -> String {
    Invoice::json(&record.invoice, record.next_attempt_at)
}

/// `GET /invoices`.
pub(super) async fn list(call: Call) -> Result<Response, Reject> {
    let media = accepted(&call.parts.headers, &[Media::Json, Media::Ndjson]);
    let streamed = media == Media::Ndjson;
    let limit_max = if streamed { usize::MAX } else { PAGE_MAX };
    let (query, limit) = read(call.parts.uri.query(), limit_max)?;
    within(&call, query.after).await?;
    let left = match streamed {
        true => limit.unwrap_or(usize::MAX),
        false => limit.unwrap_or(PAGE_DEFAULT),
    };
    let invoices = Listed {
        query,
        left,
        writer: Writer::new(media, "invoices"),
    };
    lists::answer(call, media, invoices).await
}

/// Invoices that are listed, from where the list stands.
#[derive(Clone)]
struct Listed {
    query: InvoiceQuery,
    left: usize,
    writer: Writer,
}

impl Source for Listed {
    async fn read(&mut self, call: &Call, bytes: usize) -> Result<Piece, Reject> {
        let mut it = self.clone();
        let read = call.read(move |reader| {
            // One more than asked says whether there is another page.
            let query = InvoiceQuery {
                limit: it.left.saturating_add(1),
                ..it.query
            };
            let (mut is_last, mut is_more) = (true, false);
            reader.invoices(query, &mut |record| {
                is_more = it.left == 0;
                if is_more {
                    return ControlFlow::Break(());
                }
                it.writer.item(view(&record).as_bytes());
                it.left -= 1;
                it.query.after = Some(record.cursor);
                is_last = it.left == 0 || it.writer.len() < bytes;
                match is_last {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            if is_last {
                it.writer.end(it.query.after.filter(|_| is_more));
            }
            let bytes = it.writer.take();
            Ok((it, Piece { bytes, is_last }))
        });
        let (it, piece) = read.await?;
        *self = it;
        Ok(piece)
    }
}

/// A cursor beyond the newest invoice is of another store, or of one before a restore: it would skip
/// or repeat invoices in silence (`DESIGN.md`, section 10).
async fn within(call: &Call, after: Option<u64>) -> Result<(), Reject> {
    let Some(after) = after else {
        return Ok(());
    };
    let newest = call.read(|reader| {
        let mut newest = 0;
        let query = InvoiceQuery {
            status: None,
            after: None,
            ascending: false,
            limit: 1,
        };
        reader.invoices(query, &mut |record| {
            newest = record.cursor;
            ControlFlow::Break(())
        })?;
        Ok(newest)
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
    let json = Invoice::json(&view.invoice, view.next_attempt_at);
    let done = view.invoice.status == InvoiceStatus::Canceled;
    told(if done { 200 } else { 202 }, None, json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Amount, Currency, Invoice as Standing, Money, NewInvoice, Timestamp};

    /// Answers of the last 30 days are kept by their events and written anew: what this has said to the byte it has
    /// to go on saying, for those at least. (`Kept::Events`.)
    #[test]
    fn a_new_invoice_is_told_of_in_these_bytes() {
        let new = NewInvoice {
            id: InvoiceId::parse("inv-1").unwrap(),
            money: Money {
                amount: Amount::new(1000).unwrap(),
                currency: Currency::DEFAULT,
            },
            description: Some("a \"line\"".to_owned()),
            metadata: [("k".to_owned(), "v".to_owned())].into(),
            payment_method: None,
            due_at: Some(Timestamp::from_millis(0)),
        };
        let view = InvoiceView {
            invoice: Standing::new(new, Timestamp::from_millis(1_767_323_045_678)),
            next_attempt_at: None,
        };
        let answer = created_one(&view, true);
        assert_eq!(
            (answer.status, answer.location.as_deref()),
            (201, Some("/invoices/inv-1"))
        );
        assert_eq!(
            String::from_utf8(answer.body).unwrap(),
            r#"{"id":"inv-1","amount":1000,"currency":"USD","status":"PENDING","description":"a \"line\"","metadata":{"k":"v"},"payment_method":null,"due_at":"1970-01-01T00:00:00.000Z","attempts":0,"needs_attention":false,"cancel_requested":false,"next_attempt_at":null,"created_at":"2026-01-02T03:04:05.678Z","updated_at":"2026-01-02T03:04:05.678Z","paid_at":null}"#
        );
    }

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
