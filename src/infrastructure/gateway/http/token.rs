//! The gateway's bearer token: a secret that is read from a file and is shown to the gateway only.
//!
//! It must never be in a log, an error or an event: it has no `Display`, its `Debug` says nothing,
//! and what the gateway says is searched for it before it goes anywhere ([`Secret::redact`]).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long a token is used before its file is read again: a rotated secret works without a restart.
const REREAD_INTERVAL: Duration = Duration::from_secs(1);

/// More than any token in use; a file that is longer is another file.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;

/// Why there is no token. None of these repeats what is in the file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("the gateway's token file {} cannot be read: {source}; gateway.http.token_file names it, and payd's user has to be let read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// There is nothing in it.
    #[error("the gateway's token file {} is empty", .0.display())]
    Empty(PathBuf),
    /// It is longer than any token.
    #[error("the gateway's token file {} holds more than {TOKEN_BYTES_MAX} bytes; it should hold the token and nothing else", .0.display())]
    TooLong(PathBuf),
    /// It cannot stand in a header.
    #[error("the gateway's token file {} holds something that no bearer token has: spaces, control characters or letters beyond ASCII", .0.display())]
    NotAToken(PathBuf),
}

/// A bearer token.
pub(super) struct Secret(String);

impl Secret {
    /// RFC 6750, section 2.1, leaves few characters; gateways use others, so any visible ASCII will do.
    fn parse(bytes: &[u8], path: &Path) -> Result<Self, TokenError> {
        let token = bytes.trim_ascii();
        if token.is_empty() {
            return Err(TokenError::Empty(path.to_owned()));
        }
        match std::str::from_utf8(token) {
            Ok(text) if token.iter().all(u8::is_ascii_graphic) => Ok(Self(text.to_owned())),
            _ => Err(TokenError::NotAToken(path.to_owned())),
        }
    }

    /// The value of an `Authorization` header, marked so that nothing prints it.
    pub(super) fn to_header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The text without the token, should the gateway repeat it.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[token]")
    }

    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The file that holds the token.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    kept: Arc<Mutex<Kept>>,
    /// One reads at a time, and whoever wants the token meanwhile waits: a file system that hangs
    /// holds one thread and no more.
    reading: Arc<Semaphore>,
}

#[derive(Debug)]
struct Kept {
    read_at: Instant,
    token: Result<Arc<Secret>, TokenError>,
}

impl TokenFile {
    /// Reads it for the first time, blocking.
    ///
    /// # Errors
    /// Where there is no token in it.
    pub(super) fn open(path: PathBuf) -> Result<Self, TokenError> {
        let token = Arc::new(read(&path)?);
        let kept = Kept {
            read_at: Instant::now(),
            token: Ok(token),
        };
        Ok(Self {
            path,
            kept: Arc::new(Mutex::new(kept)),
            reading: Arc::new(Semaphore::new(1)),
        })
    }

    /// The token as the file has it, or had it within the last second. A file that cannot be read
    /// any more is an error: a token that was withdrawn is not used.
    ///
    /// # Errors
    /// Where there is no token in it.
    pub(super) async fn current(&self) -> Result<Arc<Secret>, TokenError> {
        if let Some(token) = self.fresh() {
            return token;
        }
        let unreadable = |error: io::Error| TokenError::Unreadable {
            path: self.path.clone(),
            source: Arc::new(error),
        };
        let place = Arc::clone(&self.reading)
            .acquire_owned()
            .await
            .map_err(|error| unreadable(io::Error::other(error)))?;
        if let Some(token) = self.fresh() {
            return token;
        }
        let (path, kept) = (self.path.clone(), Arc::clone(&self.kept));
        let reading = move || {
            // The place is free when the file system has answered, not when its asker has left.
            let _place = place;
            let token = read(&path).map(Arc::new);
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept {
                read_at: Instant::now(),
                token: token.clone(),
            };
            token
        };
        match tokio::task::spawn_blocking(reading).await {
            Ok(token) => token,
            Err(error) => Err(unreadable(io::Error::other(error))),
        }
    }

    /// What was read within the last second.
    fn fresh(&self) -> Option<Result<Arc<Secret>, TokenError>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.read_at.elapsed() < REREAD_INTERVAL).then(|| kept.token.clone())
    }
}

fn read(path: &Path) -> Result<Secret, TokenError> {
    let bytes = read_bytes(path).map_err(|source| TokenError::Unreadable {
        path: path.to_owned(),
        source: Arc::new(source),
    })?;
    if bytes.len() as u64 > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong(path.to_owned()));
    }
    Secret::parse(&bytes, path)
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would hold whoever opens it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a file",
        ));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(TOKEN_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_visible_ascii_with_any_white_space_around_it() {
        let rows: &[(&[u8], Option<&str>)] = &[
            (b"tok_123", Some("tok_123")),
            (b" tok_123\r\n", Some("tok_123")),
            (b"a+/=~._-", Some("a+/=~._-")),
            (b"", None),
            (b" \n", None),
            (b"two words", None),
            (b"line\nline", None),
            ("tök".as_bytes(), None),
            (b"\xff\xfe", None),
            (b"a\0b", None),
        ];
        for (bytes, want) in rows {
            let got = Secret::parse(bytes, Path::new("file"));
            assert_eq!(
                got.as_ref().ok().map(|it| it.0.as_str()),
                *want,
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn neither_the_token_nor_its_header_can_be_printed() {
        let secret = Secret::of("tok_123");
        let header = secret.to_header().unwrap();
        assert_eq!(header.as_bytes(), b"Bearer tok_123");
        for shown in [format!("{secret:?}"), format!("{header:?}")] {
            assert!(!shown.contains("tok_123"), "{shown}");
        }
        assert_eq!(secret.redact("no such tok_123!"), "no such [token]!");
    }
}
