//! A gateway with a ledger: one charge a key, for ever, whoever asks. What it makes of a charge, the payment
//! method says, word by word for each new key of an invoice: `soft+ok` declines the first and charges the
//! second. It can hold answers back, and be blind to lookups, until the test says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use crate::support::daemon::until;
use crate::support::stub::{Act, Call, Stub, answer};

#[derive(Clone)]
struct Charge {
    invoice: String,
    body: Value,
    word: String,
}

#[derive(Default)]
struct Books {
    charges: BTreeMap<String, Charge>,
    /// Keys of an invoice, in the order in which they came.
    keys: BTreeMap<String, Vec<String>>,
    released: BTreeSet<String>,
    blind: bool,
}

#[derive(Default)]
struct Shared {
    books: Mutex<Books>,
    changed: Condvar,
}

/// See the module.
pub(super) struct Ledger {
    pub(super) stub: Stub,
    shared: Arc<Shared>,
}

impl Ledger {
    pub(super) fn open() -> Self {
        let shared = Arc::<Shared>::default();
        let books = Arc::clone(&shared);
        let stub = Stub::start(move |call| books.act(call));
        Self { stub, shared }
    }

    /// Charges that stand for an invoice.
    pub(super) fn charged(&self, invoice: &str) -> usize {
        let books = self.shared.books.lock().unwrap();
        let charges = books.charges.values();
        charges
            .filter(|it| it.invoice == invoice && matches!(it.word.as_str(), "ok" | "mute"))
            .count()
    }

    /// Waits until a charge has come for an invoice.
    pub(super) fn until_posted(&self, invoice: &str) {
        until(&format!("{invoice} is at the gateway"), || {
            self.stub.count("POST", invoice) > 0
        });
    }

    /// Answers what is held back for an invoice.
    pub(super) fn release(&self, invoice: &str) {
        let mut books = self.shared.books.lock().unwrap();
        books.released.insert(invoice.to_owned());
        self.shared.changed.notify_all();
    }

    /// Whether lookups tell nothing.
    pub(super) fn blind(&self, blind: bool) {
        self.shared.books.lock().unwrap().blind = blind;
    }

    /// Decides what it has accepted.
    pub(super) fn decide(&self, invoice: &str, word: &str) {
        let mut books = self.shared.books.lock().unwrap();
        for charge in books.charges.values_mut() {
            if charge.invoice == invoice && charge.word == "pending" {
                word.clone_into(&mut charge.word);
            }
        }
    }

    /// The methods of the requests about a key since the first `seen` requests in all, in order.
    pub(super) fn asked(&self, key: &str, seen: usize) -> Vec<String> {
        let calls = self.stub.calls().into_iter().skip(seen);
        calls
            .filter(|call| call.target.ends_with(key) || call.charge["reference"] == key)
            .map(|call| call.method)
            .collect()
    }
}

impl Shared {
    fn act(&self, call: &Call) -> Act {
        if call.method == "GET" {
            return self.look_up(call);
        }
        let key = call.charge["reference"].as_str().unwrap().to_owned();
        let method = call.charge["payment_method"].as_str().unwrap_or("ok");
        let (held, words) = match method.strip_prefix("held+") {
            Some(words) => (true, words),
            None => (false, method),
        };
        let mut books = self.books.lock().unwrap();
        if held && !books.keys.contains_key(&call.invoice) {
            // The charge is made when the answer is.
            let wait = |books: &mut Books| !books.released.contains(&call.invoice);
            books = self.changed.wait_while(books, wait).unwrap();
        }
        let books = &mut *books;
        if let Some(standing) = books.charges.get(&key) {
            assert_eq!(standing.body, call.charge, "a key with other parameters");
        } else {
            let keys = books.keys.entry(call.invoice.clone()).or_default();
            keys.push(key.clone());
            let word = words.split('+').nth(keys.len() - 1).unwrap_or("ok");
            if word == "lost" {
                keys.pop();
                books.keys.entry(call.invoice.clone()).or_default();
                // Only the first send is.
                if call.before == 0 {
                    return Act::Reset;
                }
            }
            let word = if word == "lost" { "ok" } else { word };
            books.charges.insert(
                key.clone(),
                Charge {
                    invoice: call.invoice.clone(),
                    body: call.charge.clone(),
                    word: word.to_owned(),
                },
            );
        }
        match books.charges[&key].word.as_str() {
            "mute" => Act::Reset,
            "reused" => answer(409, &json!({"error": {"code": "idempotency_key_reused"}})),
            word => said(402, call, word),
        }
    }

    fn look_up(&self, call: &Call) -> Act {
        let books = self.books.lock().unwrap();
        if books.blind {
            return answer(503, &json!({}));
        }
        let key = call.target.rsplit('/').next().unwrap();
        match books.charges.get(key) {
            None => answer(404, &json!({"error": {"code": "not_found"}})),
            Some(charge) => said(200, call, &charge.word),
        }
    }
}

fn said(declined: u16, call: &Call, word: &str) -> Act {
    match word {
        "ok" | "mute" => answer(200, &call.echo("succeeded")),
        "pending" => answer(200, &call.echo("pending")),
        "soft" | "hard" => {
            let more = json!({"decline_code": "insufficient_funds", "retryable": word == "soft"});
            answer(declined, &call.echo_with("declined", &more))
        }
        other => panic!("no such word: {other}"),
    }
}
