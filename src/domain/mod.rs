//! The rules of paying an invoice once (`DESIGN.md`, section 2).
//!
//! Pure: what is here computes a value from its arguments and nothing else. There is no I/O, no
//! clock, no randomness, no async, no JSON and no SQL in this layer; time, random draws and new
//! ids come in as arguments.
//!
//! [`decide`] turns a command into events, [`Aggregate::apply`] turns events into state. Nothing
//! else changes state, so what the tables hold is what the events fold to.

mod id;
mod money;
mod time;

mod failure;
mod invoice;
mod payment;

mod event;
mod retry;

mod aggregate;
mod command;
mod decide;

pub use aggregate::{Aggregate, FoldError};
pub use command::{Command, Finding, Outcome, Refusal, ResolveAs};
pub use decide::{Context, Decision, Work, create, decide};
pub use event::{Cause, Event, EventType};
pub use failure::{Failure, FailureKind};
pub use id::{GatewayKey, IdError, InvoiceId, PaymentId, StoreId, names};
pub use invoice::{Invoice, InvoiceInput, InvoiceRefusal, InvoiceStatus, NewInvoice};
pub use money::{Amount, AmountError, Currency, Money, UnknownCurrency};
pub use payment::{Payment, PaymentInput, PaymentRefusal, PaymentState, Working};
pub use retry::{LookupPolicy, RetryPolicy};
pub use time::{Timestamp, TimestampError};
