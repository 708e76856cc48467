//! Use cases between the rules and the world: the engine that commits, the bus that wakes, the
//! processor that sends and the resolver that asks again. No HTTP, no SQL, no clock of its own.

pub mod ports;
pub mod request;

mod app;
mod bus;
mod doctor;

mod engine;
mod event_log;
mod gate;
mod working_set;

mod tokens;

mod prober;
mod processor;
mod resolver;
mod worker;

mod metrics;
mod streams;
mod trace;
mod upkeep;
mod verify;

pub use app::{App, Overview};
pub use bus::{Bell, Bus};
pub use doctor::{Check, Surroundings, Verdict};
pub use engine::{Engine, EngineHandle, Fatal, Policy, Run, Sealing, Telling, spawn};
pub use event_log::{DecodeError, Decoded, EventRecord, chain, decode, first_digest};
pub use gate::{Closure, Shut};
pub use metrics::{Answered, Appended, Counters, Decided, GatewayCall, Metrics, Standing};
pub use prober::Prober;
pub use processor::Processor;
pub use resolver::Resolver;
pub use streams::{Place as StreamCursor, Streams};
pub use tokens::{
    ADMIN, Adopted, LIVE_MAX, Scopes, Secret, Token, TokenRefusal, TokenRequest, Tokens, Unproven,
    adopt,
};
pub use trace::{Span, SpanKind, SpanStart, Tracer};
pub use upkeep::{Backup, Measures, Progress, Stage, Upkeep, UpkeepError, Watch};
pub use verify::{
    Finding as VerifyFinding, LogRow, Report, TableRow, TokenRow, VerifySource,
    is_what_its_events_say, verify, verify_watched,
};
pub use worker::Places;
pub use working_set::{Entry, WorkingSet};
