//! `payctl bench`: that it measures what it says, and charges nobody by mistake.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{err, exits, invoice, out, payment};
use crate::support::daemon::{Daemon, until};
use crate::support::scripted::{Reply, Scripted, payctl};

fn report(stdout: &[u8]) -> Value {
    serde_json::from_slice(stdout).unwrap()
}

#[test]
fn every_invoice_is_created_and_paid_and_counted() {
    let daemon = Daemon::start();
    let output = daemon.payctl(&["-o", "json", "bench", "-n", "40", "-c", "4"]);
    exits(&output, 0);
    let report = report(&output.stdout);
    for operation in ["create", "pay", "both"] {
        assert_eq!(report["operations"][operation]["count"], 40, "{report}");
        assert_eq!(report["operations"][operation]["errors"], 0, "{report}");
        let latency = &report["operations"][operation]["latency_us"];
        let figure = |name: &str| latency[name].as_u64().unwrap();
        assert!(0 < figure("p50") && figure("p50") <= figure("p99"));
        assert!(figure("p99") <= figure("max"), "{report}");
    }
    let prefix = report["prefix"].as_str().unwrap();
    let list = daemon.unix.get("/invoices?status=PAID").expect(200);
    let paid = list["invoices"].as_array().unwrap();
    assert_eq!(paid.len(), 40);
    assert!(
        paid.iter()
            .all(|it| it["id"].as_str().unwrap().starts_with(prefix))
    );
}

#[test]
fn without_paying_the_invoices_stay_pending() {
    let daemon = Daemon::start();
    let args = ["bench", "-n", "10", "-c", "3", "--mode", "create"];
    let output = daemon.payctl(&args);
    exits(&output, 0);
    let lines: Vec<_> = out(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("OPERATION"), "{lines:?}");
    assert!(
        lines[1].starts_with("create        10       0"),
        "{lines:?}"
    );
    let list = daemon.unix.get("/invoices?status=PENDING").expect(200);
    assert_eq!(list["invoices"].as_array().unwrap().len(), 10);
}

#[test]
fn payments_that_fail_are_errors_and_not_figures() {
    let daemon = Daemon::start();
    let args = [
        "-o",
        "json",
        "bench",
        "-n",
        "6",
        "-c",
        "2",
        "--method",
        "sim:decline",
    ];
    let output = daemon.payctl(&args);
    exits(&output, 1);
    let report = report(&output.stdout);
    assert_eq!(report["errors"], json!({ "payment_failed": 6 }));
    assert_eq!(report["operations"]["create"]["count"], 6);
    assert_eq!(report["operations"]["pay"]["count"], 0);
    assert_eq!(report["operations"]["pay"]["errors"], 6);
    assert_eq!(report["operations"]["both"], Value::Null);
}

/// A payd with a gateway that is not the simulator.
fn real() -> Scripted {
    Scripted::start(|asked, _| match asked.route().as_str() {
        "GET /admin/status" => Reply::json(200, r#"{"gateway":"http"}"#),
        "POST /invoices" => Reply::json(201, invoice("inv-1", "PENDING", 0).to_string()),
        _ => Reply::json(200, payment("SUCCEEDED").to_string()),
    })
}

#[test]
fn a_payd_that_may_charge_for_real_is_left_alone() {
    let payd = real();
    for mode in ["create", "pay"] {
        let output = payd.payctl(&["bench", "-n", "3", "-c", "1", "--mode", mode]);
        exits(&output, 2);
        assert!(err(&output).contains("`http`"), "{}", err(&output));
    }
    assert!(payd.asked().iter().all(|it| it.method == "GET"));
}

#[test]
fn it_charges_for_real_only_when_told_so_in_so_many_words() {
    let payd = real();
    let args = ["bench", "-n", "3", "-c", "1", "--yes-charge-for-real"];
    exits(&payd.payctl(&args), 0);
    let created = payd.asked_for("POST /invoices");
    assert_eq!(created.len(), 3);
    // The simulator's methods mean nothing there.
    let first: Value = serde_json::from_slice(&created[0].body).unwrap();
    assert_eq!(first["payment_method"], Value::Null);
    let mut keys: Vec<_> = payd
        .asked()
        .iter()
        .filter_map(|it| it.header("idempotency-key").map(str::to_owned))
        .collect();
    assert_eq!(keys.len(), 6);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6, "each request has a key of its own");
}

#[test]
fn ctrl_c_prints_what_was_measured_so_far() {
    let daemon = Daemon::with(&[("PAYD_GATEWAY__TIMEOUT", "60s")]);
    let socket = daemon.directory().join("payd.sock");
    let args = [
        "-o", "json", "bench", "-n", "1000", "-c", "2", "--method", "sim:slow",
    ];
    let child = payctl()
        .env("PAYD_HOST", format!("unix://{}", socket.display()))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("two payments are on their way", || {
        let status = daemon.unix.get("/admin/status").expect(200);
        status["payments"]["sending"] == 2
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    exits(&output, 130);
    let report = report(&output.stdout);
    assert_eq!(report["interrupted"], true);
    assert!(report["operations"]["create"]["count"].as_u64().unwrap() >= 2);
}

#[test]
fn a_payd_that_is_not_there_is_said_to_be_so() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("payd.sock");
    let output = payctl()
        .args(["bench", "--host"])
        .arg(format!("unix://{}", socket.display()))
        .output()
        .unwrap();
    exits(&output, 3);
    assert_eq!(out(&output), "");
}
