//! No room, or read-only: writes are refused, reads go on, nothing is sent without durable intent, and it
//! recovers by itself.

use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{Gateway, count, pay};
use crate::support::daemon::{Daemon, until};
use crate::support::faults::{Faults, can_mount, notice};

#[test]
fn while_nothing_can_be_written_writes_are_refused_and_reads_go_on() {
    let rows = [
        ("a full disk", "wal write ENOSPC 1 0"),
        (
            "a full disk that takes half of it",
            "wal write short 1 1\nwal write ENOSPC 1 0",
        ),
        (
            "a full disk, from near the end of a commit on",
            "wal write short 1 4\nany write ENOSPC 1 0",
        ),
        ("a quota", "any write EDQUOT 1 0"),
        (
            "a limit on files",
            "wal write EFBIG 1 0\nprobe write EFBIG 1 0",
        ),
        (
            "read-only",
            "any write EROFS 1 0\nany open EROFS 1 0\nany sync EROFS 1 0",
        ),
    ];
    std::thread::scope(|scope| {
        for (what, rules) in rows {
            scope.spawn(move || {
                let Some(faults) = Faults::new() else { return };
                let gateway = Gateway::start();
                let daemon = faults.daemon(&gateway.settings());
                refuses_and_recovers(
                    &daemon,
                    &gateway,
                    what,
                    || faults.set(rules),
                    || faults.mend(),
                );
            });
        }
    });
}

#[test]
fn a_limit_on_the_size_of_files_refuses_and_does_not_kill() {
    let gateway = Gateway::start();
    let daemon = Daemon::with(&gateway.settings());
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    let wal = daemon.data().join("payd.db-wal");
    let limit = |current| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        prlimit(pid, Resource::Fsize, Rlimit { current, maximum }).unwrap();
    };
    refuses_and_recovers(
        &daemon,
        &gateway,
        "RLIMIT_FSIZE",
        || limit(Some(std::fs::metadata(&wal).unwrap().len())),
        || limit(None),
    );
}

#[test]
fn a_disk_that_is_really_full_refuses_and_recovers() {
    if !can_mount() {
        return notice("no file system can be mounted here");
    }
    let seed = tempfile::tempdir().unwrap();
    let mount = Mount::new(seed.path(), "");
    let gateway = Gateway::start();
    let settings = mount.settings(&gateway);
    let daemon = Daemon::through(&mount.wrapper(), &settings).unwrap();
    // The mount is payd's own; this is the way to it from outside.
    let filler = format!(
        "/proc/{}/root{}/filler",
        daemon.pid(),
        mount.at.path().display()
    );
    let fill = || fill(Path::new(&filler));
    let empty = || std::fs::remove_file(&filler).unwrap();
    refuses_and_recovers_on(&daemon, &gateway, "a full tmpfs", &fill, &empty, |_| {});
}

#[test]
fn a_log_on_a_full_disk_has_whole_lines_only() {
    if !can_mount() {
        return notice("no file system can be mounted here");
    }
    let seed = tempfile::tempdir().unwrap();
    let mount = Mount::new(seed.path(), "");
    let logs = format!("{}/logs", mount.at.path().display());
    let data = tempfile::tempdir().unwrap();
    let settings = [
        ("PAYD_STORE__DATA_DIR", data.path().to_str().unwrap()),
        ("PAYD_LOG__DIR", logs.as_str()),
        ("PAYD_LOG__LEVEL", "trace"),
    ];
    let mut daemon = Daemon::through(&mount.wrapper(), &settings).unwrap();
    let root = format!("/proc/{}/root", daemon.pid());
    let filler = format!("{root}{}/filler", mount.at.path().display());
    let entries = || std::fs::read_dir(format!("{root}{logs}")).unwrap();
    let read = || {
        let file = entries().next().unwrap().unwrap().path();
        std::fs::read_to_string(file).unwrap()
    };
    let create = |id: &str| {
        let body = format!(r#"{{"id":"{id}","amount":100}}"#);
        daemon.unix.post("/invoices", &body).expect(201);
    };
    create("before");
    until("it is logged", || read().contains("before"));
    fill(Path::new(&filler));
    let dropped = || {
        let metrics = daemon.unix.get("/metrics").text();
        let mut lines = metrics.lines();
        let count = lines.find_map(|it| it.strip_prefix("payd_log_lines_dropped_total "));
        count.unwrap().parse::<u64>().unwrap()
    };
    let mut number = 0;
    until("lines do not fit", || {
        number += 1;
        create(&format!("full-{number}"));
        dropped() > 0
    });
    std::fs::remove_file(&filler).unwrap();
    create("after");
    until("it goes on", || read().contains("after"));
    for line in read().lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok(), "{line}");
    }
    assert!(daemon.stop().success());
}

#[test]
fn payd_starts_on_a_full_disk_for_those_who_read() {
    let Some(faults) = Faults::new() else { return };
    let mut daemon = faults.daemon(&[
        ("PAYD_GATEWAY__SIMULATOR__LATENCY", "200ms"),
        ("PAYD_GATEWAY__TIMEOUT", "5s"),
    ]);
    pay(&daemon, "inv-1", "sim:decline-then-approve");
    pay(&daemon, "inv-2", "sim:approve");
    daemon.kill();
    faults.set("any write ENOSPC 1 0");
    // The index of the log is built anew at every start: that much it needs.
    let refused = daemon.try_start_again().unwrap_err();
    assert!(refused.contains("exit status: 1"), "{refused}");
    assert!(refused.contains("room"), "{refused}");

    faults.set("db write ENOSPC 1 0\nwal write ENOSPC 1 0\nprobe write ENOSPC 1 0");
    daemon.start_again();
    daemon.unix.get("/readyz").problem(503, "unavailable");
    assert_eq!(daemon.invoice("inv-1")["status"], "PROCESSING");
    let sent = daemon.events().len();
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-3","amount":1}"#)
        .problem(503, "unavailable");
    assert_eq!(daemon.events().len(), sent);
    faults.mend();
    until("it can write again", || {
        daemon.unix.get("/readyz").status == 200
    });
    for id in ["inv-1", "inv-2"] {
        daemon.until_invoice(id, "PAID");
    }
    daemon.verify();
}

#[test]
fn payd_starts_on_a_disk_that_is_really_full_or_says_why_not() {
    if !can_mount() {
        return notice("no file system can be mounted here");
    }
    // What a payd left behind that was killed.
    let gateway = Gateway::start();
    let mut before = Daemon::with(&gateway.settings());
    pay(&before, "inv-1", "card");
    before.kill();
    let mount = Mount::new(
        &before.data(),
        "dd if=/dev/zero of=$MOUNT/filler bs=4096 2>/dev/null || true; ",
    );
    let said = match Daemon::through(&mount.wrapper(), &mount.settings(&gateway)) {
        Ok(daemon) => {
            daemon.unix.get("/readyz").problem(503, "unavailable");
            return;
        }
        Err(said) => said,
    };
    assert!(said.contains("exit status: 1"), "{said}");
    assert!(
        said.contains("room") || said.contains("No space left"),
        "{said}"
    );
}

#[test]
fn a_checkpoint_that_finds_no_room_costs_nothing() {
    let Some(faults) = Faults::new() else { return };
    let mut daemon = faults.daemon(&[]);
    faults.set("db write ENOSPC 1 0\ndb truncate ENOSPC 1 0");
    // More than the log holds before SQLite moves it to the database.
    for round in 0..6 {
        let lines: Vec<String> = (0..1000)
            .map(|n| format!(r#"{{"id":"r{round}-{n}","amount":1000}}"#))
            .collect();
        let answer = daemon.unix.post_with(
            "/invoices",
            &[("Content-Type", "application/x-ndjson")],
            &lines.join("\n"),
        );
        assert!(answer.lines().iter().all(|line| line["status"] == 201));
    }
    assert!(faults.calls("db write fails") > 0, "a checkpoint was tried");
    daemon.kill();
    faults.mend();
    daemon.start_again();
    assert_eq!(daemon.events().len(), 6000);
    daemon.verify();
}

#[test]
fn a_database_that_may_not_be_written_is_refused_with_what_to_do() {
    let Some(faults) = Faults::new() else { return };
    let mut daemon = faults.daemon(&[]);
    daemon.stop();
    faults.set("db open EACCES 1 0");
    let said = daemon.try_start_again().unwrap_err();
    assert!(said.contains("exit status: 1"), "{said}");
    assert!(said.contains("belong to payd's user"), "{said}");
    faults.mend();
    daemon.start_again();
}

fn refuses_and_recovers(
    daemon: &Daemon,
    gateway: &Gateway,
    what: &str,
    fail: impl Fn(),
    mend: impl Fn(),
) {
    refuses_and_recovers_on(daemon, gateway, what, &fail, &mend, |daemon| {
        daemon.verify();
    });
}

fn refuses_and_recovers_on(
    daemon: &Daemon,
    gateway: &Gateway,
    what: &str,
    fail: &dyn Fn(),
    mend: &dyn Fn(),
    verify: impl Fn(&Daemon),
) {
    // One whose retry falls due while nothing can be written, one whose answer arrives then.
    pay(daemon, "inv-retry", "card");
    until("it was declined once", || {
        count(daemon, "PaymentFailed") == 1
    });
    pay(daemon, "inv-flight", "card");
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-open","amount":5}"#)
        .expect(201);
    until("it is with the gateway", || gateway.charges() == 2);
    fail();

    for (path, body) in [
        ("/invoices", r#"{"id":"inv-refused","amount":7}"#),
        ("/invoices/inv-open/pay", ""),
    ] {
        let answer = daemon.unix.post(path, body);
        assert_eq!(answer.status, 503, "{what}: {path}: {}", answer.text());
        answer.problem(503, "unavailable");
        assert!(answer.header("retry-after").is_some(), "{what}");
    }
    let before = daemon.events();
    let sent = gateway.charges();
    // Past the time of the retry, and of a probe or two.
    let refused_since = std::time::Instant::now();
    until("a retry is due and an answer waits", || {
        refused_since.elapsed() > std::time::Duration::from_millis(1500)
    });
    daemon.unix.get("/readyz").problem(503, "unavailable");
    daemon.unix.get("/healthz").expect(200);
    daemon.unix.get("/invoices").expect(200);
    daemon.unix.get("/admin/status").expect(200);
    assert_eq!(daemon.invoice("inv-open")["status"], "PENDING", "{what}");
    daemon
        .unix
        .get("/invoices/inv-refused")
        .problem(404, "invoice_not_found");
    assert_eq!(daemon.events(), before, "{what}: nothing has happened");
    let payments = daemon.unix.get("/invoices/inv-retry/payments").expect(200);
    assert_eq!(
        payments["payments"][1]["status"], "REQUESTED",
        "{what}: what is not written is not sent"
    );
    assert!(payments["payments"][1]["sent_at"].is_null(), "{what}");
    assert_eq!(gateway.charges(), sent, "{what}: nothing is sent");

    mend();
    until(&format!("{what}: it can write again"), || {
        daemon.unix.get("/readyz").status == 200
    });
    daemon.until_invoice("inv-retry", "PAID");
    daemon.until_invoice("inv-flight", "PAID");
    daemon
        .unix
        .post("/invoices", r#"{"id":"inv-refused","amount":7}"#)
        .expect(201);
    daemon.unix.post("/invoices/inv-open/pay", "").expect(202);
    daemon.until_invoice("inv-open", "PAID");
    assert_eq!(count(daemon, "PaymentSucceeded"), 3, "{what}");
    assert_eq!(
        gateway.charges(),
        4,
        "{what}: one declined, three charged, once each"
    );
    verify(daemon);
}

/// A small file system that only payd has.
struct Mount {
    at: tempfile::TempDir,
    script: String,
}

impl Mount {
    /// With what is in `seed`, and after `then` has been done to it.
    fn new(seed: &Path, then: &str) -> Self {
        let at = tempfile::tempdir().unwrap();
        let script = format!(
            "export MOUNT={at}; mount -t tmpfs -o size=3m,mode=700 payd $MOUNT && cp -a {seed}/. $MOUNT/ && {{ {then} true; }} && exec \"$@\"",
            at = at.path().display(),
            seed = seed.display(),
        );
        Self { at, script }
    }

    fn wrapper(&self) -> Vec<&str> {
        vec!["unshare", "-Urm", "sh", "-c", &self.script, "sh"]
    }

    fn settings<'a>(&'a self, gateway: &'a Gateway) -> Vec<(&'a str, &'a str)> {
        let mut all = gateway.settings();
        all.push(("PAYD_STORE__DATA_DIR", self.at.path().to_str().unwrap()));
        all
    }
}

/// Takes all the room there is.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for block in [4096, 1] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
}
