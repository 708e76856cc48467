//! What payd says, held against what the gateway wrote down: they must agree to the last payment.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::daemon::Daemon;
use super::gateway::Ledger;

/// An invoice with all that payd says of it.
pub(crate) struct Account {
    pub(crate) invoice: Value,
    pub(crate) payments: Vec<Value>,
    pub(crate) events: Vec<Value>,
}

/// All of payd's invoices, by id.
pub(crate) type Accounts = BTreeMap<String, Account>;

/// Holds a payd in which nothing is open against the ledger of its gateway: the log is dense, whole
/// and what the tables fold to; each charge is known to exactly one payment, each PAID invoice has
/// exactly one charge, everything else none; and the gateway saw nothing that the rules forbid.
#[track_caller]
pub(crate) fn audit(daemon: &Daemon, ledger: &Ledger) -> Accounts {
    daemon.verify();
    ledger.check();
    let accounts = accounts(daemon);
    let charges = ledger.charges();
    for id in charges.keys() {
        assert!(
            accounts.contains_key(id),
            "{id} was charged and payd does not know it"
        );
    }
    let declined = ledger.declined();
    for (id, account) in &accounts {
        account.agrees_with_itself(id);
        account.agrees_with_the_gateway(id, ledger, &declined);
        let charges = charges.get(id).map_or(&[][..], Vec::as_slice);
        let succeeded = account.succeeded();
        assert_eq!(
            charges.len(),
            succeeded.len(),
            "{id}: {charges:?}, {:?}",
            account.payments
        );
        for (charge, payment) in charges.iter().zip(succeeded) {
            assert_eq!(payment["idempotency_key"], charge.key.as_str(), "{id}");
            assert_eq!(payment["gateway_reference"], charge.id.as_str(), "{id}");
            assert_eq!(account.invoice["amount"], charge.amount, "{id}");
            assert_eq!(
                account.invoice["currency"],
                charge.currency.as_str(),
                "{id}"
            );
        }
    }
    accounts
}

fn accounts(daemon: &Daemon) -> Accounts {
    let mut accounts = Accounts::new();
    let stream = daemon.unix.request(
        "GET",
        "/invoices",
        &[("Accept", "application/x-ndjson")],
        b"",
    );
    for invoice in stream.unwrap().lines() {
        let id = invoice["id"].as_str().unwrap().to_owned();
        let page = daemon.unix.get(&format!("/invoices/{id}/payments"));
        let payments = page.expect(200)["payments"].as_array().unwrap().clone();
        let events = Vec::new();
        let account = Account {
            invoice,
            payments,
            events,
        };
        accounts.insert(id, account);
    }
    for event in daemon.events() {
        let account = accounts.get_mut(event["subject"].as_str().unwrap());
        account
            .expect("an event is about an invoice that is there")
            .events
            .push(event);
    }
    accounts
}

impl Account {
    pub(crate) fn status(&self) -> &str {
        self.invoice["status"].as_str().unwrap()
    }

    fn succeeded(&self) -> Vec<&Value> {
        let succeeded = |payment: &&Value| payment["status"] == "SUCCEEDED";
        self.payments.iter().filter(succeeded).collect()
    }

    /// How often an event of this type was written.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|it| it["type"] == kind).count()
    }

    /// Invariant 3, and the log against the tables once more, from outside.
    #[track_caller]
    fn agrees_with_itself(&self, id: &str) {
        let paid = usize::from(self.status() == "PAID");
        assert_eq!(self.succeeded().len(), paid, "{id}: {:?}", self.payments);
        assert_eq!(self.count("PaymentSucceeded"), paid, "{id}");
        assert_eq!(self.count("InvoiceCreated"), 1, "{id}");
        let newest = self.events.last().expect("its creation is an event");
        assert_eq!(newest["data"]["invoice_status"], self.status(), "{id}");
        let ids = |values: &mut dyn Iterator<Item = &Value>| -> BTreeSet<String> {
            values.map(|it| it.as_str().unwrap().to_owned()).collect()
        };
        let requested = self
            .events
            .iter()
            .filter(|it| it["type"] == "PaymentRequested");
        assert_eq!(
            ids(&mut requested.map(|it| &it["data"]["payment_id"])),
            ids(&mut self.payments.iter().map(|it| &it["id"])),
            "{id}"
        );
        for payment in &self.payments {
            let status = payment["status"].as_str().unwrap();
            let decided = ["SUCCEEDED", "FAILED", "CANCELED"].contains(&status);
            assert!(decided, "{id}: nothing is to be open: {payment}");
        }
    }

    /// The gateway saw this invoice's keys in their order, and what FAILED it declined.
    #[track_caller]
    fn agrees_with_the_gateway(&self, id: &str, ledger: &Ledger, declined: &BTreeSet<String>) {
        let key = |payment: &Value| payment["idempotency_key"].as_str().unwrap().to_owned();
        let ours: Vec<String> = self.payments.iter().map(key).collect();
        let theirs = ledger.keys_of(id);
        assert_eq!(
            theirs,
            ours[..theirs.len().min(ours.len())],
            "{id}: the keys that the gateway saw"
        );
        for payment in self.payments.iter().filter(|it| it["status"] == "FAILED") {
            // An operator may say so, too.
            if payment["failure"]["kind"] != "resolved" {
                assert!(declined.contains(&key(payment)), "{id}: {payment}");
            }
        }
    }
}
