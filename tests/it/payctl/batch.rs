//! Many invoices from a file.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use super::{err, exits, invoice, out};
use crate::support::scripted::{Asked, Reply, Scripted};

/// Takes lines with an id, refuses others.
fn take(asked: &Asked) -> Reply {
    assert_eq!(asked.header("content-type"), Some("application/x-ndjson"));
    let mut body = String::new();
    for line in asked.text().lines() {
        let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
        let id = parsed.as_ref().and_then(|value| value["id"].as_str());
        let result = match id {
            Some(id) => json!({"status": 201, "invoice": invoice(id, "PENDING", 0)}),
            None => json!({"status": 422, "problem": {
                "type": "urn:payd:error:invalid_request", "title": "No", "status": 422,
                "detail": "Send an object", "code": "invalid_request",
                "errors": [{"field": "id", "message": "missing"}],
            }}),
        };
        body.push_str(&format!("{result}\n"));
    }
    Reply::json(200, body)
}

#[test]
fn a_bad_line_hurts_no_other_and_has_its_number() {
    let server = Scripted::start(|asked, _| take(asked));
    let file = server.file("in", "{\"id\":\"a\"}\n\n  \nnonsense\n{\"id\":\"b\"}");
    let file = file.to_str().unwrap();
    let output = server.payctl(&["-o", "name", "invoice", "create", "-f", file]);
    exits(&output, 1);
    assert_eq!(out(&output), "a\nb\n");
    let said = err(&output);
    assert!(said.contains("line 4: id: missing"), "{said}");
    assert!(
        said.contains("2 created, 1 failed, 2 blank lines skipped"),
        "{said}"
    );

    let json = server.payctl(&["-o", "json", "-q", "invoice", "create", "-f", file]);
    exits(&json, 1);
    let statuses: Vec<u64> = out(&json)
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["status"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(statuses, [201, 422, 201]);
    assert!(!err(&json).contains("created"), "{}", err(&json));
}

#[test]
fn chunks_have_keys_that_follow_from_the_run() {
    let server = Scripted::start(|asked, _| take(asked));
    let lines: String = (0..2500)
        .map(|n| format!("{{\"id\":\"i{n}\"}}\n"))
        .collect();
    let mut child = server
        .command(&[
            "-q",
            "-o",
            "name",
            "invoice",
            "create",
            "-f",
            "-",
            "--idempotency-key",
            "run",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    exits(&output, 0);
    let names: Vec<String> = (0..2500).map(|n| format!("i{n}")).collect();
    assert_eq!(out(&output).lines().collect::<Vec<_>>(), names);
    let chunks: Vec<(String, usize)> = server
        .asked()
        .iter()
        .map(|asked| {
            (
                asked.header("idempotency-key").unwrap().to_owned(),
                asked.text().lines().count(),
            )
        })
        .collect();
    let expected = [("run/1", 1000), ("run/2", 1000), ("run/3", 500)];
    assert_eq!(chunks, expected.map(|(key, lines)| (key.to_owned(), lines)));
}

#[test]
fn chunks_stay_below_a_mebibyte_and_a_longer_line_is_a_bad_one() {
    let server = Scripted::start(|asked, _| {
        assert!(asked.body.len() <= 1024 * 1024);
        take(asked)
    });
    let pad = "x".repeat(400 * 1024);
    let line = |id: &str| format!("{{\"id\":\"{id}\",\"description\":\"{pad}\"}}\n");
    let long = "y".repeat(2 * 1024 * 1024) + "\n";
    let input = [line("a"), line("b"), long, line("c")].concat();
    let file = server.file("in", input);
    let output = server.payctl(&[
        "-o",
        "name",
        "invoice",
        "create",
        "-f",
        file.to_str().unwrap(),
    ]);
    exits(&output, 1);
    assert_eq!(out(&output), "a\nb\nc\n");
    assert!(
        err(&output).contains("line 3: the line is too long"),
        "{}",
        err(&output)
    );
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_chunk_whose_connection_breaks_is_sent_again_with_its_key() {
    let server = Scripted::start(|asked, before| match before {
        0 => Reply::Drop,
        1 => Reply::problem(503, "unavailable", "Later").with("Retry-After", "0"),
        _ => take(asked),
    });
    let file = server.file("in", "{\"id\":\"a\"}\n");
    let output = server.payctl(&["invoice", "create", "-f", file.to_str().unwrap()]);
    exits(&output, 0);
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(
        asked[0].header("idempotency-key"),
        asked[2].header("idempotency-key")
    );
}

#[test]
fn a_run_that_breaks_off_says_how_to_go_on() {
    let server = Scripted::start(|asked, before| match before {
        0 => take(asked),
        _ => Reply::problem(403, "forbidden", "No"),
    });
    let lines: String = (0..1500)
        .map(|n| format!("{{\"id\":\"i{n}\"}}\n"))
        .collect();
    let file = server.file("in", lines);
    let args = [
        "-o",
        "name",
        "invoice",
        "create",
        "-f",
        file.to_str().unwrap(),
        "--idempotency-key",
        "K",
    ];
    let output = server.payctl(&args);
    exits(&output, 4);
    assert_eq!(out(&output).lines().count(), 1000);
    let said = err(&output);
    assert!(
        said.contains("line 1001") && said.contains("--idempotency-key 'K'"),
        "{said}"
    );
}

#[test]
fn a_reader_that_leaves_leaves_no_invoice_uncreated() {
    let server = Scripted::start(|asked, _| take(asked));
    let lines: String = (0..3000)
        .map(|n| format!("{{\"id\":\"i{n}\"}}\n"))
        .collect();
    let file = server.file("in", lines);
    let mut child = server
        .command(&["-q", "invoice", "create", "-f", file.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    exits(&output, 0);
    assert_eq!(err(&output), "");
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn a_file_that_is_not_there_is_a_wrong_usage() {
    let server = Scripted::start(|asked, _| take(asked));
    exits(&server.payctl(&["invoice", "create", "-f", "/nowhere"]), 2);
    exits(
        &server.payctl(&["invoice", "create", "-f", "-", "--pay"]),
        2,
    );
}
