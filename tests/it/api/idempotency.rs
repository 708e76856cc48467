//! `Idempotency-Key`: the first answer again, byte for byte, or a named conflict.

use std::collections::BTreeMap;
use std::sync::Barrier;

use serde_json::json;

use super::{
    JSON, NDJSON, assert_problem, make, make_and_pay, make_paid, payments, post_bytes,
    that_never_looks_up, until_payment,
};
use crate::support::daemon::Daemon;
use crate::support::http::{Answer, Host};

fn keyed(host: &Host, key: &str, path: &str, body: &str) -> Answer {
    host.post_with(path, &[("Idempotency-Key", key)], body)
}

/// The same to the last byte, and says that it was given before.
#[track_caller]
fn assert_replay(first: &Answer, again: &Answer) {
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!((first.status, first.text()), (again.status, again.text()));
    for header in ["content-type", "location", "content-length"] {
        assert_eq!(first.header(header), again.header(header), "{header}");
    }
    assert_ne!(first.header("x-request-id"), again.header("x-request-id"));
}

#[test]
fn every_post_gives_its_first_answer_again() {
    let mut daemon = that_never_looks_up();
    make(&daemon, "other", "sim:approve");
    make_paid(&daemon, "paid");
    make(&daemon, "to-cancel", "sim:approve");
    let unknown = make_and_pay(&daemon, "unknown", "sim:timeout");
    until_payment(&daemon, "unknown", "UNKNOWN");
    make_and_pay(&daemon, "held", "sim:timeout");
    until_payment(&daemon, "held", "UNKNOWN");
    make(&daemon, "to-pay", "sim:approve");
    make(&daemon, "canceled", "sim:approve");
    daemon
        .unix
        .post("/invoices/canceled/cancel", "")
        .expect(200);
    let resolve = format!("/payments/{}/resolve", unknown["id"].as_str().unwrap());
    let resolve_paid = format!(
        "/payments/{}/resolve",
        payments(&daemon, "paid")[0]["id"].as_str().unwrap()
    );

    // path, body, status
    #[rustfmt::skip]
    let rows = [
        ("/invoices", r#"{"amount":5}"#, 201),
        ("/invoices", r#"{"id":"mine","amount":5}"#, 201),
        ("/invoices", r#"{"id":"other","amount":1000,"payment_method":"sim:approve"}"#, 200),
        ("/invoices", r#"{"id":"other","amount":5}"#, 409),
        ("/invoices/to-pay/pay", "", 202),
        ("/invoices/paid/pay", "", 200),
        ("/invoices/canceled/pay", "{}", 409),
        ("/invoices/to-cancel/cancel", r#"{"reason":"x"}"#, 200),
        ("/invoices/held/cancel", "", 202),
        ("/invoices/paid/cancel", "", 409),
        (&resolve, r#"{"as":"failed","reason":"x"}"#, 200),
        (&resolve_paid, r#"{"as":"failed","reason":"x"}"#, 409),
        ("/admin/pause", "", 200),
        ("/admin/resume", "{}", 200),
    ];
    let send = |daemon: &Daemon| -> Vec<Answer> {
        let all = rows.iter().enumerate();
        all.map(|(n, (path, body, _))| keyed(&daemon.unix, &format!("key {n} !~"), path, body))
            .collect()
    };
    let first = send(&daemon);
    for ((path, body, status), answer) in rows.iter().zip(&first) {
        assert_eq!(answer.status, *status, "{path} {body}: {}", answer.text());
    }
    // The world moves on; the answers do not.
    daemon.until_invoice("to-pay", "PAID");
    let log = daemon.events().len();
    for (first, again) in first.iter().zip(send(&daemon)) {
        assert_replay(first, &again);
    }
    daemon.kill();
    daemon.start_again();
    for (first, again) in first.iter().zip(send(&daemon)) {
        assert_replay(first, &again);
    }
    assert_eq!(daemon.events().len(), log, "nothing has happened twice");
    daemon.verify();
}

#[test]
fn a_batch_is_replayed_with_its_bad_lines() {
    let daemon = Daemon::start();
    let body = "{\"amount\":1}\nnope\n{\"id\":\"a\",\"amount\":0}\n{\"id\":\"a\",\"amount\":2}\n";
    let send = |body: &str| {
        daemon
            .tcp
            .post_with("/invoices", &[NDJSON, ("Idempotency-Key", "k")], body)
    };
    let first = send(body);
    assert_eq!(
        first
            .lines()
            .iter()
            .map(|it| it["status"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [201, 400, 422, 201]
    );
    assert_replay(&first, &send(body));
    assert_problem(
        &send(&body.replace("nope", "NOPE")),
        422,
        "idempotency_key_reused",
        &[],
    );
    assert_eq!(daemon.events().len(), 2);
}

#[test]
fn the_same_key_for_another_request_is_refused() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    make(&daemon, "inv-2", "sim:approve");
    keyed(&daemon.unix, "create", "/invoices", r#"{"amount":5}"#).expect(201);
    keyed(&daemon.unix, "pay", "/invoices/inv-1/pay", "").expect(202);
    // key, path, body
    #[rustfmt::skip]
    let rows = [
        ("create", "/invoices", r#"{"amount":6}"#),
        ("create", "/invoices", r#"{"amount":5} "#),
        ("create", "/invoices", r#"{"amount": 5}"#),
        ("create", "/invoices/inv-2/pay", r#"{}"#),
        ("create", "/invoices/inv-2/cancel", ""),
        ("create", "/admin/pause", ""),
        ("pay", "/invoices/inv-2/pay", ""),
        ("pay", "/invoices/inv-1/pay", "{}"),
        ("pay", "/invoices/inv-1/pay", r#"{"payment_method":"sim:decline"}"#),
        ("pay", "/invoices/inv-1/cancel", ""),
        ("pay", "/invoices", r#"{"amount":5}"#),
    ];
    let before = daemon.events().len();
    for (key, path, body) in rows {
        let answer = keyed(&daemon.unix, key, path, body);
        assert_eq!(answer.status, 422, "{key} {path} {body}: {}", answer.text());
        assert_problem(&answer, 422, "idempotency_key_reused", &[]);
        assert_eq!(answer.header("idempotent-replayed"), None);
    }
    // The payment of inv-1 may have been decided meanwhile.
    assert!(daemon.events().len() - before <= 1, "nothing has happened");
    assert_eq!(daemon.invoice("inv-2")["status"], "PENDING");
    assert_eq!(
        daemon.unix.get("/admin/status").expect(200)["paused"],
        false
    );
    // Keys are told apart by every byte.
    for key in ["Create", "create ", "create2"] {
        let answer = keyed(&daemon.unix, key, "/invoices", r#"{"amount":6}"#);
        // Blanks around a header's value are none of its own (RFC 9110, section 5.5).
        assert_eq!(
            answer.status,
            if key.ends_with(' ') { 422 } else { 201 },
            "{key}"
        );
    }
}

#[test]
fn a_key_belongs_to_its_actor() {
    let daemon = Daemon::start();
    let unix = keyed(&daemon.unix, "k", "/invoices", r#"{"amount":5}"#);
    let tcp = keyed(&daemon.tcp, "k", "/invoices", r#"{"amount":6}"#);
    assert_eq!(
        (
            unix.expect(201)["amount"].clone(),
            tcp.expect(201)["amount"].clone()
        ),
        (json!(5), json!(6))
    );
    assert_replay(
        &unix,
        &keyed(&daemon.unix, "k", "/invoices", r#"{"amount":5}"#),
    );
    assert_replay(
        &tcp,
        &keyed(&daemon.tcp, "k", "/invoices", r#"{"amount":6}"#),
    );
    assert_problem(
        &keyed(&daemon.unix, "k", "/invoices", r#"{"amount":6}"#),
        422,
        "idempotency_key_reused",
        &[],
    );
}

#[test]
fn what_was_not_done_is_not_kept() {
    let daemon = Daemon::start();
    // what goes wrong, and what then is right under the same key
    #[rustfmt::skip]
    let rows: &[(&str, &str, u16, &str, &str)] = &[
        ("/invoices", "{", 400, "/invoices", r#"{"id":"a","amount":1}"#),
        ("/invoices", r#"{"amount":0}"#, 422, "/invoices", r#"{"id":"b","amount":1}"#),
        ("/invoices/c/pay", "", 404, "/invoices", r#"{"id":"c","amount":1}"#),
        ("/invoices?x=1", r#"{"id":"d","amount":1}"#, 422, "/invoices", r#"{"id":"d","amount":1}"#),
        ("/payments/pay_01890a5d-ac96-774b-bcce-b302099a8057/resolve", r#"{"as":"failed","reason":"x"}"#, 404, "/invoices", r#"{"id":"e","amount":1}"#),
    ];
    for (n, (path, body, status, good_path, good)) in rows.iter().enumerate() {
        let key = format!("key-{n}");
        let bad = keyed(&daemon.tcp, &key, path, body);
        assert_eq!(bad.status, *status, "{path} {body}");
        assert_eq!(
            keyed(&daemon.tcp, &key, path, body).header("idempotent-replayed"),
            None
        );
        keyed(&daemon.tcp, &key, good_path, good).expect(201);
    }
    // Not there, then made, then there: the same request, and another answer.
    let pay = |key: &str| keyed(&daemon.unix, key, "/invoices/late/pay", "");
    assert_problem(&pay("late"), 404, "invoice_not_found", &[]);
    make(&daemon, "late", "sim:approve");
    pay("late").expect(202);
}

#[test]
fn a_conflict_is_kept() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    let conflict = keyed(
        &daemon.tcp,
        "k",
        "/invoices",
        r#"{"id":"inv-1","amount":7}"#,
    );
    assert_problem(&conflict, 409, "invoice_exists", &[]);
    let again = keyed(
        &daemon.tcp,
        "k",
        "/invoices",
        r#"{"id":"inv-1","amount":7}"#,
    );
    assert_problem(&again, 409, "invoice_exists", &[]);
    assert_replay(&conflict, &again);
}

#[test]
fn a_key_is_1_to_255_printable_ascii_given_once() {
    let daemon = Daemon::start();
    let long = "k".repeat(256);
    let body = br#"{"amount":1}"#;
    for (_, host) in daemon.hosts() {
        for bad in ["", " ", &long, "schlüssel", "a\tb"] {
            let answer = post_bytes(host, "/invoices", &[JSON, ("Idempotency-Key", bad)], body);
            assert_eq!(answer.status, 422, "{bad}: {}", answer.text());
            assert_problem(&answer, 422, "invalid_request", &["Idempotency-Key"]);
        }
        let twice = [JSON, ("Idempotency-Key", "a"), ("Idempotency-Key", "a")];
        assert_problem(
            &post_bytes(host, "/invoices", &twice, body),
            422,
            "invalid_request",
            &["Idempotency-Key"],
        );
        // With what else is wrong, at once.
        let both = keyed(host, &long, "/invoices", r#"{"amount":0}"#);
        assert_problem(
            &both,
            422,
            "invalid_request",
            &["Idempotency-Key", "amount"],
        );
        for good in ["k", &long[1..], "a b", "\"quoted\"", "{~}!#,;="] {
            post_bytes(host, "/invoices", &[JSON, ("idempotency-key", good)], body).expect(201);
        }
    }
    // Every POST looks at it.
    make(&daemon, "inv-1", "sim:approve");
    for path in [
        "/invoices/inv-1/pay",
        "/invoices/inv-1/cancel",
        "/admin/pause",
    ] {
        assert_problem(
            &keyed(&daemon.unix, &long, path, ""),
            422,
            "invalid_request",
            &["Idempotency-Key"],
        );
    }
}

#[test]
fn without_a_key_every_request_is_its_own() {
    let daemon = Daemon::start();
    let ids: std::collections::BTreeSet<String> = (0..3)
        .map(|_| daemon.tcp.post("/invoices", r#"{"amount":1}"#).expect(201)["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_replay_of_pay_is_the_answer_before_any_waiting() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    let send = |headers: &[(&str, &str)]| {
        let all = [&[("Idempotency-Key", "k")], headers].concat();
        daemon.unix.post_with("/invoices/inv-1/pay", &all, "")
    };
    let waited = send(&[("Prefer", "wait=60")]);
    assert_eq!(waited.expect(200)["status"], "SUCCEEDED");
    assert_eq!(waited.header("idempotent-replayed"), None);
    let kept = send(&[]);
    assert_eq!(kept.expect(202)["status"], "REQUESTED");
    assert_eq!(kept.header("idempotent-replayed"), Some("true"));
    assert_eq!(
        kept.header("location"),
        Some(format!("/payments/{}", waited.json()["id"].as_str().unwrap()).as_str())
    );
    assert_eq!(send(&[]).text(), kept.text());
    // And with waiting it is that same payment as it now stands.
    let again = send(&[("Prefer", "wait=60")]);
    assert_eq!(again.expect(200), waited.json());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
}

#[test]
fn a_replay_that_waits_waits_for_the_same_payment() {
    let daemon = that_never_looks_up();
    // The first payment fails; a second, manual one stays open.
    make(&daemon, "inv-1", "sim:decline");
    let send = |headers: &[(&str, &str)]| {
        let all = [&[("Idempotency-Key", "k")], headers].concat();
        daemon.tcp.post_with("/invoices/inv-1/pay", &all, "")
    };
    let first = send(&[("Prefer", "wait=60")]).expect(200);
    assert_eq!(first["status"], "FAILED");
    let second = daemon
        .tcp
        .post("/invoices/inv-1/pay", r#"{"payment_method":"sim:timeout"}"#)
        .expect(202);
    until_payment(&daemon, "inv-1", "UNKNOWN");
    let replay = send(&[("Prefer", "wait=60")]);
    assert_eq!(replay.expect(200), first, "not the second, which is open");
    assert_eq!(replay.header("idempotent-replayed"), Some("true"));
    assert_ne!(first["id"], second["id"]);

    // An open one: 202 when the time is up, 200 when it is decided meanwhile.
    let keyed_second = |wait: &str| {
        let headers = [("Idempotency-Key", "second"), ("Prefer", wait)];
        daemon.unix.post_with("/invoices/inv-1/pay", &headers, "")
    };
    assert_eq!(keyed_second("wait=0").expect(202)["id"], second["id"]);
    let replay = keyed_second("wait=1");
    assert_eq!(replay.expect(202)["status"], "UNKNOWN");
    assert_eq!(replay.header("idempotent-replayed"), Some("true"));
    let path = format!("/payments/{}/resolve", second["id"].as_str().unwrap());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| keyed_second("wait=60"));
        daemon
            .unix
            .post(&path, r#"{"as":"succeeded","reason":"x"}"#)
            .expect(200);
        assert_eq!(waiting.join().unwrap().expect(200)["status"], "SUCCEEDED");
    });
}

#[test]
fn at_the_same_time_it_happens_once_whatever_the_route() {
    const CLIENTS: usize = 20;
    let daemon = Daemon::start();
    for (n, path) in ["/invoices", "/invoices/inv/pay", "/invoices/inv/cancel"]
        .iter()
        .enumerate()
    {
        if n == 1 {
            make(&daemon, "inv", "sim:decline");
        }
        let barrier = Barrier::new(CLIENTS);
        let body = if n == 0 { r#"{"amount":1}"# } else { "" };
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let one = || {
                barrier.wait();
                keyed(&daemon.tcp, &format!("k{n}"), path, body)
            };
            let all: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
            all.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let mut bodies: BTreeMap<String, usize> = BTreeMap::new();
        for answer in &answers {
            if answer.status == 409 {
                assert_problem(answer, 409, "request_in_progress", &[]);
                assert_eq!(answer.header("idempotent-replayed"), None);
            } else {
                *bodies.entry(answer.text()).or_default() += 1;
            }
        }
        assert_eq!(bodies.len(), 1, "{path}: one answer, byte for byte");
        let fresh = answers
            .iter()
            .filter(|it| it.status < 300 && it.header("idempotent-replayed").is_none());
        assert_eq!(fresh.count(), 1, "{path}");
    }
}
