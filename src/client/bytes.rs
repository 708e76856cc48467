//! An answer read piece by piece, in constant memory. What the connection cut off is an error, and
//! never an end.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use tokio::time::timeout;

use super::Error;

/// Bytes as they arrive.
pub(crate) struct Pieces {
    host: String,
    /// The connection lives as long as this.
    _sender: SendRequest<Full<Bytes>>,
    body: Incoming,
}

impl Pieces {
    pub(super) fn new(host: String, sender: SendRequest<Full<Bytes>>, body: Incoming) -> Self {
        Self {
            host,
            _sender: sender,
            body,
        }
    }

    /// How many bytes are to come, where that was said.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self, idle_max: Duration) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = match timeout(idle_max, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(Error::Broken {
                        host: self.host.clone(),
                        reason: error.to_string(),
                        may_have_arrived: true,
                    });
                }
                Err(_) => {
                    return Err(Error::Silent {
                        host: self.host.clone(),
                        after: idle_max,
                    });
                }
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}
