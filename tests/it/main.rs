//! One test binary: the real daemon, the real payctl, real sockets; the engine on the real store
//! with virtual time; and what is generated.

// In tests a panic is the report; clippy.toml allows it in test functions, not in their helpers.
#![allow(clippy::unwrap_used)]

mod support;

mod access;
mod api;
mod backup;
mod daemon;
mod gateway;
mod payctl;
mod service;
mod storage;

mod engine;

#[cfg(feature = "failpoints")]
mod failpoints;
mod gateway_process;
mod kill_loop;

mod generated;
mod layers;
