//! The simulator: the whole application on virtual time, against a model of the world, with every
//! fault that a seed can think of. See `docs/RELIABILITY.md`.
//!
//! - `cargo test --test sim`: some seeds, in a second or two.
//! - `PAYD_SIM_SEEDS=100000 cargo test --profile sim --test sim`: many; `PAYD_SIM_FROM=n` says from where.
//! - `PAYD_SIM_SEED=n cargo test --test sim -- --nocapture`: one, told step by step.

// In tests a panic is the report; clippy.toml allows it in test functions, not in their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod play;
mod world;

mod random;
mod weather;

mod clients;
mod gateway;
mod store;
mod twin;

mod canary;
mod check;

mod seeds;
