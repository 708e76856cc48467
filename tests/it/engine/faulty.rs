//! The real store, but that a commit or a row can be made to fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use payd::application::ports::{Expected, Queue, Store, StoreError, StoreInfo};
use payd::application::request::{AnswerName, StoredAnswer};
use payd::application::{Entry, EventRecord, Token};
use payd::domain::{InvoiceId, Payment, PaymentId, Timestamp};
use payd::infrastructure::store::SqliteStore;

/// What a test calls the thread that seals, and how many events it has packed.
pub(crate) const SEALER: &str = "a test's sealer";
pub(crate) static PACKED_THERE: AtomicUsize = AtomicUsize::new(0);

/// What goes wrong, until it is taken back.
#[derive(Clone, Default)]
pub(crate) struct Fault(Arc<Mutex<Option<Wrong>>>);

#[derive(Clone)]
pub(crate) enum Wrong {
    /// The commit fails, and nothing is on disk.
    CommitRefused,
    /// The commit fails, and nobody knows what is on disk: here, all of it.
    CommitLost,
    /// The commit fails, and nobody knows what is on disk: here, nothing.
    CommitBroken,
    /// The row of this invoice breaks a constraint.
    Row(&'static str),
    /// No row can be read: the disk fails.
    Read,
    /// The same, where the batch's idempotency keys are looked for.
    Look,
}

impl Fault {
    pub(crate) fn set(&self, wrong: Option<Wrong>) {
        *self.0.lock().unwrap() = wrong;
    }

    fn get(&self) -> Option<Wrong> {
        self.0.lock().unwrap().clone()
    }
}

/// What the engine has said that it will look for.
pub(crate) type Said = Arc<Mutex<Vec<String>>>;

pub(crate) struct Faulty {
    pub(crate) store: SqliteStore,
    pub(crate) fault: Fault,
    pub(crate) said: Said,
    pub(crate) rests: Arc<AtomicUsize>,
}

impl Store for Faulty {
    fn pack(json: &str) -> Option<Vec<u8>> {
        if std::thread::current().name() == Some(SEALER) {
            PACKED_THERE.fetch_add(1, Ordering::Relaxed);
        }
        SqliteStore::pack(json)
    }

    fn save(&mut self, entry: &mut Entry) -> Result<(), StoreError> {
        match self.fault.get() {
            Some(Wrong::Row(id)) if entry.aggregate.invoice.id().as_str() == id => Err(
                StoreError::Constraint("UNIQUE constraint failed: payments.invoice".to_owned()),
            ),
            _ => self.store.save(entry),
        }
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        match self.fault.get() {
            Some(Wrong::CommitRefused) => {
                self.store.rollback();
                Err(StoreError::NoRoom("database or disk is full".to_owned()))
            }
            Some(Wrong::CommitLost) => {
                self.store.commit()?;
                Err(StoreError::Fatal("disk I/O error".to_owned()))
            }
            Some(Wrong::CommitBroken) => {
                self.store.rollback();
                Err(StoreError::Fatal("disk I/O error".to_owned()))
            }
            Some(Wrong::Row(_) | Wrong::Read | Wrong::Look) | None => self.store.commit(),
        }
    }

    fn expect(
        &mut self,
        expected: &mut dyn Iterator<Item = Expected<'_>>,
    ) -> Result<(), StoreError> {
        let expected: Vec<_> = expected.collect();
        self.said
            .lock()
            .unwrap()
            .extend(expected.iter().map(|it| match it {
                Expected::Invoice(id) => id.to_string(),
                Expected::Answer(name) => format!("{} of {}", name.key, name.actor),
            }));
        if matches!(self.fault.get(), Some(Wrong::Look)) {
            // As SQLite does where it cannot read: the transaction is over, and what follows is none.
            self.store.rollback();
            return Err(StoreError::Fatal("disk I/O error".to_owned()));
        }
        self.store.expect(&mut expected.into_iter())
    }

    fn rest(&mut self) {
        self.rests.fetch_add(1, Ordering::Relaxed);
        self.store.rest();
    }

    fn info(&mut self) -> Result<StoreInfo, StoreError> {
        self.store.info()
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.store.begin()
    }

    fn load(&mut self, invoice: &InvoiceId) -> Result<Option<Entry>, StoreError> {
        if matches!(self.fault.get(), Some(Wrong::Read)) {
            return Err(StoreError::Fatal("disk I/O error".to_owned()));
        }
        self.store.load(invoice)
    }

    fn invoice_of(&mut self, payment: PaymentId) -> Result<Option<InvoiceId>, StoreError> {
        self.store.invoice_of(payment)
    }

    fn payment(&mut self, payment: PaymentId) -> Result<Option<Payment>, StoreError> {
        self.store.payment(payment)
    }

    fn queue(
        &mut self,
        queue: Queue,
        gateway: &str,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<InvoiceId>, StoreError> {
        self.store.queue(queue, gateway, until, limit)
    }

    fn next(&mut self, queue: Queue, gateway: &str) -> Result<Option<Timestamp>, StoreError> {
        self.store.next(queue, gateway)
    }

    fn pull_lookups(&mut self, until: Timestamp) -> Result<usize, StoreError> {
        self.store.pull_lookups(until)
    }

    fn answer(&mut self, name: AnswerName<'_>) -> Result<Option<StoredAnswer>, StoreError> {
        self.store.answer(name)
    }

    fn append(
        &mut self,
        record: EventRecord,
        previous: Option<u64>,
        invoice_row: i64,
    ) -> Result<(), StoreError> {
        self.store.append(record, previous, invoice_row)
    }

    fn events(&mut self, first: u64, last: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        self.store.events(first, last)
    }

    fn keep_answer(
        &mut self,
        name: AnswerName<'_>,
        answer: StoredAnswer,
    ) -> Result<(), StoreError> {
        self.store.keep_answer(name, answer)
    }

    fn expire_answers(&mut self, lived: Duration, limit: usize) -> Result<usize, StoreError> {
        self.store.expire_answers(lived, limit)
    }

    fn restore_done(&mut self) -> Result<(), StoreError> {
        self.store.restore_done()
    }

    fn set_paused(&mut self, paused: bool) -> Result<(), StoreError> {
        self.store.set_paused(paused)
    }

    fn tokens(&mut self) -> Result<Vec<Token>, StoreError> {
        self.store.tokens()
    }

    fn add_token(&mut self, token: &Token) -> Result<(), StoreError> {
        self.store.add_token(token)
    }

    fn revoke_token(&mut self, id: &str, at: Timestamp, by: &str) -> Result<(), StoreError> {
        self.store.revoke_token(id, at, by)
    }

    fn rollback(&mut self) {
        self.store.rollback();
    }
}
