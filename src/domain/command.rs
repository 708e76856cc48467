//! What can be asked of an invoice that exists, and how it can refuse.

use std::time::Duration;

use super::{Failure, PaymentId, Timestamp};

/// What the gateway made of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Charged; reference, amount and currency were echoed.
    Approved {
        /// The gateway's own id of the charge.
        reference: Option<String>,
    },
    /// Definitely not charged, and never will be under this key.
    Declined {
        /// Why.
        failure: Failure,
        /// How long the gateway wants no other attempt.
        retry_after: Option<Duration>,
    },
    /// The gateway has it and will decide later.
    Accepted {
        /// The gateway's own id of the charge.
        reference: Option<String>,
        /// The gateway's words.
        reason: Option<String>,
    },
    /// Provably not sent: no byte of the request left.
    NotSent {
        /// What went wrong.
        reason: String,
    },
    /// The gateway does not let payd in (401, 403), and executes nothing.
    Refused {
        /// The gateway's words.
        reason: String,
    },
    /// The gateway says that it did not execute it.
    NotExecuted {
        /// What went wrong.
        reason: String,
        /// How long the gateway wants no other send.
        retry_after: Option<Duration>,
    },
    /// Anything else.
    Unknown {
        /// What happened instead of an answer.
        reason: String,
    },
    /// The gateway says that the key was used with other parameters.
    KeyReused {
        /// The gateway's words.
        reason: String,
    },
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Charged; reference, amount and currency were echoed.
    Approved {
        /// The gateway's own id of the charge.
        reference: Option<String>,
    },
    /// Definitely not charged.
    Declined {
        /// Why.
        failure: Failure,
        /// How long the gateway wants no other attempt.
        retry_after: Option<Duration>,
    },
    /// The gateway has it and will decide later.
    Pending {
        /// The gateway's own id of the charge.
        reference: Option<String>,
    },
    /// The gateway has no charge under the key.
    NotFound,
    /// What the gateway has under the key is not what was sent.
    Mismatch {
        /// What differs.
        reason: String,
    },
    /// The gateway does not let payd in (401, 403): nothing was learned.
    Refused {
        /// The gateway's words.
        reason: String,
    },
    /// Nothing was learned.
    Inconclusive {
        /// What happened instead of an answer.
        reason: String,
        /// How long the gateway wants no other lookup.
        retry_after: Option<Duration>,
    },
}

/// How an operator says that a payment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResolveAs {
    /// It was charged.
    Succeeded,
    /// It was not charged.
    Failed,
}

impl ResolveAs {
    /// As written in the API and the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// What can be asked of an invoice that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Get it paid.
    Pay {
        /// The payment method, where not the invoice's own.
        method: Option<String>,
    },
    /// Do not get it paid.
    Cancel {
        /// Why.
        reason: Option<String>,
    },
    /// A worker takes its due payment to send it through this gateway.
    Claim {
        /// The gateway's name.
        gateway: String,
    },
    /// The worker has its answer.
    Settle {
        /// Which payment.
        payment: PaymentId,
        /// The epoch of the claim.
        epoch: u32,
        /// The answer.
        outcome: Outcome,
    },
    /// payd sends to this gateway now, and the open payment waits for another.
    LeaveBehind {
        /// The gateway that payd sends to.
        gateway: String,
    },
    /// The store was restored from a backup: what became of its open payment since is not known here.
    Restored {
        /// The gateway that payd sends to.
        gateway: String,
    },
    /// A lookup of its open payment begins: the next one is scheduled.
    Look,
    /// The lookup has its answer.
    Found {
        /// Which payment.
        payment: PaymentId,
        /// The epoch at which it was asked.
        epoch: u32,
        /// When the lookup began: a "not found" counts only from the gateway's lag after the send.
        asked_at: Timestamp,
        /// The answer.
        finding: Finding,
    },
    /// An operator says how a payment ended.
    Resolve {
        /// Which payment.
        payment: PaymentId,
        /// How.
        resolve_as: ResolveAs,
        /// Why.
        reason: String,
        /// The gateway's own id of the charge.
        reference: Option<String>,
        /// Who.
        actor: String,
    },
}

/// Why a command was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Another invoice with this id has other content.
    #[error("another invoice has this id, with other content")]
    InvoiceExists,
    /// No invoice with this id.
    #[error("there is no such invoice")]
    InvoiceNotFound,
    /// No payment with this id.
    #[error("there is no such payment")]
    PaymentNotFound,
    /// It is canceled.
    #[error("the invoice is canceled")]
    InvoiceCanceled,
    /// It is paid.
    #[error("the invoice is paid")]
    InvoicePaid,
    /// Only UNKNOWN and REVIEW are open to an operator's word.
    #[error("the payment is not in UNKNOWN or REVIEW")]
    PaymentNotResolvable,
    /// What is stored of it cannot be read; it is set aside.
    #[error("what is stored of the invoice cannot be read")]
    InvoiceUnreadable,
    /// There is nothing to claim or to look up: another worker was first.
    #[error("there is nothing to do")]
    NothingToDo,
    /// The result of a claim that has been superseded.
    #[error("the result is of an earlier claim")]
    Stale,
}
