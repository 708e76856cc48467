//! What callers may ask of the engine: a closed set of actions, and their answers.

use std::sync::{Arc, LazyLock};

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::domain::{Command, Invoice, InvoiceId, NewInvoice, PaymentId, Refusal, Timestamp};

use super::ports::{ChargeRequest, PaymentRecord};
use super::tokens::{Token, TokenRefusal, TokenRequest};
use super::worker::Places;

/// Who asks, and in which context: goes into events and logs.
#[derive(Debug, Clone)]
pub struct Caller {
    /// `uid:1000` on the socket, the token's name on TCP (`tcp` where none is asked for), `payd` for
    /// payd's own work.
    pub actor: Arc<str>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

impl Caller {
    /// payd itself.
    #[must_use]
    pub fn payd() -> Self {
        static PAYD: LazyLock<Arc<str>> = LazyLock::new(|| "payd".into());
        Self {
            actor: Arc::clone(&PAYD),
            traceparent: None,
        }
    }
}

/// What is asked.
#[derive(Debug)]
pub enum Action {
    /// Make invoices, each on its own merits.
    Create(Vec<Arc<NewInvoice>>),
    /// A command on an invoice: `pay` or `cancel`.
    OnInvoice(InvoiceId, Command),
    /// A command on a payment: the outcome of a send or of a lookup, or an operator's word. Who knows
    /// of which invoice says so: to find that by the payment alone takes a look into many places.
    OnPayment(PaymentId, Option<InvoiceId>, Command),
    /// Take due payments to send them. Answered when there are some.
    ClaimDue {
        /// At most as many as are free when they are given out.
        places: Places,
    },
    /// Take open questions to look them up. Answered when there are some.
    ClaimLookups {
        /// The same.
        places: Places,
    },
    /// Probe the gateway. Answered when it is time to.
    ClaimProbe,
    /// What a probe found.
    Probed(super::ports::Probe),
    /// No claims any more: those that wait are answered with nothing. payd is shutting down.
    StopClaims,
    /// Stop or go on sending.
    Pause(bool),
    /// Keep a token.
    AddToken(TokenRequest),
    /// Revoke the token of this name or id.
    RevokeToken(String),
    /// Commit nothing in particular, to see whether it can be done.
    Beat,
    /// Drop answers that are kept for long enough.
    ExpireAnswers {
        /// Time lived since the last time.
        lived: std::time::Duration,
    },
}

impl Action {
    /// Whether it comes by itself from time to time, also where nobody asks payd for anything.
    #[must_use]
    pub const fn is_upkeep(&self) -> bool {
        matches!(self, Self::Beat | Self::ExpireAnswers { .. })
    }
}

/// The answer to an action that was not refused.
#[derive(Debug, Clone)]
pub enum Reply {
    /// To `Create`: each invoice, and whether it is new; or its own refusal.
    Created(Vec<Result<(InvoiceView, bool), Refusal>>),
    /// To `cancel`.
    Invoice(InvoiceView),
    /// To commands that are about a payment: the payment that stands, and whether it is new.
    Payment {
        /// The payment that stands.
        payment: Box<PaymentRecord>,
        /// Whether it was requested just now.
        fresh: bool,
    },
    /// To the claims of payments. Empty: there is nothing to do now.
    Claimed(Vec<ChargeRequest>),
    /// To `ClaimProbe`: now.
    Probe,
    /// To `ExpireAnswers`: how many went. As many as go at once means that there are more.
    Expired(usize),
    /// To those about tokens.
    Token(Box<Result<Token, TokenRefusal>>),
    /// To the rest.
    Done,
}

/// An invoice, with what its payments add to the view of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceView {
    /// The invoice.
    pub invoice: Invoice,
    /// When the payment that waits will be sent.
    pub next_attempt_at: Option<Timestamp>,
}

/// An answer as it went out, kept byte for byte. What it means is the business of who encoded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The Location header.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer kept under an idempotency key, with the fingerprint of the request that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// SHA-256 over method, path and body.
    pub fingerprint: [u8; 32],
    /// How it is kept.
    pub kept: Kept,
}

/// How an answer is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// As it went out.
    Whole(Answer),
    /// Invoices that were made, or a payment that was requested, are told of by their events, which never
    /// change: their answer is written from these again. Most answers are such, and each is nearly as large as its
    /// event.
    Events {
        /// The sequence of the first.
        first: u64,
        /// That of the last.
        last: u64,
    },
}

/// Turns a result into the answer to keep. `None`: this one is not kept. It may be called again for the
/// same request: where a batch has to be decided anew, and where the request comes again and its answer is kept
/// by its events. It must then write the same bytes; the results of `Create` that are all new, and of `pay` that
/// is, are always kept.
pub type Encode = Box<dyn Fn(&Result<Reply, Refusal>) -> Option<Answer> + Send>;

/// An idempotency key with what it stands for.
pub struct Idempotency {
    /// 1 to 255 printable ASCII.
    key: String,
    hash: i64,
    /// SHA-256 over method, path and body.
    pub fingerprint: [u8; 32],
    /// How the answer is written. It runs before the commit, since it is part of it.
    pub encode: Encode,
}

impl Idempotency {
    /// Of the one who asks.
    #[must_use]
    pub fn new(actor: &str, key: String, fingerprint: [u8; 32], encode: Encode) -> Self {
        Self {
            hash: key_hash(actor.as_bytes(), key.as_bytes()),
            key,
            fingerprint,
            encode,
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What the answer is kept under. `actor` is the one of [`Idempotency::new`].
    #[must_use]
    pub fn name<'a>(&'a self, actor: &'a Arc<str>) -> AnswerName<'a> {
        AnswerName {
            actor,
            key: &self.key,
            hash: self.hash,
        }
    }
}

/// What an answer is kept under: who asked, and the idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerName<'a> {
    /// Who asked.
    pub actor: &'a Arc<str>,
    /// The key.
    pub key: &'a str,
    /// [`key_hash`] of both.
    pub hash: i64,
}

impl<'a> AnswerName<'a> {
    /// Of actor and key.
    #[must_use]
    pub fn new(actor: &'a Arc<str>, key: &'a str) -> Self {
        let hash = key_hash(actor.as_bytes(), key.as_bytes());
        Self { actor, key, hash }
    }
}

/// Where the answer under a key is looked for: the beginning of a digest of actor and key. Stores have it in their
/// tables.
#[must_use]
pub fn key_hash(actor: &[u8], key: &[u8]) -> i64 {
    let digest = Sha256::new()
        .chain_update((actor.len() as u64).to_le_bytes())
        .chain_update(actor)
        .chain_update(key)
        .finalize();
    first_eight(&digest)
}

/// The first eight bytes of a digest, as a number to look for.
#[must_use]
pub fn first_eight(digest: &[u8]) -> i64 {
    let first = digest.first_chunk().copied().unwrap_or_default();
    i64::from_be_bytes(first)
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Decided now; with the answer as it was kept, where a key was given and it is kept as it goes out.
    Fresh(Result<Reply, Refusal>, Option<Answer>),
    /// The key has been answered before: this is that answer.
    Replayed(Answer),
    /// The key was used for another request.
    KeyReused,
}

/// Why a request got no outcome. Nothing has happened, unless it says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("payd has more work waiting than it takes on")]
    QueueFull,
    /// payd is shutting down.
    #[error("payd is shutting down")]
    Stopping,
    /// The store has no room, or is held by another process.
    #[error("{0}")]
    Unwritable(String),
    /// The first request with this key is still running.
    #[error("the first request with this key is still running")]
    InProgress,
    /// The key is in use for another request, which is still running.
    #[error("the key is in use for another request")]
    KeyReused,
    /// This one request could not be carried out.
    #[error("{0}")]
    Internal(String),
}

/// A request on its way to the engine.
pub struct Envelope {
    /// Who asks.
    pub caller: Caller,
    /// What.
    pub action: Action,
    /// Under which key.
    pub idempotency: Option<Idempotency>,
    /// Where the outcome goes. Nobody listening is fine: what was decided stands.
    pub reply: oneshot::Sender<Result<Outcome, SubmitError>>,
}
