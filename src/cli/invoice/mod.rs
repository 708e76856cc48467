//! `payctl invoice`: the commands about invoices, and how an invoice is shown.

mod batch;
mod cancel;
mod create;
mod list;
mod show;

use clap::Subcommand;
use jiff::Timestamp;

use crate::api::Invoice;
use crate::cli::context::Context;
use crate::cli::failure::Outcome;
use crate::cli::output::{Format, Output};
use crate::cli::table::{Cell, Column, Table, pairs};
use crate::cli::text::{clock, money, relative, status_style};
use crate::client::Answer;

/// Create invoices, list, show and cancel them
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    Cancel(cancel::Arguments),
}

/// Runs the one that was typed.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    match arguments.command {
        Command::Create(arguments) => Box::pin(create::run(arguments, context)).await,
        Command::List(arguments) => list::run(arguments, context).await,
        Command::Show(arguments) => show::run(arguments, context).await,
        Command::Cancel(arguments) => cancel::run(arguments, context).await,
    }
}

/// The columns of a list of invoices.
pub(crate) const COLUMNS: &[Column] = &[
    Column::new("INVOICE"),
    Column::new("STATUS"),
    Column::new("AMOUNT").right(),
    Column::new("CREATED").leaves(1),
    Column::new("PAYMENTS").right().leaves(2),
    Column::new("DESCRIPTION").leaves(3),
];

/// The longest description that a list shows; `show` has all of it.
const DESCRIPTION_CHARS_MAX: usize = 40;

/// An invoice as a row of a list.
pub(crate) fn row(invoice: &Invoice<'_>, now: Timestamp) -> Vec<Cell> {
    let description = invoice.description.as_deref().unwrap_or_default();
    let mut short: String = description.chars().take(DESCRIPTION_CHARS_MAX).collect();
    if short.len() < description.len() {
        short.push('…');
    }
    let mut status = invoice.status.to_string();
    if invoice.needs_attention {
        status.push_str(" !");
    }
    vec![
        Cell::new(&invoice.id),
        Cell::styled(&status, status_style(&invoice.status)),
        Cell::new(&money(invoice.amount, &invoice.currency)),
        Cell::new(&relative(now, &invoice.created_at)),
        Cell::new(&invoice.attempts.to_string()),
        Cell::new(&short),
    ]
}

/// Prints one invoice: payd's bytes, its id, or everything about it for people.
pub(crate) fn print(
    out: &mut Output,
    answer: &Answer,
    invoice: &Invoice<'_>,
    now: Timestamp,
) -> Outcome<()> {
    match out.format {
        Format::Json => out.raw(&answer.body),
        Format::Jsonl => out.compact(&answer.body),
        Format::Name => out.line(&crate::cli::text::clean(&invoice.id)),
        Format::Table => {
            let width = out.width();
            out.lines(&details(invoice, now, width))
        }
    }
}

/// Prints it in one line where people read, as after a wait.
pub(crate) fn print_short(
    out: &mut Output,
    answer: &Answer,
    invoice: &Invoice<'_>,
    now: Timestamp,
) -> Outcome<()> {
    if out.format != Format::Table {
        return print(out, answer, invoice, now);
    }
    let lines = Table::new(COLUMNS, out.width()).lines(&[row(invoice, now)]);
    out.lines(&lines)
}

fn details(invoice: &Invoice<'_>, now: Timestamp, width: Option<usize>) -> Vec<String> {
    let time = |text: &str| Cell::new(&format!("{} ({})", relative(now, text), clock(text)));
    let mut rows = vec![
        ("invoice", Cell::new(&invoice.id)),
        (
            "status",
            Cell::styled(&invoice.status, status_style(&invoice.status)),
        ),
        (
            "amount",
            Cell::new(&money(invoice.amount, &invoice.currency)),
        ),
    ];
    if let Some(description) = &invoice.description {
        rows.push(("description", Cell::new(description)));
    }
    for (key, value) in invoice.metadata.iter() {
        rows.push(("metadata", Cell::new(&format!("{key} = {value}"))));
    }
    if let Some(method) = &invoice.payment_method {
        rows.push(("payment method", Cell::new(method)));
    }
    rows.push(("payments made", Cell::new(&invoice.attempts.to_string())));
    if let Some(next) = &invoice.next_attempt_at {
        rows.push(("next attempt", time(next)));
    }
    if invoice.cancel_requested && invoice.status == "PROCESSING" {
        let text = "requested; a payment may have been sent, its outcome decides";
        rows.push(("cancel", Cell::new(text)));
    }
    if invoice.needs_attention {
        let text = format!("needed: payctl explain {}", invoice.id);
        rows.push((
            "attention",
            Cell::styled(&text, anstyle::AnsiColor::Red.on_default().bold()),
        ));
    }
    rows.push(("created", time(&invoice.created_at)));
    rows.push(("updated", time(&invoice.updated_at)));
    if let Some(due) = &invoice.due_at {
        rows.push(("due", time(due)));
    }
    if let Some(paid) = &invoice.paid_at {
        rows.push(("paid", time(paid)));
    }
    pairs(&rows, width)
}
