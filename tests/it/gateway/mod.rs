//! The http gateway from outside: the real payd, and a gateway that answers by script.

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, until};
use crate::support::stub::Stub;

mod answers;
mod broken;
mod connections;
#[cfg(feature = "failpoints")]
mod points;
mod request;
#[cfg(feature = "tls")]
mod tls;
mod token;

const REQUESTED: &str = "PaymentRequested";
const SUCCEEDED: &str = "PaymentSucceeded";
const FAILED: &str = "PaymentFailed";
const ACCEPTED: &str = "PaymentAccepted";
const UNKNOWN: &str = "PaymentUnknown";
const REVIEW: &str = "PaymentReviewRequired";

/// Makes an invoice and asks for it to be paid.
fn pay(daemon: &Daemon, id: &str) {
    let invoice = json!({"id": id, "amount": 1000, "currency": "EUR"});
    daemon
        .unix
        .post("/invoices", &invoice.to_string())
        .expect(201);
    daemon
        .unix
        .post(&format!("/invoices/{id}/pay"), "")
        .expect(202);
}

/// An invoice's events after its creation.
fn events(daemon: &Daemon, id: &str) -> Vec<Value> {
    let page = daemon
        .unix
        .get(&format!("/events?invoice={id}"))
        .expect(200);
    page["events"].as_array().unwrap()[1..].to_vec()
}

/// Their types.
fn story(daemon: &Daemon, id: &str) -> Vec<String> {
    let types = events(daemon, id);
    types
        .iter()
        .map(|it| it["type"].as_str().unwrap().to_owned())
        .collect()
}

/// The newest payment of an invoice.
fn payment(daemon: &Daemon, id: &str) -> Value {
    let page = daemon
        .unix
        .get(&format!("/invoices/{id}/payments"))
        .expect(200);
    page["payments"].as_array().unwrap().last().unwrap().clone()
}

/// Waits until the newest payment of an invoice has this status.
fn until_payment(daemon: &Daemon, id: &str, status: &str) -> Value {
    until(&format!("the payment of {id} is {status}"), || {
        payment(daemon, id)["status"] == status
    });
    payment(daemon, id)
}

/// A charge goes out at most once for each time that the log asks for it, and always under the key
/// and with the bytes of its payment.
fn no_charge_was_repeated(daemon: &Daemon, stub: &Stub, id: &str) {
    let posts: Vec<_> = stub
        .calls()
        .into_iter()
        .filter(|call| call.method == "POST" && call.invoice == id)
        .collect();
    let asked = story(daemon, id)
        .iter()
        .filter(|it| *it == REQUESTED)
        .count();
    assert!(
        posts.len() <= asked,
        "{id}: {} charges, {asked} requests",
        posts.len()
    );
    for one in &posts {
        assert_eq!(
            one.header("idempotency-key"),
            one.charge["reference"].as_str()
        );
        for other in &posts {
            let same_key = one.charge["reference"] == other.charge["reference"];
            assert!(!same_key || one.body == other.body, "{id}: other bytes");
        }
    }
}
