//! `payctl bench`: how fast a running payd is, as `redis-benchmark` and `pgbench` do it: so many
//! connections, each with one request at a time, until so many invoices are done.
//!
//! It makes real invoices in the store that payd has. It never starts on a payd whose gateway moves
//! money, unless that was asked for in so many words.

mod tally;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use hyper::StatusCode;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::Payment;
use crate::cli::context::{Context, new_key, read, succeeded};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::client::{Answer, Client, Request};

use tally::{Operation, Tally};

/// The gateway that moves no money.
const SIMULATOR: &str = "simulator";
/// What the simulator is asked to do, unless told otherwise.
const METHOD: &str = "sim:approve";
/// How long payd may take to decide a payment before it counts as undecided.
const WAIT_SECONDS: u64 = 30;
/// How often the rate beside the progress bar is renewed.
const RATE_EVERY: Duration = Duration::from_millis(200);

/// Measure how fast payd is
///
/// It creates invoices (and pays them) in the running payd, over several connections, and says how
/// many went through in a second and how long they took. They stay in its store, under ids of their
/// own prefix. A payd whose gateway is not the simulator is left alone.
///
/// Ctrl-C ends it early; what was measured until then is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many invoices
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    invoices: u64,

    /// How many connections, each with one request at a time
    ///
    /// payd takes 64 from one address over TCP, and 512 on the socket.
    #[arg(short = 'c', long, value_name = "C", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=500))]
    concurrency: u16,

    /// What to do with each
    #[arg(long, value_enum, value_name = "MODE", default_value = "pay")]
    mode: Mode,

    /// The payment method; sim:approve where the simulator is the gateway
    #[arg(long, value_name = "TOKEN")]
    method: Option<String>,

    /// Go on although the gateway moves money: every payment is a charge
    #[arg(long)]
    yes_charge_for_real: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Create it
    Create,
    /// Create it, pay it, and wait until that is decided
    Pay,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Mode::Create => "create",
            Mode::Pay => "pay",
        }
    }
}

/// What the workers share.
struct Run {
    mode: Mode,
    method: Option<String>,
    prefix: String,
    invoices: u64,
    next: AtomicU64,
    tally: Mutex<Tally>,
    bar: ProgressBar,
}

/// Runs it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let gateway = gateway(context).await?;
    let simulated = gateway == SIMULATOR;
    if !simulated && !arguments.yes_charge_for_real {
        let message =
            format!("payd's gateway is `{gateway}`, which may move money, so nothing was measured");
        return Err(Failure::usage(message).with_tip(
            "start another payd with the simulator and its own --data-dir and --socket, and name it \
             with --host; --yes-charge-for-real goes on all the same",
        ));
    }
    let default = simulated.then(|| METHOD.to_owned());
    let run = Arc::new(Run {
        mode: arguments.mode,
        method: arguments.method.or(default),
        prefix: prefix()?,
        invoices: arguments.invoices,
        next: AtomicU64::new(0),
        tally: Mutex::new(Tally::new()),
        bar: context.out.progress(Some(arguments.invoices)),
    });
    let began = Instant::now();
    let interrupted = {
        let workers = drive(&run, usize::from(arguments.concurrency), &context.client);
        tokio::select! {
            () = workers => false,
            Ok(()) = tokio::signal::ctrl_c() => true,
            () = show_rate(&run, began) => false,
        }
    };
    let elapsed = began.elapsed();
    run.bar.finish_and_clear();
    let mut tally = run.tally.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = tally.take_fatal();
    if tally.is_empty()
        && let Some(failure) = gone
    {
        return Err(failure);
    }
    let about = json!({
        "mode": run.mode.as_str(),
        "gateway": gateway,
        "prefix": run.prefix,
        "invoices": run.invoices,
        "concurrency": arguments.concurrency,
        "interrupted": interrupted,
    });
    print(&tally, elapsed, about, &run.prefix, context)?;
    if let Some(failure) = gone {
        return Err(failure);
    }
    if let Some(first) = tally.first_error() {
        context.out.warn(&format!("the first error: {first}"));
    }
    if interrupted {
        context
            .out
            .note("stopped early; the figures are of what was done until then");
        return Ok(Exit::Interrupted);
    }
    if tally.errors() > 0 {
        return Err(Failure::Said(Exit::Unexpected));
    }
    Ok(Exit::Done)
}

/// The name of payd's gateway. Asked on a connection of its own, which ends with the question: payd
/// counts connections.
async fn gateway(context: &Context) -> Outcome<String> {
    let mut client = context.client.another();
    let answer = succeeded(client.send(&Request::get("/admin/status")).await?)?;
    let status: Value = read(&answer.body, "status")?;
    let gateway = status.get("gateway").and_then(Value::as_str);
    Ok(gateway.unwrap_or("unknown").to_owned())
}

/// In the order of time, as the ids that payd makes; no two runs share one.
fn prefix() -> Outcome<String> {
    let key = new_key()?.replace('-', "");
    Ok(format!("bench-{}", key.get(..20).unwrap_or(&key)))
}

async fn drive(run: &Arc<Run>, concurrency: usize, client: &Client) {
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        workers.spawn(work(Arc::clone(run), client.another()));
    }
    while workers.join_next().await.is_some() {}
}

/// Renews the rate that the bar shows, until it is dropped.
async fn show_rate(run: &Run, began: Instant) {
    loop {
        tokio::time::sleep(RATE_EVERY).await;
        let done = run.bar.position();
        let rate = per_second(done, began.elapsed());
        run.bar.set_message(format!("{rate}/s"));
    }
}

/// How many of something there were in a second.
fn per_second(count: u64, elapsed: Duration) -> u64 {
    let micros = elapsed.as_micros().max(1);
    u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// One connection: takes numbers until there are none left, or payd is gone.
async fn work(run: Arc<Run>, mut client: Client) {
    loop {
        let number = run.next.fetch_add(1, Ordering::Relaxed);
        if number >= run.invoices {
            return;
        }
        let gone = run.one(number, &mut client).await;
        run.bar.inc(1);
        if gone {
            return;
        }
    }
}

impl Run {
    /// One invoice. Says whether payd is gone.
    async fn one(&self, number: u64, client: &mut Client) -> bool {
        let id = format!("{}-{number}", self.prefix);
        let invoice = json!({
            "id": id, "amount": 100, "currency": "USD", "description": "payctl bench",
            "payment_method": self.method,
        });
        let create = Request::post("/invoices", invoice.to_string(), &id);
        let began = Instant::now();
        let created = self
            .measure(Operation::Create, &create, client, |_| Ok(()))
            .await;
        if created.is_err() || self.mode == Mode::Create {
            return created == Err(Gone::Yes);
        }
        let target = format!("/invoices/{id}/pay");
        let pay = Request::post(target, Vec::new(), &format!("{id}/pay")).wait(WAIT_SECONDS);
        let paid = self.measure(Operation::Pay, &pay, client, decided).await;
        if paid.is_ok() {
            self.tally().record(Operation::Both, began.elapsed());
        }
        paid == Err(Gone::Yes)
    }

    async fn measure(
        &self,
        operation: Operation,
        request: &Request,
        client: &mut Client,
        judge: impl Fn(&Answer) -> Result<(), String>,
    ) -> Result<(), Gone> {
        let began = Instant::now();
        let outcome = client.send(request).await;
        let took = began.elapsed();
        let mut tally = self.tally();
        let refused = match outcome {
            Ok(answer) if answer.status.is_success() => match judge(&answer) {
                Ok(()) => {
                    tally.record(operation, took);
                    return Ok(());
                }
                Err(label) => (label, None),
            },
            Ok(answer) => {
                let failure = Failure::refused(answer);
                (label(&failure), Some(failure))
            }
            // Nobody listens any more: the rest would only fail as well.
            Err(error) if !error.may_have_arrived() => {
                tally.fail_for_good(operation, Failure::from(error));
                return Err(Gone::Yes);
            }
            Err(error) => ("no_answer".to_owned(), Some(Failure::from(error))),
        };
        tally.fail(operation, refused.0, refused.1.as_ref());
        Err(Gone::No)
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is anybody left to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Yes,
    No,
}

/// A payment counts when it succeeded; what else became of it is its error.
fn decided(answer: &Answer) -> Result<(), String> {
    let status = serde_json::from_slice::<Payment<'_>>(&answer.body)
        .map_or_else(|_| "UNREADABLE".to_owned(), |it| it.status.into_owned());
    match status.as_str() {
        "SUCCEEDED" => Ok(()),
        _ if answer.status == StatusCode::ACCEPTED => Err("payment_undecided".to_owned()),
        other => Err(format!("payment_{}", other.to_lowercase())),
    }
}

/// A refusal's code.
fn label(failure: &Failure) -> String {
    match failure {
        Failure::Problem(refusal) => refusal.problem.code.to_string(),
        _ => "unreadable_answer".to_owned(),
    }
}

fn print(
    tally: &Tally,
    elapsed: Duration,
    about: Value,
    prefix: &str,
    context: &mut Context,
) -> Outcome<()> {
    match context.out.format {
        Format::Json | Format::Jsonl => {
            let report = tally.json(elapsed, about);
            context.out.raw(report.to_string().as_bytes())
        }
        Format::Name => context.out.line(prefix),
        Format::Table => {
            let lines = tally.table(elapsed, context.out.width());
            context.out.lines(&lines)
        }
    }
}
