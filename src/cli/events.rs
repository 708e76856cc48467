//! `payctl events`: the log of what happened, and what happens.
//!
//! The cursor is the truth: it is the sequence of the last event printed, and every connection
//! goes on behind it. So a restart of payd leaves no gap and prints nothing twice.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use anstyle::{AnsiColor, Style};
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::sleep;
use unicode_width::UnicodeWidthStr;

use crate::cli::arguments::InvoiceId;
use crate::cli::completion::invoices;
use crate::cli::context::{Context, Pause, asks_for_patience, query};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::text::{clean, money, relative, styled};
use crate::cli::watch::SILENCE_MAX;
use crate::client::{Request, Streamed};
use crate::domain::EventType;

/// How many of the latest are shown where nothing else is asked for.
const TAIL_DEFAULT: u64 = 10;
/// The largest page that is asked for.
const PAGE_MAX: u64 = 1000;
/// How far back the first look for filtered events goes; each further look goes four times as
/// far.
const WINDOW_FIRST: u64 = 1000;

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

/// A page whose events stay the bytes that they are.
#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    next: String,
}

/// What of an event is needed to show it.
#[derive(Deserialize)]
struct Shown<'a> {
    id: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: Cow<'a, str>,
    subject: Cow<'a, str>,
    time: Cow<'a, str>,
    #[serde(default)]
    data: Value,
}

/// What of an event is needed to go on behind it.
#[derive(Deserialize)]
struct Numbered<'a> {
    id: Cow<'a, str>,
}

/// Which events.
struct Filter {
    types: Vec<&'static str>,
    invoice: Option<InvoiceId>,
}

impl Filter {
    fn target(&self, after: impl fmt::Display, limit: Option<u64>) -> String {
        let after = after.to_string();
        let limit = limit.map(|limit| limit.to_string());
        let mut pairs = vec![("after", after.as_str())];
        pairs.extend(self.types.iter().map(|kind| ("type", *kind)));
        pairs.extend(self.invoice.iter().map(|id| ("invoice", id.as_str())));
        pairs.extend(limit.iter().map(|limit| ("limit", limit.as_str())));
        format!("/events{}", query(&pairs))
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

/// The sequence of the latest event.
async fn head(context: &mut Context) -> Outcome<u64> {
    let answer = context.get("/events?after=now&limit=1").await?;
    let page: RawPage<'_> = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::unreadable("page of events", &error))?;
    sequence(&page.next)
}

fn sequence(text: &str) -> Outcome<u64> {
    text.parse()
        .map_err(|_| Failure::unexpected(format!("payd's cursor `{text}` is no number")))
}

/// Pages of events up to a sequence.
struct Pages {
    cursor: u64,
    upper: u64,
    ended: bool,
}

impl Pages {
    fn new(after: u64, upper: u64) -> Self {
        Self {
            cursor: after,
            upper,
            ended: after >= upper,
        }
    }

    /// The next page, at most so many; `None` behind the last.
    async fn next(
        &mut self,
        filter: &Filter,
        limit: u64,
        context: &mut Context,
    ) -> Outcome<Option<Vec<Box<RawValue>>>> {
        if self.ended || limit == 0 {
            return Ok(None);
        }
        let target = filter.target(self.cursor, Some(limit.min(PAGE_MAX)));
        let answer = context.get(&target).await?;
        let page: RawPage<'_> = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::unreadable("page of events", &error))?;
        let mut events = Vec::with_capacity(page.events.len());
        for event in page.events {
            if number(event.get().as_bytes())? > self.upper {
                self.ended = true;
                break;
            }
            events.push(event.to_owned());
        }
        let next = sequence(&page.next)?;
        // A cursor that stays is the end; one that moves may have passed over other events.
        self.ended = self.ended || next <= self.cursor || next >= self.upper;
        self.cursor = next;
        Ok(Some(events))
    }
}

fn number(event: &[u8]) -> Outcome<u64> {
    let numbered: Numbered<'_> =
        serde_json::from_slice(event).map_err(|error| Failure::unreadable("event", &error))?;
    sequence(&numbered.id)
}

/// The last events up to the head that pass the filter, oldest first. It looks back window by
/// window, so that the end of a long log is found without reading all of it.
async fn last(
    filter: &Filter,
    count: u64,
    head: u64,
    context: &mut Context,
) -> Outcome<VecDeque<String>> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut found: VecDeque<String> = VecDeque::new();
    let mut upper = head;
    let mut window = match (&filter.invoice, filter.types.is_empty()) {
        // payd finds an invoice's events by itself.
        (Some(_), _) => u64::MAX,
        (None, true) => count as u64,
        (None, false) => WINDOW_FIRST.max(count as u64),
    };
    while found.len() < count && upper > 0 {
        let lower = upper.saturating_sub(window.max(1));
        let mut here: VecDeque<String> = VecDeque::new();
        let mut pages = Pages::new(lower, upper);
        while let Some(events) = pages.next(filter, PAGE_MAX, context).await? {
            for event in events {
                here.push_back(event.get().to_owned());
                if here.len() + found.len() > count {
                    here.pop_front();
                }
            }
        }
        here.append(&mut found);
        found = here;
        upper = lower;
        window = window.saturating_mul(4);
    }
    Ok(found)
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
                if !connected_once || !asks_for_patience(&failure) {
                    return Err(failure);
                }
                sleep(wait.unwrap_or_else(|| pause.next())).await;
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
                Ok(None) => break "payd closed the stream".to_owned(),
                Err(error) => break error.to_string(),
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

/// An event in one line: when, which, what, whose, and how; in two where the terminal is too
/// narrow for that.
fn human(event: &Shown<'_>, now: Timestamp, width: Option<usize>) -> Vec<String> {
    let time = match event.time.parse::<Timestamp>() {
        Ok(time) if same_day(time, now) => time.strftime("%H:%M:%S").to_string(),
        Ok(time) => time.strftime("%m-%d %H:%M").to_string(),
        Err(_) => clean(&event.time).into_owned(),
    };
    let dim = Style::new().dimmed();
    let kind = format!("{:<16}", clean(&event.kind));
    let plain = format!("{time}  {:>4}  {kind}  ", clean(&event.id)).width();
    let first = format!(
        "{}  {:>4}  {}  {}",
        styled(&time, dim),
        clean(&event.id),
        styled(&kind, style(&event.kind)),
        clean(&event.subject),
    );
    let details = details(&event.kind, &event.data, now);
    let details = clean(&details);
    let needed = plain + event.subject.width() + 2 + details.width();
    if width.is_some_and(|width| needed > width) {
        return vec![first, format!("{:plain$}{details}", "")];
    }
    vec![format!("{first}  {details}")]
}

fn same_day(one: Timestamp, other: Timestamp) -> bool {
    one.as_second().div_euclid(86_400) == other.as_second().div_euclid(86_400)
}

fn style(kind: &str) -> Style {
    match kind {
        "PaymentSucceeded" => AnsiColor::Green.on_default(),
        "PaymentFailed" => AnsiColor::Red.on_default(),
        "PaymentUnknown" => AnsiColor::Magenta.on_default(),
        "PaymentReviewRequired" | "PaymentContradicted" | "InvoiceAttentionRequired" => {
            AnsiColor::Magenta.on_default().bold()
        }
        "PaymentRequested" | "PaymentAccepted" => AnsiColor::Yellow.on_default(),
        "PaymentCanceled" | "InvoiceCanceled" => Style::new().dimmed(),
        _ => Style::new(),
    }
}

/// What sets the event apart, in a few words. Not cleaned yet.
fn details(kind: &str, data: &Value, now: Timestamp) -> String {
    let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut parts: Vec<String> = Vec::new();
    if let Some(attempt) = data.get("attempt").and_then(Value::as_u64) {
        parts.push(format!("#{attempt}"));
    }
    let amount = data.get("amount").and_then(Value::as_u64).unwrap_or(0);
    match kind {
        "InvoiceCreated" | "PaymentSucceeded" => parts.push(money(amount, text("currency"))),
        "PaymentRequested" => {
            parts.push(text("cause").to_owned());
            let due = relative(now, text("due_at"));
            if due.starts_with("in ") {
                parts.push(format!("due {due}"));
            }
        }
        "PaymentFailed" => {
            let code = data.pointer("/failure/code").and_then(Value::as_str);
            parts.push(code.unwrap_or("failed").to_owned());
            let again = data.get("will_retry").and_then(Value::as_bool);
            parts.push(if again == Some(true) {
                let next = relative(now, text("next_attempt_at"));
                if next.starts_with("in ") {
                    format!("again {next}")
                } else {
                    "tried again".to_owned()
                }
            } else {
                "for good".to_owned()
            });
        }
        "PaymentResolved" => {
            parts.push(format!("as {} by {}:", text("as"), text("actor")));
            parts.push(text("reason").to_owned());
        }
        "PaymentContradicted" => {
            let evidence = data.get("evidence");
            parts.push(match evidence {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            });
        }
        _ => parts.push(text("reason").to_owned()),
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_an_event_and_cannot_harm_a_terminal() {
        let now: Timestamp = "2026-01-02T03:04:06Z".parse().unwrap();
        let event = serde_json::json!({
            "id": "42", "type": "PaymentFailed", "subject": "inv-1",
            "time": "2026-01-02T03:04:05.678Z",
            "data": {
                "attempt": 1, "will_retry": true, "next_attempt_at": "2026-01-02T03:04:10Z",
                "failure": {"code": "soft\u{1b}[2J"},
            },
        });
        let text = event.to_string();
        let shown: Shown<'_> = serde_json::from_str(&text).unwrap();
        let plain = |width| {
            let lines = human(&shown, now, width).join("\n");
            anstream::adapter::strip_str(&lines).to_string()
        };
        let narrow = plain(Some(50));
        assert_eq!(
            narrow.lines().nth(1),
            Some(&*format!("{:34}#1 soft[2J again in 4 s", ""))
        );
        assert_eq!(
            plain(Some(80)),
            "03:04:05    42  PaymentFailed     inv-1  #1 soft[2J again in 4 s"
        );
    }

    #[test]
    fn after_is_a_place_in_the_log() {
        assert_eq!("7".parse(), Ok(After::Sequence(7)));
        assert_eq!("now".parse(), Ok(After::Now));
        assert_eq!("beginning".parse(), Ok(After::Beginning));
        assert!("yesterday".parse::<After>().is_err());
    }
}
