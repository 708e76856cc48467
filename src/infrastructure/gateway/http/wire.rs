//! What is said to the gateway and what its answers mean (`DESIGN.md`, sections 2, 7 and 10). Pure.
//!
//! Only what the contract names is definite. Whatever else an answer may look like, it is unknown:
//! a charge is never taken to have failed, or to have gone through, on a likeness.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::Object;
use crate::application::ports::{ChargeRequest, Probe};
use crate::domain::{Failure, FailureKind, Finding, Outcome};

use super::token::Secret;

/// Characters of a message that are kept.
const MESSAGE_CHARS_MAX: usize = 500;
/// Characters of a code that are kept.
const CODE_CHARS_MAX: usize = 100;
/// Characters of the gateway's own id of a charge that are kept.
const ID_CHARS_MAX: usize = 255;
/// Characters of an echo that is wrong: enough to see what it is.
const ECHO_CHARS_MAX: usize = 80;

/// The code with which a gateway says that the key was used with other parameters.
const KEY_REUSED: &str = "idempotency_key_reused";
/// The code of a decline that names none.
const DECLINED: &str = "declined";

/// The bytes of a charge: these fields in this order, and nothing that differs between two sends of a
/// payment (invariant 6).
pub(super) fn charge_body(request: &ChargeRequest) -> Vec<u8> {
    let invoice = &request.invoice;
    let mut json = String::with_capacity(BODY_LEN);
    let mut object = Object::begin(&mut json);
    object
        .text("reference", request.key.as_str())
        .shown("payment_id", request.payment)
        .text("invoice_id", invoice.id.as_str())
        .number("amount", invoice.money.amount.minor_units())
        .text("currency", invoice.money.currency.code())
        .text_or_null("payment_method", request.method.as_deref())
        .text_or_null("description", invoice.description.as_deref())
        .texts("metadata", &invoice.metadata);
    object.end();
    json.into_bytes()
}

/// Room for most charges.
const BODY_LEN: usize = 384;

/// What must be echoed, and what must not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent<'a> {
    pub(super) reference: &'a str,
    /// In minor units.
    pub(super) amount: u64,
    pub(super) currency: &'a str,
    /// The token that it was sent with, if any.
    pub(super) secret: Option<&'a Secret>,
}

impl<'a> Sent<'a> {
    pub(super) fn of(request: &'a ChargeRequest, secret: Option<&'a Secret>) -> Self {
        Self {
            reference: request.key.as_str(),
            amount: request.invoice.money.amount.minor_units(),
            currency: request.invoice.money.currency.code(),
            secret,
        }
    }
}

/// An answer that came whole.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// None where it is in a coding that nobody asked for.
    pub(super) body: Option<Vec<u8>>,
    pub(super) retry_after: Option<Duration>,
}

/// What the answer to a charge means.
pub(super) fn outcome(sent: Sent<'_>, answer: &Answer) -> Outcome {
    let unknown = |reason: String| Outcome::Unknown { reason };
    // What most answers are; whatever else is in its body, it counts as a charge or as nothing.
    if matches!(answer.status, 200 | 201) {
        return match charge(sent, answer) {
            Said::Matches(it) => it.to_outcome(sent, answer.retry_after),
            Said::Differs(reason) | Said::Unreadable(reason) => unknown(reason),
        };
    }
    let error = answer.error();
    let reason = says(sent, answer.status, error.as_ref());
    if error.as_ref().is_some_and(ErrorSaid::is_key_reuse)
        && matches!(answer.status, 400 | 404 | 409 | 422)
    {
        // Section 2 sends this to a person, whichever status it comes with: another charge stands
        // under the key, so this one cannot be called failed.
        return Outcome::KeyReused { reason };
    }
    match answer.status {
        402 => match charge(sent, answer) {
            Said::Matches(it) if it.status == ChargeStatus::Declined => {
                it.to_outcome(sent, answer.retry_after)
            }
            Said::Matches(it) => unknown(format!(
                "the gateway answered 402, and that the charge is {}",
                it.status.as_str()
            )),
            Said::Differs(reason) | Said::Unreadable(reason) => unknown(reason),
        },
        400 | 422 => match error {
            Some(error) => rejected(sent, answer, &error),
            None => unknown(reason),
        },
        404 => match error {
            Some(error) if error.code.is_some() => rejected(sent, answer, &error),
            _ => unknown(reason),
        },
        401 | 403 => Outcome::Refused { reason },
        429 => Outcome::NotExecuted {
            reason,
            retry_after: answer.retry_after,
        },
        300..400 => unknown(format!(
            "the gateway answered {}; redirects are not followed",
            answer.status
        )),
        _ => unknown(reason),
    }
}

/// What the answer to a lookup means.
pub(super) fn finding(sent: Sent<'_>, answer: &Answer) -> Finding {
    let inconclusive = |reason: String| Finding::Inconclusive {
        reason,
        retry_after: answer.retry_after,
    };
    let reason = says(sent, answer.status, answer.error().as_ref());
    match answer.status {
        200 => match charge(sent, answer) {
            Said::Matches(it) => it.to_finding(sent, answer.retry_after),
            Said::Differs(reason) => Finding::Mismatch { reason },
            Said::Unreadable(reason) => inconclusive(reason),
        },
        404 => Finding::NotFound,
        401 | 403 => Finding::Refused { reason },
        _ => inconclusive(reason),
    }
}

/// What the answer to a probe means.
pub(super) fn probe(secret: Option<&Secret>, answer: &Answer) -> Probe {
    let sent = Sent {
        reference: "",
        amount: 0,
        currency: "",
        secret,
    };
    let reason = says(sent, answer.status, answer.error().as_ref());
    match answer.status {
        200 | 404 => Probe::Usable,
        401 | 403 => Probe::Refused { reason },
        _ => Probe::Unreachable { reason },
    }
}

/// What a body says about a charge.
enum Said<'a> {
    /// It is the one that was sent.
    Matches(Charge<'a>),
    /// It is another one.
    Differs(String),
    /// It says nothing that can be relied on.
    Unreadable(String),
}

/// A charge as the gateway tells it. An amount that is not an integer, a field that is there twice
/// or of another type: none of that is this.
#[derive(Deserialize)]
struct Charge<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reference: Cow<'a, str>,
    amount: u64,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    #[serde(deserialize_with = "status_word")]
    status: ChargeStatus,
    #[serde(borrow)]
    decline_code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    retryable: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChargeStatus {
    Succeeded,
    Declined,
    Pending,
}

impl ChargeStatus {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Declined => "declined",
            Self::Pending => "pending",
        }
    }
}

/// Serde's own reading of an enum takes an object for a word, too.
fn status_word<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ChargeStatus, D::Error> {
    let word = Cow::<'de, str>::deserialize(from)?;
    [
        ChargeStatus::Succeeded,
        ChargeStatus::Declined,
        ChargeStatus::Pending,
    ]
    .into_iter()
    .find(|it| it.as_str() == word)
    .ok_or_else(|| serde::de::Error::custom(format_args!("status is {word:?}")))
}

/// Serde's own reading of a struct takes an array for an object, too.
fn read_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(serde::de::Error::custom("it is not an object"));
    }
    serde_json::from_slice(json)
}

fn charge<'a>(sent: Sent<'_>, answer: &'a Answer) -> Said<'a> {
    let status = answer.status;
    let Some(body) = &answer.body else {
        return Said::Unreadable(format!(
            "the gateway answered {status} in a content coding that payd did not ask for"
        ));
    };
    let charge: Charge<'a> = match read_object(body) {
        Ok(charge) => charge,
        // The error names what is missing or wrong; it can repeat a little of what is there.
        Err(error) => {
            let why = clean(&error.to_string(), MESSAGE_CHARS_MAX, sent.secret);
            return Said::Unreadable(format!(
                "the gateway answered {status} with something that is no charge: {why}"
            ));
        }
    };
    let differs = |what: &str, theirs: &str, ours: &str| {
        let theirs = clean(theirs, ECHO_CHARS_MAX, sent.secret);
        Said::Differs(format!(
            "the gateway's answer is about another charge: its {what} is {theirs:?}, not {ours:?}"
        ))
    };
    if charge.reference != sent.reference {
        return differs("reference", &charge.reference, sent.reference);
    }
    if charge.amount != sent.amount {
        return differs(
            "amount",
            &charge.amount.to_string(),
            &sent.amount.to_string(),
        );
    }
    if charge.currency != sent.currency {
        return differs("currency", &charge.currency, sent.currency);
    }
    Said::Matches(charge)
}

impl Charge<'_> {
    fn reference(&self, sent: Sent<'_>) -> Option<String> {
        cleaned(self.id.as_deref(), ID_CHARS_MAX, sent.secret)
    }

    fn message(&self, sent: Sent<'_>) -> Option<String> {
        cleaned(self.message.as_deref(), MESSAGE_CHARS_MAX, sent.secret)
    }

    fn failure(&self, sent: Sent<'_>) -> Failure {
        let code = cleaned(self.decline_code.as_deref(), CODE_CHARS_MAX, sent.secret);
        Failure {
            kind: FailureKind::Declined,
            code: code.unwrap_or_else(|| DECLINED.to_owned()),
            message: self.message(sent),
            retryable: self.retryable.unwrap_or(false),
        }
    }

    fn to_outcome(&self, sent: Sent<'_>, retry_after: Option<Duration>) -> Outcome {
        let reference = self.reference(sent);
        match self.status {
            ChargeStatus::Succeeded => Outcome::Approved { reference },
            ChargeStatus::Pending => Outcome::Accepted {
                reference,
                reason: self.message(sent),
            },
            ChargeStatus::Declined => Outcome::Declined {
                failure: self.failure(sent),
                retry_after,
            },
        }
    }

    fn to_finding(&self, sent: Sent<'_>, retry_after: Option<Duration>) -> Finding {
        let reference = self.reference(sent);
        match self.status {
            ChargeStatus::Succeeded => Finding::Approved { reference },
            ChargeStatus::Pending => Finding::Pending { reference },
            ChargeStatus::Declined => Finding::Declined {
                failure: self.failure(sent),
                retry_after,
            },
        }
    }
}

/// The request itself was refused, for good.
fn rejected(sent: Sent<'_>, answer: &Answer, error: &ErrorSaid) -> Outcome {
    let code = cleaned(error.code.as_deref(), CODE_CHARS_MAX, sent.secret);
    Outcome::Declined {
        failure: Failure {
            kind: FailureKind::Rejected,
            code: code.unwrap_or_else(|| format!("http_{}", answer.status)),
            message: cleaned(error.message.as_deref(), MESSAGE_CHARS_MAX, sent.secret),
            retryable: false,
        },
        retry_after: None,
    }
}

/// The `error` of a body: any value, though only an object or a text has words.
#[derive(Default)]
struct ErrorSaid {
    code: Option<String>,
    message: Option<String>,
}

impl ErrorSaid {
    fn is_key_reuse(&self) -> bool {
        self.code.as_deref() == Some(KEY_REUSED)
    }
}

impl Answer {
    /// None where the body is not a JSON object with an `error` that is something.
    fn error(&self) -> Option<ErrorSaid> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Words {
            code: Option<serde_json::Value>,
            message: Option<serde_json::Value>,
        }
        let text = |value: Option<serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        let body: Body<'_> = read_object(self.body.as_ref()?).ok()?;
        let error = body.error?.get();
        match error.as_bytes().first()? {
            b'{' => {
                let object: Words = serde_json::from_str(error).ok()?;
                Some(ErrorSaid {
                    code: text(object.code),
                    message: text(object.message),
                })
            }
            b'"' => Some(ErrorSaid {
                code: None,
                message: text(serde_json::from_str(error).ok()?),
            }),
            _ if matches!(error, "null" | "false") => None,
            _ => Some(ErrorSaid::default()),
        }
    }
}

/// Which answer it was, with the gateway's words where it has any.
fn says(sent: Sent<'_>, status: u16, error: Option<&ErrorSaid>) -> String {
    let words = error.and_then(|it| it.message.as_deref().or(it.code.as_deref()));
    match cleaned(words, MESSAGE_CHARS_MAX, sent.secret) {
        Some(words) => format!("the gateway answered {status}: {words}"),
        None => format!("the gateway answered {status}"),
    }
}

/// The same; none where nothing is left.
fn cleaned(text: Option<&str>, chars_max: usize, secret: Option<&Secret>) -> Option<String> {
    let text = clean(text?, chars_max, secret);
    (!text.is_empty()).then_some(text)
}

/// Text from outside: without control characters, without the token, and no longer than this.
fn clean(text: &str, chars_max: usize, secret: Option<&Secret>) -> String {
    let plain = match text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        true => Cow::Borrowed(text),
        false => text
            .chars()
            .map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c })
            .filter(|c| !c.is_control())
            .collect(),
    };
    let plain = match secret {
        Some(secret) => Cow::Owned(secret.redact(&plain)),
        None => plain,
    };
    let plain = plain.trim();
    match plain.char_indices().nth(chars_max) {
        Some((end, _)) => plain[..end].trim_end().to_owned(),
        None => plain.to_owned(),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
