//! The invoices that a batch touches: loaded once, changed in memory, written once.

use std::collections::{HashMap, hash_map};

use foldhash::fast::RandomState;

use crate::domain::{Aggregate, InvoiceId, InvoiceStatus, PaymentId};

/// An invoice with its payments, and what of them has changed since they were loaded.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The state.
    pub aggregate: Aggregate,
    /// The store's own key of the invoice; set by the first save.
    pub row: Option<i64>,
    /// The invoice's newest event, those of this batch included. `None` where it has none, or where its events are of
    /// before the store chained them.
    pub newest_event: Option<u64>,
    /// Its attempts that the store has: payments beyond are new to it.
    pub attempts_stored: u32,
    /// Its status as the store has it.
    pub status_stored: InvoiceStatus,
    /// Whether the invoice has changed.
    pub invoice_changed: bool,
    /// The payments that have changed, in the order of their first change: a payment that closes
    /// comes before the one that opens.
    pub payments_changed: Vec<PaymentId>,
}

impl Entry {
    /// As the store has it.
    #[must_use]
    pub const fn loaded(aggregate: Aggregate, row: i64, newest_event: Option<u64>) -> Self {
        Self {
            row: Some(row),
            newest_event,
            attempts_stored: aggregate.invoice.attempts,
            status_stored: aggregate.invoice.status,
            aggregate,
            invoice_changed: false,
            payments_changed: Vec::new(),
        }
    }

    /// Not in the store yet.
    #[must_use]
    pub const fn new(aggregate: Aggregate) -> Self {
        Self {
            status_stored: aggregate.invoice.status,
            aggregate,
            row: None,
            newest_event: None,
            attempts_stored: 0,
            invoice_changed: true,
            payments_changed: Vec::new(),
        }
    }

    /// Notes that a payment has changed.
    pub fn payment_changed(&mut self, id: PaymentId) {
        if !self.payments_changed.contains(&id) {
            self.payments_changed.push(id);
        }
    }

    /// Notes that the store has it as it is, with this key of its own.
    pub fn saved(&mut self, row: i64) {
        self.row = Some(row);
        self.attempts_stored = self.aggregate.invoice.attempts;
        self.status_stored = self.aggregate.invoice.status;
        self.invoice_changed = false;
        self.payments_changed.clear();
    }

    /// Whether there is something to write.
    #[must_use]
    pub const fn is_changed(&self) -> bool {
        self.invoice_changed || !self.payments_changed.is_empty()
    }
}

/// The entries of a batch.
#[derive(Debug, Default)]
pub struct WorkingSet {
    /// In the order in which they were added, which is that in which they are written.
    entries: Vec<Entry>,
    places: HashMap<InvoiceId, usize, RandomState>,
}

impl WorkingSet {
    /// Where an invoice is in the set, if it is.
    #[must_use]
    pub fn place(&self, id: &InvoiceId) -> Option<usize> {
        self.places.get(id).copied()
    }

    /// An entry by its place.
    #[must_use]
    pub fn at(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place)
    }

    /// The same, to change.
    pub fn at_mut(&mut self, place: usize) -> Option<&mut Entry> {
        self.entries.get_mut(place)
    }

    /// An entry by its invoice's id.
    #[must_use]
    pub fn get(&self, id: &InvoiceId) -> Option<&Entry> {
        self.at(self.place(id)?)
    }

    /// The same, to change.
    pub fn get_mut(&mut self, id: &InvoiceId) -> Option<&mut Entry> {
        self.at_mut(self.place(id)?)
    }

    /// Adds an entry, in the place of the one that there is of its invoice. Says which place that is.
    pub fn insert(&mut self, entry: Entry) -> usize {
        match self.places.entry(entry.aggregate.invoice.id().clone()) {
            hash_map::Entry::Occupied(there) => {
                let place = *there.get();
                self.entries[place] = entry;
                place
            }
            hash_map::Entry::Vacant(free) => {
                let place = *free.insert(self.entries.len());
                self.entries.push(entry);
                place
            }
        }
    }

    /// The invoice in the set that a payment is of.
    #[must_use]
    pub fn find_payment(&self, payment: PaymentId) -> Option<&InvoiceId> {
        let of = |entry: &&Entry| entry.aggregate.payment(payment).is_some();
        let found = self.entries.iter().find(of);
        found.map(|entry| entry.aggregate.invoice.id())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes it apart, in order.
    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.entries.into_iter()
    }

    /// Calls `f` with each entry, in order, until one fails.
    ///
    /// # Errors
    /// The first of `f`.
    pub fn try_for_each<E>(&mut self, f: impl FnMut(&mut Entry) -> Result<(), E>) -> Result<(), E> {
        self.entries.iter_mut().try_for_each(f)
    }
}
