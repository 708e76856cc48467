//! What tests of the indexes share.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::Connection;

use super::hashes::{self, Entry, Sizes, Table};
use super::stretches::Order;
use super::{invoice_ids, leaves, schema};

/// Few enough that a test goes through many rounds of gathering and moving.
pub(super) const SMALL: Sizes = Sizes { run: 16, merged: 2 };

/// The same, with more that the filter has not been told.
pub(super) const LARGER: Sizes = Sizes {
    run: 100,
    merged: 4,
};

/// Ids in order become stretches after a few.
pub(super) const FEW: Order = Order {
    waiting: 8,
    late: 0,
    top: 1,
    stretch: 3,
};

/// The same, after some more.
pub(super) const SOME: Order = Order {
    waiting: 60,
    late: 1,
    top: 3,
    stretch: 10,
};

/// A database in memory, with this payd's schema.
pub(super) fn in_memory() -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::migrate(&mut connection, Path::new("")).unwrap();
    connection
}

/// Three hundred invoices `{name}-{n}` that are canceled, of which the table of their index has all.
pub(super) fn insert_old(connection: &Connection, name: &str) {
    hashes::register(connection).unwrap();
    let invoices = format!(
        "WITH RECURSIVE k (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < 300)
         INSERT INTO invoices (n, id, amount, currency, metadata, status, attempts, attempts_before_round,
           needs_attention, cancel_requested, created_at, updated_at, id_hash)
         SELECT n, '{name}-' || n, 1, 'EUR', '{{}}', 4, 0, 0, 0, 0, 0, 0, invoice_hash('{name}-' || n) FROM k;
         UPDATE late SET until = 300, digest = late_digest(name, 300) WHERE name = 'invoice_ids';
         UPDATE meta SET value = printf('%016x {name}-99', invoice_hash('{name}-99')) WHERE name = 'greatest_invoice_id'"
    );
    connection.execute_batch(&invoices).unwrap();
    put(
        connection,
        &invoice_ids::TABLE,
        "SELECT id_hash, n FROM invoices",
    );
}

/// Puts what a statement gives, with hash and number, into the table of an index.
pub(super) fn put(connection: &Connection, table: &Table, sql: &str) {
    let mut statement = connection.prepare(sql).unwrap();
    let entries = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let mut entries: Vec<Entry> = entries.unwrap().collect::<Result<_, _>>().unwrap();
    entries.sort_unstable();
    leaves::put(connection, table, &entries).unwrap();
}

/// What the table of an index has, in order.
pub(super) fn entries(connection: &Connection, table: &Table) -> Vec<Entry> {
    let mut entries = Vec::new();
    leaves::between(connection, table, (i64::MIN, i64::MAX), |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    })
    .unwrap();
    entries
}

/// SplitMix64.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn place(&mut self, end: u64) -> usize {
        usize::try_from(self.below(end)).unwrap()
    }

    pub(super) fn hash(&mut self) -> i64 {
        self.next().cast_signed()
    }

    /// So many, in order.
    pub(super) fn hashes(&mut self, count: u64) -> BTreeSet<i64> {
        (0..count).map(|_| self.hash()).collect()
    }
}
