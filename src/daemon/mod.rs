//! The composition root of `payd`: the one place that knows every layer. It puts parts together,
//! starts and stops them, and decides nothing else.

pub mod args;

mod access;
mod commands;
mod manager;
mod serve;
mod signals;
mod traces;
mod upkeep;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Command, ConfigCommand, PaydArgs};

/// Something is wrong with what was typed or configured.
const EXIT_USAGE: u8 = 2;

/// The definition of `payd`'s command line, from which man page and completions are generated.
#[must_use]
pub fn command() -> clap::Command {
    PaydArgs::command()
}

/// The whole of `payd`: arguments in, exit code out.
#[must_use]
pub fn main() -> ExitCode {
    // Databases, locks and logs are nobody else's to read; the socket sets its own mode.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match PaydArgs::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Config(ConfigCommand::Check(args)) => commands::config_check(&args),
        Command::Config(ConfigCommand::Show(args)) => commands::config_show(&args),
        Command::Backup(args) => upkeep::backup(&args),
        Command::Restore(args) => upkeep::restore(&args),
        Command::Verify(args) => upkeep::verify(&args),
        Command::Openapi => commands::openapi(),
    }
}
