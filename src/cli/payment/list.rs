//! `payctl payment list`.

use clap_complete::engine::ArgValueCompleter;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::Payment;
use crate::cli::arguments::InvoiceId;
use crate::cli::completion::invoices;
use crate::cli::context::{Context, read};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::table::Table;
use crate::cli::text::clean;

/// List the payments of an invoice, oldest first
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The invoice's id
    #[arg(value_name = "INVOICE", value_parser = InvoiceId::parse, add = ArgValueCompleter::new(invoices))]
    invoice: InvoiceId,
}

/// A page whose payments stay the bytes that they are.
#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    payments: Vec<&'a RawValue>,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let answer = context.get(&arguments.invoice.path("/payments")).await?;
    if context.out.format == Format::Json {
        context.out.raw(&answer.body)?;
        return Ok(Exit::Done);
    }
    let page: RawPage<'_> = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::unreadable("list of payments", &error))?;
    let mut rows = Vec::new();
    for raw in page.payments {
        let bytes = raw.get().as_bytes();
        if context.out.format == Format::Jsonl {
            context.out.compact(bytes)?;
            continue;
        }
        let payment: Payment<'static> = read(bytes, "payment")?;
        if context.out.format == Format::Name {
            context.out.line(&clean(&payment.id))?;
        } else {
            rows.push(super::row(&payment, context.now()));
        }
    }
    if context.out.format == Format::Table {
        if rows.is_empty() {
            let id = &arguments.invoice;
            context
                .out
                .note(&format!("no payments yet; `payctl pay {id}` makes one"));
        } else {
            let lines = Table::new(super::COLUMNS, context.out.width()).lines(&rows);
            context.out.lines(&lines)?;
        }
    }
    Ok(Exit::Done)
}
