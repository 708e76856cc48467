//! The daemon, whole, from outside.

mod concurrency;
mod crash;
mod lifecycle;
mod metrics;
mod simulator;
