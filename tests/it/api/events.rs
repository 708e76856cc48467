//! `GET /events`: the envelope, what is in it, and pages. (Streams are in `streams`.)

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    assert_fields, assert_problem, assert_time, make, make_and_pay, make_paid, refused, set_paused,
    story, that_never_looks_up, types, until_payment,
};
use crate::support::daemon::{Daemon, until};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// All of these are in the log of this daemon: every type that the simulator can bring about.
fn with_everything() -> Daemon {
    let daemon = that_never_looks_up();
    make_paid(&daemon, "paid");
    make_and_pay(&daemon, "failed", "sim:decline");
    make_and_pay(&daemon, "retried", "sim:decline-then-approve");
    make_and_pay(&daemon, "accepted", "sim:pending");
    daemon.until_invoice("failed", "FAILED");
    daemon.until_invoice("retried", "PAID");
    until_payment(&daemon, "accepted", "ACCEPTED");
    for as_ in ["succeeded", "failed"] {
        let id = format!("resolved-{as_}");
        let payment = make_and_pay(&daemon, &id, "sim:timeout");
        until_payment(&daemon, &id, "UNKNOWN");
        daemon
            .unix
            .post(&format!("/invoices/{id}/cancel"), r#"{"reason":"late"}"#)
            .expect(202);
        let path = format!("/payments/{}/resolve", payment["id"].as_str().unwrap());
        let body = json!({"as": as_, "reason": "seen"}).to_string();
        daemon.unix.post(&path, &body).expect(200);
    }
    set_paused(&daemon, true);
    make_and_pay(&daemon, "canceled", "sim:approve");
    daemon
        .unix
        .post("/invoices/canceled/cancel", r#"{"reason":"late"}"#)
        .expect(200);
    daemon
}

#[test]
fn every_event_is_a_cloud_event_with_the_data_of_its_type() {
    let daemon = with_everything();
    // type, and what its data has beside that of every event of an invoice or a payment
    let payment = "payment_id attempt amount currency";
    let rows = [
        (
            "InvoiceCreated",
            "",
            "amount currency description metadata payment_method due_at",
        ),
        ("PaymentRequested", payment, "due_at cause"),
        ("PaymentAccepted", payment, "reason"),
        ("PaymentUnknown", payment, "reason"),
        ("PaymentResolved", payment, "actor reason as"),
        ("PaymentSucceeded", payment, "gateway gateway_reference"),
        (
            "PaymentFailed",
            payment,
            "failure will_retry next_attempt_at",
        ),
        ("PaymentCanceled", payment, "reason"),
        ("InvoiceCancelRequested", "", "reason"),
        ("InvoiceCanceled", "", "reason"),
    ];
    let events = daemon.events();
    let sources: BTreeSet<String> = events.iter().map(|it| it["source"].to_string()).collect();
    assert_eq!(sources.len(), 1);
    let mut seen = BTreeSet::new();
    for (place, event) in events.iter().enumerate() {
        // `actor` is an extension attribute of ours, as CloudEvents allow.
        assert_fields(
            event,
            "specversion id source type subject time datacontenttype data actor",
        );
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["id"], (place + 1).to_string());
        let source = event["source"].as_str().unwrap();
        assert!(uuid::Uuid::parse_str(source.strip_prefix("/payd/").unwrap()).is_ok());
        assert_eq!(event["datacontenttype"], "application/json");
        assert_time(&event["time"]);
        let kind = event["type"].as_str().unwrap();
        let (name, common, own) = rows
            .iter()
            .find(|row| row.0 == kind)
            .unwrap_or_else(|| panic!("{kind}"));
        seen.insert(*name);
        let data = event["data"].as_object().unwrap();
        for field in format!("invoice_id invoice_status {common} {own}").split_whitespace() {
            assert!(data.contains_key(field), "{kind} has no {field}: {event}");
        }
        assert_eq!(data["invoice_id"], event["subject"]);
        if !common.is_empty() {
            assert_eq!(
                (&data["amount"], &data["currency"]),
                (&json!(1000), &json!("USD"))
            );
            assert!(data["attempt"].as_u64().unwrap() >= 1);
        }
    }
    assert_eq!(seen, rows.iter().map(|row| row.0).collect());
    daemon.verify();
}

#[test]
fn what_stays_open_for_long_asks_for_attention_once() {
    let daemon = Daemon::with(&[("PAYD_RESOLVER__ATTENTION_AFTER", "300ms")]);
    make_and_pay(&daemon, "inv-1", "sim:pending");
    until("it needs attention", || {
        daemon.invoice("inv-1")["needs_attention"] == true
    });
    assert_eq!(daemon.invoice("inv-1")["status"], "PROCESSING");
    let events = story(&daemon, "inv-1");
    assert_eq!(
        types(&events)[2..],
        ["PaymentAccepted", "InvoiceAttentionRequired"]
    );
    let data = &events[3]["data"];
    assert!(data["reason"].as_str().is_some_and(|it| !it.is_empty()));
    assert_eq!(data["invoice_status"], "PROCESSING");
}

#[test]
fn an_event_is_a_snapshot_that_never_changes() {
    let daemon = Daemon::start();
    let first = {
        make(&daemon, "inv-1", "sim:insufficient_funds");
        daemon.unix.get("/events?limit=1").text()
    };
    daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "FAILED");
    assert_eq!(
        daemon.tcp.get("/events?limit=1").text(),
        first,
        "byte for byte"
    );

    let told: Vec<(String, String)> = story(&daemon, "inv-1")
        .iter()
        .map(|it| {
            (
                it["type"].as_str().unwrap().to_owned(),
                it["data"]["invoice_status"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let mut want = vec![("InvoiceCreated", "PENDING")];
    for attempt in 1..=5 {
        want.push(("PaymentRequested", "PROCESSING"));
        want.push((
            "PaymentFailed",
            if attempt < 5 { "PROCESSING" } else { "FAILED" },
        ));
    }
    let want: Vec<_> = want
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect();
    assert_eq!(told, want, "the status after each event");
    let failures: Vec<_> = story(&daemon, "inv-1")
        .into_iter()
        .filter(|it| it["type"] == "PaymentFailed")
        .collect();
    for (n, event) in failures.iter().enumerate() {
        let data = &event["data"];
        assert_fields(&data["failure"], "kind code message retryable");
        assert_eq!(data["failure"]["code"], "insufficient_funds");
        assert_eq!(data["failure"]["retryable"], true);
        assert_eq!(data["will_retry"], n < 4);
        assert_eq!(data["next_attempt_at"].is_null(), n == 4);
    }
}

#[test]
fn a_traceparent_is_carried_into_the_events_that_it_causes() {
    let daemon = Daemon::start();
    let traced = [("traceparent", TRACE)];
    daemon
        .unix
        .post_with("/invoices", &traced, r#"{"id":"inv-1","amount":1}"#)
        .expect(201);
    daemon
        .tcp
        .post_with("/invoices/inv-1/pay", &traced, "")
        .expect(202);
    daemon.until_invoice("inv-1", "PAID");
    make(&daemon, "inv-2", "sim:approve");
    // What is no traceparent is passed over.
    for (n, odd) in [
        "",
        "00-x",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    ]
    .iter()
    .enumerate()
    {
        let body = format!(r#"{{"id":"odd-{n}","amount":1}}"#);
        daemon
            .tcp
            .post_with("/invoices", &[("traceparent", odd)], &body)
            .expect(201);
    }
    let events = daemon.events();
    let carried = |id: &str| -> Vec<Value> {
        events
            .iter()
            .filter(|it| it["subject"] == id)
            .map(|it| it["traceparent"].clone())
            .collect()
    };
    assert_eq!(
        types(&story(&daemon, "inv-1")),
        ["InvoiceCreated", "PaymentRequested", "PaymentSucceeded"]
    );
    assert_eq!(
        carried("inv-1"),
        [TRACE, TRACE, TRACE],
        "also into what the gateway's answer causes"
    );
    assert!(
        events
            .iter()
            .filter(|it| it["subject"] != "inv-1")
            .all(|it| it.get("traceparent").is_none())
    );
}

#[test]
fn who_did_it_is_in_the_event() {
    let daemon = Daemon::start();
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-1","amount":1}"#)
        .expect(201);
    daemon.tcp.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "PAID");
    let uid = format!("uid:{}", rustix::process::getuid().as_raw());
    let actors: Vec<_> = daemon
        .events()
        .iter()
        .map(|it| it["actor"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(actors, [uid.as_str(), "admin", "payd"]);
}

#[test]
fn pages_of_any_size_make_one_log() {
    let daemon = with_everything();
    let whole = daemon.events();
    for limit in [1, 2, 3, 7, 100, 1000] {
        let (_, host) = daemon.hosts()[limit % 2];
        let (mut after, mut got) = ("0".to_owned(), Vec::new());
        loop {
            let page = host
                .get(&format!("/events?after={after}&limit={limit}"))
                .expect(200);
            assert_fields(&page, "events next");
            let events = page["events"].as_array().unwrap();
            assert!(events.len() <= limit);
            if events.is_empty() {
                assert_eq!(page["next"], after, "at the end the cursor stays");
                break;
            }
            assert_eq!(page["next"], events.last().unwrap()["id"]);
            got.extend(events.iter().cloned());
            page["next"].as_str().unwrap().clone_into(&mut after);
        }
        assert_eq!(got, whole, "{limit}");
    }
    // Where nothing is said a page begins at the first event, and has 100.
    let first = daemon.unix.get("/events").expect(200);
    assert_eq!(
        first["events"].as_array().unwrap()[..],
        whole[..whole.len().min(100)]
    );
    let end = whole.len();
    let now = daemon.unix.get("/events?after=now").expect(200);
    assert_eq!(now, json!({"events": [], "next": end.to_string()}));
}

#[test]
fn an_empty_log_has_a_cursor_too() {
    let daemon = Daemon::start();
    for path in [
        "/events",
        "/events?after=0",
        "/events?after=now",
        "/events?invoice=none",
    ] {
        assert_eq!(
            daemon.tcp.get(path).expect(200),
            json!({"events": [], "next": "0"}),
            "{path}"
        );
    }
    assert_problem(
        &daemon.tcp.get("/events?after=1"),
        422,
        "invalid_request",
        &["after"],
    );
}

#[test]
fn filters_leave_out_what_does_not_match() {
    let daemon = with_everything();
    let whole = daemon.events();
    let walk = |query: &str, limit: usize| {
        let (mut after, mut got) = ("0".to_owned(), Vec::new());
        loop {
            let page = daemon
                .unix
                .get(&format!("/events?{query}&limit={limit}&after={after}"))
                .expect(200);
            got.extend(page["events"].as_array().unwrap().iter().cloned());
            if page["next"] == after.as_str() {
                return got;
            }
            page["next"].as_str().unwrap().clone_into(&mut after);
        }
    };
    let kinds: BTreeSet<&str> = types(&whole).into_iter().collect();
    let is = |event: &Value, kinds: &[&str]| kinds.contains(&event["type"].as_str().unwrap());
    for kind in kinds {
        let want: Vec<_> = whole.iter().filter(|it| is(it, &[kind])).cloned().collect();
        assert_eq!(walk(&format!("type={kind}"), 1), want, "{kind}");
        assert_eq!(walk(&format!("type={kind}"), 1000), want, "{kind}");
    }
    let two = ["PaymentFailed", "PaymentSucceeded"];
    let want: Vec<_> = whole.iter().filter(|it| is(it, &two)).cloned().collect();
    assert_eq!(walk("type=PaymentFailed&type=PaymentSucceeded", 2), want);
    assert_eq!(walk("type=PaymentFailed,PaymentSucceeded", 2), want);
    for invoice in ["paid", "retried", "canceled"] {
        let want: Vec<_> = whole
            .iter()
            .filter(|it| it["subject"] == invoice)
            .cloned()
            .collect();
        assert_eq!(walk(&format!("invoice={invoice}"), 1), want);
        let created: Vec<_> = want
            .iter()
            .filter(|it| is(it, &["InvoiceCreated"]))
            .cloned()
            .collect();
        assert_eq!(
            walk(&format!("invoice={invoice}&type=InvoiceCreated"), 1),
            created
        );
    }
    assert!(walk("invoice=nobodys", 10).is_empty());
    assert!(walk("type=PaymentContradicted", 10).is_empty());
}

#[test]
fn a_bad_query_names_what_is_wrong() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    #[rustfmt::skip]
    let rows: &[(&str, &[&str])] = &[
        ("after=2", &["after"]),
        ("after=9223372036854775807", &["after"]),
        ("after=9223372036854775808", &["after"]),
        ("after=99999999999999999999999", &["after"]),
        ("after=-1", &["after"]),
        ("after=%2B1", &["after"]),
        ("after=1.0", &["after"]),
        ("after=NOW", &["after"]),
        ("after=beginning", &["after"]),
        ("after=", &["after"]),
        ("after=0&after=0", &["after"]),
        ("type=", &["type"]),
        ("type=Unheard", &["type"]),
        ("type=invoicecreated", &["type"]),
        ("type=InvoiceCreated,Unheard", &["type"]),
        ("type=InvoiceCreated&type=Unheard", &["type"]),
        ("invoice=", &["invoice"]),
        ("invoice=..", &["invoice"]),
        ("invoice=a%20b", &["invoice"]),
        ("invoice=a&invoice=b", &["invoice"]),
        ("limit=0", &["limit"]),
        ("limit=1001", &["limit"]),
        ("limit=ten", &["limit"]),
        ("since=1", &["since"]),
        ("after=x&type=y&invoice=.&limit=z&w=1", &["after", "type", "invoice", "limit", "w"]),
    ];
    for (query, fields) in rows {
        for (_, host) in daemon.hosts() {
            let answer = host.get(&format!("/events?{query}"));
            assert_eq!(answer.status, 422, "{query}: {}", answer.text());
            assert_problem(&answer, 422, "invalid_request", fields);
        }
        if query.starts_with("limit=1001") {
            continue; // A stream has no largest page.
        }
        // Never a stream that then has nothing, or breaks off.
        for accept in ["application/x-ndjson", "text/event-stream"] {
            let answer = refused(
                &daemon.tcp,
                &format!("/events?{query}"),
                &[("Accept", accept)],
            );
            assert_eq!(answer.status, 422, "{query} {accept}");
            assert_problem(&answer, 422, "invalid_request", fields);
        }
    }
    assert_eq!(
        daemon.unix.get("/events?after=1").expect(200),
        json!({"events": [], "next": "1"})
    );
}

#[test]
fn the_log_is_as_it_was_after_a_restart() {
    let mut daemon = with_everything();
    let before = daemon.unix.get("/events?limit=1000").text();
    daemon.kill();
    daemon.start_again();
    until("it answers", || daemon.unix.get("/readyz").status == 200);
    let after = daemon.unix.get("/events?limit=1000").text();
    let (before, after): (Value, Value) = (
        serde_json::from_str(&before).unwrap(),
        serde_json::from_str(&after).unwrap(),
    );
    let count = before["events"].as_array().unwrap().len();
    assert_eq!(
        after["events"].as_array().unwrap()[..count],
        before["events"].as_array().unwrap()[..]
    );
    assert_eq!(after["events"][0]["source"], before["events"][0]["source"]);
}
