//! A worker that was held up comes back with an old answer, or a whole process does: nothing that
//! was decided meanwhile changes, and no second charge comes of it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::audit::audit;
use crate::support::daemon::{Daemon, until};
use crate::support::gateway::{Fact, Gateway};

/// `gateway.timeout` and the margin of these tests: a claim holds for both together.
const TIMEOUT_MS: u64 = 1500;
const MARGIN_MS: u64 = 300;

struct Scene {
    gateway: Gateway,
    daemon: Daemon,
    points: tempfile::TempDir,
}

impl Scene {
    /// A payd that holds the worker that gets to this place first, and pays an invoice.
    fn with(point: &str, metadata: &Value) -> Self {
        let scene = Self::new(&format!("{point}=pause"));
        scene.pay(metadata);
        scene
    }

    fn new(failpoints: &str) -> Self {
        let gateway = Gateway::start();
        let points = tempfile::tempdir().unwrap();
        let daemon = Daemon::with(&[
            ("PAYD_GATEWAY__KIND", "http"),
            ("PAYD_GATEWAY__HTTP__URL", &gateway.url()),
            ("PAYD_GATEWAY__HTTP__LOOKUP_LAG", "30ms"),
            ("PAYD_GATEWAY__TIMEOUT", &format!("{TIMEOUT_MS}ms")),
            ("PAYD_RESOLVER__CAP", "100ms"),
            ("PAYD_FAILPOINTS", failpoints),
            ("PAYD_FAILPOINTS_DIR", points.path().to_str().unwrap()),
            ("PAYD_FAILPOINTS_LEASE_MARGIN_MS", &MARGIN_MS.to_string()),
        ]);
        Self {
            gateway,
            daemon,
            points,
        }
    }

    fn pay(&self, metadata: &Value) {
        let invoice = json!({"id": "inv-1", "amount": 1000, "metadata": metadata}).to_string();
        self.daemon.unix.post("/invoices", &invoice).expect(201);
        self.daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    }

    fn until_reached(&self, point: &str) {
        let reached = self.points.path().join(format!("{point}.reached"));
        until("the worker is held", || reached.exists());
    }

    fn let_go(&self, point: &str) {
        std::fs::write(self.points.path().join(format!("{point}.go")), "").unwrap();
        let reached = self.points.path().join(format!("{point}.reached"));
        until("the worker goes on", || !reached.exists());
    }

    /// The old answer has been heard, and refused.
    fn until_refused(&self) {
        until("the old answer is refused", || {
            self.daemon
                .log()
                .contains("an answer of the gateway changes nothing")
        });
    }

    fn types(&self) -> Vec<String> {
        let events = self.daemon.events();
        let types = events
            .iter()
            .map(|it| it["type"].as_str().unwrap().to_owned());
        types.collect()
    }

    fn payment(&self) -> Value {
        let page = self.daemon.unix.get("/invoices/inv-1/payments").expect(200);
        page["payments"][0].clone()
    }

    fn until_sending_again(&self) {
        until("it goes out again", || {
            self.payment()["status"] == "SENDING" && self.gateway.ledger().asked("inv-1") == 2
        });
    }

    /// Paid once, with one key, and the log says the same.
    fn is_paid_once(&self, asked: usize) {
        let ledger = self.gateway.ledger();
        assert_eq!(ledger.asked("inv-1"), asked);
        let accounts = audit(&self.daemon, &ledger);
        assert_eq!(accounts["inv-1"].status(), "PAID");
        assert_eq!(accounts["inv-1"].payments.len(), 1);
        assert_eq!(accounts["inv-1"].count("PaymentContradicted"), 0);
    }
}

#[test]
fn an_answer_that_comes_after_its_lease_was_lost_and_looked_up_changes_nothing() {
    let scene = Scene::with("gateway.answered", &json!({"fate": "charged"}));
    scene.until_reached("gateway.answered");
    scene.daemon.until_invoice("inv-1", "PAID");
    let before = scene.types();
    assert_eq!(
        before[2..],
        ["PaymentUnknown", "PaymentSucceeded"],
        "the lease ran out, and a lookup told"
    );
    scene.let_go("gateway.answered");
    scene.until_refused();
    assert_eq!(scene.types(), before);
    scene.is_paid_once(1);
}

#[test]
fn an_old_word_that_nothing_was_executed_does_not_end_the_next_send() {
    // The first send is answered with 429, and that answer is held up.
    let scene = Scene::with(
        "gateway.answered",
        &json!({"fate": "charged", "manner": "sent-away"}),
    );
    scene.until_reached("gateway.answered");
    let held = scene.gateway.hold_answer("inv-1");
    scene.until_sending_again();
    let before = scene.types();
    scene.let_go("gateway.answered");
    scene.until_refused();
    assert_eq!(
        scene.payment()["status"],
        "SENDING",
        "the second is under way"
    );
    assert_eq!(scene.types(), before);
    held.let_go();
    scene.daemon.until_invoice("inv-1", "PAID");
    scene.is_paid_once(2);
}

#[test]
fn an_old_not_found_does_not_send_again_what_is_being_sent() {
    let scene = Scene::with("lookup.answered", &json!({"fate": "charged", "lost": "1"}));
    // One lookup has been told "not found"; while it is held, the next is told the same.
    scene.until_reached("lookup.answered");
    let held = scene.gateway.hold_answer("inv-1");
    scene.until_sending_again();
    let before = scene.types();
    scene.let_go("lookup.answered");
    // It changes so little that nothing shows that it has been heard; this goes through the engine
    // after it.
    scene
        .daemon
        .unix
        .post("/invoices", r#"{"id":"inv-2","amount":1}"#)
        .expect(201);
    assert_eq!(scene.payment()["status"], "SENDING");
    held.let_go();
    scene.daemon.until_invoice("inv-1", "PAID");
    let since = &scene.types()[before.len()..];
    assert_eq!(since, ["InvoiceCreated", "PaymentSucceeded"]);
    scene.is_paid_once(2);
}

#[test]
fn a_request_that_reaches_the_gateway_after_the_one_that_replaced_it_is_the_same_charge() {
    let scene = Scene::with("gateway.mid_write", &json!({"fate": "charged"}));
    scene.until_reached("gateway.mid_write");
    scene.daemon.until_invoice("inv-1", "PAID");
    assert_eq!(scene.gateway.ledger().asked("inv-1"), 1, "the second alone");
    let before = scene.types();
    scene.let_go("gateway.mid_write");
    until("the first arrives after all", || {
        scene.gateway.ledger().asked("inv-1") == 2
    });
    assert_eq!(scene.types(), before);
    scene.is_paid_once(2);
}

#[test]
fn a_payd_that_was_stopped_beyond_the_lease_while_it_sent_is_found_to_have_charged_once() {
    for fate in ["charged", "declined", "pending"] {
        let scene = Scene::new("");
        let held = scene.gateway.hold_answer("inv-1");
        scene.pay(&json!({"fate": fate}));
        until("it is at the gateway", || {
            scene.gateway.ledger().asked("inv-1") == 1
        });
        scene.daemon.signal(Signal::STOP);
        held.let_go();
        // Time is what this is about.
        let (stopped, lease) = (
            Instant::now(),
            Duration::from_millis(TIMEOUT_MS + MARGIN_MS),
        );
        until("the lease has run out", || stopped.elapsed() > lease);
        scene.daemon.signal(Signal::CONT);
        let status = if fate == "declined" { "FAILED" } else { "PAID" };
        scene.daemon.until_invoice("inv-1", status);
        let ledger = scene.gateway.ledger();
        assert_eq!(
            ledger.asked("inv-1"),
            1,
            "{fate}: it was looked up, not sent"
        );
        audit(&scene.daemon, &ledger);
    }
}

#[test]
fn a_send_that_is_held_before_it_begins_goes_out_once() {
    // Held at the connection beyond the lease: by then a lookup has proved that there is nothing.
    let scene = Scene::with("gateway.connected", &json!({"fate": "charged"}));
    scene.until_reached("gateway.connected");
    scene.daemon.until_invoice("inv-1", "PAID");
    let before = scene.types();
    scene.let_go("gateway.connected");
    scene.until_refused();
    assert_eq!(scene.types(), before);
    let charges = |fact: &&Fact| matches!(fact, Fact::Charged { .. });
    assert_eq!(
        scene.gateway.ledger().facts.iter().filter(charges).count(),
        1
    );
}
