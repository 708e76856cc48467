//! payctl against a real payd: the promises that only hold if both keep theirs.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{err, exits, out};
use crate::support::daemon::{Daemon, until};
use crate::support::scripted::payctl;

/// payctl on this daemon, to be looked at while it runs.
fn start(daemon: &Daemon, arguments: &[&str]) -> Child {
    command(daemon, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn command(daemon: &Daemon, arguments: &[&str]) -> Command {
    let socket = daemon.directory().join("payd.sock");
    let mut command = payctl();
    command
        .env("PAYD_HOST", format!("unix://{}", socket.display()))
        .args(arguments);
    command
}

fn create(daemon: &Daemon, id: &str, method: &str) {
    let args = [
        "invoice", "create", id, "--amount", "1000", "--method", method,
    ];
    exits(&daemon.payctl(&args), 0);
}

#[test]
fn pay_ends_as_the_invoice_does() {
    let daemon = Daemon::start();
    for (method, exit, status) in [
        ("sim:approve", 0, "SUCCEEDED"),
        ("sim:decline", 7, "FAILED"),
        ("sim:insufficient_funds", 7, "FAILED"),
        ("sim:decline-then-approve", 0, "SUCCEEDED"),
        ("sim:timeout", 0, "SUCCEEDED"),
    ] {
        let id = method.trim_start_matches("sim:");
        create(&daemon, id, method);
        let output = daemon.payctl(&["-o", "json", "pay", id]);
        exits(&output, exit);
        let payment: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(payment["status"], status, "{method}");
        // The one that decided, not the first.
        let attempts = daemon.invoice(id)["attempts"].clone();
        assert_eq!(payment["attempt"], attempts, "{method}");
        // Once more changes nothing where it is paid.
        if exit == 0 {
            exits(&daemon.payctl(&["pay", id]), 0);
            assert_eq!(daemon.invoice(id)["attempts"], attempts);
        }
        let story = daemon.payctl(&["explain", id]);
        exits(&story, 0);
        assert!(
            out(&story).contains("The invoice was created"),
            "{}",
            out(&story)
        );
    }
}

#[test]
fn pay_goes_on_through_a_crash() {
    let mut daemon = Daemon::start();
    create(&daemon, "inv-1", "sim:timeout");
    let mut paying = start(&daemon, &["pay", "inv-1"]);
    let mut said = String::new();
    let mut stderr = BufReader::new(paying.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("requested"), "{said}");
    daemon.kill();
    daemon.start_again();
    assert_eq!(paying.wait().unwrap().code(), Some(0));
    assert_eq!(daemon.invoice("inv-1")["status"], "PAID");
    assert_eq!(daemon.invoice("inv-1")["attempts"], 1);
}

#[test]
fn what_cannot_be_is_said_by_the_exit_code() {
    let daemon = Daemon::start();
    create(&daemon, "inv-1", "sim:decline");
    exits(&daemon.payctl(&["wait", "inv-1", "--timeout", "50ms"]), 8);
    exits(&daemon.payctl(&["pay", "inv-1"]), 7);
    exits(&daemon.payctl(&["wait", "inv-1", "--for", "failed"]), 0);
    exits(
        &daemon.payctl(&["invoice", "cancel", "inv-1", "--reason", "no"]),
        0,
    );
    exits(&daemon.payctl(&["wait", "inv-1", "--for", "final"]), 0);
    exits(&daemon.payctl(&["wait", "inv-1"]), 6);
    exits(&daemon.payctl(&["pay", "inv-1"]), 6);
    exits(&daemon.payctl(&["pay", "nobody"]), 5);
    exits(&daemon.payctl(&["explain", "nobody"]), 5);
    exits(
        &daemon.payctl(&["invoice", "create", "inv-1", "--amount", "7"]),
        6,
    );
    exits(
        &daemon.payctl(&["invoice", "create", "--amount", "7", "--currency", "XXQ"]),
        2,
    );
    exits(&daemon.payctl(&["events", "tail", "--after", "99999"]), 2);
    exits(&daemon.payctl(&["status"]), 0);
}

#[test]
fn a_batch_run_twice_under_one_key_is_one_batch() {
    let daemon = Daemon::start();
    let lines = "{\"amount\":1}\n\n{\"amount\":0}\n{\"amount\":2}\n".repeat(600);
    let run = || {
        let args = [
            "-o",
            "name",
            "invoice",
            "create",
            "-f",
            "-",
            "--idempotency-key",
            "run",
        ];
        let mut child = start(&daemon, &args);
        let mut stdin = child.stdin.take().unwrap();
        let input = lines.clone();
        let feeding = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
        let output = child.wait_with_output().unwrap();
        feeding.join().unwrap();
        output
    };
    let first = run();
    exits(&first, 1);
    assert_eq!(out(&first).lines().count(), 1200);
    assert!(err(&first).contains("line 3: amount"), "{}", err(&first));
    let second = run();
    assert_eq!(out(&second), out(&first));
    let all = daemon.payctl(&["-o", "name", "invoice", "list", "--all"]);
    assert_eq!(out(&all).lines().count(), 1200);
}

#[test]
fn a_tail_has_every_event_once_through_crashes() {
    let mut daemon = Daemon::start();
    let args = ["-o", "name", "events", "tail", "-f", "--after", "beginning"];
    let mut tail = start(&daemon, &args);
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    for round in 0..3 {
        let id = format!("inv-{round}");
        create(&daemon, &id, "sim:approve");
        exits(&daemon.payctl(&["pay", &id]), 0);
        let head = daemon.events().len();
        while seen.len() < head {
            seen.push(lines.next().unwrap().unwrap().parse::<usize>().unwrap());
        }
        daemon.kill();
        daemon.start_again();
    }
    assert_eq!(seen, (1..=seen.len()).collect::<Vec<_>>());
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn an_operator_decides_what_payd_cannot() {
    let daemon = Daemon::with(&[("PAYD_RESOLVER__BASE", "1h"), ("PAYD_RESOLVER__CAP", "1h")]);
    create(&daemon, "inv-1", "sim:timeout");
    let paid = daemon.payctl(&["pay", "inv-1", "--no-wait", "-o", "name"]);
    let id = out(&paid).trim().to_owned();
    until("the payment is UNKNOWN", || {
        let shown = daemon.payctl(&["-o", "json", "payment", "show", &id]);
        out(&shown).contains("UNKNOWN")
    });
    let story = daemon.payctl(&["explain", "inv-1"]);
    let advice = format!("payctl payment resolve {id} --as succeeded");
    assert!(out(&story).contains(&advice), "{}", out(&story));
    let args = [
        "payment",
        "resolve",
        &id,
        "--as",
        "succeeded",
        "--reason",
        "seen at the gateway",
    ];
    exits(&daemon.payctl(&args), 0);
    exits(&daemon.payctl(&["wait", "inv-1"]), 0);
    exits(&daemon.payctl(&args), 6);
}
