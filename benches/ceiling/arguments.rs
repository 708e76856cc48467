//! What can be asked on the command line, behind `cargo bench --`.

use std::convert::Infallible;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measure payd against a ceiling
#[derive(Debug, Parser)]
#[command(name = "ceiling", args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
    #[command(flatten)]
    pub(crate) compare: Compare,
    /// cargo adds it to every bench
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

/// What this process is to be.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// payd and the sketch in turn, and their ratios (the default)
    Compare(Compare),
    /// What has a limit rather than a ceiling: memory, starts, pages, streams, payctl
    Limits(Limits),
    /// The same load on a store with many invoices and on an empty one
    Growth(Growth),
    /// Be a sketch that payd is compared with
    #[command(hide = true)]
    Sketch(Sketch),
    /// Be the gateway that both call
    #[command(hide = true)]
    Gateway,
}

/// What to compare, and how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct Compare {
    /// Kinds of load
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["create", "pay"])]
    pub(crate) only: Vec<Kind>,
    /// Connections, each with one request at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    pub(crate) connections: Vec<usize>,
    /// How often each side is measured; the sides take turns
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: usize,
    /// Seconds that are measured, after half as many to warm up
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// One round of half a second: to see that it works, not what it says
    #[arg(long)]
    pub(crate) quick: bool,
    /// Invoices in a request, with `--only bulk`
    #[arg(long, default_value_t = 100)]
    pub(crate) lines: usize,
    /// Where payments go: a service beside it, or nowhere (payd's simulator, in process)
    #[arg(long, value_enum, default_value_t = Via::Http)]
    pub(crate) gateway: Via,
    /// Ids in no order, as clients that draw their own send them
    #[arg(long)]
    pub(crate) random_ids: bool,
    /// Send no Idempotency-Key
    #[arg(long)]
    pub(crate) no_keys: bool,
    /// How requests come: over TCP payd has 64 connections of a peer at a time, and wants a token
    #[arg(long, value_enum, default_value_t = Over::Socket)]
    pub(crate) over: Over,
    /// The payd to measure, instead of the one built beside this
    #[arg(long, value_name = "FILE")]
    pub(crate) payd: Option<PathBuf>,
    /// What to compare it with: a sketch (`least`, `least-keyed`, `ordinary`, `ordinary-keyed`, `promising`), or
    /// another build of payd
    #[arg(long, value_name = "SKETCH|FILE", value_delimiter = ',', default_values = ["least-keyed", "least"])]
    pub(crate) against: Vec<Other>,
    /// Write all figures of all rounds there, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What to measure, and how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct Limits {
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Limit::ALL)]
    pub(crate) only: Vec<Limit>,
    /// How often each side is measured where two take turns
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: usize,
    /// Seconds that are measured each time
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Seconds of the long load
    #[arg(long, default_value_t = 30.0)]
    pub(crate) sustained: f64,
    /// Events in the log that a reader catches up with
    #[arg(long, default_value_t = 600_000)]
    pub(crate) events: u64,
    /// The payd to measure; payctl lies beside it
    #[arg(long, value_name = "FILE")]
    pub(crate) payd: Option<PathBuf>,
}

/// What has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Limit {
    /// Of the binaries
    Sizes,
    /// Memory of an idle payd
    Idle,
    /// payctl from start to end
    Commands,
    /// A reader that catches up, and pages
    Stream,
    /// Payments beside live readers
    Readers,
    /// A long load
    Sustained,
    /// A start after a SIGKILL
    Crash,
}

impl Limit {
    const ALL: [Self; 7] = [
        Self::Sizes,
        Self::Idle,
        Self::Commands,
        Self::Stream,
        Self::Readers,
        Self::Sustained,
        Self::Crash,
    ];
}

/// How large a store, and how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct Growth {
    /// Invoices in the full store, each PAID with three events under an idempotency key; some 2.6 GB a million
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) invoices: u64,
    /// Ids in no order, as clients that draw their own send them
    #[arg(long)]
    pub(crate) random_ids: bool,
    /// Where the full store is kept from one run to the next, and made where there is none; the rounds add to it
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) store: Option<PathBuf>,
    /// Make the full store, and leave it at that
    #[arg(long, requires = "store")]
    pub(crate) seed_only: bool,
    /// How often each side is measured; the sides take turns
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: usize,
    /// Seconds that are measured each time
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Seconds of the long load
    #[arg(long, default_value_t = 30.0)]
    pub(crate) sustained: f64,
    /// The payd to measure
    #[arg(long, value_name = "FILE")]
    pub(crate) payd: Option<PathBuf>,
}

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// POST /invoices
    Create,
    /// POST /invoices, then POST /invoices/{id}/pay with Prefer: wait
    Pay,
    /// POST /invoices with many lines
    Bulk,
    /// GET /invoices/{id}, anywhere among those of a full store
    Show,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Pay => "pay",
            Self::Bulk => "bulk",
            Self::Show => "show",
        }
    }
}

/// How payments leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    Http,
    Simulator,
}

/// How requests reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Over {
    Socket,
    Tcp,
}

/// What payd is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Other {
    Sketch(Which),
    Payd(PathBuf),
}

impl FromStr for Other {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Which::from_str(text, false).map_or_else(|_| Self::Payd(text.into()), Self::Sketch))
    }
}

impl Display for Other {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sketch(which) => f.write_str(which.as_str()),
            Self::Payd(file) => write!(f, "{}", file.display()),
        }
    }
}

/// The sketches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    /// The least that could be
    Least,
    /// The same, with a row for each idempotency key
    LeastKeyed,
    /// What one would write in a day, with the usual libraries
    Ordinary,
    /// The same, with a row for each idempotency key
    OrdinaryKeyed,
    /// The ordinary one with what payd promises of a create and a payment
    Promising,
}

impl Which {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Least => "least",
            Self::LeastKeyed => "least-keyed",
            Self::Ordinary => "ordinary",
            Self::OrdinaryKeyed => "ordinary-keyed",
            Self::Promising => "promising",
        }
    }

    /// Whether it keeps a row for each idempotency key, as its only addition.
    pub(crate) const fn is_keyed(self) -> bool {
        matches!(self, Self::LeastKeyed | Self::OrdinaryKeyed)
    }
}

/// A sketch's own arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sketch {
    /// Which of them
    #[arg(long, value_enum)]
    pub(crate) which: Which,
    /// The socket to listen on; none: any port, which is the first line on stdout
    #[arg(long)]
    pub(crate) socket: Option<PathBuf>,
    /// The database
    #[arg(long)]
    pub(crate) database: PathBuf,
    /// The gateway's port on this machine; none: approve in process
    #[arg(long)]
    pub(crate) gateway: Option<u16>,
    /// What each request must show; none: nothing. Only `promising` asks for it
    #[arg(long)]
    pub(crate) token: Option<String>,
}
