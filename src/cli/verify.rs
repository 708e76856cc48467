//! `payctl verify`: has payd check its own store, chain and tables, while payments go on.

use std::time::Duration;

use serde::Deserialize;

use crate::cli::context::{Context, read, succeeded};
use crate::cli::failure::{Exit, Outcome};
use crate::cli::output::Format;
use crate::cli::text::{clean, count};
use crate::client::Request;

/// How long payd may take: a million events take it some ten seconds.
const VERIFY_MAX: Duration = Duration::from_secs(3600);

/// Check that payd's database is what payd wrote
///
/// Each event carries a digest over the one before it and its own bytes, so that an edit after the fact
/// shows; and the tables must be what the events come to. Exits with 1 where something is found.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  payctl verify\n  payctl verify -o json | jq .findings")]
pub(crate) struct Arguments {}

#[derive(Deserialize)]
struct Verdict {
    ok: bool,
    events: u64,
    invoices: u64,
    /// A payd before this payctl does not say.
    tokens: Option<u64>,
    found: u64,
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    place: String,
    what: String,
}

/// Runs it.
pub(crate) async fn run(_: Arguments, context: &mut Context) -> Outcome {
    let spinner = context.out.spinner();
    spinner.set_message("payd checks its database");
    let request = Request::get("/admin/verify").within(VERIFY_MAX);
    let answered = context.client.send(&request).await;
    spinner.finish_and_clear();
    let answer = succeeded(answered?)?;
    let verdict: Verdict = read(&answer.body, "verdict")?;
    match context.out.format {
        Format::Json => context.out.raw(&answer.body)?,
        Format::Jsonl => context.out.compact(&answer.body)?,
        Format::Name => {
            for finding in &verdict.findings {
                context.out.line(&clean(&finding.place))?;
            }
        }
        Format::Table => {
            for finding in &verdict.findings {
                let line = format!("{}: {}", clean(&finding.place), clean(&finding.what));
                context.out.line(&line)?;
            }
            let (events, invoices) = (
                count(verdict.events, "event"),
                count(verdict.invoices, "invoice"),
            );
            let tokens = match verdict.tokens {
                Some(tokens) => format!(", {}", count(tokens, "token")),
                None => String::new(),
            };
            let said = match verdict.ok {
                true => format!(
                    "ok: {events} in an unbroken chain; {invoices} as the events say{tokens}"
                ),
                false => format!(
                    "{} in {events} and {invoices}",
                    count(verdict.found, "finding")
                ),
            };
            context.out.line(&said)?;
        }
    }
    if verdict.ok {
        return Ok(Exit::Done);
    }
    context.out.warn(
        "the database is not what payd wrote: stop payd, keep a copy of its directory, and restore a backup",
    );
    Ok(Exit::Unexpected)
}
