//! An answer read line by line, in constant memory. It never gives half a line: what the
//! connection cut off is not there, and is asked for again.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use tokio::time::timeout;

use super::Error;

/// The longest line that is taken. An event or an invoice is at most some 100 KiB, as its request
/// was at most 64 KiB.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Lines as they arrive. An empty one is a heartbeat.
pub(crate) struct Lines {
    host: String,
    /// The connection lives as long as this.
    _sender: SendRequest<Full<Bytes>>,
    body: Incoming,
    buffer: Vec<u8>,
    /// Where the lines not given out yet begin.
    start: usize,
}

impl Lines {
    pub(super) fn new(host: String, sender: SendRequest<Full<Bytes>>, body: Incoming) -> Self {
        Self {
            host,
            _sender: sender,
            body,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// Whether a line is there that arrived already.
    pub(crate) fn has_line(&self) -> bool {
        self.buffer[self.start..].contains(&b'\n')
    }

    /// The next line without its end; `None` at the end of the answer. Safe to drop halfway.
    pub(crate) async fn next(&mut self, idle_max: Duration) -> Result<Option<Vec<u8>>, Error> {
        let mut searched = 0;
        loop {
            let rest = &self.buffer[self.start..];
            if let Some(found) = rest[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + found;
                let mut line = rest[..end].to_vec();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                self.start += end + 1;
                return Ok(Some(line));
            }
            searched = rest.len();
            self.buffer.drain(..self.start);
            self.start = 0;
            if searched > LINE_BYTES_MAX {
                return Err(self.broken("a line of its answer is too long to be payd's"));
            }
            let frame = match timeout(idle_max, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(self.broken(&error.to_string())),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(self.broken("it ended in the middle of a line")),
                Err(_) => {
                    return Err(Error::Silent {
                        host: self.host.clone(),
                        after: idle_max,
                    });
                }
            };
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    fn broken(&self, reason: &str) -> Error {
        Error::Broken {
            host: self.host.clone(),
            reason: reason.to_owned(),
            may_have_arrived: true,
        }
    }
}
