//! The gateway itself, as it runs in its own process.

use std::collections::HashMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::http::{Connection, Request};
use super::ledger::{Fact, Ledger, Writer};
use super::plan::{Chance, Fate, Look, Manner, Script};

/// What the environment says: `GATEWAY_DIR`, `GATEWAY_ADDRESS`, and for charges whose metadata have
/// no script `GATEWAY_SEED` and `GATEWAY_FAULTS_PERCENT`. `GATEWAY_LAG_MS`: so long after a charge,
/// lookups do not see it.
struct Settings {
    directory: PathBuf,
    address: SocketAddr,
    chance: Chance,
    lag: Duration,
}

/// What the gateway has under a key.
struct Account {
    invoice: String,
    /// The invoice's how manieth key it is.
    attempt: usize,
    amount: u64,
    currency: String,
    digest: String,
    fate: Fate,
    script: Option<Script>,
    sends: usize,
    lookups: usize,
    /// What stands, and since when. None: every send so far was lost.
    standing: Option<(Standing, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Pending,
    Charged,
    Declined { retryable: bool },
}

struct State {
    accounts: HashMap<String, Account>,
    ledger: Writer,
}

struct Gateway {
    settings: Settings,
    state: Mutex<State>,
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
    let before = Ledger::read(&path);
    let mut listener = TcpListener::bind(settings.address).unwrap();
    settings.address = listener.local_addr().unwrap();
    let [draft, announced] = ["address.new", "address"].map(|it| settings.directory.join(it));
    std::fs::write(&draft, settings.address.to_string()).unwrap();
    std::fs::rename(draft, announced).unwrap();
    let address = settings.address;
    let gateway = Arc::new(Gateway {
        state: Mutex::new(State {
            accounts: accounts(&before, settings.chance),
            ledger: Writer::open(&path),
        }),
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

/// What the ledger of an earlier process says.
fn accounts(before: &Ledger, chance: Chance) -> HashMap<String, Account> {
    let mut accounts: HashMap<String, Account> = HashMap::new();
    for fact in &before.facts {
        match fact {
            Fact::Asked {
                key,
                invoice,
                amount,
                currency,
                digest,
                ..
            } => {
                let attempt = attempt_of(&accounts, key, invoice);
                let account = accounts.entry(key.clone()).or_insert_with(|| Account {
                    invoice: invoice.clone(),
                    attempt,
                    amount: *amount,
                    currency: currency.clone(),
                    digest: digest.clone(),
                    fate: chance.fate(invoice, attempt),
                    script: None,
                    sends: 0,
                    lookups: 0,
                    standing: None,
                });
                account.sends += 1;
            }
            Fact::Pending { key, .. } => stand(&mut accounts, key, Standing::Pending),
            Fact::Charged { key, .. } => stand(&mut accounts, key, Standing::Charged),
            Fact::Declined { key, retryable, .. } => {
                let retryable = *retryable;
                stand(&mut accounts, key, Standing::Declined { retryable });
            }
            Fact::Lost { .. }
            | Fact::SentAway { .. }
            | Fact::KeyReused { .. }
            | Fact::Answered { .. }
            | Fact::LookedUp { .. } => {}
        }
    }
    accounts
}

fn stand(accounts: &mut HashMap<String, Account>, key: &str, standing: Standing) {
    let account = accounts.get_mut(key).expect("it was asked for first");
    account.standing = Some((standing, Instant::now()));
}

fn attempt_of(accounts: &HashMap<String, Account>, key: &str, invoice: &str) -> usize {
    let others = accounts.iter();
    1 + others
        .filter(|(other, account)| *other != key && account.invoice == invoice)
        .count()
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
        let calm = self.is_there("calm");
        let mut state = self.state.lock().unwrap();
        let mut facts = vec![asked(&key, &body, &request.body)];
        let Some(manner) = state.take(&key, &body, &request.body, self.settings.chance, calm)
        else {
            facts.push(Fact::KeyReused { key });
            state.ledger.write(&facts);
            wire.answer(409, "", r#"{"error":{"code":"idempotency_key_reused"}}"#);
            return true;
        };
        let account = state.accounts.get_mut(&key).expect("it was just taken");
        match manner {
            Manner::Lost | Manner::Refuse(_) => facts.push(Fact::Lost { key: key.clone() }),
            Manner::SentAway { .. } => facts.push(Fact::SentAway { key: key.clone() }),
            _ => facts.extend(account.execute(&key)),
        }
        let (status, answer) = account.answer(&key);
        let invoice = account.invoice.clone();
        let how = format!("{manner:?}");
        facts.push(Fact::Answered { key, how });
        // On disk before a byte of the answer leaves.
        state.ledger.write(&facts);
        drop(state);
        self.wait_while_held("answer", &invoice);
        self.behave(manner, status, &answer, wire)
    }

    fn behave(&self, manner: Manner, status: u16, answer: &Value, wire: &mut Connection) -> bool {
        let text = answer.to_string();
        match manner {
            Manner::Plain => wire.answer(status, "", &text),
            Manner::Slow(time) => {
                std::thread::sleep(time);
                wire.answer(status, "", &text);
            }
            Manner::Error500 => wire.answer(500, "", r#"{"error":{"code":"oops"}}"#),
            Manner::Garbage => wire.answer(200, "", "<html>not what you want</html>"),
            Manner::Mismatch => {
                let mut other = answer.clone();
                other["amount"] = json!(answer["amount"].as_u64().unwrap() + 1);
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
        let calm = self.is_there("calm");
        let mut state = self.state.lock().unwrap();
        let (mut facts, mut manner) = (Vec::new(), Look::Plain);
        let mut told = "not found";
        let mut answer = (404, json!({"error": {"code": "not_found"}}));
        if let Some(account) = state.accounts.get_mut(key) {
            account.lookups += 1;
            if account.script.is_none() && !calm {
                manner = self.settings.chance.look(key, account.lookups);
            }
            if self.is_there(&format!("hold-lookup.{}", account.invoice)) {
                manner = Look::Error500;
            }
            match account.standing {
                None => {}
                Some((_, since)) if since.elapsed() < self.settings.lag => told = "not yet",
                Some((standing, _)) => {
                    if standing == Standing::Pending && account.lookups >= 2 {
                        facts.push(account.settle(key));
                    }
                    let (_, body) = account.answer(key);
                    told = "what stands";
                    answer = (200, body);
                }
            }
        }
        if !matches!(manner, Look::Plain | Look::Slow(_)) {
            told = "nothing";
        }
        let (key, told) = (key.to_owned(), told.to_owned());
        facts.push(Fact::LookedUp { key, told });
        state.ledger.write(&facts);
        drop(state);
        if let Look::Slow(time) = manner {
            std::thread::sleep(time);
        }
        match manner {
            Look::Plain | Look::Slow(_) => wire.answer(answer.0, "", &answer.1.to_string()),
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

impl State {
    /// Opens an account for a key, or finds it. `None`: the key had another body.
    fn take(
        &mut self,
        key: &str,
        body: &Value,
        bytes: &[u8],
        chance: Chance,
        calm: bool,
    ) -> Option<Manner> {
        let invoice = body["invoice_id"].as_str().unwrap_or_default();
        let attempt = attempt_of(&self.accounts, key, invoice);
        let script = Script::of(&body["metadata"], attempt);
        let account = self
            .accounts
            .entry(key.to_owned())
            .or_insert_with(|| Account {
                invoice: invoice.to_owned(),
                attempt,
                amount: body["amount"].as_u64().unwrap_or_default(),
                currency: body["currency"].as_str().unwrap_or_default().to_owned(),
                digest: digest_of(bytes),
                fate: chance.fate(invoice, attempt),
                script: None,
                sends: 0,
                lookups: 0,
                standing: None,
            });
        if account.digest != digest_of(bytes) {
            return None;
        }
        account.sends += 1;
        if let Some(script) = script {
            account.fate = script.fate;
            account.script = Some(script.clone());
            return Some(script.manner(account.sends));
        }
        if calm {
            return Some(Manner::Plain);
        }
        Some(chance.manner(invoice, account.attempt, account.sends))
    }
}

impl Account {
    fn id(&self, key: &str) -> String {
        format!("ch_{}", &digest_of(key.as_bytes())[..16])
    }

    /// Nothing where it has been executed before.
    fn execute(&mut self, key: &str) -> Option<Fact> {
        if self.standing.is_some() {
            return None;
        }
        let (standing, fact) = match self.fate {
            Fate::Charged => (Standing::Charged, self.charged(key)),
            Fate::Declined => self.decline(key, false),
            Fate::SoftlyDeclined => self.decline(key, true),
            Fate::PendingThenCharged | Fate::PendingThenDeclined => {
                let (key, id) = (key.to_owned(), self.id(key));
                (Standing::Pending, Fact::Pending { key, id })
            }
        };
        self.standing = Some((standing, Instant::now()));
        Some(fact)
    }

    /// What was pending is decided.
    fn settle(&mut self, key: &str) -> Fact {
        let (standing, fact) = if self.fate == Fate::PendingThenDeclined {
            self.decline(key, false)
        } else {
            (Standing::Charged, self.charged(key))
        };
        let since = self.standing.map_or_else(Instant::now, |(_, since)| since);
        self.standing = Some((standing, since));
        fact
    }

    fn charged(&self, key: &str) -> Fact {
        Fact::Charged {
            key: key.to_owned(),
            id: self.id(key),
            invoice: self.invoice.clone(),
            amount: self.amount,
            currency: self.currency.clone(),
        }
    }

    fn decline(&self, key: &str, retryable: bool) -> (Standing, Fact) {
        let fact = Fact::Declined {
            key: key.to_owned(),
            id: self.id(key),
            invoice: self.invoice.clone(),
            code: decline_code(retryable).to_owned(),
            retryable,
        };
        (Standing::Declined { retryable }, fact)
    }

    fn answer(&self, key: &str) -> (u16, Value) {
        let mut body = json!({
            "id": self.id(key), "reference": key, "amount": self.amount, "currency": self.currency,
            "status": "succeeded",
        });
        match self.standing.map(|(standing, _)| standing) {
            Some(Standing::Charged) => (201, body),
            None | Some(Standing::Pending) => {
                body["status"] = json!("pending");
                (200, body)
            }
            Some(Standing::Declined { retryable }) => {
                body["status"] = json!("declined");
                body["decline_code"] = json!(decline_code(retryable));
                body["retryable"] = json!(retryable);
                // Both ways of saying so are in the contract.
                (if retryable { 200 } else { 402 }, body)
            }
        }
    }
}

const fn decline_code(retryable: bool) -> &'static str {
    if retryable {
        "insufficient_funds"
    } else {
        "do_not_honor"
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

fn asked(key: &str, body: &Value, bytes: &[u8]) -> Fact {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    Fact::Asked {
        key: key.to_owned(),
        invoice: text("invoice_id"),
        payment: text("payment_id"),
        amount: body["amount"].as_u64().unwrap_or_default(),
        currency: text("currency"),
        digest: digest_of(bytes),
    }
}

fn digest_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
