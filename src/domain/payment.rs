//! The payment: one technical attempt to fulfil an invoice, and the table of its transitions.
//!
//! An attempt is a key, not a send: the same payment may be sent many times. Ambiguity never mints
//! a new key; only a definite decline does.

use super::{Failure, GatewayKey, PaymentId, Timestamp};

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentState {
    /// To be sent when due. Nothing of it is at the gateway.
    Requested,
    /// Claimed by a worker: it may be on its way.
    Sending,
    /// The gateway has it and will decide later.
    Accepted,
    /// Nobody here knows whether the gateway has it.
    Unknown,
    /// An operator must look: the gateway's word does not fit ours.
    Review,
    /// Charged. Final.
    Succeeded,
    /// Definitely not charged. Final.
    Failed,
    /// Withdrawn before anything was sent. Final.
    Canceled,
}

/// What can happen to a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentInput {
    /// A worker takes it to send it.
    Claim,
    /// The gateway approved; amount, currency and reference are echoed.
    Approved,
    /// The gateway declined, definitely.
    Declined,
    /// The gateway has it and will decide later.
    Pending,
    /// Provably not sent: no byte of the request left.
    NotSent,
    /// The gateway says that it did not execute it.
    NotExecuted,
    /// The store that it is in was restored from a backup: what it says of it may be out of date.
    Restored,
    /// No answer that says anything, or the worker was lost.
    Ambiguous,
    /// A lookup proves that the gateway never had it.
    NotFound,
    /// The answer is about another reference, amount or currency.
    Mismatch,
    /// The gateway says that the key was used with other parameters.
    KeyReused,
    /// An operator knows that it was charged.
    ResolveSucceeded,
    /// An operator knows that it was not charged.
    ResolveFailed,
    /// The invoice is canceled.
    Cancel,
}

/// Why a payment does not take an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentRefusal {
    /// It is not waiting to be sent.
    NotRequested,
    /// Nothing is outstanding at the gateway that this could be the answer to.
    NothingOutstanding,
    /// It is being sent: its own answer comes first.
    BeingSent,
    /// It may have been sent, so it cannot be withdrawn.
    MayHaveBeenSent,
    /// Only a payment in UNKNOWN or REVIEW is open to an operator's word.
    NotResolvable,
    /// It is decided, and this says nothing else.
    AlreadyDecided,
    /// It is decided, and this says otherwise.
    Contradicts,
}

impl PaymentState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Requested,
        Self::Sending,
        Self::Accepted,
        Self::Unknown,
        Self::Review,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
    ];

    /// As written in the API and the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::Sending => "SENDING",
            Self::Accepted => "ACCEPTED",
            Self::Unknown => "UNKNOWN",
            Self::Review => "REVIEW",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Canceled => "CANCELED",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether its outcome is still open. An invoice has at most one open payment.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(
            self,
            Self::Requested | Self::Sending | Self::Accepted | Self::Unknown | Self::Review
        )
    }

    /// The table of section 2 with section 10, whole: every state and every input. `Ok` of the same
    /// state means that the input says nothing new: the payment stays as it is.
    ///
    /// # Errors
    /// Where the input is refused, and why.
    pub const fn next(self, input: PaymentInput) -> Result<Self, PaymentRefusal> {
        use PaymentInput as On;
        use PaymentRefusal as No;
        use PaymentState::{
            Accepted, Canceled, Failed, Requested, Review, Sending, Succeeded, Unknown,
        };
        match (self, input) {
            (Requested, On::Claim) => Ok(Sending),
            (Requested, On::Cancel) => Ok(Canceled),
            // It may have been sent since the backup was made.
            (Requested, On::Restored) => Ok(Unknown),
            (Requested, On::ResolveSucceeded | On::ResolveFailed) => Err(No::NotResolvable),
            // Late word of an approval, after a lookup had proved that there was nothing.
            (Requested, On::Approved) => Err(No::Contradicts),
            (Requested, _) => Err(No::NothingOutstanding),

            (Sending, On::Approved) => Ok(Succeeded),
            (Sending, On::Declined) => Ok(Failed),
            (Sending, On::Pending) => Ok(Accepted),
            (Sending, On::NotSent | On::NotExecuted) => Ok(Requested),
            (Sending, On::Ambiguous | On::Mismatch | On::Restored) => Ok(Unknown),
            (Sending, On::KeyReused) => Ok(Review),
            (Sending, On::NotFound) => Err(No::BeingSent),

            (Accepted | Unknown | Review, On::Approved) => Ok(Succeeded),
            (Accepted | Unknown | Review, On::Declined) => Ok(Failed),
            (Accepted | Unknown, On::Pending) => Ok(Accepted),
            (Unknown, On::NotFound) => Ok(Requested),
            // The gateway had said that it has it: now it denies that.
            (Accepted, On::NotFound) => Ok(Review),
            (Accepted | Unknown, On::Mismatch | On::KeyReused) => Ok(Review),
            (Unknown | Review, On::ResolveSucceeded) => Ok(Succeeded),
            (Unknown | Review, On::ResolveFailed) => Ok(Failed),
            (
                Accepted | Unknown | Review,
                On::NotSent | On::NotExecuted | On::Ambiguous | On::Restored,
            ) => Ok(self),
            (Review, On::Pending | On::NotFound | On::Mismatch | On::KeyReused) => Ok(Review),

            (Succeeded, On::Declined) | (Failed | Canceled, On::Approved) => Err(No::Contradicts),

            (Sending | Accepted, On::ResolveSucceeded | On::ResolveFailed) => {
                Err(No::NotResolvable)
            }
            (Succeeded | Failed | Canceled, On::ResolveSucceeded | On::ResolveFailed) => {
                Err(No::NotResolvable)
            }
            (Sending | Accepted | Unknown | Review, On::Cancel) => Err(No::MayHaveBeenSent),
            (Sending | Accepted | Unknown | Review | Succeeded | Failed | Canceled, On::Claim) => {
                Err(No::NotRequested)
            }
            (Succeeded | Failed | Canceled, _) => Err(No::AlreadyDecided),
        }
    }
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Its id.
    pub id: PaymentId,
    /// 1, 2, 3, … over the life of the invoice.
    pub attempt: u32,
    /// The key that every send of it carries.
    pub key: GatewayKey,
    /// The payment method that every send of it names.
    pub method: Option<String>,
    /// Where it stands.
    pub state: PaymentState,
    /// The gateway that it was first sent to: no other ever sees its key.
    pub gateway: Option<String>,
    /// The gateway's own id of the charge.
    pub gateway_reference: Option<String>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it may be sent.
    pub due_at: Timestamp,
    /// When it was last claimed to be sent.
    pub sent_at: Option<Timestamp>,
    /// When it was decided.
    pub finished_at: Option<Timestamp>,
    /// How often a lookup proved that the gateway never had it, and it was to be sent again.
    pub resends: u32,
    /// Whether word that contradicts where it stands has been recorded: its decision, or that
    /// nothing of it is at the gateway.
    pub contradicted: bool,
    /// Whether it was open when the store was restored from a backup: other attempts may have
    /// followed it since, so none follows it by itself.
    pub restored: bool,
    /// The W3C trace context of the request that it goes back to. Correlation, not state.
    pub traceparent: Option<String>,
    /// Working state, not in the log.
    pub work: Working,
}

impl Payment {
    /// A new one, as it is requested `at` a time and due at another.
    #[must_use]
    pub fn requested(
        (id, attempt, key): (PaymentId, u32, GatewayKey),
        method: Option<String>,
        at: Timestamp,
        due_at: Timestamp,
    ) -> Self {
        Self {
            id,
            attempt,
            key,
            method,
            state: PaymentState::Requested,
            gateway: None,
            gateway_reference: None,
            failure: None,
            requested_at: at,
            due_at,
            sent_at: None,
            finished_at: None,
            resends: 0,
            contradicted: false,
            restored: false,
            traceparent: None,
            work: Working::default(),
        }
    }
}

/// What only the workers need: in the tables, not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Working {
    /// How often it has been claimed. A result that carries another epoch is stale.
    pub epoch: u32,
    /// Until when the claim holds, while SENDING.
    pub lease_until: Option<Timestamp>,
    /// Since when its outcome has been an open question, while ACCEPTED or UNKNOWN.
    pub open_since: Option<Timestamp>,
    /// Lookups made since then.
    pub lookups: u32,
    /// When the next one is.
    pub next_lookup_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_input_is_a_named_transition_or_a_named_refusal() {
        use PaymentInput as On;
        use PaymentRefusal::*;
        use PaymentState::*;
        let inputs = [
            On::Claim,
            On::Approved,
            On::Declined,
            On::Pending,
            On::NotSent,
            On::NotExecuted,
            On::Ambiguous,
            On::NotFound,
            On::Mismatch,
            On::KeyReused,
            On::ResolveSucceeded,
            On::ResolveFailed,
            On::Cancel,
            On::Restored,
        ];
        #[rustfmt::skip]
        let table = [
            // state, then: Claim, Approved, Declined, Pending, NotSent, NotExecuted, Ambiguous, NotFound, Mismatch, KeyReused, ResolveSucceeded, ResolveFailed, Cancel, Restored
            (Requested, [Ok(Sending), Err(Contradicts), Err(NothingOutstanding), Err(NothingOutstanding), Err(NothingOutstanding), Err(NothingOutstanding), Err(NothingOutstanding), Err(NothingOutstanding), Err(NothingOutstanding), Err(NothingOutstanding), Err(NotResolvable), Err(NotResolvable), Ok(Canceled), Ok(Unknown)]),
            (Sending,   [Err(NotRequested), Ok(Succeeded), Ok(Failed), Ok(Accepted), Ok(Requested), Ok(Requested), Ok(Unknown), Err(BeingSent), Ok(Unknown), Ok(Review), Err(NotResolvable), Err(NotResolvable), Err(MayHaveBeenSent), Ok(Unknown)]),
            (Accepted,  [Err(NotRequested), Ok(Succeeded), Ok(Failed), Ok(Accepted), Ok(Accepted), Ok(Accepted), Ok(Accepted), Ok(Review), Ok(Review), Ok(Review), Err(NotResolvable), Err(NotResolvable), Err(MayHaveBeenSent), Ok(Accepted)]),
            (Unknown,   [Err(NotRequested), Ok(Succeeded), Ok(Failed), Ok(Accepted), Ok(Unknown), Ok(Unknown), Ok(Unknown), Ok(Requested), Ok(Review), Ok(Review), Ok(Succeeded), Ok(Failed), Err(MayHaveBeenSent), Ok(Unknown)]),
            (Review,    [Err(NotRequested), Ok(Succeeded), Ok(Failed), Ok(Review), Ok(Review), Ok(Review), Ok(Review), Ok(Review), Ok(Review), Ok(Review), Ok(Succeeded), Ok(Failed), Err(MayHaveBeenSent), Ok(Review)]),
            (Succeeded, [Err(NotRequested), Err(AlreadyDecided), Err(Contradicts), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(NotResolvable), Err(NotResolvable), Err(AlreadyDecided), Err(AlreadyDecided)]),
            (Failed,    [Err(NotRequested), Err(Contradicts), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(NotResolvable), Err(NotResolvable), Err(AlreadyDecided), Err(AlreadyDecided)]),
            (Canceled,  [Err(NotRequested), Err(Contradicts), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(AlreadyDecided), Err(NotResolvable), Err(NotResolvable), Err(AlreadyDecided), Err(AlreadyDecided)]),
        ];
        assert_eq!(
            table.map(|row| row.0),
            PaymentState::ALL,
            "a row for every state"
        );
        for (state, row) in table {
            for (input, want) in inputs.into_iter().zip(row) {
                assert_eq!(state.next(input), want, "{state:?} on {input:?}");
            }
        }
    }
}
