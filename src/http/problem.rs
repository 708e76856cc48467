//! Everything that goes wrong, as RFC 9457 problem documents.
//!
//! It must never tell a client what went wrong inside: causes go to the log, by way of the
//! response's extensions, and are written there once.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Method, Response, StatusCode};
use axum::response::IntoResponse;

use super::reply::to_json;
use crate::api::{Code, FieldError, Problem};
use crate::application::ports::StoreError;
use crate::application::request::SubmitError;
use crate::domain::Refusal;

/// The media type of problems (RFC 9457, section 6.1).
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Field errors told in one answer. A body of 64 KiB has room for thousands; nobody reads those.
const ERRORS_MAX: usize = 100;

/// Seconds after which to come back: payd's queue empties, and keys are decided, well within one.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// A request that was not carried out, and what the client is told about it.
#[derive(Debug)]
pub(super) struct Reject(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    problem: Problem<'static>,
    cause: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request failed inside payd: for the log, carried in the response's extensions.
#[derive(Debug, Clone)]
pub(super) struct Cause(pub(super) String);

impl Reject {
    /// A problem of this code, with what to do about it.
    pub(super) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            problem: Problem::new(code, detail),
            cause: None,
            headers: Vec::new(),
        }))
    }

    /// Fields that are at fault.
    pub(super) fn fields(mut errors: Vec<FieldError<'static>>) -> Self {
        errors.truncate(ERRORS_MAX);
        let mut reject = Self::new(
            Code::InvalidRequest,
            "Correct what `errors` names and send the request again; nothing has happened.",
        );
        reject.0.problem.errors = errors;
        reject
    }

    /// One field that is at fault.
    pub(super) fn field(
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::fields(vec![FieldError {
            field: field.into(),
            message: message.into(),
        }])
    }

    /// payd's own fault.
    pub(super) fn internal(cause: impl Into<String>) -> Self {
        let mut reject = Self::new(
            Code::Internal,
            "payd failed; its log says more under this answer's X-Request-Id. Whether the request \
             took effect is not known: send it again with the same Idempotency-Key, or look.",
        );
        reject.0.cause = Some(cause.into());
        reject
    }

    /// The same where there is more to say of it than to look into the log.
    pub(super) fn internal_with(detail: &'static str, cause: impl Into<String>) -> Self {
        let mut reject = Self::new(Code::Internal, detail);
        reject.0.cause = Some(cause.into());
        reject
    }

    /// The same with a header.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// The same, to be sent again after so long: whole seconds, and one at least.
    pub(super) fn after(self, wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// payd was too slow about it. Whether something has happened is not known, where something could.
    pub(super) fn too_slow(limit: Duration, method: &Method) -> Self {
        let so = match method.is_safe() {
            true => "Ask again after Retry-After.",
            false => {
                "Whether the request took effect is not known: send it again with the same \
                 Idempotency-Key, or look."
            }
        };
        let seconds = limit.as_secs();
        Self::new(
            Code::Unavailable,
            format!("payd has not answered within {seconds} s. {so}"),
        )
    }

    /// Not now. Nothing has happened.
    pub(super) fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        // To the log it says more than nothing, where nobody knows a better cause.
        let cause = Some(detail.clone().into_owned());
        let mut reject = Self::new(Code::Unavailable, detail);
        reject.0.cause = cause;
        reject
    }

    /// There is no such invoice.
    pub(super) fn no_invoice() -> Self {
        Self::new(
            Code::InvoiceNotFound,
            "No invoice has this id. Ids are case-sensitive; POST /invoices makes one.",
        )
    }

    /// There is no such payment.
    pub(super) fn no_payment() -> Self {
        Self::new(
            Code::PaymentNotFound,
            "No payment has this id. GET /invoices/{id}/payments lists those of an invoice.",
        )
    }

    /// What the rules refused.
    pub(super) fn refused(refusal: Refusal) -> Self {
        match refusal {
            Refusal::InvoiceExists => Self::new(
                Code::InvoiceExists,
                "Another invoice has this id, with other content. Take another id, or send exactly \
                 the content of the first.",
            ),
            Refusal::InvoiceNotFound => Self::no_invoice(),
            Refusal::PaymentNotFound => Self::no_payment(),
            Refusal::InvoiceCanceled => Self::new(
                Code::InvoiceCanceled,
                "The invoice is canceled, which is final. Make a new invoice to be paid.",
            ),
            Refusal::InvoicePaid => Self::new(
                Code::InvoicePaid,
                "The invoice is paid, which is final. A refund is made at the gateway.",
            ),
            Refusal::PaymentNotResolvable => Self::new(
                Code::PaymentNotResolvable,
                "Only a payment in UNKNOWN or REVIEW is open to an operator's word. \
                 GET /payments/{id} tells where it stands.",
            ),
            Refusal::NothingToDo | Refusal::Stale | Refusal::InvoiceUnreadable => {
                Self::internal(refusal.to_string())
            }
        }
    }

    /// The document.
    pub(super) fn problem(&self) -> &Problem<'static> {
        &self.0.problem
    }

    /// Why it failed inside payd, for the log; nothing where it did not.
    pub(super) fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The document's bytes.
    pub(super) fn to_json(&self) -> Vec<u8> {
        to_json(&self.0.problem)
    }

    /// The code.
    pub(super) fn code(&self) -> Code {
        self.0.code
    }
}

/// Both, or everything that is wrong with either: field errors are told all at once. What is no
/// field error goes first.
pub(super) fn both<A, B>(a: Result<A, Reject>, b: Result<B, Reject>) -> Result<(A, B), Reject> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(mut a), Err(b)) => {
            if a.code() != Code::InvalidRequest {
                return Err(a);
            }
            if b.code() != Code::InvalidRequest {
                return Err(b);
            }
            a.0.problem.errors.extend(b.0.problem.errors);
            a.0.problem.errors.truncate(ERRORS_MAX);
            Err(a)
        }
        (Err(reject), Ok(_)) | (Ok(_), Err(reject)) => Err(reject),
    }
}

impl From<SubmitError> for Reject {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::QueueFull => Self::unavailable(
                "payd has more work waiting than it takes on. Nothing has happened; send it again \
                 after Retry-After.",
            ),
            SubmitError::Stopping => Self::unavailable(
                "payd is shutting down. Send it again with the same Idempotency-Key when it is back.",
            ),
            SubmitError::Unwritable(why) => {
                let mut reject = Self::unavailable(
                    "payd's database cannot be written, for lack of room or as it is read-only. \
                     Nothing has happened; send it again when an operator has seen to it.",
                );
                reject.0.cause = Some(why);
                reject
            }
            SubmitError::InProgress => Self::new(
                Code::RequestInProgress,
                "The first request with this Idempotency-Key is still running. Send it again \
                 after Retry-After to get its answer.",
            ),
            SubmitError::KeyReused => Self::key_reused(),
            SubmitError::Internal(why) => Self::internal(why),
        }
    }
}

impl Reject {
    /// The key stands for another request.
    pub(super) fn key_reused() -> Self {
        Self::new(
            Code::IdempotencyKeyReused,
            "This Idempotency-Key was used for a request with another method, path or body. \
             A new request takes a new key.",
        )
    }
}

impl From<StoreError> for Reject {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy(_) | StoreError::NoRoom(_) => {
                let mut reject = Self::unavailable(
                    "payd's database cannot be read right now. Send it again after Retry-After.",
                );
                reject.0.cause = Some(error.to_string());
                reject
            }
            StoreError::Constraint(_) | StoreError::BadRow(_) | StoreError::Fatal(_) => {
                Self::internal(error.to_string())
            }
        }
    }
}

impl IntoResponse for Reject {
    fn into_response(self) -> axum::response::Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = StatusCode::from_u16(self.0.problem.status)
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if matches!(
            self.0.code,
            Code::Unavailable | Code::RequestInProgress | Code::RateLimited
        ) {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        for (name, value) in self.0.headers {
            headers.insert(name, value);
        }
        if let Some(cause) = self.0.cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_two_things_is_told_at_once() {
        let a = || Err::<(), _>(Reject::field("a", "is wrong"));
        let b = || Err::<(), _>(Reject::field("b", "is wrong"));
        let bad = || Err::<(), _>(Reject::new(Code::MalformedRequest, "is not JSON"));
        let told = both(a(), b()).unwrap_err();
        assert_eq!(told.problem().errors.len(), 2);
        assert_eq!(both(a(), bad()).unwrap_err().code(), Code::MalformedRequest);
        assert_eq!(both(bad(), a()).unwrap_err().code(), Code::MalformedRequest);
    }

    #[test]
    fn the_cause_stays_inside() {
        let reject = Reject::from(StoreError::Fatal("disk on fire at /secret".into()));
        assert!(
            !String::from_utf8(reject.to_json())
                .unwrap()
                .contains("fire")
        );
        let response = reject.into_response();
        assert_eq!(response.status(), 500);
        assert!(
            response
                .extensions()
                .get::<Cause>()
                .unwrap()
                .0
                .contains("fire")
        );
    }

    #[test]
    fn come_back_later_says_when() {
        for (reject, status) in [
            (Reject::unavailable("payd is stopping."), 503),
            (Reject::from(SubmitError::QueueFull), 503),
            (Reject::from(SubmitError::Stopping), 503),
            (Reject::from(SubmitError::Unwritable("full".into())), 503),
            (Reject::from(SubmitError::InProgress), 409),
            (Reject::from(StoreError::Busy("other".into())), 503),
        ] {
            let response = reject.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[RETRY_AFTER], "1");
            // The log says why payd turned somebody away.
            let cause = response.extensions().get::<Cause>();
            assert!(status != 503 || cause.is_some_and(|cause| !cause.0.is_empty()));
        }
    }
}
