//! payctl and tokens: where it finds one, whom it sends one to, and the commands that make them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::Value;

use super::{admin_token, make_token};
use crate::payctl::{err, exits, out};
use crate::support::daemon::Daemon;
use crate::support::http::Host;
use crate::support::scripted::{Reply, Scripted, payctl};

fn over_tcp(daemon: &Daemon) -> Command {
    let Host::Tcp(address, _) = &daemon.tcp else {
        unreachable!()
    };
    let mut command = payctl();
    command.env("PAYD_HOST", format!("http://{address}"));
    command
}

fn with_default_file(daemon: &Daemon, args: &[&str]) -> Output {
    let data = daemon.directory().join("data");
    over_tcp(daemon)
        .env("STATE_DIRECTORY", data)
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn on_this_machine_the_admins_token_is_found_by_itself() {
    let daemon = Daemon::start();
    exits(
        &with_default_file(&daemon, &["invoice", "create", "inv-1", "--amount", "1000"]),
        0,
    );
    exits(&with_default_file(&daemon, &["pay", "inv-1"]), 0);
    exits(&with_default_file(&daemon, &["status"]), 0);
    let none = tempfile::tempdir().unwrap();
    let output = over_tcp(&daemon)
        .env("XDG_DATA_HOME", none.path())
        .args(["status"])
        .output()
        .unwrap();
    exits(&output, 4);
    for hint in ["--token-file", "PAYD_TOKEN_FILE", "token create"] {
        assert!(err(&output).contains(hint), "{hint}: {}", err(&output));
    }
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let daemon = Daemon::start();
    let made = daemon.payctl(&[
        "token",
        "create",
        "--name",
        "shop",
        "--scope",
        "create,pay",
        "--scope",
        "read",
        "--expires",
        "30d",
    ]);
    exits(&made, 0);
    let token = out(&made);
    assert_eq!(token.lines().count(), 1, "stdout is the token: {token}");
    assert!(err(&made).contains("not shown again"), "{}", err(&made));
    assert!(!err(&made).contains(token.trim()));
    let file = daemon.directory().join("shop.token");
    fs::write(&file, &token).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let shop = |args: &[&str]| {
        let mut command = over_tcp(&daemon);
        command
            .env("PAYD_TOKEN_FILE", &file)
            .args(args)
            .output()
            .unwrap()
    };
    exits(
        &shop(&["invoice", "create", "inv-1", "--amount", "1000"]),
        0,
    );
    exits(&shop(&["pay", "inv-1"]), 0);
    let refused = shop(&["status"]);
    exits(&refused, 4);
    assert!(err(&refused).contains("scope admin"), "{}", err(&refused));

    let listed = daemon.payctl(&["token", "list"]);
    exits(&listed, 0);
    for part in ["admin", "shop", "read,create,pay", "expires"] {
        assert!(out(&listed).contains(part), "{part}: {}", out(&listed));
    }
    assert_eq!(
        out(&daemon.payctl(&["token", "list", "-o", "name"])),
        "admin\nshop\n"
    );
    exits(&daemon.payctl(&["token", "revoke", "shop"]), 0);
    assert_eq!(
        out(&daemon.payctl(&["token", "list", "-o", "name"])),
        "admin\n"
    );
    assert_eq!(
        out(&daemon.payctl(&["token", "list", "--all", "-o", "name"])),
        "admin\nshop\n"
    );
    let refused = shop(&["invoice", "show", "inv-1"]);
    exits(&refused, 4);
    assert!(err(&refused).contains("revoked"), "{}", err(&refused));
    exits(&daemon.payctl(&["token", "revoke", "none"]), 5);
    for args in [
        &["token", "create"][..],
        &["token", "create", "--scope", "root"],
        &[
            "token",
            "create",
            "--scope",
            "read",
            "--expires",
            "yesterday",
        ],
        &["token", "create", "--scope", "read", "--name", "payd"],
        &["token", "create", "--scope", "read", "-o", "name"],
    ] {
        exits(&daemon.payctl(args), 2);
    }
    let made = daemon.payctl(&["token", "create", "--scope", "read", "-o", "json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(made["token"].as_str().unwrap().starts_with("payd_"));
}

#[test]
fn a_token_file_that_others_may_read_is_warned_of() {
    let daemon = Daemon::start();
    let (_, token) = make_token(&daemon, "shop", &["read"]);
    let file = daemon.directory().join("shop.token");
    fs::write(&file, &token).unwrap();
    for (mode, warned) in [(0o600, false), (0o400, false), (0o644, true), (0o640, true)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = over_tcp(&daemon);
        let output = command
            .env("PAYD_TOKEN_FILE", &file)
            .args(["invoice", "list"])
            .output()
            .unwrap();
        exits(&output, 0);
        assert_eq!(
            err(&output).contains("others may read"),
            warned,
            "{mode:o}: {}",
            err(&output)
        );
    }
}

#[test]
fn no_token_crosses_a_network_in_the_clear_or_goes_to_a_socket() {
    let server = Scripted::start(|asked, _| {
        assert!(asked.header("authorization").is_none());
        Reply::json(200, "{}")
    });
    let file = server.file("token", "s3cret");
    let file = file.to_str().unwrap();
    exits(&server.payctl(&["--token-file", file, "status"]), 0);
    assert!(server.asked()[0].header("authorization").is_none());
    // Documentation addresses (RFC 5737): nobody is there, and nobody is asked.
    for host in ["http://192.0.2.1:8080", "http://payd.example"] {
        let output = payctl()
            .args(["--host", host, "--token-file", file, "status"])
            .output()
            .unwrap();
        exits(&output, 2);
        assert!(err(&output).contains("in the clear"), "{}", err(&output));
        assert!(!err(&output).contains("s3cret"));
    }
}

#[test]
fn a_redirect_takes_no_token_anywhere() {
    let thief = Scripted::start_tcp(|_, _| Reply::json(200, "{}"));
    let location = thief.host().to_owned();
    let server =
        Scripted::start_tcp(move |_, _| Reply::json(307, "{}").with("Location", &location));
    let file = server.file("token", "s3cret");
    let output = server.payctl(&["--token-file", file.to_str().unwrap(), "status"]);
    exits(&output, 1);
    assert!(thief.asked().is_empty());
}

#[test]
fn the_admins_own_token_is_not_on_the_command_line_of_anyone() {
    let daemon = Daemon::start();
    let token = admin_token(&daemon);
    let output = with_default_file(&daemon, &["invoice", "show", "none"]);
    exits(&output, 5);
    assert!(!err(&output).contains(&token) && !out(&output).contains(&token));
}
