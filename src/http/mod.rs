//! HTTP: the contract's section 4, the same on the Unix socket and on TCP. Routes, strict parsing,
//! problem+json, idempotency, streams, listeners.
//!
//! A handler parses, calls, translates, in that order, and decides nothing: what may happen to an
//! invoice is the domain's word. No SQL, no gateway, no clock of its own.
//!
//! | file | what it is |
//! |---|---|
//! | `server`, `peers`, `stall`, `worded` | listeners, connections, their limits, the orderly end |
//! | `context` | who calls, under which request id; what no browser may do; panics; how long it may take |
//! | `auth`, `pace` | tokens and what they are good for; how often, and how slowly for those without |
//! | `routes` | the table of routes |
//! | `invoices`, `batch`, `payments`, `wait`, `events`, `admin`, `upkeep`, `doctor`, `tokens`, `health` | the handlers |
//! | `call`, `json`, `parse`, `query`, `headers`, `prefer` | from bytes to types that cannot be wrong |
//! | `idempotency` | a key, its first answer, and that answer again |
//! | `problem` | everything that goes wrong |
//! | `reply` | answers that are simply JSON |
//! | `room` | what TCP and the socket may each hold in memory, and have read, at a time |
//! | `lists`, `stream` | lists and bodies without an end, in constant memory |
//! | `follow`, `tail`, `frames` | event streams: each on its way, the end of the log read once for all, what is sent |

mod peers;
mod server;
mod stall;
mod worded;

mod auth;
mod context;
mod pace;
mod routes;

mod admin;
mod batch;
mod doctor;
mod events;
mod health;
mod invoices;
mod payments;
mod tokens;
mod upkeep;
mod wait;

mod call;
mod headers;
mod json;
mod parse;
mod prefer;
mod query;

mod follow;
mod frames;
mod idempotency;
mod lists;
mod problem;
mod reply;
mod room;
mod stream;
mod tail;

#[cfg(test)]
mod size_tests;

pub use context::{Options, tell_of_panics};
#[cfg(feature = "tls")]
pub use server::Tls;
pub use server::{Listener, serve};

/// OpenAPI 3.1 of the whole API: what `GET /openapi.json` answers and `payd openapi` prints.
pub const OPENAPI: &str = include_str!("openapi.json");
