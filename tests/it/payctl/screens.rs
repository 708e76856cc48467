//! What an operator has on a terminal of 80 columns: nothing is wider, and the words are for people.

use std::process::Command;

use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::scripted::payctl;
use crate::support::stub::{Stub, answer};
use crate::support::terminal::fits;

fn of(daemon: &Daemon, args: &[&str]) -> Command {
    let mut command = payctl();
    let socket = daemon.directory().join("payd.sock");
    command.env("PAYD_HOST", format!("unix://{}", socket.display()));
    command.args(args);
    command
}

#[test]
fn no_line_is_wider_than_the_terminal_whatever_others_have_to_say() {
    let gateway_says = format!("{} {}", "declined for reasons ".repeat(12), "x".repeat(150));
    let stub = Stub::start(move |call| {
        let more = json!({"decline_code": "do_not_honor", "message": gateway_says});
        answer(200, &call.echo_with("declined", &more))
    });
    let daemon = stub.daemon(&[]);
    let description = format!("{}{}", "a book of many words ".repeat(8), "漢".repeat(60));
    let body = json!({"id": "inv-1", "amount": 1000, "description": description,
                      "metadata": {"note": "and so on ".repeat(20)}});
    daemon.unix.post("/invoices", &body.to_string()).expect(201);
    daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "FAILED");
    let payment = daemon.unix.get("/invoices/inv-1/payments").json()["payments"][0]["id"].clone();
    for args in [
        &["status"][..],
        &["doctor"],
        &["explain", "inv-1"],
        &["invoice", "show", "inv-1"],
        &["invoice", "list"],
        &["payment", "show", payment.as_str().unwrap()],
        &["payment", "list", "inv-1"],
        &["events", "tail"],
        &["pay", "inv-1", "--timeout", "50ms"],
        &["token", "list"],
        &["verify"],
        &["frobnicate"],
        &["invoice", "create", "--amount", "10.00"],
    ] {
        fits(of(&daemon, args), 80);
    }
    // All of it is told, all the same.
    let told = fits(of(&daemon, &["explain", "inv-1"]), 80);
    assert_eq!(told.matches('漢').count(), 60, "{told}");
    assert!(told.matches("declined").count() >= 24, "{told}");
    // Prose is broken anywhere.
    assert!(!told.contains(&"x".repeat(80)), "{told}");
}

#[test]
fn doctor_and_status_fit_also_where_much_is_wrong() {
    let stub = Stub::start(|_| {
        answer(
            401,
            &json!({"error": {"message": "who are you? ".repeat(20)}}),
        )
    });
    let daemon = stub.daemon(&[]);
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-1","amount":1}"#)
        .expect(201);
    daemon.unix.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_logged("does not let payd in");
    for args in [["status"], ["doctor"]] {
        let told = fits(of(&daemon, &args), 80);
        assert!(
            told.contains("does not let payd in") || told.contains("did not let payd in"),
            "{told}"
        );
    }
    daemon.unix.post("/admin/pause", "").expect(200);
    let told = fits(of(&daemon, &["status"]), 80);
    assert!(told.contains("nothing is sent"), "{told}");
    // The command to go on with stands in one piece.
    let told = fits(of(&daemon, &["doctor"]), 80);
    assert!(told.contains("/admin/resume`"), "{told}");
    let nobody = fits(
        {
            let mut command = payctl();
            command.args(["--host", "unix:///nowhere/at/all/payd.sock", "doctor"]);
            command
        },
        80,
    );
    assert!(nobody.contains("start payd"), "{nobody}");
}

#[test]
fn help_fits() {
    for args in [
        &["--help"][..],
        &["invoice", "create", "--help"],
        &["token", "create", "--help"],
        &["events", "tail", "--help"],
        &["bench", "--help"],
        &["payment", "resolve", "--help"],
        &["doctor", "--help"],
    ] {
        let mut command = payctl();
        command.args(args);
        fits(command, 80);
    }
}
