//! The store on SQLite: one writer, readers beside it, in WAL mode with `synchronous=FULL`.
//!
//! It keeps and finds; it never decides. What an invoice may become is the domain's business, and
//! the schema only refuses what must never be.

mod open;
mod ribbon;
mod schema;
mod sieve;
mod stretches;

mod ahead;
mod answer_keys;
mod checkpoint;
mod copy;
mod filters;
mod hashes;
mod invoice_events;
mod invoice_ids;
mod late;
mod leaves;
mod mark;
mod packed;
mod places;
mod room;
mod runs;
mod spare;
mod together;
mod wal;
mod wal_writes;

mod reader;
mod writer;

mod error;
mod rows;
mod tokens;

mod backup;
mod check;
mod restore;
mod upkeep;

pub use backup::{Written, backup};
pub use check::SqliteCheck;
pub use open::{DATABASE, OpenError, open_writer};
pub use reader::SqliteReader;
pub use restore::{RestoredStore, Restoring, restore};
pub use upkeep::remove_leftovers;
pub use writer::SqliteStore;

#[cfg(test)]
mod cost_tests;
#[cfg(test)]
mod testing;
