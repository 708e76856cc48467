//! What the gateway does with a charge: as its metadata say, or by a seed.

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// How a charge ends, once it is executed. The same for a key on every send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Charged,
    Declined,
    SoftlyDeclined,
    /// Decided at the second lookup.
    PendingThenCharged,
    PendingThenDeclined,
}

/// How a send goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Executed and answered.
    Plain,
    /// Executed, and answered after so long.
    Slow(Duration),
    /// Executed, and the connection is reset.
    Reset,
    /// Executed, and the connection is closed without a byte.
    Close,
    /// Executed, and nothing is said until the client goes.
    Timeout,
    /// Executed, and half of the answer is sent.
    Half,
    /// Executed, and answered with 500.
    Error500,
    /// Executed, and answered with what is no JSON.
    Garbage,
    /// Executed, and answered with what is not even HTTP.
    Noise,
    /// Executed, and answered with another amount.
    Mismatch,
    /// Not executed; the connection is closed.
    Lost,
    /// Not executed, and 429.
    SentAway { retry_after_s: u32 },
    /// Not executed, and nobody listens for a while.
    Refuse(Duration),
}

/// How a lookup goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Slow(Duration),
    Error500,
    Close,
    Garbage,
    SentAway,
}

impl Look {
    /// Whether the client gets to know anything.
    pub(super) const fn is_heard(self) -> bool {
        matches!(self, Self::Plain | Self::Slow(_))
    }
}

/// Where decisions come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance {
    pub(super) seed: u64,
    /// Of a hundred sends or lookups, so many go wrong.
    pub(super) faults_percent: u64,
}

impl Chance {
    /// Uniform below `bound`, and the same for the same words.
    fn draw(self, bound: u64, words: &[&str]) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        for word in words {
            hash.update(word.len().to_le_bytes());
            hash.update(word);
        }
        let digest = hash.finalize();
        let eight = digest[..8].try_into().unwrap();
        u64::from_le_bytes(eight) % bound
    }

    /// By the invoice and its number of the key, and not by the key: that is another in every run.
    pub(super) fn fate(self, invoice: &str, attempt: usize) -> Fate {
        match self.draw(100, &["fate", invoice, &attempt.to_string()]) {
            0..10 => Fate::Declined,
            10..25 => Fate::SoftlyDeclined,
            25..29 => Fate::PendingThenCharged,
            29..30 => Fate::PendingThenDeclined,
            _ => Fate::Charged,
        }
    }

    pub(super) fn manner(self, invoice: &str, attempt: usize, send: usize) -> Manner {
        let words = [invoice, &attempt.to_string(), &send.to_string()];
        let draw = |bound, what| self.draw(bound, &[what, words[0], words[1], words[2]]);
        if draw(100, "fault?") >= self.faults_percent {
            return Manner::Plain;
        }
        let ms = Duration::from_millis(20 + draw(100, "ms"));
        match draw(12, "which") {
            0 => Manner::Slow(ms),
            1 => Manner::Reset,
            2 => Manner::Close,
            3 => Manner::Timeout,
            4 => Manner::Half,
            5 => Manner::Error500,
            6 => Manner::Garbage,
            7 => Manner::Noise,
            8 => Manner::Mismatch,
            9 => Manner::Lost,
            10 => Manner::SentAway { retry_after_s: 0 },
            _ => Manner::Refuse(ms),
        }
    }

    pub(super) fn look(self, key: &str, lookup: usize) -> Look {
        let lookup = lookup.to_string();
        let draw = |bound, what| self.draw(bound, &[what, key, &lookup]);
        if draw(100, "lookup fault?") >= self.faults_percent {
            return Look::Plain;
        }
        match draw(5, "which lookup") {
            0 => Look::Slow(Duration::from_millis(20 + draw(100, "ms"))),
            1 => Look::Error500,
            2 => Look::Close,
            3 => Look::Garbage,
            _ => Look::SentAway,
        }
    }
}

/// What a test asked for in the charge's metadata.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) fate: Fate,
    /// So many sends are lost first.
    pub(super) lost: usize,
    /// How the first send that is executed goes.
    pub(super) manner: Manner,
}

impl Script {
    /// `None` where the metadata say nothing about it.
    pub(super) fn of(metadata: &Value, attempt: usize) -> Option<Self> {
        let word = |name: &str| metadata[name].as_str();
        let fate = match word("fate")? {
            "charged" => Fate::Charged,
            "declined" => Fate::Declined,
            "declined-then-charged" if attempt == 1 => Fate::SoftlyDeclined,
            "declined-then-charged" => Fate::Charged,
            "pending" => Fate::PendingThenCharged,
            other => panic!("no fate {other}"),
        };
        let manner = match word("manner").unwrap_or("plain") {
            "plain" => Manner::Plain,
            "reset" => Manner::Reset,
            "timeout" => Manner::Timeout,
            "close" => Manner::Close,
            "half" => Manner::Half,
            "500" => Manner::Error500,
            "garbage" => Manner::Garbage,
            "noise" => Manner::Noise,
            "mismatch" => Manner::Mismatch,
            "sent-away" => Manner::SentAway { retry_after_s: 0 },
            other => panic!("no manner {other}"),
        };
        let lost = word("lost").map_or(0, |it| it.parse().unwrap());
        Some(Self { fate, lost, manner })
    }

    pub(super) fn manner(&self, send: usize) -> Manner {
        if send <= self.lost {
            Manner::Lost
        } else if send == self.lost + 1 {
            self.manner
        } else {
            Manner::Plain
        }
    }
}
