//! `POST /invoices`, one at a time, and `GET /invoices/{id}`.

use serde_json::{Value, json};

use super::{
    INVOICE, JSON, assert_fields, assert_nulls, assert_problem, assert_time, chunked, make_paid,
    post_bytes,
};
use crate::support::daemon::Daemon;

/// 2^53−1: the largest amount.
const MOST: u64 = 9_007_199_254_740_991;

#[test]
fn an_invoice_has_all_its_fields_and_null_where_there_is_nothing() {
    let daemon = Daemon::start();
    for (transport, host) in daemon.hosts() {
        let made = host.post("/invoices", r#"{"amount":1000}"#);
        let invoice = made.expect(201);
        assert_fields(&invoice, INVOICE);
        assert_nulls(
            &invoice,
            "description payment_method due_at next_attempt_at paid_at",
        );
        let id = invoice["id"].as_str().unwrap();
        let uuid = uuid::Uuid::parse_str(id.strip_prefix("inv_").unwrap()).unwrap();
        assert_eq!(uuid.get_version_num(), 7, "{transport}");
        assert_eq!(invoice["amount"], 1000);
        assert_eq!(invoice["currency"], "USD");
        assert_eq!(invoice["status"], "PENDING");
        assert_eq!(invoice["metadata"], json!({}));
        assert_eq!(invoice["attempts"], 0);
        assert_eq!(invoice["needs_attention"], false);
        assert_eq!(invoice["cancel_requested"], false);
        assert_time(&invoice["created_at"]);
        assert_eq!(invoice["updated_at"], invoice["created_at"]);
        assert_eq!(made.header("content-type"), Some("application/json"));
        let location = format!("/invoices/{id}");
        assert_eq!(made.header("location"), Some(location.as_str()));

        let shown = host.get(&location);
        assert_eq!(shown.expect(200), invoice);
        assert_eq!(shown.header("content-type"), Some("application/json"));
        assert_ne!(made.header("x-request-id"), shown.header("x-request-id"));
    }
}

#[test]
fn all_that_is_said_is_kept() {
    let daemon = Daemon::start();
    let body = json!({
        "id": "A.b_c:d-1",
        "amount": MOST,
        "currency": "JPY",
        "description": "Zwei Zeilen,\n\"Anführung\" und 😀",
        "metadata": {"order": "7", "empty": "", "ключ": "значение"},
        "payment_method": "tok_visa",
        "due_at": "2030-06-07T10:09:10.5+02:00",
    });
    let made = daemon.tcp.post("/invoices", &body.to_string());
    let invoice = made.expect(201);
    assert_eq!(made.header("location"), Some("/invoices/A.b_c:d-1"));
    for field in "id amount currency description metadata payment_method".split(' ') {
        assert_eq!(invoice[field], body[field], "{field}");
    }
    assert_eq!(invoice["due_at"], "2030-06-07T08:09:10.500Z");
    assert_eq!(daemon.invoice("A.b_c:d-1"), invoice);
    for same in ["/invoices/A.b_c%3Ad-1", "/invoices/%41.b_c:d%2D1"] {
        assert_eq!(daemon.tcp.get(same).expect(200), invoice, "{same}");
    }
}

#[test]
fn people_write_what_they_want() {
    let daemon = Daemon::start();
    // Whoever shows it to people takes out what steers a terminal: payctl does.
    let texts = [
        String::new(),
        "line\r\n\ttab".to_owned(),
        "\u{1b}[31mred\u{7}\u{202e}".to_owned(),
        "x".repeat(16_000),
        "\u{2028}\u{85}\u{feff}".to_owned(),
    ];
    for (n, text) in texts.iter().enumerate() {
        let id = format!("inv-{n}");
        let body = json!({"id": id, "amount": 1, "description": text, "metadata": {"k": text}});
        let invoice = daemon.tcp.post("/invoices", &body.to_string()).expect(201);
        assert_eq!(invoice["description"], *text);
        assert_eq!(invoice["metadata"]["k"], *text);
        daemon
            .unix
            .post(
                &format!("/invoices/{id}/cancel"),
                &json!({"reason": text}).to_string(),
            )
            .expect(200);
    }
    // One a line, whatever is in them.
    let accept = [("Accept", "application/x-ndjson")];
    let export = daemon
        .unix
        .request("GET", "/invoices?order=asc", &accept, b"");
    for (line, text) in export.unwrap().lines().iter().zip(&texts) {
        assert_eq!(line["description"], *text);
    }
    let canceled: Vec<_> = daemon
        .events()
        .into_iter()
        .filter(|it| it["type"] == "InvoiceCanceled")
        .collect();
    for (event, text) in canceled.iter().zip(&texts) {
        assert_eq!(event["data"]["reason"], *text);
    }
    daemon.verify();
}

#[test]
fn the_same_id_is_the_same_invoice_or_a_conflict() {
    let daemon = Daemon::start();
    let first = r#"{"id":"inv-1","amount":1000,"due_at":"2030-01-01T00:00:00Z","metadata":{"a":"1","b":"2"}}"#;
    let invoice = daemon.unix.post("/invoices", first).expect(201);
    let same = [
        first,
        r#" {"metadata":{"b":"2","a":"1"},"due_at":"2030-01-01T01:00:00+01:00","amount":1000,"id":"inv-1"} "#,
        r#"{"id":"inv-1","amount":1000,"currency":"USD","due_at":"2030-01-01T00:00:00.000Z","metadata":{"a":"1","b":"2"},"description":null}"#,
    ];
    for body in same {
        for (_, host) in daemon.hosts() {
            let again = host.post("/invoices", body);
            assert_eq!(again.expect(200), invoice, "{body}");
            assert_eq!(again.header("location"), None);
        }
    }
    let other = [
        ("amount", json!(1001)),
        ("currency", json!("EUR")),
        ("description", json!("")),
        ("metadata", json!({"a": "1"})),
        ("payment_method", json!("sim:approve")),
        ("due_at", json!("2030-01-01T00:00:01Z")),
        ("due_at", Value::Null),
    ];
    for (field, value) in other {
        let mut body: Value = serde_json::from_str(first).unwrap();
        body[field] = value;
        let answer = daemon.unix.post("/invoices", &body.to_string());
        assert_problem(&answer, 409, "invoice_exists", &[]);
    }
    assert_eq!(daemon.invoice("inv-1"), invoice, "nothing has happened");
    assert_eq!(daemon.events().len(), 1);
}

#[test]
fn what_stands_is_shown_as_it_stands() {
    let daemon = Daemon::start();
    make_paid(&daemon, "inv-1");
    let body = r#"{"id":"inv-1","amount":1000,"payment_method":"sim:approve"}"#;
    let again = daemon.tcp.post("/invoices", body).expect(200);
    assert_eq!(again["status"], "PAID");
    assert_eq!(again["attempts"], 1);
    assert_fields(&again, INVOICE);
    assert_nulls(&again, "description due_at next_attempt_at");
    assert_time(&again["paid_at"]);
}

#[test]
fn amounts_are_whole_numbers_of_minor_units() {
    let daemon = Daemon::start();
    // what is sent as the amount, and whether it is one
    let rows = [
        ("1", true),
        ("9007199254740991", true),
        ("9007199254740992", false),
        ("18446744073709551615", false),
        ("18446744073709551616", false),
        ("1000000000000000000000000000000", false),
        ("0", false),
        ("-0", false),
        ("-1", false),
        ("-9007199254740991", false),
        ("10.0", false),
        ("10.00", false),
        ("0.1", false),
        ("1e3", false),
        ("1E3", false),
        ("1e400", false),
        ("1e-1", false),
        (r#""10""#, false),
        ("null", false),
        ("true", false),
        ("[10]", false),
        ("{}", false),
    ];
    for (amount, fits) in rows {
        let body = format!(r#"{{"amount":{amount}}}"#);
        for (_, host) in daemon.hosts() {
            let answer = host.post("/invoices", &body);
            if fits {
                assert_eq!(answer.expect(201)["amount"].to_string(), amount);
            } else {
                assert_problem(&answer, 422, "invalid_request", &["amount"]);
            }
        }
    }
    for broken in [
        "01", "+1", ".5", "1.", "0x10", "1_000", "NaN", "Infinity", "",
    ] {
        let answer = daemon
            .unix
            .post("/invoices", &format!(r#"{{"amount":{broken}}}"#));
        assert_problem(&answer, 400, "malformed_request", &[]);
    }
}

#[test]
fn a_bad_body_is_told_what_is_wrong_with_it() {
    let daemon = Daemon::start();
    let keys = |n: usize| {
        let all: Vec<_> = (0..n).map(|n| format!(r#""k{n}":"v""#)).collect();
        format!(r#"{{"amount":1,"metadata":{{{}}}}}"#, all.join(","))
    };
    let id = |id: &str| json!({"id": id, "amount": 1}).to_string();
    let deep =
        |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let deep_field = format!(r#"{{"amount":{}}}"#, deep("[", "]", 20_000));
    let deep_map = format!(
        r#"{{"amount":1,"metadata":{}}}"#,
        deep(r#"{"a":"#, "}", 10_000)
    );
    let text = |field: &str, n: usize| json!({"amount": 1, field: "x".repeat(n)}).to_string();

    // What is not JSON: 400, and no field can be at fault.
    let broken: &[&[u8]] = &[
        b"",
        b" ",
        b"{",
        b"}",
        b"nope",
        b"{\"amount\":1",
        b"{\"amount\":1}}",
        b"{\"amount\":1} {\"amount\":2}",
        b"{\"amount\":1,}",
        b"{\"amount\" 1}",
        b"{'amount':1}",
        b"{amount:1}",
        b"{\"amount\":1 // one\n}",
        b"amount=1",
        b"<amount>1</amount>",
        b"{\"amount\":1,\"description\":\"\xff\xfe\"}",
        b"{\"amount\":1,\"description\":\"\xed\xa0\x80\"}",
        b"{\"amount\":1,\"description\":\"a\nb\"}",
        b"\xef\xbb\xbf{\"amount\":1}",
        b"\0",
        &[b'['; 30_000],
    ];
    for body in broken {
        for (transport, host) in daemon.hosts() {
            let answer = post_bytes(host, "/invoices", &[JSON], body);
            let what = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert_eq!(answer.status, 400, "{transport} {what}: {}", answer.text());
            assert_problem(&answer, 400, "malformed_request", &[]);
        }
    }

    // What is JSON and no invoice: 422, and the fields at fault by name.
    #[rustfmt::skip]
    let rows: &[(&str, &[&str])] = &[
        ("[]", &[""]),
        (r#"[{"amount":1}]"#, &[""]),
        ("null", &[""]),
        ("true", &[""]),
        ("1", &[""]),
        (r#""amount""#, &[""]),
        (&deep("[", "]", 20_000), &[""]),
        ("{}", &["amount"]),
        (r#"{"amount":1,"color":"red"}"#, &["color"]),
        (r#"{"amount":1,"status":"PAID"}"#, &["status"]),
        (r#"{"amount":1,"Amount":1}"#, &["Amount"]),
        (r#"{"amount":1,"":1}"#, &[""]),
        (r#"{"amount":1,"amount":1}"#, &["amount"]),
        (r#"{"amount":1,"\u0061mount":2}"#, &["amount"]),
        (r#"{"amount":1,"metadata":{"a":"1","a":"1"}}"#, &["metadata.a"]),
        (&id(""), &["id"]),
        (&id("."), &["id"]),
        (&id(".."), &["id"]),
        (&id("a b"), &["id"]),
        (&id("a/b"), &["id"]),
        (&id("a%2fb"), &["id"]),
        (&id("ä"), &["id"]),
        (&id("a\n"), &["id"]),
        (&id("a\0"), &["id"]),
        (&id(&"x".repeat(65)), &["id"]),
        (r#"{"amount":1,"id":7}"#, &["id"]),
        (r#"{"amount":1,"id":["a"]}"#, &["id"]),
        (r#"{"amount":1,"currency":"usd"}"#, &["currency"]),
        (r#"{"amount":1,"currency":"ZZZ"}"#, &["currency"]),
        (r#"{"amount":1,"currency":"US"}"#, &["currency"]),
        (r#"{"amount":1,"currency":"USDT"}"#, &["currency"]),
        (r#"{"amount":1,"currency":""}"#, &["currency"]),
        (r#"{"amount":1,"currency":" USD"}"#, &["currency"]),
        (r#"{"amount":1,"currency":840}"#, &["currency"]),
        (r#"{"amount":1,"description":1}"#, &["description"]),
        (r#"{"amount":1,"description":"\u0000"}"#, &["description"]),
        (r#"{"amount":1,"description":"\ud800"}"#, &["description"]),
        (&text("description", 20_000), &["description"]),
        (&text("payment_method", 20_000), &["payment_method"]),
        (r#"{"amount":1,"payment_method":""}"#, &["payment_method"]),
        (r#"{"amount":1,"payment_method":{}}"#, &["payment_method"]),
        (r#"{"amount":1,"metadata":[]}"#, &["metadata"]),
        (r#"{"amount":1,"metadata":"a"}"#, &["metadata"]),
        (r#"{"amount":1,"metadata":{"a":1}}"#, &["metadata.a"]),
        (r#"{"amount":1,"metadata":{"a":null}}"#, &["metadata.a"]),
        (r#"{"amount":1,"metadata":{"a":{"b":"c"}}}"#, &["metadata.a"]),
        (&keys(51), &["metadata"]),
        (&deep_map, &["metadata.a"]),
        (&deep_field, &["amount"]),
        (r#"{"amount":1,"due_at":"tomorrow"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-01-01"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-01-01T00:00:00"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-02-30T00:00:00Z"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-01-01T25:00:00Z"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-01-01T00:00:00,5Z"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-01-01T00:00:00+01"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-01-01T00:00:00+0100"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-01-01T00:00:00+24:00"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":"2030-01-01T00:00:00Z[UTC]"}"#, &["due_at"]),
        (r#"{"amount":1,"due_at":1893456000}"#, &["due_at"]),
        (r#"{"amount":"1","currency":"usd","id":"..","x":1}"#, &["amount", "currency", "id", "x"]),
    ];
    for (body, fields) in rows {
        for (transport, host) in daemon.hosts() {
            let answer = host.post("/invoices", body);
            assert_eq!(
                answer.status,
                422,
                "{transport} {body:.60}: {}",
                answer.text()
            );
            assert_problem(&answer, 422, "invalid_request", fields);
        }
    }
    assert!(daemon.events().is_empty(), "nothing has happened");
    daemon.unix.post("/invoices", &keys(50)).expect(201);
    daemon
        .unix
        .post("/invoices", &id(&"x".repeat(64)))
        .expect(201);
}

#[test]
fn a_body_has_at_most_64_kib_however_it_comes() {
    let daemon = Daemon::start();
    let invoice = |size: usize| {
        let body = r#"{"amount":1}"#;
        format!("{body}{}", " ".repeat(size - body.len())).into_bytes()
    };
    let chunks = ("Transfer-Encoding", "chunked");
    for (_, host) in daemon.hosts() {
        for (size, status) in [
            (64 * 1024, 201),
            (64 * 1024 + 1, 413),
            (65 * 1024, 413),
            (700_000, 413),
        ] {
            let said = post_bytes(host, "/invoices", &[JSON], &invoice(size));
            let counted = post_bytes(host, "/invoices", &[JSON, chunks], &chunked(&invoice(size)));
            for answer in [said, counted] {
                assert_eq!(answer.status, status, "{size}");
                if status == 413 {
                    assert_problem(&answer, 413, "body_too_large", &[]);
                }
            }
        }
        // Nobody waits for what is announced and would be refused.
        let announced = [JSON, ("Content-Length", "99999999999")];
        let answer = post_bytes(host, "/invoices", &announced, b"{");
        assert_problem(&answer, 413, "body_too_large", &[]);
    }
}

#[test]
fn a_body_is_of_a_type_that_the_route_takes() {
    let daemon = Daemon::start();
    // the content type of a good invoice, and the status
    let rows = [
        (vec![JSON], 201),
        (
            vec![("Content-Type", "application/json; charset=utf-8")],
            201,
        ),
        (vec![("Content-Type", "APPLICATION/JSON")], 201),
        (vec![], 415),
        (vec![("Content-Type", "")], 415),
        (vec![("Content-Type", "text/plain")], 415),
        (vec![("Content-Type", "application/xml")], 415),
        (vec![("Content-Type", "application/jsonp")], 415),
        (vec![("Content-Type", "application/json-patch+json")], 415),
        (
            vec![("Content-Type", "application/x-www-form-urlencoded")],
            415,
        ),
        (
            vec![("Content-Type", "multipart/form-data; boundary=x")],
            415,
        ),
        (
            vec![("Content-Type", "application/json; charset=utf-16")],
            415,
        ),
        (vec![JSON, ("Content-Encoding", "gzip")], 415),
    ];
    for (_, host) in daemon.hosts() {
        for (headers, status) in &rows {
            let answer = post_bytes(host, "/invoices", headers, br#"{"amount":1}"#);
            assert_eq!(answer.status, *status, "{headers:?}");
            if *status == 415 {
                assert_problem(&answer, 415, "unsupported_media_type", &[]);
            }
        }
    }
}

#[test]
fn no_invoice_has_what_is_no_id() {
    let daemon = Daemon::start();
    let long = format!("/invoices/{}", "x".repeat(65));
    let paths = [
        "/invoices/inv-1",
        "/invoices/INV-1",
        "/invoices/.",
        "/invoices/..",
        "/invoices/%2e",
        "/invoices/%2E%2E",
        "/invoices/a%20b",
        "/invoices/a%2Fb",
        "/invoices/%00",
        "/invoices/%ff",
        "/invoices/%",
        "/invoices/%zz",
        "/invoices/{id}",
        "/invoices/'%20OR%201=1",
        &long,
    ];
    for path in paths {
        for (_, host) in daemon.hosts() {
            let answer = host.get(path);
            assert_eq!(answer.status, 404, "{path}");
            assert_problem(&answer, 404, "invoice_not_found", &[]);
            for below in ["payments", "pay", "cancel"] {
                let path = format!("{path}/{below}");
                let answer = match below {
                    "payments" => host.get(&path),
                    _ => host.post(&path, ""),
                };
                assert_eq!(answer.status, 404, "{path}");
                assert_problem(&answer, 404, "invoice_not_found", &[]);
            }
        }
    }
    assert!(daemon.events().is_empty());
}

#[test]
fn what_takes_no_query_says_so() {
    let daemon = Daemon::start();
    let payment = make_paid(&daemon, "inv-1");
    let payment = payment["id"].as_str().unwrap();
    let rows = [
        ("POST", "/invoices".to_owned(), r#"{"amount":1}"#),
        ("GET", "/invoices/inv-1".to_owned(), ""),
        ("GET", "/invoices/inv-1/payments".to_owned(), ""),
        ("POST", "/invoices/inv-1/pay".to_owned(), ""),
        ("POST", "/invoices/inv-1/cancel".to_owned(), ""),
        ("GET", format!("/payments/{payment}"), ""),
        (
            "POST",
            format!("/payments/{payment}/resolve"),
            r#"{"as":"failed","reason":"x"}"#,
        ),
        ("GET", "/admin/status".to_owned(), ""),
        ("POST", "/admin/pause".to_owned(), ""),
    ];
    for (method, path, body) in rows {
        let headers: &[_] = if body.is_empty() { &[] } else { &[JSON] };
        let path = format!("{path}?dry_run=true");
        let answer = daemon
            .unix
            .request(method, &path, headers, body.as_bytes())
            .unwrap();
        assert_eq!(answer.status, 422, "{method} {path}");
        assert_problem(&answer, 422, "invalid_request", &["dry_run"]);
    }
    assert_eq!(daemon.events().len(), 3, "nothing has happened");
}
