//! `payctl wait`: returns when an invoice is what it is waited for to be, or never can be.
//!
//! It only looks. The event stream wakes it; the invoice itself is what counts.

use std::time::Duration;

use clap::ValueEnum;
use clap_complete::engine::ArgValueCompleter;
use tokio::time::{Instant, timeout_at};

use crate::api::Invoice;
use crate::cli::arguments::{self, InvoiceId, typed};
use crate::cli::completion::invoices;
use crate::cli::context::{Context, asks_for_patience};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::invoice;
use crate::cli::watch::Watch;
use crate::client::Answer;

/// However short the timeout, the first look gets this long: it is what the wait is about.
const LOOK_MIN: Duration = Duration::from_secs(1);

/// Wait until an invoice is paid, failed, or decided at all
///
/// Exit codes: 0, it is so; 6, it can no longer be so; 7, waiting for paid and the payment failed
/// for good (`payctl pay` may still try again); 8, the time is up.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The invoice's id
    #[arg(value_name = "ID", value_parser = InvoiceId::parse, add = ArgValueCompleter::new(invoices))]
    id: InvoiceId,

    /// What to wait for
    #[arg(long = "for", value_enum, value_name = "STATE", default_value = "paid")]
    goal: Goal,

    /// How long: 500ms, 60s, 5m
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        value_parser = arguments::timeout
    )]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Goal {
    /// PAID
    Paid,
    /// FAILED
    Failed,
    /// PAID, FAILED or CANCELED
    Final,
}

impl Goal {
    /// What an invoice's status means to whoever waits; `None` where it is still open.
    fn judge(self, status: &str) -> Option<Exit> {
        match (self, status) {
            (Goal::Paid, "PAID") | (Goal::Failed, "FAILED") => Some(Exit::Done),
            (Goal::Final, "PAID" | "FAILED" | "CANCELED") => Some(Exit::Done),
            (Goal::Paid, "FAILED") => Some(Exit::Failed),
            (Goal::Paid | Goal::Failed, "CANCELED") => Some(Exit::Conflict),
            (Goal::Failed, "PAID") => Some(Exit::Conflict),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Goal::Paid => "paid",
            Goal::Failed => "failed",
            Goal::Final => "decided",
        }
    }
}

/// Runs it as typed.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let deadline = Instant::now() + arguments.timeout;
    let bar = context.out.spinner();
    bar.set_message(format!("{}: waiting", arguments.id));
    // Whether there is such an invoice, and a payd, must be known now.
    let look = deadline.max(Instant::now() + LOOK_MIN);
    let Ok(first) = timeout_at(look, context.invoice(&arguments.id)).await else {
        bar.finish_and_clear();
        return Err(unseen(&arguments));
    };
    let mut seen = first?;
    let mut why_not = None;
    let mut watch = Watch::new(context, &arguments.id);
    let exit = loop {
        if let Some(exit) = arguments.goal.judge(&seen.1.status) {
            break exit;
        }
        bar.set_message(format!("{}: {}", seen.1.id, seen.1.status));
        if timeout_at(deadline, watch.changed()).await.is_err() {
            break Exit::Undecided;
        }
        match timeout_at(deadline, context.invoice(&arguments.id)).await {
            Ok(Ok(now)) => {
                seen = now;
                why_not = None;
            }
            Ok(Err(failure @ Failure::Transport(_))) => why_not = Some(failure.explain().0),
            Ok(Err(failure)) if asks_for_patience(&failure) => why_not = Some(failure.explain().0),
            Ok(Err(failure)) => {
                bar.finish_and_clear();
                return Err(failure);
            }
            Err(_) => {
                why_not = Some("payd gave no answer".to_owned());
                break Exit::Undecided;
            }
        }
    };
    bar.finish_and_clear();
    report(&arguments, exit, &seen, why_not.as_deref(), context)
}

/// payd was there, and said nothing.
fn unseen(arguments: &Arguments) -> Failure {
    let id = &arguments.id;
    let waited = typed(arguments.timeout);
    Failure::own(
        Exit::Undecided,
        format!("it is not known how {id} stands: payd gave no answer within {waited}"),
    )
    .with_tip("do not pay anew; see payd's log, `payctl status` says whether it answers")
}

fn report(
    arguments: &Arguments,
    exit: Exit,
    (answer, invoice): &(Answer, Invoice<'static>),
    why_not: Option<&str>,
    context: &mut Context,
) -> Outcome {
    let now = context.now();
    match invoice::print_short(&mut context.out, answer, invoice, now) {
        Ok(()) | Err(Failure::ClosedPipe) => {}
        Err(failure) => return Err(failure),
    }
    let id = &arguments.id;
    let goal = arguments.goal.as_str();
    let status = &invoice.status;
    match exit {
        Exit::Done => Ok(exit),
        Exit::Undecided => {
            let mut text = format!(
                "{id} is not {goal} after {}: it is {status}",
                typed(arguments.timeout)
            );
            if let Some(why) = why_not {
                text.push_str(&format!(" as last seen ({why})"));
            }
            let tip = match &**status {
                "PENDING" => format!("nobody has asked for it to be paid: `payctl pay {id}`"),
                _ => format!("`payctl explain {id}` says what it waits for; do not pay anew"),
            };
            Err(Failure::own(exit, text).with_tip(tip))
        }
        Exit::Failed => Err(Failure::own(exit, format!("the payment of {id} failed"))
            .with_tip(format!("`payctl explain {id}` tells why"))),
        _ => Err(Failure::own(
            exit,
            format!("{id} is {status}, and can no longer be {goal}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_so_what_never_can_be_and_what_is_open() {
        let table = [
            (Goal::Paid, [None, None, Some(0), Some(7), Some(6)]),
            (Goal::Failed, [None, None, Some(6), Some(0), Some(6)]),
            (Goal::Final, [None, None, Some(0), Some(0), Some(0)]),
        ];
        let statuses = ["PENDING", "PROCESSING", "PAID", "FAILED", "CANCELED"];
        for (goal, row) in table {
            for (status, expected) in statuses.into_iter().zip(row) {
                let exit = goal.judge(status).map(|exit| exit as u8);
                assert_eq!(exit, expected, "{goal:?} {status}");
            }
        }
    }
}
