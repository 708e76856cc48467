//! The log, as a tail and as a story.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use super::{err, event, exits, invoice, out, payment};
use crate::support::scripted::{Asked, Reply, Scripted};

fn parameter(asked: &Asked, name: &str) -> Option<String> {
    let (_, query) = asked.target.split_once('?')?;
    let prefix = format!("{name}=");
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(&prefix))
        .map(str::to_owned)
}

/// A log of so many events, every tenth a PaymentFailed, paged as payd does it.
fn log(asked: &Asked, head: u64) -> Reply {
    let after = match parameter(asked, "after").as_deref() {
        Some("now") => head,
        Some(text) => text.parse().unwrap(),
        None => 0,
    };
    let limit: usize = parameter(asked, "limit").map_or(100, |text| text.parse().unwrap());
    let kind = |n: u64| {
        if n.is_multiple_of(10) {
            "PaymentFailed"
        } else {
            "PaymentSucceeded"
        }
    };
    let wanted = parameter(asked, "type");
    let numbers: Vec<u64> = (after + 1..=head)
        .filter(|n| wanted.as_deref().is_none_or(|wanted| wanted == kind(*n)))
        .take(limit)
        .collect();
    let next = if numbers.len() < limit {
        head.max(after)
    } else {
        numbers.last().copied().unwrap_or(after)
    };
    let events: Vec<Value> = numbers
        .iter()
        .map(|n| serde_json::from_str(&event(*n, kind(*n))).unwrap())
        .collect();
    Reply::json(
        200,
        json!({"events": events, "next": next.to_string()}).to_string(),
    )
}

#[test]
fn the_last_ones_are_the_last_ones() {
    let server = Scripted::start(|asked, _| log(asked, 12_345));
    let names = |args: &[&str]| {
        let mut all = vec!["-o", "name", "events", "tail"];
        all.extend(args);
        let output = server.payctl(&all);
        exits(&output, 0);
        out(&output)
            .lines()
            .map(|line| line.parse().unwrap())
            .collect::<Vec<u64>>()
    };
    assert_eq!(names(&[]), (12_336..=12_345).collect::<Vec<_>>());
    assert_eq!(names(&["-n", "2"]), [12_344, 12_345]);
    assert_eq!(
        names(&["-n", "2", "--type", "PaymentFailed"]),
        [12_330, 12_340]
    );
    let failed = names(&["-n", "400", "--type", "paymentfailed"]);
    assert_eq!(failed.len(), 400);
    assert_eq!(failed[0], 12_340 - 399 * 10);
    assert_eq!(names(&["--after", "12343"]), [12_344, 12_345]);
    assert_eq!(names(&["--after", "beginning", "-n", "3"]), [1, 2, 3]);
    assert_eq!(names(&["--after", "beginning"]).len(), 12_345);
    assert_eq!(names(&["--after", "now"]), [] as [u64; 0]);
    assert_eq!(names(&["-n", "0"]), [] as [u64; 0]);
}

#[test]
fn an_event_is_a_line_and_json_is_unchanged() {
    let server = Scripted::start(|asked, _| log(asked, 3));
    let output = server.payctl(&["events", "tail", "-n", "1"]);
    let text = out(&output);
    assert!(
        text.contains("PaymentSucceeded  inv-1  #1 10.00 USD"),
        "{text}"
    );
    let output = server.payctl(&["-o", "json", "events", "tail", "-n", "1"]);
    assert_eq!(out(&output), event(3, "PaymentSucceeded") + "\n");
}

#[test]
fn following_goes_on_behind_the_last_one_without_gap_or_double() {
    let server = Scripted::start(|asked, _| {
        if asked.header("accept") != Some("application/x-ndjson") {
            return log(asked, 0);
        }
        let line = |n| event(n, "PaymentSucceeded");
        match parameter(asked, "after").as_deref() {
            // Heartbeats, two events, and half a third.
            Some("0") => Reply::Cut(vec![String::new(), line(1), String::new(), line(2)]),
            // One again that was there already, as a careless server would.
            Some("2") => Reply::Open(vec![line(2), line(3), line(4)]),
            other => panic!("asked after {other:?}"),
        }
    });
    let args = [
        "-o",
        "jsonl",
        "events",
        "tail",
        "-f",
        "--after",
        "beginning",
        "-n",
        "4",
    ];
    let output = server.payctl(&args);
    exits(&output, 0);
    let expected: String = (1..=4)
        .map(|n| event(n, "PaymentSucceeded") + "\n")
        .collect();
    assert_eq!(out(&output), expected);
    assert_eq!(
        err(&output).matches("going on behind event 2").count(),
        1,
        "{}",
        err(&output)
    );
}

#[test]
fn following_shows_the_latest_first_and_each_line_at_once() {
    let server = Scripted::start(|asked, _| {
        if asked.header("accept") != Some("application/x-ndjson") {
            return log(asked, 20);
        }
        assert_eq!(parameter(asked, "after").as_deref(), Some("20"));
        Reply::Open(vec![event(21, "PaymentFailed")])
    });
    let mut child = server
        .command(&["-o", "name", "events", "tail", "-f", "-n", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines: Vec<String> = lines.take(3).map(Result::unwrap).collect();
    assert_eq!(lines, ["19", "20", "21"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_story_is_told_for_every_standing() {
    for (payment_status, invoice_status, expected) in [
        ("REQUESTED", "PROCESSING", "goes to the gateway as soon as"),
        ("SENDING", "PROCESSING", "on its way to the gateway"),
        ("ACCEPTED", "PROCESSING", "has not decided yet"),
        (
            "UNKNOWN",
            "PROCESSING",
            "nobody knows whether it was charged",
        ),
        ("REVIEW", "PROCESSING", "payctl payment resolve"),
        ("SUCCEEDED", "PAID", "paid is final"),
        ("FAILED", "FAILED", "do_not_honor (No)"),
        ("CANCELED", "CANCELED", "canceled is final"),
    ] {
        let server = Scripted::start(move |asked, _| match asked.route().as_str() {
            "GET /events" => log(asked, 2),
            "GET /invoices/inv-1/payments" => {
                let payments = json!({"payments": [payment(payment_status)]});
                Reply::json(200, payments.to_string())
            }
            _ => Reply::json(200, invoice("inv-1", invoice_status, 1).to_string()),
        });
        let output = server.payctl(&["explain", "inv-1"]);
        exits(&output, 0);
        let text = out(&output);
        assert!(text.contains(expected), "{payment_status}: {text}");
        assert!(text.contains("Payment 1 succeeded"), "{text}");
    }
}

#[test]
fn a_story_as_json_is_one_object() {
    let server = Scripted::start(|asked, _| match asked.route().as_str() {
        "GET /events" => log(asked, 2),
        "GET /invoices/inv-1/payments" => {
            Reply::json(200, json!({"payments": [payment("SUCCEEDED")]}).to_string())
        }
        _ => Reply::json(200, invoice("inv-1", "PAID", 1).to_string()),
    });
    let output = server.payctl(&["-o", "json", "explain", "inv-1"]);
    exits(&output, 0);
    let story: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(story["invoice"], invoice("inv-1", "PAID", 1));
    assert_eq!(story["payments"], json!([payment("SUCCEEDED")]));
    assert_eq!(story["events"].as_array().unwrap().len(), 2);
}

#[test]
fn following_waits_for_a_stream_that_is_refused_for_now() {
    let server = Scripted::start(|asked, before| {
        if asked.header("accept") != Some("application/x-ndjson") {
            return log(asked, 0);
        }
        match before {
            // At first, and again when the stream broke off.
            0 | 1 | 3 | 4 => {
                Reply::problem(503, "unavailable", "All streams are taken").with("Retry-After", "0")
            }
            2 => Reply::Cut(vec![event(1, "PaymentSucceeded")]),
            _ => Reply::Open(vec![event(2, "PaymentSucceeded")]),
        }
    });
    let args = [
        "-o",
        "name",
        "events",
        "tail",
        "-f",
        "--after",
        "beginning",
        "-n",
        "2",
    ];
    let output = server.payctl(&args);
    exits(&output, 0);
    assert_eq!(out(&output), "1\n2\n");
    let said = err(&output);
    assert_eq!(said.matches("gives no stream now").count(), 1, "{said}");
    assert_eq!(said.matches("going on behind event 1").count(), 1, "{said}");

    let server = Scripted::start(|_, _| Reply::problem(403, "forbidden", "No"));
    exits(&server.payctl(&["events", "tail", "-f", "--after", "0"]), 4);
}

#[test]
fn a_story_knows_whether_payd_is_paused_and_promises_no_figures() {
    let tell = |status: u16, paused: bool, payment_status: &'static str| {
        let server = Scripted::start(move |asked, _| match asked.route().as_str() {
            "GET /admin/status" => Reply::json(status, json!({"paused": paused}).to_string()),
            "GET /events" => log(asked, 2),
            "GET /invoices/inv-1/payments" => {
                let payments = json!({"payments": [payment(payment_status)]});
                Reply::json(200, payments.to_string())
            }
            _ => Reply::json(200, invoice("inv-1", "PROCESSING", 1).to_string()),
        });
        let output = server.payctl(&["explain", "inv-1"]);
        exits(&output, 0);
        out(&output)
    };
    let text = tell(200, true, "REQUESTED");
    assert!(text.contains("until somebody resumes"), "{text}");
    assert!(text.contains("http://localhost/admin/resume"), "{text}");
    assert!(!text.contains("as soon as"), "{text}");
    for (status, paused) in [(200, false), (403, true)] {
        let text = tell(status, paused, "REQUESTED");
        assert!(text.contains("as soon as payd gets to it"), "{text}");
    }
    for open in ["UNKNOWN", "ACCEPTED"] {
        let text = tell(200, false, open);
        assert!(
            text.contains("at growing distances, until it knows"),
            "{text}"
        );
        assert!(text.contains("nothing is sent meanwhile"), "{text}");
    }
}
