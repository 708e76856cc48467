//! When something is due, known without asking the database with every batch.
//!
//! For each queue it holds a bound: nothing of it is due before then. A bound may be too early,
//! which costs one look into the queue; it must never be too late, which would cost a retry. So
//! whatever a batch writes can only lower it, also a batch that is rolled back; only a look into
//! the queue, after a commit, raises it.

use crate::domain::{Payment, PaymentState, Timestamp};

use super::super::ports::Queue;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agenda {
    due: Option<Timestamp>,
    lookups: Option<Timestamp>,
    leases: Option<Timestamp>,
}

impl Agenda {
    /// Anything may be due.
    pub(super) fn unknown() -> Self {
        let ever = Some(Timestamp::from_millis(i64::MIN));
        Self {
            due: ever,
            lookups: ever,
            leases: ever,
        }
    }

    /// Nothing of the queue is due before then; `None`: nothing ever is.
    pub(super) const fn not_before(&self, queue: Queue) -> Option<Timestamp> {
        match queue {
            Queue::Due => self.due,
            Queue::Lookups => self.lookups,
            Queue::Leases => self.leases,
            // These are for the start alone, and have no times.
            Queue::Elsewhere | Queue::Restored => None,
        }
    }

    /// Whether it is worth a look into the queue.
    pub(super) fn may_be_due(&self, queue: Queue, now: Timestamp) -> bool {
        self.not_before(queue).is_some_and(|at| at <= now)
    }

    /// A payment stands so from now on.
    pub(super) fn note(&mut self, payment: &Payment) {
        let work = &payment.work;
        match payment.state {
            PaymentState::Requested => self.lower(Queue::Due, Some(payment.due_at)),
            PaymentState::Sending => self.lower(Queue::Leases, work.lease_until),
            PaymentState::Accepted | PaymentState::Unknown => {
                self.lower(Queue::Lookups, work.next_lookup_at);
            }
            PaymentState::Review
            | PaymentState::Succeeded
            | PaymentState::Failed
            | PaymentState::Canceled => {}
        }
    }

    /// Something of the queue may be due then.
    pub(super) fn lower(&mut self, queue: Queue, at: Option<Timestamp>) {
        if let (Some(bound), Some(at)) = (self.bound(queue), at) {
            *bound = Some(bound.map_or(at, |standing| standing.min(at)));
        }
    }

    /// The head of the queue, as it stands in the tables after a commit.
    pub(super) fn learn(&mut self, queue: Queue, head: Option<Timestamp>) {
        if let Some(bound) = self.bound(queue) {
            *bound = head;
        }
    }

    const fn bound(&mut self, queue: Queue) -> Option<&mut Option<Timestamp>> {
        match queue {
            Queue::Due => Some(&mut self.due),
            Queue::Lookups => Some(&mut self.lookups),
            Queue::Leases => Some(&mut self.leases),
            Queue::Elsewhere | Queue::Restored => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_lowered_by_what_is_written_and_raised_by_a_look_alone() {
        let at = Timestamp::from_millis;
        let mut agenda = Agenda::unknown();
        for queue in [Queue::Due, Queue::Lookups, Queue::Leases] {
            assert!(agenda.may_be_due(queue, at(0)), "after a start");
            agenda.learn(queue, Some(at(50)));
            assert!(!agenda.may_be_due(queue, at(49)));
            agenda.lower(queue, Some(at(90)));
            assert_eq!(agenda.not_before(queue), Some(at(50)));
            agenda.lower(queue, Some(at(20)));
            assert_eq!(agenda.not_before(queue), Some(at(20)));
            agenda.learn(queue, None);
            assert!(!agenda.may_be_due(queue, at(i64::MAX)));
            agenda.lower(queue, Some(at(7)));
            assert_eq!(agenda.not_before(queue), Some(at(7)));
            agenda.learn(queue, None);
        }
    }
}
