//! The event bus. Signals wake, tables tell: what it carries is "there is something up to sequence
//! n", never the events, so that a lost signal, a slow subscriber and a restart are one code path.
//! Only who waits for a payment's end may be told how it ended, as it was committed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::ports::PaymentRecord;
use crate::domain::InvoiceId;

/// The bus. Cheap to clone; all clones are one bus.
#[derive(Clone)]
pub struct Bus {
    head: watch::Sender<u64>,
    waiting: Arc<Mutex<HashMap<InvoiceId, Waiting>>>,
}

struct Waiting {
    bell: watch::Sender<Told>,
    waiters: usize,
}

/// With which payment an invoice left PROCESSING; `None`: look at the tables.
type Told = Option<Arc<PaymentRecord>>;

impl Bus {
    /// A bus whose log ends at `head`.
    #[must_use]
    pub fn new(head: u64) -> Self {
        Self {
            head: watch::Sender::new(head),
            waiting: Arc::default(),
        }
    }

    /// Wakes who waits for events: the log now ends at `head`, durably.
    pub fn advance(&self, head: u64) {
        self.head.send_replace(head);
    }

    /// The end of the log, to wait on.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Whether anybody waits for an invoice to leave PROCESSING.
    #[must_use]
    pub fn is_waited_for(&self, invoice: &InvoiceId) -> bool {
        self.waiting().contains_key(invoice)
    }

    /// Wakes who waits for these invoices to leave PROCESSING, and says with which payment they did,
    /// where that is known.
    pub fn settled(&self, invoices: impl IntoIterator<Item = (InvoiceId, Option<PaymentRecord>)>) {
        let waiting = self.waiting();
        if waiting.is_empty() {
            return;
        }
        for (invoice, payment) in invoices {
            if let Some(entry) = waiting.get(&invoice) {
                entry.bell.send_replace(payment.map(Arc::new));
            }
        }
    }

    /// A bell that rings when the invoice may have left PROCESSING. Whoever holds it looks at the
    /// table first, and again after every ring that does not say more.
    #[must_use]
    pub fn bell(&self, invoice: &InvoiceId) -> Bell {
        let mut waiting = self.waiting();
        let entry = waiting.entry(invoice.clone()).or_insert_with(|| Waiting {
            bell: watch::Sender::new(None),
            waiters: 0,
        });
        entry.waiters += 1;
        Bell {
            bus: self.clone(),
            invoice: invoice.clone(),
            rings: entry.bell.subscribe(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<InvoiceId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Bus::bell`]. Dropping it gives its place back.
pub struct Bell {
    bus: Bus,
    invoice: InvoiceId,
    rings: watch::Receiver<Told>,
}

impl Bell {
    /// The next ring since the bell was made, or since the last one: one that comes while nobody listens
    /// is not missed. It may say how the payment ended. Safe to cancel.
    pub async fn ring(&mut self) -> Option<Arc<PaymentRecord>> {
        if self.rings.changed().await.is_err() {
            // The sender lives for as long as there are bells.
            std::future::pending::<()>().await;
        }
        self.rings.borrow_and_update().clone()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut waiting = self.bus.waiting();
        if let Some(entry) = waiting.get_mut(&self.invoice) {
            entry.waiters -= 1;
            if entry.waiters == 0 {
                waiting.remove(&self.invoice);
            }
        }
    }
}
