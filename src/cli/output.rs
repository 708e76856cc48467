//! What payctl writes. stdout has data and nothing else; everything said about it goes to stderr.
//!
//! The only place that writes to either, so that a closed pipe, colour and `--quiet` are decided
//! once. It never lets text from outside reach a terminal uncleaned, except as the JSON that was
//! asked for.

use std::env;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::api::Problem;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::text::{clean, wrap};

/// How stdout is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// payd's answer, byte for byte
    Json,
    /// One compact JSON object a line
    Jsonl,
    /// Ids only, one a line
    Name,
}

impl Format {
    /// Whether a program reads it that wants errors as JSON too.
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Format::Json | Format::Jsonl)
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Colour {
    fn choice(self, stream: &impl anstream::stream::RawStream) -> bool {
        let choice = match self {
            Colour::Auto => AutoStream::choice(stream),
            Colour::Always => ColorChoice::Always,
            Colour::Never => ColorChoice::Never,
        };
        choice != ColorChoice::Never
    }
}

/// stdout and stderr, as the flags have them.
pub(crate) struct Output {
    pub(crate) format: Format,
    quiet: bool,
    stdout: BufWriter<Stdout>,
    stdout_colour: bool,
    stderr_colour: bool,
}

impl Output {
    /// Output as the flags have it.
    pub(crate) fn new(format: Format, colour: Colour, quiet: bool) -> Self {
        let stdout = io::stdout();
        Self {
            format,
            quiet,
            stdout_colour: colour.choice(&stdout),
            stderr_colour: colour.choice(&io::stderr()),
            stdout: BufWriter::new(stdout),
        }
    }

    /// The terminal's width if stdout is one.
    pub(crate) fn width(&self) -> Option<usize> {
        width(&io::stdout())
    }

    /// Bytes of payd's, unchanged, and a line end if they have none.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Outcome<()> {
        let result = self.stdout.write_all(bytes).and_then(|()| {
            if bytes.last() == Some(&b'\n') {
                Ok(())
            } else {
                self.stdout.write_all(b"\n")
            }
        });
        self.written(result)
    }

    /// One JSON value in one line.
    pub(crate) fn compact(&mut self, bytes: &[u8]) -> Outcome<()> {
        match compacted(bytes) {
            Some(line) => self.raw(&line),
            None => self.raw(bytes),
        }
    }

    /// One line for people; its text from outside was cleaned by whoever put it in.
    pub(crate) fn line(&mut self, line: &str) -> Outcome<()> {
        let line = line.trim_end();
        let result = if self.stdout_colour {
            writeln!(self.stdout, "{line}")
        } else {
            writeln!(self.stdout, "{}", strip_str(line))
        };
        self.written(result)
    }

    /// Several such lines.
    pub(crate) fn lines(&mut self, lines: &[String]) -> Outcome<()> {
        lines.iter().try_for_each(|line| self.line(line))
    }

    /// Hands over what is buffered; before a wait, and at the end.
    pub(crate) fn flush(&mut self) -> Outcome<()> {
        let result = self.stdout.flush();
        self.written(result)
    }

    fn written(&mut self, result: io::Result<()>) -> Outcome<()> {
        let result = result.map_err(Failure::from);
        if matches!(result, Err(Failure::ClosedPipe)) {
            // What the buffer still holds has nowhere to go.
            let rest = std::mem::replace(&mut self.stdout, BufWriter::new(io::stdout()));
            let _ = rest.into_parts();
        }
        result
    }

    /// Whether stderr is a terminal where progress may be drawn.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// A spinner on stderr, hidden where nobody watches.
    pub(crate) fn spinner(&self) -> ProgressBar {
        if !self.shows_progress() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    /// A bar on stderr over so many bytes, or a count where nobody knows how many.
    pub(crate) fn progress(&self, bytes: Option<u64>) -> ProgressBar {
        if !self.shows_progress() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
        let template = match bytes {
            Some(_) => "{wide_bar} {percent:>3} %  {msg}  eta {eta}",
            None => "{spinner} {wide_msg} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar
    }

    /// Something worth knowing, on stderr unless quiet.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr(&clean(text));
        }
    }

    /// A line of stderr, broken at spaces where stderr is a terminal.
    fn stderr(&self, line: &str) {
        for line in wrap(line, width(&io::stderr()), "  ") {
            self.stderr_line(&line);
        }
    }

    /// Something wrong that does not end the command, on stderr.
    pub(crate) fn warn(&self, text: &str) {
        let style = AnsiColor::Yellow.on_default().bold();
        self.stderr(&format!("{style}warning:{style:#} {}", clean(text)));
    }

    /// What is wrong with one line of the input, on stderr.
    pub(crate) fn bad_line(&self, number: u64, problem: &Problem<'_>) {
        let style = AnsiColor::Red.on_default().bold();
        let fields: Vec<String> = problem
            .errors
            .iter()
            .map(|error| format!("{}: {}", error.field, error.message))
            .collect();
        let text = if fields.is_empty() {
            problem.detail.to_string()
        } else {
            fields.join("; ")
        };
        let text = format!("line {number}: {}", clean(&text));
        self.stderr(&format!("{style}error:{style:#} {text}"));
    }

    /// Why a command failed, on stderr, in the form that goes with stdout's.
    pub(crate) fn complain(&self, failure: &Failure) {
        if matches!(failure, Failure::ClosedPipe | Failure::Said(_)) {
            return;
        }
        if self.format.is_json() {
            let mut bytes = failure.json();
            if bytes.last() != Some(&b'\n') {
                bytes.push(b'\n');
            }
            let _ = io::stderr().write_all(&bytes);
            return;
        }
        let (line, more) = failure.explain();
        let style = AnsiColor::Red.on_default().bold();
        self.stderr(&format!("{style}error:{style:#} {line}"));
        for line in more {
            self.stderr(&format!("  {line}"));
        }
    }

    /// stderr may be closed; there is nowhere left to say so.
    fn stderr_line(&self, line: &str) {
        let _ = if self.stderr_colour {
            writeln!(io::stderr(), "{line}")
        } else {
            writeln!(io::stderr(), "{}", strip_str(line))
        };
    }

    /// Something in bold where there is colour.
    pub(crate) fn bold(text: &str) -> String {
        let style = Style::new().bold();
        format!("{style}{}{style:#}", clean(text))
    }
}

/// A terminal's width; `None` if it is none, and has room for everything.
fn width(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let columns = env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let size = || rustix::termios::tcgetwinsize(stream.as_fd()).ok();
    columns
        .or_else(|| size().map(|size| usize::from(size.ws_col)))
        .filter(|width| *width > 0)
        .or(Some(80))
}

/// The same JSON in one line; `None` if it is none, or is one line already.
fn compacted(bytes: &[u8]) -> Option<Vec<u8>> {
    let trimmed = bytes.trim_ascii();
    if !trimmed.contains(&b'\n') {
        return None;
    }
    let value: Value = serde_json::from_slice(trimmed).ok()?;
    serde_json::to_vec(&value).ok()
}
