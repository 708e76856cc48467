//! What the application needs from outside: time, chance, a store and a gateway. Passed in, so that
//! the whole of it runs just as well on virtual time, a seed and a model gateway.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{
    Finding, Invoice, InvoiceId, InvoiceStatus, Outcome, Payment, PaymentId, StoreId, Timestamp,
};

use crate::failpoints::Failed;

use super::event_log::EventRecord;
use super::request::{AnswerName, StoredAnswer};
use super::tokens::Token;
use super::upkeep::Upkeep;
use super::working_set::Entry;

/// payd's time. It never goes backwards, and a jump of the wall clock does not move it.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;

    /// What the wall clock says, jumps and all. For what people set by it, such as the expiry of a
    /// token; never for payments.
    fn wall(&self) -> Timestamp {
        self.now()
    }
}

/// Chance.
pub trait Random: Send + Sync {
    /// Fills the buffer with uniform bytes.
    fn fill(&self, bytes: &mut [u8]);

    /// A uniform number.
    fn draw(&self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }
}

/// A boxed future, so that gateways can be chosen at run time.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a send of a payment says. Everything in it is the same on every send (invariant 6), but for
/// `send`, `sent_at` and `traceparent`, which are not part of the gateway's request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeRequest {
    /// The invoice, with its content as it was made.
    pub invoice: Arc<crate::domain::NewInvoice>,
    /// The payment's id.
    pub payment: PaymentId,
    /// Its number.
    pub attempt: u32,
    /// The idempotency key, and the reference that must be echoed.
    pub key: crate::domain::GatewayKey,
    /// The payment method.
    pub method: Option<String>,
    /// Which send of this payment this is, from 1: the epoch of the claim.
    pub send: u32,
    /// When that claim was made.
    pub sent_at: Timestamp,
    /// W3C trace context, for a header: it differs from send to send where payd is traced.
    pub traceparent: Option<String>,
}

impl ChargeRequest {
    /// The trace that it belongs to, for log lines.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }
}

/// What a probe of the gateway found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It answers, and lets payd in.
    Usable,
    /// It does not let payd in (401, 403).
    Refused {
        /// Its words.
        reason: String,
    },
    /// It does not answer as a gateway does.
    Unreachable {
        /// What happened instead.
        reason: String,
    },
}

/// Whoever moves the money. A gateway makes one request a call and never retries on its own.
pub trait Gateway: Send + Sync {
    /// Its name, as payments record it: a payment is only ever sent to the gateway of its first send.
    fn name(&self) -> &str;

    /// How soon after a send a "not found" is final.
    fn lookup_lag(&self) -> Duration;

    /// Sends a payment. The caller limits the time; a future that is dropped counts as no answer.
    fn charge<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Outcome>;

    /// Asks what became of a payment.
    fn lookup<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Finding>;

    /// Asks for nothing in particular, to see whether the gateway can be used. It moves no money and
    /// is about no payment.
    fn probe(&self) -> BoxFuture<'_, Probe>;
}

/// Why a store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A rule of the schema was broken: the commands of this transaction must be told apart.
    #[error("the database refused a row: {0}")]
    Constraint(String),
    /// Another process holds the database.
    #[error("another process holds the database: {0}")]
    Busy(String),
    /// No room, or read-only, and rolled back: nothing happened.
    #[error("the database cannot be written: {0}")]
    NoRoom(String),
    /// A row that cannot be read. Its invoice is set aside; the others go on.
    #[error("a stored row cannot be read: {0}")]
    BadRow(String),
    /// Anything else: nobody knows what is on disk.
    #[error("the database failed: {0}")]
    Fatal(String),
}

/// A commit that a test wants to fail: nobody knows what is on disk.
impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        Self::Fatal(failed.to_string())
    }
}

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest sequence; 0 where there is none.
    pub sequence: u64,
    /// The digest of the chain up to it.
    pub digest: [u8; 32],
    /// The newest time stored.
    pub time: Option<Timestamp>,
}

/// What a store knows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// Part of every gateway key, for ever.
    pub store: StoreId,
    /// The source of events; another one after a restore.
    pub source: StoreId,
    /// The end of the log.
    pub head: Head,
    /// Whether an operator has paused sending.
    pub paused: bool,
    /// Where it was restored from a backup.
    pub restored: Option<Restored>,
}

/// The latest restore of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// When, by the wall clock of the machine.
    pub at: Timestamp,
    /// The newest event in the backup.
    pub sequence: u64,
    /// Whether its open payments are still to be marked for a lookup: nothing may be sent before.
    pub pending: bool,
}

/// Work that a worker can take, by the invoice that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// REQUESTED payments, by due time.
    Due,
    /// ACCEPTED and UNKNOWN payments, by the time of the next lookup.
    Lookups,
    /// SENDING payments, by the end of the lease.
    Leases,
    /// Payments that wait for another gateway than the one named, of invoices that no operator has
    /// been called to. At no time of its own.
    Elsewhere,
    /// Open payments that a restored store has not marked yet. At no time of its own.
    Restored,
}

/// What a batch is about to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected<'a> {
    /// An invoice, by its id.
    Invoice(&'a InvoiceId),
    /// An answer, by its idempotency key.
    Answer(AnswerName<'a>),
}

/// What a store keeps of an event's JSON in the place of it, where it has something shorter: [`Store::pack`].
pub type Pack = fn(&str) -> Option<Vec<u8>>;

/// The one writer. Between `begin` and `commit` it sees its own writes. It is used from one thread.
pub trait Store: Send {
    /// What it keeps of an event's JSON in the place of it, where it has something shorter: another thread may make it.
    fn pack(json: &str) -> Option<Vec<u8>>
    where
        Self: Sized;

    /// What it knows of itself.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn info(&mut self) -> Result<StoreInfo, StoreError>;

    /// Starts a transaction.
    ///
    /// # Errors
    /// Where the database is busy or broken.
    fn begin(&mut self) -> Result<(), StoreError>;

    /// What will be looked for in this transaction. A store may look for much of it at once, or begin to read it where
    /// its disk is slow; one that has no use for it leaves it alone.
    ///
    /// # Errors
    /// Where it cannot be looked for. The transaction may be over then, and is to be rolled back.
    fn expect(
        &mut self,
        expected: &mut dyn Iterator<Item = Expected<'_>>,
    ) -> Result<(), StoreError> {
        let _ = expected;
        Ok(())
    }

    /// Nobody has asked for anything for a while, and no transaction is under way: a store may let go of what it keeps only
    /// to be faster.
    fn rest(&mut self) {}

    /// An invoice with its latest payment.
    ///
    /// # Errors
    /// [`StoreError::BadRow`] where it cannot be read.
    fn load(&mut self, invoice: &InvoiceId) -> Result<Option<Entry>, StoreError>;

    /// Which invoice a payment is of.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn invoice_of(&mut self, payment: PaymentId) -> Result<Option<InvoiceId>, StoreError>;

    /// One payment of an invoice that is loaded already.
    ///
    /// # Errors
    /// [`StoreError::BadRow`] where it cannot be read.
    fn payment(&mut self, payment: PaymentId) -> Result<Option<Payment>, StoreError>;

    /// The invoices at the head of a queue, up to `limit`; those at or before `until`. A gateway's
    /// name leaves out payments that are bound to another, but for [`Queue::Elsewhere`] and [`Queue::Restored`].
    ///
    /// # Errors
    /// Where it cannot be read.
    fn queue(
        &mut self,
        queue: Queue,
        gateway: &str,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<InvoiceId>, StoreError>;

    /// When the head of a queue is due.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn next(&mut self, queue: Queue, gateway: &str) -> Result<Option<Timestamp>, StoreError>;

    /// Brings lookups that are scheduled after `until` forward to it. Says how many.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn pull_lookups(&mut self, until: Timestamp) -> Result<usize, StoreError>;

    /// The answer kept under an idempotency key.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn answer(&mut self, name: AnswerName<'_>) -> Result<Option<StoredAnswer>, StoreError>;

    /// Writes what has changed.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] where an invariant of the schema would break.
    fn save(&mut self, entry: &mut Entry) -> Result<(), StoreError>;

    /// Appends to the log an event of the invoice with this key, which has been saved with its newest one. `previous` is
    /// the one before this.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn append(
        &mut self,
        record: EventRecord,
        previous: Option<u64>,
        invoice_row: i64,
    ) -> Result<(), StoreError>;

    /// Events by their sequences, `first` to `last`, as far as they are there: those of the transaction too.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn events(&mut self, first: u64, last: u64) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Keeps an answer.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn keep_answer(&mut self, name: AnswerName<'_>, answer: StoredAnswer)
    -> Result<(), StoreError>;

    /// Drops up to `limit` answers of more than 30 days, counted in time lived, after adding `lived`
    /// to the count: a jump of the clock expires nothing. Says how many.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn expire_answers(&mut self, lived: Duration, limit: usize) -> Result<usize, StoreError>;

    /// Notes that all open payments of a restored store are marked.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn restore_done(&mut self) -> Result<(), StoreError>;

    /// Notes whether sending is paused.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn set_paused(&mut self, paused: bool) -> Result<(), StoreError>;

    /// All tokens, revoked ones too, oldest first.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn tokens(&mut self) -> Result<Vec<Token>, StoreError>;

    /// Keeps a token.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn add_token(&mut self, token: &Token) -> Result<(), StoreError>;

    /// Revokes the token with this id, if it is not revoked yet.
    ///
    /// # Errors
    /// Where it cannot be written.
    fn revoke_token(&mut self, id: &str, at: Timestamp, by: &str) -> Result<(), StoreError>;

    /// Makes it durable. When this returns `Ok`, it survives a power cut.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`] and [`StoreError::Busy`] only where nothing was committed.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Forgets the transaction.
    fn rollback(&mut self);
}

/// Which invoices to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvoiceQuery {
    /// Only those in this status.
    pub status: Option<InvoiceStatus>,
    /// The cursor: only those beyond.
    pub after: Option<u64>,
    /// Oldest first.
    pub ascending: bool,
    /// At most so many.
    pub limit: usize,
}

/// An invoice as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceRecord {
    /// Its place in the order of creation: the cursor of lists.
    pub cursor: u64,
    /// The invoice.
    pub invoice: Invoice,
    /// When the payment that waits will be sent.
    pub next_attempt_at: Option<Timestamp>,
}

/// A payment, with what its invoice adds to the view of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRecord {
    /// The invoice that it is of, with its content.
    pub invoice: Arc<crate::domain::NewInvoice>,
    /// The payment.
    pub payment: Payment,
}

/// Which events to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventQuery {
    /// Only those beyond this sequence.
    pub after: u64,
    /// Only these types; all where empty.
    pub types: Vec<crate::domain::EventType>,
    /// Only those of this invoice.
    pub invoice: Option<InvoiceId>,
    /// At most so many.
    pub limit: usize,
    /// No more once there are so many bytes of them; one there is in any case.
    pub bytes: Option<usize>,
}

/// Events as they were stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventSlice {
    /// Sequence and bytes, oldest first.
    pub events: Vec<(u64, Vec<u8>)>,
    /// The end of the log in the same snapshot.
    pub head: u64,
    /// All that matches up to here is in `events`: the cursor to go on from.
    pub read_to: u64,
}

/// Figures for `payctl status` and metrics. They cost what there is of open work, not what there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Open payments by state, in the order of [`crate::domain::PaymentState::ALL`].
    pub open_payments: Vec<(crate::domain::PaymentState, u64)>,
    /// REQUESTED payments whose time has come.
    pub due: u64,
    /// When the oldest of these was due.
    pub due_since: Option<Timestamp>,
    /// Since when the oldest UNKNOWN payment is open.
    pub unknown_since: Option<Timestamp>,
    /// Invoices that an operator should look at.
    pub needs_attention: u64,
    /// The database's file, in bytes.
    pub database_bytes: u64,
    /// Its write-ahead log, in bytes; 0 where there is none.
    pub wal_bytes: u64,
}

/// Readers, beside the writer and never in its way. Calls block; they belong on a blocking thread.
pub trait Reader: Send + Sync {
    /// The store as a whole: backups and checks.
    fn upkeep(&self) -> &dyn Upkeep;

    /// One invoice.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn invoice(&self, id: &InvoiceId) -> Result<Option<InvoiceRecord>, StoreError>;

    /// Invoices in their order, one by one, until there are no more or `each` has enough: however many
    /// match, one is in memory.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn invoices(
        &self,
        query: InvoiceQuery,
        each: &mut dyn FnMut(InvoiceRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// One payment.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn payment(&self, id: PaymentId) -> Result<Option<PaymentRecord>, StoreError>;

    /// All payments of an invoice, oldest first. `None`: there is no such invoice.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn payments(&self, invoice: &InvoiceId) -> Result<Option<Vec<PaymentRecord>>, StoreError>;

    /// The latest payment of an invoice, and the invoice's status, in one look. `None`: there is no
    /// such invoice, or it has no payment.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn latest_payment(
        &self,
        invoice: &InvoiceId,
    ) -> Result<Option<(InvoiceStatus, PaymentRecord)>, StoreError>;

    /// A slice of the log.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn events(&self, query: &EventQuery) -> Result<EventSlice, StoreError>;

    /// Figures for `payctl status` and metrics.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn tally(&self, now: Timestamp) -> Result<Tally, StoreError>;
}
