//! Starting, stopping, and being refused.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::support::daemon::{Daemon, command, until};
use crate::support::http::Host;

#[test]
fn the_banner_says_where_it_listens_and_what_to_type() {
    let daemon = Daemon::start();
    for part in [
        "unix://",
        "http://127.0.0.1:",
        "a token is needed",
        "data/token",
        "invoice create",
        "pay inv-1",
        "events tail",
    ] {
        assert!(daemon.banner.contains(part), "{part}: {}", daemon.banner);
    }
    for (_, host) in daemon.hosts() {
        host.get("/healthz").expect(200);
        host.get("/readyz").expect(200);
    }
}

#[test]
fn a_second_daemon_is_told_who_holds_the_database() {
    let daemon = Daemon::start();
    let second = daemon.payd(&[
        "serve",
        "--listen",
        "none",
        "--socket",
        "/nowhere/payd.sock",
    ]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&daemon.pid().to_string()), "{said}");
    daemon.unix.get("/healthz").expect(200);
}

#[test]
fn a_stale_socket_is_replaced_and_another_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("payd.sock");
    std::fs::write(&socket, "somebody's notes").unwrap();
    let output = command(directory.path())
        .args(["serve", "--listen", "none"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        std::fs::read_to_string(&socket).unwrap(),
        "somebody's notes"
    );

    let mut daemon = Daemon::start();
    daemon.kill();
    let Host::Unix(stale) = daemon.unix.clone() else {
        unreachable!()
    };
    assert!(stale.exists(), "a kill leaves the socket behind");
    daemon.start_again();
    daemon.unix.get("/healthz").expect(200);
    let mode = std::fs::metadata(&stale).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn a_socket_that_somebody_else_listens_on_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let _theirs = UnixListener::bind(directory.path().join("payd.sock")).unwrap();
    let output = command(directory.path())
        .args(["serve", "--listen", "none"])
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn stopping_finishes_what_is_in_flight_and_ends_streams() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::with(&[("PAYD_GATEWAY__SIMULATOR__LATENCY", "250ms")]);
        let mut stream = daemon
            .unix
            .open("GET", "/events", &[("Accept", "application/x-ndjson")], b"")
            .unwrap();
        daemon
            .unix
            .post("/invoices", r#"{"id":"inv-1","amount":1000}"#)
            .expect(201);
        let waiting = {
            let host = daemon.unix.clone();
            std::thread::spawn(move || {
                host.post_with("/invoices/inv-1/pay", &[("Prefer", "wait=30")], "")
            })
        };
        until("it is being sent", || {
            let payments = daemon.unix.get("/invoices/inv-1/payments").expect(200);
            payments["payments"][0]["status"] == "SENDING"
        });
        daemon.signal(signal);
        assert!(daemon.wait().success());
        assert!(
            matches!(waiting.join().unwrap().status, 200 | 202),
            "who waits gets an answer"
        );
        let mut seen = Vec::new();
        while let Some(event) = stream.json() {
            seen.push(event["type"].as_str().unwrap().to_owned());
        }
        assert_eq!(
            seen[..2],
            ["InvoiceCreated", "PaymentRequested"],
            "the stream ends, and not in the middle of a line"
        );
        assert!(
            !daemon.directory().join("payd.sock").exists(),
            "the socket is gone"
        );
        daemon.start_again();
        let invoice = daemon.invoice("inv-1");
        assert_eq!(invoice["status"], "PAID", "it was finished before the end");
        daemon.verify();
    }
}

#[test]
fn settings_that_are_wrong_are_named_with_their_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("payd.toml");
    std::fs::write(&file, "[retry]\nbase = \"2s\"\nmax_atempts = 3\n").unwrap();
    let output = command(directory.path())
        .args(["config", "check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("max_atempts") && said.contains(":3") && said.contains("max_attempts"),
        "{said}"
    );
}

#[test]
fn a_log_directory_gets_a_file_of_json_lines() {
    let logs = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::with(&[("PAYD_LOG__DIR", logs.path().to_str().unwrap())]);
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-1","amount":1000}"#)
        .expect(201);
    daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "PAID");
    assert!(daemon.stop().success());
    let file = std::fs::read_dir(logs.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let paid = lines
        .iter()
        .find(|line| line["message"] == "PaymentSucceeded")
        .unwrap();
    assert_eq!(
        (&paid["invoice"], &paid["attempt"], &paid["actor"]),
        (&"inv-1".into(), &1.into(), &"payd".into())
    );
    assert!(paid["payment"].as_str().unwrap().starts_with("pay_"));
}

#[test]
fn verify_says_what_was_changed_behind_payds_back() {
    let mut daemon = Daemon::start();
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-1","amount":1000}"#)
        .expect(201);
    daemon.verify();
    daemon.stop();
    let database = rusqlite::Connection::open(daemon.directory().join("data/payd.db")).unwrap();
    database
        .execute("UPDATE invoices SET amount = 1", [])
        .unwrap();
    let output = daemon.payd(&["verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("inv-1"));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = command(directory.path())
        .arg("openapi")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn memory_goes_back_once_nobody_asks_for_anything_and_nothing_is_forgotten() {
    let daemon = Daemon::start();
    // More than the writer keeps of its database's pages.
    let text = "x".repeat(9_000);
    for batch in 0..150 {
        let invoice = |n| json!({"id": format!("i-{batch}-{n}"), "amount": 1, "description": text});
        let lines: Vec<String> = (0..10).map(|n| invoice(n).to_string()).collect();
        let headers = [("content-type", "application/x-ndjson")];
        let body = lines.join("\n");
        let sent = daemon
            .unix
            .request("POST", "/invoices", &headers, body.as_bytes());
        assert_eq!(sent.unwrap().status, 200);
    }
    let key = [("idempotency-key", "a-key"), ("prefer", "wait=10")];
    let pay = || {
        daemon
            .unix
            .request("POST", "/invoices/i-3-4/pay", &key, b"")
    };
    let first = pay().unwrap();
    assert_eq!(first.status, 200);
    let busy = daemon.memory_kib("VmRSS");
    // What others than SQLite have freed is less, and is gone at once.
    until("payd is smaller by most of those pages", || {
        daemon.memory_kib("VmRSS") + 6 * 1024 < busy
    });
    assert_eq!(daemon.invoice("i-3-4")["status"], "PAID");
    let again = pay().unwrap();
    assert_eq!((again.status, again.body), (200, first.body));
    daemon
        .unix
        .post("/invoices", r#"{"id": "i-149-9", "amount": 2}"#)
        .expect(409);
}
