//! What is printed, where, and with which exit code.

use std::process::Stdio;

use serde_json::json;

use super::{err, exits, invoice, out, payment};
use crate::support::scripted::{Reply, Scripted, payctl};

#[test]
fn each_problem_has_its_exit_code() {
    let table = [
        (400, "malformed_request", 2),
        (401, "unauthenticated", 4),
        (403, "forbidden", 4),
        (404, "invoice_not_found", 5),
        (404, "not_found", 5),
        (409, "invoice_canceled", 6),
        (409, "invoice_exists", 6),
        (422, "idempotency_key_reused", 6),
        (422, "invalid_request", 2),
        (500, "internal", 1),
        (507, "brand_new", 1),
    ];
    for (status, code, exit) in table {
        let server = Scripted::start(move |_, _| Reply::problem(status, code, "Do this"));
        let output = server.payctl(&["invoice", "show", "inv-1"]);
        exits(&output, exit);
        let said = err(&output);
        assert!(said.starts_with("error: it is so\n  Do this\n"), "{said}");
        assert_eq!(said.contains("--token-file"), status == 401, "{said}");
        assert_eq!(out(&output), "");
    }
}

#[test]
fn json_is_the_answer_byte_for_byte_and_errors_are_the_problem() {
    let body = "{\"id\":\"inv-1\",  \"odd\":1.0, \"text\":\"\u{202e}x\"}";
    let server = Scripted::start(move |_, before| match before {
        0 => Reply::json(200, body),
        _ => Reply::problem(404, "invoice_not_found", "Look"),
    });
    // Bytes that are no invoice are not printed as one either.
    let output = server.payctl(&["-o", "json", "status"]);
    exits(&output, 0);
    assert_eq!(out(&output), format!("{body}\n"));

    let output = server.payctl(&["invoice", "show", "inv-1", "-o", "json"]);
    exits(&output, 5);
    let problem: serde_json::Value = serde_json::from_str(&err(&output)).unwrap();
    assert_eq!(problem["code"], "invoice_not_found");
    assert_eq!(out(&output), "");
}

#[test]
fn lists_have_four_forms() {
    let page = json!({
        "invoices": [invoice("inv-2", "PAID", 1), invoice("inv-1", "PENDING", 0)], "next": "c",
    })
    .to_string();
    let expected = page.clone();
    let server = Scripted::start(move |_, _| Reply::json(200, page.clone()));

    let json = server.payctl(&["-o", "json", "invoice", "list"]);
    assert_eq!(out(&json), expected + "\n");
    let names = server.payctl(&["-o", "name", "invoice", "list", "--status", "paid"]);
    assert_eq!(out(&names), "inv-2\ninv-1\n");
    let lines = server.payctl(&["-o", "jsonl", "invoice", "list", "--limit", "7"]);
    assert_eq!(out(&lines).lines().count(), 2);
    let table = server.payctl(&["invoice", "list"]);
    exits(&table, 0);
    let text = out(&table);
    assert!(text.starts_with("INVOICE  STATUS      AMOUNT"), "{text}");
    assert!(text.contains("inv-2    PAID     10.00 USD"), "{text}");
    assert!(
        !text.contains('\u{1b}'),
        "no colour where nobody looks: {text:?}"
    );
    assert!(err(&table).contains("--all"), "{}", err(&table));

    let asked = server.asked();
    assert_eq!(asked[1].target, "/invoices?status=PAID&limit=20");
    assert_eq!(asked[2].target, "/invoices?limit=7");
}

#[test]
fn all_is_streamed() {
    let server = Scripted::start(|asked, _| {
        assert_eq!(asked.header("accept"), Some("application/x-ndjson"));
        let body: String = (0..250)
            .map(|n| invoice(&format!("inv-{n}"), "PAID", 1).to_string() + "\n")
            .collect();
        Reply::json(200, body)
    });
    let names = server.payctl(&["-o", "name", "invoice", "list", "--all"]);
    exits(&names, 0);
    assert_eq!(out(&names).lines().count(), 250);
    let table = server.payctl(&["invoice", "list", "--all"]);
    assert_eq!(out(&table).lines().count(), 251);
}

#[test]
fn colour_is_obeyed() {
    let server = Scripted::start(|_, _| Reply::json(200, invoice("inv-1", "PAID", 1).to_string()));
    let coloured = server.payctl(&["--color", "always", "invoice", "show", "inv-1"]);
    assert!(
        out(&coloured).contains("\u{1b}[32mPAID"),
        "{}",
        out(&coloured)
    );
    let never = server.payctl(&["--color", "never", "invoice", "show", "inv-1"]);
    assert!(!out(&never).contains('\u{1b}'));
}

#[test]
fn text_from_outside_cannot_steer_a_terminal() {
    let server = Scripted::start(|asked, _| {
        if asked.target.ends_with("bad") {
            return Reply::problem(404, "invoice_not_found", "\u{1b}]0;title\u{7}x\u{202e}y");
        }
        let mut invoice = invoice("inv-1", "PAID", 1);
        invoice["description"] = json!("a\u{1b}[2Jb\u{202e}c\u{9b}d\ne");
        invoice["metadata"] = json!({"\u{1b}k": "\u{2066}v"});
        Reply::json(200, invoice.to_string())
    });
    let shown = server.payctl(&["invoice", "show", "inv-1", "--color", "never"]);
    exits(&shown, 0);
    assert!(out(&shown).contains("a[2Jbcd e"), "{:?}", out(&shown));
    let refused = server.payctl(&["invoice", "show", "bad"]);
    for text in [out(&shown), err(&refused)] {
        let steering = ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}', '\u{2066}'];
        assert!(!text.contains(steering), "{text:?}");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let server = Scripted::start(|_, _| {
        let line = invoice("inv-1", "PAID", 1).to_string() + "\n";
        Reply::json(200, line.repeat(20_000))
    });
    for format in ["table", "jsonl", "name"] {
        let mut child = server
            .command(&["-o", format, "invoice", "list", "--all"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        exits(&output, 0);
        assert_eq!(err(&output), "");
    }
}

#[test]
fn no_arguments_is_help_and_wrong_ones_are_explained() {
    let output = payctl().output().unwrap();
    exits(&output, 2);
    assert!(err(&output).contains("Usage: payctl"), "{}", err(&output));
    exits(&payctl().arg("--help").output().unwrap(), 0);

    let output = payctl().args(["invoice", "lits"]).output().unwrap();
    exits(&output, 2);
    assert!(err(&output).contains("'list'"), "{}", err(&output));
    exits(
        &payctl().args(["invoice", "show", "a/b"]).output().unwrap(),
        2,
    );
}

#[test]
fn any_status_becomes_names_and_values() {
    let server = Scripted::start(|_, _| {
        Reply::json(
            200,
            r#"{"version":"1","payments":{"due":3},"listeners":["a","b"]}"#,
        )
    });
    let output = server.payctl(&["status"]);
    exits(&output, 0);
    assert_eq!(
        out(&output),
        "listens on    a\n              b\npayments.due  3\nversion       1\n"
    );
}

#[test]
fn a_payment_is_shown_listed_and_resolved() {
    let server = Scripted::start(|asked, _| match asked.route().as_str() {
        "GET /invoices/inv-1/payments" => {
            Reply::json(200, json!({"payments": [payment("UNKNOWN")]}).to_string())
        }
        "POST /payments/p1/resolve" => Reply::json(200, payment("FAILED").to_string()),
        _ => Reply::json(200, payment("UNKNOWN").to_string()),
    });
    let list = server.payctl(&["payment", "list", "inv-1"]);
    assert!(out(&list).contains("UNKNOWN"), "{}", out(&list));
    let show = server.payctl(&["payment", "show", "p1"]);
    assert!(out(&show).contains("10.00 USD"), "{}", out(&show));
    let args = [
        "payment",
        "resolve",
        "p1",
        "--as",
        "failed",
        "--reason",
        "no such charge",
    ];
    exits(&server.payctl(&args), 0);
    let asked = server.asked_for("POST /payments/p1/resolve");
    assert_eq!(
        asked[0].text(),
        r#"{"as":"failed","reason":"no such charge"}"#
    );
    assert!(asked[0].header("idempotency-key").is_some());
}

#[test]
fn completion_offers_ids_and_stays_silent_without_payd() {
    let page = json!({
        "invoices": [invoice("inv-7", "PAID", 1), invoice("other", "PAID", 1)], "next": null,
    });
    let server = Scripted::start(move |_, _| Reply::json(200, page.to_string()));
    let complete = |host: &str| {
        payctl()
            .env("COMPLETE", "fish")
            .env("PAYD_HOST", host)
            .args(["--", "payctl", "pay", "in"])
            .output()
            .unwrap()
    };
    let socket = server.file("unused", "").with_file_name("payd.sock");
    let output = complete(&format!("unix://{}", socket.display()));
    exits(&output, 0);
    assert!(out(&output).contains("inv-7"), "{}", out(&output));
    assert!(!out(&output).contains("other"), "{}", out(&output));
    let output = complete("unix:///nowhere/payd.sock");
    exits(&output, 0);
    assert_eq!(err(&output), "");
}

#[test]
fn a_failure_of_payctls_own_is_a_whole_problem_where_json_is_asked_for() {
    let gone = [
        "--host",
        "unix:///nowhere/payd.sock",
        "status",
        "-o",
        "json",
    ];
    let table: [(&[&str], i32, &str, u64); 7] = [
        (&["-o", "json", "invoice", "lits"], 2, "usage", 400),
        (&["invoice", "show", "--output=json"], 2, "usage", 400),
        (
            &["invoice", "show", "..", "--output", "json"],
            2,
            "usage",
            400,
        ),
        (
            &["-ojsonl", "wait", "inv-1", "--timeout", "60"],
            2,
            "usage",
            400,
        ),
        (&["-o", "json", "invoice"], 2, "usage", 400),
        (
            &["-o", "json", "invoice", "create", "--amount", "0"],
            2,
            "usage",
            400,
        ),
        (&gone, 3, "unreachable", 503),
    ];
    for (args, exit, code, status) in table {
        let output = payctl().args(args).output().unwrap();
        exits(&output, exit);
        let problem: serde_json::Value = serde_json::from_str(&err(&output)).unwrap();
        assert_eq!(problem["code"], code, "{args:?}");
        assert_eq!(problem["status"], status, "{args:?}");
        assert_eq!(problem["type"], format!("urn:payctl:error:{code}"));
        for member in ["title", "detail"] {
            let text = problem[member].as_str().unwrap();
            assert!(
                !text.is_empty() && !text.contains('\n'),
                "{args:?}: {problem}"
            );
        }
        assert_eq!(out(&output), "");
    }
    // Help is no error.
    let help = payctl()
        .args(["-o", "json", "pay", "--help"])
        .output()
        .unwrap();
    exits(&help, 0);
    assert!(out(&help).contains("Usage:"), "{}", out(&help));
}

#[test]
fn the_environment_is_no_part_of_the_usage() {
    let output = payctl()
        .env("PAYD_HOST", "unix:///nowhere/payd.sock")
        .args(["invoice", "show"])
        .output()
        .unwrap();
    exits(&output, 2);
    assert!(!err(&output).contains("--host <URL>"), "{}", err(&output));
}

#[test]
fn a_cancel_is_open_only_while_the_invoice_is() {
    for (status, open) in [("PROCESSING", true), ("CANCELED", false)] {
        let server = Scripted::start(move |_, _| {
            let mut invoice = invoice("inv-1", status, 1);
            invoice["cancel_requested"] = json!(true);
            Reply::json(200, invoice.to_string())
        });
        let text = out(&server.payctl(&["invoice", "show", "inv-1"]));
        assert_eq!(text.contains("its outcome decides"), open, "{text}");
    }
}
