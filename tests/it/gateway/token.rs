//! The gateway's token: shown to the gateway, and to nobody else.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{REQUESTED, SUCCEEDED, payment, story};
use crate::support::daemon::{command, until};
use crate::support::stub::{Stub, answer};

const TOKEN: &str = "tok_4f9c2d7b8e1a";

#[test]
fn the_token_goes_to_the_gateway_and_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let (file, logs) = (home.path().join("token"), home.path().join("logs"));
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    // A gateway that repeats what it was shown, in every way there is.
    let stub = Stub::start(|call| {
        let seen = call.header("authorization").unwrap().to_owned();
        assert_eq!(seen, format!("Bearer {TOKEN}"));
        let words = json!({"error": {"code": seen, "message": seen}});
        match (call.invoice.as_str(), call.method.as_str(), call.before) {
            ("unknown", "POST", _) => answer(500, &words),
            ("unknown", "GET", 0) => {
                answer(200, &call.echo_with("succeeded", &json!({"status": seen})))
            }
            ("review", "POST", _) => answer(
                409,
                &json!({"error": {"code": "idempotency_key_reused", "message": seen}}),
            ),
            ("rejected", ..) => answer(422, &words),
            ("declined", ..) => answer(
                402,
                &call.echo_with("declined", &json!({"decline_code": seen, "message": seen})),
            ),
            ("paid", ..) => answer(200, &call.echo_with("succeeded", &json!({"id": seen}))),
            ("limited", _, 0) => answer(429, &words),
            ("other", "POST", _) => answer(
                200,
                &call.echo_with("succeeded", &json!({"reference": seen})),
            ),
            _ => answer(200, &call.echo("succeeded")),
        }
    });
    let daemon = stub.daemon(&[
        ("PAYD_GATEWAY__HTTP__TOKEN_FILE", file.to_str().unwrap()),
        ("PAYD_LOG__LEVEL", "trace"),
        ("PAYD_LOG__DIR", logs.to_str().unwrap()),
    ]);
    let ends = [
        ("unknown", "SUCCEEDED"),
        ("review", "REVIEW"),
        ("rejected", "FAILED"),
        ("declined", "FAILED"),
        ("paid", "SUCCEEDED"),
        ("limited", "SUCCEEDED"),
        ("other", "SUCCEEDED"),
    ];
    for (id, _) in ends {
        super::pay(&daemon, id);
    }
    for (id, status) in ends {
        super::until_payment(&daemon, id, status);
    }
    let mut daemon = daemon;
    let events = json!(daemon.events()).to_string();
    assert!(events.contains("[token]"), "the words themselves are kept");
    assert!(!events.contains(TOKEN), "{events}");
    assert!(!daemon.banner.contains(TOKEN));
    let shown = daemon.payd(&["config", "show"]);
    assert!(!String::from_utf8_lossy(&shown.stdout).contains(TOKEN));
    assert!(daemon.stop().success());
    assert!(!daemon.log().contains(TOKEN), "{}", daemon.log());
    let mut seen = 0;
    for place in [logs, daemon.directory().join("data")] {
        for entry in fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            assert!(!holds(&path, TOKEN), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 2, "a log and a database");
}

fn holds(file: &Path, text: &str) -> bool {
    let bytes = fs::read(file).unwrap();
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

#[test]
fn a_rotated_token_is_used_without_a_restart_and_none_is_used_while_there_is_none() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    fs::write(&file, "tok_old").unwrap();
    let stub = Stub::start(|call| answer(200, &call.echo("succeeded")));
    let daemon = stub.daemon(&[("PAYD_GATEWAY__HTTP__TOKEN_FILE", file.to_str().unwrap())]);
    let shown = |id: &str| {
        let calls = stub.calls();
        let call = calls.iter().find(|it| it.invoice == id)?;
        call.header("authorization").map(str::to_owned)
    };
    super::pay(&daemon, "first");
    daemon.until_invoice("first", "PAID");
    assert_eq!(shown("first").unwrap(), "Bearer tok_old");

    fs::write(&file, "tok_new").unwrap();
    let mut payments = 0;
    until("the new token is used", || {
        payments += 1;
        let id = format!("new-{payments}");
        super::pay(&daemon, &id);
        daemon.until_invoice(&id, "PAID");
        shown(&id).unwrap() == "Bearer tok_new"
    });

    fs::remove_file(&file).unwrap();
    let mut payments = 0;
    let mut id = String::new();
    until("a payment waits for the token", || {
        payments += 1;
        id = format!("none-{payments}");
        super::pay(&daemon, &id);
        until("it is paid or waits", || {
            payment(&daemon, &id)["status"] == "SUCCEEDED" || story(&daemon, &id).len() >= 3
        });
        payment(&daemon, &id)["status"] != "SUCCEEDED"
    });
    assert_eq!(stub.count("POST", &id), 0);
    assert!(story(&daemon, &id).iter().all(|it| it == REQUESTED));
    assert!(daemon.log().contains("token file"), "{}", daemon.log());

    fs::write(&file, "tok_back\n").unwrap();
    until("it is paid", || {
        // payd may have stopped sending meanwhile; nobody waits here for its next probe.
        daemon.unix.post("/admin/resume", "").expect(200);
        daemon.invoice(&id)["status"] == "PAID"
    });
    assert_eq!(shown(&id).unwrap(), "Bearer tok_back");
    assert_eq!(stub.count("POST", &id), 1);
    assert_eq!(story(&daemon, &id).last().unwrap(), SUCCEEDED);
}

#[test]
fn payd_does_not_start_without_the_token_that_it_was_promised() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    let rows: [(Option<&[u8]>, &str); 5] = [
        (None, "cannot be read"),
        (Some(b""), "is empty"),
        (Some(b" \n"), "is empty"),
        (Some("geheim-ü".as_bytes()), "no bearer token has"),
        (Some(b"geheim geheim"), "no bearer token has"),
    ];
    for (content, why) in rows {
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let output = command(home.path())
            .args(["serve", "--listen", "none"])
            .env("PAYD_GATEWAY__KIND", "http")
            .env("PAYD_GATEWAY__HTTP__URL", "http://127.0.0.1:9")
            .env("PAYD_GATEWAY__HTTP__TOKEN_FILE", &file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        assert!(said.contains(file.to_str().unwrap()), "{said}");
        assert!(!said.contains("geheim"), "{said}");
    }
}

#[test]
fn a_relative_token_file_is_one_that_systemd_hands_over() {
    let credentials = tempfile::tempdir().unwrap();
    fs::write(credentials.path().join("gateway-token"), TOKEN).unwrap();
    let stub = Stub::start(|call| answer(200, &call.echo("succeeded")));
    let daemon = stub.daemon(&[
        (
            "CREDENTIALS_DIRECTORY",
            credentials.path().to_str().unwrap(),
        ),
        ("PAYD_GATEWAY__HTTP__TOKEN_FILE", "gateway-token"),
    ]);
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    let calls = stub.calls();
    assert_eq!(
        calls[0].header("authorization"),
        Some(format!("Bearer {TOKEN}").as_str())
    );
}
