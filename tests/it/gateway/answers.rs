//! Every row of what an answer means, provoked from outside: where the payment ends, by which
//! events, and how often the gateway was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::{
    ACCEPTED, FAILED, REQUESTED, REVIEW, SUCCEEDED, UNKNOWN, no_charge_was_repeated, payment,
    story, until_payment,
};
use crate::support::daemon::{Daemon, until};
use crate::support::stub::{Act, Call, Stub, answer, answer_with};

type Say = Box<dyn Fn(&Call) -> Act + Send + Sync>;

/// What the gateway says, and what comes of it.
struct Row {
    what: String,
    /// To the first charge; later ones are approved.
    charge: Say,
    /// To a lookup.
    lookup: Say,
    status: &'static str,
    story: Vec<&'static str>,
    posts: usize,
    /// At least: a lookup that is slow to be answered is followed by the next all the same.
    gets: usize,
}

fn approve(call: &Call) -> Act {
    answer(200, &call.echo("succeeded"))
}

fn row(
    what: impl Into<String>,
    charge: impl Fn(&Call) -> Act + Send + Sync + 'static,
    status: &'static str,
    story: &[&'static str],
    (posts, gets): (usize, usize),
) -> Row {
    Row {
        what: what.into(),
        charge: Box::new(charge),
        lookup: Box::new(approve),
        status,
        story: story.to_vec(),
        posts,
        gets,
    }
}

/// The answer to a charge leaves its outcome open; the lookup finds that it stands.
fn unknown(what: impl Into<String>, charge: impl Fn(&Call) -> Act + Send + Sync + 'static) -> Row {
    row(
        what,
        charge,
        "SUCCEEDED",
        &[REQUESTED, UNKNOWN, SUCCEEDED],
        (1, 1),
    )
}

/// Lookups of a charge whose outcome is open.
fn lookup(
    what: impl Into<String>,
    lookup: impl Fn(&Call) -> Act + Send + Sync + 'static,
    status: &'static str,
    story: &[&'static str],
    asked: (usize, usize),
) -> Row {
    let open = |_: &Call| answer(500, &json!({}));
    Row {
        lookup: Box::new(lookup),
        ..row(what, open, status, story, asked)
    }
}

/// The first teaches nothing; the next one finds an approval.
fn fruitless(what: impl Into<String>, say: impl Fn(&Call) -> Act + Send + Sync + 'static) -> Row {
    let first = move |call: &Call| match call.before {
        0 => say(call),
        _ => approve(call),
    };
    lookup(
        what,
        first,
        "SUCCEEDED",
        &[REQUESTED, UNKNOWN, SUCCEEDED],
        (1, 2),
    )
}

/// Pays an invoice a row at one payd, all at once, and compares.
fn run(rows: Vec<Row>) {
    let rows = Arc::new(rows);
    let script = Arc::clone(&rows);
    let stub = Stub::start(move |call| {
        let n: usize = call.invoice.strip_prefix("row-").unwrap().parse().unwrap();
        let say = match (call.method.as_str(), call.before) {
            ("POST", 0) => &script[n].charge,
            ("GET", _) => &script[n].lookup,
            _ => return approve(call),
        };
        say(call)
    });
    let daemon = stub.daemon(&[]);
    for n in 0..rows.len() {
        super::pay(&daemon, &format!("row-{n}"));
    }
    for (n, row) in rows.iter().enumerate() {
        compare(&daemon, &stub, &format!("row-{n}"), row);
    }
    daemon.verify();
}

fn compare(daemon: &Daemon, stub: &Stub, id: &str, row: &Row) {
    let what = &row.what;
    until(&format!("{what} ({id}) is {}", row.status), || {
        payment(daemon, id)["status"] == row.status
    });
    assert_eq!(story(daemon, id), row.story, "{what}");
    assert_eq!(stub.count("POST", id), row.posts, "charges: {what}");
    let gets = stub.count("GET", id);
    assert!(gets >= row.gets, "{gets} lookups: {what}");
    assert_eq!(gets == 0, row.gets == 0, "{gets} lookups: {what}");
    no_charge_was_repeated(daemon, stub, id);
}

#[test]
fn each_answer_to_a_charge_leads_where_the_contract_says() {
    let charged = [REQUESTED, SUCCEEDED];
    let declined = [REQUESTED, FAILED];
    let mut rows = vec![
        row("200 succeeded", approve, "SUCCEEDED", &charged, (1, 0)),
        row(
            "201 succeeded",
            |call| answer(201, &call.echo("succeeded")),
            "SUCCEEDED",
            &charged,
            (1, 0),
        ),
        row(
            "200 pending, and approved by the time of the lookup",
            |call| answer(200, &call.echo("pending")),
            "SUCCEEDED",
            &[REQUESTED, ACCEPTED, SUCCEEDED],
            (1, 1),
        ),
        row(
            "402, retryable",
            |call| {
                answer(
                    402,
                    &call.echo_with("declined", &json!({"retryable": true})),
                )
            },
            "SUCCEEDED",
            &[REQUESTED, FAILED, REQUESTED, SUCCEEDED],
            (2, 0),
        ),
        row(
            "409 idempotency_key_reused",
            |_| answer(409, &json!({"error": {"code": "idempotency_key_reused"}})),
            "REVIEW",
            &[REQUESTED, REVIEW],
            (1, 0),
        ),
        row(
            "429",
            |_| answer(429, &json!({})),
            "SUCCEEDED",
            &[REQUESTED, REQUESTED, SUCCEEDED],
            (2, 0),
        ),
    ];
    for status in [200, 201, 402] {
        rows.push(row(
            format!("{status} declined"),
            move |call| answer(status, &call.echo("declined")),
            "FAILED",
            &declined,
            (1, 0),
        ));
    }
    for status in [400, 404, 422] {
        rows.push(row(
            format!("{status} with a code"),
            move |_| answer(status, &json!({"error": {"code": "no"}})),
            "FAILED",
            &declined,
            (1, 0),
        ));
    }
    for status in [400, 422] {
        rows.push(row(
            format!("{status} with words"),
            move |_| answer(status, &json!({"error": "no"})),
            "FAILED",
            &declined,
            (1, 0),
        ));
    }
    let bare: &[(u16, Value)] = &[
        (400, json!({"message": "no"})),
        (404, json!({"error": "no"})),
        (404, json!({})),
        (405, json!({"error": {"code": "no"}})),
        (408, json!({"error": {"code": "no"}})),
        (409, json!({"error": {"code": "request_in_progress"}})),
        (410, json!({"error": {"code": "no"}})),
        (425, json!({"error": {"code": "no"}})),
        (500, json!({"error": {"code": "no"}})),
        (502, json!({})),
        (503, json!({})),
        (504, json!({})),
        (200, json!({})),
        (200, json!({"error": {"code": "no"}})),
        (302, json!({})),
        (204, json!({})),
    ];
    for (status, body) in bare.iter().cloned() {
        rows.push(unknown(format!("{status} {body}"), move |_| {
            // 204 has no body, and none may be sent.
            if status == 204 {
                return Act::Say(b"HTTP/1.1 204 X\r\n\r\n".to_vec());
            }
            answer(status, &body)
        }));
    }
    for status in [202, 203, 301, 307, 402, 503] {
        rows.push(unknown(format!("{status} with an approval"), move |call| {
            answer(status, &call.echo("succeeded"))
        }));
    }
    let almost = [
        json!({"amount": 1001}),
        json!({"amount": 10}),
        json!({"amount": 1000.0}),
        json!({"amount": "1000"}),
        json!({"currency": "eur"}),
        json!({"currency": "USD"}),
        json!({"reference": "payd_0"}),
        json!({"reference": null}),
        json!({"status": "SUCCEEDED"}),
        json!({"status": "paid"}),
    ];
    for more in almost {
        rows.push(unknown(format!("200 with {more}"), move |call| {
            answer(200, &call.echo_with("succeeded", &more))
        }));
    }
    rows.push(unknown("an approval in a coding", |call| {
        let body = call.echo("succeeded").to_string();
        answer_with(200, &[("Content-Encoding", "gzip")], body.as_bytes())
    }));
    rows.push(unknown("an approval that is said twice", |call| {
        let body = call.echo("succeeded").to_string();
        let body = body.replace('}', ",\"amount\":1000}");
        answer_with(200, &[], body.as_bytes())
    }));
    run(rows);
}

#[test]
fn each_answer_to_a_lookup_leads_where_the_contract_says() {
    let found = [REQUESTED, UNKNOWN, SUCCEEDED];
    let mut rows = vec![
        lookup("200 succeeded", approve, "SUCCEEDED", &found, (1, 1)),
        lookup(
            "200 declined",
            |call| answer(200, &call.echo("declined")),
            "FAILED",
            &[REQUESTED, UNKNOWN, FAILED],
            (1, 1),
        ),
        lookup(
            "200 declined, retryable",
            |call| {
                answer(
                    200,
                    &call.echo_with("declined", &json!({"retryable": true})),
                )
            },
            "SUCCEEDED",
            &[REQUESTED, UNKNOWN, FAILED, REQUESTED, SUCCEEDED],
            (2, 1),
        ),
        lookup(
            "200 pending",
            |call| match call.before {
                0 => answer(200, &call.echo("pending")),
                _ => approve(call),
            },
            "SUCCEEDED",
            &[REQUESTED, UNKNOWN, ACCEPTED, SUCCEEDED],
            (1, 2),
        ),
        lookup(
            "404: it is sent again",
            |_| answer(404, &json!({"error": {"code": "not_found"}})),
            "SUCCEEDED",
            &[REQUESTED, UNKNOWN, REQUESTED, SUCCEEDED],
            (2, 1),
        ),
    ];
    for more in [
        json!({"amount": 1001}),
        json!({"currency": "USD"}),
        json!({"reference": "payd_0"}),
    ] {
        rows.push(lookup(
            format!("200 with {more}"),
            move |call| answer(200, &call.echo_with("succeeded", &more)),
            "REVIEW",
            &[REQUESTED, UNKNOWN, REVIEW],
            (1, 1),
        ));
    }
    for more in [
        json!({"amount": "1000"}),
        json!({"reference": null}),
        json!({"status": "paid"}),
    ] {
        rows.push(fruitless(format!("200 with {more}"), move |call| {
            answer(200, &call.echo_with("succeeded", &more))
        }));
    }
    for status in [201, 202, 302, 400, 402, 409, 410, 422, 429, 500, 503] {
        rows.push(fruitless(format!("{status}"), move |call| {
            answer(status, &call.echo("declined"))
        }));
    }
    rows.push(fruitless(
        "nothing at all",
        |_| Act::SayAndClose(Vec::new()),
    ));
    rows.push(fruitless("a 404 that breaks off", |_| {
        Act::SayAndClose(b"HTTP/1.1 404 X\r\nContent-Length: 10\r\n\r\n{}".to_vec())
    }));
    rows.push(fruitless("a 404 that is too long", |_| {
        answer_with(404, &[], " ".repeat(70_000).as_bytes())
    }));
    run(rows);
}

#[test]
fn an_accepted_charge_that_the_gateway_then_never_had_goes_to_a_person() {
    let stub = Stub::start(|call| match call.method.as_str() {
        "POST" => answer(200, &call.echo("pending")),
        _ => answer(404, &json!({})),
    });
    let daemon = stub.daemon(&[]);
    super::pay(&daemon, "inv-1");
    until_payment(&daemon, "inv-1", "REVIEW");
    assert_eq!(story(&daemon, "inv-1"), [REQUESTED, ACCEPTED, REVIEW]);
    assert_eq!(stub.count("POST", "inv-1"), 1);
}

#[test]
fn what_the_gateway_says_of_a_charge_is_on_the_payment() {
    let stub = Stub::start(|call| match call.invoice.as_str() {
        "paid" => answer(200, &call.echo("succeeded")),
        "declined" => {
            let more = json!({"decline_code": "do_not_honor", "message": "Ask\u{7}\nyour bank."});
            answer(402, &call.echo_with("declined", &more))
        }
        _ => answer(
            422,
            &json!({"error": {"code": "bad", "message": "x".repeat(3000)}}),
        ),
    });
    let daemon = stub.daemon(&[]);
    for id in ["paid", "declined", "rejected"] {
        super::pay(&daemon, id);
    }
    let paid = until_payment(&daemon, "paid", "SUCCEEDED");
    assert_eq!(paid["gateway"], "http");
    assert_eq!(paid["gateway_reference"], "ch_paid");
    let declined = until_payment(&daemon, "declined", "FAILED");
    assert_eq!(
        declined["failure"],
        json!({"kind": "declined", "code": "do_not_honor", "message": "Ask your bank.", "retryable": false})
    );
    let rejected = until_payment(&daemon, "rejected", "FAILED");
    assert_eq!(
        rejected["failure"],
        json!({"kind": "rejected", "code": "bad", "message": "x".repeat(500), "retryable": false})
    );
}

#[test]
fn a_gateway_that_does_not_let_payd_in_is_sent_each_payment_once_it_does() {
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let stub = Stub::start(
        move |call| match (call.invoice.as_str(), call.method.as_str()) {
            ("lookup", "POST") => answer(500, &json!({})),
            _ if is_open.load(Ordering::SeqCst) => approve(call),
            ("forbidden", _) => answer(403, &json!({"error": {"message": "not you"}})),
            _ => answer(401, &json!({"error": "who are you?"})),
        },
    );
    let daemon = stub.daemon(&[]);
    // The first is refused; nothing is sent any more until an operator says that it is mended.
    for (id, method) in [
        ("forbidden", "POST"),
        ("unauthorized", "POST"),
        ("lookup", "GET"),
    ] {
        super::pay(&daemon, id);
        until("the gateway has refused it", || stub.count(method, id) >= 1);
        until("nothing is sent", || {
            daemon.log().contains("not you") || daemon.log().contains("who are you?")
        });
        daemon.unix.post("/admin/resume", "").expect(200);
    }
    open.store(true, Ordering::SeqCst);
    until("all are paid", || {
        daemon.unix.post("/admin/resume", "").expect(200);
        ["forbidden", "unauthorized", "lookup"]
            .iter()
            .all(|id| daemon.invoice(id)["status"] == "PAID")
    });
    for id in ["forbidden", "unauthorized"] {
        assert!(!story(&daemon, id).iter().any(|it| it == UNKNOWN));
        assert!(stub.count("POST", id) >= 2, "it was sent again");
        assert_eq!(stub.count("GET", id), 0, "there was nothing to look up");
        no_charge_was_repeated(&daemon, &stub, id);
    }
    assert_eq!(story(&daemon, "lookup"), [REQUESTED, UNKNOWN, SUCCEEDED]);
    assert_eq!(stub.count("POST", "lookup"), 1);
    daemon.verify();
}
