//! The gateway itself, as it runs in its own process.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::book::{Answer, Book};
use super::http::{Connection, Request};
use super::plan::{Chance, Look, Manner};

/// What the environment says: `GATEWAY_DIR`, `GATEWAY_ADDRESS`, and for charges whose metadata have
/// no script `GATEWAY_SEED` and `GATEWAY_FAULTS_PERCENT`. `GATEWAY_LAG_MS`: so long after a charge,
/// lookups do not see it.
struct Settings {
    directory: PathBuf,
    address: SocketAddr,
    chance: Chance,
    lag: Duration,
}

struct Gateway {
    settings: Settings,
    book: Mutex<Book>,
    /// Nobody listens until then.
    refuse_until: Mutex<Option<Instant>>,
}

/// Not a test: the gateway, when `super::Gateway` runs this binary again.
#[test]
#[ignore = "it is the gateway of other tests"]
fn the_gateway_process() {
    let Some(directory) = std::env::var_os("GATEWAY_DIR").map(PathBuf::from) else {
        return;
    };
    std::thread::spawn(|| {
        // Whoever started this holds the other end until it ends.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let number = |name: &str| {
        let said = std::env::var(name).ok();
        said.map_or(0, |it| it.parse().expect(name))
    };
    let address = std::env::var("GATEWAY_ADDRESS").expect("GATEWAY_ADDRESS");
    let settings = Settings {
        address: address.parse().expect("an address"),
        chance: Chance {
            seed: number("GATEWAY_SEED"),
            faults_percent: number("GATEWAY_FAULTS_PERCENT"),
        },
        lag: Duration::from_millis(number("GATEWAY_LAG_MS")),
        directory,
    };
    run(settings);
}

fn run(mut settings: Settings) {
    let path = settings.directory.join("ledger");
    let mut listener = TcpListener::bind(settings.address).unwrap();
    settings.address = listener.local_addr().unwrap();
    let [draft, announced] = ["address.new", "address"].map(|it| settings.directory.join(it));
    std::fs::write(&draft, settings.address.to_string()).unwrap();
    std::fs::rename(draft, announced).unwrap();
    let address = settings.address;
    let gateway = Arc::new(Gateway {
        book: Mutex::new(Book::open(&path, settings.chance, settings.lag)),
        settings,
        refuse_until: Mutex::default(),
    });
    loop {
        let (stream, _) = listener.accept().unwrap();
        let until = gateway.refuse_until.lock().unwrap().take();
        if let Some(until) = until {
            drop((stream, listener));
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            listener = TcpListener::bind(address).unwrap();
            continue;
        }
        let gateway = Arc::clone(&gateway);
        std::thread::spawn(move || gateway.serve(Connection::new(stream)));
    }
}

impl Gateway {
    fn serve(&self, mut wire: Connection) {
        while let Some(request) = wire.request() {
            let goes_on = match (request.method.as_str(), request.path.as_str()) {
                ("POST", "/charges") => self.charge(&request, &mut wire),
                ("GET", path) if path.starts_with("/charges/") => {
                    self.look_up(&path["/charges/".len()..], &mut wire)
                }
                _ => {
                    wire.answer(404, "", r#"{"error":{"code":"no_such_route"}}"#);
                    true
                }
            };
            if !goes_on {
                return wire.close();
            }
        }
    }

    /// Whether the connection goes on.
    fn charge(&self, request: &Request, wire: &mut Connection) -> bool {
        let Some((key, body)) = well_formed(request) else {
            wire.answer(422, "", r#"{"error":{"code":"malformed"}}"#);
            return true;
        };
        // On disk before a byte of the answer leaves.
        let answer = self.book.lock().unwrap().charge(&key, &body, &request.body);
        let Some(answer) = answer else {
            wire.answer(409, "", r#"{"error":{"code":"idempotency_key_reused"}}"#);
            return true;
        };
        let invoice = body["invoice_id"].as_str().unwrap_or_default();
        self.wait_while_held("answer", invoice);
        self.behave(&answer, wire)
    }

    fn behave(&self, answer: &Answer, wire: &mut Connection) -> bool {
        let (status, text) = (answer.status, answer.body.to_string());
        match answer.manner {
            Manner::Plain => wire.answer(status, "", &text),
            Manner::Slow(time) => {
                std::thread::sleep(time);
                wire.answer(status, "", &text);
            }
            Manner::Error500 => wire.answer(500, "", r#"{"error":{"code":"oops"}}"#),
            Manner::Garbage => wire.answer(200, "", "<html>not what you want</html>"),
            Manner::Mismatch => {
                let mut other = answer.body.clone();
                other["amount"] = json!(other["amount"].as_u64().unwrap() + 1);
                wire.answer(status, "", &other.to_string());
            }
            Manner::SentAway { retry_after_s } => {
                let header = format!("Retry-After: {retry_after_s}\r\n");
                wire.answer(429, &header, r#"{"error":{"code":"rate_limited"}}"#);
            }
            Manner::Noise => {
                wire.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n");
                return false;
            }
            Manner::Half => {
                wire.half_answer(status, &text);
                return false;
            }
            Manner::Reset => {
                wire.reset();
                return false;
            }
            Manner::Close | Manner::Lost => return false,
            Manner::Timeout => {
                wire.wait_for_end();
                return false;
            }
            Manner::Refuse(time) => {
                *self.refuse_until.lock().unwrap() = Some(Instant::now() + time);
                // Wakes whoever accepts.
                let _ = TcpStream::connect(self.settings.address);
                return false;
            }
        }
        true
    }

    /// Whether the connection goes on.
    fn look_up(&self, key: &str, wire: &mut Connection) -> bool {
        let is_held = |invoice: &str| self.is_there(&format!("hold-lookup.{invoice}"));
        let told = self.book.lock().unwrap().look_up(key, is_held);
        if let Look::Slow(time) = told.manner {
            std::thread::sleep(time);
        }
        match told.manner {
            Look::Plain | Look::Slow(_) => wire.answer(told.status, "", &told.body.to_string()),
            Look::Error500 => wire.answer(500, "", r#"{"error":{"code":"oops"}}"#),
            Look::Garbage => wire.answer(200, "", "{"),
            Look::SentAway => wire.answer(429, "Retry-After: 0\r\n", r#"{"error":{}}"#),
            Look::Close => return false,
        }
        true
    }

    fn is_there(&self, name: &str) -> bool {
        self.settings.directory.join(name).exists()
    }

    fn wait_while_held(&self, what: &str, invoice: &str) {
        let name = format!("hold-{what}.{invoice}");
        while self.is_there(&name) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The key and the body of a request that is as section 7 says.
fn well_formed(request: &Request) -> Option<(String, Value)> {
    let key = request.key.clone()?;
    let body: Value = serde_json::from_slice(&request.body).ok()?;
    let whole = body["reference"] == key.as_str()
        && body["invoice_id"].is_string()
        && body["payment_id"].is_string()
        && body["amount"].is_u64()
        && body["currency"].is_string();
    whole.then_some((key, body))
}
