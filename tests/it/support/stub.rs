//! A gateway that answers by script, byte by byte: for what a real one does seldom. It remembers
//! every request, the connection it came on, and what was charged.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::Daemon;
use super::http::Wire;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    /// As they came, names included.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The invoice that it is about: of a lookup, the one whose charge came with that reference.
    pub(crate) invoice: String,
    /// How many requests with this method came for this invoice before.
    pub(crate) before: usize,
    /// The body of the charge; of a lookup, that of the charge that it is about.
    pub(crate) charge: Value,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{name} comes once");
        value
    }

    /// The charge as section 7 answers it.
    pub(crate) fn echo(&self, status: &str) -> Value {
        json!({
            "id": format!("ch_{}", self.invoice), "reference": self.charge["reference"],
            "amount": self.charge["amount"], "currency": self.charge["currency"], "status": status,
        })
    }

    /// The same with some fields changed.
    pub(crate) fn echo_with(&self, status: &str, more: &Value) -> Value {
        let mut body = self.echo(status);
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    }
}

/// What to do about a request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Sends these bytes, and goes on with the connection.
    Say(Vec<u8>),
    /// Sends these bytes, and closes.
    SayAndClose(Vec<u8>),
    /// Closes with a reset.
    Reset,
    /// Says nothing more until the other side leaves.
    Hold(Vec<u8>),
    /// Sends these bytes one at a time, so long apart.
    Drip(Vec<u8>, Duration),
    /// Sends the first, and the second once the test has come to the barrier; it comes there twice.
    Twice(Vec<u8>, Vec<u8>, Arc<Barrier>),
}

/// An answer with a JSON body.
pub(crate) fn answer(status: u16, body: &Value) -> Act {
    answer_with(status, &[], body.to_string().as_bytes())
}

/// The same with headers.
pub(crate) fn answer_with(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Act {
    Act::Say(bytes(status, headers, body))
}

/// An answer with a JSON body, as bytes.
pub(crate) fn bytes(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// Whether a connection is read at all, and how far: by its number.
pub(crate) enum Accept {
    Serve,
    /// Closed before anything was read.
    Close,
    /// Closed, with a reset, after so many bytes of the first request were read.
    ResetAfter(usize),
}

type Script = dyn Fn(&Call) -> Act + Send + Sync;
type Doorman = dyn Fn(usize) -> Accept + Send + Sync;

/// See the module.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    calls: Mutex<Vec<Call>>,
    connections: Mutex<usize>,
    left: Mutex<usize>,
}

impl Stub {
    pub(crate) fn start(script: impl Fn(&Call) -> Act + Send + Sync + 'static) -> Self {
        Self::with_doorman(|_| Accept::Serve, script)
    }

    pub(crate) fn with_doorman(
        doorman: impl Fn(usize) -> Accept + Send + Sync + 'static,
        script: impl Fn(&Call) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, doorman, script)
    }

    /// On a socket of the test's.
    pub(crate) fn on(
        listener: TcpListener,
        doorman: impl Fn(usize) -> Accept + Send + Sync + 'static,
        script: impl Fn(&Call) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::over(listener, doorman, |tcp| Some(Box::new(tcp)), script)
    }

    /// The same, with something between TCP and HTTP; nothing where that fails.
    pub(crate) fn over(
        listener: TcpListener,
        doorman: impl Fn(usize) -> Accept + Send + Sync + 'static,
        secure: impl Fn(TcpStream) -> Option<Box<dyn Wire>> + Send + Sync + 'static,
        script: impl Fn(&Call) -> Act + Send + Sync + 'static,
    ) -> Self {
        let secure = Arc::new(secure);
        let address = listener.local_addr().unwrap();
        let log = Arc::<Log>::default();
        let script: Arc<Script> = Arc::new(script);
        let doorman: Arc<Doorman> = Arc::new(doorman);
        let shared = Arc::clone(&log);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = {
                    let mut connections = shared.connections.lock().unwrap();
                    *connections += 1;
                    *connections - 1
                };
                let accept = doorman(number);
                let (log, script) = (Arc::clone(&shared), Arc::clone(&script));
                let secure = Arc::clone(&secure);
                thread::spawn(move || match accept {
                    Accept::Serve => {
                        let tcp = stream.try_clone().unwrap();
                        if let Some(wire) = secure(stream) {
                            serve(wire, &tcp, number, &log, script.as_ref());
                        }
                    }
                    Accept::Close => drop(stream),
                    Accept::ResetAfter(count) => {
                        let mut some = vec![0; count];
                        let _ = (&stream).read_exact(&mut some);
                        reset(&stream);
                    }
                });
            }
        });
        Self { address, log }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A payd that charges here, with short waits; settings as environment variables.
    pub(crate) fn daemon(&self, settings: &[(&str, &str)]) -> Daemon {
        daemon_of(&self.url(), settings)
    }

    /// All requests so far, but for probes.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let mut calls = self.log.calls.lock().unwrap().clone();
        calls.retain(|call| !call.target.ends_with("/charges/payd-probe"));
        calls
    }

    /// How many of one method came for one invoice.
    pub(crate) fn count(&self, method: &str, invoice: &str) -> usize {
        let is_it = |call: &&Call| call.method == method && call.invoice == invoice;
        self.calls().iter().filter(is_it).count()
    }

    /// Connections that payd closed while it had the word, or was held.
    pub(crate) fn left(&self) -> usize {
        *self.log.left.lock().unwrap()
    }

    /// Connections that were made.
    pub(crate) fn connections(&self) -> usize {
        *self.log.connections.lock().unwrap()
    }
}

/// A payd whose gateway is at this URL.
pub(crate) fn daemon_of(url: &str, settings: &[(&str, &str)]) -> Daemon {
    let mut all = vec![
        ("PAYD_GATEWAY__KIND", "http"),
        ("PAYD_GATEWAY__HTTP__URL", url),
        ("PAYD_GATEWAY__HTTP__LOOKUP_LAG", "0s"),
        ("PAYD_GATEWAY__TIMEOUT", "5s"),
        // Time for a lookup to be answered before the next is due, however many it takes.
        ("PAYD_RESOLVER__BASE", "500ms"),
        ("PAYD_RESOLVER__CAP", "500ms"),
        ("PAYD_RETRY__CAP", "100ms"),
    ];
    all.extend_from_slice(settings);
    Daemon::with(&all)
}

fn serve(
    mut stream: Box<dyn Wire>,
    tcp: &TcpStream,
    connection: usize,
    log: &Log,
    script: &Script,
) {
    let mut unread = Vec::new();
    while let Some(call) = read(&mut stream, &mut unread, connection, log) {
        // A probe is about no payment, and every script lets it in.
        let act = if call.target.ends_with("/charges/payd-probe") {
            answer(404, &json!({}))
        } else {
            script(&call)
        };
        match act {
            Act::Say(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Act::SayAndClose(bytes) => {
                let _ = stream.write_all(&bytes);
                return;
            }
            Act::Reset => return reset(tcp),
            Act::Hold(bytes) => {
                let _ = stream.write_all(&bytes);
                // Until payd leaves.
                while stream.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
                *log.left.lock().unwrap() += 1;
                return;
            }
            Act::Twice(first, second, barrier) => {
                let _ = stream.write_all(&first);
                barrier.wait();
                let _ = stream.write_all(&second);
                barrier.wait();
            }
            Act::Drip(bytes, pause) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).is_err() {
                        return;
                    }
                    thread::sleep(pause);
                }
            }
        }
    }
    *log.left.lock().unwrap() += 1;
}

/// Closing will be seen as a reset by the other side.
fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}

fn read(stream: &mut dyn Wire, unread: &mut Vec<u8>, connection: usize, log: &Log) -> Option<Call> {
    let end = loop {
        if let Some(at) = unread.windows(4).position(|it| it == b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, unread)?;
    };
    let head = String::from_utf8(unread[..end].to_vec()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    assert_eq!(words.next(), Some("HTTP/1.1"));
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.parse().unwrap());
    while unread.len() < end + length {
        more(stream, unread)?;
    }
    let body = unread[end..end + length].to_vec();
    unread.drain(..end + length);

    let mut calls = log.calls.lock().unwrap();
    let charge = if method == "POST" {
        serde_json::from_slice(&body).unwrap()
    } else {
        let reference = target.rsplit('/').next()?;
        calls
            .iter()
            .map(|call| &call.charge)
            .find(|charge| charge["reference"] == reference)
            .cloned()
            .unwrap_or_default()
    };
    let invoice = charge["invoice_id"].as_str().unwrap_or_default().to_owned();
    let before = calls
        .iter()
        .filter(|call| call.method == method && call.invoice == invoice)
        .count();
    let call = Call {
        at: Instant::now(),
        connection,
        method,
        target,
        headers,
        body,
        invoice,
        before,
        charge,
    };
    calls.push(call.clone());
    Some(call)
}

fn more(stream: &mut dyn Wire, unread: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
    unread.extend_from_slice(&buffer[..count]);
    Some(())
}
