//! The real binary is ended, or made to fail, at every place where that could matter; it is started
//! again, and then payd, its client and the gateway's ledger agree (`docs/RELIABILITY.md`).
//!
//! Only with the feature: `cargo test --features failpoints --test it -- failpoints`.

mod fencing;
mod matrix;
mod story;
