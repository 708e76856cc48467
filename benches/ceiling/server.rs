//! The processes that are measured: started, looked at from outside through /proc and the database's own
//! counters, and stopped. A side that has to cooperate to be measured is not measured here.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::arguments::{Over, Which};
use crate::wire::Peer;

/// How long a start or a stop may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// The clock of /proc/PID/stat, in hertz: what Linux shows to programs on every machine that payd runs on.
const TICKS: f64 = 100.0;

/// Where in the write-ahead log's index SQLite counts transactions (iChange).
/// Source: <https://www.sqlite.org/walformat.html>, section 2.1.
const CHANGES_AT: u64 = 8;

/// The token of the sketch that asks for one: as long as payd's, and it opens nothing else.
const SKETCH_TOKEN: &str = "sketch_of_a_token_that_is_as_long_as_one_that_payd_makes_itself";

/// A process, its directory, and where it is reached.
pub(crate) struct Server {
    child: Child,
    /// The load comes over this.
    pub(crate) peer: Peer,
    /// Everything else over this, where it has one.
    pub(crate) socket: PathBuf,
    database: PathBuf,
    /// Gone with the server unless it was lent.
    _directory: Option<TempDir>,
    _runtime: TempDir,
}

/// A server's counters at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    /// Seconds of CPU, user and system, of all its threads.
    pub(crate) cpu: f64,
    pub(crate) commits: u32,
    /// System calls that read, and that write: of files and sockets alike.
    pub(crate) calls: [f64; 2],
}

/// A new directory for a store, on the disk that holds the build: temporary directories are often memory.
pub(crate) fn directory() -> TempDir {
    TempDir::with_prefix_in("bench-", env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The payd that cargo built beside this.
pub(crate) fn payd() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_payd"))
}

impl Server {
    /// payd with a new store, and everything on as it comes: its log at info goes to a file.
    pub(crate) fn payd(binary: &Path, gateway: Option<u16>) -> Self {
        Self::payd_over(Over::Socket, binary, gateway)
    }

    /// The same, with the load over TCP.
    pub(crate) fn payd_over(over: Over, binary: &Path, gateway: Option<u16>) -> Self {
        let directory = directory();
        let mut server = Self::payd_at(over, binary, directory.path(), gateway);
        server._directory = Some(directory);
        server
    }

    /// The same with a store that is there already.
    pub(crate) fn payd_in(binary: &Path, directory: &Path, gateway: Option<u16>) -> Self {
        Self::payd_at(Over::Socket, binary, directory, gateway)
    }

    fn payd_at(over: Over, binary: &Path, directory: &Path, gateway: Option<u16>) -> Self {
        let runtime = TempDir::with_prefix("payd-").unwrap();
        let socket = runtime.path().join("payd.sock");
        let mut command = Command::new(binary);
        // Nothing of this machine's own settings.
        command
            .env_clear()
            .env("HOME", directory)
            .env("XDG_CONFIG_HOME", directory)
            .arg("serve")
            .arg("--data-dir")
            .arg(directory)
            .arg("--listen")
            .arg(match over {
                Over::Socket => "none",
                Over::Tcp => "127.0.0.1:0",
            })
            .arg("--socket")
            .arg(&socket);
        if let Some(port) = gateway {
            command.env("PAYD_GATEWAY__KIND", "http").env(
                "PAYD_GATEWAY__HTTP__URL",
                format!("http://127.0.0.1:{port}"),
            );
        }
        let mut server = Self::start(over, command, socket, directory.join("payd.db"), runtime);
        if let Peer::Tcp { token, .. } = &mut server.peer {
            let text = fs::read_to_string(directory.join("token")).unwrap();
            *token = Some(text.trim().to_owned());
        }
        server
    }

    /// A sketch, with a new store.
    pub(crate) fn sketch(which: Which, over: Over, gateway: Option<u16>) -> Self {
        let directory = directory();
        let runtime = TempDir::with_prefix("sketch-").unwrap();
        let socket = runtime.path().join("sketch.sock");
        let database = directory.path().join("sketch.db");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("sketch").arg("--which").arg(which.as_str());
        if over == Over::Socket {
            command.arg("--socket").arg(&socket);
        }
        command.arg("--database").arg(&database);
        if let Some(port) = gateway {
            command.arg("--gateway").arg(port.to_string());
        }
        let guarded = which == Which::Promising && over == Over::Tcp;
        if guarded {
            command.arg("--token").arg(SKETCH_TOKEN);
        }
        let mut server = Self::start(over, command, socket, database, runtime);
        if let Peer::Tcp { token, .. } = &mut server.peer
            && guarded
        {
            *token = Some(SKETCH_TOKEN.to_owned());
        }
        server._directory = Some(directory);
        server
    }

    fn start(
        over: Over,
        mut command: Command,
        socket: PathBuf,
        database: PathBuf,
        runtime: TempDir,
    ) -> Self {
        let said = runtime.path().join("said");
        let log = File::create(runtime.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&said).unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self {
            child,
            peer: Peer::Socket(socket.clone()),
            socket,
            database,
            _directory: None,
            _runtime: runtime,
        };
        let since = Instant::now();
        loop {
            if over == Over::Tcp
                && let Some(address) = address(&fs::read_to_string(&said).unwrap())
            {
                let token = None;
                server.peer = Peer::Tcp { address, token };
            }
            let known = over == Over::Socket || matches!(server.peer, Peer::Tcp { .. });
            if known && server.answers() {
                return server;
            }
            if let Some(status) = server.child.try_wait().unwrap() {
                let log = fs::read_to_string(server._runtime.path().join("log"));
                panic!("it ended with {status}: {}", log.unwrap_or_default());
            }
            assert!(since.elapsed() < PATIENCE, "it does not start");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it serves: payd binds its sockets before it can.
    fn answers(&self) -> bool {
        match &self.peer {
            Peer::Socket(path) => UnixStream::connect(path).is_ok_and(ready),
            Peer::Tcp { address, .. } => TcpStream::connect(address).is_ok_and(ready),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            cpu: self.cpu(),
            commits: self.commits(),
            calls: self.calls(),
        }
    }

    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name, in brackets, may hold anything; utime and stime are the 12th and 13th behind it.
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
        (ticks(11) + ticks(12)) / TICKS
    }

    fn calls(&self) -> [f64; 2] {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid())).unwrap();
        ["syscr: ", "syscw: "].map(|name| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap().parse().unwrap()
        })
    }

    /// Transactions committed since the database was made, as SQLite counts them.
    fn commits(&self) -> u32 {
        let mut index = File::open(with(&self.database, "-shm")).unwrap();
        let mut count = [0; 4];
        index.seek(SeekFrom::Start(CHANGES_AT)).unwrap();
        index.read_exact(&mut count).unwrap();
        u32::from_ne_bytes(count)
    }

    /// A figure of /proc/PID/status, in KiB.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
        value.unwrap().parse().unwrap()
    }

    /// The most memory that it has held, in KiB.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory("VmHWM")
    }

    /// Stops it, in order, and waits for its end.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let since = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already where it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ready(mut stream: impl Read + Write) -> bool {
    let sent = stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let mut first = [0; 8];
    sent.and_then(|()| stream.read_exact(&mut first)).is_ok()
}

/// The address on this machine in what a server says as it starts, once it has been said whole.
fn address(said: &str) -> Option<SocketAddr> {
    let at = said.find("127.0.0.1:")?;
    let (address, _) = said[at..].split_once(char::is_whitespace)?;
    address.parse().ok()
}

/// The path with something at its end.
pub(crate) fn with(path: &Path, end: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(end);
    path.into()
}

/// The gateway, running.
pub(crate) struct GatewayStub {
    child: Child,
    pub(crate) port: u16,
}

impl GatewayStub {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("gateway")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Self { child, port }
    }
}

impl Drop for GatewayStub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
