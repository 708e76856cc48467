//! What surrounds every request: who calls, under which id; what no browser may do; how long it may
//! take; panics; the one log line of a failure. It knows no route.

use std::any::Any;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header::{HOST, HeaderValue, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::fmt::Hyphenated;

use super::auth::Proof;
use super::call::{Asked, Call};
use super::headers;
use super::pace::{Failures, Rates};
use super::problem::{Cause, PROBLEM_JSON, Reject};
use super::room::Side;
use super::routes::{self, Handling, Lines};
use super::tail::Tail;
use crate::api::Code;
use crate::application::request::Caller;
use crate::application::{Answered, App, Span, SpanKind, SpanStart};
use crate::domain::Timestamp;

/// Event streams at a time (`DESIGN.md`, section 8): those with a filter read the log after every commit.
const STREAMS_MAX: usize = 32;

/// Event streams of the Unix socket that are let in though TCP has all places: an operator who looks
/// into a flood must see something.
const SOCKET_STREAMS_KEPT: usize = 4;

/// How long a request may take, until its answer begins and on top of what it asked to wait.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// Between two lines about requests turned away.
const COMPLAINT_PAUSE_MS: i64 = 1000;

/// What is configured about requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether a token is asked for on TCP. Without, everyone who reaches the address may do everything.
    pub asks_token: bool,
    /// How many requests a token may make in which time, if that is limited.
    pub rate: Option<(u32, Duration)>,
}

/// What all requests share.
pub(super) struct Shared {
    /// The application.
    pub(super) app: Arc<App>,
    /// Canceled when payd drains.
    pub(super) shutdown: CancellationToken,
    /// Places for event streams.
    pub(super) streams: StreamPlaces,
    /// The end of the log, for all streams.
    pub(super) tail: Arc<Tail>,
    /// What TCP may hold and have read.
    pub(super) tcp: Side,
    /// What the Unix socket may.
    pub(super) socket: Arc<Side>,
    /// The place for a backup or a check: each reads the whole store.
    pub(super) upkeep: Arc<Semaphore>,
    /// How often each token may ask.
    pub(super) rates: Option<Rates>,
    /// Who failed to show who they are.
    pub(super) failures: Failures,
    /// Lines about those.
    pub(super) failures_complaint: Complaint,
    asks_token: bool,
    complaint: Complaint,
}

/// Places for event streams: for all, and some that are the socket's where TCP has taken all.
pub(super) struct StreamPlaces {
    common: Arc<Semaphore>,
    socket: Arc<Semaphore>,
}

/// A place for an event stream, while it is held.
pub(super) struct StreamPlace {
    _common: Option<OwnedSemaphorePermit>,
    _socket: Option<OwnedSemaphorePermit>,
}

impl StreamPlaces {
    fn new() -> Self {
        Self {
            common: Arc::new(Semaphore::new(STREAMS_MAX)),
            socket: Arc::new(Semaphore::new(SOCKET_STREAMS_KEPT)),
        }
    }

    /// A place, if there is one.
    pub(super) fn take(&self, over_unix: bool) -> Option<StreamPlace> {
        let common = Arc::clone(&self.common).try_acquire_owned().ok();
        let socket = match over_unix {
            true => Arc::clone(&self.socket).try_acquire_owned().ok(),
            false => None,
        };
        (common.is_some() || socket.is_some()).then_some(StreamPlace {
            _common: common,
            _socket: socket,
        })
    }
}

/// Lines that would all say the same, and come in floods: one a second.
pub(super) struct Complaint(AtomicI64);

impl Complaint {
    const fn new() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }

    /// Whether one is due.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let now = now.as_millis();
        let last = self.0.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= COMPLAINT_PAUSE_MS;
        if due {
            self.0.store(now, Ordering::Relaxed);
        }
        due
    }
}

impl Shared {
    /// Puts it together. What is done for all connections runs where this is called.
    pub(super) fn new(app: Arc<App>, options: Options, shutdown: CancellationToken) -> Self {
        let socket = Arc::new(Side::socket());
        let tail = {
            let (app, socket) = (Arc::clone(&app), Arc::clone(&socket));
            let head = app.bus().head();
            Tail::new(
                Handle::current(),
                head,
                Box::new(move |query| {
                    let (app, socket) = (Arc::clone(&app), Arc::clone(&socket));
                    Box::pin(async move { socket.read(&app, move |it| it.events(&query)).await })
                }),
            )
        };
        Self {
            app,
            shutdown,
            streams: StreamPlaces::new(),
            tail: Arc::new(tail),
            tcp: Side::tcp(),
            socket,
            upkeep: Arc::new(Semaphore::new(1)),
            rates: options
                .rate
                .map(|(requests, period)| Rates::new(requests, period)),
            failures: Failures::default(),
            failures_complaint: Complaint::new(),
            asks_token: options.asks_token,
            complaint: Complaint::new(),
        }
    }

    /// The answer of a route with what every answer has, and with room for it; or another one.
    fn whole(&self, asked: &Asked, mut response: Response) -> Result<Response, Reject> {
        let method = &asked.parts.method;
        routes::complete(method, &mut response);
        let side = match asked.over_unix() {
            true => &self.socket,
            false => &self.tcp,
        };
        side.fit(response, method)
    }
}

/// Whether payd goes by a name.
pub(super) type Names = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Who is at the other end of a connection.
#[derive(Clone)]
pub(super) enum Peer {
    /// A process of this machine that may open the socket.
    Unix {
        /// The user that it runs as, as events and logs name it.
        actor: Arc<str>,
    },
    /// Anyone who can reach the address.
    Tcp {
        /// The address that the connection came in on.
        local: IpAddr,
        /// Where it came from.
        remote: IpAddr,
        /// The names that the certificate is for, over TLS.
        names: Option<Names>,
    },
}

impl Peer {
    /// A user of this machine.
    pub(super) fn of_uid(uid: u32) -> Self {
        Self::Unix {
            actor: format!("uid:{uid}").into(),
        }
    }
}

tokio::task_local! {
    /// The request that is being answered, where it has no span.
    static ABOUT: Arc<Asked>;
}

/// Writes lines about the request that is being answered.
///
/// A span costs as much as a line, and most requests leave none: where a route writes no lines, there is a
/// span only around those that are written about it.
pub(super) fn tell(lines: impl FnOnce()) {
    let span = ABOUT.try_with(|about| about.span()).ok();
    let _in_span = span.as_ref().map(tracing::Span::enter);
    lines();
}

/// From here on the line about a panic says in which request it was, where that has no span either.
pub fn tell_of_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| tell(|| hook(panic))));
}

impl Asked {
    /// What a log line about it says.
    fn span(&self) -> tracing::Span {
        let id = self.id.as_ref().and_then(|id| id.to_str().ok());
        tracing::info_span!(
            "request",
            request_id = %id.unwrap_or_default(),
            method = %self.parts.method,
            path = %self.parts.uri.path(),
            actor = %self.caller.actor,
            traceparent = self.caller.traceparent.as_deref(),
        )
    }
}

/// Answers a request. Whatever happens inside, there is an answer, and it has its request's id. `last` is
/// done with it before it is given.
///
/// The connection moves what this gives before it is polled: so it is small, and what it needs of the request
/// is in one place.
pub(super) fn answer<B, F, T>(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: axum::http::Request<B>,
    last: F,
) -> impl Future<Output = T> + Send + use<B, F, T>
where
    B: http_body::Body<Data = axum::body::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
    F: FnOnce(Response) -> T + Send,
{
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let mut trace = begin_trace(&shared.app, &parts);
    let known = (shared.app.engine().tokens(), shared.app.wall());
    let proof = Proof::of(peer, &parts.headers, shared.asks_token, known);
    let caller = Caller {
        actor: proof.actor(peer),
        traceparent: match &trace {
            Some(trace) => Some(trace.traceparent()),
            None => headers::traceparent(&parts.headers),
        },
    };
    let remote = match peer {
        Peer::Tcp { remote, .. } => Some(*remote),
        Peer::Unix { .. } => None,
    };
    let found = routes::find(&parts.method, parts.uri.path());
    let guarded = guard(&parts, peer);
    let id = request_id(shared, &parts.headers);
    let mut asked = Arc::new(Asked::new(id, (caller, proof, remote), parts));
    let handling = guarded.map(|()| {
        // Most have none, and it takes no room.
        let body = match body.is_end_stream() {
            true => Body::empty(),
            false => Body::new(body),
        };
        Handling::Waiting(
            found,
            Call::new(Arc::clone(shared), Arc::clone(&asked), body),
        )
    });
    let shared = Arc::clone(shared);
    async move {
        let answer = match handling {
            Ok(handling) => {
                let limit = REQUEST_MAX + Duration::from_secs(asked.wait.unwrap_or(0));
                let answer = match found.lines() {
                    Lines::None => {
                        let about = ABOUT.scope(Arc::clone(&asked), Caught(handling));
                        tokio::time::timeout(limit, about).await
                    }
                    // Few requests: the others need no room for it.
                    Lines::Some => {
                        let about = Caught(handling).instrument(asked.span());
                        Box::pin(tokio::time::timeout(limit, about)).await
                    }
                };
                in_time(answer, limit, &asked.parts.method)
            }
            Err(reject) => Err(reject),
        };
        let answer = answer.and_then(|response| shared.whole(&asked, response));
        // Nothing of a route is in what was said in its place.
        let (mut response, route) = match answer {
            Ok(response) => (response, found.path()),
            Err(reject) => (reject.into_response(), None),
        };
        if response.status().is_server_error() {
            asked.span().in_scope(|| tell_failure(&shared, &response));
        }
        let label = method_label(&asked.parts.method);
        if let Some(trace) = &mut trace {
            end_trace(trace.as_mut(), label, route, response.status());
        }
        shared.app.metrics().request_answered(Answered {
            method: label,
            route: route.unwrap_or("none"),
            status: response.status().as_str(),
            took: started.elapsed(),
        });
        // A stream goes on with it; anything else has ended.
        let id = match Arc::get_mut(&mut asked) {
            Some(asked) => asked.id.take(),
            None => asked.id.clone(),
        };
        if let Some(id) = id {
            response.headers_mut().insert(headers::X_REQUEST_ID, id);
        }
        last(response)
    }
}

/// The client's own id of a request, or a new one.
fn request_id(shared: &Shared, headers: &HeaderMap) -> Option<HeaderValue> {
    let made;
    let mut buffer = [0; Hyphenated::LENGTH];
    let id = match headers::request_id(headers) {
        Some(id) => id,
        None => {
            made = shared.app.new_uuid().hyphenated();
            made.encode_lower(&mut buffer)
        }
    };
    // Neither has a character that a header cannot have.
    HeaderValue::from_str(id).ok()
}

/// The one line of a request that failed or was turned away.
fn tell_failure(shared: &Shared, response: &Response) {
    let cause = response.extensions().get::<Cause>();
    let cause = cause.map_or("", |cause| cause.0.as_str());
    let status = response.status().as_u16();
    if status == Code::Internal.status() {
        tracing::error!(status, cause, "a request failed");
    } else if shared.complaint.is_due(shared.app.now()) {
        tracing::warn!(status, cause, "a request was turned away");
    }
}

/// What is said to a request whose head could not be read, so that there is none to answer: the whole
/// answer as it goes over the wire. `None`: it is not for payd to say.
pub(super) fn refuse_unread(shared: &Shared, status: StatusCode) -> Option<Vec<u8>> {
    let reject = match status {
        StatusCode::BAD_REQUEST => Reject::new(
            Code::MalformedRequest,
            "What came is not HTTP/1.1: its first line or a header is wrong. Over TLS, use https.",
        ),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Reject::new(
            Code::HeadersTooLarge,
            "The first line and the headers must have at most 16 KiB and 100 lines. Send less in them.",
        ),
        _ => return None,
    };
    let id = shared.app.new_uuid().hyphenated();
    let millis = u64::try_from(shared.app.wall().as_millis()).unwrap_or(0);
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(millis));
    let body = reject.to_json();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\nconnection: close\r\n\
         x-request-id: {id}\r\ndate: {date}\r\n\r\n",
        body.len()
    );
    shared.app.metrics().request_answered(Answered {
        method: "other",
        route: "none",
        status: status.as_str(),
        took: Duration::ZERO,
    });
    Some([head.as_bytes(), &body].concat())
}

/// Health checks and scrapes come every few seconds and lead nowhere: they are no traces.
const UNTRACED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The request's span, where payd is traced. What the request causes has it as its parent.
fn begin_trace(app: &App, parts: &Parts) -> Option<Box<dyn Span>> {
    let tracer = app.tracer()?;
    if UNTRACED.contains(&parts.uri.path()) {
        return None;
    }
    Some(tracer.start(SpanStart {
        kind: SpanKind::Server,
        name: "request".into(),
        parent: headers::traceparent(&parts.headers).as_deref(),
        at: None,
    }))
}

/// Names and attributes as OpenTelemetry's conventions have them.
/// Source: <https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server>.
fn end_trace(
    trace: &mut dyn Span,
    method: &'static str,
    route: Option<&'static str>,
    status: StatusCode,
) {
    trace.set("http.request.method", method);
    if let Some(route) = route {
        trace.rename(format!("{method} {route}"));
        trace.set("http.route", route);
    }
    trace.set_number("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        trace.fail("server error");
    }
}

/// A client may send any word as its method: those that payd has no route for are one.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "other",
    }
}

/// What a browser may not do, on behalf of any page: `DESIGN.md`, section 8.
fn guard(parts: &Parts, peer: &Peer) -> Result<(), Reject> {
    if parts.headers.contains_key(ORIGIN) {
        return Err(Reject::new(
            Code::Forbidden,
            "payd does not take requests from web pages, which is what Origin stands for. Call it \
             from a server, without that header.",
        ));
    }
    let Peer::Tcp { local, names, .. } = peer else {
        return Ok(());
    };
    let ours = |host: &str| {
        headers::host_is_ours(host, *local)
            || names
                .as_ref()
                .is_some_and(|names| headers::host_name(host).is_some_and(|it| names(it)))
    };
    if hosts_are_ours(&parts.uri, &parts.headers, parts.version, ours) {
        return Ok(());
    }
    Err(Reject::new(
        Code::MisdirectedRequest,
        "payd answers only to the address that it listens on, to localhost, 127.0.0.1 and [::1]. \
         Send one of these as Host; over TLS, a name that its certificate is for.",
    ))
}

/// The target's authority and the Host header both count; HTTP/1.0 may go without.
fn hosts_are_ours(
    uri: &Uri,
    headers: &HeaderMap,
    version: Version,
    ours: impl Fn(&str) -> bool,
) -> bool {
    let mut said = 0;
    for host in headers.get_all(HOST) {
        said += 1;
        match host.to_str() {
            Ok(host) if ours(host.trim()) => {}
            _ => return false,
        }
    }
    let authority = uri.authority();
    if authority.is_some_and(|it| !ours(it.as_str())) {
        return false;
    }
    match said {
        0 => version < Version::HTTP_11,
        1 => true,
        _ => false,
    }
}

/// The answer, where it has begun in time.
fn in_time<T>(
    answer: Result<Result<T, Reject>, Elapsed>,
    limit: Duration,
    method: &Method,
) -> Result<T, Reject> {
    answer.map_err(|_| Reject::too_slow(limit, method))?
}

/// Runs the handler; a panic is its failure, not the connection's.
struct Caught<F>(F);

impl<F: Future + Unpin> Future for Caught<F> {
    type Output = Result<F::Output, Reject>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let handler = Pin::new(&mut self.0);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| handler.poll(context)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(answer)) => Poll::Ready(Ok(answer)),
            Err(panic) => Poll::Ready(Err(panicked(panic.as_ref()))),
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Reject {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words");
    Reject::internal(format!("a handler panicked: {words}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Told(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Told {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_says_which_request_it_is_about_with_a_span_and_without() {
        let about = || {
            let request = axum::http::Request::post("/invoices?x").body(()).unwrap();
            let caller = Caller {
                actor: "me".into(),
                traceparent: None,
            };
            let id = Some(HeaderValue::from_static("r-1"));
            let (parts, ()) = request.into_parts();
            Arc::new(Asked::new(id, (caller, Proof::Socket, None), parts))
        };
        let work = || async { tell(|| tracing::warn!("it failed")) };
        let told = Told::default();
        let writer = told.clone();
        let lines = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .without_time()
            .with_ansi(false)
            .finish();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        tracing::subscriber::with_default(lines, || {
            runtime.block_on(work().instrument(about().span()));
            runtime.block_on(ABOUT.scope(about(), work()));
            runtime.block_on(work());
        });
        let told = String::from_utf8(told.0.lock().unwrap().clone()).unwrap();
        let told: Vec<_> = told.lines().collect();
        let [with, without, elsewhere] = told.as_slice() else {
            panic!("{told:?}");
        };
        let request = "request{request_id=r-1 method=POST path=/invoices actor=me}: ";
        assert!(
            with.contains(request) && with.contains("it failed"),
            "{with}"
        );
        assert_eq!(with, without);
        assert!(!elsewhere.contains("request"), "{elsewhere}");
    }

    #[test]
    fn every_host_that_a_request_names_must_be_ours() {
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let rows: &[(&str, &[&str], Version, bool)] = &[
            ("/", &["localhost:8080"], Version::HTTP_11, true),
            ("/", &["evil.example"], Version::HTTP_11, false),
            ("/", &[], Version::HTTP_11, false),
            ("/", &[], Version::HTTP_10, true),
            ("/", &["evil.example"], Version::HTTP_10, false),
            ("/", &["localhost", "localhost"], Version::HTTP_11, false),
            (
                "http://evil.example/",
                &["localhost"],
                Version::HTTP_11,
                false,
            ),
            (
                "http://localhost/",
                &["evil.example"],
                Version::HTTP_11,
                false,
            ),
            ("http://localhost/", &["localhost"], Version::HTTP_11, true),
        ];
        for (uri, hosts, version, want) in rows {
            let mut headers = HeaderMap::new();
            for host in *hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            let uri = uri.parse().unwrap();
            let ours = |host: &str| headers::host_is_ours(host, local);
            let got = hosts_are_ours(&uri, &headers, *version, ours);
            assert_eq!(got, *want, "{uri} {hosts:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_given_up() {
        let limit = Duration::from_millis(5);
        let never = Caught(std::future::pending::<()>());
        let answer = tokio::time::timeout(limit, never).await;
        let answer = in_time(answer, limit, &Method::POST);
        let response = answer.unwrap_err().into_response();
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
    }

    #[test]
    fn streams_of_tcp_leave_some_to_the_socket_and_not_more() {
        let places = StreamPlaces::new();
        let mut tcp: Vec<_> = (0..STREAMS_MAX)
            .map(|_| places.take(false).unwrap())
            .collect();
        assert!(places.take(false).is_none());
        let unix: Vec<_> = (0..SOCKET_STREAMS_KEPT)
            .map(|_| places.take(true).unwrap())
            .collect();
        assert!(places.take(true).is_none());
        drop(unix);
        tcp.truncate(STREAMS_MAX / 2);
        let half: Vec<_> = (0..STREAMS_MAX / 2)
            .map(|_| places.take(true).unwrap())
            .collect();
        assert!(places.take(true).is_none() && places.take(false).is_none());
        drop(half);
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let answer =
            Caught::<Pin<Box<dyn Future<Output = ()>>>>(Box::pin(async { panic!("oh {}", "no") }));
        let response = answer.await.unwrap_err().into_response();
        assert_eq!(response.status(), 500);
        let cause = response.extensions().get::<Cause>().unwrap();
        assert_eq!(cause.0, "a handler panicked: oh no");
    }
}
