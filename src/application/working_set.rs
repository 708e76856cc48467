//! The invoices that a batch touches: loaded once, changed in memory, written once.

use std::collections::HashMap;

use crate::domain::{Aggregate, InvoiceId, PaymentId};

/// An invoice with its payments, and what of them has changed since they were loaded.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The state.
    pub aggregate: Aggregate,
    /// The store's own key of the invoice; set by the first save.
    pub row: Option<i64>,
    /// Its attempts that the store has: payments beyond are new to it.
    pub attempts_stored: u32,
    /// Whether the invoice has changed.
    pub invoice_changed: bool,
    /// The payments that have changed, in the order of their first change: a payment that closes
    /// comes before the one that opens.
    pub payments_changed: Vec<PaymentId>,
}

impl Entry {
    /// As the store has it.
    #[must_use]
    pub const fn loaded(aggregate: Aggregate, row: i64) -> Self {
        Self {
            row: Some(row),
            attempts_stored: aggregate.invoice.attempts,
            aggregate,
            invoice_changed: false,
            payments_changed: Vec::new(),
        }
    }

    /// Not in the store yet.
    #[must_use]
    pub const fn new(aggregate: Aggregate) -> Self {
        Self {
            aggregate,
            row: None,
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
    entries: HashMap<InvoiceId, Entry>,
    order: Vec<InvoiceId>,
}

impl WorkingSet {
    /// An entry by its invoice's id.
    #[must_use]
    pub fn get(&self, id: &InvoiceId) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// The same, to change.
    pub fn get_mut(&mut self, id: &InvoiceId) -> Option<&mut Entry> {
        self.entries.get_mut(id)
    }

    /// Adds an entry. Entries are written in the order in which they were added.
    pub fn insert(&mut self, id: InvoiceId, entry: Entry) {
        if self.entries.insert(id.clone(), entry).is_none() {
            self.order.push(id);
        }
    }

    /// The invoice in the set that a payment is of.
    #[must_use]
    pub fn find_payment(&self, payment: PaymentId) -> Option<&InvoiceId> {
        self.entries
            .iter()
            .find(|(_, entry)| entry.aggregate.payment(payment).is_some())
            .map(|(id, _)| id)
    }

    /// Takes it apart, in order.
    pub fn into_entries(mut self) -> impl Iterator<Item = (InvoiceId, Entry)> {
        self.order.into_iter().filter_map(move |id| {
            let entry = self.entries.remove(&id)?;
            Some((id, entry))
        })
    }

    /// Calls `f` with each entry, in order, until one fails.
    ///
    /// # Errors
    /// The first of `f`.
    pub fn try_for_each<E>(
        &mut self,
        mut f: impl FnMut(&mut Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        for id in &self.order {
            if let Some(entry) = self.entries.get_mut(id) {
                f(entry)?;
            }
        }
        Ok(())
    }
}
