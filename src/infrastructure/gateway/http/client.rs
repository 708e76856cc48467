//! One request, one answer: it tells what was provably not sent from what may have been.
//!
//! It never repeats a request. A kept connection that turns out to be dead gives the request back
//! unsent (hyper vouches for that: it had not begun to write it), and only then does it go out on a
//! fresh one. It follows no redirect, and reads no answer beyond [`ANSWER_BYTES_MAX`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HOST, HeaderValue};
use hyper::{Request, Response};
use tokio::time::{Instant, timeout_at};

use super::connect::{Connection, Connector};
use super::points;
use super::pool::Pool;
use super::retry_after::retry_after;
use super::token::{Secret, TokenFile};
use super::wire::Answer;

/// Longer answers are cut off (`DESIGN.md`, section 7).
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long it may take to find a kept connection that is ready. One is, but for a moment after its
/// last answer.
const READY_WAIT: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// No byte of the request left.
    NotSent(String),
    /// Some of it, or all of it, may have.
    Lost(String),
}

/// An answer, and the token with which it was asked for.
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) secret: Option<Arc<Secret>>,
}

/// A request that has not been sent. It goes through several hands, and stays where it is.
pub(super) type Unsent = Box<Request<Full<Bytes>>>;

/// See the module.
pub(super) struct Client {
    pub(super) connector: Connector,
    pub(super) pool: Pool,
    /// The value of `Host`.
    pub(super) host: HeaderValue,
    pub(super) token: Option<TokenFile>,
    /// For one request, from its beginning to the last byte of the answer.
    pub(super) limit: Duration,
}

impl Client {
    /// Sends a request, whose headers lack only `Host` and `Authorization`. `points` are the
    /// failpoints of a charge; a lookup has none on the wire.
    pub(super) async fn send(
        &self,
        mut request: Unsent,
        is_charge: bool,
    ) -> Result<Answered, Failed> {
        let deadline = Instant::now() + self.limit;
        let secret = self.authorize(&mut request, deadline).await?;
        let (connection, answer) = self.exchange(request, deadline, is_charge).await?;
        let head = answer.status().as_u16();
        let retry_after = retry_after(answer.headers(), SystemTime::now());
        let encoded = answer
            .headers()
            .get_all(CONTENT_ENCODING)
            .iter()
            .any(|it| !it.as_bytes().eq_ignore_ascii_case(b"identity"));
        if head < 200 {
            // 101 would make the connection something else.
            return Err(Failed::Lost(format!("the gateway answered {head}")));
        }
        if is_charge {
            reached("gateway.mid_answer")?;
        }
        let body = match timeout_at(deadline, read(answer.into_body())).await {
            Ok(body) => body?,
            Err(_) => {
                return Err(Failed::Lost(format!(
                    "no whole answer within {:?}",
                    self.limit
                )));
            }
        };
        reached(if is_charge {
            "gateway.answered"
        } else {
            "lookup.answered"
        })?;
        // Only here is nothing left of the answer that could be taken for the next one.
        if !connection.sender.is_closed() {
            self.pool.give_back(connection);
        }
        Ok(Answered {
            answer: Answer {
                status: head,
                body: (!encoded).then_some(body),
                retry_after,
            },
            secret,
        })
    }

    async fn authorize(
        &self,
        request: &mut Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Option<Arc<Secret>>, Failed> {
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        let Some(file) = &self.token else {
            return Ok(None);
        };
        let secret = match timeout_at(deadline, file.current()).await {
            Ok(secret) => secret.map_err(|error| Failed::NotSent(error.to_string()))?,
            Err(_) => {
                return Err(Failed::NotSent(
                    "the gateway's token file could not be read in time".to_owned(),
                ));
            }
        };
        let Some(value) = secret.to_header() else {
            return Err(Failed::NotSent(
                "the gateway's token cannot stand in a header".to_owned(),
            ));
        };
        headers.insert(AUTHORIZATION, value);
        Ok(Some(secret))
    }

    /// The head of the answer, on a connection that is closed if the body is not read.
    async fn exchange(
        &self,
        mut request: Unsent,
        deadline: Instant,
        is_charge: bool,
    ) -> Result<(Connection, Response<Incoming>), Failed> {
        let mut kept = self.kept().await;
        loop {
            let reused = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.fresh(deadline).await?,
            };
            if is_charge && let Err(failed) = points::reach("gateway.connected") {
                return Err(Failed::NotSent(failed.to_string()));
            }
            // From here on it may have been sent, unless hyper gives it back.
            let sending = connection.sender.try_send_request(*request);
            let mut failed = match timeout_at(deadline, sending).await {
                Ok(Ok(answer)) => return Ok((connection, answer)),
                Ok(Err(failed)) => failed,
                Err(_) => return Err(Failed::Lost(format!("no answer within {:?}", self.limit))),
            };
            match failed.take_message() {
                Some(unsent) if reused => *request = unsent,
                Some(_) => {
                    return Err(Failed::NotSent(format!(
                        "the gateway closed the connection before anything was sent: {}",
                        chain(&failed.into_error())
                    )));
                }
                None => {
                    return Err(Failed::Lost(format!(
                        "the connection broke before there was an answer: {}",
                        chain(&failed.into_error())
                    )));
                }
            }
        }
    }

    /// A connection that has served before, and can again.
    async fn kept(&self) -> Option<Connection> {
        let mut until = None;
        while let Some(mut connection) = self.pool.take() {
            // Most are ready, and need no timer.
            if !connection.sender.is_ready() {
                let until = *until.get_or_insert_with(|| Instant::now() + READY_WAIT);
                match timeout_at(until, connection.sender.ready()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => continue,
                    Err(_) => return None,
                }
            }
            // Asked only now, when it is about to be written to.
            if connection.is_reusable() {
                return Some(connection);
            }
        }
        None
    }

    async fn fresh(&self, deadline: Instant) -> Result<Connection, Failed> {
        match timeout_at(deadline, self.connector.connect()).await {
            Ok(connected) => connected.map_err(Failed::NotSent),
            Err(_) => Err(Failed::NotSent(format!(
                "no connection within {:?}",
                self.limit
            ))),
        }
    }
}

fn reached(point: &str) -> Result<(), Failed> {
    points::reach(point).map_err(|failed| Failed::Lost(failed.to_string()))
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Failed::Lost(format!("the answer broke off: {}", chain(&error))))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if bytes.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(Failed::Lost(format!(
                "the answer is longer than {ANSWER_BYTES_MAX} bytes, and was cut off"
            )));
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// An error with what caused it; hyper's own words name only the stage.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
