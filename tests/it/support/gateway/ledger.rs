//! The gateway's ledger: one fact a line, on disk before it answers; and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(crate) enum Fact {
    /// A whole request to charge has been read.
    Asked {
        key: String,
        invoice: String,
        payment: String,
        amount: u64,
        currency: String,
        /// SHA-256 of the body.
        digest: String,
    },
    /// It was thrown away: the gateway has nothing of it.
    Lost { key: String },
    /// It was sent away with 429: the gateway has nothing of it, and said so.
    SentAway { key: String },
    /// It will be decided later.
    Pending { key: String, id: String },
    /// Money moved.
    Charged {
        key: String,
        id: String,
        invoice: String,
        amount: u64,
        currency: String,
    },
    /// Definitely none did.
    Declined {
        key: String,
        id: String,
        invoice: String,
        code: String,
        retryable: bool,
    },
    /// One key, two bodies. It must never happen.
    KeyReused { key: String },
    /// What went back over the wire; or did not.
    Answered { key: String, how: String },
    /// A lookup, and what it was told.
    LookedUp { key: String, told: String },
}

impl Fact {
    fn key(&self) -> &str {
        match self {
            Self::Asked { key, .. }
            | Self::Lost { key }
            | Self::SentAway { key }
            | Self::Pending { key, .. }
            | Self::Charged { key, .. }
            | Self::Declined { key, .. }
            | Self::KeyReused { key }
            | Self::Answered { key, .. }
            | Self::LookedUp { key, .. } => key,
        }
    }
}

/// Where facts go.
pub(super) struct Writer(File);

impl Writer {
    pub(super) fn open(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        Self(options.create(true).append(true).open(path).unwrap())
    }

    /// On disk when this returns.
    pub(super) fn write(&mut self, facts: &[Fact]) {
        self.note(facts);
        self.0.sync_data().unwrap();
    }

    /// Out of this process when this returns: no money depends on it.
    pub(super) fn note(&mut self, facts: &[Fact]) {
        let mut lines = String::new();
        for fact in facts {
            lines.push_str(&serde_json::to_string(fact).unwrap());
            lines.push('\n');
        }
        self.0.write_all(lines.as_bytes()).unwrap();
    }
}

/// All facts, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) facts: Vec<Fact>,
}

/// Money that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) amount: u64,
    pub(crate) currency: String,
}

impl Ledger {
    /// A last line that a kill cut short was never relied on.
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let facts = whole
            .lines()
            // A cut line may have been followed by another process's.
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        Self { facts }
    }

    /// The facts about these keys.
    pub(crate) fn about(&self, keys: &BTreeSet<String>) -> Self {
        let facts = self.facts.iter();
        Self {
            facts: facts
                .filter(|fact| keys.contains(fact.key()))
                .cloned()
                .collect(),
        }
    }

    /// The keys that asked for money for an invoice, in the order of their first request.
    pub(crate) fn keys_of(&self, wanted: &str) -> Vec<String> {
        let mut keys = Vec::new();
        for fact in &self.facts {
            if let Fact::Asked { key, invoice, .. } = fact
                && invoice == wanted
                && !keys.contains(key)
            {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// Whole requests for an invoice.
    pub(crate) fn asked(&self, wanted: &str) -> usize {
        let asked = |fact: &&Fact| matches!(fact, Fact::Asked { invoice, .. } if invoice == wanted);
        self.facts.iter().filter(asked).count()
    }

    /// Charges by invoice.
    pub(crate) fn charges(&self) -> BTreeMap<String, Vec<Charge>> {
        let mut charges: BTreeMap<String, Vec<Charge>> = BTreeMap::new();
        for fact in &self.facts {
            if let Fact::Charged {
                key,
                id,
                invoice,
                amount,
                currency,
            } = fact
            {
                charges.entry(invoice.clone()).or_default().push(Charge {
                    key: key.clone(),
                    id: id.clone(),
                    amount: *amount,
                    currency: currency.clone(),
                });
            }
        }
        charges
    }

    /// Keys that were definitely declined.
    pub(crate) fn declined(&self) -> BTreeSet<String> {
        let declined = self.facts.iter().filter_map(|fact| match fact {
            Fact::Declined { key, .. } => Some(key.clone()),
            _ => None,
        });
        declined.collect()
    }

    /// What the gateway may never see, whatever happens to payd: the rules of section 2 from its
    /// side of the wire.
    #[track_caller]
    pub(crate) fn check(&self) {
        self.one_body_a_key();
        self.one_charge_an_invoice();
        self.next_key_after_a_decline();
        self.sent_again_only_after_proof();
    }

    /// Invariant 6.
    #[track_caller]
    pub(crate) fn one_body_a_key(&self) {
        let mut digests: BTreeMap<&str, &str> = BTreeMap::new();
        for fact in &self.facts {
            if let Fact::Asked { key, digest, .. } = fact {
                let first = digests.entry(key).or_insert(digest);
                assert_eq!(first, digest, "key {key} came with two bodies");
            }
            assert!(!matches!(fact, Fact::KeyReused { .. }), "{fact:?}");
        }
    }

    /// Invariant 1.
    #[track_caller]
    fn one_charge_an_invoice(&self) {
        for (invoice, charges) in self.charges() {
            assert_eq!(charges.len(), 1, "{invoice} was charged twice: {charges:?}");
        }
    }

    /// Invariant 5.
    #[track_caller]
    fn next_key_after_a_decline(&self) {
        let mut newest: BTreeMap<&str, &str> = BTreeMap::new();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut declined: BTreeSet<&str> = BTreeSet::new();
        for fact in &self.facts {
            match fact {
                Fact::Declined { key, .. } => {
                    declined.insert(key);
                }
                Fact::Asked { key, invoice, .. } if seen.insert(key) => {
                    if let Some(before) = newest.insert(invoice, key) {
                        assert!(
                            declined.contains(before),
                            "{invoice}: key {key} came before {before} was declined"
                        );
                    }
                }
                _ => {}
            }
        }
    }

    /// A key comes again only where the gateway has said, once for each time that it came before,
    /// that it has nothing of it. Counted, and not by order: a request can lie unread in a socket
    /// while a lookup overtakes it. That a "not found" that comes too soon is none is proved where
    /// time is virtual; here it would be a matter of who is scheduled first.
    #[track_caller]
    fn sent_again_only_after_proof(&self) {
        let mut came: BTreeMap<&str, usize> = BTreeMap::new();
        let mut denied: BTreeMap<&str, usize> = BTreeMap::new();
        for fact in &self.facts {
            match fact {
                Fact::Asked { key, .. } => {
                    let came = came.entry(key).or_default();
                    let denied = denied.get(key.as_str()).copied().unwrap_or(0);
                    assert!(
                        *came <= denied,
                        "key {key} came again, and the gateway had denied it {denied} times of {came}"
                    );
                    *came += 1;
                }
                Fact::SentAway { key } => *denied.entry(key).or_default() += 1,
                Fact::LookedUp { key, told } if told == "not found" || told == "not yet" => {
                    *denied.entry(key).or_default() += 1;
                }
                _ => {}
            }
        }
    }
}
