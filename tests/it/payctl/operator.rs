//! payctl for operators: doctor, status, and the ids that a shell completes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{err, exits, out};
use crate::support::daemon::Daemon;
use crate::support::scripted::{Reply, Scripted, payctl};
use crate::support::stub::daemon_of;

/// The checks by name.
fn examined(daemon: &Daemon, code: i32) -> Value {
    let output = daemon.payctl(&["-o", "json", "doctor"]);
    exits(&output, code);
    let report: Value = serde_json::from_str(&out(&output)).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let named = checks.iter().map(|check| {
        let advised = check["advice"].is_string();
        assert_eq!(advised, check["verdict"] != "ok", "what to do: {check}");
        (check["name"].as_str().unwrap().to_owned(), check.clone())
    });
    Value::Object(named.collect())
}

#[test]
fn doctor_finds_nothing_wrong_where_nothing_is() {
    let daemon = Daemon::start();
    let checks = examined(&daemon, 0);
    let names: Vec<_> = checks.as_object().unwrap().keys().cloned().collect();
    let all = [
        "attention",
        "clock",
        "config",
        "database",
        "disk",
        "gateway",
        "payments",
        "permissions",
        "sending",
        "socket",
        "version",
    ];
    assert_eq!(names, all);
    for name in all {
        // The disk of whoever runs this may be full.
        if name != "disk" {
            assert_eq!(checks[name]["verdict"], "ok", "{}", checks[name]);
        }
    }
}

#[test]
fn doctor_says_what_to_do_about_each() {
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("payd.toml");
    std::fs::write(&settings, "").unwrap();
    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let daemon = daemon_of(&url, &[("PAYD_GATEWAY__TIMEOUT", "2s")]);
    daemon.unix.post("/admin/pause", "").expect(200);
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(&daemon.data(), 0o755);
    mode(&daemon.data().join("payd.db"), 0o644);
    let checks = examined(&daemon, 1);
    for (name, verdict, says) in [
        ("gateway", "fail", "does not answer"),
        ("sending", "warn", "paused"),
        ("permissions", "fail", "every user"),
    ] {
        let check = &checks[name];
        assert_eq!(check["verdict"], verdict, "{check}");
        assert!(check["detail"].as_str().unwrap().contains(says), "{check}");
    }
    let table = daemon.payctl(&["doctor"]);
    exits(&table, 1);
    assert!(out(&table).contains("chmod"), "{}", out(&table));
    // Where the socket is everybody's, and where there is none.
    mode(&daemon.directory(), 0o755);
    mode(&daemon.directory().join("payd.sock"), 0o666);
    assert_eq!(examined(&daemon, 1)["socket"]["verdict"], "fail");
    let nowhere = payctl()
        .args(["--host", "unix:///nowhere/payd.sock", "doctor"])
        .output()
        .unwrap();
    exits(&nowhere, 3);
    assert!(out(&nowhere).contains("fail  socket"), "{}", out(&nowhere));
    assert!(out(&nowhere).contains("payd serve"), "{}", out(&nowhere));
}

#[test]
fn doctor_reads_the_settings_anew() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("payd");
    std::fs::create_dir(&home).unwrap();
    let file = home.join("payd.toml");
    std::fs::write(&file, "").unwrap();
    let config = directory.path().to_str().unwrap();
    let daemon = Daemon::with(&[("XDG_CONFIG_HOME", config)]);
    let check = &examined(&daemon, 0)["config"];
    assert_eq!(check["detail"], file.to_str().unwrap());
    std::fs::write(&file, "[server]\nlisten = 7\n").unwrap();
    let check = &examined(&daemon, 1)["config"];
    assert_eq!(check["verdict"], "fail", "{check}");
    assert!(
        check["detail"].as_str().unwrap().contains("listen"),
        "{check}"
    );
}

#[test]
fn status_is_for_people_and_its_json_is_payds() {
    let daemon = Daemon::start();
    let table = daemon.payctl(&["status"]);
    exits(&table, 0);
    let text = out(&table);
    for says in [
        ", ready",
        "simulator: ok",
        "none waits",
        "no outcome",
        "listens on",
        "MiB",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    // A name with an underscore or a dot is a key of the JSON that nobody has put into words.
    for line in text.lines() {
        let name = line.get(..10).unwrap_or_default();
        assert!(!name.contains(['_', '.']), "{line}");
    }
    let json = daemon.payctl(&["-o", "json", "status"]);
    let json: Value = serde_json::from_str(&out(&json)).unwrap();
    assert_eq!(json["restored"], Value::Null);
    assert!(json["store"]["database_bytes"].is_u64());
}

/// What a shell is offered after this line, by asking payctl as the script does.
fn completed(command: &mut std::process::Command, line: &[&str]) -> (String, Duration) {
    let start = Instant::now();
    let output = command
        .env("COMPLETE", "fish")
        .arg("--")
        .args(line)
        .output()
        .unwrap();
    assert_eq!(err(&output), "", "silent");
    (out(&output), start.elapsed())
}

#[test]
fn a_shell_is_offered_the_ids_of_the_running_payd_and_never_waits_for_them() {
    let daemon = Daemon::start();
    for id in ["inv-1", "inv-2", "other"] {
        let body = format!(r#"{{"id":"{id}","amount":1000}}"#);
        daemon.unix.post("/invoices", &body).expect(201);
    }
    let host = format!("unix://{}", daemon.directory().join("payd.sock").display());
    for line in [["payctl", "pay", "inv"], ["payctl", "explain", "inv"]] {
        let (offered, _) = completed(payctl().env("PAYD_HOST", &host), &line);
        let ids: Vec<_> = offered
            .lines()
            .filter_map(|it| it.split('\t').next())
            .collect();
        assert_eq!(ids, ["inv-2", "inv-1"], "{line:?}");
    }
    // One that does not answer is not waited for, and one that is not there is not mentioned.
    let silent = Scripted::start(|_, _| Reply::Open(Vec::new()));
    let (offered, took) = completed(&mut silent.command(&[]), &["payctl", "pay", "inv"]);
    assert_eq!(offered, "");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let mut gone = payctl();
    gone.env("PAYD_HOST", "unix:///nowhere/payd.sock");
    assert_eq!(completed(&mut gone, &["payctl", "pay", "inv"]).0, "");
}
