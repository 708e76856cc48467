//! payd, a payment engine, and payctl, its command line.
//!
//! The map, from the inside out; arrows point down only, and a test holds them to it
//! (`tests/it/layers.rs`):
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`domain`] | the rules: money, ids, invoice, payment, retry, events. Pure | nothing of ours |
//! | [`api`] | the wire types of the contract, shared by log, HTTP and payctl | domain |
//! | [`application`] | use cases, ports, engine, processor, resolver | domain, api |
//! | `trust` | whom to trust over TLS, and why not, in sentences | nothing of ours |
//! | [`infrastructure`] | SQLite, gateways, clock, logs, files | domain, api, application, trust |
//! | [`http`] | routes, problem+json, idempotency, streams, listeners | domain, api, application |
//! | [`config`] | the settings, and where each came from | domain |
//! | [`daemon`] | the composition root: the one file that knows every layer | all |
//! | [`failpoints`] | where tests may end, fail or hold the real binary; nothing in a release | nothing of ours |
//! | [`client`], [`cli`] | payctl: one connection, one file per command | domain, api, trust |

pub mod domain;
pub mod failpoints;

pub mod api;
pub mod application;
#[cfg(feature = "tls")]
mod trust;

pub mod http;
pub mod infrastructure;

pub mod config;
pub mod daemon;

pub mod cli;
pub mod client;
