//! `payctl pay`: asks for an invoice to be paid, once, and waits until that is decided.
//!
//! Every POST of one run carries the same idempotency key, so that whatever breaks on the way may
//! be sent again. It never asks with a new key about an invoice whose payment it does not know
//! the end of, and it says PAID (exit 0) only because the invoice says so.

use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use hyper::StatusCode;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::{Invoice, Payment, PaymentPage};
use crate::cli::arguments::{self, InvoiceId, PaymentId, typed};
use crate::cli::completion::invoices;
use crate::cli::context::{Context, Pause, asks_for_patience, new_key, read, succeeded};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::payment;
use crate::cli::text::{clean, relative};
use crate::cli::watch::Watch;
use crate::client::{Answer, Client, Request};

/// The longest that payd holds an answer.
const WAIT_SECONDS_MAX: u64 = 60;
/// However short the timeout, the request itself gets this long to be taken.
const REQUEST_MIN: Duration = Duration::from_secs(1);
/// How long a payd that takes nothing now (503, 429) is asked again: long enough for a restart.
/// Nothing was done then, so giving up is safe.
const PATIENCE_MAX: Duration = Duration::from_secs(10);
/// How long after the deadline the last look at the invoice and its payment may take, together.
const LOOK_LAST: Duration = Duration::from_millis(500);
/// How often the spinner's text is renewed, where somebody watches it.
const SPINNER_EVERY: Duration = Duration::from_secs(1);

/// Pay an invoice, and wait until it is decided
///
/// Exit code 0 means that the invoice is PAID. Other ends: 7, it failed for good; 6, it is
/// canceled; 8, it is not decided yet. After 8 do not pay anew: `payctl wait ID` goes on waiting,
/// `payctl explain ID` says how it stands.
///
/// Paying twice is safe: an invoice that is being paid or is paid already gets no second payment.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The invoice's id
    #[arg(value_name = "ID", value_parser = InvoiceId::parse, add = ArgValueCompleter::new(invoices))]
    id: InvoiceId,

    /// The payment method, instead of the invoice's own
    #[arg(long, value_name = "TOKEN")]
    method: Option<String>,

    /// How long to wait until it is decided: 500ms, 60s, 5m
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        value_parser = arguments::timeout
    )]
    timeout: Duration,

    /// Return as soon as payd has taken it for good, before it is decided
    #[arg(long)]
    no_wait: bool,

    /// The key under which payd knows a repetition; made here where none is given
    #[arg(long, value_name = "KEY", value_parser = arguments::key)]
    idempotency_key: Option<String>,
}

/// What is meant: everything that one run needs to know.
pub(crate) struct Plan {
    pub(crate) id: InvoiceId,
    pub(crate) method: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) no_wait: bool,
    pub(crate) key: String,
}

/// Runs it as typed.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let plan = Plan {
        id: arguments.id,
        method: arguments.method,
        timeout: arguments.timeout,
        no_wait: arguments.no_wait,
        key: match arguments.idempotency_key {
            Some(key) => key,
            None => new_key()?,
        },
    };
    carry_out(&plan, context).await
}

/// Pays as planned. Ctrl-C ends the waiting, not the payment.
pub(crate) async fn carry_out(plan: &Plan, context: &mut Context) -> Outcome {
    let interrupted = tokio::signal::ctrl_c();
    let ended = tokio::select! {
        outcome = Box::pin(pay(plan, context)) => Some(outcome),
        Ok(()) = interrupted => None,
    };
    if let Some(outcome) = ended {
        return outcome;
    }
    let id = &plan.id;
    context.out.note(&format!(
        "stopped waiting; payd goes on with {id}. Do not pay anew: see `payctl wait {id}`, \
         `payctl explain {id}`"
    ));
    Ok(Exit::Interrupted)
}

async fn pay(plan: &Plan, context: &mut Context) -> Outcome {
    let deadline = Instant::now() + plan.timeout;
    let body = match &plan.method {
        Some(method) => json!({ "payment_method": method }).to_string().into_bytes(),
        None => Vec::new(),
    };
    let request = Request::post(plan.id.path("/pay"), body, &plan.key);
    let answer = ask(plan, &request, deadline, context).await?;
    let payment: Payment<'static> = read(&answer.body, "payment")?;
    context.out.note(&match answer.status {
        StatusCode::ACCEPTED => format!("payment {} requested", payment.id),
        _ => format!("payment {} stands: {}", payment.id, payment.status),
    });
    if plan.no_wait {
        payment::print_short(&mut context.out, &answer, &payment)?;
        return Ok(Exit::Done);
    }
    let bar = context.out.spinner();
    let waited = wait(plan, &request, deadline, (answer, payment), &bar, context).await;
    bar.finish_and_clear();
    let End {
        invoice,
        answer,
        payment,
        why_not,
    } = waited;
    let printed = payment::print_short(&mut context.out, &answer, &payment);
    if let Err(failure) = printed
        && !matches!(failure, Failure::ClosedPipe)
    {
        return Err(failure);
    }
    verdict(plan, invoice.as_ref(), &payment, why_not.as_deref())
}

/// The first request, until payd has taken it or refused it for good.
async fn ask(
    plan: &Plan,
    request: &Request,
    deadline: Instant,
    context: &mut Context,
) -> Outcome<Answer> {
    let started = Instant::now();
    let request_deadline = deadline.max(started + REQUEST_MIN);
    let mut arrived_perhaps = false;
    // A payd that answered once and is gone now is being restarted.
    let mut answered = false;
    let mut pause = Pause::new();
    loop {
        let sent = timeout_at(request_deadline, context.client.send(request)).await;
        let (failure, wait, deadline) = match sent {
            Ok(Ok(answer)) => {
                answered = true;
                let wait = answer.retry_after();
                match succeeded(answer) {
                    Ok(answer) => return Ok(answer),
                    Err(failure) if asks_for_patience(&failure) => {
                        let wait = wait.unwrap_or_else(|| pause.next());
                        let refused = failure.exit() == Exit::Unexpected;
                        let patience = if refused {
                            started + PATIENCE_MAX
                        } else {
                            deadline
                        };
                        (failure, wait, deadline.min(patience))
                    }
                    Err(failure) => return Err(failure),
                }
            }
            Ok(Err(error)) => {
                arrived_perhaps |= error.may_have_arrived();
                let failure = Failure::from(error);
                if !arrived_perhaps && !answered {
                    return Err(failure);
                }
                (failure, pause.next(), deadline)
            }
            Err(_) => {
                let waited = typed(plan.timeout);
                return Err(unknown(plan, &format!("no answer came within {waited}")));
            }
        };
        if Instant::now() + wait > deadline {
            if !arrived_perhaps {
                return Err(failure);
            }
            return Err(unknown(plan, &failure.explain().0));
        }
        sleep(wait).await;
    }
}

/// Nobody knows whether payd took the request.
fn unknown(plan: &Plan, why: &str) -> Failure {
    let Plan { id, key, .. } = plan;
    Failure::own(
        Exit::Undecided,
        format!("it is not known whether payd took the payment of {id}: {why}"),
    )
    .with_tip(format!(
        "do not pay anew; `payctl pay {id} --idempotency-key '{key}'` asks for the same once \
         more, `payctl explain {id}` says how it stands"
    ))
}

/// How the waiting ended.
struct End {
    /// As last seen, if it was.
    invoice: Option<Invoice<'static>>,
    /// The payment that decided it, or the latest.
    answer: Answer,
    payment: Payment<'static>,
    /// What kept it from being seen decided.
    why_not: Option<String>,
}

/// Waits until the invoice leaves PROCESSING. It ends at the deadline whatever happens, and only
/// there: payd may be restarted in between.
async fn wait(
    plan: &Plan,
    request: &Request,
    deadline: Instant,
    (mut answer, mut payment): (Answer, Payment<'static>),
    bar: &ProgressBar,
    context: &mut Context,
) -> End {
    let mut watch = Watch::new(context, &plan.id);
    let mut watcher = context.client.another();
    let mut invoice = None;
    let mut why_not: Option<String> = None;
    let last = deadline.max(Instant::now()) + LOOK_LAST;
    bar.set_message(format!(
        "{}: PROCESSING, payment {}",
        plan.id, payment.attempt
    ));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let seconds = left.as_millis().div_ceil(1000);
        let seconds = u64::try_from(seconds)
            .unwrap_or(u64::MAX)
            .clamp(1, WAIT_SECONDS_MAX);
        let asked = Instant::now();
        // Such a wait is for this one payment; where that is decided, later ones are still to come.
        let held_for = payment.finished_at.is_none() && !left.is_zero();
        if held_for {
            let request = request.clone().wait(seconds);
            let held = tokio::select! {
                held = timeout_at(deadline, context.client.send(&request)) => held,
                never = narrate(plan, bar, &mut watcher) => match never {},
            };
            match held.map(|sent| sent.map_err(Failure::from).and_then(succeeded)) {
                Ok(Ok(held)) => {
                    if let Ok(read) = serde_json::from_slice::<Payment<'static>>(&held.body) {
                        payment = read;
                        answer = held;
                    }
                }
                Ok(Err(failure)) => why_not = Some(failure.explain().0),
                Err(_) => {}
            }
        }
        // The answer is about that one payment; a later one may have decided the invoice.
        match timeout_at(last, context.invoice(&plan.id)).await {
            Ok(Ok((_, seen))) => {
                why_not = None;
                let decided = matches!(&*seen.status, "PAID" | "FAILED" | "CANCELED");
                bar.set_message(progress(&seen, context));
                invoice = Some(seen);
                if decided {
                    break;
                }
            }
            Ok(Err(failure)) => why_not = Some(failure.explain().0),
            Err(_) => {
                why_not.get_or_insert_with(|| "payd gave no answer".to_owned());
            }
        }
        if Instant::now() >= deadline {
            break;
        }
        if let Some(why) = &why_not {
            bar.set_message(format!("{}: {why}", plan.id));
        }
        // Held long enough, the next turn may ask again at once; else the events say when.
        if !held_for || asked.elapsed() < Duration::from_secs(seconds) {
            let _ = timeout_at(deadline, watch.changed()).await;
        }
    }
    let attempts = invoice.as_ref().map(|invoice| invoice.attempts);
    let settled = payment.finished_at.is_some() && attempts == Some(payment.attempt);
    if !settled && attempts.is_some() {
        let latest = timeout_at(last, latest(&plan.id, context)).await;
        if let Ok(Ok((latest_answer, latest))) = latest {
            answer = latest_answer;
            payment = latest;
        }
    }
    End {
        invoice,
        answer,
        payment,
        why_not,
    }
}

/// The payment made last: the one that decided the invoice, if it is decided.
async fn latest(id: &InvoiceId, context: &mut Context) -> Outcome<(Answer, Payment<'static>)> {
    let answer = context.get(&id.path("/payments")).await?;
    let mut page: PaymentPage<'static> = read(&answer.body, "list of payments")?;
    let Some(last) = page.payments.pop() else {
        return Err(Failure::unexpected("the invoice has no payment"));
    };
    let id = PaymentId::parse(&last.id).map_err(Failure::unexpected)?;
    let answer = context.get(&id.path("")).await?;
    let payment = read(&answer.body, "payment")?;
    Ok((answer, payment))
}

/// Keeps the spinner's text true while an answer is awaited. It never ends.
async fn narrate(plan: &Plan, bar: &ProgressBar, client: &mut Client) -> std::convert::Infallible {
    loop {
        if bar.is_hidden() {
            std::future::pending::<()>().await;
        }
        sleep(SPINNER_EVERY).await;
        if let Ok(answer) = client.send(&Request::get(plan.id.path(""))).await
            && let Ok(invoice) = serde_json::from_slice::<Invoice<'static>>(&answer.body)
        {
            bar.set_message(describe(&invoice, jiff::Timestamp::now()));
        }
    }
}

fn progress(invoice: &Invoice<'_>, context: &Context) -> String {
    describe(invoice, context.now())
}

fn describe(invoice: &Invoice<'_>, now: jiff::Timestamp) -> String {
    let mut text = format!(
        "{}: {}, payment {}",
        invoice.id, invoice.status, invoice.attempts
    );
    if let Some(next) = &invoice.next_attempt_at {
        let when = relative(now, next);
        if when.starts_with("in ") {
            text.push_str(&format!(", next attempt {when}"));
        }
    }
    if invoice.needs_attention {
        text.push_str(", needs attention");
    }
    clean(&text).into_owned()
}

/// What the invoice says, as an exit code.
fn verdict(
    plan: &Plan,
    invoice: Option<&Invoice<'_>>,
    payment: &Payment<'_>,
    why_not: Option<&str>,
) -> Outcome {
    let id = &plan.id;
    match invoice.map_or("", |invoice| &*invoice.status) {
        "PAID" => Ok(Exit::Done),
        "FAILED" => {
            let why = payment.failure.as_ref().map(payment::reason);
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            Err(
                Failure::own(Exit::Failed, format!("the payment of {id} failed{why}")).with_tip(
                    format!(
                        "`payctl explain {id}` tells why; `payctl pay {id} --method TOKEN` tries \
                         another way"
                    ),
                ),
            )
        }
        "CANCELED" => Err(Failure::own(
            Exit::Conflict,
            format!("invoice {id} is canceled, and was not paid"),
        )
        .with_tip("create another invoice if it is to be paid after all")),
        _ => {
            let mut text = format!(
                "{id} is not decided after {}: payment {} is {}",
                typed(plan.timeout),
                payment.id,
                payment.status
            );
            if let Some(why) = why_not {
                text.push_str(&format!(" as last seen ({why})"));
            }
            let tip = format!(
                "do not pay anew; `payctl wait {id}` goes on waiting, `payctl explain {id}` says \
                 how it stands"
            );
            Err(Failure::own(Exit::Undecided, text).with_tip(tip))
        }
    }
}
