//! What the gateway has under each key, and what it makes of a send.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ledger::{Fact, Ledger, Writer};
use super::plan::{Chance, Fate, Look, Manner, Script};

/// All accounts, and where facts about them go.
pub(super) struct Book {
    accounts: HashMap<String, Account>,
    ledger: Writer,
    chance: Chance,
    /// So long after it was executed, lookups do not see a charge.
    lag: Duration,
}

/// What goes back for a send.
pub(super) struct Answer {
    pub(super) manner: Manner,
    pub(super) status: u16,
    pub(super) body: Value,
}

/// What goes back for a lookup.
pub(super) struct Told {
    pub(super) manner: Look,
    pub(super) status: u16,
    pub(super) body: Value,
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

impl Book {
    /// With what an earlier process wrote down.
    pub(super) fn open(path: &Path, chance: Chance, lag: Duration) -> Self {
        Self {
            accounts: accounts(&Ledger::read(path), chance, lag),
            ledger: Writer::open(path),
            chance,
            lag,
        }
    }

    /// Executes a send, or finds that it has been, or loses it; on disk when this returns. `None`:
    /// the key had another body.
    pub(super) fn charge(&mut self, key: &str, body: &Value, bytes: &[u8]) -> Option<Answer> {
        let invoice = body["invoice_id"].as_str().unwrap_or_default();
        let attempt = attempt_of(&self.accounts, key, invoice);
        let digest = digest_of(bytes);
        let mut facts = vec![asked(key, body, &digest)];
        let (amount, currency) = (&body["amount"], &body["currency"]);
        let account = self.accounts.entry(key.to_owned()).or_insert_with(|| {
            Account::new(
                invoice,
                attempt,
                amount.as_u64().unwrap_or_default(),
                currency.as_str().unwrap_or_default(),
                &digest,
                self.chance,
            )
        });
        if account.digest != digest {
            let key = key.to_owned();
            facts.push(Fact::KeyReused { key });
            self.ledger.write(&facts);
            return None;
        }
        account.sends += 1;
        account.script = Script::of(&body["metadata"], attempt);
        let manner = match &account.script {
            Some(script) => {
                account.fate = script.fate;
                script.manner(account.sends)
            }
            None => self.chance.manner(invoice, attempt, account.sends),
        };
        let named = || key.to_owned();
        match manner {
            Manner::Lost | Manner::Refuse(_) => facts.push(Fact::Lost { key: named() }),
            Manner::SentAway { .. } => facts.push(Fact::SentAway { key: named() }),
            _ => facts.extend(account.execute(key)),
        }
        let how = format!("{manner:?}");
        facts.push(Fact::Answered { key: named(), how });
        let (status, body) = account.answer(key);
        self.ledger.write(&facts);
        Some(Answer {
            manner,
            status,
            body,
        })
    }

    /// What a lookup is told. `is_held`: whether nothing is to be told about an invoice.
    pub(super) fn look_up(&mut self, key: &str, is_held: impl Fn(&str) -> bool) -> Told {
        let mut facts = Vec::new();
        let mut told = "not found";
        let mut answer = Told {
            manner: Look::Plain,
            status: 404,
            body: json!({"error": {"code": "not_found"}}),
        };
        if let Some(account) = self.accounts.get_mut(key) {
            account.lookups += 1;
            if account.script.is_none() {
                answer.manner = self.chance.look(key, account.lookups);
            }
            if is_held(&account.invoice) {
                answer.manner = Look::Error500;
            }
            match account.standing {
                None => {}
                Some((_, since)) if since.elapsed() < self.lag => told = "not yet",
                Some((standing, _)) => {
                    let is_late = standing == Standing::Pending && account.lookups >= 2;
                    // What the client does not get to hear is not decided.
                    if is_late && answer.manner.is_heard() {
                        facts.push(account.settle(key));
                    }
                    told = "what stands";
                    answer.status = 200;
                    answer.body = account.answer(key).1;
                }
            }
        }
        if !answer.manner.is_heard() {
            told = "nothing";
        }
        let (key, told) = (key.to_owned(), told.to_owned());
        let looked = Fact::LookedUp { key, told };
        if facts.is_empty() {
            self.ledger.note(&[looked]);
        } else {
            facts.push(looked);
            self.ledger.write(&facts);
        }
        answer
    }
}

impl Account {
    fn new(
        invoice: &str,
        attempt: usize,
        amount: u64,
        currency: &str,
        digest: &str,
        chance: Chance,
    ) -> Self {
        Self {
            invoice: invoice.to_owned(),
            attempt,
            amount,
            currency: currency.to_owned(),
            digest: digest.to_owned(),
            fate: chance.fate(invoice, attempt),
            script: None,
            sends: 0,
            lookups: 0,
            standing: None,
        }
    }

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

/// What the ledger of an earlier process says.
fn accounts(before: &Ledger, chance: Chance, lag: Duration) -> HashMap<String, Account> {
    // What an earlier process executed can be looked up from the first moment: a gateway that starts again and hides
    // for `lag` what it has said to be pending would break its word on how long that takes.
    let before_that = Instant::now().checked_sub(lag);
    let since = before_that.expect("the machine has run for longer than that");
    let stand = |accounts: &mut HashMap<String, Account>, key: &str, standing| {
        let account = accounts.get_mut(key).expect("it was asked for first");
        account.standing = Some((standing, since));
    };
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
                let account = accounts.entry(key.clone()).or_insert_with(|| {
                    Account::new(invoice, attempt, *amount, currency, digest, chance)
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

/// Which of its invoice's keys it is: that does not change when another follows.
fn attempt_of(accounts: &HashMap<String, Account>, key: &str, invoice: &str) -> usize {
    let before = || accounts.values().filter(|it| it.invoice == invoice).count();
    accounts
        .get(key)
        .map_or_else(|| 1 + before(), |it| it.attempt)
}

fn asked(key: &str, body: &Value, digest: &str) -> Fact {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    Fact::Asked {
        key: key.to_owned(),
        invoice: text("invoice_id"),
        payment: text("payment_id"),
        amount: body["amount"].as_u64().unwrap_or_default(),
        currency: text("currency"),
        digest: digest.to_owned(),
    }
}

fn digest_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
