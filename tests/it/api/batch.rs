//! `POST /invoices` with an invoice a line.

use serde_json::json;

use super::{INVOICE, NDJSON, assert_fields, assert_problem, chunked, make_paid, post_bytes};
use crate::support::daemon::Daemon;

#[test]
fn one_bad_line_hurts_no_other() {
    let daemon = Daemon::start();
    make_paid(&daemon, "paid");
    let big = format!(r#"{{"amount":1,"description":"{}"}}"#, "x".repeat(70_000));
    // a line, its status, and the code or the id of the answer
    let rows: &[(&[u8], u16, &str)] = &[
        (br#"{"id":"a","amount":1}"#, 201, "a"),
        (br#"{"id":"a","amount":1}"#, 200, "a"),
        (br#"{"id":"a","amount":2}"#, 409, "invoice_exists"),
        (b"", 400, "malformed_request"),
        (b"nope", 400, "malformed_request"),
        (b"\xff", 400, "malformed_request"),
        (br#"{"id":"b","amount":"1"}"#, 422, "invalid_request"),
        (br#"{"id":"b","amount":1,"x":1}"#, 422, "invalid_request"),
        (
            br#"{"id":"b","amount":1,"amount":1}"#,
            422,
            "invalid_request",
        ),
        (br#"{"id":"..","amount":1}"#, 422, "invalid_request"),
        (br#"[{"id":"b","amount":1}]"#, 422, "invalid_request"),
        (
            br#"{"id":"b","amount":1}{"id":"c","amount":1}"#,
            400,
            "malformed_request",
        ),
        (big.as_bytes(), 413, "body_too_large"),
        (
            br#"{"id":"paid","amount":1000,"payment_method":"sim:approve"}"#,
            200,
            "paid",
        ),
        (b"  {\"id\" : \"b\", \"amount\" : 7}\r", 201, "b"),
        (br#"{"id":"c","amount":3,"currency":"EUR"}"#, 201, "c"),
    ];
    let body: Vec<u8> = rows
        .iter()
        .map(|(line, ..)| *line)
        .collect::<Vec<_>>()
        .join(&b'\n');
    let answer = post_bytes(&daemon.tcp, "/invoices", &[NDJSON], &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert!(answer.text().ends_with('\n'), "every line ends");
    let lines = answer.lines();
    assert_eq!(lines.len(), rows.len());
    for ((line, status, what), told) in rows.iter().zip(&lines) {
        let line = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
        assert_eq!(told["status"], *status, "{line}: {told}");
        if *status < 400 {
            assert_fields(told, "status invoice");
            assert_fields(&told["invoice"], INVOICE);
            assert_eq!(told["invoice"]["id"], *what, "{line}");
        } else {
            assert_fields(told, "status problem");
            let problem = &told["problem"];
            assert_eq!(problem["code"], *what, "{line}");
            assert_eq!(problem["status"], *status);
            assert_eq!(problem["type"], format!("urn:payd:error:{what}"));
            assert_eq!(problem["errors"].is_array(), *status == 422, "{line}");
        }
    }
    assert_eq!(lines[13]["invoice"]["status"], "PAID");
    assert_eq!(daemon.invoice("a")["amount"], 1);
    assert_eq!(daemon.events().len(), 6, "paid, a, b and c");
    daemon.verify();
}

#[test]
fn sent_again_it_is_harmless() {
    let daemon = Daemon::start();
    let lines: Vec<String> = (0..500)
        .map(|n| format!(r#"{{"id":"inv-{n}","amount":{}}}"#, n + 1))
        .collect();
    let body = lines.join("\n") + "\n";
    let send = || daemon.unix.post_with("/invoices", &[NDJSON], &body);
    let (first, second) = (send().lines(), send().lines());
    assert_eq!((first.len(), second.len()), (500, 500));
    for (n, (first, second)) in first.iter().zip(&second).enumerate() {
        assert_eq!(
            (&first["status"], &second["status"]),
            (&json!(201), &json!(200))
        );
        assert_eq!(first["invoice"], second["invoice"]);
        assert_eq!(
            first["invoice"]["id"],
            format!("inv-{n}"),
            "the order is that of the lines"
        );
    }
    assert_eq!(daemon.events().len(), 500);
    // The events of such a batch are linked on a thread of their own.
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut names = threads.map(|it| std::fs::read_to_string(it.unwrap().path().join("comm")));
    assert!(names.any(|name| name.is_ok_and(|it| it == "sealer\n")));
    make_paid(&daemon, "after-it");
    daemon.verify();
}

#[test]
fn without_an_id_each_line_gets_one_of_its_own() {
    let daemon = Daemon::start();
    let answer = daemon
        .unix
        .post_with("/invoices", &[NDJSON], &"{\"amount\":5}\n".repeat(100));
    let ids: std::collections::BTreeSet<String> = answer
        .lines()
        .iter()
        .map(|line| line["invoice"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 100);
    assert!(ids.iter().all(|id| id.starts_with("inv_")));
}

#[test]
fn a_batch_has_at_most_a_thousand_lines_and_one_mib() {
    let daemon = Daemon::start();
    let lines = |n: usize, end: &str| {
        let all: Vec<String> = (0..n)
            .map(|n| format!(r#"{{"id":"inv-{n}","amount":1}}"#))
            .collect();
        all.join("\n") + end
    };
    for (_, host) in daemon.hosts() {
        let over = host.post_with("/invoices", &[NDJSON], &lines(1001, ""));
        assert_problem(&over, 413, "body_too_large", &[]);
    }
    assert!(daemon.events().is_empty(), "nothing has happened");
    let most = daemon
        .unix
        .post_with("/invoices", &[NDJSON], &lines(1000, "\n"));
    assert!(most.lines().iter().all(|line| line["status"] == 201));

    // Invoices of two kilobytes each.
    let sized = |size: usize| {
        let line = format!("{{\"amount\":1{}}}\n", " ".repeat(2000));
        let mut body = line.repeat(size / line.len()).into_bytes();
        body.resize(size, b' ');
        body
    };
    let chunks = ("Transfer-Encoding", "chunked");
    for (size, status) in [(1024 * 1024, 200), (1024 * 1024 + 1, 413), (3_000_000, 413)] {
        let said = post_bytes(&daemon.tcp, "/invoices", &[NDJSON], &sized(size));
        let counted = post_bytes(
            &daemon.unix,
            "/invoices",
            &[NDJSON, chunks],
            &chunked(&sized(size)),
        );
        for answer in [said, counted] {
            assert_eq!(answer.status, status, "{size}");
            if status == 413 {
                assert_problem(&answer, 413, "body_too_large", &[]);
            }
        }
    }
}

#[test]
fn a_batch_of_nothing_is_none() {
    let daemon = Daemon::start();
    for body in [&b""[..], b"\n"] {
        let answer = post_bytes(&daemon.unix, "/invoices", &[NDJSON], body);
        assert_problem(&answer, 400, "malformed_request", &[]);
    }
    for path in [
        "/invoices/inv-1/pay",
        "/invoices/inv-1/cancel",
        "/admin/pause",
    ] {
        let answer = post_bytes(&daemon.unix, path, &[NDJSON], b"{}\n");
        assert_problem(&answer, 415, "unsupported_media_type", &[]);
    }
}
