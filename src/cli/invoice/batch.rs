//! `payctl invoice create --file`: invoices line by line, sent in chunks.
//!
//! Memory holds one chunk, never the file. A chunk's idempotency key follows from the run's key
//! and the chunk's number, and where a chunk ends follows from the lines alone, so that the same
//! file under the same key is the same requests.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::{Code, Invoice, Problem};
use crate::cli::context::Context;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::table::Table;
use crate::cli::text::{clean, count};
use crate::client::Request;

/// The most lines that payd takes at once.
const LINES_MAX: usize = 1_000;
/// The most bytes that it takes at once, line ends included.
const BYTES_MAX: usize = 1024 * 1024;
/// The longest key that leaves room for a chunk's number.
const KEY_BYTES_MAX: usize = 235;
/// How much is read at a time.
const READ_BYTES: usize = 64 * 1024;

/// One line of the input that has something on it.
enum Line {
    /// It goes to payd.
    Sent { number: u64 },
    /// It is too long to be sent.
    TooLong { number: u64 },
}

/// Lines that are sent together, and those too long that lie between them.
#[derive(Default)]
struct Chunk {
    body: Vec<u8>,
    sent: usize,
    lines: Vec<Line>,
}

/// One line of the answer.
#[derive(Deserialize)]
struct LineResult<'a> {
    status: u16,
    #[serde(borrow, default)]
    invoice: Option<&'a RawValue>,
    #[serde(default)]
    problem: Option<Problem<'static>>,
}

/// What came of a run.
#[derive(Default)]
struct Tally {
    created: u64,
    standing: u64,
    failed: u64,
    blank: u64,
    /// stdout's reader has left; the invoices are created all the same.
    unread: bool,
}

pub(super) async fn run(file: &Path, key: &str, context: &mut Context) -> Outcome {
    if key.len() > KEY_BYTES_MAX {
        return Err(Failure::usage(format!(
            "--idempotency-key with --file has at most {KEY_BYTES_MAX} characters"
        )));
    }
    let (input, size) = open(file)?;
    let bar = context.out.progress(size);
    let mut reader = Lines::new(input);
    let mut tally = Tally::default();
    let mut table = Table::new(super::COLUMNS, context.out.width());
    let mut number = 0;
    let mut chunk = Chunk::default();
    let ended = loop {
        let line = match reader.next() {
            Ok(line) => line,
            Err(error) => break Err(unreadable(file, &error)),
        };
        let Some((line_number, content)) = line else {
            break flush(
                &mut chunk,
                &mut number,
                key,
                &mut tally,
                &mut table,
                &bar,
                context,
            )
            .await;
        };
        let full = match content {
            Content::Blank => {
                tally.blank += 1;
                false
            }
            Content::TooLong => {
                chunk.lines.push(Line::TooLong {
                    number: line_number,
                });
                chunk.lines.len() >= LINES_MAX
            }
            Content::Text(text) => {
                if chunk.body.len() + text.len() + 1 > BYTES_MAX {
                    let sent = flush(
                        &mut chunk,
                        &mut number,
                        key,
                        &mut tally,
                        &mut table,
                        &bar,
                        context,
                    )
                    .await;
                    if sent.is_err() {
                        break sent;
                    }
                }
                chunk.body.extend_from_slice(text);
                chunk.body.push(b'\n');
                chunk.sent += 1;
                chunk.lines.push(Line::Sent {
                    number: line_number,
                });
                chunk.lines.len() >= LINES_MAX
            }
        };
        bar.set_position(reader.bytes_read);
        if full {
            let sent = flush(
                &mut chunk,
                &mut number,
                key,
                &mut tally,
                &mut table,
                &bar,
                context,
            )
            .await;
            if sent.is_err() {
                break sent;
            }
        }
    };
    bar.finish_and_clear();
    summary(&tally, context);
    match ended {
        Ok(()) if tally.failed == 0 => Ok(Exit::Done),
        Ok(()) => Err(Failure::Said(Exit::Unexpected)),
        Err(failure) => {
            let last = chunk
                .lines
                .first()
                .map_or(reader.number, |line| match line {
                    Line::Sent { number } | Line::TooLong { number } => *number,
                });
            context.out.warn(&format!(
                "stopped before line {last} was known to be created; the same file again with \
                 --idempotency-key '{key}' creates what is missing, once"
            ));
            Err(failure)
        }
    }
}

fn summary(tally: &Tally, context: &Context) {
    let mut parts = vec![format!("{} created", tally.created)];
    if tally.standing > 0 {
        parts.push(format!("{} there already", tally.standing));
    }
    if tally.failed > 0 {
        parts.push(format!("{} failed", tally.failed));
    }
    if tally.blank > 0 {
        parts.push(format!("{} skipped", count(tally.blank, "blank line")));
    }
    context.out.note(&parts.join(", "));
}

/// Sends a chunk, and reports on its lines in their order.
async fn flush(
    chunk: &mut Chunk,
    number: &mut u64,
    key: &str,
    tally: &mut Tally,
    table: &mut Table,
    bar: &ProgressBar,
    context: &mut Context,
) -> Outcome<()> {
    if chunk.lines.is_empty() {
        return Ok(());
    }
    *number += 1;
    let answer = if chunk.sent == 0 {
        Vec::new()
    } else {
        let body = std::mem::take(&mut chunk.body);
        let request = Request::post("/invoices", body, &format!("{key}/{number}")).ndjson();
        context.send(&request).await?.body.to_vec()
    };
    let mut results = answer
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty());
    let mut rows = Vec::new();
    for line in &chunk.lines {
        match line {
            Line::TooLong { number } => {
                let text =
                    format!("the line is too long: at most {BYTES_MAX} bytes are sent at once");
                let problem = Problem::new(Code::BodyTooLarge, text);
                let json = serde_json::json!({ "status": problem.status, "problem": problem });
                emit(
                    json.to_string().as_bytes(),
                    *number,
                    &mut rows,
                    tally,
                    bar,
                    context,
                )?;
            }
            Line::Sent { number } => {
                let Some(result) = results.next() else {
                    return Err(Failure::unexpected(format!(
                        "payd answered fewer lines than it was sent: none for line {number}"
                    )));
                };
                emit(result, *number, &mut rows, tally, bar, context)?;
            }
        }
    }
    if !rows.is_empty() && !tally.unread {
        let lines = table.lines(&rows);
        let printed = bar.suspend(|| context.out.lines(&lines).and_then(|()| context.out.flush()));
        heed(printed, tally)?;
    }
    bar.set_message(format!("{} created", tally.created));
    *chunk = Chunk::default();
    Ok(())
}

/// Counts and prints what came of one line.
fn emit(
    bytes: &[u8],
    number: u64,
    rows: &mut Vec<Vec<crate::cli::table::Cell>>,
    tally: &mut Tally,
    bar: &ProgressBar,
    context: &mut Context,
) -> Outcome<()> {
    let result: LineResult<'_> = serde_json::from_slice(bytes)
        .map_err(|error| Failure::unreadable("result of a batch", &error))?;
    if context.out.format.is_json() && !tally.unread {
        heed(bar.suspend(|| context.out.raw(bytes)), tally)?;
    }
    match (&result.invoice, &result.problem) {
        (Some(invoice), _) => {
            if result.status == 200 {
                tally.standing += 1;
            } else {
                tally.created += 1;
            }
            if context.out.format.is_json() || tally.unread {
                return Ok(());
            }
            let invoice: Invoice<'static> =
                crate::cli::context::read(invoice.get().as_bytes(), "invoice")?;
            if context.out.format == Format::Name {
                let id = clean(&invoice.id).into_owned();
                return heed(bar.suspend(|| context.out.line(&id)), tally);
            }
            rows.push(super::row(&invoice, context.now()));
        }
        (None, Some(problem)) => {
            tally.failed += 1;
            bar.suspend(|| context.out.bad_line(number, problem));
        }
        (None, None) => {
            return Err(Failure::unexpected(format!(
                "payd's answer for line {number} has neither an invoice nor a problem"
            )));
        }
    }
    Ok(())
}

/// A reader that leaves does not leave invoices uncreated.
fn heed(printed: Outcome<()>, tally: &mut Tally) -> Outcome<()> {
    match printed {
        Err(Failure::ClosedPipe) => {
            tally.unread = true;
            Ok(())
        }
        other => other,
    }
}

fn open(file: &Path) -> Outcome<(Box<dyn BufRead>, Option<u64>)> {
    if file == Path::new("-") {
        let stdin = BufReader::with_capacity(READ_BYTES, io::stdin());
        return Ok((Box::new(stdin), None));
    }
    let opened = File::open(file).map_err(|error| unreadable(file, &error))?;
    let metadata = opened.metadata().ok();
    if metadata.as_ref().is_some_and(std::fs::Metadata::is_dir) {
        return Err(Failure::usage(format!(
            "{} is a directory; --file takes a file with one JSON object a line",
            file.display()
        )));
    }
    let size = metadata
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len());
    Ok((Box::new(BufReader::with_capacity(READ_BYTES, opened)), size))
}

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{} cannot be read: {error}", file.display()))
}

enum Content<'a> {
    Blank,
    TooLong,
    Text(&'a [u8]),
}

/// Lines of bounded length; what is longer is read over.
struct Lines {
    input: Box<dyn BufRead>,
    buffer: Vec<u8>,
    number: u64,
    bytes_read: u64,
}

impl Lines {
    fn new(input: Box<dyn BufRead>) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            number: 0,
            bytes_read: 0,
        }
    }

    /// The next line and its number from 1; `None` at the end.
    fn next(&mut self) -> io::Result<Option<(u64, Content<'_>)>> {
        self.buffer.clear();
        let mut any = false;
        let mut long = false;
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            // One byte is kept for the line's end.
            long = long || self.buffer.len() + piece.len() >= BYTES_MAX;
            if !long {
                self.buffer.extend_from_slice(piece);
            }
            let used = piece.len() + usize::from(end.is_some());
            self.input.consume(used);
            self.bytes_read += used as u64;
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        // Windows editors put a byte order mark in front of the first line.
        let mut text = self.buffer.as_slice();
        if self.number == 1 {
            text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        }
        let text = text.trim_ascii();
        let content = if long {
            Content::TooLong
        } else if text.is_empty() {
            Content::Blank
        } else {
            Content::Text(text)
        };
        Ok(Some((self.number, content)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &'static [u8]) -> Vec<(u64, String)> {
        // A small buffer, so that lines straddle it.
        let mut lines = Lines::new(Box::new(BufReader::with_capacity(3, input)));
        let mut all = Vec::new();
        while let Some((number, content)) = lines.next().unwrap() {
            let text = match content {
                Content::Blank => "blank".to_owned(),
                Content::TooLong => "long".to_owned(),
                Content::Text(text) => String::from_utf8_lossy(text).into_owned(),
            };
            all.push((number, text));
        }
        all
    }

    #[test]
    fn lines_are_counted_with_the_blank_ones() {
        let read = lines(b"\xEF\xBB\xBF{\"a\":1}\r\n\n  \t\n{\"b\":2}");
        let expected = [
            (1, "{\"a\":1}"),
            (2, "blank"),
            (3, "blank"),
            (4, "{\"b\":2}"),
        ];
        assert_eq!(
            read,
            expected.map(|(number, text)| (number, text.to_owned()))
        );
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn a_line_over_the_limit_is_read_over() {
        let mut input = vec![b'x'; BYTES_MAX];
        input.extend_from_slice(b"\nshort\n");
        let input: &'static [u8] = input.leak();
        let read = lines(input);
        assert_eq!(read, [(1, "long".to_owned()), (2, "short".to_owned())]);
    }
}
