//! Where a setting came from, and what was wrong with it there.

use std::fmt;
use std::path::PathBuf;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Neither file nor environment nor flag says so.
    Default,
    /// A default that follows from something else: in words, such as `STATE_DIRECTORY`.
    Derived(String),
    /// A settings file, at this line, counted from 1; 0 where the file as a whole is meant.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A flag, with its dashes.
    Flag(&'static str),
}

impl Origin {
    /// Errors are told in this order: the file's from top to bottom, then environment, then flags.
    pub(super) fn rank(&self) -> (u8, usize) {
        match self {
            Origin::Default | Origin::Derived(_) => (3, 0),
            Origin::File { line, .. } => (0, *line),
            Origin::Environment(_) => (1, 0),
            Origin::Flag(_) => (2, 0),
        }
    }
}

/// One line without control characters, whatever the path has in it.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::Derived(why) => write!(f, "default, {}", plain(why)),
            Origin::File { path, line: 0 } => write!(f, "{}", plain(&path.to_string_lossy())),
            Origin::File { path, line } => write!(f, "{}:{line}", plain(&path.to_string_lossy())),
            Origin::Environment(name) => write!(f, "environment {}", plain(name)),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct ConfigError {
    /// Where.
    pub origin: Origin,
    /// What, with the key, what was read and what would be right; one line.
    pub message: String,
}

/// All that is wrong with the settings, never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// In the order in which a person would mend them.
    pub(super) fn sorted(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| error.origin.rank());
        Self(errors)
    }

    /// Each of them.
    #[must_use]
    pub fn all(&self) -> &[ConfigError] {
        &self.0
    }
}

/// One error a line.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Text from outside with its control characters escaped.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
