//! Disks that are full, read-only, broken or that lie; databases that are damaged; clocks that jump.
//! A real payd on a disk that a test controls. What a test needs and the machine lacks is told as SKIPPED.

mod broken;
mod damaged;
mod full;
mod held;
mod slow;
mod time;

use std::time::Duration;

use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::faults::{Faults, can_mount, notice};
use crate::support::stub::{Call, Stub, answer};

/// Set where it is a failure that nothing could be tested: on the machines that decide what lands.
const REQUIRED: &str = "PAYD_STORAGE_TESTS_REQUIRED";

#[test]
fn where_it_decides_what_lands_disks_can_be_made_to_fail() {
    let (shim, mount) = (Faults::new().is_some(), can_mount());
    if !mount {
        notice("no file system can be mounted here with `unshare -Urm`");
    }
    let required = std::env::var_os(REQUIRED).is_some_and(|value| value != "0");
    assert!(
        shim || mount || !required,
        "neither a C compiler nor the right to mount: every test of a failing disk was skipped"
    );
}

/// A gateway that keeps to the contract and knows what it was asked: it takes a moment, declines `inv-retry`
/// once, and remembers what it charged.
struct Gateway {
    stub: Stub,
    url: String,
}

impl Gateway {
    fn start() -> Self {
        let stub = Stub::start(|call: &Call| {
            let known = call.method == "POST" || !call.charge.is_null();
            if !known {
                return answer(404, &json!({}));
            }
            if call.charge["invoice_id"] == "inv-retry" && call.before == 0 {
                let soft = json!({"decline_code": "insufficient_funds", "retryable": true});
                return answer(402, &call.echo_with("declined", &soft));
            }
            if call.method == "POST" {
                std::thread::sleep(Duration::from_millis(100));
            }
            answer(200, &call.echo("succeeded"))
        });
        let url = stub.url();
        Self { stub, url }
    }

    /// For a payd that charges here, and retries after a second or so.
    fn settings(&self) -> Vec<(&str, &str)> {
        vec![
            ("PAYD_GATEWAY__KIND", "http"),
            ("PAYD_GATEWAY__HTTP__URL", &self.url),
            ("PAYD_GATEWAY__HTTP__LOOKUP_LAG", "0s"),
            ("PAYD_GATEWAY__TIMEOUT", "5s"),
            ("PAYD_RETRY__BASE", "1s"),
        ]
    }

    /// Charges that were asked for.
    fn charges(&self) -> usize {
        let calls = self.stub.calls();
        calls.iter().filter(|call| call.method == "POST").count()
    }

    /// The keys that it was asked to charge this invoice under.
    fn keys(&self, invoice: &str) -> std::collections::BTreeSet<String> {
        let calls = self.stub.calls();
        let of = calls
            .iter()
            .filter(|call| call.method == "POST" && call.invoice == invoice);
        of.map(|call| call.header("idempotency-key").unwrap().to_owned())
            .collect()
    }
}

/// Makes an invoice, and asks for it to be paid.
fn pay(daemon: &Daemon, id: &str, method: &str) {
    let body = json!({"id": id, "amount": 1000, "payment_method": method});
    daemon.unix.post("/invoices", &body.to_string()).expect(201);
    daemon
        .unix
        .post(&format!("/invoices/{id}/pay"), "")
        .expect(202);
}

/// How many events of a type there are.
fn count(daemon: &Daemon, kind: &str) -> usize {
    let events = daemon.events();
    events.iter().filter(|event| event["type"] == kind).count()
}
