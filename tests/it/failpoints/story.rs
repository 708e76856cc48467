//! One row: a client's requests, the end of payd in the middle of them, and what must hold after.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::audit::{Account, audit};
use crate::support::daemon::{Daemon, until};
use crate::support::gateway::{Fact, Gateway, Ledger};
use crate::support::http::{Answer, Host};

use super::matrix::{Place, Seen};

/// How a charge ends at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Charged,
    Declined,
    /// Softly: the next attempt goes through.
    DeclinedThenCharged,
    /// The gateway decides later.
    Pending,
    /// The first send never arrives.
    Lost,
}

pub(super) const FATES: &[Fate] = &[
    Fate::Charged,
    Fate::Declined,
    Fate::DeclinedThenCharged,
    Fate::Pending,
    Fate::Lost,
];

/// What the client and the operator do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Create and pay.
    Pay,
    /// The same, and the answer never comes back: it takes a lookup.
    LookUp,
    /// The same, and the first send never arrives: it takes another.
    SendAgain,
    /// The same, and cancel while the outcome is unknown.
    Cancel,
    /// The same, and an operator says how it ended.
    Resolve,
    /// Sending is paused before and resumed after the pay.
    Pause,
    /// A first payd is killed while it sends; the place is in the start of the second.
    Recover,
    /// SIGTERM while the gateway keeps its answer to itself.
    Drain,
    /// The place is in the first start of all.
    Migrate,
}

/// What the place does to payd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// By SIGKILL.
    Killed,
    /// By itself, with exit code 1.
    Failed,
    /// Not at all.
    GoesOn,
    /// Not at all, but one of its workers is held until everything is over.
    Held,
}

impl Ends {
    const fn payd(self) -> bool {
        matches!(self, Self::Killed | Self::Failed)
    }
}

pub(super) struct Story<'g> {
    pub(super) place: Place,
    pub(super) action: &'static str,
    pub(super) ends: Ends,
    pub(super) fate: Fate,
    pub(super) gateway: &'g Gateway,
}

/// An answer that the client has got.
struct Acknowledged {
    step: &'static str,
    answer: Answer,
}

impl Story<'_> {
    pub(super) fn name(&self) -> String {
        format!(
            "{}={} {:?} {:?}",
            self.place.name, self.action, self.place.way, self.fate
        )
    }

    /// The invoice; also names the row in the gateway's ledger, which others share.
    fn id(&self) -> String {
        format!("{}.{}.{:?}", self.place.name, self.action, self.fate)
    }

    pub(super) fn tell(&self) {
        let mut acknowledged = Vec::new();
        let held = [Way::Cancel, Way::Resolve]
            .contains(&self.place.way)
            .then(|| self.gateway.hold_lookup(&self.id()));
        let points = tempfile::tempdir().unwrap();
        let mut daemon = self.break_it(&mut acknowledged, points.path());
        if self.ends.payd() && self.place.way != Way::Migrate {
            daemon.start_again();
        }
        if self.place.sending && self.ends.payd() {
            // At once, and not when a lease runs out: nothing of the dead process goes on.
            let events = daemon.events();
            let unknown = events.iter().any(|it| it["type"] == "PaymentUnknown");
            assert!(unknown, "{}: {events:?}", self.name());
        }
        let paused = acknowledged.iter().any(|it| it.step == "pause");
        if paused && self.ends.payd() {
            let status = daemon.unix.get("/admin/status").expect(200);
            assert_eq!(status["paused"], true, "{}", self.name());
        }
        // The client asks again for all that it wants, with the same keys.
        let through = self.play(&daemon, &mut acknowledged);
        assert!(through, "{}: payd answers", self.name());
        drop(held);
        self.settle(&daemon);
        self.compare(&daemon, &acknowledged);
        if self.ends == Ends::Held {
            let before = daemon.events();
            self.let_go(points.path());
            self.settle(&daemon);
            self.compare(&daemon, &acknowledged);
            assert_eq!(daemon.events(), before, "{}", self.name());
        }
        assert!(daemon.stop().success(), "{}", self.name());
    }

    /// From the first request to the end of payd at the place, or past it.
    fn break_it(&self, acknowledged: &mut Vec<Acknowledged>, points: &Path) -> Daemon {
        let point = format!("{}={}", self.place.name, self.action);
        let timeout = if self.ends == Ends::Held { "1s" } else { "20s" };
        let settings = [
            ("PAYD_GATEWAY__KIND", "http"),
            ("PAYD_GATEWAY__HTTP__URL", &self.gateway.url()),
            ("PAYD_GATEWAY__HTTP__LOOKUP_LAG", "30ms"),
            // Only a worker that is held has to wait for this.
            ("PAYD_GATEWAY__TIMEOUT", timeout),
            ("PAYD_FAILPOINTS_LEASE_MARGIN_MS", "200"),
            ("PAYD_FAILPOINTS_DIR", points.to_str().unwrap()),
            ("PAYD_GATEWAY__CONNECT_TIMEOUT", "10s"),
            ("PAYD_RETRY__BASE", "10ms"),
            ("PAYD_RESOLVER__BASE", "10ms"),
            ("PAYD_RESOLVER__CAP", "40ms"),
        ];
        let first = match self.place.way {
            Way::Recover => "gateway.written=kill",
            _ => &point,
        };
        let first = [("PAYD_FAILPOINTS", first)];
        if self.place.way == Way::Migrate {
            let (ended, daemon) = Daemon::after_a_false_start(&settings, &first);
            self.assert_ended(ended.status);
            return daemon;
        }
        let mut daemon = Daemon::with_once(&settings, &first);
        let answer_held =
            (self.place.way == Way::Drain).then(|| self.gateway.hold_answer(&self.id()));
        let through = self.play(&daemon, acknowledged);
        if !self.ends.payd() {
            assert!(through, "{}: it goes on", self.name());
            return daemon;
        }
        if self.place.way == Way::Drain {
            until("it is at the gateway", || {
                self.gateway.ledger().asked(&self.id()) > 0
            });
            daemon.signal(Signal::TERM);
        }
        if !self.place.sending {
            // What is in flight can come to its end, and does.
            drop(answer_held);
        }
        let status = daemon.wait();
        if self.place.way == Way::Recover {
            assert_eq!(status.signal(), Some(9), "{}", self.name());
            let ended = daemon
                .try_again_with(&[("PAYD_FAILPOINTS", &point)])
                .expect_err("it ends while it starts");
            self.assert_ended(ended.status);
        } else {
            self.assert_ended(status);
        }
        let asked = self.gateway.ledger().asked(&self.id());
        match self.place.seen {
            Seen::Nothing => assert_eq!(asked, 0, "{}: nothing is sent before", self.name()),
            Seen::Asked => assert!(asked > 0, "{}: it has been sent before", self.name()),
            Seen::Either => {}
        }
        daemon
    }

    /// The worker that was held comes back to a world that has gone on without it.
    fn let_go(&self, points: &Path) {
        let name = self.place.name;
        let reached = points.join(format!("{name}.reached"));
        assert!(reached.exists(), "{}: it was held", self.name());
        std::fs::write(points.join(format!("{name}.go")), "").unwrap();
        until("it goes on", || !reached.exists());
    }

    /// It was the failpoint, and nothing else.
    fn assert_ended(&self, status: ExitStatus) {
        let (signal, code) = match self.ends {
            Ends::Killed => (Some(9), None),
            Ends::Failed => (None, Some(1)),
            Ends::GoesOn | Ends::Held => unreachable!("it goes on"),
        };
        assert_eq!(
            (status.signal(), status.code()),
            (signal, code),
            "{}",
            self.name()
        );
    }

    /// The client's requests, from the first. Says whether it got through to the last.
    fn play(&self, daemon: &Daemon, acknowledged: &mut Vec<Acknowledged>) -> bool {
        self.try_to_play(daemon, acknowledged).is_some()
    }

    fn try_to_play(&self, daemon: &Daemon, acknowledged: &mut Vec<Acknowledged>) -> Option<()> {
        let id = self.id();
        let mut client = Client {
            host: &daemon.unix,
            id: &id,
            acknowledged,
        };
        let invoice =
            json!({"id": id, "amount": 1234, "currency": "EUR", "metadata": self.script()});
        client.post("create", "/invoices", &invoice)?;
        if self.place.way == Way::Pause {
            client.post("pause", "/admin/pause", &Value::Null)?;
        }
        client.post("pay", &format!("/invoices/{id}/pay"), &Value::Null)?;
        match self.place.way {
            Way::Pause => client.post("resume", "/admin/resume", &Value::Null),
            Way::Cancel => {
                client.until_sent()?;
                let reason = json!({"reason": "too late"});
                client.post("cancel", &format!("/invoices/{id}/cancel"), &reason)
            }
            Way::Resolve => {
                let payment = client.until_sent()?;
                let path = format!("/payments/{}/resolve", payment["id"].as_str().unwrap());
                client.post("resolve", &path, &self.word(&payment))
            }
            _ => Some(()),
        }
    }

    /// What the gateway is to do.
    fn script(&self) -> Value {
        let fate = match self.fate {
            Fate::Charged | Fate::Lost => "charged",
            Fate::Declined => "declined",
            Fate::DeclinedThenCharged => "declined-then-charged",
            Fate::Pending => "pending",
        };
        let manner = match self.place.way {
            Way::LookUp | Way::Cancel | Way::Resolve => "reset",
            _ => "plain",
        };
        let lost =
            usize::from(self.fate == Fate::Lost) + usize::from(self.place.way == Way::SendAgain);
        json!({"fate": fate, "manner": manner, "lost": lost.to_string()})
    }

    /// The operator has asked the gateway by telephone.
    fn word(&self, payment: &Value) -> Value {
        let charges = self.gateway.ledger().charges();
        match charges.get(&self.id()) {
            Some(charges) => json!({
                "as": "succeeded", "reason": "they have it", "gateway_reference": charges[0].id,
            }),
            None => {
                json!({"as": "failed", "reason": format!("they do not know {}", payment["id"])})
            }
        }
    }

    /// Waits until nothing is open any more.
    fn settle(&self, daemon: &Daemon) {
        until(&format!("{} settles", self.name()), || {
            let status = daemon.unix.get("/admin/status").expect(200);
            let open = ["requested", "sending", "accepted", "unknown"];
            open.iter().all(|state| status["payments"][*state] == 0)
        });
    }

    /// One charge, the right state, nothing lost.
    fn compare(&self, daemon: &Daemon, acknowledged: &[Acknowledged]) {
        let (id, name) = (self.id(), self.name());
        let ledger = self.gateway.ledger();
        let keys = ledger.keys_of(&id).into_iter().collect();
        let ledger = ledger.about(&keys);
        let accounts = audit(daemon, &ledger);
        assert_eq!(accounts.keys().collect::<Vec<_>>(), [&id], "{name}");
        let account = &accounts[&id];
        assert_eq!(
            account.status(),
            self.status(),
            "{name}: {:?}",
            account.events
        );
        assert_eq!(account.invoice["amount"], 1234, "{name}");
        assert_eq!(account.invoice["currency"], "EUR", "{name}");
        assert_eq!(account.invoice["metadata"], self.script(), "{name}");
        assert_eq!(account.payments.len(), self.attempts(), "{name}");
        self.saw_what_it_should(&ledger, account);
        // Each step was acknowledged in the end, and the payment that was promised is the one.
        let pay = acknowledged.iter().find(|it| it.step == "pay").unwrap();
        assert_eq!(pay.answer.json()["id"], account.payments[0]["id"], "{name}");
    }

    fn saw_what_it_should(&self, ledger: &Ledger, account: &Account) {
        let name = self.name();
        let lost = ledger
            .facts
            .iter()
            .any(|it| matches!(it, Fact::Lost { .. }));
        let looked = account.count("PaymentUnknown") > 0;
        match self.place.way {
            Way::LookUp | Way::Cancel | Way::Resolve => assert!(looked, "{name}"),
            Way::SendAgain => assert!(lost, "{name}"),
            _ => assert!(!lost || self.fate == Fate::Lost, "{name}"),
        }
    }

    /// How the invoice must end.
    fn status(&self) -> &'static str {
        match (self.place.way, self.fate) {
            (Way::Cancel, Fate::Declined | Fate::DeclinedThenCharged | Fate::Lost) => "CANCELED",
            (Way::Resolve, Fate::Charged) => "PAID",
            // Nothing was charged when the operator asked.
            (Way::Resolve, _) | (_, Fate::Declined) => "FAILED",
            _ => "PAID",
        }
    }

    /// How many keys it must take.
    fn attempts(&self) -> usize {
        match (self.place.way, self.fate) {
            (Way::Cancel | Way::Resolve, _) => 1,
            (_, Fate::DeclinedThenCharged) => 2,
            _ => 1,
        }
    }
}

/// Keeps what it was answered, and asks again with the same keys.
struct Client<'c> {
    host: &'c Host,
    id: &'c str,
    acknowledged: &'c mut Vec<Acknowledged>,
}

impl Client<'_> {
    /// `None`: payd broke off before it answered.
    fn post(&mut self, step: &'static str, path: &str, body: &Value) -> Option<()> {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let key = format!("{}/{step}", self.id);
        let headers = [
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key.as_str()),
        ];
        let answer = self.host.request("POST", path, &headers, body.as_bytes());
        let answer = answer.ok()?;
        // An answer that says that nothing happened would have to be true.
        assert!(
            (200..300).contains(&answer.status),
            "{key}: {}",
            answer.text()
        );
        let known = self.acknowledged.iter().find(|it| it.step == step);
        match known.map(|it| &it.answer) {
            Some(first) => assert_eq!((first.status, &first.body), (answer.status, &answer.body)),
            None => self.acknowledged.push(Acknowledged { step, answer }),
        }
        Some(())
    }

    /// Waits until the outcome is a question; or has been decided, when this is asked again.
    fn until_sent(&self) -> Option<Value> {
        let path = format!("/invoices/{}/payments", self.id);
        let mut newest = None;
        until("the outcome is unknown", || {
            let Ok(answer) = self.host.request("GET", &path, &[], b"") else {
                newest = None;
                return true;
            };
            let payment = answer.expect(200)["payments"][0].clone();
            let status = payment["status"].as_str().unwrap_or_default().to_owned();
            newest = Some(payment);
            !["REQUESTED", "SENDING"].contains(&status.as_str())
        });
        newest
    }
}
