//! What goes wrong around the routes: no such route, other methods, other hosts, web pages; what
//! every answer has; and the health checks, which are there whatever else is not.

use std::io::{Read, Write};

use serde_json::json;

use super::{Headers, JSON, assert_fields, assert_problem, make_paid};
use crate::support::daemon::Daemon;

/// Every route, and the methods that it takes.
pub(super) const ROUTES: &[(&str, &str)] = &[
    ("/invoices", "GET HEAD POST"),
    ("/invoices/inv-1", "GET HEAD"),
    ("/invoices/inv-1/pay", "POST"),
    ("/invoices/inv-1/cancel", "POST"),
    ("/invoices/inv-1/payments", "GET HEAD"),
    ("/payments/pay_1", "GET HEAD"),
    ("/payments/pay_1/resolve", "POST"),
    ("/events", "GET HEAD"),
    ("/healthz", "GET HEAD"),
    ("/readyz", "GET HEAD"),
    ("/metrics", "GET HEAD"),
    ("/openapi.json", "GET HEAD"),
    ("/admin/status", "GET HEAD"),
    ("/admin/backup", "POST"),
    ("/admin/doctor", "GET HEAD"),
    ("/admin/verify", "GET HEAD"),
    ("/admin/pause", "POST"),
    ("/admin/resume", "POST"),
    ("/admin/tokens", "GET HEAD POST"),
    ("/admin/tokens/shop/revoke", "POST"),
];

#[test]
fn a_route_names_the_methods_that_it_takes() {
    let daemon = Daemon::start();
    for (path, takes) in ROUTES {
        for method in [
            "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW",
        ] {
            if takes.split(' ').any(|it| it == method) {
                continue;
            }
            for (_, host) in daemon.hosts() {
                let answer = host.request(method, path, &[JSON], b"{}").unwrap();
                assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text());
                assert_problem(&answer, 405, "method_not_allowed", &[]);
                let allow = answer
                    .header("allow")
                    .unwrap_or_else(|| panic!("{method} {path}: no Allow"));
                let mut allowed: Vec<_> = allow.split(',').map(str::trim).collect();
                allowed.sort_unstable();
                assert_eq!(allowed.join(" "), *takes, "{method} {path}");
            }
        }
    }
}

#[test]
fn there_is_nothing_beside_the_routes() {
    let daemon = Daemon::start();
    make_paid(&daemon, "inv-1");
    let paths = [
        "/",
        "//",
        "/invoices/",
        "/invoices//",
        "/invoices/inv-1/",
        "/invoices/inv-1/pay/",
        "/invoices/inv-1/refund",
        "/invoices/inv-1/../inv-1",
        "//invoices",
        "/Invoices",
        "/payments",
        "/payments/",
        "/events/1",
        "/admin",
        "/admin/",
        "/admin/../invoices",
        "/health",
        "/v1/invoices",
        "/openapi.yaml",
        "/favicon.ico",
        "/%00",
    ];
    for path in paths {
        for method in ["GET", "POST", "DELETE"] {
            for (_, host) in daemon.hosts() {
                let answer = host.request(method, path, &[], b"").unwrap();
                assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
                assert!(matches!(
                    answer.json()["code"].as_str(),
                    Some("not_found" | "invoice_not_found" | "payment_not_found")
                ));
                let code = answer.json()["code"].as_str().unwrap().to_owned();
                assert_problem(&answer, 404, &code, &[]);
            }
        }
    }
}

#[test]
fn another_hosts_requests_are_misdirected() {
    let daemon = Daemon::start();
    let foreign = [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.2",
        "10.0.0.1",
        "[::2]",
        "0.0.0.0",
        "2130706433",
        "localhost@evil.example",
        "",
    ];
    let routes = [
        ("GET", "/invoices", ""),
        ("POST", "/invoices", r#"{"amount":1}"#),
        ("GET", "/healthz", ""),
        ("GET", "/nowhere", ""),
    ];
    for host in foreign {
        for (method, path, body) in routes {
            let answer = daemon
                .tcp
                .request(method, path, &[("Host", host), JSON], body.as_bytes())
                .unwrap();
            assert_eq!(answer.status, 421, "{host} {method} {path}");
            assert_problem(&answer, 421, "misdirected_request", &[]);
        }
    }
    for host in [
        "localhost",
        "LOCALHOST:9",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:80",
    ] {
        daemon
            .tcp
            .request("GET", "/invoices", &[("Host", host)], b"")
            .unwrap()
            .expect(200);
    }
    // A socket is reached by its path: its host says nothing.
    for host in ["evil.example", "payd", "localhost", ""] {
        daemon
            .unix
            .request("GET", "/invoices", &[("Host", host)], b"")
            .unwrap()
            .expect(200);
    }
    assert!(daemon.events().is_empty(), "nothing has happened");
}

#[test]
fn web_pages_get_nothing() {
    let daemon = Daemon::start();
    for origin in [
        "http://evil.example",
        "http://localhost",
        "http://127.0.0.1:8080",
        "null",
        "",
    ] {
        for (method, path) in [
            ("GET", "/invoices"),
            ("POST", "/invoices"),
            ("GET", "/events"),
            ("OPTIONS", "/invoices"),
        ] {
            let answer = daemon
                .tcp
                .request(
                    method,
                    path,
                    &[("Origin", origin), JSON],
                    br#"{"amount":1}"#,
                )
                .unwrap();
            assert_eq!(answer.status, 403, "{origin} {method} {path}");
            assert_problem(&answer, 403, "forbidden", &[]);
            assert!(
                answer
                    .headers
                    .iter()
                    .all(|(name, _)| !name.to_lowercase().starts_with("access-control"))
            );
        }
    }
    // Without Origin, as a form of an old browser or a no-cors script would send it.
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ] {
        let answer = daemon
            .tcp
            .request(
                "POST",
                "/invoices",
                &[("Content-Type", kind)],
                br#"{"amount":1}"#,
            )
            .unwrap();
        assert_problem(&answer, 415, "unsupported_media_type", &[]);
    }
    assert!(daemon.events().is_empty(), "nothing has happened");
}

#[test]
fn operators_pause_and_resume() {
    let daemon = Daemon::start();
    let status = daemon.unix.get("/admin/status");
    assert_eq!(status.header("content-type"), Some("application/json"));
    assert_eq!(status.expect(200)["paused"], false, "nothing has happened");
    for body in [r#"{"x":1}"#, r#"{"paused":true}"#] {
        assert_eq!(daemon.unix.post("/admin/pause", body).status, 422, "{body}");
    }
    assert_eq!(
        daemon.unix.post("/admin/pause", "{}").expect(200)["paused"],
        true
    );
    assert_eq!(
        daemon.unix.post("/admin/pause", "").expect(200)["paused"],
        true,
        "once more is the same"
    );
    assert_eq!(daemon.unix.get("/admin/status").expect(200)["paused"], true);
    assert_eq!(
        daemon.unix.post("/admin/resume", "").expect(200)["paused"],
        false
    );
}

#[test]
fn every_answer_has_a_request_id_the_clients_own_where_it_gave_one() {
    let daemon = Daemon::start();
    let requests: &[(&str, &str, Headers<'_>)] = &[
        ("GET", "/invoices", &[]),
        ("POST", "/invoices", &[]),
        ("GET", "/nowhere", &[]),
        ("DELETE", "/invoices", &[]),
        ("GET", "/healthz", &[]),
        ("GET", "/metrics", &[]),
        ("GET", "/invoices", &[("Origin", "null")]),
        ("GET", "/events", &[("Accept", "application/x-ndjson")]),
        ("GET", "/invoices", &[("Accept", "application/x-ndjson")]),
        ("HEAD", "/invoices", &[]),
    ];
    for (method, path, headers) in requests {
        for (_, host) in daemon.hosts() {
            let open = |more: &[(&str, &str)]| {
                let all = [headers, more].concat();
                host.open(method, path, &all, b"").unwrap()
            };
            let id = |more: &[(&str, &str)]| open(more).header("x-request-id").map(str::to_owned);
            let first = id(&[]).unwrap_or_else(|| panic!("{method} {path}"));
            assert!(first.len() >= 16);
            assert_ne!(Some(first), id(&[]), "each has its own");
            assert_eq!(id(&[("X-Request-Id", "mine-1")]).as_deref(), Some("mine-1"));
            for odd in ["a b", "<script>", "", &"x".repeat(500)] {
                let got = id(&[("X-Request-Id", odd)]).unwrap();
                assert!(got != odd && !got.is_empty(), "{odd}");
            }
        }
    }
}

#[test]
fn health_checks_answer_and_take_any_query() {
    let daemon = Daemon::start();
    for (_, host) in daemon.hosts() {
        for path in ["/healthz", "/readyz", "/healthz?from=probe", "/readyz?x"] {
            let answer = host.get(path);
            assert_eq!(answer.expect(200), json!({"status": "ok"}));
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
    }
}

#[test]
fn metrics_count_what_was_decided() {
    let daemon = Daemon::start();
    let metric = |name: &str| -> u64 {
        let answer = daemon.tcp.get("/metrics");
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("text/plain")
        );
        let text = answer.text();
        assert!(text.contains(&format!("# TYPE {name} counter\n")), "{text}");
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let counted = || {
        ["processed", "succeeded", "failed"]
            .map(|what| metric(&format!("payd_payments_{what}_total")))
    };
    assert_eq!(counted(), [0, 0, 0]);
    make_paid(&daemon, "inv-1");
    super::make_and_pay(&daemon, "inv-2", "sim:decline-then-approve");
    daemon.until_invoice("inv-2", "PAID");
    super::make_and_pay(&daemon, "inv-3", "sim:decline");
    daemon.until_invoice("inv-3", "FAILED");
    assert_eq!(counted(), [4, 2, 2], "attempts, by outcome");
}

#[test]
fn head_is_get_without_a_body() {
    let daemon = Daemon::without_tokens();
    make_paid(&daemon, "inv-1");
    for path in [
        "/invoices",
        "/invoices/inv-1",
        "/invoices/inv-1/payments",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/invoices/none",
    ] {
        let head = raw(
            &daemon,
            &format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        );
        let (head, body) = head.split_once("\r\n\r\n").unwrap();
        assert!(body.is_empty(), "{path}: {body}");
        let get = daemon.tcp.get(path);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {} ", get.status)),
            "{path}: {head}"
        );
        assert!(
            head.to_lowercase().contains(&format!(
                "content-type: {}",
                get.header("content-type").unwrap()
            )),
            "{path}: {head}"
        );
    }
}

/// What comes back for these bytes.
fn raw(daemon: &Daemon, request: &str) -> String {
    let mut wire = daemon.tcp.connect().unwrap();
    wire.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A server that gives up on a connection may reset it after its answer.
    let _ = wire.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// An error's whole answer, as it came over the wire: a problem, and the end of the connection.
#[track_caller]
fn assert_worded(answer: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    for header in [
        "content-type: application/problem+json",
        "x-request-id: ",
        "date: ",
        "connection: close",
        &format!("content-length: {}", body.len()),
    ] {
        let has = head.split("\r\n").any(|line| line.starts_with(header));
        assert!(has, "no {header}: {answer}");
    }
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    let status = head.split(' ').nth(1).unwrap();
    assert_eq!(problem["status"].to_string(), status, "{answer}");
    assert!(problem["detail"].is_string(), "{answer}");
}

#[test]
fn what_is_no_http_gets_an_error_and_harms_nobody() {
    let daemon = Daemon::without_tokens();
    let long = format!(
        "GET /invoices HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    let path = format!(
        "GET /invoices/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "x".repeat(40_000)
    );
    let many = format!(
        "GET /invoices HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "X-A: b\r\n".repeat(500)
    );
    let rows = [
        ("nonsense\r\n\r\n", "400"),
        ("GET /invoices\r\n\r\n", "400"),
        ("GET /in voices HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
        (
            "POST /invoices HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
            "400",
        ),
        (
            "POST /invoices HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            "400",
        ),
        // Which of the two lengths counts is how requests are smuggled: RFC 9112, section 6.1.
        (
            "POST /invoices HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("GET /invoices HTTP/1.1\r\nConnection: close\r\n\r\n", "421"),
        (
            "GET /invoices HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "421",
        ),
        (
            "GET http://evil.example/invoices HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "421",
        ),
        ("GET /healthz HTTP/1.0\r\n\r\n", "200"),
        (&long, "431"),
        (&path, "4"),
        (&many, "431"),
    ];
    for (request, status) in rows {
        let answer = raw(&daemon, request);
        let said = answer.split(' ').nth(1).unwrap_or_default();
        assert!(said.starts_with(status), "{:.60}: {answer:.80}", request);
        if said.starts_with('4') {
            assert_worded(&answer);
        }
    }
    // On a connection that has been in use, too; and what was asked before has its own answer.
    let good = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut wire = daemon.tcp.connect().unwrap();
    wire.write_all(good.as_bytes()).unwrap();
    let mut first = Vec::new();
    while !first.ends_with(b"}") {
        let mut byte = [0];
        wire.read_exact(&mut byte).unwrap();
        first.extend(byte);
    }
    wire.write_all(b"nonsense\r\n\r\n").unwrap();
    let mut second = String::new();
    wire.read_to_string(&mut second).unwrap();
    assert_worded(&second);
    let both = raw(&daemon, &format!("{good}{good}nonsense\r\n\r\n"));
    assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2, "{both}");
    assert_eq!(both.matches("HTTP/1.1 400 ").count(), 1, "{both}");
    daemon.tcp.get("/healthz").expect(200);
    assert!(daemon.events().is_empty());
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on_or_not_to() {
    let daemon = Daemon::without_tokens();
    let head = |size: usize| {
        format!(
            "POST /invoices HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let body = r#"{"amount":1}"#;
    let mut wire = daemon.tcp.connect().unwrap();
    wire.write_all(head(body.len()).as_bytes()).unwrap();
    let mut interim = [0; 25];
    wire.read_exact(&mut interim).unwrap();
    assert_eq!(
        std::str::from_utf8(&interim),
        Ok("HTTP/1.1 100 Continue\r\n\r\n")
    );
    wire.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let refused = raw(&daemon, &head(100_000));
    assert!(refused.contains("HTTP/1.1 413 "), "{refused}");
}

#[test]
fn a_connection_takes_one_request_after_another() {
    let daemon = Daemon::without_tokens();
    let body = r#"{"amount":1}"#;
    let post = format!(
        "POST /invoices HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let bad = "POST /invoices HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc";
    let last = "GET /invoices HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    // Sent all at once: an answer that does not read its body would be taken for the next request.
    let answers = raw(&daemon, &format!("{post}{bad}{post}{last}"));
    let told: Vec<_> = answers
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &answers[at + 9..at + 12])
        .collect();
    assert_eq!(told, ["201", "415", "201", "200"], "{answers}");
}

#[test]
fn a_problem_has_the_same_fields_on_every_route() {
    let daemon = Daemon::start();
    let answer = daemon.unix.get("/invoices/none");
    assert_fields(&answer.json(), "type title status detail code");
    let answer = daemon.unix.get("/invoices?limit=0");
    assert_fields(&answer.json(), "type title status detail code errors");
}
