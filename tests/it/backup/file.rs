//! Backup files: whole or not there, and taken back only if they are what was written.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use rusqlite::Connection;

use crate::support::daemon::{Daemon, command, until};
use crate::support::scripted::{Reply, Scripted};

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A payd with some invoices, one of them paid.
fn daemon() -> Daemon {
    let daemon = Daemon::start();
    for id in ["inv-1", "inv-2", "inv-3"] {
        let body = format!(r#"{{"id":"{id}","amount":1000,"description":"for {id}"}}"#);
        daemon.unix.post("/invoices", &body).expect(201);
    }
    daemon
        .unix
        .post_with("/invoices/inv-1/pay", &[("Idempotency-Key", "k1")], "")
        .expect(202);
    daemon.until_invoice("inv-1", "PAID");
    daemon
}

fn back_up(daemon: &Daemon) -> PathBuf {
    let file = daemon.directory().join("backup.db");
    let output = daemon.payctl(&["backup", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    file
}

/// `payd restore` into an empty directory.
fn restore(file: &Path) -> (Output, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let output = command(directory.path())
        .arg("restore")
        .arg(file)
        .output()
        .unwrap();
    (output, directory)
}

/// Restoring is refused, says why, and leaves nothing that a daemon would start on.
#[track_caller]
fn refused(file: &Path, because: &str) {
    let before = std::fs::read(file).unwrap();
    let (output, directory) = restore(file);
    assert_eq!(output.status.code(), Some(1), "{because}: {}", err(&output));
    assert!(
        err(&output).contains(because),
        "{because}: {}",
        err(&output)
    );
    assert_eq!(names(directory.path()), [""; 0], "{because}");
    // One that was there is as it was.
    let there = directory.path().join("data");
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("mine"), "").unwrap();
    let again = command(directory.path()).arg("restore").arg(file).output();
    assert_eq!(again.unwrap().status.code(), Some(1), "{because}");
    assert_eq!(names(&there), ["mine"], "{because}");
    assert!(
        std::fs::read(file).unwrap() == before,
        "{because}: it was changed"
    );
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_backup_never_takes_the_place_of_a_file_and_leaves_nothing_where_it_fails() {
    let daemon = daemon();
    let file = back_up(&daemon);
    let mode = file.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "all business data is in it");
    let before = std::fs::read(&file).unwrap();
    let name = file.to_str().unwrap();
    let nowhere = daemon.directory().join("nowhere/backup.db");
    let rows = [
        (daemon.payctl(&["backup", name]), 6, "there already"),
        (daemon.payd(&["backup", name]), 1, "there already"),
        (
            daemon.payctl(&["backup", nowhere.to_str().unwrap()]),
            2,
            "No such file",
        ),
        (
            daemon.payd(&["backup", nowhere.to_str().unwrap()]),
            1,
            "No such file",
        ),
    ];
    for (output, code, because) in rows {
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        assert!(err(&output).contains(because), "{}", err(&output));
    }
    assert!(std::fs::read(&file).unwrap() == before);
    assert_eq!(
        names(&daemon.directory()),
        ["backup.db", "data", "payd.sock"],
        "nothing half done"
    );
    let left = names(&daemon.data());
    assert!(left.iter().all(|it| !it.contains("partial")), "{left:?}");
}

#[test]
fn both_ways_to_back_up_say_the_same_and_any_sqlite_reads_it() {
    let daemon = daemon();
    let through = back_up(&daemon);
    let offline = daemon.directory().join("offline.db");
    let output = daemon.payd(&["backup", offline.to_str().unwrap()]);
    assert!(output.status.success(), "{}", err(&output));
    for file in [&through, &offline] {
        let connection = Connection::open(file).unwrap();
        let check: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        let events: i64 = connection
            .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
            .unwrap();
        assert_eq!(usize::try_from(events).unwrap(), daemon.events().len());
        drop(connection);
        // Reading it has not changed it.
        let restored = daemon.restored(file, &[]);
        assert_eq!(restored.events(), daemon.events());
        // What was answered under a key is answered so again.
        let again =
            restored
                .unix
                .post_with("/invoices/inv-1/pay", &[("Idempotency-Key", "k1")], "");
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        restored.verify();
    }
}

#[test]
fn a_backup_that_is_not_what_was_written_is_refused() {
    let daemon = daemon();
    let good = back_up(&daemon);
    let bytes = std::fs::read(&good).unwrap();
    let bad = daemon.directory().join("bad.db");
    // A bit in every page, and in the seal.
    let places = (0..bytes.len())
        .step_by(4096)
        .map(|start| start + 40 + start / 64 % 4000);
    for place in places.chain([bytes.len() - 2]) {
        let place = place.min(bytes.len() - 1);
        let mut flipped = bytes.clone();
        flipped[place] ^= 0x10;
        std::fs::write(&bad, &flipped).unwrap();
        refused(&bad, "nothing was restored");
    }
    let pages = bytes.len() - bytes.len() % 4096;
    for length in [
        0,
        10,
        99,
        4096,
        5000,
        pages - 4096,
        pages - 1,
        bytes.len() - 1,
    ] {
        std::fs::write(&bad, &bytes[..length]).unwrap();
        refused(&bad, "nothing was restored");
    }
    std::fs::write(&bad, [&bytes[..], b"\n"].concat()).unwrap();
    refused(&bad, "cut off, or it has been added to");
    std::fs::write(
        &bad,
        "not a database, but a text of more than a hundred characters: ".repeat(9),
    )
    .unwrap();
    refused(&bad, "not a SQLite database");
    refused(&bad, "`payctl backup FILE` and `payd backup FILE` make one");
    std::fs::write(&bad, "").unwrap();
    refused(&bad, "is empty");
    let (output, _directory) = restore(&daemon.data());
    assert!(err(&output).contains("not a file"), "{}", err(&output));
    // Without its seal it is a database all the same, and said to be one.
    std::fs::write(&bad, &bytes[..pages]).unwrap();
    let (output, _directory) = restore(&bad);
    assert!(output.status.success(), "{}", err(&output));
    assert!(err(&output).contains("not every byte"), "{}", err(&output));
}

#[test]
fn what_is_whole_and_yet_not_payds_is_refused() {
    let daemon = daemon();
    let good = std::fs::read(back_up(&daemon)).unwrap();
    let pages = good.len() - good.len() % 4096;
    let bad = daemon.directory().join("bad.db");
    let rows: [(&str, &str); 5] = [
        (
            "INSERT INTO migrations VALUES (999, x'00', '9.0.0')",
            "run the newer payd",
        ),
        ("UPDATE migrations SET checksum = x'00'", "edited"),
        ("DROP INDEX payments_one_open", "payments_one_open"),
        (
            "UPDATE invoices SET amount = 1 WHERE id = 'inv-2'",
            "invoice inv-2",
        ),
        (
            "DROP TRIGGER events_never_change; UPDATE events SET packed = CAST(replace(packed, '1000', '1001') AS BLOB) WHERE sequence = 2",
            "event 2",
        ),
    ];
    for (sql, because) in rows {
        std::fs::write(&bad, &good[..pages]).unwrap();
        let connection = Connection::open(&bad).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        refused(&bad, because);
    }
    std::fs::remove_file(&bad).unwrap();
    let foreign = Connection::open(&bad).unwrap();
    foreign
        .execute_batch("CREATE TABLE somebody_elses (x)")
        .unwrap();
    drop(foreign);
    refused(&bad, "no backup of payd: it is another program's");
    let (output, _directory) = restore(&bad);
    assert!(!err(&output).contains("--data-dir"), "{}", err(&output));
    // A database in use has the newest of it in another file.
    refused(&daemon.data().join("payd.db"), "payd.db-wal");
}

#[test]
fn a_database_is_never_overwritten_and_a_newer_one_not_even_opened() {
    let mut daemon = daemon();
    let backup = back_up(&daemon);
    let name = backup.to_str().unwrap();
    let running = daemon.payd(&["restore", name]);
    assert_eq!(running.status.code(), Some(1));
    assert!(
        err(&running).contains("another payd runs"),
        "{}",
        err(&running)
    );
    daemon.stop();
    let there = daemon.payd(&["restore", name]);
    assert_eq!(there.status.code(), Some(1));
    assert!(err(&there).contains("not overwritten"), "{}", err(&there));
    // Nor is a log that was left behind: it would be taken for the restored database's.
    let left = daemon.data().join("payd.db-wal");
    std::fs::rename(daemon.data().join("payd.db"), &left).unwrap();
    let log = daemon.payd(&["restore", name]);
    assert!(err(&log).contains("payd.db-wal"), "{}", err(&log));
    std::fs::rename(&left, daemon.data().join("payd.db")).unwrap();

    // As the procedure says: what there is is moved away, the mark stays, and half a copy of a payd that
    // was killed is removed.
    let aside = daemon.directory().join("aside.db");
    let database = daemon.data().join("payd.db");
    std::fs::rename(&database, aside).unwrap();
    std::fs::write(daemon.data().join("payd.db.backup-partial"), "half").unwrap();
    std::fs::write(daemon.data().join("payd.db.restoring-journal"), "half").unwrap();
    let restored = daemon.payd(&["restore", name]);
    assert_eq!(restored.status.code(), Some(0), "{}", err(&restored));
    daemon.start_again();
    assert_eq!(daemon.invoice("inv-1")["status"], "PAID");
    assert_eq!(
        names(&daemon.data())
            .iter()
            .filter(|it| it.contains("partial") || it.contains("restoring"))
            .count(),
        0
    );
    daemon.stop();

    Connection::open(&database)
        .unwrap()
        .execute_batch("INSERT INTO migrations VALUES (999, x'00', '9.0.0')")
        .unwrap();
    let before = std::fs::read(&database).unwrap();
    let said = daemon.try_start_again().unwrap_err();
    assert!(said.contains("run the newer payd"), "{said}");
    // Nor does an old payd vouch for it, or copy what it does not know.
    let file = daemon.directory().join("newer.db");
    for args in [&["verify"][..], &["backup", file.to_str().unwrap()]] {
        let refused = daemon.payd(args);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            err(&refused).contains("run the newer payd"),
            "{}",
            err(&refused)
        );
    }
    assert!(!file.exists());
    assert!(std::fs::read(&database).unwrap() == before, "untouched");
}

#[test]
fn what_is_for_another_payd_is_said_and_nothing_is_left_where_nothing_was_restored() {
    let mut daemon = daemon();
    daemon.stop();
    let older = Connection::open(daemon.data().join("payd.db")).unwrap();
    older
        .execute_batch(
            "DELETE FROM migrations WHERE version = (SELECT max(version) FROM migrations)",
        )
        .unwrap();
    drop(older);
    let file = daemon.directory().join("older.db");
    for args in [&["verify"][..], &["backup", file.to_str().unwrap()]] {
        let refused = daemon.payd(args);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            err(&refused).contains("of an older payd"),
            "{}",
            err(&refused)
        );
    }
    assert!(!file.exists());
    // No directory is made for a backup that is not there.
    let (output, directory) = restore(&daemon.directory().join("nowhere.db"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("nowhere.db cannot be read"),
        "{}",
        err(&output)
    );
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn one_backup_at_a_time_and_a_client_that_leaves_makes_room() {
    let daemon = daemon();
    // More than a socket takes without anybody reading.
    let text = "x".repeat(800);
    let lines: Vec<String> = (0..1000)
        .map(|n| format!(r#"{{"id":"big-{n}","amount":1,"description":"{text}"}}"#))
        .collect();
    let ndjson = [("Content-Type", "application/x-ndjson")];
    daemon
        .unix
        .post_with("/invoices", &ndjson, &lines.join("\n"));
    let unread = daemon.unix.open("POST", "/admin/backup", &[], b"").unwrap();
    assert_eq!(unread.status, 200);
    let second = daemon.unix.post("/admin/backup", "");
    second.problem(409, "request_in_progress");
    assert!(second.header("retry-after").is_some());
    daemon
        .unix
        .get("/admin/verify")
        .problem(409, "request_in_progress");
    drop(unread);
    until("there is room again", || {
        daemon.unix.get("/admin/verify").status == 200
    });
}

#[test]
fn a_backup_that_breaks_off_is_no_file() {
    let half = || vec!["SQLite format 3, and then nothing more".to_owned()];
    let cut = Scripted::start(move |_, _| Reply::Cut(half()));
    let whole_and_wrong = Scripted::start(|_, _| Reply::json(200, "x".repeat(10_000)));
    let refused = Scripted::start(|_, _| Reply::problem(503, "unavailable", "there is no room"));
    for (server, code) in [(cut, 3), (whole_and_wrong, 1), (refused, 1)] {
        let file = server.file("there", "").with_file_name("backup.db");
        let output = server.payctl(&["backup", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        let left = names(file.parent().unwrap());
        assert!(left.iter().all(|it| !it.contains("backup")), "{left:?}");
    }

    let half = || vec!["half of it".to_owned()];
    let open = Scripted::start(move |_, _| Reply::Open(half()));
    let file = open.file("there", "").with_file_name("backup.db");
    let child = open
        .command(&["backup", file.to_str().unwrap()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let partial = file.with_file_name("backup.db.partial");
    until("half of it is there", || {
        partial.metadata().is_ok_and(|it| it.len() > 0)
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", err(&output));
    assert!(!file.exists() && !partial.exists());
}

#[test]
fn verify_finds_what_was_changed_behind_payds_back() {
    let daemon = daemon();
    let output = daemon.payctl(&["verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("ok: "));
    Connection::open(daemon.data().join("payd.db"))
        .unwrap()
        .execute_batch("UPDATE invoices SET amount = 1 WHERE id = 'inv-2'")
        .unwrap();
    let output = daemon.payctl(&["verify"]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let amount =
        "invoice inv-2: the amount is 1 USD in the tables, and its events come to 1000 USD";
    assert!(said.starts_with(amount), "{said}");
    let output = daemon.payd(&["verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains(amount), "{}", err(&output));
    for debug in ["{", "Some(", "Invoice", "Amount("] {
        assert!(!err(&output).contains(debug), "{}", err(&output));
    }
    // Of such a database there is no backup that would pass for a good one.
    let file = daemon.directory().join("backup.db");
    let output = daemon.payctl(&["backup", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(err(&output).contains("payctl verify"), "{}", err(&output));
    let output = daemon.payd(&["backup", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("invoice inv-2"), "{}", err(&output));
    assert!(!file.exists());
}
