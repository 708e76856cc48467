//! Whether the store holds what it says: the hash chain is whole, and the tables are what the
//! events fold to. It reads and never repairs, and needs no more memory than one invoice.

use std::fmt;
use std::ops::ControlFlow;

use crate::domain::{Aggregate, Event, InvoiceStatus, PaymentState, StoreId};

mod difference;
mod tokens;

use super::event_log::{chain, decode, first_digest};
use super::ports::StoreError;
use super::upkeep::{Progress, Stage, Watch};

pub use tokens::TokenRow;

/// An event as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Its key.
    pub sequence: u64,
    /// The type, as indexed.
    pub kind: String,
    /// The JSON.
    pub bytes: Vec<u8>,
    /// The digest beside it.
    pub digest: Vec<u8>,
}

/// An invoice as it lies in the tables, with all its payments and its events.
#[derive(Debug)]
pub struct TableRow {
    /// What to call it where it cannot be read.
    pub name: String,
    /// The tables' word; or why it cannot be read.
    pub tables: Result<Aggregate, String>,
    /// Its events, oldest first.
    pub events: Vec<Vec<u8>>,
}

/// What `verify` reads: one snapshot of a store.
pub trait VerifySource {
    /// The store's id.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn store(&self) -> Result<StoreId, StoreError>;

    /// The database's own check of its pages; `Ok(None)` is fine.
    ///
    /// # Errors
    /// Where it cannot be run.
    fn integrity(&self) -> Result<Option<String>, StoreError>;

    /// About how many events and invoices there are, to tell how far it is.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn extent(&self) -> Result<(u64, u64), StoreError>;

    /// The log, oldest first, until `each` breaks off.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn log(&self, each: &mut dyn FnMut(LogRow) -> ControlFlow<()>) -> Result<(), StoreError>;

    /// The invoices, until `each` breaks off.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn invoices(&self, each: &mut dyn FnMut(TableRow) -> ControlFlow<()>)
    -> Result<(), StoreError>;

    /// The tokens, oldest first, also those that payd would not read: then with why.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn tokens(&self) -> Result<Vec<Result<TokenRow, String>>, StoreError>;
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where: `event 42`, `invoice inv-123`, `database`.
    pub place: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// What was checked, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Events read.
    pub events: u64,
    /// Invoices folded and compared.
    pub invoices: u64,
    /// Tokens looked at.
    pub tokens: u64,
    /// The first findings; see [`Report::FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many there were in all.
    pub found: u64,
    /// Whether all of it was checked, rather than broken off by who watched.
    pub complete: bool,
}

impl Report {
    /// More than these are counted and not told: one lost page makes thousands.
    pub const FINDINGS_MAX: usize = 20;

    fn add(&mut self, place: impl fmt::Display, what: impl Into<String>) {
        self.found += 1;
        if self.findings.len() < Self::FINDINGS_MAX {
            self.findings.push(Finding {
                place: place.to_string(),
                what: what.into(),
            });
        }
    }
}

/// Rows between two words to who watches.
const WATCH_ROWS: u64 = 256;

/// Checks a store.
///
/// # Errors
/// Where it cannot be read at all.
pub fn verify(source: &dyn VerifySource) -> Result<Report, StoreError> {
    verify_watched(source, &|_| ControlFlow::Continue(()))
}

/// The same, for somebody who watches, and who may break it off: [`Report::complete`] says whether.
///
/// # Errors
/// Where it cannot be read at all.
pub fn verify_watched(source: &dyn VerifySource, watch: Watch<'_>) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let (events, invoices) = source.extent()?;
    let tell = |stage, done: u64, total: u64| {
        if done.is_multiple_of(WATCH_ROWS) || done == total {
            return watch(Progress { stage, done, total });
        }
        ControlFlow::Continue(())
    };
    if tell(Stage::Pages, 0, 0).is_break() {
        return Ok(report);
    }
    if let Some(damage) = source.integrity()? {
        report.add("database", damage);
    }
    verify_tokens(source, &mut report)?;
    let chain = |done| tell(Stage::Chain, done, events);
    if verify_chain(source, &mut report, &chain)?.is_break() {
        return Ok(report);
    }
    let mut events_of_invoices = 0;
    let mut flow = ControlFlow::Continue(());
    source.invoices(&mut |row| {
        report.invoices += 1;
        events_of_invoices += row.events.len() as u64;
        if let Err(what) = verify_invoice(&row) {
            report.add(format_args!("invoice {}", row.name), what);
        }
        flow = tell(Stage::Fold, report.invoices, invoices);
        flow
    })?;
    if flow.is_break() {
        return Ok(report);
    }
    report.complete = true;
    if events_of_invoices != report.events {
        let what = format!(
            "the log has {} events, of which {events_of_invoices} belong to an invoice",
            report.events
        );
        report.add("log", what);
    }
    Ok(report)
}

fn verify_tokens(source: &dyn VerifySource, report: &mut Report) -> Result<(), StoreError> {
    let mut table = tokens::Table::default();
    for row in source.tokens()? {
        report.tokens += 1;
        match row {
            Ok(row) => {
                let place = format!("token {} (row {})", row.name.escape_debug(), row.n);
                for wrong in table.next(&row) {
                    report.add(&place, wrong);
                }
            }
            Err(why) => report.add("tokens", why),
        }
    }
    if let Some(wrong) = table.end() {
        report.add("tokens", wrong);
    }
    Ok(())
}

fn verify_chain(
    source: &dyn VerifySource,
    report: &mut Report,
    tell: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    let mut flow = ControlFlow::Continue(());
    let mut digest = first_digest(source.store()?);
    let mut sequence = 0;
    source.log(&mut |row| {
        report.events += 1;
        sequence += 1;
        let place = format!("event {}", row.sequence);
        if row.sequence != sequence {
            report.add(
                &place,
                format!("the log is not dense: {sequence} should stand here"),
            );
            sequence = row.sequence;
        }
        digest = chain(&digest, &row.bytes);
        if row.digest != digest {
            report.add(
                &place,
                "the digest does not match: this event, or the digest before it, was changed",
            );
            // Go on from what is stored, so that one change is one finding.
            digest = row.digest.as_slice().try_into().unwrap_or(digest);
        }
        match decode(&row.bytes) {
            Ok(event) if event.sequence != row.sequence => report.add(
                &place,
                format!("it says that it is event {}", event.sequence),
            ),
            Ok(event) if event.event.kind().as_str() != row.kind => {
                report.add(&place, format!("it is indexed as {}", row.kind));
            }
            Ok(_) => {}
            Err(error) => report.add(&place, error.to_string()),
        }
        flow = tell(report.events);
        flow
    })?;
    Ok(flow)
}

fn verify_invoice(row: &TableRow) -> Result<(), String> {
    let tables = row.tables.as_ref().map_err(Clone::clone)?;
    let folded = fold(&row.events)?;
    invariants(tables)?;
    match difference::of(&comparable(tables), &comparable(&folded)) {
        None => Ok(()),
        Some(difference) => Err(difference),
    }
}

/// Whether an invoice with its latest payment, as the tables have it, is what its events fold to, and holds
/// together in itself. For one that is about to move money; [`verify`] is for all of them.
///
/// # Errors
/// What does not fit.
pub fn is_what_its_events_say(loaded: &Aggregate, events: &[Vec<u8>]) -> Result<(), String> {
    let folded = comparable(&fold(events)?);
    let loaded = comparable(loaded);
    let (there, expected) = (loaded.payments.last(), folded.payments.last());
    if loaded.invoice == folded.invoice && there == expected {
        return Ok(());
    }
    Err(match (there, expected) {
        (Some(there), Some(expected)) if loaded.invoice == folded.invoice => {
            difference::latest(there, expected)
        }
        _ => difference::of(&loaded, &folded).unwrap_or_else(|| {
            "its latest payment is another in the tables than its events come to".to_owned()
        }),
    })
}

fn fold(events: &[Vec<u8>]) -> Result<Aggregate, String> {
    let mut state: Option<Aggregate> = None;
    for bytes in events {
        let decoded = decode(bytes).map_err(|error| error.to_string())?;
        match (&mut state, &decoded.event) {
            (None, Event::InvoiceCreated(invoice)) => {
                state = Some(Aggregate::new((**invoice).clone()));
            }
            (None, _) => {
                return Err(format!(
                    "its first event is {}",
                    decoded.event.kind().as_str()
                ));
            }
            (Some(state), event) => {
                state
                    .apply(event, decoded.at)
                    .map_err(|error| format!("event {}: {error}", decoded.sequence))?;
            }
        }
        if state
            .as_ref()
            .is_some_and(|state| state.invoice.status != decoded.invoice_status)
        {
            return Err(format!(
                "event {} says {}",
                decoded.sequence,
                decoded.invoice_status.as_str()
            ));
        }
    }
    state.ok_or_else(|| "it has no events".to_owned())
}

/// Invariants 3 and 4.
fn invariants(state: &Aggregate) -> Result<(), String> {
    let count = |f: fn(PaymentState) -> bool| {
        state
            .payments
            .iter()
            .filter(|payment| f(payment.state))
            .count()
    };
    let succeeded = count(|state| state == PaymentState::Succeeded);
    let open = count(PaymentState::is_open);
    let status = state.invoice.status;
    let fits = match status {
        InvoiceStatus::Paid => succeeded == 1 && open == 0,
        InvoiceStatus::Processing => succeeded == 0 && open == 1,
        InvoiceStatus::Pending | InvoiceStatus::Failed | InvoiceStatus::Canceled => {
            succeeded == 0 && open == 0
        }
    };
    if fits {
        Ok(())
    } else {
        Err(format!(
            "it is {} with {succeeded} succeeded and {open} open payments",
            status.as_str()
        ))
    }
}

/// Leaves out working state, which is not in the log: SENDING is REQUESTED there.
fn comparable(state: &Aggregate) -> Aggregate {
    let mut state = state.clone();
    for payment in &mut state.payments {
        payment.work = Default::default();
        payment.sent_at = None;
        payment.traceparent = None;
        if payment.state == PaymentState::Sending {
            payment.state = PaymentState::Requested;
        }
        if matches!(
            payment.state,
            PaymentState::Requested | PaymentState::Canceled
        ) {
            payment.gateway = None;
        }
    }
    state
}
