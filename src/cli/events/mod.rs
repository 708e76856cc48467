//! `payctl events`: the log of what happened, and what happens.
//!
//! The cursor is the truth: it is the sequence of the last event printed, and every connection
//! goes on behind it. So a restart of payd leaves no gap and prints nothing twice.

mod line;
mod pages;

use std::str::FromStr;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use clap_complete::engine::ArgValueCompleter;
use tokio::time::sleep;

use crate::cli::arguments::InvoiceId;
use crate::cli::completion::invoices;
use crate::cli::context::{Context, Pause, asks_for_patience};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::text::clean;
use crate::cli::watch::SILENCE_MAX;
use crate::client::{Error, Request, Streamed};
use crate::domain::EventType;
use line::{Shown, human};
use pages::{Filter, Pages, head, last, number};

/// How many of the latest are shown where nothing else is asked for.
const TAIL_DEFAULT: u64 = 10;
/// See what happened, and what happens
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Tail(Tail),
}

/// Print the latest events, and with -f those to come
///
/// Without --after: the last N, oldest first. With --after: all that follow it, or the first N of
/// them where -n is given. Times are UTC.
///
/// With -f it goes on until it is stopped, also through a restart of payd, without a gap and
/// without printing anything twice.
#[derive(Debug, clap::Args)]
struct Tail {
    /// Go on with what happens
    #[arg(short, long)]
    follow: bool,

    /// Where to begin: behind an event's sequence, at the beginning, or now
    #[arg(long, value_name = "SEQ|now|beginning")]
    after: Option<After>,

    /// Only events of this type; may be repeated
    #[arg(
        long = "type",
        value_name = "TYPE",
        ignore_case = true,
        value_parser = PossibleValuesParser::new(EventType::ALL.iter().map(|kind| kind.as_str())),
        hide_possible_values = true
    )]
    types: Vec<String>,

    /// Only events of this invoice
    #[arg(
        long,
        value_name = "ID",
        value_parser = InvoiceId::parse,
        add = ArgValueCompleter::new(invoices)
    )]
    invoice: Option<InvoiceId>,

    /// How many; 10 where neither this nor --after is given
    #[arg(short = 'n', long = "lines", value_name = "N")]
    number: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Sequence(u64),
    Now,
    Beginning,
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "now" => Ok(After::Now),
            "beginning" => Ok(After::Beginning),
            _ => match text.parse() {
                Ok(sequence) => Ok(After::Sequence(sequence)),
                Err(_) => Err("write an event's sequence, `now` or `beginning`".to_owned()),
            },
        }
    }
}

/// Runs the one that was typed.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    match arguments.command {
        Command::Tail(tail) => Box::pin(run_tail(tail, context)).await,
    }
}

async fn run_tail(tail: Tail, context: &mut Context) -> Outcome {
    let typed = |kind: &&EventType| {
        let same = |typed: &String| typed.eq_ignore_ascii_case(kind.as_str());
        tail.types.iter().any(same)
    };
    let types: Vec<&str> = EventType::ALL
        .iter()
        .filter(typed)
        .map(|kind| kind.as_str())
        .collect();
    let filter = Filter {
        types,
        invoice: tail.invoice,
    };
    let cursor = match tail.after {
        Some(After::Sequence(sequence)) => sequence,
        Some(After::Beginning) => 0,
        Some(After::Now) => head(context).await?,
        None => {
            let head = head(context).await?;
            let number = tail.number.unwrap_or(TAIL_DEFAULT);
            for event in last(&filter, number, head, context).await? {
                print(event.as_bytes(), context)?;
            }
            head
        }
    };
    let limit = tail.after.and(tail.number);
    if tail.follow {
        context.out.flush()?;
        return follow(&filter, cursor, limit, context).await;
    }
    if tail.after.is_some() {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut pages = Pages::new(cursor, u64::MAX);
        while let Some(events) = pages.next(&filter, left, context).await? {
            for event in &events {
                print(event.get().as_bytes(), context)?;
            }
            left = left.saturating_sub(events.len() as u64);
            if left == 0 {
                break;
            }
        }
    }
    Ok(Exit::Done)
}

/// Prints what happens behind the cursor, over any number of connections.
async fn follow(
    filter: &Filter,
    mut cursor: u64,
    limit: Option<u64>,
    context: &mut Context,
) -> Outcome {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut pause = Pause::new();
    let mut connected_once = false;
    let mut noticed = false;
    while left > 0 {
        let request = Request::get(filter.target(cursor, None)).ndjson();
        let mut lines = match context.client.stream(&request).await {
            Ok(Streamed::Lines(lines)) => lines,
            Ok(Streamed::Refused(answer)) => {
                let wait = answer.retry_after();
                let failure = Failure::refused(answer);
                if !asks_for_patience(&failure) {
                    return Err(failure);
                }
                if !noticed {
                    let why = failure.explain().0;
                    context.out.note(&format!(
                        "payd gives no stream now ({why}); going on behind event {cursor} when it does"
                    ));
                    noticed = true;
                }
                // It answers, so a restart that follows is waited for as well.
                connected_once = true;
                let least = pause.next();
                sleep(wait.unwrap_or(least).max(least)).await;
                continue;
            }
            Err(error) if !connected_once => return Err(error.into()),
            Err(_) => {
                sleep(pause.next()).await;
                continue;
            }
        };
        connected_once = true;
        let why = loop {
            let line = match lines.next(SILENCE_MAX).await {
                Ok(Some(line)) => line,
                Ok(None) => break "payd closed the stream",
                Err(Error::Silent { .. }) => break "payd gave no sign of life",
                Err(_) => break "the connection to payd broke",
            };
            pause = Pause::new();
            noticed = false;
            if line.is_empty() {
                continue;
            }
            let sequence = number(&line)?;
            if sequence <= cursor {
                continue;
            }
            print(&line, context)?;
            cursor = sequence;
            left -= 1;
            if left == 0 {
                return Ok(Exit::Done);
            }
            if !lines.has_line() {
                context.out.flush()?;
            }
        };
        if !noticed {
            context.out.note(&format!(
                "{why}; going on behind event {cursor} when it is back"
            ));
            noticed = true;
        }
        sleep(pause.next()).await;
    }
    Ok(Exit::Done)
}

fn print(event: &[u8], context: &mut Context) -> Outcome<()> {
    if context.out.format.is_json() {
        return context.out.compact(event);
    }
    let shown: Shown<'_> =
        serde_json::from_slice(event).map_err(|error| Failure::unreadable("event", &error))?;
    if context.out.format == Format::Name {
        return context.out.line(&clean(&shown.id));
    }
    let lines = human(&shown, context.now(), context.out.width());
    context.out.lines(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_is_a_place_in_the_log() {
        assert_eq!("7".parse(), Ok(After::Sequence(7)));
        assert_eq!("now".parse(), Ok(After::Now));
        assert_eq!("beginning".parse(), Ok(After::Beginning));
        assert!("yesterday".parse::<After>().is_err());
    }
}
