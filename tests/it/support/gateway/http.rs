//! As much of HTTP/1.1 as a gateway needs whose manners are bad on purpose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// A request, whole.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) key: Option<String>,
    pub(super) body: Vec<u8>,
}

/// One connection.
pub(super) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self(BufReader::new(stream))
    }

    /// The next request. `None`: the client is gone, or did not finish it.
    pub(super) fn request(&mut self) -> Option<Request> {
        let mut line = String::new();
        self.line(&mut line)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let (mut key, mut length) = (None, 0);
        loop {
            self.line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "idempotency-key" => key = Some(value.trim().to_owned()),
                "content-length" => length = value.trim().parse().ok()?,
                "transfer-encoding" => panic!("the client sends a length"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        Some(Request {
            method,
            path,
            key,
            body,
        })
    }

    fn line(&mut self, line: &mut String) -> Option<()> {
        line.clear();
        self.0.read_line(line).ok().filter(|read| *read > 0)?;
        let end = line.trim_end().len();
        line.truncate(end);
        Some(())
    }

    /// An answer, and the connection stays.
    pub(super) fn answer(&mut self, status: u16, headers: &str, body: &str) {
        self.write(
            format!(
                "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
    }

    /// Half of an answer: its head, and half of its body.
    pub(super) fn half_answer(&mut self, status: u16, body: &str) {
        let head = format!(
            "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.write(head.as_bytes());
        self.write(&body.as_bytes()[..body.len() / 2]);
    }

    /// A client that is gone has missed it.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// Closes with a reset.
    pub(super) fn reset(&mut self) {
        let _ = rustix::net::sockopt::set_socket_linger(self.0.get_ref(), Some(Duration::ZERO));
    }

    /// Closes.
    pub(super) fn close(&mut self) {
        let _ = self.0.get_ref().shutdown(Shutdown::Both);
    }

    /// Waits until the client has gone.
    pub(super) fn wait_for_end(&mut self) {
        let mut byte = [0];
        let _ = self.0.read(&mut byte);
    }
}
