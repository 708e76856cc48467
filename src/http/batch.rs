//! `POST /invoices` with an invoice a line: each on its own merits, answered in the same order. One
//! bad line hurts no other; all good ones are one commit.

use std::sync::Arc;

use axum::body::Bytes;
use axum::response::Response;

use super::call::{BODY_MAX, Call};
use super::headers::Media;
use super::idempotency::{self, refused, submit};
use super::invoices::new_id;
use super::parse;
use super::problem::{Reject, both};
use crate::api::{Code, Invoice};
use crate::application::request::{Action, Answer, InvoiceView, Reply};
use crate::domain::{NewInvoice, Refusal};

/// Lines of a batch (`DESIGN.md`, section 4): together they are one commit, and nobody else's
/// should wait long for it.
const LINES_MAX: usize = 1000;

/// What an invoice has, in bytes, beyond what its line says; and what a problem has.
const ANSWER_ADDS: usize = 512;

/// What a line of the request came to before anything was submitted.
enum Planned {
    /// The next of the invoices submitted.
    Submitted,
    /// Its line of the answer.
    Bad(Vec<u8>),
}

/// Makes the invoices.
pub(super) async fn create(call: Call, body: Bytes) -> Result<Response, Reject> {
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    let ((), key) = said?;
    let lines = lines(&body)?;
    // An answer says all that its line says, and what payd adds. It is there before it is sent, so there
    // is room for it before anything is done.
    let room = call
        .side()
        .answer(body.len() + lines.len() * ANSWER_ADDS)
        .await?;
    let (planned, invoices) = plan(&lines, |line| parse::invoice(line, || new_id(&call)));
    let (planned, action) = (Arc::new(planned), Action::Create(invoices));
    let given = submit(
        &call,
        (key, Media::Ndjson, &body),
        action,
        move |result| match result {
            Ok(Reply::Created(created)) => answer(&planned, created),
            Ok(_) => refused(Refusal::NothingToDo),
            Err(refusal) => refused(*refusal),
        },
    );
    let mut response = given.await?.into_response(Media::Ndjson);
    response.extensions_mut().insert(room);
    Ok(response)
}

/// The lines of a body. The line feed at its end ends the last one; any other empty line is a bad
/// one, so that the lines of request and answer always stand side by side.
fn lines(body: &[u8]) -> Result<Vec<&[u8]>, Reject> {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    if body.is_empty() {
        return Err(Reject::new(
            Code::MalformedRequest,
            "Send an invoice a line, each a JSON object.",
        ));
    }
    let lines: Vec<_> = body.split(|byte| *byte == b'\n').collect();
    if lines.len() > LINES_MAX {
        return Err(Reject::new(
            Code::BodyTooLarge,
            format!(
                "A batch must have at most {LINES_MAX} lines; this has {}. Send it in parts.",
                lines.len()
            ),
        ));
    }
    Ok(lines)
}

fn plan(
    lines: &[&[u8]],
    mut parse: impl FnMut(&[u8]) -> Result<NewInvoice, Reject>,
) -> (Vec<Planned>, Vec<Arc<NewInvoice>>) {
    let mut invoices = Vec::with_capacity(lines.len());
    let mut planned = Vec::with_capacity(lines.len());
    for line in lines {
        match sized(line).and_then(&mut parse) {
            Ok(invoice) => {
                invoices.push(Arc::new(invoice));
                planned.push(Planned::Submitted);
            }
            Err(reject) => planned.push(Planned::Bad(bad(&reject))),
        }
    }
    (planned, invoices)
}

/// An invoice is no larger for being one of many.
fn sized(line: &[u8]) -> Result<&[u8], Reject> {
    if line.len() <= BODY_MAX {
        return Ok(line);
    }
    Err(Reject::new(
        Code::BodyTooLarge,
        format!("A line must have at most {BODY_MAX} bytes."),
    ))
}

/// Writes a line of the answer. What it has is JSON already.
fn tell(body: &mut Vec<u8>, status: u16, name: &str, json: &[u8]) {
    body.extend_from_slice(format!("{{\"status\":{status},\"{name}\":").as_bytes());
    body.extend_from_slice(json);
    body.extend_from_slice(b"}");
}

fn bad(reject: &Reject) -> Vec<u8> {
    let mut line = Vec::new();
    let status = reject.problem().status;
    tell(&mut line, status, "problem", &reject.to_json());
    line
}

fn answer(planned: &[Planned], created: &[Result<(InvoiceView, bool), Refusal>]) -> Answer {
    let mut created = created.iter();
    let mut body = Vec::new();
    for line in planned {
        match line {
            Planned::Bad(bytes) => body.extend_from_slice(bytes),
            Planned::Submitted => match created.next() {
                Some(Ok((view, fresh))) => {
                    let json = Invoice::json(&view.invoice, view.next_attempt_at);
                    let status = if *fresh { 201 } else { 200 };
                    tell(&mut body, status, "invoice", json.as_bytes());
                }
                Some(Err(refusal)) => body.extend_from_slice(&bad(&Reject::refused(*refusal))),
                None => body.extend_from_slice(&bad(&Reject::internal("a line has no answer"))),
            },
        }
        body.push(b'\n');
    }
    Answer {
        status: 200,
        location: None,
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Invoice as Standing, InvoiceId, Timestamp};

    #[test]
    fn every_line_has_its_answer_in_the_same_order() {
        let body = b"{\"amount\":1,\"id\":\"a\"}\n\nnope\n{\"amount\":0}\n{\"amount\":2,\"id\":\"b\"}\r\n{\"amount\":3,\"id\":\"c\"}";
        let lines = lines(body).unwrap();
        assert_eq!(lines.len(), 6);
        let id = || InvoiceId::parse("made").unwrap();
        let (planned, invoices) = plan(&lines, |line| parse::invoice(line, id));
        assert_eq!(invoices.len(), 3);
        let mut created: Vec<_> = invoices
            .into_iter()
            .map(|new| {
                let invoice = Standing::new(new, Timestamp::from_millis(0));
                let next_attempt_at = None;
                Ok((
                    InvoiceView {
                        invoice,
                        next_attempt_at,
                    },
                    true,
                ))
            })
            .collect();
        created[1] = Err(Refusal::InvoiceExists);
        let answer = answer(&planned, &created);
        let told: Vec<_> = answer
            .body
            .split(|b| *b == b'\n')
            .map(|line| {
                if line.is_empty() {
                    return (0, String::new());
                }
                let line: serde_json::Value = serde_json::from_slice(line).unwrap();
                let what = line["invoice"]["id"]
                    .as_str()
                    .or(line["problem"]["code"].as_str());
                (line["status"].as_u64().unwrap(), what.unwrap().to_owned())
            })
            .collect();
        let want = [
            (201, "a"),
            (400, "malformed_request"),
            (400, "malformed_request"),
            (422, "invalid_request"),
            (409, "invoice_exists"),
            (201, "c"),
            (0, ""),
        ];
        assert_eq!(told, want.map(|(status, what)| (status, what.to_owned())));
    }

    #[test]
    fn a_batch_has_at_most_a_thousand_lines() {
        assert_eq!(lines("x\n".repeat(1000).as_bytes()).unwrap().len(), 1000);
        let reject = lines("x\n".repeat(1001).as_bytes()).unwrap_err();
        assert_eq!(reject.code(), Code::BodyTooLarge);
        assert_eq!(lines(b"").unwrap_err().code(), Code::MalformedRequest);
        assert_eq!(lines(b"\n").unwrap_err().code(), Code::MalformedRequest);
    }
}
