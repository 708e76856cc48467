//! A token is in the one answer that made it and in its holder's file, and nowhere else (invariant 13).

use std::fs;

use super::{admin_token, make_token};
use crate::support::daemon::Daemon;

#[test]
fn no_token_is_in_a_log_an_event_a_process_list_or_the_database() {
    let logs = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::with(&[
        ("PAYD_LOG__LEVEL", "trace"),
        ("PAYD_LOG__DIR", logs.path().to_str().unwrap()),
    ]);
    let admin = admin_token(&daemon);
    let (_, shop) = make_token(&daemon, "shop", &["create", "pay"]);
    let keyed = [("Idempotency-Key", "k")];
    let body = r#"{"name":"keyed","scopes":["read"]}"#;
    let made = daemon
        .tcp
        .post_with("/admin/tokens", &keyed, body)
        .expect(201);
    let keyed = made["token"].as_str().unwrap().to_owned();
    let host = daemon.tcp.showing(Some(&shop));
    host.post("/invoices", r#"{"id":"inv-1","amount":1000}"#)
        .expect(201);
    host.post("/invoices/inv-1/pay", "").expect(202);
    daemon.until_invoice("inv-1", "PAID");
    // Good, not good for this, good no more, and nearly good.
    host.get("/admin/status").problem(403, "forbidden");
    daemon.tcp.post("/admin/tokens/shop/revoke", "").expect(200);
    let mut answers = host.get("/invoices").text();
    let wrong = daemon.tcp.showing(Some(&keyed[..keyed.len() - 1]));
    answers.push_str(&wrong.get("/invoices").text());

    let process = format!("/proc/{}", daemon.pid());
    let cmdline = fs::read(format!("{process}/cmdline")).unwrap();
    let environ = fs::read(format!("{process}/environ")).unwrap();
    let events = serde_json::to_vec(&daemon.events()).unwrap();
    daemon.stop();
    let mut places = vec![
        ("cmdline".to_owned(), cmdline),
        ("environ".to_owned(), environ),
        ("events".to_owned(), events),
        ("stderr".to_owned(), daemon.log().into_bytes()),
        ("banner".to_owned(), daemon.banner.clone().into_bytes()),
        ("answers".to_owned(), answers.into_bytes()),
    ];
    for directory in [daemon.directory().join("data"), logs.path().to_owned()] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != "token" {
                places.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    let files = places.len();
    assert!(files >= 8, "database and logs are among the {files}");
    for (name, token) in [("admin", &admin), ("shop", &shop), ("keyed", &keyed)] {
        // All of it, and the random part alone.
        let random = &token[14..57];
        for (place, bytes) in &places {
            let there = bytes
                .windows(random.len())
                .any(|it| it == random.as_bytes());
            assert!(!there, "the token {name} is in {place}");
        }
    }
}
