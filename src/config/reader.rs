//! Takes settings out of what was gathered, one by one, and keeps the books: what each is, where it came
//! from, what was wrong. What nobody took is unknown.
//!
//! It never stops at the first error: a person who mends a file wants all of them.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::gather::{Gathered, environment_name};
use super::origin::{ConfigError, Origin, plain};
use super::value::Value;

/// One setting as it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Such as `retry.base`.
    pub(super) key: &'static str,
    /// As TOML; none where it is not set and has no default.
    pub(super) toml: Option<String>,
    /// Who said so.
    pub(super) origin: Origin,
}

/// Reads settings by name; see the module.
pub(super) struct Reader {
    gathered: Gathered,
    pub(super) entries: Vec<Entry>,
    pub(super) errors: Vec<ConfigError>,
}

impl Reader {
    pub(super) fn new(mut gathered: Gathered) -> Self {
        let errors = std::mem::take(&mut gathered.errors);
        Self {
            gathered,
            entries: Vec::new(),
            errors,
        }
    }

    /// A setting that may be left out.
    pub(super) fn optional<T: Value>(&mut self, key: &'static str) -> Option<T> {
        self.read(key, |_| Ok(()), None)
    }

    /// A setting with a default.
    pub(super) fn get<T: Value>(&mut self, key: &'static str, default: T) -> T {
        self.checked(key, default, |_| Ok(()))
    }

    /// A setting with a default and bounds.
    pub(super) fn within<T: Value + PartialOrd>(
        &mut self,
        key: &'static str,
        default: T,
        bounds: RangeInclusive<T>,
    ) -> T {
        self.checked(key, default, |value| {
            if bounds.contains(value) {
                return Ok(());
            }
            Err(format!(
                "is out of range; write {} to {}",
                bounds.start().to_toml(),
                bounds.end().to_toml()
            ))
        })
    }

    fn checked<T: Value>(
        &mut self,
        key: &'static str,
        default: T,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> T {
        let toml = default.to_toml();
        self.read(key, check, Some(toml)).unwrap_or(default)
    }

    /// Reads all that was said about it, so that a wrong line shows even where a flag overrides it; the
    /// last one holds.
    fn read<T: Value>(
        &mut self,
        key: &'static str,
        check: impl Fn(&T) -> Result<(), String>,
        default_toml: Option<String>,
    ) -> Option<T> {
        let mut entry = Entry {
            key,
            toml: default_toml,
            origin: Origin::Default,
        };
        let mut found = None;
        for (raw, origin) in self.gathered.said.remove(key).unwrap_or_default() {
            let read = T::read(&raw).and_then(|value| check(&value).map(|()| value));
            match read {
                Ok(value) => {
                    entry.toml = Some(value.to_toml());
                    entry.origin = origin;
                    found = Some(value);
                }
                Err(message) if T::ECHOED => {
                    self.fail(origin, key, format!("{} {message}", raw.shown()));
                }
                Err(message) => self.fail(origin, key, format!("the value {message}")),
            }
        }
        self.entries.push(entry);
        found
    }

    /// Something is wrong with this setting.
    pub(super) fn fail(&mut self, origin: Origin, key: &str, message: impl Display) {
        self.errors.push(ConfigError {
            origin,
            message: format!("{key}: {message}"),
        });
    }

    /// Who said what this setting is.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.entry(key)
            .map_or(Origin::Default, |entry| entry.origin.clone())
    }

    /// Replaces a default that follows another setting.
    pub(super) fn derive(&mut self, key: &str, toml: String, why: &str) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            entry.toml = Some(toml);
            entry.origin = Origin::Derived(why.to_owned());
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Whatever was said and not asked for is an error.
    pub(super) fn refuse_the_rest(&mut self) {
        let is_section = |reader: &Self, name: &str| {
            let prefix = format!("{name}.");
            reader
                .entries
                .iter()
                .any(|entry| entry.key.starts_with(&prefix))
        };
        for (key, said) in std::mem::take(&mut self.gathered.said) {
            for (_, origin) in said {
                let message = match &origin {
                    Origin::Environment(name) => {
                        let names = self.entries.iter().map(|entry| environment_name(entry.key));
                        format!("unknown setting{}", suggestion(name, names))
                    }
                    _ if is_section(self, &key) => {
                        format!("{key}: is a section; write [{key}] and its keys beneath it")
                    }
                    _ => {
                        let names = self.entries.iter().map(|entry| entry.key.to_owned());
                        format!("{}: unknown key{}", plain(&key), suggestion(&key, names))
                    }
                };
                self.errors.push(ConfigError { origin, message });
            }
        }
        for (section, origin) in std::mem::take(&mut self.gathered.empty_sections) {
            if !is_section(self, &section) {
                let message = match self.entry(&section) {
                    Some(_) => format!("{section}: a table is not a value for it"),
                    None => format!("[{}]: unknown section", plain(&section)),
                };
                self.errors.push(ConfigError { origin, message });
            }
        }
    }
}

/// "; did you mean …?" where a known name is near, or is the same but for the section.
fn suggestion(name: &str, known: impl Iterator<Item = String>) -> String {
    /// Two slips, or two letters swapped.
    const DISTANCE_MAX: usize = 2;
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let upper = name.to_uppercase();
    let nearest = known
        .map(|candidate| {
            let distance = distance(&upper, &candidate.to_uppercase());
            let near = if last(name) == last(&candidate) {
                distance.min(DISTANCE_MAX)
            } else {
                distance
            };
            (near, distance, candidate)
        })
        .min();
    match nearest {
        Some((near, _, candidate)) if near <= DISTANCE_MAX => {
            format!("; did you mean {candidate}?")
        }
        _ => String::new(),
    }
}

/// How many insertions, deletions and replacements apart two names are (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, apart) in [
            ("", "", 0),
            ("a", "", 1),
            ("base", "bsae", 2),
            ("cap", "caps", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), apart, "{a} {b}");
            assert_eq!(distance(b, a), apart, "{b} {a}");
        }
    }

    #[test]
    fn suggestions() {
        let known = || {
            ["retry.base", "retry.cap", "server.listen"]
                .map(str::to_owned)
                .into_iter()
        };
        for (name, expected) in [
            ("retry.bsae", "; did you mean retry.base?"),
            ("retries.base", "; did you mean retry.base?"),
            ("listen", "; did you mean server.listen?"),
            ("Retry.Cap", "; did you mean retry.cap?"),
            ("something.else", ""),
        ] {
            assert_eq!(suggestion(name, known()), expected, "{name}");
        }
    }
}
