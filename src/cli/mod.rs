//! payctl, the command line of payd: one file per command, with its arguments, its help and what
//! it does together.
//!
//! It knows payd by its HTTP API only, and never touches the database. What it is about to do
//! that moves money, it can do again without moving it twice.

mod failure;
mod output;
mod table;
mod text;

mod arguments;
mod context;
mod watch;

mod backup;
mod bench;
mod completion;
mod doctor;
mod events;
mod explain;
mod invoice;
mod pay;
mod payment;
mod status;
mod token;
mod verify;
mod wait;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use clap_complete::CompleteEnv;
use tokio::runtime::Builder;

use context::Context;
use failure::{Failure, Outcome};
use output::{Colour, Format, Output};

pub use completion::script as completion_script;

const EXITS: &str = "\
Exit codes:
  0  done; for `pay` and `wait`: it is so
  1  unexpected failure, in payctl or payd
  2  usage, or input that payd calls invalid
  3  payd cannot be reached
  4  not allowed
  5  not found
  6  conflict: other content under that id or key, canceled, not resolvable
  7  the payment failed, definitely
  8  undecided: still in progress, unknown, or the wait timed out. Do not pay anew

Examples:
  payctl invoice create inv-123 --amount 1000 --currency USD
  payctl pay inv-123
  payctl explain inv-123
  payctl events tail -f";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Create invoices, get them paid, and see what became of them
///
/// payctl talks to payd, the payment engine that runs on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "payctl",
    version,
    styles = STYLES,
    after_help = EXITS,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Where payd listens: unix:///path/payd.sock, http://127.0.0.1:8080 or https://name
    ///
    /// Without it: the first of $RUNTIME_DIRECTORY/payd.sock, $XDG_RUNTIME_DIR/payd/payd.sock,
    /// /run/payd/payd.sock and $XDG_DATA_HOME/payd/payd.sock that is there.
    #[arg(
        long,
        global = true,
        env = "PAYD_HOST",
        hide_env_values = true,
        value_name = "URL",
        value_hint = ValueHint::Url
    )]
    host: Option<String>,

    /// A file with the token for TCP; the socket needs none
    ///
    /// Without it, for a payd on this machine: the admin's, which payd keeps as `token` in its data
    /// directory. No token is sent to another machine without TLS.
    #[arg(
        long,
        global = true,
        env = "PAYD_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath
    )]
    token_file: Option<OsString>,

    /// A file with the certificates to trust over https://, in place of this machine's
    #[arg(
        long,
        global = true,
        env = "PAYD_CACERT",
        hide_env_values = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath
    )]
    cacert: Option<OsString>,

    /// How to print
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        hide_possible_values = false
    )]
    output: Format,

    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    quiet: bool,

    /// When to colour
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto"
    )]
    color: Colour,
}

#[derive(Debug, Subcommand)]
enum Command {
    Invoice(invoice::Arguments),
    Pay(pay::Arguments),
    Payment(payment::Arguments),
    Events(events::Arguments),
    Wait(wait::Arguments),
    Explain(explain::Arguments),
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Backup(backup::Arguments),
    Verify(verify::Arguments),
    Bench(bench::Arguments),
    Token(token::Arguments),
    Completion(completion::Arguments),
}

/// payctl as clap has it: what help, man pages and completions are made from.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs payctl on the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    CompleteEnv::with_factory(command).complete();
    let args: Vec<OsString> = std::env::args_os().collect();
    let Arguments { global, command } = match parse(command(), &args) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() && wants_json(&args) => {
            let mut out = Output::new(Format::Json, Colour::Never, false);
            return end(&mut out, Err(Failure::arguments(&error)));
        }
        // Prints help and versions to stdout, errors to stderr, and exits with 0 or 2.
        Err(error) => error.exit(),
    };
    let mut out = Output::new(global.output, global.color, global.quiet);
    if let Command::Completion(arguments) = command {
        let outcome = completion::run(&arguments, &mut out);
        return end(&mut out, outcome);
    }
    let mut context = match Context::new(&global, out) {
        Ok(context) => context,
        Err((mut out, failure)) => return end(&mut out, Err(failure)),
    };
    let outcome = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(command, &mut context)),
        Err(error) => Err(Failure::unexpected(format!("no runtime: {error}"))),
    };
    end(&mut context.out, outcome)
}

fn parse(command: clap::Command, args: &[OsString]) -> Result<Arguments, clap::Error> {
    let read = |command: clap::Command| {
        command
            .color(usage_colour(args))
            .try_get_matches_from(args)
            .and_then(|matches| Arguments::from_arg_matches(&matches))
    };
    read(command.clone()).map_err(|error| {
        // What the environment gave stands in clap's usage line as if it were required.
        let typed_only = ["host", "token_file", "cacert"]
            .into_iter()
            .fold(command, |command, name| {
                command.mut_arg(name, |arg| arg.env(None::<&str>))
            });
        read(typed_only).err().unwrap_or(error)
    })
}

async fn run(command: Command, context: &mut Context) -> Outcome {
    match command {
        Command::Invoice(arguments) => invoice::run(arguments, context).await,
        Command::Pay(arguments) => Box::pin(pay::run(arguments, context)).await,
        Command::Payment(arguments) => payment::run(arguments, context).await,
        Command::Events(arguments) => events::run(arguments, context).await,
        Command::Wait(arguments) => Box::pin(wait::run(arguments, context)).await,
        Command::Explain(arguments) => explain::run(arguments, context).await,
        Command::Status(arguments) => status::run(arguments, context).await,
        Command::Doctor(arguments) => doctor::run(arguments, context).await,
        Command::Backup(arguments) => backup::run(arguments, context).await,
        Command::Verify(arguments) => verify::run(arguments, context).await,
        Command::Bench(arguments) => Box::pin(bench::run(arguments, context)).await,
        Command::Token(arguments) => token::run(arguments, context).await,
        Command::Completion(arguments) => completion::run(&arguments, &mut context.out),
    }
}

fn end(out: &mut Output, outcome: Outcome) -> ExitCode {
    let outcome = match (outcome, out.flush()) {
        // What was found out counts, also if nobody was left to read it.
        (Ok(exit), Ok(()) | Err(Failure::ClosedPipe)) => Ok(exit),
        (Ok(_), Err(failure)) => Err(failure),
        (Err(failure), _) => Err(failure),
    };
    let exit = match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            out.complain(&failure);
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}

/// `--color` for clap's own errors and help, which come before the arguments are read.
fn usage_colour(args: &[OsString]) -> ColorChoice {
    let mut words = args.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--color") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        match value {
            Some("always") => return ColorChoice::Always,
            Some("never") => return ColorChoice::Never,
            _ => {}
        }
    }
    ColorChoice::Auto
}

/// Whether machines read what goes wrong, also where the arguments cannot be read whole.
fn wants_json(args: &[OsString]) -> bool {
    let typed = args.iter().skip(1).map_while(|word| match word.to_str() {
        Some("--") => None,
        word => Some(word.unwrap_or_default()),
    });
    let mut named = false;
    for word in typed {
        let value = if named {
            Some(word)
        } else if let Some(rest) = word.strip_prefix("--output") {
            rest.strip_prefix('=')
        } else if word.starts_with("--") {
            None
        } else {
            // Behind -o, which -q may stand before.
            let short = word.strip_prefix('-').unwrap_or_default();
            let value = short.trim_start_matches('q').strip_prefix('o');
            value.map(|value| value.strip_prefix('=').unwrap_or(value))
        };
        if matches!(value, Some("json" | "jsonl")) {
            return true;
        }
        named = word == "--output" || (!named && value == Some(""));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_found_however_it_is_typed() {
        for args in [
            "-o json",
            "-ojson",
            "-o=json",
            "-qo json",
            "--output json",
            "--output=jsonl",
        ] {
            let args = format!("payctl invoice lits {args}");
            let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
            assert!(wants_json(&args), "{args:?}");
        }
        for args in [
            "json",
            "-o table json",
            "-- -o json",
            "-o",
            "--output=name",
            "-n json",
        ] {
            let args = format!("payctl invoice lits {args}");
            let args: Vec<OsString> = args.split(' ').map(OsString::from).collect();
            assert!(!wants_json(&args), "{args:?}");
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        command().debug_assert();
    }
}
