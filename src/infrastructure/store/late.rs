//! Indexes that are brought up to date for many rows at a time.
//!
//! An index of SQLite's takes each row as it comes, and where rows belong anywhere in it, each takes a page of
//! its own: of fifty-five pages that a commit of ten payments wrote, eleven were of the index of payment ids and
//! five of that of event types. Here a thousand rows are put in at once, in the commit of the last of them: what
//! they share is written once. What is newer is found by looking through the rows themselves: there are a thousand, or
//! some thousands, at most.
//!
//! Those of few kinds, event types and invoices by status, have a row for each kind and stretch of a thousand, with a bit for
//! each row of their table (places.rs): written once, at the end of the stretch.
//!
//! They only help people to find something. What keeps money safe stands in indexes of SQLite's own.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, Row};

use crate::application::ports::StoreError;

use super::error::sort;
use super::places::{Places, SPAN, numbers, stretch, whole_to};
use super::{answer_keys, invoice_ids};

/// Rows after which an index is brought up to date. It takes a millisecond or two, of which the commits in
/// between are spared more.
pub(super) const STEP: i64 = SPAN;

/// The index of payment ids, as the table `late` calls it.
pub(super) const PAYMENT_IDS: &str = "payment_ids";

/// By how many invoices that one is always behind the newest. It is the one whose entries change, and most invoices
/// change soon or never. To look through as many rows takes less than a millisecond.
const UNSETTLED: i64 = 3 * STEP;

/// An index of few kinds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kinds {
    /// What the table `late` calls it.
    pub(super) name: &'static str,
    /// Kind and number of the rows between two numbers, in order.
    rows: &'static str,
    /// Places of a kind in a stretch.
    get: &'static str,
    put: &'static str,
    remove: &'static str,
    /// Stretches and places of a kind, between two stretches, in order and the other way round.
    of_kind: [&'static str; 2],
    /// All places.
    all: &'static str,
    /// Kinds and numbers that it had before it had places, in order, and the table that it had them in.
    before: [&'static str; 2],
}

/// The index of event types.
pub(super) const EVENT_TYPES: &Kinds = &Kinds {
    name: "event_types",
    rows: "SELECT type, sequence FROM events WHERE sequence BETWEEN ?1 AND ?2 ORDER BY sequence",
    get: "SELECT places FROM event_types WHERE type = ?1 AND stretch = ?2",
    put: "INSERT OR REPLACE INTO event_types (type, stretch, places) VALUES (?1, ?2, ?3)",
    remove: "DELETE FROM event_types WHERE type = ?1 AND stretch = ?2",
    of_kind: [
        "SELECT stretch, places FROM event_types WHERE type = ?1 AND stretch BETWEEN ?2 AND ?3 ORDER BY stretch",
        "SELECT stretch, places FROM event_types WHERE type = ?1 AND stretch BETWEEN ?2 AND ?3 ORDER BY stretch DESC",
    ],
    all: "SELECT places FROM event_types",
    before: [
        "SELECT type, sequence FROM event_types_before ORDER BY type, sequence",
        "DROP TABLE event_types_before",
    ],
};

/// The index of invoices by status.
pub(super) const IN_STATUS: &Kinds = &Kinds {
    name: "invoices_in_status",
    rows: "SELECT status, n FROM invoices WHERE n BETWEEN ?1 AND ?2 ORDER BY n",
    get: "SELECT places FROM invoices_in_status WHERE status = ?1 AND stretch = ?2",
    put: "INSERT OR REPLACE INTO invoices_in_status (status, stretch, places) VALUES (?1, ?2, ?3)",
    remove: "DELETE FROM invoices_in_status WHERE status = ?1 AND stretch = ?2",
    of_kind: [
        "SELECT stretch, places FROM invoices_in_status WHERE status = ?1 AND stretch BETWEEN ?2 AND ?3 ORDER BY stretch",
        "SELECT stretch, places FROM invoices_in_status WHERE status = ?1 AND stretch BETWEEN ?2 AND ?3 ORDER BY stretch DESC",
    ],
    all: "SELECT places FROM invoices_in_status",
    before: [
        "SELECT status, n FROM invoices_in_status_before ORDER BY status, n",
        "DROP TABLE invoices_in_status_before",
    ],
};

/// Places of kinds.
type ByKind = BTreeMap<i64, Places>;

impl Kinds {
    /// Those of a kind in a stretch; nothing, where they are damaged.
    fn get(
        &self,
        connection: &Connection,
        kind: i64,
        stretch: i64,
    ) -> rusqlite::Result<Option<Places>> {
        let mut statement = connection.prepare_cached(self.get)?;
        let found = statement.query_row([kind, stretch], |row| Ok(read(row, 0)));
        Ok(found.optional()?.unwrap_or(Some(Places::default())))
    }

    /// Changes those of a kind in a stretch. Where they are damaged, they are made anew of what the table has.
    fn change(
        &self,
        connection: &Connection,
        (kind, stretch): (i64, i64),
        change: impl FnOnce(&mut Places),
    ) -> rusqlite::Result<()> {
        let mut places = match self.get(connection, kind, stretch)? {
            Some(places) => places,
            None => {
                let mut kinds = self.of(connection, stretch)?;
                kinds.remove(&kind).unwrap_or_default()
            }
        };
        change(&mut places);
        self.put(connection, (kind, stretch), &places)
    }

    fn put(
        &self,
        connection: &Connection,
        (kind, stretch): (i64, i64),
        places: &Places,
    ) -> rusqlite::Result<()> {
        let changed = if places.is_empty() {
            let mut statement = connection.prepare_cached(self.remove)?;
            statement.execute([kind, stretch])
        } else {
            let mut statement = connection.prepare_cached(self.put)?;
            statement.execute((kind, stretch, places))
        };
        changed.map(|_| ())
    }

    /// What the table says of a stretch.
    fn of(&self, connection: &Connection, stretch: i64) -> rusqlite::Result<ByKind> {
        let numbers = numbers(stretch);
        let mut statement = connection.prepare_cached(self.rows)?;
        let mut rows = statement.query([numbers.start(), numbers.end()])?;
        let mut kinds = ByKind::new();
        while let Some(row) = rows.next()? {
            kinds.entry(row.get(0)?).or_default().add(row.get(1)?);
        }
        Ok(kinds)
    }

    /// The numbers of a kind between these two that the index has, as first and last of what follows each other: in order, or
    /// the other way round, until that is enough.
    ///
    /// # Errors
    /// Where it cannot be read, and those of `each`.
    pub(super) fn runs(
        &self,
        connection: &Connection,
        kind: i64,
        (first, last): (i64, i64),
        ascending: bool,
        mut each: impl FnMut((i64, i64)) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let sql = self.of_kind[usize::from(!ascending)];
        let mut statement = connection.prepare_cached(sql).map_err(sort)?;
        let stretches = [kind, stretch(first), stretch(last)];
        let mut rows = statement.query(stretches).map_err(sort)?;
        while let Some(row) = rows.next().map_err(sort)? {
            let damaged = || StoreError::BadRow(format!("a row of `{}` is damaged", self.name));
            let places = read(row, 1).ok_or_else(damaged)?;
            let mut runs = places.runs(row.get(0).map_err(sort)?, (first, last));
            if !ascending {
                runs.reverse();
            }
            for run in runs {
                if each(run)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// How many it has, how many of those are right, and how many there are in the table, up to where it goes.
    fn counts(&self, connection: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
        let until = until(connection, self.name)?;
        let mut statement = connection.prepare(self.all)?;
        let mut all = statement.query([])?;
        let mut there = 0;
        while let Some(row) = all.next()? {
            there += read(row, 0).map_or(0, |places| places.count());
        }
        let (mut right, mut count) = (0, 0);
        let mut kinds = ByKind::new();
        let mut at = 0;
        let mut look = |at: i64, kinds: &ByKind| -> rusqlite::Result<()> {
            for (kind, expected) in kinds {
                let found = self.get(connection, *kind, at)?;
                right += found.map_or(0, |it| it.both(expected).count());
            }
            Ok(())
        };
        let mut statement = connection.prepare(self.rows)?;
        let mut rows = statement.query([i64::MIN, until])?;
        while let Some(row) = rows.next()? {
            let number = row.get(1)?;
            if stretch(number) != at {
                look(at, &kinds)?;
                kinds.clear();
                at = stretch(number);
            }
            kinds.entry(row.get(0)?).or_default().add(number);
            count += 1;
        }
        look(at, &kinds)?;
        Ok((there, right, count))
    }

    /// Makes it of what it was before it had places. Where that is damaged, a stretch may come more than once.
    fn fill(&self, connection: &Connection) -> rusqlite::Result<()> {
        let to = whole_to(until(connection, self.name)?);
        {
            let mut statement = connection.prepare(self.before[0])?;
            let mut rows = statement.query([])?;
            let mut of = None;
            let mut places = Places::default();
            while let Some(row) = rows.next()? {
                let (kind, number): (i64, i64) = (row.get(0)?, row.get(1)?);
                if number > to {
                    continue;
                }
                let next = Some((kind, stretch(number)));
                if let Some(of) = of.filter(|_| of != next) {
                    self.change(connection, of, |it| *it = it.either(&places))?;
                    places = Places::default();
                }
                of = next;
                places.add(number);
            }
            if let Some(of) = of {
                self.change(connection, of, |it| *it = it.either(&places))?;
            }
        }
        connection.execute_batch(self.before[1])?;
        reaches(connection, self.name, to)
    }
}

/// Places in a row; none where they are damaged.
fn read(row: &Row<'_>, column: usize) -> Option<Places> {
    row.get(column).ok()
}

/// Notes how far an index goes.
fn reaches(connection: &Connection, name: &str, until: i64) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("UPDATE late SET until = ?2 WHERE name = ?1")?;
    statement.execute((name, until)).map(|_| ())
}

/// The kinds of the newest rows, as far as they were made here.
#[derive(Debug, Default)]
struct Recent {
    /// The number of the first.
    first: i64,
    kinds: Vec<i64>,
    /// Those of them that are committed.
    committed: usize,
}

impl Recent {
    /// The number after the newest.
    fn next(&self) -> i64 {
        let len = i64::try_from(self.kinds.len()).unwrap_or(i64::MAX);
        self.first.saturating_add(len)
    }

    fn add(&mut self, number: i64, kind: i64) {
        if self.kinds.is_empty() || number != self.next() {
            *self = Self {
                first: number,
                ..Self::default()
            };
        }
        self.kinds.push(kind);
    }

    /// Those of a stretch, if it has all of them.
    fn of(&self, stretch: i64) -> Option<ByKind> {
        let (first, end) = numbers(stretch).into_inner();
        // There is no row 0.
        let first = first.max(1);
        if first < self.first || end >= self.next() {
            return None;
        }
        let from = usize::try_from(first - self.first).ok()?;
        let mut kinds = ByKind::new();
        for (number, kind) in (first..=end).zip(self.kinds.get(from..)?) {
            kinds.entry(*kind).or_default().add(number);
        }
        Some(kinds)
    }

    fn roll_back(&mut self) {
        self.kinds.truncate(self.committed);
    }

    /// What is there is committed, and needed no more up to this number.
    fn committed(&mut self, until: i64) {
        if let Ok(count) = usize::try_from(until.saturating_add(1).saturating_sub(self.first)) {
            let count = count.min(self.kinds.len());
            self.kinds.drain(..count);
            self.first = self.first.saturating_add(i64::try_from(count).unwrap_or(0));
        }
        self.committed = self.kinds.len();
    }
}

/// One of them that is of few kinds.
#[derive(Debug)]
struct Stretches {
    of: &'static Kinds,
    /// How far it goes: in the database, and after the transaction under way.
    until: i64,
    next: i64,
    recent: Recent,
}

impl Stretches {
    fn open(connection: &Connection, of: &'static Kinds) -> rusqlite::Result<Self> {
        let until = until(connection, of.name)?;
        Ok(Self {
            of,
            until,
            next: until,
            recent: Recent::default(),
        })
    }

    fn begin(&mut self) {
        self.next = self.until;
        self.recent.roll_back();
    }

    /// Within a transaction, in which `newest` is the last row.
    fn bring(&mut self, connection: &Connection, newest: i64) -> rusqlite::Result<()> {
        let to = whole_to(newest);
        if to <= self.until {
            return Ok(());
        }
        // A commit that makes many rows brings many up to date. What the index has already, since it was damaged, holds up no
        // commit: `fault` tells of it.
        for stretch in stretch(self.until.saturating_add(1))..=stretch(to) {
            let kinds = match self.recent.of(stretch) {
                Some(kinds) => kinds,
                None => self.of.of(connection, stretch)?,
            };
            for (kind, places) in &kinds {
                self.of.put(connection, (*kind, stretch), places)?;
            }
        }
        reaches(connection, self.of.name, to)?;
        self.next = to;
        Ok(())
    }

    fn committed(&mut self) {
        self.until = self.next;
        self.recent.committed(self.until);
    }
}

/// The one of payment ids.
#[derive(Debug)]
struct Ids {
    until: i64,
    next: i64,
}

impl Ids {
    /// As for the others.
    fn bring(&mut self, connection: &Connection, newest: i64) -> rusqlite::Result<()> {
        if newest.saturating_sub(self.until) < STEP {
            return Ok(());
        }
        let add = "INSERT OR IGNORE INTO payment_ids SELECT n >> 14, id, n FROM payments \
             WHERE n > ?1 AND n <= ?2";
        let mut statement = connection.prepare_cached(add)?;
        statement.execute([self.until, newest])?;
        reaches(connection, PAYMENT_IDS, newest)?;
        self.next = newest;
        Ok(())
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Late {
    types: Stretches,
    ids: Ids,
    statuses: Stretches,
    /// The newest rows of the transaction under way.
    event: i64,
    payment: i64,
    invoice: i64,
}

impl Late {
    /// As the database has them.
    pub(super) fn open(connection: &Connection) -> rusqlite::Result<Self> {
        let until = until(connection, PAYMENT_IDS)?;
        Ok(Self {
            types: Stretches::open(connection, EVENT_TYPES)?,
            ids: Ids { until, next: until },
            statuses: Stretches::open(connection, IN_STATUS)?,
            event: 0,
            payment: 0,
            invoice: 0,
        })
    }

    /// A transaction begins; what one before it has not committed was never there.
    pub(super) fn begin(&mut self) {
        (self.event, self.payment, self.invoice) = (0, 0, 0);
        self.types.begin();
        self.ids.next = self.ids.until;
        self.statuses.begin();
    }

    /// It has a new event, of this type.
    pub(super) fn event(&mut self, sequence: i64, kind: i64) {
        self.event = sequence;
        self.types.recent.add(sequence, kind);
    }

    /// It has a new payment.
    pub(super) fn payment(&mut self, n: i64) {
        self.payment = n;
    }

    /// It has a new invoice.
    pub(super) fn invoice(&mut self, n: i64) {
        self.invoice = n;
    }

    /// It changes the status of an invoice: where the index has that one, it is told.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn status(
        &self,
        connection: &Connection,
        n: i64,
        (from, to): (i64, i64),
    ) -> rusqlite::Result<()> {
        if n > self.statuses.until || from == to {
            return Ok(());
        }
        // If it was not where it belongs, that is for `payd verify` to tell: it holds up no payment.
        let (index, stretch) = (self.statuses.of, stretch(n));
        index.change(connection, (from, stretch), |places| places.remove(n))?;
        index.change(connection, (to, stretch), |places| places.add(n))
    }

    /// It is about to be committed.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn bring(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.types.bring(connection, self.event)?;
        self.ids.bring(connection, self.payment)?;
        let settled = self.invoice.saturating_sub(UNSETTLED);
        self.statuses.bring(connection, settled)
    }

    /// It is committed.
    pub(super) fn committed(&mut self) {
        self.types.committed();
        self.ids.until = self.ids.next;
        self.statuses.committed();
    }
}

/// How far an index goes.
pub(super) fn until(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT until FROM late WHERE name = ?1")
        .and_then(|mut statement| statement.query_row([name], |row| row.get(0)))
}

/// Makes those that are of few kinds of what they were before they had places.
///
/// # Errors
/// SQLite's.
pub(super) fn fill(connection: &Connection) -> rusqlite::Result<()> {
    EVENT_TYPES.fill(connection)?;
    IN_STATUS.fill(connection)
}

/// What is wrong with them, for who checks: each row up to where they go is in them, as it is, and nothing else.
///
/// # Errors
/// Where they cannot be read.
pub(super) fn fault(connection: &Connection) -> Result<Option<String>, StoreError> {
    let ids = || {
        let sql = "SELECT \
         (SELECT count(*) FROM payment_ids), \
         (SELECT count(*) FROM payment_ids i JOIN payments p ON p.n = i.payment \
            WHERE p.id = i.id AND i.run = p.n >> 14 AND i.payment <= ?1), \
         (SELECT count(*) FROM payments WHERE n <= ?1)";
        let until = until(connection, PAYMENT_IDS)?;
        connection.query_row(sql, [until], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
    };
    for (what, counts) in [
        ("event types", EVENT_TYPES.counts(connection)),
        ("payment ids", ids()),
        ("invoices by status", IN_STATUS.counts(connection)),
    ] {
        let (there, right, rows) = counts.map_err(sort)?;
        if (there, right) != (rows, rows) {
            return Ok(Some(format!(
                "the index of {what} has {there} entries of which {right} are right, for {rows} rows"
            )));
        }
    }
    match answer_keys::fault(connection)? {
        None => invoice_ids::fault(connection),
        fault => Ok(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Chance, in_memory};
    use super::*;

    const EVENT: &str = "INSERT INTO events (sequence, invoice, type, json, digest, previous)
        VALUES (?1, 1, ?2, '{}', zeroblob(32), 0)";
    const INVOICE: &str = "INSERT INTO invoices (n, id, amount, currency, metadata, status, attempts,
          attempts_before_round, needs_attention, cancel_requested, created_at, updated_at, paid_at, id_hash)
        VALUES (?1, 'a-' || ?1, 1, 'EUR', '{}', ?2, 0, 0, 0, 0, 0, 0, iif(?2 = 2, 0, NULL), 0)";

    fn database() -> Connection {
        let connection = in_memory();
        connection
            .pragma_update(None, "foreign_keys", false)
            .unwrap();
        connection
    }

    /// What an index has of a kind between two numbers, from either end.
    fn listed(index: &Kinds, connection: &Connection, kind: i64, between: (i64, i64)) -> Vec<i64> {
        let mut both = [true, false].map(|ascending| {
            let mut listed = Vec::new();
            let each = |(first, last)| {
                let run: Vec<i64> = (first..=last).collect();
                match ascending {
                    true => listed.extend(run),
                    false => listed.extend(run.into_iter().rev()),
                }
                Ok(ControlFlow::Continue(()))
            };
            let flow = index.runs(connection, kind, between, ascending, each);
            assert!(flow.unwrap().is_continue());
            listed
        });
        both[1].reverse();
        assert_eq!(both[0], both[1]);
        both[0].clone()
    }

    fn faultless(connection: &Connection, index: &Kinds) {
        let (there, right, rows) = index.counts(connection).unwrap();
        assert_eq!((there, right), (rows, rows), "{}", index.name);
    }

    /// Over commits of all sizes, rollbacks and starts.
    #[test]
    fn an_index_of_few_kinds_has_all_up_to_where_it_goes() {
        let connection = database();
        let mut late = Late::open(&connection).unwrap();
        let mut chance = Chance(51);
        let mut events: Vec<i64> = Vec::new();
        let mut invoices: Vec<i64> = Vec::new();
        let mut starts = 0;
        for round in 0..120 {
            if chance.below(9) == 0 {
                late = Late::open(&connection).unwrap();
                starts += 1;
            }
            let before = (events.clone(), invoices.clone());
            connection.execute_batch("BEGIN").unwrap();
            late.begin();
            let many = if round % 20 == 7 { 3000 } else { 200 };
            for _ in 0..chance.below(many) {
                let kind = i64::try_from(chance.below(12) / 3).unwrap();
                events.push(kind);
                let sequence = i64::try_from(events.len()).unwrap();
                connection.execute(EVENT, [sequence, kind]).unwrap();
                late.event(sequence, kind);
            }
            for _ in 0..chance.below(many) {
                let status = i64::try_from(chance.below(4)).unwrap();
                invoices.push(status);
                let n = i64::try_from(invoices.len()).unwrap();
                connection.execute(INVOICE, [n, status]).unwrap();
                late.invoice(n);
            }
            for _ in 0..20.min(invoices.len()) {
                let at = chance.place(invoices.len() as u64);
                let status = i64::try_from(chance.below(5)).unwrap();
                let n = i64::try_from(at + 1).unwrap();
                let update =
                    "UPDATE invoices SET status = ?2, paid_at = iif(?2 = 2, 0, NULL) WHERE n = ?1";
                connection.execute(update, [n, status]).unwrap();
                let change = (invoices[at], status);
                late.status(&connection, n, change).unwrap();
                invoices[at] = status;
            }
            late.bring(&connection).unwrap();
            if chance.below(4) == 0 {
                connection.execute_batch("ROLLBACK").unwrap();
                (events, invoices) = before;
            } else {
                connection.execute_batch("COMMIT").unwrap();
                late.committed();
            }
            for (index, rows, behind) in
                [(EVENT_TYPES, &events, 0), (IN_STATUS, &invoices, UNSETTLED)]
            {
                let until = until(&connection, index.name).unwrap();
                let newest = i64::try_from(rows.len()).unwrap();
                // A start does not know of a row that was not there in its time, and the next one does.
                let most = behind + 2 * STEP + 3000;
                assert!(until == whole_to(until) && newest - until < most, "{until}");
                faultless(&connection, index);
                for kind in 0..5 {
                    let between = (
                        i64::try_from(chance.below(5000)).unwrap(),
                        until - i64::try_from(chance.below(700)).unwrap(),
                    );
                    let expected = (1..)
                        .zip(rows)
                        .filter(|(n, it)| **it == kind && (between.0..=between.1).contains(n));
                    let expected: Vec<i64> = expected.map(|(n, _)| n).collect();
                    assert_eq!(listed(index, &connection, kind, between), expected);
                }
            }
        }
        assert!(events.len() > 8000 && invoices.len() > 8000 && starts > 5);
    }

    #[test]
    fn what_is_wrong_with_one_is_seen_and_holds_up_no_change() {
        let connection = database();
        let mut late = Late::open(&connection).unwrap();
        late.begin();
        for n in 1..=6000 {
            connection.execute(INVOICE, [n, n % 2]).unwrap();
            late.invoice(n);
        }
        late.bring(&connection).unwrap();
        late.committed();
        assert_eq!(until(&connection, IN_STATUS.name), Ok(2047));
        faultless(&connection, IN_STATUS);
        let wrong = |damage: &str| {
            connection.execute_batch("SAVEPOINT s").unwrap();
            connection.execute_batch(damage).unwrap();
            let (there, right, rows) = IN_STATUS.counts(&connection).unwrap();
            late.status(&connection, 1500, (0, 4)).unwrap();
            late.status(&connection, 7, (1, 4)).unwrap();
            connection
                .execute_batch("ROLLBACK TO s; RELEASE s")
                .unwrap();
            (there - rows, right - rows)
        };
        let of = |what: &str| {
            format!("UPDATE invoices_in_status SET {what} WHERE stretch = 1 AND status = 0")
        };
        // One too few, one too many, others, none, and none that could be read.
        let invoice = "UPDATE invoices SET status = 3 WHERE n = 1500";
        assert_eq!(wrong(invoice), (0, -1));
        assert_eq!(wrong("DELETE FROM invoices WHERE n = 1500"), (1, 0));
        assert_eq!(wrong(&of("status = 4")), (0, -512));
        assert_eq!(wrong(&of("stretch = 7")), (0, -512));
        assert_eq!(wrong(&of("places = zeroblob(128)")), (-512, -512));
        connection
            .pragma_update(None, "ignore_check_constraints", true)
            .unwrap();
        assert_eq!(wrong(&of("places = x'ffff'")), (-512, -512));
        connection.execute_batch(&of("places = x'ffff'")).unwrap();
        let each = |_| Ok(ControlFlow::Continue(()));
        let read = || IN_STATUS.runs(&connection, 0, (0, 2000), true, each);
        assert!(matches!(read(), Err(StoreError::BadRow(_))), "{:?}", read());
        // A change makes it anew.
        let change = "UPDATE invoices SET status = 4 WHERE n = 1500";
        connection.execute_batch(change).unwrap();
        late.status(&connection, 1500, (0, 4)).unwrap();
        assert!(read().is_ok());
        faultless(&connection, IN_STATUS);
    }

    /// One whose kind has changed comes before others of its stretch: those are not lost.
    #[test]
    fn what_was_damaged_before_it_is_taken_over_takes_nothing_with_it() {
        let connection = database();
        for n in 1..=3000 {
            connection.execute(EVENT, [n, 1]).unwrap();
        }
        // Without the order of a key, as in a tree with an entry that was changed.
        let before =
            "CREATE TABLE event_types_before (type INTEGER NOT NULL, sequence INTEGER NOT NULL);
            CREATE TABLE invoices_in_status_before (status INTEGER NOT NULL, n INTEGER NOT NULL);
            INSERT INTO event_types_before SELECT iif(sequence = 2000, 0, 1), sequence FROM events;
            UPDATE late SET until = 3000 WHERE name = 'event_types'";
        connection.execute_batch(before).unwrap();
        let as_it_lies = &Kinds {
            before: [
                "SELECT type, sequence FROM event_types_before ORDER BY rowid",
                EVENT_TYPES.before[1],
            ],
            ..*EVENT_TYPES
        };
        as_it_lies.fill(&connection).unwrap();
        assert_eq!(EVENT_TYPES.counts(&connection), Ok((2047, 2046, 2047)));
    }

    /// As a database of schema 14 has them: an entry for each row, and not up to the end of a stretch.
    #[test]
    fn what_they_were_before_they_had_places_is_taken_over() {
        let connection = database();
        let mut chance = Chance(52);
        for n in 1..=5000 {
            let kind = i64::try_from(chance.below(5)).unwrap();
            connection.execute(EVENT, [n, kind]).unwrap();
            connection.execute(INVOICE, [n, kind]).unwrap();
        }
        let before = "CREATE TABLE event_types_before (type INTEGER NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (type, sequence)) WITHOUT ROWID;
            CREATE TABLE invoices_in_status_before (status INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (status, n)) WITHOUT ROWID;
            INSERT INTO event_types_before SELECT type, sequence FROM events WHERE sequence <= 4321;
            INSERT INTO invoices_in_status_before SELECT status, n FROM invoices WHERE n <= 700;
            UPDATE late SET until = 4321 WHERE name = 'event_types';
            UPDATE late SET until = 700 WHERE name = 'invoices_in_status'";
        connection.execute_batch(before).unwrap();
        fill(&connection).unwrap();
        assert_eq!(until(&connection, EVENT_TYPES.name), Ok(4095));
        assert_eq!(until(&connection, IN_STATUS.name), Ok(0));
        let rows =
            "SELECT (SELECT count(*) FROM event_types), (SELECT count(*) FROM invoices_in_status),
            (SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name LIKE '%before')";
        let rows =
            connection.query_row(rows, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        assert_eq!(rows, Ok((20, 0, 0)));
        for index in [EVENT_TYPES, IN_STATUS] {
            faultless(&connection, index);
        }
        // And they go on from there.
        let mut late = Late::open(&connection).unwrap();
        late.begin();
        for n in 5001..=5200 {
            connection.execute(EVENT, [n, 1]).unwrap();
            connection.execute(INVOICE, [n, 1]).unwrap();
            late.event(n, 1);
            late.invoice(n);
        }
        late.bring(&connection).unwrap();
        late.committed();
        assert_eq!(until(&connection, EVENT_TYPES.name), Ok(5119));
        assert_eq!(until(&connection, IN_STATUS.name), Ok(2047));
        for index in [EVENT_TYPES, IN_STATUS] {
            faultless(&connection, index);
        }
    }
}
