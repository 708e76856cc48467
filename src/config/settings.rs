//! The settings, their defaults and their bounds (`DESIGN.md`, section 5), each in one place.

use std::path::PathBuf;
use std::time::Duration;

use super::duration::format;
use super::origin::Origin;
use super::reader::Reader;
use super::value::{Auth, BaseUrl, KindWord, Listen, LogFormat, LogLevel, Pace, Rate, Value};

/// No wait in here is longer: far beyond any use, and far from where milliseconds would overflow.
const LONG_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// One exchange with a gateway, or one shutdown, is over within this.
const SHORT_MAX: Duration = Duration::from_secs(3600);
/// Waits that repeat have at least this between them, so that none of them spins.
const STEP_MIN: Duration = Duration::from_millis(1);
/// Calls to the gateway at once; each holds a connection.
const CONCURRENCY_MAX: usize = 10_000;
/// More attempts on one invoice than anyone's bank would bear.
const ATTEMPTS_MAX: u32 = 1_000;

/// All settings, parsed and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `[server]`
    pub server: Server,
    /// `[store]`
    pub store: Store,
    /// `[gateway]` and the section of its kind.
    pub gateway: Gateway,
    /// `[retry]`
    pub retry: Retry,
    /// `[resolver]`
    pub resolver: Resolver,
    /// `[log]`
    pub log: Log,
}

/// Where payd listens and how it stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The TCP address.
    pub listen: Listen,
    /// The Unix socket, where it is not the usual one.
    pub socket: Option<PathBuf>,
    /// How long what is in flight may take to finish once payd is told to stop.
    pub grace: Duration,
    /// Who may use the API over TCP.
    pub auth: Auth,
    /// Certificate and key, both PEM files, where TCP is served with TLS.
    pub tls: Option<TlsFiles>,
    /// How often each token may be used, if that is limited.
    pub rate: Option<Pace>,
}

/// What TLS is served with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// payd's certificate, and the chain behind it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where payd keeps its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The data directory, where it is not the usual one.
    pub data_dir: Option<PathBuf>,
}

/// Who moves the money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Calls at once.
    pub concurrency: usize,
    /// How long one call may take, connecting included.
    pub timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Which gateway, with its own settings.
    pub kind: GatewayKind,
}

/// Which gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayKind {
    /// In process; moves no money.
    Simulator(Simulator),
    /// A service that speaks section 7 of the contract.
    Http(HttpGateway),
}

/// The simulator's weather.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulator {
    /// How long each answer takes.
    pub latency: Duration,
    /// How many charges are declined.
    pub decline_rate: Rate,
    /// How many charges go through without an answer.
    pub timeout_rate: Rate,
    /// How many charges never arrive.
    pub lost_rate: Rate,
}

/// A gateway over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGateway {
    /// What `/charges` is appended to.
    pub url: BaseUrl,
    /// The file that holds the bearer token.
    pub token_file: Option<PathBuf>,
    /// How soon after a send a "not found" is final.
    pub lookup_lag: Duration,
}

/// Retries after a definite decline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The first wait; doubled each time.
    pub base: Duration,
    /// The longest wait; not below `base`.
    pub cap: Duration,
    /// Attempts in one round, the first included; 1 or more.
    pub max_attempts: u32,
}

/// Lookups of what is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// The first wait; doubled each time.
    pub base: Duration,
    /// The longest wait; not below `base`.
    pub cap: Duration,
    /// How long an outcome may stay unknown before a person is called.
    pub attention_after: Duration,
}

/// What payd writes about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Which lines are kept.
    pub level: LogLevel,
    /// How they look on stderr.
    pub format: LogFormat,
    /// Where the rolling file lies, if anywhere.
    pub dir: Option<PathBuf>,
}

impl Settings {
    /// Reads them in the order in which they are shown.
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            server: read_server(reader),
            store: Store {
                data_dir: reader.optional("store.data_dir"),
            },
            gateway: read_gateway(reader),
            retry: read_retry(reader),
            resolver: read_resolver(reader),
            log: Log {
                level: reader.get("log.level", LogLevel::default()),
                format: reader.get("log.format", LogFormat::default()),
                dir: reader.optional("log.dir"),
            },
        }
    }
}

fn read_server(reader: &mut Reader) -> Server {
    let server = Server {
        listen: reader.get("server.listen", Listen::default()),
        socket: reader.optional("server.socket"),
        grace: reader.within(
            "server.grace",
            Duration::from_secs(20),
            Duration::ZERO..=SHORT_MAX,
        ),
        auth: reader.get("server.auth", Auth::default()),
        tls: read_tls(reader),
        rate: reader.optional("server.rate"),
    };
    let Listen::Tcp(address) = server.listen else {
        return server;
    };
    if address.ip().is_loopback() {
        return server;
    }
    let origin = reader.origin("server.listen");
    if server.auth == Auth::None {
        let message = "is \"none\", and server.listen is not a loopback address: whoever reaches it could \
                       pay; leave it at \"token\", or listen on 127.0.0.1";
        reader.fail(origin.clone(), "server.auth", message);
    }
    let files_failed = reader
        .errors
        .iter()
        .any(|error| error.message.starts_with("server.tls_"));
    if server.tls.is_none() && !files_failed {
        let message = format!(
            "{address} is not a loopback address, and without TLS tokens would cross the network in the \
             clear; set server.tls_cert and server.tls_key, or write \"127.0.0.1:{}\"",
            address.port()
        );
        reader.fail(origin, "server.listen", message);
    }
    server
}

/// Both files, or neither.
fn read_tls(reader: &mut Reader) -> Option<TlsFiles> {
    let cert: Option<PathBuf> = reader.optional("server.tls_cert");
    let key: Option<PathBuf> = reader.optional("server.tls_key");
    match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
        (None, None) => None,
        (cert, _) => {
            let (given, missing) = match cert {
                Some(_) => ("server.tls_cert", "server.tls_key"),
                None => ("server.tls_key", "server.tls_cert"),
            };
            let message =
                format!("is needed where {given} is set: TLS takes a certificate and its key");
            reader.fail(reader.origin(given), missing, message);
            None
        }
    }
}

fn read_gateway(reader: &mut Reader) -> Gateway {
    let word = reader.get("gateway.kind", KindWord::default());
    let concurrency = reader.within("gateway.concurrency", 64, 1..=CONCURRENCY_MAX);
    let timeout = reader.within(
        "gateway.timeout",
        Duration::from_secs(10),
        STEP_MIN..=SHORT_MAX,
    );
    let connect_timeout = reader.within(
        "gateway.connect_timeout",
        Duration::from_secs(2),
        STEP_MIN..=SHORT_MAX,
    );
    // Both are read whichever is chosen: a mistake shows before the day it is switched on.
    let simulator = read_simulator(reader);
    let http = read_http(reader, word);
    let kind = match (word, http) {
        (KindWord::Http, Some(http)) => GatewayKind::Http(http),
        _ => GatewayKind::Simulator(simulator),
    };
    Gateway {
        concurrency,
        timeout,
        connect_timeout,
        kind,
    }
}

fn read_simulator(reader: &mut Reader) -> Simulator {
    const RATES: [&str; 3] = [
        "gateway.simulator.decline_rate",
        "gateway.simulator.timeout_rate",
        "gateway.simulator.lost_rate",
    ];
    let latency = reader.within(
        "gateway.simulator.latency",
        Duration::ZERO,
        Duration::ZERO..=SHORT_MAX,
    );
    let rates = RATES.map(|key| reader.get(key, Rate::default()));
    let [decline_rate, timeout_rate, lost_rate] = rates;
    if rates.map(Rate::per_million).iter().sum::<u32>() > Rate::ONE.per_million() {
        let message = format!(
            "decline_rate {}, timeout_rate {} and lost_rate {} together are more than 1; each charge has one outcome",
            decline_rate.to_toml(),
            timeout_rate.to_toml(),
            lost_rate.to_toml()
        );
        let origin = last_said(reader, &RATES);
        reader.fail(origin, "gateway.simulator", message);
    }
    Simulator {
        latency,
        decline_rate,
        timeout_rate,
        lost_rate,
    }
}

/// None where there is no URL, or a wrong one; that it is needed and missing is said here.
fn read_http(reader: &mut Reader, word: KindWord) -> Option<HttpGateway> {
    let errors_before = reader.errors.len();
    let url = reader.optional::<BaseUrl>("gateway.http.url");
    let wrong = reader.errors.len() > errors_before;
    let token_file = reader.optional("gateway.http.token_file");
    let lookup_lag = reader.within(
        "gateway.http.lookup_lag",
        Duration::from_secs(5),
        Duration::ZERO..=LONG_MAX,
    );
    if word == KindWord::Http && url.is_none() && !wrong {
        let origin = reader.origin("gateway.kind");
        reader.fail(
            origin,
            "gateway.http.url",
            "is needed where gateway.kind is \"http\"; write the gateway's base URL",
        );
    }
    Some(HttpGateway {
        url: url?,
        token_file,
        lookup_lag,
    })
}

fn read_retry(reader: &mut Reader) -> Retry {
    let (base, cap) = read_backoff(reader, "retry.base", "retry.cap");
    let max_attempts = reader.within("retry.max_attempts", 5, 1..=ATTEMPTS_MAX);
    Retry {
        base,
        cap,
        max_attempts,
    }
}

fn read_resolver(reader: &mut Reader) -> Resolver {
    let (base, cap) = read_backoff(reader, "resolver.base", "resolver.cap");
    let day = Duration::from_secs(24 * 3600);
    let attention_after = reader.within("resolver.attention_after", day, Duration::ZERO..=LONG_MAX);
    Resolver {
        base,
        cap,
        attention_after,
    }
}

/// A first and a longest wait. A lower cap takes a base that nobody set down with it.
fn read_backoff(
    reader: &mut Reader,
    base_key: &'static str,
    cap_key: &'static str,
) -> (Duration, Duration) {
    let base = reader.within(base_key, Duration::from_secs(2), STEP_MIN..=LONG_MAX);
    let cap = reader.within(cap_key, Duration::from_secs(15 * 60), STEP_MIN..=LONG_MAX);
    if base <= cap {
        return (base, cap);
    }
    if reader.origin(base_key) == Origin::Default {
        reader.derive(base_key, cap.to_toml(), &format!("lowered to {cap_key}"));
        return (cap, cap);
    }
    let message = format!(
        "{} is longer than {cap_key}, {}; lower the one or raise the other",
        format(base),
        format(cap)
    );
    reader.fail(reader.origin(base_key), base_key, message);
    (base, cap)
}

/// The origin of whichever of these has one other than the default.
fn last_said(reader: &Reader, keys: &[&str]) -> Origin {
    let said = keys.iter().rev().map(|key| reader.origin(key));
    said.into_iter()
        .find(|origin| *origin != Origin::Default)
        .unwrap_or(Origin::Default)
}
