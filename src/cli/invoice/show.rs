//! `payctl invoice show`.

use clap_complete::engine::ArgValueCompleter;

use crate::cli::arguments::InvoiceId;
use crate::cli::completion::invoices;
use crate::cli::context::Context;
use crate::cli::failure::{Exit, Outcome};

/// Show an invoice
///
/// `payctl explain` tells how it came to stand where it stands.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The invoice's id
    #[arg(value_name = "ID", value_parser = InvoiceId::parse, add = ArgValueCompleter::new(invoices))]
    id: InvoiceId,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let (answer, invoice) = context.invoice(&arguments.id).await?;
    let now = context.now();
    super::print(&mut context.out, &answer, &invoice, now)?;
    Ok(Exit::Done)
}
