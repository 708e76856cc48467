//! One POST to the collector, on a connection of its own: once a second at most, so keeping one open would
//! save nothing. Plain HTTP, since a collector stands beside payd; redirects are not followed.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::net::TcpStream;

/// An answer says how many spans it took, at most with a sentence.
const ANSWER_MAX: usize = 64 * 1024;

/// See the module.
pub(super) struct Http {
    limit: Duration,
}

impl Http {
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

type Sending<'f> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>;

impl HttpClient for Http {
    // What #[async_trait] makes of the trait's method.
    fn send_bytes<'s, 'f>(&'s self, request: Request<Bytes>) -> Sending<'f>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            match tokio::time::timeout(self.limit, post(request)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {:?}", self.limit).into()),
            }
        })
    }
}

async fn post(mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let authority = request
        .uri()
        .authority()
        .ok_or("the endpoint has no host")?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await?;
    let name = HeaderValue::from_str(authority.as_str())?;
    request.headers_mut().insert(HOST, name);
    let path = request.uri().path().parse()?;
    *request.uri_mut() = path;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let answer = sender.send_request(request.map(Full::new)).await?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    // The connection moves the bytes of the exchange, and ends with it.
    tokio::select! {
        biased;
        answer = exchange => answer,
        ended = connection => match ended {
            Ok(()) => Err("the collector closed the connection".into()),
            Err(error) => Err(error.into()),
        },
    }
}
