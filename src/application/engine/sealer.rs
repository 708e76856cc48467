//! Links events into the chain of the log, and makes of them what the store keeps.
//!
//! It is work that needs nothing but the events and their order. Few of them are sealed where they are. Those of a large
//! batch go to a thread of its own while the engine goes on deciding and saving: nobody else waits for the engine's
//! processor, which then does nothing but that.
//!
//! What it must never do: give events back in another order, or linked to anything but the one before.

use std::sync::mpsc;

use super::super::event_log::{Draft, EventRecord};
use super::super::ports::{Pack, StoreError};

/// Events that go to the thread at a time. A batch with fewer is done before the thread would have been woken for it.
const MANY: usize = if cfg!(test) { 4 } else { 128 };

/// The engine's side.
pub(super) enum Sealer {
    /// The engine seals by itself.
    Here,
    /// A thread does, where there are many.
    There(mpsc::Sender<Job>),
}

/// The thread's side: to be run on it.
pub struct Sealing {
    jobs: mpsc::Receiver<Job>,
    pack: Pack,
}

/// Events that follow each other.
pub(super) struct Job {
    drafts: Vec<Draft>,
    /// The digest before the first; none: it follows the last of the job before.
    before: Option<[u8; 32]>,
    sealed: mpsc::Sender<Vec<EventRecord>>,
}

impl Sealer {
    /// The two sides.
    pub(super) fn apart(pack: Pack) -> (Self, Sealing) {
        let (sender, jobs) = mpsc::channel();
        (Self::There(sender), Sealing { jobs, pack })
    }
}

impl Sealing {
    /// Seals until the engine is gone.
    pub fn run(self) {
        let mut newest = [0; 32];
        for Job {
            drafts,
            before,
            sealed,
        } in self.jobs
        {
            newest = before.unwrap_or(newest);
            let records = drafts
                .into_iter()
                .map(|draft| seal(draft, &mut newest, self.pack))
                .collect();
            // A batch that failed meanwhile does not want them.
            let _ = sealed.send(records);
        }
    }
}

fn seal(draft: Draft, newest: &mut [u8; 32], pack: Pack) -> EventRecord {
    let record = draft.seal(newest, pack);
    *newest = record.digest;
    record
}

/// The events of a batch that are not with the store yet.
pub(super) struct Unsealed {
    /// The digest of the last event that has been given out.
    digest: [u8; 32],
    drafts: Vec<Draft>,
    sent: Option<Sent>,
    /// The thread is gone, and that has been said.
    alone: bool,
}

/// What is with the thread.
struct Sent {
    jobs: usize,
    reply: mpsc::Sender<Vec<EventRecord>>,
    sealed: mpsc::Receiver<Vec<EventRecord>>,
}

impl Unsealed {
    /// None yet, after the event with this digest.
    pub(super) const fn after(digest: [u8; 32]) -> Self {
        Self {
            digest,
            drafts: Vec::new(),
            sent: None,
            alone: false,
        }
    }

    /// One more.
    pub(super) fn push(&mut self, draft: Draft, sealer: &Sealer) {
        self.drafts.push(draft);
        if self.drafts.len() >= MANY {
            self.send(sealer);
        }
    }

    /// There are no more for now: what follows something that is with the thread goes there too.
    pub(super) fn end(&mut self, sealer: &Sealer) {
        if self.sent.is_some() && !self.drafts.is_empty() {
            self.send(sealer);
        }
    }

    fn send(&mut self, sealer: &Sealer) {
        let Sealer::There(jobs) = sealer else {
            return;
        };
        let sent = self.sent.get_or_insert_with(|| {
            let (reply, sealed) = mpsc::channel();
            Sent {
                jobs: 0,
                reply,
                sealed,
            }
        });
        let job = Job {
            drafts: std::mem::take(&mut self.drafts),
            before: (sent.jobs == 0).then_some(self.digest),
            sealed: sent.reply.clone(),
        };
        match jobs.send(job) {
            Ok(()) => sent.jobs += 1,
            // These are sealed here, if nothing before them was lost with it.
            Err(mpsc::SendError(job)) => {
                self.drafts = job.drafts;
                if !std::mem::replace(&mut self.alone, true) {
                    tracing::error!(
                        "the thread that links events into the log is gone; the engine does it itself"
                    );
                }
            }
        }
    }

    /// Gives all of them out, sealed and in order. Says which digest the last has.
    ///
    /// # Errors
    /// What `each` says; or [`StoreError::Fatal`], where the thread was lost.
    pub(super) fn seal(
        &mut self,
        pack: Pack,
        mut each: impl FnMut(EventRecord) -> Result<(), StoreError>,
    ) -> Result<[u8; 32], StoreError> {
        if let Some(Sent {
            jobs,
            reply,
            sealed,
        }) = self.sent.take()
        {
            // Else nobody would say that there will be no more.
            drop(reply);
            for _ in 0..jobs {
                let records = sealed.recv().map_err(|_| {
                    StoreError::Fatal("the thread that links events into the log is gone".into())
                })?;
                for record in records {
                    self.digest = record.digest;
                    each(record)?;
                }
            }
        }
        for draft in self.drafts.drain(..) {
            each(seal(draft, &mut self.digest, pack))?;
        }
        Ok(self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::event_log::chain;
    use super::*;
    use crate::domain::EventType;

    fn draft(sequence: u64) -> Draft {
        Draft {
            sequence,
            kind: EventType::InvoiceCreated,
            json: format!("{{\"id\":\"{sequence}\"}}"),
        }
    }

    fn pack(json: &str) -> Option<Vec<u8>> {
        Some(json.bytes().rev().collect())
    }

    /// The sealed ones of a batch with so many events, and the last digest. Some of them are given out in between.
    fn sealed(
        sealer: &Sealer,
        digest: [u8; 32],
        count: u64,
        between: u64,
    ) -> (Vec<EventRecord>, [u8; 32]) {
        let mut unsealed = Unsealed::after(digest);
        let mut records = Vec::new();
        for sequence in 1..=count {
            unsealed.push(draft(sequence), sealer);
            if sequence == between {
                unsealed
                    .seal(pack, |record| {
                        records.push(record);
                        Ok(())
                    })
                    .unwrap();
            }
        }
        unsealed.end(sealer);
        let last = unsealed
            .seal(pack, |record| {
                records.push(record);
                Ok(())
            })
            .unwrap();
        (records, last)
    }

    fn expected(digest: [u8; 32], count: u64) -> Vec<EventRecord> {
        let mut before = digest;
        (1..=count)
            .map(|sequence| {
                let Draft {
                    sequence,
                    kind,
                    json,
                } = draft(sequence);
                before = chain(&before, json.as_bytes());
                EventRecord {
                    sequence,
                    kind,
                    packed: pack(&json),
                    json,
                    digest: before,
                }
            })
            .collect()
    }

    #[test]
    fn what_a_thread_seals_is_what_is_sealed_here() {
        let (there, sealing) = Sealer::apart(pack);
        let thread = std::thread::spawn(|| sealing.run());
        for (batch, sealer) in [&there, &Sealer::Here].into_iter().enumerate() {
            for count in 0..40 {
                for between in [0, 1, count / 2, count] {
                    let digest = [u8::try_from(count).unwrap(); 32];
                    let (records, last) = sealed(sealer, digest, count, between);
                    let expected = expected(digest, count);
                    assert_eq!(records, expected, "{batch}: {count}, {between}");
                    assert_eq!(last, expected.last().map_or(digest, |it| it.digest));
                }
            }
        }
        drop(there);
        thread.join().unwrap();
    }

    #[test]
    fn a_batch_that_is_given_up_leaves_nothing_to_the_next() {
        let (there, sealing) = Sealer::apart(pack);
        let thread = std::thread::spawn(|| sealing.run());
        let mut given_up = Unsealed::after([9; 32]);
        for sequence in 1..=10 * MANY as u64 {
            given_up.push(draft(sequence), &there);
        }
        drop(given_up);
        let (records, _) = sealed(&there, [7; 32], 11, 0);
        assert_eq!(records, expected([7; 32], 11));
        drop(there);
        thread.join().unwrap();
    }

    #[test]
    fn without_its_thread_events_are_sealed_here_and_none_is_lost_silently() {
        let (there, sealing) = Sealer::apart(pack);
        let mut unsealed = Unsealed::after([3; 32]);
        for sequence in 1..=MANY as u64 {
            unsealed.push(draft(sequence), &there);
        }
        // One job is with it.
        drop(sealing);
        for sequence in MANY as u64 + 1..=3 * MANY as u64 {
            unsealed.push(draft(sequence), &there);
        }
        unsealed.end(&there);
        let lost = unsealed.seal(pack, |_| Ok(()));
        assert!(matches!(lost, Err(StoreError::Fatal(_))), "{lost:?}");
        let (records, _) = sealed(&there, [3; 32], 23, 5);
        assert_eq!(records, expected([3; 32], 23));
    }
}
