//! The wire types of the contract (`DESIGN.md`, sections 3 and 4): what HTTP answers, what the
//! log stores and what payctl reads are one set of types. It never decides anything.
//!
//! Text fields are `Cow`, so that the server writes them without a copy and payctl owns what it
//! has read. Keys are always present, `null` where empty.

mod event;
mod invoice;
mod object;
mod payment;
mod problem;
mod seal;
mod token;

pub use event::{Event, EventPage};
pub use invoice::{Invoice, InvoicePage};
pub use object::{Object, escape_char};
pub use payment::{Failure, Payment, PaymentPage};
pub use problem::{Code, FieldError, Problem};
pub use seal::{SEAL_LEN, is_seal_of, seal};
pub use token::{NewToken, Scope, Token, TokenPage};
