//! Collects what file, environment and flags say, without knowing which settings there are.
//!
//! It never decides which of them wins; it keeps them in rising order of precedence.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::Inputs;
use super::origin::{ConfigError, Origin, plain};
use super::value::Raw;

/// Variables of settings start with this, and have [`ENV_SEPARATOR`] in the rest.
const ENV_PREFIX: &str = "PAYD_";
/// Stands for the dot between section and key. `PAYD_HOST` has none: it is payctl's, not a setting.
const ENV_SEPARATOR: &str = "__";

/// All that was said, by the setting's dotted name, lowest precedence first.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// `retry.base` and what was said about it.
    pub(super) said: BTreeMap<String, Vec<(Raw, Origin)>>,
    /// Sections of the file that have nothing in them.
    pub(super) empty_sections: Vec<(String, Origin)>,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
    /// What could not even be collected.
    pub(super) errors: Vec<ConfigError>,
}

impl Gathered {
    fn say(&mut self, key: String, raw: Raw, origin: Origin) {
        self.said.entry(key).or_default().push((raw, origin));
    }

    fn fail(&mut self, origin: Origin, message: impl Into<String>) {
        self.errors.push(ConfigError {
            origin,
            message: message.into(),
        });
    }
}

/// Reads the file, then the environment, then the flags.
pub(super) fn gather(inputs: &Inputs) -> Gathered {
    let mut gathered = Gathered::default();
    gather_file(inputs, &mut gathered);
    gather_environment(inputs, &mut gathered);
    gather_flags(inputs, &mut gathered);
    gathered
}

/// The name of the variable that sets `retry.base`: `PAYD_RETRY__BASE`.
pub(super) fn environment_name(key: &str) -> String {
    format!(
        "{ENV_PREFIX}{}",
        key.replace('.', ENV_SEPARATOR).to_uppercase()
    )
}

fn gather_file(inputs: &Inputs, gathered: &mut Gathered) {
    let Some(path) = find_file(inputs) else {
        return;
    };
    let whole_file = Origin::File {
        path: path.clone(),
        line: 0,
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return gathered.fail(
                whole_file,
                "there is no such settings file; check what --config names",
            );
        }
        Err(error) => {
            return gathered.fail(
                whole_file,
                format!("the settings file cannot be read: {error}"),
            );
        }
    };
    let line_of = |offset: usize| text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in &errors {
        let line = error.span().map_or(0, |span| line_of(span.start));
        let message = format!("is not valid TOML: {}", plain(error.message()));
        gathered.fail(
            Origin::File {
                path: path.clone(),
                line,
            },
            message,
        );
    }
    // What can be read of a broken file is a guess; errors about guesses only hide the real one.
    if errors.is_empty() {
        let at = |offset| Origin::File {
            path: path.clone(),
            line: line_of(offset),
        };
        flatten("", table.get_ref(), &at, gathered);
    }
    gathered.file = Some(path);
}

/// The file to read. `--config` is not optional, so it is returned whether it is there or not.
fn find_file(inputs: &Inputs) -> Option<PathBuf> {
    if let Some(path) = &inputs.config_file {
        return Some(path.clone());
    }
    let user_dir = inputs
        .environment
        .get(OsStr::new("XDG_CONFIG_HOME"))
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute()) // the XDG specification has relative ones ignored
        .or_else(|| inputs.home.as_ref().map(|home| home.join(".config")));
    let user_file = user_dir.map(|dir| dir.join("payd").join("payd.toml"));
    // A file that is there but cannot be read is an error later; one that cannot even be looked for
    // (a service's home, hidden by systemd's ProtectHome) is none of ours.
    user_file
        .into_iter()
        .chain([inputs.system_file.clone()])
        .find(|path| path.metadata().is_ok_and(|metadata| !metadata.is_dir()))
}

/// Turns nested tables into dotted names.
fn flatten(
    prefix: &str,
    table: &DeTable<'_>,
    at: &dyn Fn(usize) -> Origin,
    gathered: &mut Gathered,
) {
    for (name, value) in table {
        let origin = at(name.span().start);
        // A quoted key with a dot in it is not a key within a section.
        let name = match name.get_ref().as_ref() {
            name if name.contains('.') => format!("{name:?}"),
            name => name.to_owned(),
        };
        let key = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}.{name}")
        };
        let raw = match value.get_ref() {
            DeValue::Table(inner) if inner.is_empty() => {
                gathered.empty_sections.push((key, origin));
                continue;
            }
            DeValue::Table(inner) => {
                flatten(&key, inner, at, gathered);
                continue;
            }
            DeValue::String(text) => Raw::Text(text.to_string()),
            DeValue::Integer(integer) => {
                match i128::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(number) => Raw::Number(number.to_string()),
                    Err(_) => Raw::Number(integer.to_string()),
                }
            }
            DeValue::Float(float) => Raw::Number(float.as_str().to_owned()),
            DeValue::Boolean(_) => Raw::Other("a boolean"),
            DeValue::Datetime(_) => Raw::Other("a date or time"),
            DeValue::Array(_) => Raw::Other("an array"),
        };
        gathered.say(key, raw, origin);
    }
}

/// What OpenTelemetry's specification names for every program, by payd's own name for it. payd's own
/// variables win.
const STANDARD_NAMES: [(&str, &str); 2] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("OTEL_SERVICE_NAME", "telemetry.service_name"),
];

fn gather_environment(inputs: &Inputs, gathered: &mut Gathered) {
    for (name, key) in STANDARD_NAMES {
        let value = inputs.environment.get(OsStr::new(name));
        // The specification has an empty one count as none.
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            continue;
        };
        let origin = Origin::Environment(name.to_owned());
        match value.to_str() {
            Some(value) => gathered.say(key.to_owned(), Raw::Untyped(value.to_owned()), origin),
            None => gathered.fail(origin, format!("{key}: is not UTF-8 text")),
        }
    }
    for (name, value) in &inputs.environment {
        let name = name.to_string_lossy();
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        if !rest.contains(ENV_SEPARATOR) {
            continue;
        }
        let origin = Origin::Environment(name.to_string());
        // Names are upper case; in any other it stays as it is, is not known, and the right one is suggested.
        let upper = rest.bytes().all(|b| !b.is_ascii_lowercase());
        let key = if upper {
            rest.replace(ENV_SEPARATOR, ".").to_lowercase()
        } else {
            name.to_string()
        };
        match value.to_str() {
            Some(value) => gathered.say(key, Raw::Untyped(value.to_owned()), origin),
            None => gathered.fail(origin, format!("{}: is not UTF-8 text", plain(&key))),
        }
    }
}

fn gather_flags(inputs: &Inputs, gathered: &mut Gathered) {
    let flags = &inputs.flags;
    let path = |path: &Option<PathBuf>| {
        path.as_deref()
            .map(Path::as_os_str)
            .map(OsStr::to_os_string)
    };
    let dev = flags.dev.then(|| "none".into());
    for (key, flag, value) in [
        ("store.data_dir", "--data-dir", path(&flags.data_dir)),
        ("server.socket", "--socket", path(&flags.socket)),
        (
            "server.listen",
            "--listen",
            flags.listen.as_ref().map(Into::into),
        ),
        ("server.auth", "--dev", dev),
    ] {
        let Some(value) = value else { continue };
        match value.into_string() {
            Ok(value) => gathered.say(key.to_owned(), Raw::Untyped(value), Origin::Flag(flag)),
            Err(_) => gathered.fail(Origin::Flag(flag), format!("{key}: is not UTF-8 text")),
        }
    }
}
