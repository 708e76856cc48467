//! What an operator does with the store as a whole, beside the daemon's work: a backup, a check, its
//! measures. It reads, and never holds up the writer.

use std::io::Read;
use std::ops::ControlFlow;

use crate::domain::Timestamp;

use super::ports::StoreError;
use super::verify::Report;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Pages are copied; counted in pages.
    Copy,
    /// The database checks its pages; not counted.
    Pages,
    /// The hash chain is followed; counted in events.
    Chain,
    /// Invoices are folded; counted in invoices.
    Fold,
    /// The digest of a file is made; counted in bytes.
    Digest,
}

impl Stage {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copying",
            Self::Pages => "checking pages",
            Self::Chain => "following the chain",
            Self::Fold => "folding invoices",
            Self::Digest => "making the digest",
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// So much of it is done.
    pub done: u64,
    /// All of it; 0 where nobody knows.
    pub total: u64,
}

/// Is told how far it is, and says whether to go on.
pub type Watch<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// Why it was not done. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// Whoever watched said to stop.
    #[error("it was stopped")]
    Stopped,
    /// There is too little room for it.
    #[error("{0}")]
    NoRoom(String),
    /// The store is not what payd wrote; what was made of it would not be either.
    #[error("{0}")]
    NotSound(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for UpkeepError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoRoom(why) => Self::NoRoom(why),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// A backup that is whole, verified and sealed.
pub struct Backup {
    /// Its bytes, from the start.
    pub content: Box<dyn Read + Send>,
    /// How many they are.
    pub bytes: u64,
    /// What was checked in it.
    pub report: Report,
}

/// What the store takes, and what is left for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measures {
    /// Bytes of the database.
    pub database_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Bytes free where it lies.
    pub free_bytes: u64,
    /// Whether somebody else than its owner may read the directory or the database.
    pub open_to_others: bool,
}

/// See the module. Calls block, and may take minutes; they belong on a blocking thread.
pub trait Upkeep: Send + Sync {
    /// Copies the store as it stands now.
    ///
    /// # Errors
    /// Where there is no sound copy; nothing is left of it.
    fn backup(&self, now: Timestamp, watch: Watch<'_>) -> Result<Backup, UpkeepError>;

    /// Checks the store as it stands now.
    ///
    /// # Errors
    /// Where it cannot be read, or is stopped. What is found is in the report.
    fn verify(&self, watch: Watch<'_>) -> Result<Report, UpkeepError>;

    /// Measures it.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn measure(&self) -> Result<Measures, StoreError>;
}
