//! The `http` gateway: any service that speaks section 7 of `DESIGN.md`.
//!
//! One call is one request. It is never repeated, redirected or guessed at: until a connection is
//! ready nothing has been sent, from then on an answer that is not one the contract names is
//! unknown, and the resolver asks what became of it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::http::uri::InvalidUri;
use hyper::{Method, Request, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::application::ports::{BoxFuture, ChargeRequest, Gateway, Probe};
use crate::domain::{Finding, Outcome};

use self::client::{Answered, Client, Failed, Unsent};
use self::connect::Connector;
use self::pool::Pool;
use self::token::TokenFile;
use self::wire::Sent;

mod client;
mod connect;
mod points;
mod pool;
mod retry_after;
mod socket;
#[cfg(feature = "tls")]
mod tls;
mod token;
mod wire;

#[cfg(feature = "tls")]
pub use self::tls::TlsError;
pub use self::token::TokenError;

const AGENT: &str = concat!("payd/", env!("CARGO_PKG_VERSION"));

/// A reference that no payment has.
const PROBE_REFERENCE: &str = "payd-probe";

/// What a segment of a path may hold as it is: the unreserved characters of RFC 3986, section 2.3.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What the gateway is made from.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// The base URL, http or https, with a host, without user, query or fragment.
    pub url: String,
    /// The file that holds the bearer token.
    pub token_file: Option<PathBuf>,
    /// How soon after a send a "not found" is final.
    pub lookup_lag: Duration,
    /// For one request, from its beginning to the last byte of its answer.
    pub timeout: Duration,
    /// For name, TCP and TLS together; within `timeout`.
    pub connect_timeout: Duration,
    /// Connections that are kept for the next request.
    pub idle_max: usize,
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum HttpGatewayError {
    /// The settings let through what they should not.
    #[error("gateway.http.url is not a http:// or https:// URL with a host")]
    Url,
    /// It is https, and this payd has no TLS.
    #[error("gateway.http.url is https, and this payd was built without the feature tls")]
    NoTls,
    /// No TLS.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// See the module.
pub struct HttpGateway {
    client: Client,
    /// `/v1/charges`.
    charges: Uri,
    lookup_lag: Duration,
    open_to_the_network: bool,
}

impl HttpGateway {
    /// Reads the token and the system's certificates; connects to nobody.
    ///
    /// # Errors
    /// Where it can never work as it is set up.
    pub fn new(options: HttpOptions) -> Result<Self, HttpGatewayError> {
        let uri: Uri = options.url.parse().map_err(|_| HttpGatewayError::Url)?;
        let (Some(authority), Some(host)) = (uri.authority(), uri.host()) else {
            return Err(HttpGatewayError::Url);
        };
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(HttpGatewayError::Url),
        };
        // An IPv6 address has brackets in a URL, and nowhere else.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let here = name == "localhost"
            || name
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        let connector = Connector::new(name, port, options.connect_timeout);
        let connector = if secure {
            over_tls(connector, name)?
        } else {
            connector
        };
        let client = Client {
            connector,
            pool: Pool::new(options.idle_max),
            host: HeaderValue::from_str(authority.as_str()).map_err(|_| HttpGatewayError::Url)?,
            token: options.token_file.map(TokenFile::open).transpose()?,
            limit: options.timeout,
        };
        let charges = format!("{}/charges", uri.path().trim_end_matches('/'));
        Ok(Self {
            client,
            charges: charges.parse().map_err(|_| HttpGatewayError::Url)?,
            lookup_lag: options.lookup_lag,
            open_to_the_network: !secure && !here,
        })
    }

    /// Whether what is said to it can be read on the way: no TLS, and not on this machine.
    #[must_use]
    pub const fn is_open_to_the_network(&self) -> bool {
        self.open_to_the_network
    }

    async fn charge(&self, request: &ChargeRequest) -> Outcome {
        let unsent = |reason: String| Outcome::NotSent { reason };
        let body = wire::charge_body(request);
        let Ok(key) = HeaderValue::from_str(request.key.as_str()) else {
            return unsent("the payment's key cannot stand in a header".to_owned());
        };
        let mut message = build(Method::POST, self.charges.clone(), body, request);
        let headers = message.headers_mut();
        headers.insert(HeaderName::from_static("idempotency-key"), key);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.client.send(message, true).await {
            Ok(Answered { answer, secret }) => {
                wire::outcome(Sent::of(request, secret.as_deref()), &answer)
            }
            Err(Failed::NotSent(reason)) => unsent(reason),
            Err(Failed::Lost(reason)) => Outcome::Unknown { reason },
        }
    }

    async fn lookup(&self, request: &ChargeRequest) -> Finding {
        let inconclusive = |reason: String| Finding::Inconclusive {
            reason,
            retry_after: None,
        };
        let message = match self.place_of(request.key.as_str()) {
            Ok(place) => build(Method::GET, place, Vec::new(), request),
            Err(reason) => return inconclusive(reason),
        };
        match self.client.send(message, false).await {
            Ok(Answered { answer, secret }) => {
                wire::finding(Sent::of(request, secret.as_deref()), &answer)
            }
            Err(Failed::NotSent(reason) | Failed::Lost(reason)) => inconclusive(reason),
        }
    }

    async fn probe(&self) -> Probe {
        let unreachable = |reason: String| Probe::Unreachable { reason };
        let message = match self.place_of(PROBE_REFERENCE) {
            Ok(place) => plain(Method::GET, place, Vec::new()),
            Err(reason) => return unreachable(reason),
        };
        match self.client.send(message, false).await {
            Ok(Answered { answer, secret }) => wire::probe(secret.as_deref(), &answer),
            Err(Failed::NotSent(reason) | Failed::Lost(reason)) => unreachable(reason),
        }
    }

    fn place_of(&self, reference: &str) -> Result<Uri, String> {
        let segment = utf8_percent_encode(reference, SEGMENT);
        format!("{}/{segment}", self.charges.path())
            .parse()
            .map_err(|error: InvalidUri| format!("the request cannot be made: {error}"))
    }
}

/// A request about a payment, with its trace.
fn build(method: Method, place: Uri, body: Vec<u8>, request: &ChargeRequest) -> Unsent {
    let mut message = plain(method, place, body);
    // It was checked where it came in; one that is no header value is worth no payment.
    let trace = request.traceparent.as_deref();
    if let Some(Ok(trace)) = trace.map(HeaderValue::from_str) {
        let name = HeaderName::from_static("traceparent");
        message.headers_mut().insert(name, trace);
    }
    message
}

fn plain(method: Method, place: Uri, body: Vec<u8>) -> Unsent {
    let mut message = Box::new(Request::new(Full::new(Bytes::from(body))));
    *message.method_mut() = method;
    *message.uri_mut() = place;
    let headers = message.headers_mut();
    headers.reserve(HEADERS);
    let json = HeaderValue::from_static("application/json");
    headers.insert(ACCEPT, json);
    // An answer is small, and what is coded could be anything.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    // HTTP lets a cache keep even a 404, and a stale "never received" would send a charge again.
    let fresh = HeaderValue::from_static("no-cache, no-store");
    headers.insert(CACHE_CONTROL, fresh);
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    message
}

/// Room for all headers of a charge: these four, its trace, its key, its type, host and token.
const HEADERS: usize = 9;

#[cfg(feature = "tls")]
fn over_tls(connector: Connector, host: &str) -> Result<Connector, HttpGatewayError> {
    Ok(connector.with_tls(tls::Tls::new(host)?))
}

#[cfg(not(feature = "tls"))]
fn over_tls(_: Connector, _: &str) -> Result<Connector, HttpGatewayError> {
    Err(HttpGatewayError::NoTls)
}

impl Gateway for HttpGateway {
    fn name(&self) -> &str {
        "http"
    }

    fn lookup_lag(&self) -> Duration {
        self.lookup_lag
    }

    fn charge<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Outcome> {
        Box::pin(self.charge(request))
    }

    fn lookup<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Finding> {
        Box::pin(self.lookup(request))
    }

    fn probe(&self) -> BoxFuture<'_, Probe> {
        Box::pin(self.probe())
    }
}
