//! The command line of `payd`: what can be typed, and its help.
//!
//! What was typed becomes [`Flags`]; what it means is decided in [`crate::config`]. Nothing here reads a
//! file or the environment.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};

use crate::config::Flags;

/// `payd` and its commands. Without a command it prints help and exits with 2.
#[derive(Debug, Parser)]
#[command(
    name = "payd",
    version,
    about = "A payment engine that charges once, whatever fails on the way",
    long_about = "A payment engine that charges once, whatever fails on the way.\n\n\
        payd runs beside an application. The application says \"this invoice is to be paid\"; payd gets it \
        paid through a payment gateway, once, and tells everyone who listens. Talk to it with payctl or \
        over HTTP.",
    after_help = "Examples:\n  \
        payd serve                  start at once, with a simulated gateway\n  \
        payd config show            which settings hold, and where each came from\n  \
        payd serve --dev            no token needed on this machine: for development",
    arg_required_else_help = true
)]
pub struct PaydArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `payd` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon until it is told to stop
    #[command(
        long_about = "Run the daemon until it is told to stop.\n\n\
            With nothing else it works at once: data in the user's data directory, a simulated gateway, a \
            Unix socket, and TCP on 127.0.0.1:8080. It prints where it listens and how to reach it. SIGTERM \
            and Ctrl-C stop it after what is in flight has finished, or after the grace time.",
        after_help = "Examples:\n  \
            payd serve\n  \
            payd serve --listen none                       Unix socket only\n  \
            payd serve --listen 127.0.0.1:0                any free port\n  \
            payd serve --data-dir ./data --socket ./payd.sock --dev\n  \
            PAYD_RETRY__BASE=100ms payd serve              any setting, by environment"
    )]
    Serve(SettingsArgs),
    /// Check or show the settings
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigCommand),
    /// Copy the database into a file, verified
    #[command(
        long_about = "Copy the database into a file, verified.\n\n\
            The copy is the database at one moment, also while payd runs and payments go on. It has its name \
            only once it is whole, verified and on disk; a file that is there already is not overwritten. It \
            holds no secret, but all business data: keep it as safe as the database.",
        after_help = "Examples:\n  \
            payd backup /backup/payd-2026-01-02.db\n  \
            payctl backup FILE          the same from a running payd, where its directory is not yours to read"
    )]
    Backup(BackupArgs),
    /// Make a backup the database, where there is none
    #[command(
        long_about = "Make a backup the database, where there is none.\n\n\
            The backup is checked to the last byte before anything has its name. Payments that were open in it \
            are looked up at the gateway at the next start, before anything is sent: they may have been sent \
            since. Where such a payment has failed, no other attempt follows by itself; its invoice needs \
            attention. What was canceled after the backup was made is not known any more, so cancel it again; \
            --pause leaves the time to. Readers of events must start anew: the source of events is another.\n\n\
            All its tokens are revoked, the admin's too, of which payd writes another when it starts: the backup \
            does not know which were revoked since, and those would be good again. --keep-tokens keeps them.\n\n\
            Make sure that the payd which the backup is from does not run any more, here or elsewhere.",
        after_help = "Examples:\n  \
            payd restore /backup/payd-2026-01-02.db\n  \
            payd restore FILE --data-dir ./copy     into another directory\n  \
            payd restore FILE --pause               nothing is sent before an operator resumes it"
    )]
    Restore(RestoreArgs),
    /// Check that the database is what payd wrote
    #[command(
        long_about = "Check that the database is what payd wrote.\n\n\
            Each event carries a digest over the one before it and its own bytes, so that an edit after the \
            fact shows; and the tables must be what the events come to. It reads only, also while payd runs.",
        after_help = "Examples:\n  payd verify\n  payd verify --data-dir /var/lib/payd"
    )]
    Verify(StoreArgs),
    /// Print the OpenAPI description of the HTTP API
    #[command(after_help = "Examples:\n  payd openapi > openapi.json")]
    Openapi,
}

/// What can be done with settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read the settings and say what is wrong with them
    #[command(
        long_about = "Read the settings and say what is wrong with them, all of it at once.\n\n\
            Prints ok and the file that was read; exits with 2 where something is wrong.",
        after_help = "Examples:\n  payd config check\n  payd config check --config /etc/payd/payd.toml"
    )]
    Check(SettingsArgs),
    /// Print the settings that hold, and where each came from
    #[command(
        long_about = "Print the settings that hold, and where each came from.\n\n\
            The output is a valid settings file. A setting comes from, in this order: a flag, the \
            environment, the settings file, the default.",
        after_help = "Examples:\n  payd config show\n  PAYD_LOG__LEVEL=debug payd config show"
    )]
    Show(SettingsArgs),
}

/// The flags that stand for settings.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// The settings file [default: ~/.config/payd/payd.toml, else /etc/payd/payd.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the database lies [default: ~/.local/share/payd]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The Unix socket [default: $XDG_RUNTIME_DIR/payd/payd.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The TCP address; port 0 takes a free one; not on loopback it needs TLS [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR|none")]
    pub listen: Option<String>,
    /// No token needed over TCP, on loopback only: for development
    #[arg(long)]
    pub dev: bool,
}

impl SettingsArgs {
    /// As settings.
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags {
            data_dir: self.data_dir.clone(),
            socket: self.socket.clone(),
            listen: self.listen.clone(),
            dev: self.dev,
        }
    }
}

/// The arguments of `payd backup`.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// The file to make
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Which database.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// The arguments of `payd restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Send nothing before an operator says so: POST /admin/resume
    #[arg(long)]
    pub pause: bool,
    /// Leave tokens as good as they were, where none was revoked since the backup
    #[arg(long)]
    pub keep_tokens: bool,
    /// Which database.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Which database a command is about.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreArgs {
    /// The settings file [default: ~/.config/payd/payd.toml, else /etc/payd/payd.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the database lies [default: ~/.local/share/payd]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl StoreArgs {
    /// As settings.
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags {
            data_dir: self.data_dir.clone(),
            ..Flags::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn definitions_hold_together() {
        use clap::CommandFactory;
        PaydArgs::command().debug_assert();
    }

    #[test]
    fn what_can_be_typed() {
        let parse = |line: &str| {
            PaydArgs::try_parse_from(line.split(' '))
                .map_err(|error| (error.kind(), error.exit_code()))
        };
        for line in [
            "payd serve",
            "payd serve --config f --data-dir d --socket s --listen none --dev",
            "payd serve --listen [::1]:0",
            "payd config check --config f --dev",
            "payd config show --data-dir d --listen 127.0.0.1:0",
            "payd verify --data-dir d",
            "payd backup f --data-dir d",
            "payd restore f --data-dir d --config c --pause --keep-tokens",
            "payd openapi",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for (line, kind, code) in [
            (
                "payd",
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                2,
            ),
            (
                "payd config",
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                2,
            ),
            ("payd backup", ErrorKind::MissingRequiredArgument, 2),
            ("payd restore", ErrorKind::MissingRequiredArgument, 2),
            ("payd serve --no-such-flag", ErrorKind::UnknownArgument, 2),
            ("payd serve extra", ErrorKind::UnknownArgument, 2),
            ("payd help", ErrorKind::DisplayHelp, 0),
            ("payd --version", ErrorKind::DisplayVersion, 0),
            ("payd serve --help", ErrorKind::DisplayHelp, 0),
        ] {
            assert_eq!(parse(line).unwrap_err(), (kind, code), "{line}");
        }
    }

    #[test]
    fn flags_become_settings() {
        let args = PaydArgs::try_parse_from([
            "payd",
            "serve",
            "--data-dir",
            "d",
            "--socket",
            "s",
            "--listen",
            "none",
            "--dev",
        ]);
        let Ok(PaydArgs {
            command: Command::Serve(args),
        }) = args
        else {
            panic!("{args:?}")
        };
        let flags = args.flags();
        assert_eq!(flags.data_dir, Some("d".into()));
        assert_eq!(flags.socket, Some("s".into()));
        assert_eq!(flags.listen.as_deref(), Some("none"));
        assert!(flags.dev);
    }
}
