//! Where payctl looks for payd, and what it says when nobody is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use super::{err, exits, invoice, out};
use crate::support::scripted::{Reply, Scripted, payctl};

#[test]
fn nobody_at_any_place_names_them_all() {
    let home = tempfile::tempdir().unwrap();
    let output = payctl()
        .env("RUNTIME_DIRECTORY", home.path().join("systemd"))
        .env("XDG_RUNTIME_DIR", home.path().join("run"))
        .env("XDG_DATA_HOME", home.path().join("data"))
        .args(["invoice", "show", "inv-1"])
        .output()
        .unwrap();
    exits(&output, 3);
    let said = err(&output);
    let home = home.path().display();
    for place in [
        format!("{home}/systemd/payd.sock"),
        format!("{home}/run/payd/payd.sock"),
        "/run/payd/payd.sock".to_owned(),
        format!("{home}/data/payd/payd.sock"),
    ] {
        assert!(said.contains(&place), "{place} in {said}");
    }
    assert!(said.contains("payd serve"), "{said}");
    assert_eq!(out(&output), "");
}

#[test]
fn the_first_place_with_a_socket_is_taken() {
    let server = Scripted::start(|_, _| Reply::json(200, invoice("inv-1", "PAID", 1).to_string()));
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data/payd");
    fs::create_dir_all(&data).unwrap();
    let socket = server.file("unused", "").with_file_name("payd.sock");
    std::os::unix::fs::symlink(socket, data.join("payd.sock")).unwrap();
    let output = payctl()
        .env("XDG_RUNTIME_DIR", home.path().join("run"))
        .env("XDG_DATA_HOME", home.path().join("data"))
        .args(["-o", "name", "invoice", "show", "inv-1"])
        .output()
        .unwrap();
    exits(&output, 0);
    assert_eq!(out(&output), "inv-1\n");
}

#[test]
fn a_socket_without_a_listener_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payd.sock");
    drop(UnixListener::bind(&path).unwrap());
    let host = format!("unix://{}", path.display());
    for args in [
        vec!["invoice", "show", "inv-1"],
        vec!["pay", "inv-1"],
        vec!["wait", "inv-1"],
        vec!["events", "tail", "-f"],
        vec!["invoice", "create", "--amount", "5"],
    ] {
        let output = payctl()
            .args(["--host", &host])
            .args(&args)
            .output()
            .unwrap();
        exits(&output, 3);
        assert!(err(&output).contains("payd serve"), "{}", err(&output));
    }
}

#[test]
fn a_socket_that_is_closed_to_this_user_is_not_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payd.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return; // root may do anything
    }
    let host = format!("unix://{}", path.display());
    let output = payctl().args(["--host", &host, "status"]).output().unwrap();
    exits(&output, 4);
}

#[test]
fn tcp_carries_the_token_and_never_shows_it() {
    let server = Scripted::start_tcp(|asked, _| match asked.header("authorization") {
        Some("Bearer s3cret") => Reply::json(200, invoice("inv-1", "PAID", 1).to_string()),
        _ => Reply::problem(401, "unauthenticated", "Send a token"),
    });
    let file = server.file("token", "  s3cret\n");
    let file = file.to_str().unwrap();
    exits(
        &server.payctl(&["--token-file", file, "invoice", "show", "inv-1"]),
        0,
    );
    let refused = server.payctl(&["invoice", "show", "inv-1"]);
    exits(&refused, 4);
    assert!(err(&refused).contains("--token-file"), "{}", err(&refused));

    let bad = server.file("bad", "s3cret and more");
    let output = server.payctl(&["--token-file", bad.to_str().unwrap(), "status"]);
    exits(&output, 2);
    assert!(!err(&output).contains("s3cret"), "{}", err(&output));
    exits(
        &server.payctl(&["--token-file", "/nowhere/token", "status"]),
        2,
    );
}

#[test]
fn a_wrong_host_is_a_wrong_usage() {
    for host in ["https://", "127.0.0.1:8080", "unix://run/x"] {
        let output = payctl().args(["--host", host, "status"]).output().unwrap();
        exits(&output, 2);
    }
    let output = payctl()
        .env("PAYD_HOST", "ftp://x")
        .arg("status")
        .output()
        .unwrap();
    exits(&output, 2);
}

#[test]
fn what_is_no_payd_is_said_to_be_none() {
    let server = Scripted::start_tcp(|_, _| Reply::json(404, "<html>nginx</html>"));
    let output = server.payctl(&["invoice", "show", "inv-1"]);
    exits(&output, 1);
    assert!(err(&output).contains("is it payd"), "{}", err(&output));
}

#[test]
fn a_silent_payd_does_not_stretch_a_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payd.sock");
    // Connections are taken by the kernel, and nobody ever answers.
    let _listener = UnixListener::bind(&path).unwrap();
    let host = format!("unix://{}", path.display());
    for command in ["wait", "pay"] {
        let started = Instant::now();
        let output = payctl()
            .args(["--host", &host, command, "inv-1", "--timeout", "1s"])
            .output()
            .unwrap();
        let took = started.elapsed();
        exits(&output, 8);
        assert!(took < Duration::from_secs(4), "{command} took {took:?}");
        let said = err(&output);
        assert!(
            said.contains("no answer") && said.contains("within 1s"),
            "{said}"
        );
        assert!(said.contains("do not pay anew"), "{said}");
    }
}
