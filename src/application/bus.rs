//! The event bus. Signals wake, tables tell: what it carries is "there is something up to sequence
//! n", never the events, so that a lost signal, a slow subscriber and a restart are one code path.
//! Only who waits for a payment's end may be told how it ended, as it was committed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::ports::PaymentRecord;
use crate::domain::InvoiceId;

/// The bus. Cheap to clone; all clones are one bus.
#[derive(Clone)]
pub struct Bus {
    head: watch::Sender<u64>,
    waiting: Arc<Mutex<Waiting>>,
}

type Waiting = HashMap<InvoiceId, Waited>;

/// An invoice that is waited for.
struct Waited {
    rings: Arc<Rings>,
    bells: usize,
}

/// The rings of an invoice's bells.
#[derive(Default)]
struct Rings {
    last: Mutex<Ring>,
    rung: Notify,
}

/// The last ring: which one it was, from 1 on, and what it said.
#[derive(Clone, Default)]
struct Ring {
    number: u64,
    told: Told,
}

impl Rings {
    fn ring(&self, told: Told) {
        {
            let mut last = self.last();
            last.number += 1;
            last.told = told;
        }
        self.rung.notify_waiters();
    }

    fn last(&self) -> MutexGuard<'_, Ring> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
                entry.rings.ring(payment.map(Arc::new));
            }
        }
    }

    /// A bell that rings when the invoice may have left PROCESSING. Whoever holds it looks at the
    /// table first, and again after every ring that does not say more.
    #[must_use]
    pub fn bell(&self, invoice: &InvoiceId) -> Bell {
        let mut waiting = self.waiting();
        let entry = waiting.entry(invoice.clone()).or_insert_with(|| Waited {
            rings: Arc::default(),
            bells: 0,
        });
        entry.bells += 1;
        Bell {
            waiting: Arc::clone(&self.waiting),
            invoice: invoice.clone(),
            heard: entry.rings.last().number,
            rings: Arc::clone(&entry.rings),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Bus::bell`]. Dropping it gives its place back.
pub struct Bell {
    waiting: Arc<Mutex<Waiting>>,
    invoice: InvoiceId,
    rings: Arc<Rings>,
    /// The number of the last ring that it has told of.
    heard: u64,
}

impl Bell {
    /// The next ring since the bell was made, or since the last one: one that comes while nobody listens
    /// is not missed. It may say how the payment ended. Safe to cancel.
    pub async fn ring(&mut self) -> Option<Arc<PaymentRecord>> {
        loop {
            // Before the look: it ends with any ring from here on, also with one that comes between the two.
            let rung = self.rings.rung.notified();
            let last = self.rings.last().clone();
            if last.number != self.heard {
                self.heard = last.number;
                return last.told;
            }
            rung.await;
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = waiting.get_mut(&self.invoice) {
            entry.bells -= 1;
            if entry.bells == 0 {
                waiting.remove(&self.invoice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// What a bell says now, if it rings.
    fn heard(bell: &mut Bell) -> Option<Told> {
        let ring = std::pin::pin!(bell.ring());
        match ring.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(told) => Some(told),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_bell_tells_of_rings_since_it_was_made_whoever_listened() {
        let bus = Bus::new(0);
        let invoice = InvoiceId::parse("inv-1").unwrap();
        let other = InvoiceId::parse("inv-2").unwrap();
        let ring = |invoice: &InvoiceId| bus.settled([(invoice.clone(), None)]);
        ring(&invoice);
        let mut first = bus.bell(&invoice);
        assert_eq!(heard(&mut first), None);
        ring(&other);
        assert_eq!(heard(&mut first), None);
        ring(&invoice);
        let mut second = bus.bell(&invoice);
        assert_eq!(heard(&mut second), None, "it rang before");
        assert_eq!(heard(&mut first), Some(None));
        assert_eq!(heard(&mut first), None, "once");
        ring(&invoice);
        ring(&invoice);
        assert_eq!((heard(&mut first), heard(&mut first)), (Some(None), None));
        drop(first);
        assert!(bus.is_waited_for(&invoice));
        assert_eq!(heard(&mut second), Some(None));
        drop(second);
        assert!(!bus.is_waited_for(&invoice));
    }

    #[tokio::test]
    async fn all_who_listen_are_woken() {
        let bus = Bus::new(0);
        let invoice = InvoiceId::parse("inv-1").unwrap();
        let listeners: Vec<_> = (0..3)
            .map(|_| {
                let mut bell = bus.bell(&invoice);
                tokio::spawn(async move { bell.ring().await })
            })
            .collect();
        tokio::task::yield_now().await;
        bus.settled([(invoice.clone(), None)]);
        for listener in listeners {
            assert_eq!(listener.await.unwrap(), None);
        }
        assert!(!bus.is_waited_for(&invoice));
    }
}
