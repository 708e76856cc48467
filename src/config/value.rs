//! The kinds of value that a setting can have: how each is read and written.
//!
//! What is read here cannot be wrong afterwards. Nothing here knows a setting by name.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::duration;

/// A value as it was found, before anyone knows what it is meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    /// From a flag or the environment, where all is text.
    Untyped(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer or float, in decimal as it was written.
    Number(String),
    /// What no setting is: the TOML type's name and article.
    Other(&'static str),
}

impl Raw {
    /// What was read, for an error message: bounded, without control characters.
    pub(super) fn shown(&self) -> String {
        /// Enough to recognise it by.
        const SHOWN_CHARS_MAX: usize = 80;
        let cut = |text: &str| match text.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        match self {
            Raw::Untyped(text) | Raw::Text(text) => format!("{:?}", cut(text)),
            Raw::Number(text) => cut(text),
            Raw::Other(kind) => (*kind).to_owned(),
        }
    }
}

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// Whether an error may repeat what was read; no where a secret could have slipped in.
    const ECHOED: bool = true;

    /// Reads it; the error says what would be right.
    fn read(raw: &Raw) -> Result<Self, String>;

    /// Writes it as a TOML value that [`Value::read`] reads back.
    fn to_toml(&self) -> String;
}

/// The text of a setting that is text.
fn text(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::Untyped(text) | Raw::Text(text) => Ok(text),
        Raw::Number(_) | Raw::Other(_) => Err("is not text; write it in double quotes".to_owned()),
    }
}

/// The digits of a setting that is a number.
fn number(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::Untyped(text) | Raw::Number(text) => Ok(text),
        Raw::Text(_) => Err("is text; write a number, without quotes".to_owned()),
        Raw::Other(_) => Err("is not a number".to_owned()),
    }
}

/// A TOML string. Source: TOML 1.0, "String"; serde_json's escapes are a subset of TOML's, but for DEL.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

impl Value for Duration {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Untyped(text) | Raw::Text(text) | Raw::Number(text) => duration::parse(text),
            Raw::Other(_) => Err(r#"is not a duration; write text such as "2s""#.to_owned()),
        }
    }

    fn to_toml(&self) -> String {
        quoted(&duration::format(*self))
    }
}

macro_rules! whole_number {
    ($($type:ty)*) => {$(
        impl Value for $type {
            fn read(raw: &Raw) -> Result<Self, String> {
                let digits = number(raw)?;
                if digits.starts_with('+') {
                    return Err("is not a whole number".to_owned());
                }
                digits.parse().map_err(|_| "is not a whole number in range".to_owned())
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

whole_number!(u32 usize);

/// A probability, in whole parts per million: no floats past the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rate(u32);

impl Rate {
    /// Always.
    pub const ONE: Rate = Rate(1_000_000);

    /// In parts per million, 0 to 1,000,000.
    #[must_use]
    pub const fn per_million(self) -> u32 {
        self.0
    }
}

impl Value for Rate {
    fn read(raw: &Raw) -> Result<Self, String> {
        let wanted = || {
            "is not a rate; write a decimal from 0 to 1, at most six places, such as 0.05"
                .to_owned()
        };
        let decimal = number(raw)?;
        let (whole, places) = decimal.split_once('.').unwrap_or((decimal, "0"));
        let places = places.trim_end_matches('0');
        let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty()
            || whole.len() > 1
            || places.len() > 6
            || !all_digits(whole)
            || !all_digits(places)
        {
            return Err(wanted());
        }
        let millionths = format!("{whole}{places:0<6}");
        match millionths.parse() {
            Ok(millionths) if millionths <= Self::ONE.0 => Ok(Self(millionths)),
            _ => Err(wanted()),
        }
    }

    fn to_toml(&self) -> String {
        let decimal = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        let short = decimal.trim_end_matches('0');
        if short.ends_with('.') {
            format!("{short}0")
        } else {
            short.to_owned()
        }
    }
}

impl Value for PathBuf {
    fn read(raw: &Raw) -> Result<Self, String> {
        let path = text(raw)?;
        if path.is_empty() {
            return Err("is empty; write a path, or leave the setting out".to_owned());
        }
        if path == "~" || path.starts_with("~/") {
            return Err(
                "starts with ~, which only a shell expands; write the whole path".to_owned(),
            );
        }
        if path.contains('\0') {
            return Err("has a NUL character in it".to_owned());
        }
        Ok(PathBuf::from(path))
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

/// Where payd listens on TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// On the Unix socket only.
    None,
    /// On this address; port 0 takes a free one.
    Tcp(SocketAddr),
}

impl Default for Listen {
    fn default() -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))
    }
}

impl Value for Listen {
    fn read(raw: &Raw) -> Result<Self, String> {
        let address = text(raw)?;
        if address == "none" {
            return Ok(Self::None);
        }
        let Ok(address) = address.parse::<SocketAddr>() else {
            return Err(
                r#"is not an address and a port; write "127.0.0.1:8080", "[::1]:8080" or "none""#
                    .to_owned(),
            );
        };
        Ok(Self::Tcp(address))
    }

    fn to_toml(&self) -> String {
        match self {
            Self::None => quoted("none"),
            Self::Tcp(address) => quoted(&address.to_string()),
        }
    }
}

/// How many requests in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Requests; 1 or more.
    pub requests: u32,
    /// In a second, a minute or an hour.
    pub period: Duration,
}

impl Pace {
    const UNITS: [(&'static str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];
    /// More than payd could answer.
    const REQUESTS_MAX: u32 = 1_000_000;
}

impl Value for Pace {
    fn read(raw: &Raw) -> Result<Self, String> {
        let read = |text: &str| {
            let (number, unit) = text.split_once('/')?;
            let digits = number.bytes().all(|b| b.is_ascii_digit());
            let requests = number.parse().ok().filter(|_| digits)?;
            let unit = unit.trim();
            let (_, seconds) = Self::UNITS.into_iter().find(|(name, _)| *name == unit)?;
            (1..=Self::REQUESTS_MAX)
                .contains(&requests)
                .then_some(Self {
                    requests,
                    period: Duration::from_secs(seconds),
                })
        };
        read(text(raw)?).ok_or_else(|| {
            "is not a rate of requests; write \"100/s\", \"600/m\" or \"5000/h\"".to_owned()
        })
    }

    fn to_toml(&self) -> String {
        let seconds = self.period.as_secs();
        let unit = Self::UNITS.into_iter().find(|(_, it)| *it == seconds);
        let unit = unit.map_or("s", |(name, _)| name);
        quoted(&format!("{}/{unit}", self.requests))
    }
}

/// The base URL of a gateway: http or https, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// Such as `https://gateway.example/v1`; `/charges` is appended to it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it wants TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        let scheme = self.0.split_once(':').map_or("", |(scheme, _)| scheme);
        scheme.eq_ignore_ascii_case("https")
    }
}

impl Value for BaseUrl {
    /// A password could stand in it.
    const ECHOED: bool = false;

    fn read(raw: &Raw) -> Result<Self, String> {
        let url = text(raw)?;
        let uri: hyper::Uri = url
            .parse()
            .map_err(|_| "is not a URL; write such as \"https://gateway.example/v1\"".to_owned())?;
        if !matches!(uri.scheme_str(), Some("http" | "https"))
            || uri.host().is_none_or(str::is_empty)
        {
            return Err("is not a http:// or https:// URL with a host".to_owned());
        }
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(
                "has a user or password in it; put the secret into a file and name that in \
                        gateway.http.token_file"
                    .to_owned(),
            );
        }
        let past_host = uri.authority().zip(uri.host());
        if past_host.is_some_and(|(all, host)| all.as_str() != host) && uri.port_u16().is_none() {
            return Err("has a port that is none; write 1 to 65535, or leave it out".to_owned());
        }
        if url.contains(['?', '#']) {
            return Err(
                "has a query or a fragment; write the part before it, /charges is appended to it"
                    .to_owned(),
            );
        }
        Ok(Self(url.trim_end_matches('/').to_owned()))
    }

    fn to_toml(&self) -> String {
        quoted(&self.0)
    }
}

/// Which log lines are kept: a level, or the directives of `tracing_subscriber::EnvFilter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// As `EnvFilter` takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Value for LogLevel {
    fn read(raw: &Raw) -> Result<Self, String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let level = text(raw)?;
        let wanted = || {
            format!(
                "is not a level; write one of {}, or such as \"info,payd::http=debug\"",
                LEVELS.join(", ")
            )
        };
        // EnvFilter takes any bare word as the name of a module, so "inof" would silence everything.
        let bare_words_known = level
            .split(',')
            .filter(|directive| !directive.contains(['=', '[', ':']))
            .all(|directive| LEVELS.contains(&directive.trim().to_ascii_lowercase().as_str()));
        if !bare_words_known || EnvFilter::builder().parse(level).is_err() {
            return Err(wanted());
        }
        Ok(Self(level.to_owned()))
    }

    fn to_toml(&self) -> String {
        quoted(&self.0)
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        $vis enum $name { $($(#[$word_doc])* $variant,)+ }

        impl Value for $name {
            fn read(raw: &Raw) -> Result<Self, String> {
                match text(raw)? {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("is not known; write one of {}", [$($word),+].join(", "))),
                }
            }

            fn to_toml(&self) -> String {
                quoted(match self { $(Self::$variant => $word,)+ })
            }
        }
    };
}

words! {
    /// Who may use the API over TCP. The Unix socket is guarded by its file mode in either case.
    pub enum Auth {
        /// Whoever has a token.
        #[default]
        Token = "token",
        /// Whoever can connect: for development.
        None = "none",
    }
}

words! {
    /// How log lines look on stderr.
    pub enum LogFormat {
        /// Text on a terminal, else JSON.
        #[default]
        Auto = "auto",
        /// A line for people.
        Text = "text",
        /// A JSON object a line.
        Json = "json",
    }
}

words! {
    /// The word of `gateway.kind`; with its settings it becomes a [`super::GatewayKind`].
    pub(super) enum KindWord {
        #[default]
        Simulator = "simulator",
        Http = "http",
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
