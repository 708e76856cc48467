//! The closed set of events: immutable facts, from which state is folded.

use super::{Failure, GatewayKey, Invoice, PaymentId, ResolveAs, Timestamp};

/// What made a payment due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The first `pay`.
    Api,
    /// A definite, retryable decline of the attempt before.
    Retry,
    /// A `pay` on a FAILED invoice.
    Manual,
    /// It was provably not sent, or not executed.
    NotSent,
    /// A lookup proved that the gateway never had it.
    NotReceived,
}

impl Cause {
    const ALL: [Self; 5] = [
        Self::Api,
        Self::Retry,
        Self::Manual,
        Self::NotSent,
        Self::NotReceived,
    ];

    /// As written in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Retry => "retry",
            Self::Manual => "manual",
            Self::NotSent => "not_sent",
            Self::NotReceived => "not_received",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }

    /// Whether it is a new payment, rather than one to be sent again under its key.
    #[must_use]
    pub const fn is_new_payment(self) -> bool {
        matches!(self, Self::Api | Self::Retry | Self::Manual)
    }
}

/// A fact about one invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was made.
    InvoiceCreated(Box<Invoice>),
    /// A payment is to be sent when due: a new one, or one that the gateway never had.
    PaymentRequested {
        /// Which.
        payment: PaymentId,
        /// Its number.
        attempt: u32,
        /// Its key.
        key: GatewayKey,
        /// Its payment method.
        method: Option<String>,
        /// When it may be sent.
        due_at: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// The gateway has it and will decide later.
    PaymentAccepted {
        /// Which.
        payment: PaymentId,
        /// The gateway.
        gateway: String,
        /// The gateway's own id of the charge.
        reference: Option<String>,
        /// The gateway's words.
        reason: Option<String>,
    },
    /// Nobody here knows its outcome.
    PaymentUnknown {
        /// Which.
        payment: PaymentId,
        /// The gateway.
        gateway: String,
        /// What happened instead of an answer.
        reason: String,
    },
    /// The gateway's word does not fit ours; an operator must look.
    PaymentReviewRequired {
        /// Which.
        payment: PaymentId,
        /// The gateway.
        gateway: String,
        /// What does not fit.
        reason: String,
    },
    /// An operator said how it ended. The event that this causes follows.
    PaymentResolved {
        /// Which.
        payment: PaymentId,
        /// Who said so.
        actor: String,
        /// Why.
        reason: String,
        /// What.
        resolved_as: ResolveAs,
    },
    /// It was charged.
    PaymentSucceeded {
        /// Which.
        payment: PaymentId,
        /// The gateway.
        gateway: String,
        /// The gateway's own id of the charge.
        reference: Option<String>,
    },
    /// It was definitely not charged.
    PaymentFailed {
        /// Which.
        payment: PaymentId,
        /// The gateway.
        gateway: String,
        /// Why.
        failure: Failure,
        /// When the next payment is due, where one follows in the same commit.
        next_attempt_at: Option<Timestamp>,
    },
    /// It was withdrawn before anything was sent.
    PaymentCanceled {
        /// Which.
        payment: PaymentId,
        /// Why.
        reason: Option<String>,
    },
    /// The gateway says otherwise about a payment already decided. Its state stays.
    PaymentContradicted {
        /// Which.
        payment: PaymentId,
        /// What the gateway says.
        evidence: String,
    },
    /// A cancel waits for the outcome of the open payment.
    InvoiceCancelRequested {
        /// Why.
        reason: Option<String>,
    },
    /// It will not be paid.
    InvoiceCanceled {
        /// Why.
        reason: Option<String>,
    },
    /// An operator should look at it.
    InvoiceAttentionRequired {
        /// Why.
        reason: String,
        /// Whether the reason is that the store was restored while its latest payment was open.
        restored: bool,
    },
}

macro_rules! types {
    ($($name:ident => $pattern:pat,)*) => {
        /// The type of an event, as written in the log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventType { $(#[doc = concat!("See [`Event::", stringify!($name), "`].")] $name,)* }

        impl EventType {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As written in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Reads what [`Self::as_str`] wrote.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
            }
        }

        impl Event {
            /// Its type.
            #[must_use]
            pub const fn kind(&self) -> EventType {
                match self { $($pattern => EventType::$name,)* }
            }
        }
    };
}

types! {
    InvoiceCreated => Self::InvoiceCreated(_),
    PaymentRequested => Self::PaymentRequested { .. },
    PaymentAccepted => Self::PaymentAccepted { .. },
    PaymentUnknown => Self::PaymentUnknown { .. },
    PaymentReviewRequired => Self::PaymentReviewRequired { .. },
    PaymentResolved => Self::PaymentResolved { .. },
    PaymentSucceeded => Self::PaymentSucceeded { .. },
    PaymentFailed => Self::PaymentFailed { .. },
    PaymentCanceled => Self::PaymentCanceled { .. },
    PaymentContradicted => Self::PaymentContradicted { .. },
    InvoiceCancelRequested => Self::InvoiceCancelRequested { .. },
    InvoiceCanceled => Self::InvoiceCanceled { .. },
    InvoiceAttentionRequired => Self::InvoiceAttentionRequired { .. },
}

impl Event {
    /// The payment that it is about, where it is about one.
    #[must_use]
    pub const fn payment(&self) -> Option<PaymentId> {
        match self {
            Self::PaymentRequested { payment, .. }
            | Self::PaymentAccepted { payment, .. }
            | Self::PaymentUnknown { payment, .. }
            | Self::PaymentReviewRequired { payment, .. }
            | Self::PaymentResolved { payment, .. }
            | Self::PaymentSucceeded { payment, .. }
            | Self::PaymentFailed { payment, .. }
            | Self::PaymentCanceled { payment, .. }
            | Self::PaymentContradicted { payment, .. } => Some(*payment),
            Self::InvoiceCreated(_)
            | Self::InvoiceCancelRequested { .. }
            | Self::InvoiceCanceled { .. }
            | Self::InvoiceAttentionRequired { .. } => None,
        }
    }
}
