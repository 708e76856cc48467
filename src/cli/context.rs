//! What the global flags mean: where payd is, who asks, and where the output goes. Commands talk
//! to payd through it. It never re-sends anything that has no idempotency key.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::HeaderValue;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::api::{Code, Invoice};
use crate::cli::Global;
use crate::cli::arguments::{InvoiceId, encode};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Output;
use crate::client::{Answer, Client, Environment, Host, Hosts, Request};

/// A token is some 50 characters; more than this is another file.
const TOKEN_BYTES_MAX: u64 = 4096;
/// How long a request with a key is sent again before the command gives up, unless it has a
/// timeout of its own: long enough for payd to be restarted.
const RESEND_FOR: Duration = Duration::from_secs(10);
/// The first pause before something is sent again, doubled each time up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a command works with.
pub(crate) struct Context {
    pub(crate) out: Output,
    pub(crate) client: Client,
    /// Where the token is from.
    pub(crate) token_file: Option<PathBuf>,
}

impl Context {
    /// Reads what the flags name. Nothing is connected yet. A failure gives the output back, to
    /// be reported through.
    pub(crate) fn new(global: &Global, out: Output) -> Result<Self, (Output, Failure)> {
        match client(global) {
            Ok((client, warning)) => {
                if let Some(warning) = warning {
                    out.warn(&warning);
                }
                Ok(Self {
                    out,
                    client,
                    token_file: global.token_file.clone().map(PathBuf::from),
                })
            }
            Err(failure) => Err((out, failure)),
        }
    }

    /// What time it is, for people.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// GETs a path and query.
    pub(crate) async fn get(&mut self, target: &str) -> Outcome<Answer> {
        let answer = self.client.send(&Request::get(target)).await?;
        succeeded(answer)
    }

    /// GETs an invoice, as bytes and read.
    pub(crate) async fn invoice(&mut self, id: &InvoiceId) -> Outcome<(Answer, Invoice<'static>)> {
        let answer = self.get(&id.path("")).await?;
        let invoice = read(&answer.body, "invoice")?;
        Ok((answer, invoice))
    }

    /// POSTs with a key, and again with the same one while the connection breaks or payd asks
    /// for patience. Only where nobody ever listened does it give up at once.
    pub(crate) async fn post(&mut self, target: &str, body: Vec<u8>, key: &str) -> Outcome<Answer> {
        self.send(&Request::post(target, body, key)).await
    }

    /// The same for a request that is made already; it has an idempotency key.
    pub(crate) async fn send(&mut self, request: &Request) -> Outcome<Answer> {
        let deadline = Instant::now() + RESEND_FOR;
        let mut pause = Pause::new();
        let mut lost: Option<Failure> = None;
        // A payd that answered once and is gone now is being restarted.
        let mut answered = false;
        loop {
            let (failure, wait) = match self.client.send(request).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => {
                    answered = true;
                    let wait = answer.retry_after();
                    let failure = Failure::refused(answer);
                    if !asks_for_patience(&failure) {
                        return Err(failure);
                    }
                    (Some(failure), wait.unwrap_or_else(|| pause.next()))
                }
                Err(error) => {
                    let arrived_perhaps = error.may_have_arrived();
                    let failure = Failure::from(error);
                    if lost.is_none() && !arrived_perhaps && !answered {
                        return Err(failure);
                    }
                    if arrived_perhaps {
                        lost = Some(failure);
                        (None, pause.next())
                    } else {
                        (Some(failure), pause.next())
                    }
                }
            };
            if Instant::now() + wait > deadline {
                // The break in which it may have arrived matters more than what came after.
                let failure = lost.or(failure);
                return Err(failure.unwrap_or_else(|| Failure::unexpected("payd gave no answer")));
            }
            sleep(wait).await;
        }
    }
}

/// The answer if it is a success, else the failure in it.
pub(crate) fn succeeded(answer: Answer) -> Outcome<Answer> {
    if answer.status.is_success() {
        Ok(answer)
    } else {
        Err(Failure::refused(answer))
    }
}

/// Reads JSON of payd's.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8], what: &str) -> Outcome<T> {
    serde_json::from_slice(body).map_err(|error| Failure::unreadable(what, &error))
}

/// Whether payd says that the same request may do better later.
pub(crate) fn asks_for_patience(failure: &Failure) -> bool {
    let Failure::Problem(refusal) = failure else {
        return false;
    };
    matches!(
        Code::parse(&refusal.problem.code),
        Some(Code::RequestInProgress | Code::Unavailable | Code::RateLimited)
    )
}

/// Pauses that double, so that a restart is noticed soon and a long outage costs little.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
}

impl Pause {
    /// Starts with the shortest.
    pub(crate) fn new() -> Self {
        Self { next: PAUSE_FIRST }
    }

    /// The pause to take now.
    pub(crate) fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(PAUSE_MAX);
        now
    }
}

/// A new idempotency key: a UUIDv7, so that keys in a log are in order.
pub(crate) fn new_key() -> Outcome<String> {
    let mut random = [0; 10];
    getrandom::fill(&mut random)
        .map_err(|error| Failure::unexpected(format!("no random numbers: {error}")))?;
    let millis = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    Ok(id.to_string())
}

/// A client for a short errand of the shell's, such as completion; `None` if the flags are wrong.
pub(crate) fn client_for(host: Option<&str>) -> Option<Client> {
    let hosts = hosts(host).ok()?;
    let named = |name| std::env::var_os(name).filter(|path| !path.is_empty());
    let token = token(named("PAYD_TOKEN_FILE").as_deref(), &hosts).ok()?;
    let authorization = token.map(|token| token.authorization);
    let cacert = named("PAYD_CACERT").map(PathBuf::from);
    Some(Client::new(hosts, authorization, cacert))
}

/// The client, and what is to be warned of.
fn client(global: &Global) -> Outcome<(Client, Option<String>)> {
    let hosts = hosts(global.host.as_deref())?;
    let given = |path: &Option<OsString>| path.clone().filter(|path| !path.is_empty());
    let token = token(given(&global.token_file).as_deref(), &hosts)?;
    let (authorization, warning) = match token {
        Some(Token {
            authorization,
            warning,
        }) => (Some(authorization), warning),
        None => (None, None),
    };
    let cacert = given(&global.cacert).map(PathBuf::from);
    Ok((Client::new(hosts, authorization, cacert), warning))
}

/// The token to show, if there is one. None goes to a socket, which asks for none, or over a network
/// in the clear; and the admin's own goes nowhere but to this machine.
fn token(file: Option<&OsStr>, hosts: &Hosts) -> Outcome<Option<Token>> {
    let Hosts::Named(host @ Host::Tcp { .. }) = hosts else {
        return Ok(None);
    };
    match file {
        Some(_) if host.is_in_the_clear() => Err(Failure::usage(format!(
            "the token would cross the network to {host} in the clear"
        ))
        .with_tip("use https://, or http:// on this machine only")),
        Some(file) => read_token(Path::new(file)).map(Some),
        None if host.is_on_this_machine() => {
            let places = Environment::read().tokens();
            // What cannot be read is as good as absent: payd says whether one is needed.
            Ok(places.iter().find_map(|path| read_token(path).ok()))
        }
        None => Ok(None),
    }
}

fn hosts(host: Option<&str>) -> Outcome<Hosts> {
    // An empty PAYD_HOST is as good as none.
    match host.filter(|text| !text.is_empty()) {
        Some(text) => match Host::parse(text) {
            Ok(host) => Ok(Hosts::Named(host)),
            Err(message) => Err(Failure::usage(format!("--host {text}: {message}"))),
        },
        None => Ok(Environment::read().places()),
    }
}

/// The header with a token, and what is to be said about its file.
struct Token {
    authorization: HeaderValue,
    warning: Option<String>,
}

/// Reads a token. No message of it holds any of the file's content.
fn read_token(path: &Path) -> Outcome<Token> {
    let mut text = String::new();
    let opened = File::open(path).and_then(|file| {
        let mode = file.metadata()?.permissions().mode();
        file.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
        Ok(mode)
    });
    let mode = opened.map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NotAllowed,
            _ => Exit::Usage,
        };
        let message = format!("the token file {} cannot be read: {error}", path.display());
        Failure::own(exit, message)
    })?;
    let token = text.trim();
    let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
    let header = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut authorization = match header {
        Ok(header) if printable && !token.is_empty() => header,
        _ => {
            return Err(Failure::usage(format!(
                "the token file {} does not hold a token, which is one word",
                path.display()
            )));
        }
    };
    authorization.set_sensitive(true);
    let warning = (mode & 0o077 != 0).then(|| {
        format!(
            "others may read the token file {}: chmod 600 it",
            path.display()
        )
    });
    Ok(Token {
        authorization,
        warning,
    })
}

/// A query of names and values, with its `?`; nothing if there are none.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&encode(value));
    }
    text
}
