//! The daemon, whole, from outside.

mod concurrency;
mod crash;
mod lifecycle;
mod logs;
mod metrics;
mod simulator;
mod traces;
