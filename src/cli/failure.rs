//! Why a command ended without what was asked for, and the exit code that says so.
//!
//! The one place that knows the exit codes (`DESIGN.md`, section 6). It never prints.

use std::io;

use clap::error::ErrorKind;

use crate::api::{Code, Problem};
use crate::cli::text::clean;
use crate::client::{Answer, Error};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Unexpected = 1,
    Usage = 2,
    Unreachable = 3,
    NotAllowed = 4,
    NotFound = 5,
    Conflict = 6,
    Failed = 7,
    Undecided = 8,
    /// 128 and SIGINT's number, as shells do it.
    Interrupted = 130,
}

impl Exit {
    /// The code by which a script tells the outcomes apart, in the style of the API's.
    fn code(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Unexpected => "unexpected",
            Exit::Usage => "usage",
            Exit::Unreachable => "unreachable",
            Exit::NotAllowed => "not_allowed",
            Exit::NotFound => "not_found",
            Exit::Conflict => "conflict",
            Exit::Failed => "payment_failed",
            Exit::Undecided => "undecided",
            Exit::Interrupted => "interrupted",
        }
    }
}

impl Exit {
    /// The HTTP status that comes nearest, as a problem has one.
    fn status(self) -> u16 {
        match self {
            Exit::Done => 200,
            Exit::Usage => 400,
            Exit::Failed => 402,
            Exit::NotAllowed => 403,
            Exit::NotFound => 404,
            Exit::Conflict => 409,
            Exit::Unexpected | Exit::Interrupted => 500,
            Exit::Unreachable => 503,
            Exit::Undecided => 504,
        }
    }
}

/// What ended a command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// payd said no.
    Problem(Box<Refusal>),
    /// payd said nothing.
    Transport(Error),
    /// payctl says so itself: what is the case, and what to do.
    Own {
        exit: Exit,
        message: String,
        tip: Option<String>,
    },
    /// Everything was said already.
    Said(Exit),
    /// Whoever read stdout has left. Nothing is wrong.
    ClosedPipe,
}

/// A problem document, and the bytes it came in.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) problem: Problem<'static>,
    pub(crate) answer: Answer,
}

/// What commands return.
pub(crate) type Outcome<T = Exit> = Result<T, Failure>;

impl Failure {
    /// Something that payctl found out by itself.
    pub(crate) fn own(exit: Exit, message: impl Into<String>) -> Self {
        Failure::Own {
            exit,
            message: message.into(),
            tip: None,
        }
    }

    /// The input is not right.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::own(Exit::Usage, message)
    }

    /// What clap found wrong with the arguments, for machines: its message, and its advice.
    pub(crate) fn arguments(error: &clap::Error) -> Self {
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Self::usage("a command is missing").with_tip("`payctl --help` lists them");
        }
        let text = error.render().to_string();
        let mut paragraphs = text
            .split("\n\n")
            .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|paragraph| !paragraph.is_empty());
        let first = paragraphs.next().unwrap_or_default();
        let title = first.strip_prefix("error: ").unwrap_or(&first);
        let advice = paragraphs.collect::<Vec<_>>().join(". ");
        let advice = advice.strip_prefix("tip: ").unwrap_or(&advice);
        let failure = Self::usage(title);
        if advice.is_empty() {
            failure.with_tip("`payctl --help` lists what there is")
        } else {
            failure.with_tip(advice)
        }
    }

    /// What must not happen, happened.
    pub(crate) fn unexpected(message: impl Into<String>) -> Self {
        Self::own(Exit::Unexpected, message)
    }

    /// The same, with what to do next.
    pub(crate) fn with_tip(mut self, text: impl Into<String>) -> Self {
        if let Failure::Own { tip, .. } = &mut self {
            *tip = Some(text.into());
        }
        self
    }

    /// A refusal, from the answer that carried it. What is no problem document does not come
    /// from payd.
    pub(crate) fn refused(answer: Answer) -> Self {
        match serde_json::from_slice::<Problem<'static>>(&answer.body) {
            Ok(problem) => Failure::Problem(Box::new(Refusal { problem, answer })),
            Err(_) => Self::unexpected(format!(
                "the answer was {} without a reason that payctl can read",
                answer.status
            ))
            .with_tip("is it payd that listens there? look at --host"),
        }
    }

    /// An answer of payd's that cannot be read.
    pub(crate) fn unreadable(what: &str, error: &serde_json::Error) -> Self {
        Self::unexpected(format!("payd's answer is no {what}: {error}")).with_tip(
            "payctl and payd may be of different versions: payctl --version, payd --version",
        )
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Failure::Problem(refusal) => exit_of(&refusal.problem),
            Failure::Transport(error) => match error {
                Error::Denied { .. } => Exit::NotAllowed,
                _ => Exit::Unreachable,
            },
            Failure::Own { exit, .. } | Failure::Said(exit) => *exit,
            Failure::ClosedPipe => Exit::Done,
        }
    }

    /// What went wrong, for people: one line, and what to do about it. Nothing of it can harm a
    /// terminal.
    pub(crate) fn explain(&self) -> (String, Vec<String>) {
        match self {
            Failure::Problem(refusal) => {
                let problem = &refusal.problem;
                let mut more: Vec<String> = problem
                    .errors
                    .iter()
                    .map(|error| format!("{}: {}", clean(&error.field), clean(&error.message)))
                    .collect();
                // The fields say it better; the detail sends whoever reads it to them.
                if more.is_empty() && !problem.detail.is_empty() {
                    more.push(clean(&problem.detail).into_owned());
                }
                if problem.code == Code::Unauthenticated.as_str() {
                    more.push(
                        "tip: give --token-file or PAYD_TOKEN_FILE, or use the socket; payd wrote \
                         the admin's token to the file `token` in its data directory"
                            .to_owned(),
                    );
                }
                (clean(&problem.title).to_lowercase_first(), more)
            }
            Failure::Transport(error) => {
                let tip = match error {
                    Error::Absent { .. } => {
                        "tip: start it with `payd serve`, or say where it is with --host or PAYD_HOST"
                    }
                    Error::Connect { .. } => "tip: is it running? `payd serve` starts it",
                    #[cfg(feature = "tls")]
                    Error::Untrusted { why, .. } => &format!("tip: {}", clean(&why.to_do)),
                    Error::Denied { .. } => {
                        "tip: join the group that owns the socket, or use http:// and --token-file"
                    }
                    Error::Broken { .. } | Error::Silent { .. } => {
                        "tip: see payd's log; `payctl status` says whether it is there"
                    }
                };
                (clean(&error.to_string()).into_owned(), vec![tip.to_owned()])
            }
            Failure::Own { message, tip, .. } => (
                clean(message).into_owned(),
                tip.iter()
                    .map(|tip| format!("tip: {}", clean(tip)))
                    .collect(),
            ),
            Failure::Said(_) | Failure::ClosedPipe => (String::new(), Vec::new()),
        }
    }

    /// The same for machines: payd's own bytes, or a problem of payctl's own making.
    pub(crate) fn json(&self) -> Vec<u8> {
        if let Failure::Problem(refusal) = self {
            return refusal.answer.body.to_vec();
        }
        let (title, mut more) = self.explain();
        let exit = self.exit();
        let code = exit.code();
        // Where there is nothing to be done about it, the title is all that there is to say.
        let detail = more.pop().unwrap_or_else(|| title.clone());
        let detail = detail.strip_prefix("tip: ").unwrap_or(&detail);
        serde_json::json!({
            "type": format!("urn:payctl:error:{code}"),
            "title": title,
            "status": exit.status(),
            "detail": detail,
            "code": code,
        })
        .to_string()
        .into_bytes()
    }
}

/// The exit code of a problem. A code that this payctl does not know counts by its HTTP status.
pub(crate) fn exit_of(problem: &Problem<'_>) -> Exit {
    let Some(code) = Code::parse(&problem.code) else {
        return match problem.status {
            400 | 413 | 415 | 422 => Exit::Usage,
            401 | 403 => Exit::NotAllowed,
            404 => Exit::NotFound,
            409 => Exit::Conflict,
            _ => Exit::Unexpected,
        };
    };
    match code {
        Code::MalformedRequest
        | Code::InvalidRequest
        | Code::BodyTooLarge
        | Code::HeadersTooLarge
        | Code::UnsupportedMediaType => Exit::Usage,
        Code::Unauthenticated | Code::Forbidden => Exit::NotAllowed,
        Code::NotFound | Code::InvoiceNotFound | Code::PaymentNotFound => Exit::NotFound,
        Code::InvoiceExists
        | Code::InvoiceCanceled
        | Code::InvoicePaid
        | Code::PaymentNotResolvable
        | Code::IdempotencyKeyReused => Exit::Conflict,
        Code::RequestInProgress => Exit::Undecided,
        Code::MethodNotAllowed
        | Code::RequestTimeout
        | Code::MisdirectedRequest
        | Code::RateLimited
        | Code::Internal
        | Code::Unavailable => Exit::Unexpected,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Transport(error)
    }
}

impl From<io::Error> for Failure {
    /// Only output is written through `io` without context, so this is stdout's error.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::ClosedPipe;
        }
        Failure::unexpected(format!("the output cannot be written: {error}"))
    }
}

trait LowercaseFirst {
    fn to_lowercase_first(&self) -> String;
}

impl LowercaseFirst for str {
    /// Titles are sentences; after `error: ` they go on in lower case.
    fn to_lowercase_first(&self) -> String {
        let mut chars = self.chars();
        match (chars.next(), chars.clone().next()) {
            (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
                first.to_lowercase().chain(chars).collect()
            }
            _ => self.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_exit_of_the_contract() {
        let table = [
            (Code::MalformedRequest, 2),
            (Code::Unauthenticated, 4),
            (Code::Forbidden, 4),
            (Code::NotFound, 5),
            (Code::InvoiceNotFound, 5),
            (Code::PaymentNotFound, 5),
            (Code::MethodNotAllowed, 1),
            (Code::RequestTimeout, 1),
            (Code::InvoiceExists, 6),
            (Code::InvoiceCanceled, 6),
            (Code::InvoicePaid, 6),
            (Code::PaymentNotResolvable, 6),
            (Code::RequestInProgress, 8),
            (Code::BodyTooLarge, 2),
            (Code::UnsupportedMediaType, 2),
            (Code::MisdirectedRequest, 1),
            (Code::InvalidRequest, 2),
            (Code::IdempotencyKeyReused, 6),
            (Code::RateLimited, 1),
            (Code::HeadersTooLarge, 2),
            (Code::Internal, 1),
            (Code::Unavailable, 1),
        ];
        assert_eq!(table.len(), Code::ALL.len());
        for (code, exit) in table {
            assert_eq!(exit_of(&Problem::new(code, "")) as u8, exit, "{code:?}");
        }
    }

    #[test]
    fn a_code_from_the_future_counts_by_its_status() {
        for (status, exit) in [
            (400, 2),
            (403, 4),
            (404, 5),
            (409, 6),
            (422, 2),
            (418, 1),
            (507, 1),
        ] {
            let mut problem = Problem::new(Code::Internal, "");
            problem.code = "brand_new".into();
            problem.status = status;
            assert_eq!(exit_of(&problem) as u8, exit, "{status}");
        }
    }

    #[test]
    fn a_title_goes_on_in_lower_case_unless_it_is_a_name() {
        assert_eq!("No such invoice".to_lowercase_first(), "no such invoice");
        assert_eq!("A host".to_lowercase_first(), "a host");
        assert_eq!("HTTP is off".to_lowercase_first(), "HTTP is off");
        assert_eq!("".to_lowercase_first(), "");
    }
}
