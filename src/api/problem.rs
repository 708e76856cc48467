//! Errors as RFC 9457 `application/problem+json`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A problem document. Source: RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem<'a> {
    /// `urn:payd:error:<code>`.
    #[serde(rename = "type")]
    pub kind: Cow<'a, str>,
    /// The code in words.
    pub title: Cow<'a, str>,
    /// The HTTP status.
    pub status: u16,
    /// What to do about it.
    pub detail: Cow<'a, str>,
    /// Such as `invoice_not_found`.
    pub code: Cow<'a, str>,
    /// Where fields are at fault: which, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError<'a>>,
}

/// One field at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError<'a> {
    /// The field's name; `metadata.key` within an object.
    pub field: Cow<'a, str>,
    /// What is wrong with it, and what would be right.
    pub message: Cow<'a, str>,
}

macro_rules! codes {
    ($($variant:ident $status:literal $code:literal $title:literal;)*) => {
        /// The closed set of error codes (`DESIGN.md`, section 4).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The code on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $code,)* }
            }

            /// Its HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// Its title.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }

            /// Reads a code.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($code => Some(Code::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    MalformedRequest 400 "malformed_request" "The request cannot be read";
    Unauthenticated 401 "unauthenticated" "No valid token";
    Forbidden 403 "forbidden" "Not allowed";
    NotFound 404 "not_found" "No such route";
    InvoiceNotFound 404 "invoice_not_found" "No such invoice";
    PaymentNotFound 404 "payment_not_found" "No such payment";
    MethodNotAllowed 405 "method_not_allowed" "The route does not take this method";
    RequestTimeout 408 "request_timeout" "The request did not arrive in time";
    InvoiceExists 409 "invoice_exists" "Another invoice has this id";
    InvoiceCanceled 409 "invoice_canceled" "The invoice is canceled";
    InvoicePaid 409 "invoice_paid" "The invoice is paid";
    PaymentNotResolvable 409 "payment_not_resolvable" "The payment's outcome is not open to an operator";
    RequestInProgress 409 "request_in_progress" "The first request with this key is still running";
    BodyTooLarge 413 "body_too_large" "The body is too large";
    UnsupportedMediaType 415 "unsupported_media_type" "The body is not of a type that this route takes";
    MisdirectedRequest 421 "misdirected_request" "The Host is not one of payd's";
    InvalidRequest 422 "invalid_request" "The request is not valid";
    IdempotencyKeyReused 422 "idempotency_key_reused" "The key was used for another request";
    RateLimited 429 "rate_limited" "Too many requests";
    HeadersTooLarge 431 "headers_too_large" "The headers are too large";
    Internal 500 "internal" "payd failed";
    Unavailable 503 "unavailable" "payd cannot take this now";
}

impl<'a> Problem<'a> {
    /// A problem of this code, with what to do about it.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'a, str>>) -> Self {
        Self {
            kind: Cow::Owned(format!("urn:payd:error:{}", code.as_str())),
            title: Cow::Borrowed(code.title()),
            status: code.status(),
            detail: detail.into(),
            code: Cow::Borrowed(code.as_str()),
            errors: Vec::new(),
        }
    }

    /// The same with the fields at fault.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError<'a>>) -> Self {
        self.errors = errors;
        self
    }
}
