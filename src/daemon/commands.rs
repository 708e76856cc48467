//! The commands of `payd` that answer and end.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Flags, GatewayKind, Loaded};
use crate::http;
use crate::infrastructure::directories::{self, Given, Places, Surroundings};

use super::EXIT_USAGE;
use super::access;
use super::args::SettingsArgs;

/// Settings and places; or why not, said on stderr.
pub(super) fn settings(
    config_file: Option<&Path>,
    flags: Flags,
) -> Result<(Loaded, Places), ExitCode> {
    read_settings(config_file, flags).map_err(|wrong| {
        complain(wrong);
        ExitCode::from(EXIT_USAGE)
    })
}

/// Settings and places; or why not.
pub(super) fn read_settings(
    config_file: Option<&Path>,
    flags: Flags,
) -> Result<(Loaded, Places), String> {
    let around = Surroundings::of_process();
    let inputs = config::Inputs {
        config_file: config_file.map(Path::to_owned),
        flags,
        environment: around.environment.clone(),
        home: around.home.clone(),
        system_file: config::SYSTEM_FILE.into(),
    };
    let mut loaded = config::load(&inputs).map_err(|errors| errors.to_string())?;
    if let GatewayKind::Http(http) = &loaded.settings.gateway.kind
        && http.url.is_https()
        && !cfg!(feature = "tls")
    {
        return Err(
            "gateway.http.url is https, and this payd was built without the feature tls".to_owned(),
        );
    }
    let given = Given {
        data_dir: loaded.settings.store.data_dir.as_deref(),
        socket: loaded.settings.server.socket.as_deref(),
        log_dir: loaded.settings.log.dir.as_deref(),
    };
    let places = directories::find(given, &around).map_err(|error| error.to_string())?;
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
            Ok(_) => say(format!("ok: {}\n", source(&loaded))),
            Err(error) => {
                complain(error);
                ExitCode::from(EXIT_USAGE)
            }
        },
        Err(code) => code,
    }
}

/// Where settings came from.
pub(super) fn source(loaded: &Loaded) -> String {
    match &loaded.file {
        Some(file) => file.display().to_string(),
        None => "no settings file: flags, environment and defaults hold".to_owned(),
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
