//! The commands of `payd` that answer and end.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::application;
use crate::config::{self, Flags, GatewayKind, Loaded};
use crate::http;
use crate::infrastructure::directories::{self, Given, Places, Surroundings};
use crate::infrastructure::store::SqliteCheck;

use super::EXIT_USAGE;
use super::access;
use super::args::{SettingsArgs, VerifyArgs};

/// Settings and places; or why not, said on stderr.
pub(super) fn settings(
    config_file: Option<&Path>,
    flags: Flags,
) -> Result<(Loaded, Places), ExitCode> {
    let around = Surroundings::of_process();
    let inputs = config::Inputs {
        config_file: config_file.map(Path::to_owned),
        flags,
        environment: around.environment.clone(),
        home: around.home.clone(),
        system_file: config::SYSTEM_FILE.into(),
    };
    let mut loaded = config::load(&inputs).map_err(|errors| {
        complain(format_args!("{errors}"));
        ExitCode::from(EXIT_USAGE)
    })?;
    if let GatewayKind::Http(http) = &loaded.settings.gateway.kind
        && http.url.is_https()
        && !cfg!(feature = "tls")
    {
        complain("gateway.http.url is https, and this payd was built without the feature tls");
        return Err(ExitCode::from(EXIT_USAGE));
    }
    let given = Given {
        data_dir: loaded.settings.store.data_dir.as_deref(),
        socket: loaded.settings.server.socket.as_deref(),
        log_dir: loaded.settings.log.dir.as_deref(),
    };
    let places = directories::find(given, &around).map_err(|error| {
        complain(error);
        ExitCode::from(EXIT_USAGE)
    })?;
    loaded.derive("store.data_dir", &places.data_dir.path, places.data_dir.why);
    loaded.derive("server.socket", &places.socket.path, places.socket.why);
    if let Some(dir) = &places.log_dir {
        loaded.derive("log.dir", &dir.path, dir.why);
    }
    Ok((loaded, places))
}

pub(super) fn config_check(args: &SettingsArgs) -> ExitCode {
    match settings(args.config.as_deref(), args.flags()) {
        Ok((loaded, places)) => match access::tls::load(&loaded.settings, &places) {
            Ok(_) => say(match loaded.file {
                Some(file) => format!("ok: {}\n", file.display()),
                None => "ok: there is no settings file; flags, environment and defaults hold\n"
                    .to_owned(),
            }),
            Err(error) => {
                complain(error);
                ExitCode::from(EXIT_USAGE)
            }
        },
        Err(code) => code,
    }
}

pub(super) fn config_show(args: &SettingsArgs) -> ExitCode {
    match settings(args.config.as_deref(), args.flags()) {
        Ok((loaded, _)) => say(loaded.to_toml()),
        Err(code) => code,
    }
}

pub(super) fn openapi() -> ExitCode {
    say(http::OPENAPI)
}

pub(super) fn verify(args: &VerifyArgs) -> ExitCode {
    let (_, places) = match settings(args.config.as_deref(), args.flags()) {
        Ok(both) => both,
        Err(code) => return code,
    };
    let path = places.database();
    let source = match SqliteCheck::open(&path) {
        Ok(source) => source,
        Err(error) => return fail(format_args!("{}: {error}", path.display())),
    };
    let report = match application::verify(&source) {
        Ok(report) => report,
        Err(error) => return fail(format_args!("{}: {error}", path.display())),
    };
    if report.found == 0 {
        return say(format!(
            "ok: {} events in an unbroken chain; {} invoices are what they fold to\n",
            report.events, report.invoices
        ));
    }
    for finding in &report.findings {
        complain(finding);
    }
    let untold = report.found.saturating_sub(report.findings.len() as u64);
    if untold > 0 {
        complain(format_args!("and {untold} more"));
    }
    fail(format_args!(
        "{} is not what payd wrote: {} findings in {} events and {} invoices. Keep a copy of it, and restore a backup",
        path.display(),
        report.found,
        report.events,
        report.invoices
    ))
}

/// Writes to stdout. Nobody reading any more is not an error.
pub(super) fn say(text: impl AsRef<str>) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_ref().as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(format_args!("stdout: {error}"))
        }
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// Says on stderr what is wrong.
pub(super) fn complain(what: impl std::fmt::Display) {
    // Where stderr is gone there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "payd: {what}");
}

pub(super) fn fail(what: impl std::fmt::Display) -> ExitCode {
    complain(what);
    ExitCode::FAILURE
}
