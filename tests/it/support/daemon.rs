//! A real payd in a directory of its own, on a free port. It is gone, with all it wrote, at the end.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::Host;

/// How long a condition may take to become true. Far more than it needs, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Daemon {
    child: Child,
    directory: Arc<tempfile::TempDir>,
    settings: Vec<(String, String)>,
    wrapper: Vec<String>,
    /// What it printed until it was ready.
    pub(crate) banner: String,
    /// Its log so far.
    stderr: Arc<Mutex<String>>,
    reading: Option<std::thread::JoinHandle<()>>,
    pub(crate) unix: Host,
    pub(crate) tcp: Host,
}

impl Daemon {
    /// Ready to take requests, with short waits.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// The same with settings of the test's own, as environment variables.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        Self::with_once(settings, &[])
    }

    /// The same, and some of them for the first process only.
    pub(crate) fn with_once(settings: &[(&str, &str)], only_now: &[(&str, &str)]) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        Self::launch(directory, Self::short(settings), &[], only_now).unwrap_or_else(|it| it.fail())
    }

    /// Short waits, but where the test says otherwise.
    fn short(settings: &[(&str, &str)]) -> Vec<(String, String)> {
        let short = [
            ("PAYD_RETRY__BASE", "20ms"),
            ("PAYD_RESOLVER__BASE", "50ms"),
            ("PAYD_GATEWAY__TIMEOUT", "300ms"),
        ];
        let all = short.iter().chain(settings);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// The same for requests that the test writes by hand: none needs a token.
    pub(crate) fn without_tokens() -> Self {
        Self::with(&[("PAYD_SERVER__AUTH", "none")])
    }

    #[cfg(feature = "failpoints")]
    /// The same after a first start that, with these settings besides, ends before it is ready.
    pub(crate) fn after_a_false_start(
        settings: &[(&str, &str)],
        only_now: &[(&str, &str)],
    ) -> (Ended, Self) {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let all = Self::short(settings);
        let Err(ended) = Self::launch(Arc::clone(&directory), all.clone(), &[], only_now) else {
            panic!("payd is ready, and was to end before: {only_now:?}");
        };
        let second = Self::launch(directory, all, &[], &[]).unwrap_or_else(|it| it.fail());
        (ended, second)
    }

    /// The same, but that it is started by another command, whose last arguments are payd's; or what payd said
    /// when it refused to start.
    pub(crate) fn through(wrapper: &[&str], settings: &[(&str, &str)]) -> Result<Self, String> {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let wrapper: Vec<String> = wrapper.iter().map(|it| (*it).to_owned()).collect();
        Self::launch(
            Arc::new(tempfile::tempdir().unwrap()),
            settings,
            &wrapper,
            &[],
        )
        .map_err(|ended| ended.to_string())
    }

    /// With settings that hold for this process only, beside those of its `settings`.
    fn launch(
        directory: Arc<tempfile::TempDir>,
        settings: Vec<(String, String)>,
        wrapper: &[String],
        only_now: &[(&str, &str)],
    ) -> Result<Self, Ended> {
        let payd = command(directory.path());
        let mut starter = match wrapper.split_first() {
            None => payd,
            Some((first, rest)) => {
                let mut starter = Command::new(first);
                starter.args(rest).arg(payd.get_program()).env_clear();
                starter.env("PATH", std::env::var_os("PATH").unwrap_or_default());
                let set = |(name, value): (_, Option<_>)| Some((name, value?));
                starter.envs(payd.get_envs().filter_map(set));
                starter.stdin(Stdio::null());
                starter
            }
        };
        let mut child = starter
            .args(["serve", "--listen", "127.0.0.1:0"])
            .envs(settings.iter().cloned())
            .envs(only_now.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let (sink, source) = (Arc::clone(&stderr), child.stderr.take().unwrap());
        let reading = std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                let mut sink = sink.lock().unwrap();
                sink.push_str(&line);
                sink.push('\n');
            }
        });
        let mut banner = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        // The last of the commands to try is the last line.
        while !banner.contains("events tail") {
            if stdout.read_line(&mut banner).unwrap() == 0 {
                let status = child.wait().unwrap();
                reading.join().unwrap();
                return Err(Ended {
                    status,
                    said: format!("{banner}{}", stderr.lock().unwrap()),
                });
            }
        }
        let address = banner
            .lines()
            .filter(|line| line.contains("listening on http"))
            .find_map(|line| line.split("://").nth(1)?.split_whitespace().next())
            .expect("a TCP address");
        // Where the data are somewhere else, on a mount that only payd sees, there is none to read.
        let token = std::fs::read_to_string(directory.path().join("data/token")).ok();
        let tcp = Host::Tcp(
            address.parse().unwrap(),
            token.map(|it| it.trim().to_owned()),
        );
        let unix = Host::Unix(directory.path().join("payd.sock"));
        Ok(Self {
            child,
            directory,
            settings,
            wrapper: wrapper.to_vec(),
            banner,
            stderr,
            reading: Some(reading),
            unix,
            tcp,
        })
    }

    /// Another daemon with the same settings, in a directory of its own, on a restored backup.
    pub(crate) fn restored(&self, backup: &std::path::Path, arguments: &[&str]) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let output = command(directory.path())
            .envs(self.settings.iter().cloned())
            .arg("restore")
            .arg(backup)
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        Self::launch(directory, self.settings.clone(), &[], &[]).unwrap_or_else(|it| it.fail())
    }

    /// Pulls the plug.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same for one that may have ended by itself.
    pub(crate) fn kill_if_running(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.kill();
        }
    }

    /// Starts again on the same directory.
    pub(crate) fn start_again(&mut self) {
        if let Err(ended) = self.try_again_with(&[]) {
            ended.fail();
        }
    }

    /// The same with settings for this once. An error: it ended before it was ready.
    pub(crate) fn try_again_with(&mut self, only_now: &[(&str, &str)]) -> Result<(), Ended> {
        let directory = Arc::clone(&self.directory);
        *self = Self::launch(directory, self.settings.clone(), &self.wrapper, only_now)?;
        Ok(())
    }

    /// The same; or what payd said when it refused to.
    pub(crate) fn try_start_again(&mut self) -> Result<(), String> {
        self.try_again_with(&[]).map_err(|ended| ended.to_string())
    }

    /// Starts one more on the same directory, and pulls its plug after so long. The first is gone.
    pub(crate) fn kill_while_it_starts(&self, after: Duration) {
        let mut child = command(self.directory.path())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .envs(self.settings.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The directory of its database, unless a setting of the test's own says otherwise.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("payd ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        // What it said last is in its log, too.
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        status.unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Waits until its log says this: lines are written by a thread of their own.
    #[track_caller]
    pub(crate) fn until_logged(&self, words: &str) {
        until(&format!("the log says {words:?}"), || {
            self.log().contains(words)
        });
    }

    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// A figure of the kernel's about its memory: `VmRSS` is what it has, `VmHWM` the most that it had. In KiB.
    pub(crate) fn memory_kib(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let mut lines = status.lines().filter_map(|it| it.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == which).unwrap();
        let figure = value.split_whitespace().next().unwrap();
        figure.parse().unwrap()
    }

    /// Both transports, by name.
    pub(crate) fn hosts(&self) -> [(&'static str, &Host); 2] {
        [("unix", &self.unix), ("tcp", &self.tcp)]
    }

    /// Another payd command in the same directory.
    pub(crate) fn payd(&self, arguments: &[&str]) -> std::process::Output {
        command(&self.directory()).args(arguments).output().unwrap()
    }

    /// payctl, on this daemon's socket.
    pub(crate) fn payctl(&self, arguments: &[&str]) -> std::process::Output {
        let socket = self.directory().join("payd.sock");
        Command::new(env!("CARGO_BIN_EXE_payctl"))
            .env("PAYD_HOST", format!("unix://{}", socket.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The invoice as it stands.
    pub(crate) fn invoice(&self, id: &str) -> Value {
        self.unix.get(&format!("/invoices/{id}")).expect(200)
    }

    /// Waits until the invoice has this status.
    pub(crate) fn until_invoice(&self, id: &str, status: &str) -> Value {
        until(&format!("{id} is {status}"), || {
            self.invoice(id)["status"] == status
        });
        self.invoice(id)
    }

    /// All events, by pages.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events = Vec::new();
        let mut after = "0".to_owned();
        loop {
            let page = self
                .unix
                .get(&format!("/events?limit=1000&after={after}"))
                .expect(200);
            let got = page["events"].as_array().unwrap();
            if got.is_empty() {
                return events;
            }
            events.extend(got.iter().cloned());
            page["next"].as_str().unwrap().clone_into(&mut after);
        }
    }

    /// The log is dense and whole, and the tables are what it folds to.
    pub(crate) fn verify(&self) {
        let output = self.payd(&["verify"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for (place, event) in self.events().iter().enumerate() {
            assert_eq!(event["id"], (place + 1).to_string());
        }
    }
}

/// A payd that ended before it was ready.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    said: String,
}

impl Ended {
    #[track_caller]
    fn fail(&self) -> ! {
        panic!("{self}")
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "payd ended with {}: {}", self.status, self.said)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Printed with the panic that it explains.
            #[expect(clippy::print_stdout)]
            {
                println!("--- payd said:\n{}", self.log());
            }
        }
    }
}

/// payd with nothing of this machine in its surroundings.
pub(crate) fn command(directory: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_payd"));
    command
        .env_clear()
        .env("HOME", directory)
        .env("PAYD_STORE__DATA_DIR", directory.join("data"))
        .env("PAYD_SERVER__SOCKET", directory.join("payd.sock"))
        .stdin(Stdio::null());
    command
}

/// Waits for a condition. The pause is only to leave the processor to others.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < PATIENCE,
            "after {PATIENCE:?}, not yet: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
