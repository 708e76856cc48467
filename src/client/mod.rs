//! The HTTP client of payctl: one HTTP/1.1 connection, over a Unix socket or TCP, opened when the
//! first request is made.
//!
//! It never decides whether a request may be sent again: it says what is known about the one that
//! broke (`Error::may_have_arrived`), and the command decides. The one exception is a GET on a
//! connection that had been idle, which changes nothing and is made once more.

mod bytes;
mod host;
mod lines;
#[cfg(feature = "tls")]
mod tls;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

pub(crate) use bytes::Pieces;
pub(crate) use host::{Environment, Host, Hosts};
pub(crate) use lines::Lines;

/// How long a TCP connection may take to open. A socket file answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long payd may take to answer, on top of what the request asked it to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read whole. The largest that payd gives is a page of 1,000
/// invoices with 50 metadata keys each; what is larger does not come from payd.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// NDJSON's media type.
pub(crate) const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// None of the places where payd's socket may lie has one.
    #[error("payd cannot be reached: there is no socket at {}", list(.tried))]
    Absent { tried: Vec<PathBuf> },
    /// The socket is there, and this user may not open it.
    #[error("you may not use the socket {}: {source}", .path.display())]
    Denied { path: PathBuf, source: io::Error },
    /// Nobody takes connections there.
    #[error("payd cannot be reached at {host}: {source}")]
    Connect { host: String, source: io::Error },
    /// It takes connections, and does not show that it is the one.
    #[cfg(feature = "tls")]
    #[error("no secure connection to payd at {host}: {}", .why.what)]
    Untrusted {
        host: String,
        why: crate::trust::Why,
    },
    /// The connection ended before the answer.
    #[error("the connection to payd at {host} broke: {reason}")]
    Broken {
        host: String,
        reason: String,
        may_have_arrived: bool,
    },
    /// The answer did not come.
    #[error("payd at {host} gave no answer within {} s", .after.as_secs())]
    Silent { host: String, after: Duration },
}

impl Error {
    /// Whether payd may have got the request and acted on it.
    pub(crate) fn may_have_arrived(&self) -> bool {
        match self {
            Error::Absent { .. } | Error::Denied { .. } | Error::Connect { .. } => false,
            #[cfg(feature = "tls")]
            Error::Untrusted { .. } => false,
            Error::Broken {
                may_have_arrived, ..
            } => *may_have_arrived,
            Error::Silent { .. } => true,
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let mut text = String::new();
    for (index, path) in paths.iter().enumerate() {
        if index > 0 {
            text.push_str(if index + 1 == paths.len() {
                " or "
            } else {
                ", "
            });
        }
        text.push_str(&path.display().to_string());
    }
    text
}

/// A request, before it has a connection.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: Method,
    target: String,
    accept: &'static str,
    content_type: &'static str,
    idempotency_key: Option<String>,
    wait_seconds: Option<u64>,
    answer_max: Duration,
    body: Bytes,
}

impl Request {
    /// A GET of a path and query, both encoded already.
    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            target: target.into(),
            accept: JSON,
            content_type: JSON,
            idempotency_key: None,
            wait_seconds: None,
            answer_max: ANSWER_TIMEOUT,
            body: Bytes::new(),
        }
    }

    /// A POST of a JSON body; an empty one is no body.
    pub(crate) fn post(target: impl Into<String>, body: impl Into<Bytes>, key: &str) -> Self {
        Self {
            method: Method::POST,
            body: body.into(),
            idempotency_key: Some(key.to_owned()),
            ..Self::get(target)
        }
    }

    /// A POST without a key, of which nothing is kept and which must not be sent again.
    pub(crate) fn post_once(target: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            body: body.into(),
            ..Self::get(target)
        }
    }

    /// The same, with lines of JSON in and out.
    pub(crate) fn ndjson(mut self) -> Self {
        self.accept = NDJSON;
        if self.method == Method::POST {
            self.content_type = NDJSON;
        }
        self
    }

    /// The same with `Prefer: wait=N` (RFC 7240).
    pub(crate) fn wait(mut self, seconds: u64) -> Self {
        self.wait_seconds = Some(seconds);
        self
    }

    /// The same for work that takes payd long.
    pub(crate) fn within(mut self, answer_max: Duration) -> Self {
        self.answer_max = answer_max;
        self
    }

    fn timeout(&self) -> Duration {
        self.answer_max + Duration::from_secs(self.wait_seconds.unwrap_or(0))
    }
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// `Retry-After` in seconds; the form with a date counts as absent, payd does not use it.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(header::RETRY_AFTER)?.to_str().ok()?;
        let after = Duration::from_secs(text.trim().parse().ok()?);
        Some(after.min(RETRY_AFTER_MAX))
    }
}

/// The start of an answer that comes line by line, or the whole of one that refuses to.
pub(crate) enum Streamed {
    Lines(Lines),
    Refused(Answer),
}

/// The start of an answer that is too large to be held, or the whole of one that refuses to.
pub(crate) enum Download {
    Pieces(Pieces),
    Refused(Answer),
}

/// One connection to payd, and what it takes to open another.
pub(crate) struct Client {
    hosts: Hosts,
    authorization: Option<HeaderValue>,
    cacert: Option<PathBuf>,
    idle: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of the given places, which trusts the certificates in `cacert` over TLS, or those
    /// that this machine trusts. Nothing is opened yet.
    pub(crate) fn new(
        hosts: Hosts,
        authorization: Option<HeaderValue>,
        cacert: Option<PathBuf>,
    ) -> Self {
        Self {
            hosts,
            authorization,
            cacert,
            idle: None,
        }
    }

    /// The socket, if payd is reached over one.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        match self.hosts.choose() {
            Ok(Host::Unix(path)) => Some(path),
            Ok(Host::Tcp { .. }) | Err(_) => None,
        }
    }

    /// Another client of the same payd, for a second connection.
    pub(crate) fn another(&self) -> Self {
        Self::new(
            self.hosts.clone(),
            self.authorization.clone(),
            self.cacert.clone(),
        )
    }

    /// Sends a request and reads its answer, whatever its status.
    pub(crate) async fn send(&mut self, request: &Request) -> Result<Answer, Error> {
        let answered = timeout(request.timeout(), self.send_untimed(request)).await;
        match answered {
            Ok(result) => result,
            Err(_) => {
                self.idle = None;
                Err(Error::Silent {
                    host: self.hosts.name(),
                    after: request.timeout(),
                })
            }
        }
    }

    async fn send_untimed(&mut self, request: &Request) -> Result<Answer, Error> {
        let idle = match self.idle.take() {
            Some(mut sender) => sender.ready().await.ok().map(|()| sender),
            None => None,
        };
        let (host, parts, body, sender) = match idle {
            Some(mut sender) => {
                let host = self.hosts.name();
                match self.answer(&host, &mut sender, request).await {
                    Ok((parts, body)) => (host, parts, body, sender),
                    Err(error) if error.may_have_arrived() && request.method != Method::GET => {
                        return Err(error);
                    }
                    Err(_) => self.send_fresh(request).await?,
                }
            }
            None => self.send_fresh(request).await?,
        };
        let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = match collected {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err(Error::Broken {
                    host,
                    reason: error.to_string(),
                    may_have_arrived: true,
                });
            }
        };
        self.idle = Some(sender);
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    async fn send_fresh(
        &self,
        request: &Request,
    ) -> Result<
        (
            String,
            hyper::http::response::Parts,
            Incoming,
            SendRequest<Full<Bytes>>,
        ),
        Error,
    > {
        let (host, mut sender) = self.connect().await?;
        let (parts, body) = self.answer(&host.to_string(), &mut sender, request).await?;
        Ok((host.to_string(), parts, body, sender))
    }

    /// Asks for lines, on a connection of its own that ends with them.
    pub(crate) async fn stream(&self, request: &Request) -> Result<Streamed, Error> {
        let (host, parts, body, sender) = self.begin(request).await?;
        if parts.status.is_success() {
            return Ok(Streamed::Lines(Lines::new(host, sender, body)));
        }
        refusal(host, parts, body).await.map(Streamed::Refused)
    }

    /// Asks for bytes, on a connection of its own that ends with them. payd may take `answer_max`
    /// before the first.
    pub(crate) async fn download(
        &self,
        request: &Request,
        answer_max: Duration,
    ) -> Result<Download, Error> {
        let request = request.clone().within(answer_max);
        let (host, parts, body, sender) = self.begin(&request).await?;
        if parts.status.is_success() {
            return Ok(Download::Pieces(Pieces::new(host, sender, body)));
        }
        refusal(host, parts, body).await.map(Download::Refused)
    }

    async fn begin(
        &self,
        request: &Request,
    ) -> Result<
        (
            String,
            hyper::http::response::Parts,
            Incoming,
            SendRequest<Full<Bytes>>,
        ),
        Error,
    > {
        let answered = timeout(request.timeout(), self.send_fresh(request)).await;
        answered.unwrap_or_else(|_| {
            Err(Error::Silent {
                host: self.hosts.name(),
                after: request.timeout(),
            })
        })
    }

    /// Sends on an open connection, and reads the answer's head.
    async fn answer(
        &self,
        host: &str,
        sender: &mut SendRequest<Full<Bytes>>,
        request: &Request,
    ) -> Result<(hyper::http::response::Parts, Incoming), Error> {
        let message = self.message(request).map_err(|error| Error::Broken {
            host: host.to_owned(),
            reason: error.to_string(),
            may_have_arrived: false,
        })?;
        match sender.try_send_request(message).await {
            Ok(response) => Ok(response.into_parts()),
            Err(mut error) => {
                // hyper hands the message back if no byte of it was written.
                let unsent = error.take_message().is_some();
                Err(Error::Broken {
                    host: host.to_owned(),
                    reason: reason(error.error()),
                    may_have_arrived: !unsent,
                })
            }
        }
    }

    fn message(
        &self,
        request: &Request,
    ) -> Result<hyper::Request<Full<Bytes>>, hyper::http::Error> {
        let mut message = hyper::Request::builder()
            .method(request.method.clone())
            .uri(&request.target)
            .header(header::HOST, self.hosts.authority())
            .header(header::ACCEPT, request.accept)
            .header(
                header::USER_AGENT,
                concat!("payctl/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(token) = &self.authorization {
            message = message.header(header::AUTHORIZATION, token);
        }
        if request.method == Method::POST {
            message = message.header(header::CONTENT_TYPE, request.content_type);
        }
        if let Some(key) = &request.idempotency_key {
            message = message.header("idempotency-key", key);
        }
        if let Some(seconds) = request.wait_seconds {
            message = message.header("prefer", format!("wait={seconds}"));
        }
        message.body(Full::new(request.body.clone()))
    }

    async fn connect(&self) -> Result<(Host, SendRequest<Full<Bytes>>), Error> {
        let host = self.hosts.choose()?;
        let sender = match &host {
            Host::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => handshake(&host, stream).await?,
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(Error::Denied {
                        path: path.clone(),
                        source,
                    });
                }
                Err(source) => return Err(refused(&host, source)),
            },
            Host::Tcp { name, port, tls } => {
                let connected =
                    timeout(CONNECT_TIMEOUT, TcpStream::connect((name.as_str(), *port))).await;
                match connected {
                    Ok(Ok(stream)) => {
                        // Requests are small and each waits for its answer.
                        let _ = stream.set_nodelay(true);
                        match tls {
                            false => handshake(&host, stream).await?,
                            true => self.secured(&host, name, stream).await?,
                        }
                    }
                    Ok(Err(source)) => return Err(refused(&host, source)),
                    Err(_) => return Err(refused(&host, io::ErrorKind::TimedOut.into())),
                }
            }
        };
        Ok((host, sender))
    }

    /// The same over TLS, in the time that connecting has.
    #[cfg(feature = "tls")]
    async fn secured(
        &self,
        host: &Host,
        name: &str,
        stream: TcpStream,
    ) -> Result<SendRequest<Full<Bytes>>, Error> {
        let secured = tls::secure(stream, name, self.cacert.as_deref());
        match timeout(CONNECT_TIMEOUT, secured).await {
            Ok(Ok(stream)) => handshake(host, stream).await,
            Ok(Err(why)) => Err(Error::Untrusted {
                host: host.to_string(),
                why,
            }),
            Err(_) => Err(refused(host, io::ErrorKind::TimedOut.into())),
        }
    }

    /// A host with TLS is refused before.
    #[cfg(not(feature = "tls"))]
    async fn secured(
        &self,
        host: &Host,
        _: &str,
        _: TcpStream,
    ) -> Result<SendRequest<Full<Bytes>>, Error> {
        Err(refused(host, io::ErrorKind::Unsupported.into()))
    }
}

/// An answer that refuses, read whole.
async fn refusal(
    host: String,
    parts: hyper::http::response::Parts,
    body: Incoming,
) -> Result<Answer, Error> {
    let collected = timeout(
        ANSWER_TIMEOUT,
        Limited::new(body, ANSWER_BYTES_MAX).collect(),
    )
    .await;
    match collected {
        Ok(Ok(body)) => Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.to_bytes(),
        }),
        Ok(Err(error)) => Err(Error::Broken {
            host,
            reason: error.to_string(),
            may_have_arrived: true,
        }),
        Err(_) => Err(Error::Silent {
            host,
            after: ANSWER_TIMEOUT,
        }),
    }
}

fn refused(host: &Host, source: io::Error) -> Error {
    Error::Connect {
        host: host.to_string(),
        source,
    }
}

/// What went wrong, down to the cause that names it.
fn reason(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

async fn handshake<S>(host: &Host, stream: S) -> Result<SendRequest<Full<Bytes>>, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Error::Broken {
            host: host.to_string(),
            reason: reason(&error),
            may_have_arrived: false,
        })?;
    // Its end shows at the sender; there is nobody else to tell.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
