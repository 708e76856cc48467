//! `payctl explain`: an invoice's story in plain sentences: what happened, why it stands where it
//! stands, what comes next and when, and what one can do about it.
//!
//! It only reads. It says nothing that the invoice, its payments and its events do not say, apart
//! from the rules of the contract.

use anstyle::AnsiColor;
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::{Event, Invoice, Payment, PaymentPage};
use crate::cli::arguments::InvoiceId;
use crate::cli::completion::invoices;
use crate::cli::context::{Context, query, read};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::{Format, Output};
use crate::cli::payment::reason;
use crate::cli::text::{clean, clock, money, relative, status_style, styled, wrap};

/// Sentences stand in from the headings.
const INDENT: &str = "  ";
/// What happened stands behind its time.
const EVENT_INDENT: &str = "                        ";
/// The largest page of events that is asked for.
const PAGE: &str = "1000";

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
            let story = Story {
                invoice: &invoice,
                payments: &payments.payments,
                events: &parsed,
                now: context.now(),
            };
            let width = context.out.width();
            context.out.lines(&story.tell(width))?;
        }
    }
    Ok(Exit::Done)
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

/// What is told, and when.
struct Story<'a> {
    invoice: &'a Invoice<'a>,
    payments: &'a [Payment<'a>],
    events: &'a [Event<'a>],
    now: Timestamp,
}

impl Story<'_> {
    fn tell(&self, width: Option<usize>) -> Vec<String> {
        let invoice = self.invoice;
        let mut lines = vec![format!(
            "{} over {} is {}.",
            Output::bold(&invoice.id),
            money(invoice.amount, &invoice.currency),
            styled(&invoice.status, status_style(&invoice.status)),
        )];
        if let Some(description) = &invoice.description {
            lines.push(format!("  {}", clean(description)));
        }
        lines.push(String::new());
        lines.push(Output::bold("What happened"));
        for event in self.events {
            let data: Value = serde_json::from_str(event.data.get()).unwrap_or_default();
            let (time, sentence) = (clock(&event.time), self.sentence(event, &data));
            let room = format!("{EVENT_INDENT}{}", clean(&sentence));
            let mut told = wrap(&room, width, EVENT_INDENT);
            if let Some(first) = told.first_mut() {
                *first = format!("  {time}  {}", first.trim_start());
            }
            lines.extend(told);
        }
        let Standing { why, next, can } = self.standing();
        lines.push(String::new());
        lines.push(Output::bold("Why it stands there"));
        let told = |line: &String| wrap(&format!("  {}", clean(line)), width, INDENT);
        lines.extend(why.iter().flat_map(told));
        if invoice.needs_attention {
            let red = AnsiColor::Red.on_default().bold();
            let text = match self.attention() {
                Some(reason) => format!("It needs your attention: {reason}"),
                None => "It needs your attention.".to_owned(),
            };
            lines.extend(wrap(&format!("  {}", styled(&text, red)), width, INDENT));
        }
        lines.push(String::new());
        lines.push(Output::bold("What comes next"));
        lines.extend(next.iter().flat_map(told));
        if !can.is_empty() {
            lines.push(String::new());
            lines.push(Output::bold("What you can do"));
            let width = can.iter().map(|(_, what)| what.len()).max().unwrap_or(0);
            for (command, what) in &can {
                lines.push(format!("  {what:<width$}  {}", clean(command)));
            }
        }
        lines
    }

    /// `in 2 s (2026-01-02 03:04:05Z)`.
    fn when(&self, time: &str) -> String {
        format!("{} ({})", relative(self.now, time), clock(time))
    }

    /// One event in words. Not cleaned yet.
    fn sentence(&self, event: &Event<'_>, data: &Value) -> String {
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
        let attempt = data.get("attempt").and_then(Value::as_u64).unwrap_or(0);
        let because = |prefix: &str| match text("reason") {
            "" => String::new(),
            reason => format!("{prefix}{reason}"),
        };
        let by = match event.actor.as_deref() {
            None | Some("payd" | "") => String::new(),
            Some(actor) => format!(" by {actor}"),
        };
        match &*event.kind {
            "InvoiceCreated" => format!("The invoice was created{by}."),
            "PaymentRequested" => {
                let due = self.due(text("due_at"), &event.time);
                match text("cause") {
                    "retry" => format!("Payment {attempt} was planned as a retry, due {due}."),
                    "manual" => format!(
                        "Payment {attempt} was asked for{by}, after the invoice had failed."
                    ),
                    "not_sent" => format!(
                        "The gateway did not execute payment {attempt}; it goes there again, \
                         under the same key, {due}."
                    ),
                    "not_received" => format!(
                        "The gateway never had payment {attempt}; it goes there again, under the \
                         same key, {due}."
                    ),
                    _ => format!("Payment {attempt} was asked for{by}."),
                }
            }
            "PaymentSucceeded" => {
                let reference = match text("gateway_reference") {
                    "" => String::new(),
                    reference => format!(", reference {reference}"),
                };
                let gateway = match text("gateway") {
                    "" => String::new(),
                    gateway => format!(" at gateway {gateway}"),
                };
                format!("Payment {attempt} succeeded{gateway}{reference}.")
            }
            "PaymentFailed" => {
                let field = |name: &str| {
                    let value = data.get("failure").and_then(|failure| failure.get(name));
                    value.and_then(Value::as_str).unwrap_or_default()
                };
                let message = match field("message") {
                    "" => String::new(),
                    message => format!(" ({})", message.trim_end_matches('.')),
                };
                let again = data.get("will_retry").and_then(Value::as_bool);
                let then = if again == Some(true) {
                    "It will be tried again."
                } else {
                    "It is not tried again."
                };
                format!(
                    "Payment {attempt} failed: {}{message}. {then}",
                    field("code")
                )
            }
            "PaymentUnknown" => format!(
                "Payment {attempt} was sent, and its outcome is unknown{}.",
                because(": ")
            ),
            "PaymentAccepted" => format!(
                "The gateway accepted payment {attempt} and will decide later{}.",
                because(": ")
            ),
            "PaymentReviewRequired" => {
                format!("Payment {attempt} needs a review{}.", because(": "))
            }
            "PaymentCanceled" => format!("Payment {attempt} was canceled{}.", because(": ")),
            "PaymentResolved" => {
                let actor = match text("actor") {
                    "" => event.actor.as_deref().unwrap_or("an operator"),
                    actor => actor,
                };
                format!(
                    "{actor} resolved payment {attempt} as {}{}.",
                    text("as"),
                    because(": ")
                )
            }
            "PaymentContradicted" => {
                let evidence = match data.get("evidence") {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => "no evidence given".to_owned(),
                };
                format!(
                    "The gateway says otherwise about payment {attempt}, which was decided: \
                     {evidence}."
                )
            }
            "InvoiceCancelRequested" => format!(
                "A cancel was asked for{by}; the outcome of the payment decides{}.",
                because(": ")
            ),
            "InvoiceCanceled" => format!("The invoice was canceled{by}{}.", because(": ")),
            "InvoiceAttentionRequired" => format!("An operator was called{}.", because(": ")),
            other => format!("{other}{}.", because(": ")),
        }
    }

    /// When something was due, as told at the time of the event.
    fn due(&self, due: &str, event: &str) -> String {
        match (due.parse::<Timestamp>(), event.parse::<Timestamp>()) {
            (Ok(due), Ok(event)) if due.duration_since(event).as_secs() < 1 => "at once".to_owned(),
            (Ok(_), Ok(event)) => format!("{} after that", relative(event, due).replace("in ", "")),
            _ => "at once".to_owned(),
        }
    }

    /// The reason of the latest call for an operator.
    fn attention(&self) -> Option<String> {
        let asks = |event: &&Event<'_>| {
            matches!(
                &*event.kind,
                "InvoiceAttentionRequired" | "PaymentContradicted" | "PaymentReviewRequired"
            )
        };
        let event = self.events.iter().rev().find(asks)?;
        let data: Value = serde_json::from_str(event.data.get()).ok()?;
        let reason = data.get("reason").or_else(|| data.get("evidence"))?;
        match reason {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// Why the open payment was last requested.
    fn cause(&self, payment: &Payment<'_>) -> String {
        let of_payment = |event: &&Event<'_>| {
            event.kind == "PaymentRequested" && event.data.get().contains(&*payment.id)
        };
        let event = self.events.iter().rev().find(of_payment);
        let data: Option<Value> =
            event.and_then(|event| serde_json::from_str(event.data.get()).ok());
        let cause = data.as_ref().and_then(|data| data.get("cause")?.as_str());
        cause.unwrap_or_default().to_owned()
    }

    fn standing(&self) -> Standing {
        let id = &self.invoice.id;
        let show = (format!("payctl payment list {id}"), "see its payments");
        match &*self.invoice.status {
            "PENDING" => Standing {
                why: vec!["Nobody has asked for it to be paid.".into()],
                next: vec!["Nothing, until somebody does.".into()],
                can: vec![
                    (format!("payctl pay {id}"), "have it paid"),
                    (format!("payctl invoice cancel {id}"), "cancel it"),
                ],
            },
            "PAID" => self.paid(),
            "FAILED" => self.failed(),
            "CANCELED" => Standing {
                why: vec!["It was canceled, and no payment of it succeeded.".into()],
                next: vec!["Nothing; canceled is final.".into()],
                can: if self.payments.is_empty() {
                    Vec::new()
                } else {
                    vec![show]
                },
            },
            "PROCESSING" => self.processing(),
            other => Standing {
                why: vec![format!("It is {other}, which this payctl does not know.")],
                next: vec!["That, a newer payctl can tell.".into()],
                can: Vec::new(),
            },
        }
    }

    fn paid(&self) -> Standing {
        let id = &self.invoice.id;
        let succeeded = self
            .payments
            .iter()
            .find(|payment| payment.status == "SUCCEEDED");
        let why = match succeeded {
            Some(payment) => {
                let when = payment
                    .finished_at
                    .as_deref()
                    .or(self.invoice.paid_at.as_deref());
                let when = when.map_or_else(String::new, |when| format!(" {}", self.when(when)));
                format!(
                    "Payment {} ({}) succeeded{when}.",
                    payment.attempt, payment.id
                )
            }
            None => "A payment of it succeeded.".to_owned(),
        };
        let mut can = Vec::new();
        if let Some(payment) = succeeded {
            can.push((
                format!("payctl payment show {}", payment.id),
                "see the payment",
            ));
        }
        if self.invoice.needs_attention {
            can.push((
                format!("payctl -o json events tail --invoice {id} --after beginning"),
                "see the evidence",
            ));
        }
        Standing {
            why: vec![why],
            next: vec!["Nothing; paid is final.".into()],
            can,
        }
    }

    fn failed(&self) -> Standing {
        let id = &self.invoice.id;
        let mut why = Vec::new();
        if let Some(payment) = self.payments.last() {
            let failure = payment.failure.as_ref();
            let text = failure.map_or_else(|| "no reason given".to_owned(), reason);
            why.push(format!(
                "Payment {} ({}) failed: {text}.",
                payment.attempt, payment.id
            ));
            why.push(match failure {
                Some(failure) if failure.kind == "resolved" => {
                    "An operator resolved it so; that is never retried by itself.".to_owned()
                }
                Some(failure) if failure.retryable => {
                    "Another attempt could succeed, but the attempts of this round are used up."
                        .to_owned()
                }
                _ => "The gateway declined it for good, so the same is not tried again.".to_owned(),
            });
        }
        Standing {
            why,
            next: vec!["Nothing by itself.".into()],
            can: vec![
                (format!("payctl pay {id}"), "try again"),
                (format!("payctl pay {id} --method TOKEN"), "try another way"),
                (format!("payctl invoice cancel {id}"), "give it up"),
            ],
        }
    }

    fn processing(&self) -> Standing {
        let id = &self.invoice.id;
        let open = self.payments.iter().rev().find(|payment| {
            matches!(
                &*payment.status,
                "REQUESTED" | "SENDING" | "ACCEPTED" | "UNKNOWN" | "REVIEW"
            )
        });
        let Some(payment) = open else {
            return Standing {
                why: vec!["It changed while it was read: no payment of it is open.".into()],
                next: vec!["Look again.".into()],
                can: vec![(format!("payctl explain {id}"), "look again")],
            };
        };
        let mut standing = self.open(payment);
        if self.invoice.cancel_requested {
            standing.why.push(
                "A cancel was requested, but this payment may have been sent, so its outcome \
                 decides."
                    .into(),
            );
            standing.next.push(
                "If the payment fails, the invoice becomes CANCELED; if it succeeds, PAID.".into(),
            );
        } else {
            let cancel = if payment.status == "REQUESTED" && payment.sent_at.is_none() {
                "cancel it"
            } else {
                "cancel if it fails"
            };
            standing
                .can
                .push((format!("payctl invoice cancel {id}"), cancel));
        }
        standing
    }

    /// Why an open payment stands where it stands.
    fn open(&self, payment: &Payment<'_>) -> Standing {
        let id = &self.invoice.id;
        let Payment {
            id: payment_id,
            attempt,
            idempotency_key: key,
            ..
        } = payment;
        let name = format!("payment {attempt}");
        let sent = match &payment.sent_at {
            Some(sent) => format!("sent {}", self.when(sent)),
            None => "sent".to_owned(),
        };
        let wait = (format!("payctl wait {id}"), "wait for it");
        let show = (
            format!("payctl payment show {payment_id}"),
            "see the payment",
        );
        let resolve = |what| {
            let command = format!("payctl payment resolve {payment_id} --as {what} --reason TEXT");
            let title = if what == "succeeded" {
                "the gateway shows the charge"
            } else {
                "the gateway shows no charge"
            };
            (command, title)
        };
        let looked_up = "payd asks the gateway at growing distances, up to 15 min, and hourly \
                         after a day.";
        match &*payment.status {
            "REQUESTED" => {
                let why = match &*self.cause(payment) {
                    "retry" => "the one before it failed in a way that another may not",
                    "not_sent" => "the gateway did not execute it when it was sent last",
                    "not_received" => "the gateway proved that it never had it",
                    "manual" => "somebody asked for another round",
                    _ => "somebody asked for it",
                };
                let due = payment.due_at.parse::<Timestamp>();
                let later = due.is_ok_and(|due| due > self.now);
                let next = if later {
                    format!("It goes to the gateway {}.", self.when(&payment.due_at))
                } else {
                    "It is due, and goes to the gateway as soon as payd gets to it.".to_owned()
                };
                let mut can = vec![wait];
                if !later {
                    can.push(("payctl status".to_owned(), "see whether payd is paused"));
                }
                Standing {
                    why: vec![format!("Its {name} is to be sent: {why}.")],
                    next: vec![next],
                    can,
                }
            }
            "SENDING" => Standing {
                why: vec![format!("Its {name} is on its way to the gateway, {sent}.")],
                next: vec![
                    "The gateway's answer decides; without one, payd asks the gateway.".into(),
                ],
                can: vec![wait, show],
            },
            "ACCEPTED" => Standing {
                why: vec![format!(
                    "The gateway took {name} ({sent}) and has not decided yet."
                )],
                next: vec![looked_up.into()],
                can: vec![wait, show],
            },
            "UNKNOWN" => Standing {
                why: vec![
                    format!("Its {name} was {sent}, and nobody knows whether it was charged."),
                    "It is not charged anew, and no other payment is made, until that is known."
                        .into(),
                ],
                next: vec![looked_up.into()],
                can: vec![
                    wait,
                    (
                        format!("payctl payment show {payment_id}"),
                        "see what was sent",
                    ),
                    resolve("succeeded"),
                    resolve("failed"),
                ],
            },
            _ => Standing {
                why: vec![
                    format!("Its {name} was {sent}, and the gateway's word on it does not fit."),
                    "payd does not guess; it cannot decide this.".into(),
                ],
                next: vec![format!(
                    "You decide: look for the key {key} in the gateway's books."
                )],
                can: vec![show, resolve("succeeded"), resolve("failed")],
            },
        }
    }
}

/// The end of a story. None of it is cleaned yet.
struct Standing {
    why: Vec<String>,
    next: Vec<String>,
    /// Commands, and what each is for.
    can: Vec<(String, &'static str)>,
}
