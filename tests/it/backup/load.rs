//! Backups while payments run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::daemon::{Daemon, until};

/// Ends the load, also where the test fails: the scope waits for it.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_backup_under_load_is_one_moment_and_has_all_that_was_acknowledged_before() {
    const CLIENTS: usize = 4;
    const BACKUPS: usize = 3;
    let daemon = Daemon::start();
    let stop = AtomicBool::new(false);
    let next = AtomicUsize::new(0);
    let acknowledged = Mutex::new(Vec::new());
    let backups = std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("inv-{}", next.fetch_add(1, Ordering::Relaxed));
                    let body = format!(r#"{{"id":"{id}","amount":1000}}"#);
                    daemon.unix.post("/invoices", &body).expect(201);
                    daemon
                        .unix
                        .post(&format!("/invoices/{id}/pay"), "")
                        .expect(202);
                    acknowledged.lock().unwrap().push(id);
                }
            });
        }
        let _stop = Stop(&stop);
        let mut backups = Vec::new();
        for n in 0..BACKUPS {
            let enough = 50 * (n + 1);
            until("enough is acknowledged", || {
                acknowledged.lock().unwrap().len() >= enough
            });
            let before = acknowledged.lock().unwrap().clone();
            let file = daemon.directory().join(format!("backup-{n}.db"));
            let output = daemon.payctl(&["backup", file.to_str().unwrap()]);
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let after = acknowledged.lock().unwrap().len();
            assert!(after > before.len(), "payments went on");
            backups.push((file, before));
        }
        backups
    });
    for (file, before) in backups {
        let restored = daemon.restored(&file, &[]);
        for id in before {
            let status = restored.invoice(&id)["status"].clone();
            assert!(status == "PROCESSING" || status == "PAID", "{id}: {status}");
        }
        until("all that was open is paid", || {
            let open = restored.unix.get("/invoices?status=PROCESSING&limit=1");
            open.expect(200)["invoices"][0].is_null()
        });
        restored.verify();
    }
}
