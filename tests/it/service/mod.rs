//! payd under a service manager: what it says, what it takes, and whether its units hold.
//!
//! Where a tool or a right is missing a test says that it was skipped; with
//! `PAYD_SERVICE_TESTS_REQUIRED=1`, as in CI, that is a failure.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::daemon::{PATIENCE, command, until};
use crate::support::http::Host;

/// A test that cannot be run here.
fn skip(why: &str) {
    assert!(
        std::env::var_os("PAYD_SERVICE_TESTS_REQUIRED").is_none(),
        "cannot be tried: {why}"
    );
    // Read by whoever runs the tests with --nocapture.
    #[expect(clippy::print_stderr)]
    {
        eprintln!("skipped: {why}");
    }
}

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// payd with somebody who listens to what it tells its manager.
struct Told {
    child: Child,
    directory: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Told {
    fn start(environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = command(directory.path())
            .args(["serve", "--listen", "none"])
            .env("NOTIFY_SOCKET", &path)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            directory,
            socket,
        }
    }

    /// The next message.
    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("payd says something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Waits for a message that has this line.
    fn until_told(&self, line: &str) -> String {
        loop {
            let message = self.hear();
            if message.lines().any(|it| it == line) {
                return message;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_manager_is_told_of_readiness_reload_and_stop() {
    let mut payd = Told::start(&[("PAYD_SERVER__GRACE", "7s")]);
    payd.until_told("READY=1");
    let status = loop {
        let message = payd.hear();
        if let Some(status) = message.strip_prefix("STATUS=") {
            break status.to_owned();
        }
    };
    assert!(status.contains("gateway simulator"), "{status}");
    // Ready is ready.
    Host::Unix(payd.directory.path().join("payd.sock"))
        .get("/readyz")
        .expect(200);

    payd.signal(Signal::HUP);
    let reloading = payd.until_told("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    payd.until_told("READY=1");

    payd.signal(Signal::TERM);
    let stopping = payd.until_told("STOPPING=1");
    // The grace time, and something on top: the manager is not to cut it short.
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=12000000"),
        "{stopping}"
    );
    assert!(payd.child.wait().unwrap().success());
}

#[test]
fn the_watchdog_is_fed_only_while_payd_commits() {
    let payd = Told::start(&[("WATCHDOG_USEC", "400000")]);
    payd.until_told("READY=1");
    for _ in 0..3 {
        payd.until_told("WATCHDOG=1");
    }
    // Somebody else holds the database: commits wait.
    let database = payd.directory.path().join("data/payd.db");
    let other = rusqlite::Connection::open(database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    payd.socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut buffer = [0; 4096];
    // One more may have been on its way.
    until(
        "nothing is heard for longer than the watchdog waits",
        || payd.socket.recv(&mut buffer).is_err(),
    );
    other.execute_batch("ROLLBACK").unwrap();
    payd.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    payd.until_told("WATCHDOG=1");
}

#[test]
fn sockets_that_are_handed_over_are_used_and_left_in_place() {
    if !has("systemd-socket-activate") {
        return skip("there is no systemd-socket-activate");
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("handed.sock");
    // A port that was free a moment ago; the tool has no way to say which one it took.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let payd = command(directory.path());
    let mut activate = Command::new("systemd-socket-activate");
    activate.args(["-E", "HOME"]);
    for (name, value) in payd.get_envs() {
        if let Some(value) = value {
            activate.env(name, value).arg("-E").arg(name);
        }
    }
    let mut child = activate
        .arg("-l")
        .arg(&socket)
        .args(["-l", &port.to_string()])
        .arg(payd.get_program())
        .args(["serve", "--dev"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the tool listens", || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let (unix, tcp) = (Host::Unix(socket.clone()), Host::Tcp(port, None));
    unix.get("/readyz").expect(200);
    tcp.get("/readyz").expect(200);
    let status = unix.get("/admin/status").expect(200);
    assert_eq!(
        status["listeners"],
        serde_json::json!([
            format!("unix://{}", socket.display()),
            format!("http://{port}")
        ])
    );
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let stopped = child.wait().unwrap();
    let mut said = String::new();
    let _ = child.stderr.take().unwrap().read_to_string(&mut said);
    assert!(stopped.success(), "{said}");
    assert!(socket.exists(), "it is the manager's");
}

#[test]
fn the_unit_is_hardened() {
    if !has("systemd-analyze") {
        return skip("there is no systemd-analyze");
    }
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=12"])
        .arg(packaging().join("systemd/payd.service"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_units_run_under_a_real_systemd() {
    let output = Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/service/boot.sh"))
        .args([env!("CARGO_BIN_EXE_payd"), env!("CARGO_BIN_EXE_payctl")])
        .arg(packaging())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(77) => skip(&said),
        code => panic!("{code:?}: {said}"),
    }
}
