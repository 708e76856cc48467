//! The scripted gateway, held to what the tests that use it rely on.

use serde_json::json;

use crate::support::daemon::until;
use crate::support::gateway::{Fact, Gateway};
use crate::support::http::{Answer, Host};

fn charge(gateway: &Gateway, key: &str, amount: u64, fate: &str) -> std::io::Result<Answer> {
    let body = json!({
        "reference": key, "payment_id": "pay_1", "invoice_id": "inv-1", "amount": amount, "currency": "USD",
        "payment_method": null, "description": null, "metadata": {"fate": fate, "lost": "1"},
    });
    let headers = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", key),
    ];
    host(gateway).request("POST", "/charges", &headers, body.to_string().as_bytes())
}

fn host(gateway: &Gateway) -> Host {
    let url = gateway.url();
    Host::Tcp(url.strip_prefix("http://").unwrap().parse().unwrap(), None)
}

#[test]
fn what_it_wrote_down_outlives_it_and_a_key_means_one_thing() {
    let mut gateway = Gateway::start();
    host(&gateway).get("/charges/key-1").expect(404);
    assert!(
        charge(&gateway, "key-1", 1000, "charged").is_err(),
        "it is lost"
    );
    host(&gateway).get("/charges/key-1").expect(404);
    let first = charge(&gateway, "key-1", 1000, "charged").unwrap();
    assert_eq!(first.expect(201)["status"], "succeeded");

    gateway.kill();
    gateway.start_again();
    let again = charge(&gateway, "key-1", 1000, "charged").unwrap();
    assert_eq!(again.expect(201), first.json());
    assert_eq!(
        host(&gateway).get("/charges/key-1").expect(200),
        first.json()
    );
    let ledger = gateway.ledger();
    ledger.one_body_a_key();
    assert_eq!(ledger.asked("inv-1"), 3);
    assert_eq!(ledger.charges()["inv-1"].len(), 1);

    charge(&gateway, "key-1", 1001, "charged")
        .unwrap()
        .expect(409);
    let reused = |fact: &Fact| matches!(fact, Fact::KeyReused { .. });
    assert!(gateway.ledger().facts.iter().any(reused));
}

#[test]
fn what_it_keeps_to_itself_it_has_done_and_written_down() {
    let gateway = Gateway::start();
    let _ = charge(&gateway, "key-1", 1000, "charged");
    let held = gateway.hold_answer("inv-1");
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| charge(&gateway, "key-1", 1000, "charged").unwrap());
        until("it is charged", || !gateway.ledger().charges().is_empty());
        let silent = gateway.hold_lookup("inv-1");
        host(&gateway).get("/charges/key-1").expect(500);
        silent.let_go();
        host(&gateway).get("/charges/key-1").expect(200);
        assert!(!answer.is_finished());
        held.let_go();
        answer.join().unwrap().expect(201);
    });
    let ledger = gateway.ledger();
    let nobody = ledger.about(&["key-2".to_owned()].into());
    assert!(nobody.facts.is_empty());
    let keys = ledger.keys_of("inv-1").into_iter().collect();
    assert_eq!(ledger.about(&keys).facts, ledger.facts);
}

#[test]
fn its_ledger_tells_what_payd_may_never_do() {
    let fails = |keys: &[(&str, u64, &str)]| {
        let gateway = Gateway::start();
        for (key, amount, fate) in keys {
            let _ = charge(&gateway, key, *amount, fate);
        }
        let ledger = gateway.ledger();
        std::panic::catch_unwind(|| ledger.check()).is_err()
    };
    assert!(!fails(&[("key-1", 1000, "charged")]));
    // Sent again though nobody knows that the first is lost.
    assert!(fails(&[
        ("key-1", 1000, "charged"),
        ("key-1", 1000, "charged")
    ]));
    // Another key though the first was not declined.
    assert!(fails(&[
        ("key-1", 1000, "charged"),
        ("key-2", 1000, "charged")
    ]));
    // One key, two bodies.
    assert!(fails(&[
        ("key-1", 1000, "charged"),
        ("key-1", 1001, "charged")
    ]));
}
