//! A gateway that speaks section 7, in a process of its own, with a ledger of its own.
//!
//! It is this test binary, run again (`process`), so it costs no second link. Whatever happens to
//! payd does not happen to it, and what it wrote down before it answered is there when it is killed.
//! It ends with the process that started it: that one holds its stdin.

mod book;
mod http;
pub(crate) mod ledger;
mod plan;
mod process;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

pub(crate) use ledger::{Fact, Ledger};

use super::daemon::until;

/// The test that is the gateway.
const PROCESS: &str = "support::gateway::process::the_gateway_process";

pub(crate) struct Gateway {
    child: Child,
    directory: Arc<tempfile::TempDir>,
    address: std::net::SocketAddr,
    settings: Vec<(String, String)>,
}

impl Gateway {
    /// One that does what each charge's metadata say.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// The same with settings of `process::Settings`.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        // An address of its own: a port that is free for a moment is nobody else's.
        static HOST: AtomicU8 = AtomicU8::new(1);
        let [high, low] = [8, 0].map(|shift| (std::process::id() >> shift).to_le_bytes()[0]);
        let host = [127, high.max(1), low, HOST.fetch_add(1, Ordering::Relaxed)];
        let settings = settings.iter();
        let mut gateway = Self {
            child: Command::new("true").spawn().unwrap(),
            directory: Arc::new(tempfile::tempdir().unwrap()),
            address: (host, 0).into(),
            settings: settings
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        gateway.start_again();
        gateway
    }

    /// Starts again on the same ledger and address, after a kill.
    pub(crate) fn start_again(&mut self) {
        let _ = self.child.wait();
        let announced = self.file("address");
        let _ = std::fs::remove_file(&announced);
        self.child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", PROCESS, "--nocapture", "--quiet"])
            .env("GATEWAY_DIR", self.directory.path())
            .env("GATEWAY_ADDRESS", self.address.to_string())
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("the gateway listens", || announced.exists());
        self.address = std::fs::read_to_string(&announced)
            .unwrap()
            .parse()
            .unwrap();
    }

    /// Pulls its plug.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// For `PAYD_GATEWAY__HTTP__URL`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it wrote down so far.
    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::read(&self.file("ledger"))
    }

    /// Executes what comes for this invoice, and answers when let go.
    pub(crate) fn hold_answer(&self, invoice: &str) -> Held {
        Held::new(self.file(&format!("hold-answer.{invoice}")))
    }

    /// Tells nothing to lookups of this invoice's charges, until let go.
    pub(crate) fn hold_lookup(&self, invoice: &str) -> Held {
        Held::new(self.file(&format!("hold-lookup.{invoice}")))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Something that the gateway keeps to itself while this lives.
#[must_use]
pub(crate) struct Held(PathBuf);

impl Held {
    fn new(path: PathBuf) -> Self {
        std::fs::write(&path, "").unwrap();
        Self(path)
    }

    pub(crate) fn let_go(self) {}
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
