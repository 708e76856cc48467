//! The event bus. Signals wake, tables tell: what it carries is "there is something up to sequence
//! n", never the events, so that a lost signal, a slow subscriber and a restart are one code path.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::domain::InvoiceId;

/// The bus. Cheap to clone; all clones are one bus.
#[derive(Clone)]
pub struct Bus {
    head: watch::Sender<u64>,
    waiting: Arc<Mutex<HashMap<InvoiceId, Waiting>>>,
}

struct Waiting {
    bell: Arc<Notify>,
    waiters: usize,
}

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

    /// Wakes who waits for these invoices to leave PROCESSING.
    pub fn settled<'a>(&self, invoices: impl IntoIterator<Item = &'a InvoiceId>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return;
        }
        for invoice in invoices {
            if let Some(entry) = waiting.get(invoice) {
                entry.bell.notify_waiters();
            }
        }
    }

    /// A bell that rings when the invoice may have left PROCESSING. Whoever holds it looks at the
    /// table first, and again after every ring.
    #[must_use]
    pub fn bell(&self, invoice: &InvoiceId) -> Bell {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = waiting.entry(invoice.clone()).or_insert_with(|| Waiting {
            bell: Arc::new(Notify::new()),
            waiters: 0,
        });
        entry.waiters += 1;
        Bell {
            bus: self.clone(),
            invoice: invoice.clone(),
            notify: Arc::clone(&entry.bell),
        }
    }
}

/// See [`Bus::bell`]. Dropping it gives its place back.
pub struct Bell {
    bus: Bus,
    invoice: InvoiceId,
    notify: Arc<Notify>,
}

impl Bell {
    /// The next ring. It counts from the moment that this future is made and enabled, so make it
    /// before looking at the table (`Notified::enable`).
    pub fn ring(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut waiting = self
            .bus
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = waiting.get_mut(&self.invoice) {
            entry.waiters -= 1;
            if entry.waiters == 0 {
                waiting.remove(&self.invoice);
            }
        }
    }
}
