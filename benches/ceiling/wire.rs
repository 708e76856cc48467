//! HTTP/1.1 as the load speaks it: one connection, one request at a time, no more work than is needed to
//! tell where an answer ends. The machine that makes the load is the machine that is measured.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// Where a server is reached.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    Socket(PathBuf),
    Tcp {
        address: SocketAddr,
        /// What it wants to see with each request.
        token: Option<String>,
    },
}

impl Peer {
    /// The header that shows who asks, with its line end.
    pub(crate) fn authorization(&self) -> String {
        match self {
            Self::Tcp {
                token: Some(token), ..
            } => format!("authorization: Bearer {token}\r\n"),
            _ => String::new(),
        }
    }

    pub(crate) async fn open(&self) -> io::Result<Wire> {
        let address = match self {
            Self::Socket(path) => return Wire::open(path).await,
            Self::Tcp { address, .. } => address,
        };
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Wire::new(Either::Right(stream)))
    }
}

/// A connection that is kept.
pub(crate) struct Wire {
    stream: Either<UnixStream, TcpStream>,
    received: Vec<u8>,
}

/// An answer; its body is good until the next request.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Wire {
    pub(crate) async fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self::new(Either::Left(UnixStream::connect(socket).await?)))
    }

    fn new(stream: Either<UnixStream, TcpStream>) -> Self {
        Self {
            stream,
            received: Vec::with_capacity(8 * 1024),
        }
    }

    /// Sends a request, whole as it is, and reads its answer.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.received.clear();
        let (head, length) = loop {
            if let Some(head) = find(&self.received, b"\r\n\r\n") {
                break (head + 4, length(&self.received[..head]));
            }
            self.more().await?;
        };
        let length = match length {
            Some(length) => length,
            None => self.chunks(head).await?,
        };
        while self.received.len() < head + length {
            self.more().await?;
        }
        let status = self
            .received
            .get(9..12)
            .and_then(|it| std::str::from_utf8(it).ok())
            .and_then(|it| it.parse().ok())
            .ok_or_else(|| broken("no status"))?;
        Ok(Answer {
            status,
            body: &self.received[head..head + length],
        })
    }

    /// The length of a body in chunks (RFC 9112, 7.1), with their sizes: a list that comes in pieces.
    async fn chunks(&mut self, head: usize) -> io::Result<usize> {
        let mut at = head;
        loop {
            let line = find(&self.received[at..], b"\r\n");
            let Some(line) = line else {
                self.more().await?;
                continue;
            };
            let size = std::str::from_utf8(&self.received[at..at + line]).ok();
            let size = size.and_then(|it| usize::from_str_radix(it, 16).ok());
            let size = size.ok_or_else(|| broken("neither a length nor chunks"))?;
            // The size's line, and what ends a chunk; after the last one, an empty trailer.
            at += line + 2 + size + 2;
            while self.received.len() < at {
                self.more().await?;
            }
            if size == 0 {
                return Ok(at - head);
            }
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::other(format!("an answer has {what}"))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|it| it == what)
}

fn length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let value = line.get(NAME.len()..)?;
        line[..NAME.len()]
            .eq_ignore_ascii_case(NAME)
            .then_some(())?;
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}

/// A POST of JSON, with more headers, each with its line end.
pub(crate) fn post(target: &str, kind: &str, more: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n{more}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A GET.
pub(crate) fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}
