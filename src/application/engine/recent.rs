//! Invoices that were touched lately, as they are on disk, so that the next step of a payment need
//! not read what the step before has just written.
//!
//! The engine is the only writer, so what was committed is what is there. An entry leaves when a
//! batch takes it, and comes back only after that batch's commit: one that fails leaves nothing
//! here, and the invoice is read again.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::domain::{InvoiceId, InvoiceStatus, PaymentId};

use super::super::working_set::Entry;

/// Entries in a generation, of which there are two; a kilobyte or so each.
pub(super) const GENERATION_MAX: usize = 1024;

/// Bytes of text of the client's in an invoice that is kept. Larger ones are read again.
const TEXT_BYTES_MAX: usize = 2048;

/// Payments of an invoice that are kept: the latest, and what the last step closed.
const PAYMENTS_MAX: usize = 2;

/// See the module. What is kept goes into the young generation; when that is full it becomes the
/// old one, and what was the old one goes: no order of use has to be kept.
#[derive(Default)]
pub(super) struct Recent {
    young: Generation,
    old: Generation,
}

#[derive(Default)]
struct Generation {
    entries: HashMap<InvoiceId, Entry, RandomState>,
    by_payment: HashMap<PaymentId, InvoiceId, RandomState>,
}

impl Generation {
    fn take(&mut self, id: &InvoiceId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        for payment in &entry.aggregate.payments {
            self.by_payment.remove(&payment.id);
        }
        Some(entry)
    }
}

impl Recent {
    /// Takes an invoice out.
    pub(super) fn take(&mut self, id: &InvoiceId) -> Option<Entry> {
        self.young.take(id).or_else(|| self.old.take(id))
    }

    /// Whether an invoice is in here.
    pub(super) fn has(&self, id: &InvoiceId) -> bool {
        let generations = [&self.young, &self.old];
        generations.iter().any(|it| it.entries.contains_key(id))
    }

    /// Which invoice in here a payment is of.
    pub(super) fn invoice_of(&self, payment: PaymentId) -> Option<&InvoiceId> {
        let generations = [&self.young, &self.old];
        generations
            .into_iter()
            .find_map(|it| it.by_payment.get(&payment))
    }

    /// Keeps an invoice as it has just been committed, if there will be more steps.
    pub(super) fn keep(&mut self, entry: Entry) {
        if entry.is_changed() || entry.row.is_none() || !is_worth_it(&entry) {
            return;
        }
        if self.young.entries.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        let id = entry.aggregate.invoice.id();
        for payment in &entry.aggregate.payments {
            self.young.by_payment.insert(payment.id, id.clone());
        }
        self.young.entries.insert(id.clone(), entry);
    }
}

/// Whether more is to come, and it is small.
fn is_worth_it(entry: &Entry) -> bool {
    let invoice = &entry.aggregate.invoice;
    let open = matches!(
        invoice.status,
        InvoiceStatus::Pending | InvoiceStatus::Processing
    );
    let content = &invoice.content;
    let metadata = content.metadata.iter().map(|(k, v)| k.len() + v.len());
    let text = content.description.as_ref().map_or(0, String::len)
        + content.payment_method.as_ref().map_or(0, String::len)
        + metadata.sum::<usize>();
    open && text <= TEXT_BYTES_MAX && entry.aggregate.payments.len() <= PAYMENTS_MAX
}
