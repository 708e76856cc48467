//! Tokens over a restore: nobody who was locked out gets in again; and what `verify` says of their table.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::access::admin_token;
use crate::payctl::{err, exits, out};
use crate::support::daemon::{Daemon, command};
use crate::support::http::Host;

fn opens(host: &Host, token: &str) -> bool {
    host.showing(Some(token)).get("/invoices").status == 200
}

fn make(daemon: &Daemon, name: &str) -> String {
    let body = format!(r#"{{"name":"{name}","scopes":["read"]}}"#);
    let made = daemon.unix.post("/admin/tokens", &body).expect(201);
    made["token"].as_str().unwrap().to_owned()
}

fn back_up(daemon: &Daemon) -> PathBuf {
    let file = daemon.directory().join("backup.db");
    exits(&daemon.payctl(&["backup", file.to_str().unwrap()]), 0);
    file
}

#[test]
fn a_restore_lets_nobody_in_again() {
    let mut daemon = Daemon::start();
    let admin = admin_token(&daemon);
    let (shop, fired) = (make(&daemon, "shop"), make(&daemon, "fired"));
    let file = back_up(&daemon);
    daemon
        .unix
        .post("/admin/tokens/fired/revoke", "")
        .expect(200);
    assert!(opens(&daemon.tcp, &shop) && !opens(&daemon.tcp, &fired));

    let elsewhere = daemon.restored(&file, &[]);
    for token in [&admin, &shop, &fired] {
        assert!(!opens(&elsewhere.tcp, token));
    }
    assert!(opens(&elsewhere.tcp, &admin_token(&elsewhere)));
    // Names are free again, and who did it is known.
    let again = make(&elsewhere, "shop");
    assert!(opens(&elsewhere.tcp, &again));
    let list = out(&elsewhere.payctl(&["-o", "json", "token", "list"]));
    assert!(list.contains("payd restore"), "{list}");
    exits(&elsewhere.payctl(&["verify"]), 0);

    // In the same directory, with the file of the admin's token still in it.
    daemon.stop();
    std::fs::rename(
        daemon.data().join("payd.db"),
        daemon.directory().join("old.db"),
    )
    .unwrap();
    let restored = daemon.payd(&["restore", file.to_str().unwrap()]);
    exits(&restored, 0);
    let said = out(&restored);
    for part in [
        "ALL TOKENS",
        "(admin, shop, fired)",
        "payctl token create",
        "file is removed",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!daemon.data().join("token").exists());
    daemon.start_again();
    for token in [&admin, &shop, &fired] {
        assert!(!opens(&daemon.tcp, token));
    }
    assert!(opens(&daemon.tcp, &admin_token(&daemon)));
}

#[test]
fn tokens_that_are_to_be_kept_are_and_it_is_said_loudly() {
    let daemon = Daemon::start();
    let (shop, fired) = (make(&daemon, "shop"), make(&daemon, "fired"));
    let file = back_up(&daemon);
    daemon
        .unix
        .post("/admin/tokens/fired/revoke", "")
        .expect(200);
    let directory = tempfile::tempdir().unwrap();
    let restored = command(directory.path())
        .args(["restore", "--keep-tokens"])
        .arg(&file)
        .output()
        .unwrap();
    exits(&restored, 0);
    let said = out(&restored);
    for part in [
        "AS GOOD AS THEY WERE",
        "(admin, shop, fired)",
        "payctl token revoke",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let kept = daemon.restored(&file, &["--keep-tokens"]);
    assert!(opens(&kept.tcp, &shop) && opens(&kept.tcp, &fired));
}

fn edit(database: &Path, sql: &str) {
    let connection = Connection::open(database).unwrap();
    connection
        .execute_batch(&format!("PRAGMA ignore_check_constraints = ON; {sql}"))
        .unwrap();
}

#[test]
fn verify_looks_at_the_tokens() {
    let daemon = Daemon::start();
    make(&daemon, "shop");
    let whole = daemon.payctl(&["verify"]);
    exits(&whole, 0);
    assert!(out(&whole).contains("2 tokens"), "{}", out(&whole));
    exits(&daemon.payd(&["verify"]), 0);
    let database = daemon.data().join("payd.db");
    for (sql, says) in [
        (
            "digest = x'00'",
            "token shop (row 2): its digest is not 32 bytes",
        ),
        ("digest = zeroblob(32), scopes = 1048576", "its scopes"),
        ("scopes = 1, expires_at = -5", "expires"),
        ("expires_at = NULL, id = 'a b c d!'", "eight letters"),
    ] {
        edit(
            &database,
            &format!("UPDATE tokens SET {sql} WHERE name = 'shop'"),
        );
        let through = daemon.payctl(&["verify"]);
        exits(&through, 1);
        assert!(out(&through).contains(says), "{}", out(&through));
        let beside = daemon.payd(&["verify"]);
        exits(&beside, 1);
        assert!(err(&beside).contains(says), "{}", err(&beside));
    }
}
