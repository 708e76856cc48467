//! Why a payment failed, definitely.

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The gateway declined the charge.
    Declined,
    /// The gateway refused the request itself: it will never take it.
    Rejected,
    /// An operator resolved it so.
    Resolved,
}

impl FailureKind {
    /// As written in the API and the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Declined => "declined",
            Self::Rejected => "rejected",
            Self::Resolved => "resolved",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Declined, Self::Rejected, Self::Resolved]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// A definite failure of a payment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// The decline code, such as `do_not_honor`.
    pub code: String,
    /// The gateway's words, or the operator's reason.
    pub message: Option<String>,
    /// Whether the gateway says that another attempt could succeed.
    pub retryable: bool,
}
