//! A plain HTTP client that shows what was on the wire. It is not payctl's, on purpose.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Nothing in a test takes this long; a read that does is a hang, and fails.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a daemon listens.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    Unix(PathBuf),
    /// With the token that requests show unless they say otherwise.
    Tcp(SocketAddr, Option<String>),
}

pub(crate) trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

impl Host {
    pub(crate) fn connect(&self) -> std::io::Result<Box<dyn Wire>> {
        Ok(match self {
            Self::Unix(path) => {
                let wire = UnixStream::connect(path)?;
                wire.set_read_timeout(Some(READ_TIMEOUT))?;
                Box::new(wire)
            }
            Self::Tcp(address, _) => {
                let wire = TcpStream::connect(address)?;
                wire.set_read_timeout(Some(READ_TIMEOUT))?;
                Box::new(wire)
            }
        })
    }

    /// The same one, where requests show another token or none.
    pub(crate) fn showing(&self, token: Option<&str>) -> Self {
        match self {
            Self::Unix(path) => Self::Unix(path.clone()),
            Self::Tcp(address, _) => Self::Tcp(*address, token.map(str::to_owned)),
        }
    }

    /// A request without a body.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"").unwrap()
    }

    /// A POST with a JSON body.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.post_with(path, &[], body)
    }

    /// The same with headers of the test's own.
    pub(crate) fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut all = vec![];
        let typed = headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !body.is_empty() && !typed {
            all.push(("Content-Type", "application/json"));
        }
        all.extend_from_slice(headers);
        self.request("POST", path, &all, body.as_bytes()).unwrap()
    }

    /// Any request, and its whole answer.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut stream = self.open(method, path, headers, body)?;
        let mut body = Vec::new();
        stream.read_to_end(&mut body)?;
        Ok(Answer {
            status: stream.status,
            headers: stream.headers,
            body,
        })
    }

    /// Any request, with the body of its answer yet to be read.
    pub(crate) fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Stream> {
        let mut wire = self.connect()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let given = |name: &str| {
            headers
                .iter()
                .any(|(other, _)| other.eq_ignore_ascii_case(name))
        };
        if !given("host") {
            head.push_str("Host: localhost\r\n");
        }
        if let Self::Tcp(_, Some(token)) = self
            && !given("authorization")
        {
            write!(head, "Authorization: Bearer {token}\r\n").unwrap();
        }
        if !given("connection") {
            head.push_str("Connection: close\r\n");
        }
        if !given("content-length")
            && !given("transfer-encoding")
            && (method != "GET" || !body.is_empty())
        {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        head.push_str("\r\n");
        wire.write_all(head.as_bytes())?;
        // A server that refuses the body may have answered and closed already.
        let _ = wire.write_all(body);
        let _ = wire.flush();
        Stream::read_head(wire)
    }
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("answers are UTF-8")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Each line as JSON.
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        self.text()
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The body, where the status is as expected.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> serde_json::Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// A problem document of this code, where it is one to the letter.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> serde_json::Value {
        let problem = self.expect(status);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("urn:payd:error:{code}"));
        assert_eq!(problem["status"], status);
        for text in ["title", "detail"] {
            assert!(
                problem[text].as_str().is_some_and(|it| !it.is_empty()),
                "{problem}"
            );
        }
        problem
    }
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// An answer whose body is read as it comes, with the transfer coding taken off.
pub(crate) struct Stream {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    wire: BufReader<Box<dyn Wire>>,
    body: Body,
}

enum Body {
    Length(u64),
    Chunk(u64),
    UntilClose,
    Done,
}

impl Stream {
    fn read_head(wire: Box<dyn Wire>) -> std::io::Result<Self> {
        let mut wire = BufReader::new(wire);
        let mut line = String::new();
        wire.read_line(&mut line)?;
        let invalid = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no HTTP answer");
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|it| it.parse().ok())
            .ok_or_else(invalid)?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            wire.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let body = if header(&headers, "transfer-encoding") == Some("chunked") {
            Body::Chunk(0)
        } else if let Some(length) = header(&headers, "content-length") {
            Body::Length(length.parse().unwrap())
        } else {
            Body::UntilClose
        };
        Ok(Self {
            status,
            headers,
            wire,
            body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The next line, without its end. `None`: the answer is over.
    pub(crate) fn line(&mut self) -> std::io::Result<Option<String>> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.read(&mut byte)? {
                0 if line.is_empty() => return Ok(None),
                0 => break,
                _ if byte[0] == b'\n' => break,
                _ => line.push(byte[0]),
            }
        }
        Ok(Some(String::from_utf8(line).expect("lines are UTF-8")))
    }

    /// The next line that is not empty, as JSON.
    pub(crate) fn json(&mut self) -> Option<serde_json::Value> {
        loop {
            let line = self.line().unwrap()?;
            if !line.is_empty() {
                return Some(serde_json::from_str(&line).unwrap());
            }
        }
    }

    /// The next event of an SSE stream: its id and its data.
    pub(crate) fn sse(&mut self) -> Option<(String, serde_json::Value)> {
        let (mut id, mut data) = (String::new(), String::new());
        loop {
            let line = self.line().unwrap()?;
            if let Some(value) = line.strip_prefix("id:") {
                value.trim().clone_into(&mut id);
            } else if let Some(value) = line.strip_prefix("data:") {
                data.push_str(value);
            } else if line.is_empty() && !data.is_empty() {
                return Some((id, serde_json::from_str(&data).unwrap()));
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.body {
            Body::Done => Ok(0),
            Body::UntilClose => self.wire.read(buffer),
            Body::Length(left) => {
                let read = (&mut self.wire).take(left).read(buffer)?;
                self.body = Body::Length(left - read as u64);
                Ok(read)
            }
            Body::Chunk(0) => {
                let mut line = String::new();
                while line.trim().is_empty() {
                    line.clear();
                    if self.wire.read_line(&mut line)? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
                let length = u64::from_str_radix(line.trim(), 16).expect("a chunk's length");
                self.body = if length == 0 {
                    Body::Done
                } else {
                    Body::Chunk(length)
                };
                self.read(buffer)
            }
            Body::Chunk(left) => {
                let read = (&mut self.wire).take(left).read(buffer)?;
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                self.body = Body::Chunk(left - read as u64);
                Ok(read)
            }
        }
    }
}
