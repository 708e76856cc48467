//! payd is killed again and again at random moments while clients pay through a gateway with faults,
//! which is killed, too; and then all of them agree to the last payment (`docs/RELIABILITY.md`).
//!
//! The long one: `PAYD_PAYMENTS=5000 PAYD_KILLS=200 cargo test --release --test it -- kill_loop --nocapture`,
//! with `PAYD_SEED=N` to have the faults and the moments of an earlier run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::audit::{Accounts, audit};
use crate::support::daemon::{Daemon, until};
use crate::support::gateway::{Fact, Gateway, Ledger};
use crate::support::http::{Answer, Host};

const CLIENTS: usize = 12;

/// Payments that may begin before the kill that is meant for them.
const AHEAD: usize = 2 * CLIENTS;

/// Every so many kills, the gateway is killed as well.
const GATEWAY_KILL_EVERY: usize = 7;

/// How long payd may live: from before its workers have begun, to some hundred payments.
const LIFE_MS_MAX: u64 = 250;

/// Every so many starts, on average, payd is killed before it is ready, within so long.
const START_KILL_EVERY: u64 = 5;
const START_MS_MAX: u64 = 30;

/// An answer that a client has got.
struct Acknowledged {
    number: usize,
    step: &'static str,
    status: u16,
    body: Value,
}

struct Run {
    seed: usize,
    payments: usize,
    kills: usize,
    /// The same after every start.
    host: Host,
    next: AtomicUsize,
    killed: AtomicUsize,
    acknowledged: Mutex<Vec<Acknowledged>>,
    /// Requests that broke off, or were refused because payd was stopping or starting.
    broken: AtomicUsize,
}

fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |it| it.parse().expect(name))
}

#[test]
fn kill_loop_ends_with_one_truth() {
    let random = getrandom::u32().unwrap();
    let seed = number("PAYD_SEED", usize::try_from(random).unwrap());
    say(&format!("PAYD_SEED={seed}"));
    let begun = Instant::now();
    let mut gateway = Gateway::with(&[
        ("GATEWAY_SEED", &seed.to_string()),
        ("GATEWAY_FAULTS_PERCENT", "30"),
        ("GATEWAY_LAG_MS", "30"),
    ]);
    let mut daemon = Daemon::with(&[
        ("PAYD_GATEWAY__KIND", "http"),
        ("PAYD_GATEWAY__HTTP__URL", &gateway.url()),
        ("PAYD_GATEWAY__HTTP__LOOKUP_LAG", "100ms"),
        // Well above what the gateway takes on a busy machine: else the lookups that give up would
        // keep it from answering the others.
        ("PAYD_GATEWAY__TIMEOUT", "1s"),
        ("PAYD_RETRY__CAP", "200ms"),
        ("PAYD_RETRY__MAX_ATTEMPTS", "3"),
        ("PAYD_RESOLVER__CAP", "1s"),
        ("PAYD_LOG__LEVEL", "warn"),
    ]);
    let run = Run {
        seed,
        payments: number("PAYD_PAYMENTS", 300),
        kills: number("PAYD_KILLS", 15),
        host: daemon.unix.clone(),
        next: AtomicUsize::new(0),
        killed: AtomicUsize::new(0),
        acknowledged: Mutex::default(),
        broken: AtomicUsize::new(0),
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| run.client())).collect();
        run.kill_them(&mut daemon, &mut gateway);
        for client in clients {
            client.join().unwrap();
        }
    });
    // The faults go on to the end.
    until_settled(&daemon);
    let lasted = begun.elapsed();
    let ledger = gateway.ledger();
    let accounts = audit(&daemon, &ledger);
    run.agrees(&accounts);
    run.report(&daemon, &accounts, &ledger, lasted);
    assert!(daemon.stop().success());
}

impl Run {
    fn draw(&self, bound: u64, what: &str, n: usize) -> u64 {
        let digest = Sha256::digest(format!("{}/{what}/{n}", self.seed));
        u64::from_le_bytes(digest[..8].try_into().unwrap()) % bound
    }

    /// Payment after payment, as fast as the kills come.
    fn client(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.payments {
                return;
            }
            until("its kill is near", || {
                let share = self.killed.load(Ordering::Relaxed) * self.payments / self.kills.max(1);
                number < share + AHEAD
            });
            self.pay(number);
        }
    }

    /// One payment, as a client that knows what it is doing asks for it: with keys, and again until
    /// it is answered. Some are asked for twice, and some are called off.
    fn pay(&self, number: usize) {
        let id = id(number);
        self.ask(number, "create", "/invoices", &self.invoice(number));
        self.ask(number, "pay", &format!("/invoices/{id}/pay"), &Value::Null);
        match self.draw(20, "then", number) {
            0 => {
                let again = format!("/invoices/{id}/pay");
                self.ask(number, "pay again", &again, &Value::Null);
            }
            1 => {
                let reason = json!({"reason": "changed their mind"});
                self.ask(number, "cancel", &format!("/invoices/{id}/cancel"), &reason);
            }
            _ => {}
        }
    }

    fn invoice(&self, number: usize) -> Value {
        let amount = 1 + self.draw(100_000, "amount", number);
        let currency = ["USD", "EUR", "JPY"][number % 3];
        let metadata = json!({"number": number.to_string()});
        json!({"id": id(number), "amount": amount, "currency": currency, "metadata": metadata})
    }

    /// Asks until there is an answer, and notes it.
    fn ask(&self, number: usize, step: &'static str, path: &str, body: &Value) {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let key = format!("{number}/{step}");
        let headers = [
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key.as_str()),
        ];
        let mut answer = None;
        until(&format!("{key} is answered"), || {
            let asked = self.host.request("POST", path, &headers, body.as_bytes());
            answer = asked.ok().filter(is_word);
            if answer.is_none() {
                self.broken.fetch_add(1, Ordering::Relaxed);
            }
            answer.is_some()
        });
        let answer = answer.unwrap();
        self.acknowledged.lock().unwrap().push(Acknowledged {
            number,
            step,
            status: answer.status,
            body: answer.json(),
        });
    }

    fn kill_them(&self, daemon: &mut Daemon, gateway: &mut Gateway) {
        for kill in 0..self.kills {
            if kill % GATEWAY_KILL_EVERY == GATEWAY_KILL_EVERY - 1 {
                gateway.kill();
                gateway.start_again();
            }
            // The moment is what is random here; nothing is waited for.
            std::thread::sleep(Duration::from_millis(self.draw(LIFE_MS_MAX, "life", kill)));
            daemon.kill();
            self.killed.fetch_add(1, Ordering::Relaxed);
            if self.draw(START_KILL_EVERY, "start", kill) == 0 {
                daemon.kill_while_it_starts(Duration::from_millis(self.draw(
                    START_MS_MAX,
                    "start life",
                    kill,
                )));
            }
            daemon.start_again();
        }
    }

    /// Everything that a client was told is so.
    fn agrees(&self, accounts: &Accounts) {
        assert_eq!(accounts.len(), self.payments, "one invoice a payment");
        let mut pays = 0;
        for told in self.acknowledged.lock().unwrap().iter() {
            let account = &accounts[&id(told.number)];
            let (step, status) = (told.step, told.status);
            match (step, status) {
                ("create", 201) => {
                    let wanted = self.invoice(told.number);
                    for (field, value) in wanted.as_object().unwrap() {
                        assert_eq!(account.invoice[field], *value, "{}", told.body);
                        assert_eq!(told.body[field], *value, "{}", told.body);
                    }
                }
                ("pay" | "pay again", 200 | 202) => {
                    pays += usize::from(step == "pay");
                    let promised = |payment: &&Value| payment["id"] == told.body["id"];
                    assert!(
                        account.payments.iter().any(|it| promised(&it)),
                        "{}",
                        told.body
                    );
                }
                ("cancel", 200) => assert_eq!(account.status(), "CANCELED", "{}", told.body),
                // Canceled unless it had been charged.
                ("cancel", 202) => {
                    assert!(
                        ["CANCELED", "PAID"].contains(&account.status()),
                        "{}",
                        told.body
                    );
                }
                ("cancel", 409) => assert_eq!(account.status(), "PAID", "{}", told.body),
                _ => panic!("{step} was answered {status}: {}", told.body),
            }
        }
        assert_eq!(pays, self.payments, "each was acknowledged once");
    }

    /// What happened, for people.
    fn report(&self, daemon: &Daemon, accounts: &Accounts, ledger: &Ledger, lasted: Duration) {
        let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
        let mut events: BTreeMap<&str, usize> = BTreeMap::new();
        for account in accounts.values() {
            *ended.entry(account.status()).or_default() += 1;
            for event in &account.events {
                *events.entry(event["type"].as_str().unwrap()).or_default() += 1;
            }
        }
        let mut manners: BTreeMap<&str, usize> = BTreeMap::new();
        for fact in &ledger.facts {
            if let Fact::Answered { how, .. } = fact {
                let how = how.split([' ', '(']).next().unwrap_or_default();
                *manners.entry(how).or_default() += 1;
            }
        }
        let asked = |fact: &&Fact| matches!(fact, Fact::Asked { .. });
        let looked = |fact: &&Fact| matches!(fact, Fact::LookedUp { .. });
        say(&format!(
            "{} payments, {} kills of payd and {} of the gateway, {:.1} s; {} requests of clients broke off\n\
             invoices {ended:?}\nevents {} {events:?}\n\
             gateway: {} sends {manners:?}, {} lookups, {} charges",
            self.payments,
            self.killed.load(Ordering::Relaxed),
            self.kills / GATEWAY_KILL_EVERY,
            lasted.as_secs_f32(),
            self.broken.load(Ordering::Relaxed),
            daemon.events().len(),
            ledger.facts.iter().filter(asked).count(),
            ledger.facts.iter().filter(looked).count(),
            ledger.charges().len(),
        ));
    }
}

fn id(number: usize) -> String {
    format!("inv-{number}")
}

/// Not that payd is starting or stopping, or that the first request is still running.
fn is_word(answer: &Answer) -> bool {
    let in_progress = answer.status == 409 && answer.json()["code"] == "request_in_progress";
    answer.status < 500 && !in_progress
}

/// As long as something moves, it is waited for: how much there is depends on the run.
fn until_settled(daemon: &Daemon) {
    let open = || {
        let status = daemon.unix.get("/admin/status").expect(200);
        let states = ["requested", "sending", "accepted", "unknown"];
        let open = states.map(|state| status["payments"][state].as_u64().unwrap());
        (open.iter().sum::<u64>(), status["events"]["head"].clone())
    };
    let mut before = open();
    while before.0 > 0 {
        until("something settles", || {
            let now = open();
            std::mem::replace(&mut before, now.clone()) != now
        });
    }
}

/// Shown with `--nocapture`, and where the test fails.
#[expect(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}
