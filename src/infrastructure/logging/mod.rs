//! Log lines: to stderr, and to a file a day where there is a directory for it.
//!
//! One event is one line, whatever is in its fields: text from outside never breaks a line and never
//! reaches a terminal's control. The log is not the record; that is the event log in the database. So the
//! log never holds up a payment.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

mod background;
mod clean;
mod daily;
mod json;

use background::Background;
use clean::{Field, Text};
use daily::Daily;
use json::JsonLines;

/// Files kept, one a day: two weeks is time enough to notice, and bounds the disk.
const FILES_MAX: usize = 14;
/// How long an end waits for lines to be written: a disk or a pipe that is stuck for longer takes them
/// with it.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// How a line looks on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text {
        /// Whether with colours.
        color: bool,
    },
    /// A JSON object.
    Json,
}

impl Format {
    /// Text on a terminal, else JSON.
    #[must_use]
    pub fn auto(terminal: bool, color: bool) -> Self {
        if terminal {
            Self::Text { color }
        } else {
            Self::Json
        }
    }
}

/// What is logged, how and where to.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// A level, or directives of [`EnvFilter`].
    pub level: &'a str,
    /// On stderr; the file is always JSON.
    pub format: Format,
    /// The directory of the log file, which must be there.
    pub dir: Option<&'a Path>,
}

/// Why logging does not work.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The level is none.
    #[error("the log level {level:?} is not valid: {source}")]
    Level {
        /// What was given.
        level: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// No file can be opened.
    #[error("no log file can be opened in {}: {source}; see that log.dir is a directory that payd's user may write to", dir.display())]
    File {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was started before, or is over.
    #[error("logging cannot be set up: {0}")]
    Subscriber(String),
}

/// Running logs. When this is dropped, what waits is written.
#[must_use = "what waits is written when this is dropped"]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    outputs: Vec<Background>,
}

impl Logs {
    /// Changes what is logged from now on.
    ///
    /// # Errors
    ///
    /// [`LoggingError::Level`]; what was logged before goes on.
    pub fn set_level(&self, level: &str) -> Result<(), LoggingError> {
        let filter = parse_level(level)?;
        self.filter
            .reload(filter)
            .map_err(|error| LoggingError::Subscriber(error.to_string()))
    }

    /// Counts lines that disk or stderr were too slow for, since the start.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        Dropped(self.outputs.iter().map(Background::dropped).collect())
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        for output in &self.outputs {
            output.flush(FLUSH_MAX);
        }
    }
}

/// See [`Logs::dropped`].
#[derive(Debug, Clone, Default)]
pub struct Dropped(Vec<Arc<AtomicU64>>);

impl Dropped {
    /// Lines, since the start.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.0.iter().map(|it| it.load(Ordering::Relaxed)).sum()
    }
}

/// What the whole process logs to, for an end that drops nothing.
static OUTPUTS: OnceLock<Vec<Background>> = OnceLock::new();

/// From here on a panic is a line like any other: the usual words on stderr are several lines, with
/// whatever is in them, and would wait for a stderr that nobody reads.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string);
        tracing::error!(
            thread = thread.name(),
            place,
            "panicked: {}",
            panic.payload_as_str().unwrap_or("no words")
        );
    }));
}

/// Waits, for a second at most, until what was logged is written. For an end by `exit`.
pub fn flush() {
    for output in OUTPUTS.get().into_iter().flatten() {
        output.flush(FLUSH_MAX);
    }
}

/// Starts logging for the whole process; once.
///
/// # Errors
///
/// A level or directory that will not do, or a second start.
pub fn start(options: Options<'_>) -> Result<Logs, LoggingError> {
    let (subscriber, logs) = build(options, io::stderr())?;
    subscriber
        .try_init()
        .map_err(|error| LoggingError::Subscriber(error.to_string()))?;
    // There is one start, so this is the first time.
    let _ = OUTPUTS.set(logs.outputs.clone());
    Ok(logs)
}

fn build(
    options: Options<'_>,
    stderr: impl io::Write + Send + 'static,
) -> Result<(impl Subscriber + Send + Sync, Logs), LoggingError> {
    let (filter, handle) = reload::Layer::new(parse_level(options.level)?);
    let no_thread = |error: io::Error| LoggingError::Subscriber(error.to_string());
    let mut json = Vec::new();
    if let Some(dir) = options.dir {
        json.push(Background::start("payd-log", file(dir)?).map_err(no_thread)?);
    }
    let mut outputs = json.clone();
    let stderr = Background::start("payd-stderr", stderr).map_err(no_thread)?;
    outputs.push(stderr.clone());
    let text_layer = match options.format {
        Format::Text { color } => Some(text_layer(stderr, color)),
        Format::Json => {
            json.push(stderr);
            None
        }
    };
    let json_layer = (!json.is_empty()).then(|| JsonLines::new(json));
    let subscriber = Registry::default()
        .with(filter)
        .with(text_layer)
        .with(json_layer);
    Ok((
        subscriber,
        Logs {
            filter: handle,
            outputs,
        },
    ))
}

fn parse_level(level: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| LoggingError::Level {
            level: level.to_owned(),
            source,
        })
}

fn text_layer<S>(writer: Background, color: bool) -> impl Layer<S>
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    // The library's own fields let line breaks through, and escapes in what is logged by Display.
    let fields = debug_fn(|writer: &mut Writer<'_>, field, value| {
        if field.name() != "message" {
            write!(writer, "{field}=")?;
        }
        write!(Field::<_, Text>::new(writer), "{value:?}")
    });
    tracing_subscriber::fmt::layer()
        .compact()
        .fmt_fields(fields.delimited(" "))
        .with_ansi(color)
        .log_internal_errors(false) // they would go to a stderr that may be closed, by a macro that panics then
        .with_writer(writer)
}

/// `payd.<date>.json`, a new one each day, and no more of them than [`FILES_MAX`].
fn file(dir: &Path) -> Result<Daily, LoggingError> {
    Daily::open(dir, FILES_MAX, jiff::Timestamp::now).map_err(|source| LoggingError::File {
        dir: dir.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged by `events`, and the logs for a change in between.
    fn logged(
        level: &str,
        format: Format,
        dir: Option<&Path>,
        events: impl FnOnce(&Logs),
    ) -> String {
        let captured = Captured::default();
        let (subscriber, logs) = build(Options { level, format, dir }, captured.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || events(&logs));
        drop(logs);
        captured.text()
    }

    const NASTY: &str = "a\nb\r\u{1b}[31mc\u{2028}d\u{202e}e\u{9b}f";

    fn nasty_events(_: &Logs) {
        let error = io::Error::other(NASTY);
        let span = tracing::info_span!("payment", invoice = %NASTY);
        let _entered = span.enter();
        tracing::info!(display = %NASTY, debug = ?NASTY, text = NASTY, error = &error as &dyn std::error::Error, "said {NASTY}");
    }

    #[test]
    fn text_is_one_line_an_event() {
        for color in [false, true] {
            let text = logged("info", Format::Text { color }, None, nasty_events);
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.ends_with('\n'), "{text:?}");
            for c in ['\r', '\u{2028}', '\u{202e}', '\u{9b}'] {
                assert!(!text.contains(c), "{c:?} in {text:?}");
            }
            assert!(!text.contains("\u{1b}[31m"), "{text:?}");
            assert_eq!(text.contains('\u{1b}'), color, "{text:?}");
            assert!(
                text.contains("said a\\nb\\r\\u{1b}[31mc\\u{2028}d"),
                "{text:?}"
            );
            assert!(text.contains("invoice=a\\nb"), "{text:?}");
        }
    }

    #[test]
    fn json_is_one_object_an_event() {
        let text = logged("info", Format::Json, None, nasty_events);
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], format!("said {NASTY}"));
        assert_eq!(line["display"], NASTY);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["spans"][0]["invoice"], NASTY);
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn levels_hold_and_change() {
        let dir = tempfile::tempdir().unwrap();
        for format in [Format::Json, Format::Text { color: false }] {
            for dir in [None, Some(dir.path())] {
                let text = logged("warn", format, dir, |logs| {
                    tracing::info!("one");
                    tracing::warn!("two");
                    logs.set_level("info").unwrap();
                    tracing::info!("three");
                    assert!(matches!(
                        logs.set_level("payd=loud"),
                        Err(LoggingError::Level { .. })
                    ));
                    tracing::info!("four");
                });
                let told = ["one", "two", "three", "four"].map(|word| text.contains(word));
                assert_eq!(told, [false, true, true, true], "{text}");
            }
        }
    }

    #[test]
    fn both_places_have_the_same_json() {
        let dir = tempfile::tempdir().unwrap();
        let text = logged("info", Format::Json, Some(dir.path()), nasty_events);
        let mut files = std::fs::read_dir(dir.path()).unwrap();
        let file = std::fs::read_to_string(files.next().unwrap().unwrap().path()).unwrap();
        assert_eq!(text, file);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
    }

    #[test]
    fn the_file_has_it_too_once_the_logs_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        logged(
            "info",
            Format::Text { color: false },
            Some(dir.path()),
            |logs| {
                for number in 0..100 {
                    tracing::info!(number, "line");
                }
                assert_eq!(logs.dropped().lines(), 0);
            },
        );
        let files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let name = files[0]
            .file_name()
            .and_then(std::ffi::OsStr::to_str)
            .unwrap();
        assert!(
            name.starts_with("payd.") && name.ends_with(".json"),
            "{name}"
        );
        let text = std::fs::read_to_string(&files[0]).unwrap();
        let numbers = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].clone());
        assert!(numbers.eq((0..100).map(serde_json::Value::from)), "{text}");
    }

    #[test]
    fn old_files_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        for day in 1..=28 {
            let old = format!("payd.2020-02-{day:02}.json");
            std::fs::write(dir.path().join(old), "{}\n").unwrap();
        }
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        for _ in 0..3 {
            logged("info", Format::Json, Some(dir.path()), |_| {
                tracing::info!("line");
            });
        }
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert!(files.contains(&"notes.txt".to_owned()), "{files:?}");
        assert_eq!(files.len(), FILES_MAX + 1, "{files:?}");
        // The oldest went.
        assert!(
            !files.contains(&"payd.2020-02-15.json".to_owned()),
            "{files:?}"
        );
        assert!(
            files.contains(&"payd.2020-02-16.json".to_owned()),
            "{files:?}"
        );
        assert!(
            files.last().is_some_and(|it| it > &"payd.2026".to_owned()),
            "{files:?}"
        );
    }

    #[test]
    fn a_missing_directory_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let missing = dir.path().join("file/logs");
        let options = Options {
            level: "info",
            format: Format::Json,
            dir: Some(&missing),
        };
        let error = build(options, io::sink()).map(drop).unwrap_err();
        assert!(error.to_string().contains("file/logs"), "{error}");
    }
}
