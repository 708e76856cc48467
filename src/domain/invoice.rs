//! The invoice: a business obligation to be paid, and the table of its transitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{InvoiceId, Money, Timestamp};

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InvoiceStatus {
    /// Nobody has asked for it to be paid.
    Pending,
    /// A payment is open.
    Processing,
    /// Exactly one payment succeeded. Final.
    Paid,
    /// The last round of attempts failed; `pay` starts another.
    Failed,
    /// Not to be paid any more. Final.
    Canceled,
}

/// What can happen to an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InvoiceInput {
    /// Someone asks for it to be paid.
    Pay,
    /// Its open payment succeeded.
    PaymentSucceeded,
    /// Its open payment failed, and another follows.
    PaymentFailedRetrying,
    /// Its open payment failed, and no other follows.
    PaymentFailedForGood,
    /// Someone asks for it not to be paid, and nothing can have reached the gateway.
    CancelUnsent,
    /// Someone asks for it not to be paid, but its open payment may have reached the gateway.
    CancelSent,
}

/// Why an invoice does not take an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InvoiceRefusal {
    /// A payment is open already: that one stands.
    AlreadyProcessing,
    /// It is paid.
    AlreadyPaid,
    /// It is canceled.
    AlreadyCanceled,
    /// There is no open payment that the input could be about.
    NoOpenPayment,
}

impl InvoiceStatus {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Processing,
        Self::Paid,
        Self::Failed,
        Self::Canceled,
    ];

    /// As written in the API and the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Processing => "PROCESSING",
            Self::Paid => "PAID",
            Self::Failed => "FAILED",
            Self::Canceled => "CANCELED",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// The table of section 2, whole: every status and every input.
    ///
    /// # Errors
    /// Where the input is refused, and why.
    pub const fn next(self, input: InvoiceInput) -> Result<Self, InvoiceRefusal> {
        use InvoiceInput as On;
        use InvoiceRefusal as No;
        use InvoiceStatus::{Canceled, Failed, Paid, Pending, Processing};
        match (self, input) {
            (Pending | Failed, On::Pay) => Ok(Processing),
            (Processing, On::Pay) => Err(No::AlreadyProcessing),
            (Paid, On::Pay) => Err(No::AlreadyPaid),
            (Canceled, On::Pay) => Err(No::AlreadyCanceled),

            (Processing, On::PaymentSucceeded) => Ok(Paid),
            (Processing, On::PaymentFailedRetrying) => Ok(Processing),
            (Processing, On::PaymentFailedForGood) => Ok(Failed),
            (
                Pending | Paid | Failed | Canceled,
                On::PaymentSucceeded | On::PaymentFailedRetrying | On::PaymentFailedForGood,
            ) => Err(No::NoOpenPayment),

            (Pending | Failed | Processing, On::CancelUnsent) => Ok(Canceled),
            (Processing, On::CancelSent) => Ok(Processing),
            (Pending | Failed, On::CancelSent) => Err(No::NoOpenPayment),
            (Paid, On::CancelUnsent | On::CancelSent) => Err(No::AlreadyPaid),
            // Canceling twice is canceled once (section 10: 200).
            (Canceled, On::CancelUnsent | On::CancelSent) => Ok(Canceled),
        }
    }
}

/// What a client gives to make an invoice: its content, which never changes afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvoice {
    /// Given by the client, or made by payd before the command is submitted.
    pub id: InvoiceId,
    /// How much, of what.
    pub money: Money,
    /// What it is for.
    pub description: Option<String>,
    /// The client's own keys and values.
    pub metadata: BTreeMap<String, String>,
    /// The payment method that `pay` uses unless it names another.
    pub payment_method: Option<String>,
    /// When the business wants it paid; payd only keeps it.
    pub due_at: Option<Timestamp>,
}

/// An invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// What the client gave: the same for all that is made of the invoice from here on.
    pub content: Arc<NewInvoice>,
    /// Where it stands.
    pub status: InvoiceStatus,
    /// Payments made for it so far; the attempt number of the latest.
    pub attempts: u32,
    /// Payments that earlier rounds made: the round's own attempts are those beyond.
    pub attempts_before_round: u32,
    /// An operator should look at it.
    pub needs_attention: bool,
    /// The latest attempt about which the gateway says otherwise than its decision. Attention stays
    /// until that is cleared up, and no later attempt is sent.
    pub contradicted_attempt: Option<u32>,
    /// A cancel was asked for while a payment may have been at the gateway.
    pub cancel_requested: bool,
    /// The reason given with that request.
    pub cancel_reason: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its last event was.
    pub updated_at: Timestamp,
    /// When its payment succeeded.
    pub paid_at: Option<Timestamp>,
}

impl Invoice {
    /// A new one.
    #[must_use]
    pub fn new(content: impl Into<Arc<NewInvoice>>, now: Timestamp) -> Self {
        Self {
            content: content.into(),
            status: InvoiceStatus::Pending,
            attempts: 0,
            attempts_before_round: 0,
            needs_attention: false,
            contradicted_attempt: None,
            cancel_requested: false,
            cancel_reason: None,
            created_at: now,
            updated_at: now,
            paid_at: None,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &InvoiceId {
        &self.content.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_and_input_is_a_named_transition_or_a_named_refusal() {
        use InvoiceInput::*;
        use InvoiceRefusal::*;
        use InvoiceStatus::*;
        let inputs = [
            Pay,
            PaymentSucceeded,
            PaymentFailedRetrying,
            PaymentFailedForGood,
            CancelUnsent,
            CancelSent,
        ];
        #[rustfmt::skip]
        let table = [
            (Pending,    [Ok(Processing), Err(NoOpenPayment), Err(NoOpenPayment), Err(NoOpenPayment), Ok(Canceled), Err(NoOpenPayment)]),
            (Processing, [Err(AlreadyProcessing), Ok(Paid), Ok(Processing), Ok(Failed), Ok(Canceled), Ok(Processing)]),
            (Paid,       [Err(AlreadyPaid), Err(NoOpenPayment), Err(NoOpenPayment), Err(NoOpenPayment), Err(AlreadyPaid), Err(AlreadyPaid)]),
            (Failed,     [Ok(Processing), Err(NoOpenPayment), Err(NoOpenPayment), Err(NoOpenPayment), Ok(Canceled), Err(NoOpenPayment)]),
            (Canceled,   [Err(AlreadyCanceled), Err(NoOpenPayment), Err(NoOpenPayment), Err(NoOpenPayment), Ok(Canceled), Ok(Canceled)]),
        ];
        assert_eq!(
            table.map(|row| row.0),
            InvoiceStatus::ALL,
            "a row for every status"
        );
        for (status, row) in table {
            for (input, want) in inputs.into_iter().zip(row) {
                assert_eq!(status.next(input), want, "{status:?} on {input:?}");
            }
        }
    }
}
