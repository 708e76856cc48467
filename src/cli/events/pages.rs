//! The log page by page: what there is, and the last of it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::arguments::InvoiceId;
use crate::cli::context::{Context, query};
use crate::cli::failure::{Failure, Outcome};

/// The largest page that is asked for.
const PAGE_MAX: u64 = 1000;
/// How far back the first look for filtered events goes; each further look goes four times as
/// far.
const WINDOW_FIRST: u64 = 1000;

/// A page whose events stay the bytes that they are.
#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    next: String,
}

/// What of an event is needed to go on behind it.
#[derive(Deserialize)]
struct Numbered<'a> {
    id: Cow<'a, str>,
}

/// Which events.
pub(super) struct Filter {
    pub(super) types: Vec<&'static str>,
    pub(super) invoice: Option<InvoiceId>,
}

impl Filter {
    /// The route to them.
    pub(super) fn target(&self, after: impl fmt::Display, limit: Option<u64>) -> String {
        let after = after.to_string();
        let limit = limit.map(|limit| limit.to_string());
        let mut pairs = vec![("after", after.as_str())];
        pairs.extend(self.types.iter().map(|kind| ("type", *kind)));
        pairs.extend(self.invoice.iter().map(|id| ("invoice", id.as_str())));
        pairs.extend(limit.iter().map(|limit| ("limit", limit.as_str())));
        format!("/events{}", query(&pairs))
    }
}

/// The sequence of the latest event.
pub(super) async fn head(context: &mut Context) -> Outcome<u64> {
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
pub(super) struct Pages {
    cursor: u64,
    upper: u64,
    ended: bool,
}

impl Pages {
    /// Those behind a sequence, up to another.
    pub(super) fn new(after: u64, upper: u64) -> Self {
        Self {
            cursor: after,
            upper,
            ended: after >= upper,
        }
    }

    /// The next page, at most so many; `None` behind the last.
    pub(super) async fn next(
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

/// An event's sequence.
pub(super) fn number(event: &[u8]) -> Outcome<u64> {
    let numbered: Numbered<'_> =
        serde_json::from_slice(event).map_err(|error| Failure::unreadable("event", &error))?;
    sequence(&numbered.id)
}

/// The last events up to the head that pass the filter, oldest first. It looks back window by
/// window, so that the end of a long log is found without reading all of it.
pub(super) async fn last(
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
