//! `payctl invoice cancel`.

use clap_complete::engine::ArgValueCompleter;
use hyper::StatusCode;
use serde_json::json;

use crate::api::Invoice;
use crate::cli::arguments::InvoiceId;
use crate::cli::completion::invoices;
use crate::cli::context::{Context, new_key, read};
use crate::cli::failure::{Exit, Outcome};

/// Cancel an invoice
///
/// Where a payment may have been sent already, the cancel is only requested: the invoice becomes
/// CANCELED if that payment fails, and PAID if it succeeds. That is said on stderr, and the exit
/// code is 0, since the request is recorded; `payctl wait ID --for final` waits for what it comes
/// to. A paid invoice is not canceled (exit 6).
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The invoice's id
    #[arg(value_name = "ID", value_parser = InvoiceId::parse, add = ArgValueCompleter::new(invoices))]
    id: InvoiceId,

    /// Why; it is kept in the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let id = &arguments.id;
    let body = match &arguments.reason {
        Some(reason) => json!({ "reason": reason }).to_string().into_bytes(),
        None => Vec::new(),
    };
    let answer = context.post(&id.path("/cancel"), body, &new_key()?).await?;
    let invoice: Invoice<'static> = read(&answer.body, "invoice")?;
    if answer.status == StatusCode::ACCEPTED {
        context.out.note(&format!(
            "the cancel of {id} is only requested: a payment may have been sent, and its outcome \
             decides. `payctl wait {id} --for final` waits for it"
        ));
    }
    let now = context.now();
    super::print_short(&mut context.out, &answer, &invoice, now)?;
    Ok(Exit::Done)
}
