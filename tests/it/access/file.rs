//! The admin's token in the data directory: made at the first start, for its owner only; the file says
//! which it is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::admin_token;
use crate::support::daemon::Daemon;
use crate::support::http::Host;

fn opens(host: &Host, token: &str) -> bool {
    host.showing(Some(token)).get("/admin/status").status == 200
}

#[test]
fn the_first_start_makes_it_and_later_ones_leave_it() {
    let mut daemon = Daemon::start();
    let path = daemon.directory().join("data/token");
    let before = path.metadata().unwrap();
    assert_eq!(before.mode() & 0o777, 0o600);
    let token = admin_token(&daemon);
    assert!(opens(&daemon.tcp, &token));
    daemon.stop();
    daemon.start_again();
    let after = path.metadata().unwrap();
    assert_eq!((before.ino(), before.mtime()), (after.ino(), after.mtime()));
    assert!(opens(&daemon.tcp, &token));
    let tokens = daemon.unix.get("/admin/tokens").expect(200);
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 1);
}

#[test]
fn a_new_file_is_a_new_token_and_the_old_one_is_good_no_more() {
    let mut daemon = Daemon::start();
    let old = admin_token(&daemon);
    daemon.stop();
    fs::remove_file(daemon.directory().join("data/token")).unwrap();
    daemon.start_again();
    let new = admin_token(&daemon);
    assert_ne!(old, new);
    assert!(opens(&daemon.tcp, &new) && !opens(&daemon.tcp, &old));

    // A database of before the file, as a restored backup is: the file holds.
    daemon.stop();
    for name in ["payd.db", "payd.db-wal", "payd.db-shm", "payd.head"] {
        let _ = fs::remove_file(daemon.directory().join("data").join(name));
    }
    daemon.start_again();
    assert_eq!(admin_token(&daemon), new);
    assert!(opens(&daemon.tcp, &new));
    assert!(
        daemon.log().contains("was not known to the database"),
        "{}",
        daemon.log()
    );
}

#[test]
fn an_admin_token_that_was_revoked_stays_so() {
    let mut daemon = Daemon::start();
    let token = admin_token(&daemon);
    daemon
        .unix
        .post("/admin/tokens/admin/revoke", "")
        .expect(200);
    assert!(!opens(&daemon.tcp, &token));
    daemon.stop();
    daemon.start_again();
    assert!(!opens(&daemon.tcp, &token));
    assert!(
        daemon.log().contains("good for nothing"),
        "{}",
        daemon.log()
    );
}

#[test]
fn a_file_that_is_no_token_or_open_to_others_is_said_and_left_alone() {
    let mut daemon = Daemon::start();
    let path = daemon.directory().join("data/token");
    let token = admin_token(&daemon);
    daemon.stop();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    daemon.start_again();
    assert!(
        daemon.log().contains("others than its owner"),
        "{}",
        daemon.log()
    );
    assert!(opens(&daemon.tcp, &token));
    daemon.stop();
    fs::write(&path, "hunter2\n").unwrap();
    daemon.start_again();
    assert_eq!(fs::read_to_string(&path).unwrap(), "hunter2\n");
    assert!(
        daemon.log().contains("does not hold a token"),
        "{}",
        daemon.log()
    );
    assert!(!daemon.log().contains("hunter2"));
    assert!(opens(&daemon.tcp, &token), "the database knows it still");
}
