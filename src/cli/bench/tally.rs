//! What a run of `payctl bench` measured: counts, times and errors, and how they are shown. Times are
//! whole microseconds; nothing here is a float but the quantiles' names.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::per_second;
use crate::cli::failure::Failure;
use crate::cli::table::{Cell, Column, Table};

/// The longest time that is told apart from longer ones.
const MICROS_MAX: u64 = 3_600_000_000;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// POST /invoices.
    Create,
    /// POST /invoices/{id}/pay, until it is decided.
    Pay,
    /// The two together.
    Both,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "create",
            Operation::Pay => "pay",
            Operation::Both => "both",
        }
    }
}

/// The times of one operation, and how often it went wrong.
struct Timed {
    latency: Histogram<u64>,
    sum_us: u128,
    errors: u64,
}

impl Timed {
    fn new() -> Self {
        Self {
            // Three digits, from 1 µs to an hour: bounds that the crate takes.
            latency: Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("the bounds are in order"),
            sum_us: 0,
            errors: 0,
        }
    }

    fn at(&self, quantile: f64) -> u64 {
        // The histogram rounds up, also beyond what was measured.
        self.latency
            .value_at_quantile(quantile)
            .min(self.latency.max())
    }

    fn mean(&self) -> u64 {
        let count = u128::from(self.latency.len()).max(1);
        u64::try_from(self.sum_us / count).unwrap_or(u64::MAX)
    }

    fn figures(&self) -> [(&'static str, u64); 6] {
        [
            ("mean", self.mean()),
            ("p50", self.at(0.5)),
            ("p90", self.at(0.9)),
            ("p99", self.at(0.99)),
            ("p99_9", self.at(0.999)),
            ("max", self.latency.max()),
        ]
    }
}

/// All that was measured.
pub(super) struct Tally {
    timed: BTreeMap<Operation, Timed>,
    errors: BTreeMap<String, u64>,
    first_error: Option<String>,
    fatal: Option<Failure>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            timed: BTreeMap::new(),
            errors: BTreeMap::new(),
            first_error: None,
            fatal: None,
        }
    }

    fn timed(&mut self, operation: Operation) -> &mut Timed {
        self.timed.entry(operation).or_insert_with(Timed::new)
    }

    /// It went through.
    pub(super) fn record(&mut self, operation: Operation, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(MICROS_MAX);
        let timed = self.timed(operation);
        timed.latency.saturating_record(micros);
        timed.sum_us += u128::from(micros);
    }

    /// It did not; `label` says which error it was.
    pub(super) fn fail(&mut self, operation: Operation, label: String, why: Option<&Failure>) {
        self.timed(operation).errors += 1;
        let text = why.map_or_else(|| label.clone(), |failure| failure.explain().0);
        self.first_error.get_or_insert(text);
        *self.errors.entry(label).or_default() += 1;
    }

    /// payd cannot be reached.
    pub(super) fn fail_for_good(&mut self, operation: Operation, why: Failure) {
        self.fail(operation, "unreachable".to_owned(), Some(&why));
        self.fatal.get_or_insert(why);
    }

    /// Why payd can no longer be reached, if it cannot.
    pub(super) fn take_fatal(&mut self) -> Option<Failure> {
        self.fatal.take()
    }

    /// Whether nothing at all went through.
    pub(super) fn is_empty(&self) -> bool {
        self.timed.values().all(|timed| timed.latency.is_empty())
    }

    pub(super) fn errors(&self) -> u64 {
        self.errors.values().sum()
    }

    pub(super) fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }

    /// As an object, with what else there is to say about the run.
    pub(super) fn json(&self, elapsed: Duration, about: Value) -> Value {
        let operations: Map<String, Value> = self
            .timed
            .iter()
            .map(|(operation, timed)| {
                let latency: Map<String, Value> = timed
                    .figures()
                    .iter()
                    .map(|(name, micros)| ((*name).to_owned(), json!(micros)))
                    .collect();
                let figures = json!({
                    "count": timed.latency.len(),
                    "errors": timed.errors,
                    "per_second": per_second(timed.latency.len(), elapsed),
                    "latency_us": latency,
                });
                (operation.as_str().to_owned(), figures)
            })
            .collect();
        let mut report = about;
        report["elapsed_ms"] = json!(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        report["operations"] = Value::Object(operations);
        report["errors"] = json!(self.errors);
        report
    }

    /// For people: a row an operation, then a row an error.
    pub(super) fn table(&self, elapsed: Duration, width: Option<usize>) -> Vec<String> {
        const COLUMNS: &[Column] = &[
            Column::new("OPERATION"),
            Column::new("COUNT").right(),
            Column::new("ERRORS").right(),
            Column::new("PER SECOND").right(),
            Column::new("MEAN").right().leaves(3),
            Column::new("P50").right(),
            Column::new("P90").right().leaves(2),
            Column::new("P99").right(),
            Column::new("P99.9").right().leaves(1),
            Column::new("MAX").right(),
        ];
        let rows: Vec<Vec<Cell>> = self
            .timed
            .iter()
            .map(|(operation, timed)| {
                let count = timed.latency.len();
                let mut row = vec![
                    Cell::new(operation.as_str()),
                    Cell::new(&count.to_string()),
                    Cell::new(&timed.errors.to_string()),
                    Cell::new(&per_second(count, elapsed).to_string()),
                ];
                row.extend(
                    timed
                        .figures()
                        .map(|(_, micros)| Cell::new(&millis(micros))),
                );
                row
            })
            .collect();
        let mut lines = Table::new(COLUMNS, width).lines(&rows);
        if !self.errors.is_empty() {
            const ERRORS: &[Column] = &[Column::new("ERROR"), Column::new("COUNT").right()];
            let rows: Vec<Vec<Cell>> = self
                .errors
                .iter()
                .map(|(label, count)| vec![Cell::new(label), Cell::new(&count.to_string())])
                .collect();
            lines.push(String::new());
            lines.extend(Table::new(ERRORS, width).lines(&rows));
        }
        lines
    }
}

/// Milliseconds with two digits behind the point.
fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_through_is_timed_and_what_did_not_is_counted() {
        let mut tally = Tally::new();
        for millis in 1..=100 {
            tally.record(Operation::Create, Duration::from_millis(millis));
        }
        tally.fail(Operation::Create, "unavailable".to_owned(), None);
        let report = tally.json(Duration::from_secs(2), json!({ "mode": "create" }));
        let create = &report["operations"]["create"];
        assert_eq!(create["count"], 100);
        assert_eq!(create["errors"], 1);
        assert_eq!(create["per_second"], 50);
        let latency = &create["latency_us"];
        assert_eq!(latency["mean"], 50_500);
        assert!((50_000..50_100).contains(&latency["p50"].as_u64().unwrap()));
        assert!((99_000..99_100).contains(&latency["p99"].as_u64().unwrap()));
        assert_eq!(latency["max"], 100_000 / 64 * 64 + 63, "three digits");
        assert_eq!(report["errors"]["unavailable"], 1);
        assert_eq!(report["mode"], "create");
    }

    #[test]
    fn a_payd_that_was_never_there_leaves_nothing_to_show() {
        let gone = || Failure::unexpected("gone");
        let mut tally = Tally::new();
        tally.fail_for_good(Operation::Create, gone());
        assert!(tally.is_empty());
        assert!(tally.take_fatal().is_some());
        tally.record(Operation::Create, Duration::from_millis(1));
        assert!(!tally.is_empty());
        assert_eq!(tally.errors(), 1);
    }

    #[test]
    fn times_are_milliseconds_with_two_digits() {
        assert_eq!(millis(0), "0.00 ms");
        assert_eq!(millis(9), "0.00 ms");
        assert_eq!(millis(12_345), "12.34 ms");
    }
}
