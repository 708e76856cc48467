//! The log as an operator, or a machine, reads it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::support::daemon::{Daemon, command, until};
use crate::support::faults::Faults;
use crate::support::http::Host;
use crate::support::stub::{Stub, answer, answer_with};

/// Breaks lines, plays with terminals, turns the direction of writing.
const HOSTILE: &str = "a\nb\r\u{1b}[31mc\u{2028}d\u{202e}e\u{9b}f\u{7}";

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn is_clean(line: &str) -> bool {
    !line.chars().any(|c| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}

/// Sends hostile text by every way in.
fn attack(daemon: &Daemon) {
    let long = "x".repeat(20_000);
    for (number, text) in [HOSTILE, &long].into_iter().enumerate() {
        let id = format!("inv-{number}");
        let body = serde_json::json!({
            "id": id, "amount": 100, "payment_method": "sim:decline",
            "description": text.chars().take(1000).collect::<String>(),
            "metadata": {"note": text.chars().take(100).collect::<String>()},
        });
        // What is refused is as good for this as what is taken.
        let made = daemon.unix.post("/invoices", &body.to_string());
        if made.status != 201 {
            let body =
                serde_json::json!({"id": id, "amount": 100, "payment_method": "sim:decline"});
            daemon.unix.post("/invoices", &body.to_string()).expect(201);
        }
        let short: String = text.chars().take(900).collect();
        let latin: String = short
            .chars()
            .filter(|c| !matches!(c, '\n' | '\r'))
            .collect();
        for headers in [
            [("User-Agent", latin.as_str())],
            [("Idempotency-Key", latin.as_str())],
            [("traceparent", latin.as_str())],
            [("X-Request-Id", latin.as_str())],
        ] {
            // Some of these are no HTTP: then the connection is closed.
            let _ = daemon
                .unix
                .request("POST", &format!("/invoices/{id}/cancel"), &headers, b"");
        }
        let path: String = text
            .bytes()
            .take(2000)
            .map(|b| format!("%{b:02x}"))
            .collect();
        daemon.unix.get(&format!("/invoices/{path}"));
        let reason = serde_json::json!({"reason": short}).to_string();
        daemon.unix.post(&format!("/invoices/{id}/cancel"), &reason);
        let resolve = serde_json::json!({"as": "failed", "reason": short}).to_string();
        daemon
            .unix
            .post(&format!("/payments/{path}/resolve"), &resolve);
    }
}

#[test]
fn text_from_outside_breaks_no_line_in_either_format() {
    for format in ["text", "json"] {
        let mut daemon = Daemon::with(&[
            ("PAYD_LOG__FORMAT", format),
            ("PAYD_LOG__LEVEL", "trace"),
            ("NO_COLOR", "1"),
        ]);
        attack(&daemon);
        assert!(daemon.stop().success());
        let log = daemon.log();
        assert!(log.lines().count() > 8, "{log}");
        for line in log.lines() {
            assert!(is_clean(line), "{line:?}");
            assert!(line.len() < 20_000, "{} bytes: {line}", line.len());
            if format == "json" {
                let line: Value = serde_json::from_str(line).unwrap();
                assert!(
                    line["level"].is_string() && line["timestamp"].is_string(),
                    "{line}"
                );
            } else {
                // Each begins with its time: nothing is a line of somebody else's.
                assert!(line.starts_with("20") && line.contains('Z'), "{line:?}");
            }
        }
    }
}

#[test]
fn a_gateways_words_break_no_line_in_either_format() {
    for format in ["text", "json"] {
        let words = format!("{HOSTILE}{}", "z".repeat(5000));
        let gateway = Stub::start(move |call| {
            let error = serde_json::json!({"error": {"code": words, "message": words}});
            match call.invoice.as_str() {
                "inv-1" => answer(
                    402,
                    &call.echo_with(
                        "declined",
                        &serde_json::json!({"message": words, "decline_code": words}),
                    ),
                ),
                "inv-2" => answer(422, &error),
                // No UTF-8: a cut character, a lone byte, an escape in eight bits.
                "inv-4" => answer_with(
                    422,
                    &[("Content-Type", "application/json")],
                    b"{\"error\":{\"code\":\"a\xe6\xbc\xff\x9b31m\x00\"}}",
                ),
                "inv-5" => answer_with(500, &[], b"\xff\xfe\x1b[2J\r\n\x9b"),
                _ => answer(401, &error),
            }
        });
        let url = gateway.url();
        let mut daemon = Daemon::with(&[
            ("PAYD_GATEWAY__KIND", "http"),
            ("PAYD_GATEWAY__HTTP__URL", url.as_str()),
            ("PAYD_LOG__FORMAT", format),
            ("PAYD_LOG__LEVEL", "trace"),
        ]);
        for id in ["inv-1", "inv-2", "inv-4", "inv-5", "inv-3"] {
            let body = format!(r#"{{"id":"{id}","amount":100}}"#);
            daemon.unix.post("/invoices", &body).expect(201);
            daemon
                .unix
                .post(&format!("/invoices/{id}/pay"), "{}")
                .expect(202);
        }
        until("the gateway has refused payd", || {
            daemon.log().contains("does not let payd in")
        });
        assert!(daemon.stop().success());
        for line in daemon.log().lines() {
            assert!(is_clean(line), "{line:?}");
            assert!(line.len() < 4000, "{} bytes: {line}", line.len());
            if format == "json" {
                let line: Value = serde_json::from_str(line).unwrap();
                assert!(line["level"].is_string(), "{line}");
            }
        }
    }
}

#[test]
fn every_state_change_is_one_line_with_all_that_connects_it() {
    let mut daemon = Daemon::start();
    let headers = [("traceparent", TRACEPARENT)];
    for (id, method) in [
        ("inv-1", "sim:decline-then-approve"),
        ("inv-2", "sim:timeout"),
    ] {
        let body = serde_json::json!({"id": id, "amount": 100, "payment_method": method});
        daemon.unix.post("/invoices", &body.to_string()).expect(201);
        let path = format!("/invoices/{id}/pay");
        daemon.unix.post_with(&path, &headers, "{}").expect(202);
        daemon.until_invoice(id, "PAID");
    }
    let events = daemon.events();
    assert!(daemon.stop().success());
    let log = daemon.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["target"] == "payd::event")
        .collect();
    assert_eq!(lines.len(), events.len());
    for (line, event) in lines.iter().zip(&events) {
        assert_eq!(line["message"], event["type"]);
        assert_eq!(line["sequence"].to_string(), event["id"].as_str().unwrap());
        assert_eq!(line["invoice"], event["subject"]);
        assert_eq!(line["status"], event["data"]["invoice_status"]);
        let by_payd = event["type"] != "InvoiceCreated" && line["actor"] == "payd";
        let actor = line["actor"].as_str().unwrap();
        assert!(by_payd || actor.starts_with("uid:"), "{line}");
        if event["data"]["payment_id"].is_string() {
            assert_eq!(line["payment"], event["data"]["payment_id"]);
            assert_eq!(line["attempt"], event["data"]["attempt"]);
            assert_eq!(line["trace_id"], TRACEPARENT.split('-').nth(1).unwrap());
        }
    }
}

/// A payd that is not left behind by a test that fails.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or does now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_payment() {
    let directory = tempfile::tempdir().unwrap();
    // The reading end is held and never read: like `payd serve 2>&1 | sleep 1000`.
    let (unread, stderr) = std::io::pipe().unwrap();
    let child = command(directory.path())
        .args(["serve", "--listen", "none"])
        .env("PAYD_LOG__LEVEL", "trace")
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let mut child = Running(child);
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    let mut banner = String::new();
    while !banner.contains("events tail") {
        assert!(stdout.read_line(&mut banner).unwrap() > 0, "{banner}");
    }
    let unix = Host::Unix(directory.path().join("payd.sock"));
    let dropped = || -> u64 {
        let metrics = unix.get("/metrics").text();
        let lines = metrics.lines();
        let mut counted =
            lines.filter_map(|line| line.strip_prefix("payd_log_lines_dropped_total "));
        counted.next().unwrap().parse().unwrap()
    };
    let mut number = 0;
    let headers = [("traceparent", TRACEPARENT)];
    // Far beyond what the pipe and the queue before it hold; sooner with lines as long as they come.
    until("lines are dropped", || {
        for _ in 0..50 {
            number += 1;
            let id = format!("inv-{number:060}");
            let body = format!(r#"{{"id":"{id}","amount":100}}"#);
            unix.post_with("/invoices", &headers, &body).expect(201);
            unix.post_with(&format!("/invoices/{id}/pay"), &headers, "{}")
                .expect(202);
        }
        dropped() > 0
    });
    until("all are paid", || {
        let paid = unix.get("/metrics").text();
        paid.lines()
            .any(|line| line == format!("payd_payments_succeeded_total {number}"))
    });
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut status = None;
    until("payd ends", || {
        status = child.0.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    drop(unread);
}

#[test]
fn each_day_has_a_file_and_two_weeks_of_them_stay() {
    const DAY: i64 = 86_400;
    let Some(faults) = Faults::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    // Of an operator's own, and of a payd of long ago.
    for name in ["payd-notes.json", "payd.2019-01-01.json"] {
        std::fs::write(logs.join(name), "").unwrap();
    }
    let mut daemon = faults.daemon(&[("PAYD_LOG__DIR", logs.to_str().unwrap())]);
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(&logs).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert!(names().contains(&"payd.2019-01-01.json".to_owned()));
    let mut seen = std::collections::BTreeSet::new();
    for day in 0..17 {
        faults.set(&format!("clock {}", day * DAY));
        let body = format!(r#"{{"id":"inv-{day}","amount":100}}"#);
        daemon.unix.post("/invoices", &body).expect(201);
        // The line of this day is in the newest file.
        until("its line is written", || {
            let newest = names().into_iter().rfind(|name| name.starts_with("payd.2"));
            let text = std::fs::read_to_string(logs.join(newest.unwrap())).unwrap();
            text.contains(&format!(r#""inv-{day}""#))
        });
        seen.extend(names());
        // One goes as another comes.
        assert!(names().len() <= 14 + 1, "{:?}", names());
    }
    let left = names();
    assert_eq!(left.len(), 14 + 1, "{left:?}");
    assert!(left.contains(&"payd-notes.json".to_owned()), "{left:?}");
    assert!(seen.len() >= 17 + 2, "{seen:?}");
    assert!(daemon.stop().success());
    for name in left.iter().filter(|name| name.starts_with("payd.2")) {
        for line in std::fs::read_to_string(logs.join(name)).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(line["message"].is_string(), "{line}");
        }
    }
}
