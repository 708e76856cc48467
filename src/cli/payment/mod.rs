//! `payctl payment`: the commands about payments, and how a payment is shown.

mod list;
mod resolve;
mod show;

use anstyle::AnsiColor;
use clap::Subcommand;
use jiff::Timestamp;

use crate::api::{Failure as Reason, Payment};
use crate::cli::context::Context;
use crate::cli::failure::Outcome;
use crate::cli::output::{Format, Output};
use crate::cli::table::{Cell, Column, pairs};
use crate::cli::text::{clean, clock, money, relative, status_style, styled};
use crate::client::Answer;

/// List the payments of an invoice, show one, and resolve one that payd cannot
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Arguments),
    Show(show::Arguments),
    Resolve(resolve::Arguments),
}

/// Runs the one that was typed.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    match arguments.command {
        Command::List(arguments) => list::run(arguments, context).await,
        Command::Show(arguments) => show::run(arguments, context).await,
        Command::Resolve(arguments) => resolve::run(arguments, context).await,
    }
}

/// The columns of a list of payments.
pub(crate) const COLUMNS: &[Column] = &[
    Column::new("#").right(),
    Column::new("PAYMENT"),
    Column::new("STATUS"),
    Column::new("AMOUNT").right().leaves(3),
    Column::new("REQUESTED").leaves(2),
    Column::new("FAILURE").leaves(4),
];

/// A payment as a row of a list.
pub(crate) fn row(payment: &Payment<'_>, now: Timestamp) -> Vec<Cell> {
    let failure = payment.failure.as_ref().map(|failure| &*failure.code);
    vec![
        Cell::new(&payment.attempt.to_string()),
        Cell::new(&payment.id),
        Cell::styled(&payment.status, status_style(&payment.status)),
        Cell::new(&money(payment.amount, &payment.currency)),
        Cell::new(&relative(now, &payment.requested_at)),
        Cell::new(failure.unwrap_or_default()),
    ]
}

/// Why it failed, in one piece: `do_not_honor (Card declined)`. Not cleaned yet.
pub(crate) fn reason(failure: &Reason<'_>) -> String {
    match &failure.message {
        Some(message) if !message.is_empty() => {
            format!("{} ({})", failure.code, message.trim_end_matches('.'))
        }
        _ => failure.code.to_string(),
    }
}

/// Prints one payment: payd's bytes, its id, or everything about it for people.
pub(crate) fn print(
    out: &mut Output,
    answer: &Answer,
    payment: &Payment<'_>,
    now: Timestamp,
) -> Outcome<()> {
    match out.format {
        Format::Json => out.raw(&answer.body),
        Format::Jsonl => out.compact(&answer.body),
        Format::Name => out.line(&clean(&payment.id)),
        Format::Table => {
            let width = out.width();
            out.lines(&details(payment, now, width))
        }
    }
}

/// Prints it in one line where people read, as after a wait.
pub(crate) fn print_short(out: &mut Output, answer: &Answer, payment: &Payment<'_>) -> Outcome<()> {
    if out.format != Format::Table {
        return print(out, answer, payment, Timestamp::UNIX_EPOCH);
    }
    let mut line = format!(
        "{}  {}  {}",
        clean(&payment.invoice_id),
        styled(&payment.status, status_style(&payment.status)),
        money(payment.amount, &payment.currency),
    );
    if payment.attempt > 1 {
        line.push_str(&format!("  payment {}", payment.attempt));
    }
    if let Some(failure) = &payment.failure {
        line.push_str(&format!("  {}", clean(&failure.code)));
    }
    out.line(&line)
}

fn details(payment: &Payment<'_>, now: Timestamp, width: Option<usize>) -> Vec<String> {
    let time = |text: &str| Cell::new(&format!("{} ({})", relative(now, text), clock(text)));
    let mut rows = vec![
        ("payment", Cell::new(&payment.id)),
        ("invoice", Cell::new(&payment.invoice_id)),
        ("number", Cell::new(&payment.attempt.to_string())),
        (
            "status",
            Cell::styled(&payment.status, status_style(&payment.status)),
        ),
        (
            "amount",
            Cell::new(&money(payment.amount, &payment.currency)),
        ),
    ];
    if let Some(failure) = &payment.failure {
        let red = AnsiColor::Red.on_default();
        rows.push(("failure", Cell::styled(&reason(failure), red)));
        rows.push(("failure kind", Cell::new(&failure.kind)));
        let again = if failure.retryable { "yes" } else { "no" };
        rows.push(("retryable", Cell::new(again)));
    }
    if let Some(gateway) = &payment.gateway {
        rows.push(("gateway", Cell::new(gateway)));
    }
    if let Some(reference) = &payment.gateway_reference {
        rows.push(("gateway reference", Cell::new(reference)));
    }
    rows.push(("idempotency key", Cell::new(&payment.idempotency_key)));
    rows.push(("requested", time(&payment.requested_at)));
    if payment.finished_at.is_none() {
        rows.push(("due", time(&payment.due_at)));
    }
    if let Some(sent) = &payment.sent_at {
        rows.push(("last sent", time(sent)));
    }
    if let Some(finished) = &payment.finished_at {
        rows.push(("decided", time(finished)));
    }
    pairs(&rows, width)
}
