//! `payctl explain`: an invoice's story in plain sentences: what happened, why it stands where it
//! stands, what comes next and when, and what one can do about it.
//!
//! It only reads. It says nothing that the invoice, its payments and its events do not say, apart
//! from the rules of the contract.

mod sentence;
mod standing;
mod story;

use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::api::{Event, Payment, PaymentPage};
use crate::cli::arguments::InvoiceId;
use crate::cli::completion::invoices;
use crate::cli::context::{Context, query, read};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::text::clean;
use story::{Held, Story};

/// The largest page of events that is asked for.
const PAGE: &str = "1000";
/// How long it may take to learn whether payd is paused; the story is told without it as well.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Tell what happened to an invoice, why, and what comes next
///
/// What happened, why it stands where it stands, what comes next and when, and what you can do.
/// With -o json: one object with the invoice, its payments and its events.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The invoice's id
    #[arg(value_name = "ID", value_parser = InvoiceId::parse, add = ArgValueCompleter::new(invoices))]
    id: InvoiceId,
}

/// All there is about an invoice, as payd's own bytes.
#[derive(Serialize)]
struct Everything<'a> {
    invoice: &'a RawValue,
    payments: Vec<&'a RawValue>,
    events: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct RawPayments<'a> {
    #[serde(borrow)]
    payments: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawEvents {
    events: Vec<Box<RawValue>>,
    next: String,
}

/// Runs it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let id = &arguments.id;
    // Events first: what they tell is in the invoice and the payments that are read after them.
    let events = events(id, context).await;
    let (answer, invoice) = context.invoice(id).await?;
    let events = events?;
    let payments = context.get(&id.path("/payments")).await?;
    match context.out.format {
        Format::Json | Format::Jsonl => {
            let unreadable = |error| Failure::unreadable("list of payments", &error);
            let page: RawPayments<'_> =
                serde_json::from_slice(&payments.body).map_err(unreadable)?;
            let everything = Everything {
                invoice: serde_json::from_slice(&answer.body).map_err(unreadable)?,
                payments: page.payments,
                events,
            };
            let json = serde_json::to_vec(&everything).map_err(unreadable)?;
            context.out.raw(&json)?;
        }
        Format::Name => context.out.line(&clean(&invoice.id))?,
        Format::Table => {
            let payments: PaymentPage<'static> = read(&payments.body, "list of payments")?;
            let mut parsed = Vec::with_capacity(events.len());
            for event in &events {
                parsed.push(read::<Event<'static>>(event.get().as_bytes(), "event")?);
            }
            // A payment that is to be sent goes nowhere while payd is paused.
            let to_send = |payment: &Payment<'_>| payment.status == "REQUESTED";
            let held = if payments.payments.iter().any(to_send) {
                held(context).await
            } else {
                None
            };
            let story = Story {
                invoice: &invoice,
                payments: &payments.payments,
                events: &parsed,
                now: context.now(),
                held: held.as_ref(),
            };
            let width = context.out.width();
            context.out.lines(&story.tell(width))?;
        }
    }
    Ok(Exit::Done)
}

/// Why nothing is sent, and the command that ends it, if payd says so. Only the socket is asked: it
/// is where everybody may know.
async fn held(context: &mut Context) -> Option<Held> {
    let socket = context.client.socket()?;
    let asked = timeout(STATUS_TIMEOUT, context.get("/admin/status")).await;
    let status: Value = serde_json::from_slice(&asked.ok()?.ok()?.body).ok()?;
    let health = |field| status.get("gateway_health")?.get(field)?.as_str();
    let why = match health("state") {
        Some("refused") => "the gateway does not let payd in",
        Some("unreachable") => "the gateway does not answer",
        _ if status.get("paused") == Some(&Value::Bool(true)) => "payd is paused",
        _ => return None,
    };
    let until = match health("state") {
        Some("refused" | "unreachable") => "it answers a probe, or somebody resumes it",
        _ => "somebody resumes it",
    };
    let reason = health("reason").map_or(String::new(), |it| format!(" ({})", clean(it)));
    let path = socket.display().to_string().replace('\'', r"'\''");
    Some(Held {
        why: format!("Nothing is sent until {until}: {why}{reason}."),
        resume: format!("curl -X POST --unix-socket '{path}' http://localhost/admin/resume"),
    })
}

async fn events(id: &InvoiceId, context: &mut Context) -> Outcome<Vec<Box<RawValue>>> {
    let mut cursor = "0".to_owned();
    let mut all = Vec::new();
    loop {
        let pairs = [
            ("invoice", id.as_str()),
            ("after", &cursor),
            ("limit", PAGE),
        ];
        let answer = context.get(&format!("/events{}", query(&pairs))).await?;
        let page: RawEvents = read(&answer.body, "page of events")?;
        let ended = page.events.is_empty() || page.next == cursor;
        all.extend(page.events);
        if ended {
            return Ok(all);
        }
        cursor = page.next;
    }
}
