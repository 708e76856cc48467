//! The story as it is told: who it is about, what happened, why it stands there, what comes next and
//! what one can do.

use anstyle::AnsiColor;
use jiff::Timestamp;
use serde_json::Value;

use super::sentence::sentence;
use super::standing::Standing;
use crate::api::{Event, Invoice, Payment};
use crate::cli::output::Output;
use crate::cli::text::{clean, clock, money, relative, status_style, styled, wrap_prose};

/// Sentences stand in from the headings.
const INDENT: &str = "  ";
/// What happened stands behind its time.
const EVENT_INDENT: &str = "                        ";
/// What is told, and when.
pub(super) struct Story<'a> {
    pub(super) invoice: &'a Invoice<'a>,
    pub(super) payments: &'a [Payment<'a>],
    pub(super) events: &'a [Event<'a>],
    pub(super) now: Timestamp,
    /// Why payd sends nothing, while it does not.
    pub(super) held: Option<&'a Held>,
}

/// What holds every payment back.
pub(super) struct Held {
    /// In a sentence.
    pub(super) why: String,
    /// The command that ends it.
    pub(super) resume: String,
}

impl Story<'_> {
    /// All of it, in lines that fit the terminal.
    pub(super) fn tell(&self, width: Option<usize>) -> Vec<String> {
        let invoice = self.invoice;
        let mut lines = vec![format!(
            "{} over {} is {}.",
            Output::bold(&invoice.id),
            money(invoice.amount, &invoice.currency),
            styled(&invoice.status, status_style(&invoice.status)),
        )];
        if let Some(description) = &invoice.description {
            let description = format!("  {}", clean(description));
            lines.extend(wrap_prose(&description, width, INDENT));
        }
        lines.push(String::new());
        lines.push(Output::bold("What happened"));
        for event in self.events {
            let data: Value = serde_json::from_str(event.data.get()).unwrap_or_default();
            let (time, sentence) = (clock(&event.time), sentence(event, &data));
            let room = format!("{EVENT_INDENT}{}", clean(&sentence));
            let mut told = wrap_prose(&room, width, EVENT_INDENT);
            if let Some(first) = told.first_mut() {
                *first = format!("  {time}  {}", first.trim_start());
            }
            lines.extend(told);
        }
        let Standing { why, next, can } = self.standing();
        lines.push(String::new());
        lines.push(Output::bold("Why it stands there"));
        let told = |line: &String| wrap_prose(&format!("  {}", clean(line)), width, INDENT);
        lines.extend(why.iter().flat_map(told));
        if invoice.needs_attention {
            let red = AnsiColor::Red.on_default().bold();
            let text = match self.attention() {
                Some(reason) => format!("It needs your attention: {reason}"),
                None => "It needs your attention.".to_owned(),
            };
            // The colour goes around each line: a word of prose is cut where it is long.
            let told = wrap_prose(&format!("  {}", clean(&text)), width, INDENT);
            lines.extend(
                told.iter()
                    .map(|line| format!("  {}", styled(line.trim_start(), red))),
            );
        }
        lines.push(String::new());
        lines.push(Output::bold("What comes next"));
        lines.extend(next.iter().flat_map(told));
        if !can.is_empty() {
            lines.push(String::new());
            lines.push(Output::bold("What you can do"));
            let column = can.iter().map(|(_, what)| what.len()).max().unwrap_or(0);
            let needed = |(command, _): &(String, &str)| 2 + column + 2 + command.len();
            let narrow = width.is_some_and(|width| can.iter().any(|each| needed(each) > width));
            for (command, what) in &can {
                let command = clean(command);
                if narrow {
                    // A command that is broken over lines cannot be copied.
                    lines.push(format!("  {what}:"));
                    lines.push(format!("    {command}"));
                } else {
                    lines.push(format!("  {what:<column$}  {command}"));
                }
            }
        }
        lines
    }

    /// `in 2 s (2026-01-02 03:04:05Z)`.
    pub(super) fn when(&self, time: &str) -> String {
        format!("{} ({})", relative(self.now, time), clock(time))
    }
    /// The number of a payment whose failure the gateway has since contradicted: no later one is sent.
    pub(super) fn doubted(&self) -> Option<u32> {
        if !self.invoice.needs_attention {
            return None;
        }
        let contradicted = self.events.iter().rev();
        let event = contradicted.filter(|event| event.kind == "PaymentContradicted");
        event
            .filter_map(|event| serde_json::from_str::<Value>(event.data.get()).ok())
            .find_map(|data| {
                let id = data.get("payment_id")?.as_str()?;
                let payment = self.payments.iter().find(|it| it.id == id)?;
                (payment.status == "FAILED").then_some(payment.attempt)
            })
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
}
