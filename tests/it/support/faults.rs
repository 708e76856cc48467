//! A disk that fails when a test says so, and a wall clock that it moves: `faults.c`, loaded into payd.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::daemon::Daemon;

/// What a test lets go wrong with one payd.
pub(crate) struct Faults {
    directory: tempfile::TempDir,
    /// The library, built once and gone with the test run.
    library: PathBuf,
}

impl Faults {
    /// Nothing goes wrong yet. `None`, with a notice, where there is no C compiler.
    pub(crate) fn new() -> Option<Self> {
        let Some(library) = library() else {
            notice("there is no C compiler `cc`, so no disk can be made to fail");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let faults = Self {
            directory,
            library: library.to_owned(),
        };
        faults.mend();
        Some(faults)
    }

    /// payd with these faults, and settings of the test's own.
    pub(crate) fn daemon(&self, settings: &[(&str, &str)]) -> Daemon {
        let (rules, log) = (self.path("rules"), self.path("log"));
        let mut all = vec![
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("FAULTS", rules.to_str().unwrap()),
            ("FAULTS_LOG", log.to_str().unwrap()),
        ];
        all.extend_from_slice(settings);
        Daemon::with(&all)
    }

    /// From now on these rules hold (their form is told in `faults.c`), counted from now.
    pub(crate) fn set(&self, rules: &str) {
        // Other words, so that the same rules count anew.
        let count = std::fs::read(self.path("log")).map_or(0, |it| it.len());
        std::fs::write(self.path("next"), format!("{rules}\n# {count}\n")).unwrap();
        std::fs::rename(self.path("next"), self.path("rules")).unwrap();
    }

    /// Nothing goes wrong any more.
    pub(crate) fn mend(&self) {
        self.set("");
    }

    /// How often payd has called the disk so, as `wal sync`.
    pub(crate) fn calls(&self, call: &str) -> usize {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().filter(|line| line.starts_with(call)).count()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Says that a test was skipped, and why: it has shown nothing.
pub(crate) fn notice(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    #[expect(clippy::print_stderr)]
    {
        eprintln!("SKIPPED {test}: {why}");
    }
}

/// The library, compiled once a run.
fn library() -> Option<&'static Path> {
    static LIBRARY: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let built = LIBRARY.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let library = directory.path().join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/faults.c");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "faults.c: {said}");
        Some((directory, library))
    });
    built.as_ref().map(|(_, library)| library.as_path())
}

/// Whether a file system of a test's own can be mounted, in a namespace of its own.
pub(crate) fn can_mount() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        Command::new("unshare")
            .args([
                "-Urm", "mount", "-t", "tmpfs", "-o", "size=1m", "payd", "/tmp",
            ])
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    })
}
