//! The settings, and where each came from.
//!
//! Order: flag, environment, file, default (`DESIGN.md`, section 5). All that is wrong is told at once,
//! with the line or the variable's name. Nothing here reads the process's environment, creates a file or
//! knows a directory of the system other than the settings file's: all that comes in by [`Inputs`].
//! No setting is a secret; secrets are in files that settings name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use self::origin::{ConfigError, ConfigErrors, Origin};
pub use self::settings::{
    Gateway, GatewayKind, HttpGateway, Log, Resolver, Retry, Server, Settings, Simulator, Store,
    TlsFiles,
};
pub use self::value::{Auth, BaseUrl, Listen, LogFormat, LogLevel, Pace, Rate};

use self::reader::{Entry, Reader};
use self::value::Value;

pub mod duration;
mod gather;
mod origin;
mod reader;
mod settings;
mod value;

/// Read where there is no `--config` and no settings file of the user.
pub const SYSTEM_FILE: &str = "/etc/payd/payd.toml";

/// Everything that settings are made from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `--config`: must be there.
    pub config_file: Option<PathBuf>,
    /// What the command line says.
    pub flags: Flags,
    /// The process's environment; only `PAYD_*__*` and `XDG_CONFIG_HOME` are looked at.
    pub environment: BTreeMap<OsString, OsString>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// [`SYSTEM_FILE`], but in tests.
    pub system_file: PathBuf,
}

/// Settings from the command line.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--dev`: `server.auth = "none"`.
    pub dev: bool,
}

/// The settings, and the books about them.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The settings file, where there was one.
    pub file: Option<PathBuf>,
    entries: Vec<Entry>,
}

/// Reads and checks the settings.
///
/// # Errors
///
/// All that is wrong with them, the file's errors first, from top to bottom.
pub fn load(inputs: &Inputs) -> Result<Loaded, ConfigErrors> {
    let mut gathered = gather::gather(inputs);
    let file = gathered.file.take();
    let mut reader = Reader::new(gathered);
    let settings = Settings::read(&mut reader);
    reader.refuse_the_rest();
    if !reader.errors.is_empty() {
        return Err(ConfigErrors::sorted(reader.errors));
    }
    Ok(Loaded {
        settings,
        file,
        entries: reader.entries,
    })
}

impl Loaded {
    /// Where a setting came from, by its dotted name; none where there is no such setting.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.origin)
    }

    /// Says, for [`Loaded::to_toml`], which path stands where the setting `key` was left out, and why.
    /// A setting that was given stays as it is.
    pub fn derive(&mut self, key: &str, path: &Path, why: &str) {
        let unset = |entry: &&mut Entry| entry.key == key && entry.toml.is_none();
        if let Some(entry) = self.entries.iter_mut().find(unset) {
            entry.toml = Some(path.to_path_buf().to_toml());
            entry.origin = Origin::Derived(why.to_owned());
        }
    }

    /// The settings as they stand, as TOML, with the origin of each as a comment behind it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section_before = "";
        for Entry { key, toml, origin } in &self.entries {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
            if section != section_before {
                let gap = if out.is_empty() { "" } else { "\n" };
                out.push_str(&format!("{gap}[{section}]\n"));
                section_before = section;
            }
            match toml {
                Some(toml) => out.push_str(&format!("{name} = {toml}  # {origin}\n")),
                None => out.push_str(&format!("# {name} is not set  # {origin}\n")),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
