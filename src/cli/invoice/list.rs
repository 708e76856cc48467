//! `payctl invoice list`.

use std::time::Duration;

use clap::ValueEnum;

use crate::api::Invoice;
use crate::cli::context::{Context, query, read};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::table::Table;
use crate::cli::text::clean;
use crate::client::{Request, Streamed};
use serde::Deserialize;
use serde_json::value::RawValue;

/// How long payd may pause in the middle of a list.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Rows that are laid out together when a list is streamed.
const ROWS_AT_ONCE: usize = 100;

/// List invoices, newest first
///
/// A ! marks those that need an operator's attention: `payctl explain ID` says why.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only those of this status
    #[arg(long, value_enum, value_name = "STATUS", ignore_case = true)]
    status: Option<Status>,

    /// How many at most
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    limit: u16,

    /// All of them, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
enum Status {
    Pending,
    Processing,
    Paid,
    Failed,
    Canceled,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "PENDING",
            Status::Processing => "PROCESSING",
            Status::Paid => "PAID",
            Status::Failed => "FAILED",
            Status::Canceled => "CANCELED",
        }
    }
}

/// A page whose invoices stay the bytes that they are.
#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    invoices: Vec<&'a RawValue>,
    next: Option<String>,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let limit = arguments.limit.to_string();
    let mut pairs = Vec::new();
    if let Some(status) = arguments.status {
        pairs.push(("status", status.as_str()));
    }
    if arguments.all {
        return all(&query(&pairs), context).await;
    }
    pairs.push(("limit", &limit));
    let answer = context.get(&format!("/invoices{}", query(&pairs))).await?;
    if context.out.format == Format::Json {
        context.out.raw(&answer.body)?;
        return Ok(Exit::Done);
    }
    let page: RawPage<'_> = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::unreadable("page of invoices", &error))?;
    let mut printer = Printer::new(context);
    for invoice in &page.invoices {
        printer.add(invoice.get().as_bytes(), context)?;
    }
    printer.end(context)?;
    if context.out.format == Format::Table {
        context.out.flush()?;
        if page.invoices.is_empty() {
            context.out.note("no invoices");
        } else if page.next.is_some() {
            context.out.note("there are more: --limit N, or --all");
        }
    }
    Ok(Exit::Done)
}

/// One line at a time, whatever their number.
async fn all(query: &str, context: &mut Context) -> Outcome {
    let request = Request::get(format!("/invoices{query}")).ndjson();
    let mut lines = match context.client.stream(&request).await? {
        Streamed::Lines(lines) => lines,
        Streamed::Refused(answer) => return Err(Failure::refused(answer)),
    };
    let mut printer = Printer::new(context);
    while let Some(line) = lines.next(IDLE_MAX).await? {
        if !line.is_empty() {
            printer.add(&line, context)?;
        }
    }
    printer.end(context)?;
    Ok(Exit::Done)
}

/// Prints invoices in the format that was asked for, a few at a time.
struct Printer {
    table: Table,
    rows: Vec<Vec<crate::cli::table::Cell>>,
    now: jiff::Timestamp,
}

impl Printer {
    fn new(context: &Context) -> Self {
        Self {
            table: Table::new(super::COLUMNS, context.out.width()),
            rows: Vec::new(),
            now: context.now(),
        }
    }

    fn add(&mut self, bytes: &[u8], context: &mut Context) -> Outcome<()> {
        if context.out.format.is_json() {
            return context.out.compact(bytes);
        }
        let invoice: Invoice<'static> = read(bytes, "invoice")?;
        if context.out.format == Format::Name {
            return context.out.line(&clean(&invoice.id));
        }
        self.rows.push(super::row(&invoice, self.now));
        if self.rows.len() >= ROWS_AT_ONCE {
            self.end(context)?;
        }
        Ok(())
    }

    fn end(&mut self, context: &mut Context) -> Outcome<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let lines = self.table.lines(&self.rows);
        self.rows.clear();
        context.out.lines(&lines)
    }
}
