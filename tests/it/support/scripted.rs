//! A payd that answers by script, for what a real one does seldom: dropped connections, answers
//! that do not come, streams that break off.
//!
//! It speaks just enough HTTP/1.1 for payctl, and it remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// `POST /invoices/inv-1/pay`, without the query.
    pub(crate) fn route(&self) -> String {
        let path = self.target.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What to do about a request.
pub(crate) enum Reply {
    /// Answers it.
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Closes the connection instead.
    Drop,
    /// Streams these lines, then closes the connection in the middle of the answer.
    Cut(Vec<String>),
    /// Streams these lines, then leaves the connection open.
    Open(Vec<String>),
}

impl Reply {
    /// A JSON answer.
    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        Reply::Answer {
            status,
            headers: vec![("Content-Type", "application/json".into())],
            body: body.into().into_bytes(),
        }
    }

    /// A problem with this code.
    pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Self {
        let body = serde_json::json!({
            "type": format!("urn:payd:error:{code}"), "title": "It is so", "status": status,
            "detail": detail, "code": code,
        });
        Reply::Answer {
            status,
            headers: vec![("Content-Type", "application/problem+json".into())],
            body: body.to_string().into_bytes(),
        }
    }

    /// The same with another header.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Reply::Answer { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

type Script = dyn Fn(&Asked, usize) -> Reply + Send + Sync;

/// A scripted payd on a socket of its own.
pub(crate) struct Scripted {
    host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// The socket lies in it.
    dir: TempDir,
}

impl Scripted {
    /// On a Unix socket. The script gets each request and how many came before it.
    pub(crate) fn start(script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let host = format!("unix://{}", path.display());
        let (asked, script) = shared(script);
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let reader = stream.try_clone().unwrap();
                serve(reader, stream, Arc::clone(&log), Arc::clone(&script));
            }
        });
        Self { host, asked, dir }
    }

    /// On TCP.
    pub(crate) fn start_tcp(
        script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("http://{}", listener.local_addr().unwrap());
        let (asked, script) = shared(script);
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let reader = stream.try_clone().unwrap();
                serve(reader, stream, Arc::clone(&log), Arc::clone(&script));
            }
        });
        let dir = tempfile::tempdir().unwrap();
        Self { host, asked, dir }
    }

    /// Where it listens, as payctl is told.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// payctl, told to talk to this one.
    pub(crate) fn payctl(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The same, not run yet.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = payctl();
        command.arg("--host").arg(&self.host).args(args);
        command
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// What was asked on one route.
    pub(crate) fn asked_for(&self, route: &str) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|request| request.route() == route);
        asked
    }

    /// A file of the test's.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn shared(
    script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Arc<Mutex<Vec<Asked>>>, Arc<Script>) {
    (Arc::default(), Arc::new(script))
}

/// payctl without anything of the environment that could lead it elsewhere.
pub(crate) fn payctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payctl"));
    for name in [
        "PAYD_HOST",
        "PAYD_TOKEN_FILE",
        "PAYD_CACERT",
        "RUNTIME_DIRECTORY",
        "STATE_DIRECTORY",
        "XDG_RUNTIME_DIR",
        "XDG_DATA_HOME",
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "COMPLETE",
    ] {
        command.env_remove(name);
    }
    command
}

fn serve<R, W>(reader: R, mut writer: W, log: Arc<Mutex<Vec<Asked>>>, script: Arc<Script>)
where
    R: Read + Send + 'static,
    W: Write + Send + 'static,
{
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        while let Some(asked) = read(&mut reader) {
            let before = {
                let mut log = log.lock().unwrap();
                log.push(asked.clone());
                log.len() - 1
            };
            let lines = match script(&asked, before) {
                Reply::Drop => return,
                Reply::Answer {
                    status,
                    headers,
                    body,
                } => {
                    let mut head =
                        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
                    for (name, value) in headers {
                        head.push_str(&format!("{name}: {value}\r\n"));
                    }
                    head.push_str("\r\n");
                    let sent = writer
                        .write_all(head.as_bytes())
                        .and_then(|()| writer.write_all(&body));
                    if sent.is_err() {
                        return;
                    }
                    continue;
                }
                Reply::Cut(lines) => {
                    let _ = stream(&mut writer, &lines);
                    return;
                }
                Reply::Open(lines) => lines,
            };
            if stream(&mut writer, &lines).is_err() {
                return;
            }
            // Open until the other side leaves.
            let _ = reader.read(&mut [0]);
            return;
        }
    });
}

fn stream(writer: &mut impl Write, lines: &[String]) -> std::io::Result<()> {
    writer.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
          Transfer-Encoding: chunked\r\n\r\n",
    )?;
    for line in lines {
        write!(writer, "{:x}\r\n{line}\n\r\n", line.len() + 1)?;
    }
    writer.flush()
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or("0", String::as_str);
    let mut body = vec![0; length.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        target,
        headers,
        body,
    })
}
