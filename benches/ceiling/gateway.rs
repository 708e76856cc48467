//! The gateway that both sides call: it approves, at once, on one thread. It keeps nothing, so a lookup
//! finds nothing; a load that needs lookups measures something else.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;

/// What of a charge comes back.
#[derive(Deserialize)]
struct Charge<'a> {
    reference: &'a str,
    amount: u64,
    currency: &'a str,
}

/// Serves until it is killed. Its port is the first line on stdout.
pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap().port());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            // Its end is the client's business.
            tokio::spawn(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
            );
        }
    });
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::POST || request.uri().path() != "/charges" {
        let mut never = Response::new(Full::from("{\"error\":{\"code\":\"not_found\"}}"));
        *never.status_mut() = StatusCode::NOT_FOUND;
        return Ok(never);
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let charge: Charge<'_> = serde_json::from_slice(&body).unwrap();
    let Charge {
        reference,
        amount,
        currency,
    } = charge;
    let body = format!(
        r#"{{"id":"ch_{reference}","reference":"{reference}","amount":{amount},"currency":"{currency}","status":"succeeded"}}"#
    );
    let mut response = Response::new(Full::from(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
