//! `/admin/backup` and `/admin/verify`: work that takes a while, beside the payments and never in their
//! way. One at a time, and none of it goes on when its client has gone or payd stops.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::call::Call;
use super::headers::Media;
use super::problem::{Reject, both};
use super::reply::json;
use super::stream::{self, Sender};
use super::{idempotency, parse};
use crate::api::Code;
use crate::application::ports::Reader;
use crate::application::{Backup, Report, UpkeepError, Watch};

/// The media type of a SQLite database (IANA, application/vnd.sqlite3).
const SQLITE: HeaderValue = HeaderValue::from_static("application/vnd.sqlite3");

/// Bytes read of a backup at a time.
const CHUNK: usize = 256 * 1024;

/// How long a client may take for one of these, before its backup makes room for the next.
const CHUNK_MAX: Duration = Duration::from_secs(60);

/// What was checked, and what was found.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    events: u64,
    invoices: u64,
    tokens: u64,
    found: u64,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    place: String,
    what: String,
}

impl Verdict {
    fn of(report: Report) -> Self {
        Self {
            ok: report.found == 0,
            events: report.events,
            invoices: report.invoices,
            tokens: report.tokens,
            found: report.found,
            findings: report
                .findings
                .into_iter()
                .map(|it| Finding {
                    place: it.place,
                    what: it.what,
                })
                .collect(),
        }
    }
}

/// `POST /admin/backup`: the store as one file. A key is taken and makes no difference: what is sent
/// again is the store as it then is.
pub(super) async fn backup(mut call: Call) -> Result<Response, Reject> {
    let read = call.body(&[Media::Json]).await?;
    let said = both(call.no_query(), idempotency::key(&call.parts.headers));
    both(said, parse::nothing(&read.bytes))?;
    let place = place(&call)?;
    let now = call.app().now();
    let backup = work(&call, move |reader, watch| {
        reader.upkeep().backup(now, watch)
    })
    .await?;
    tracing::info!(
        actor = &*call.caller.actor,
        bytes = backup.bytes,
        events = backup.report.events,
        "a backup was made"
    );
    let length = HeaderValue::from(backup.bytes);
    let mut response = stream::response(Media::Json, move |sender| send(backup, sender, place));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, SQLITE);
    headers.insert(CONTENT_LENGTH, length);
    Ok(response)
}

/// `GET /admin/verify`: whether the store is what payd wrote.
pub(super) async fn verify(call: Call) -> Result<Response, Reject> {
    call.no_query()?;
    let _place = place(&call)?;
    let report = work(&call, |reader, watch| reader.upkeep().verify(watch)).await?;
    if report.found > 0 {
        let first = report.findings.first().map(ToString::to_string);
        tracing::error!(
            found = report.found,
            first,
            "the store is not what payd wrote"
        );
    }
    Ok(json(&Verdict::of(report)))
}

fn place(call: &Call) -> Result<OwnedSemaphorePermit, Reject> {
    Arc::clone(&call.shared.upkeep)
        .try_acquire_owned()
        .map_err(|_| {
            Reject::new(
                Code::RequestInProgress,
                "Another backup or check is running, and there is one at a time. Send it again \
                 after Retry-After.",
            )
        })
}

/// Tells the work to stop when nobody waits for it any more.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn work<T: Send + 'static>(
    call: &Call,
    work: impl FnOnce(&dyn Reader, Watch<'_>) -> Result<T, UpkeepError> + Send + 'static,
) -> Result<T, Reject> {
    let stop = Stop(Arc::default());
    let stopped = Arc::clone(&stop.0);
    let working = call.app().read(move |reader| {
        let watch = |_| match stopped.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        Ok(work(reader, &watch))
    });
    tokio::select! {
        done = working => done?.map_err(reject),
        () = call.shared.shutdown.cancelled() => Err(reject(UpkeepError::Stopped)),
    }
}

fn reject(error: UpkeepError) -> Reject {
    match error {
        UpkeepError::Stopped => {
            Reject::unavailable("payd is shutting down. Send it again when it is back.")
        }
        // It names paths and figures, to operators only.
        UpkeepError::NoRoom(why) => Reject::unavailable(format!(
            "Nothing was made, and payments go on: {why}. Make room, or run `payd backup` with \
             another directory."
        )),
        UpkeepError::NotSound(why) => Reject::internal_with(
            "The store is not what payd wrote, and what is made of it would not be either. \
             `payctl verify` says what is found; stop payd, keep a copy of its directory, and \
             restore a backup.",
            why,
        ),
        UpkeepError::Failed(why) => Reject::internal(why),
    }
}

/// Sends it, as fast as it is taken.
async fn send(backup: Backup, sender: Sender, _place: OwnedSemaphorePermit) {
    let mut content = backup.content;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let read = fill(&mut content, &mut chunk);
            read.map(|length| {
                chunk.truncate(length);
                (content, chunk)
            })
        });
        // However it ends short, the client sees that: the length was said.
        let Ok(Ok((rest, chunk))) = read.await else {
            tracing::error!("a backup could not be read to its end; its client was cut off");
            return;
        };
        if chunk.is_empty() {
            sender.end().await;
            return;
        }
        if !matches!(timeout(CHUNK_MAX, sender.send(chunk)).await, Ok(Ok(()))) {
            return;
        }
        content = rest;
    }
}

/// Reads until the buffer is full or the content ends.
fn fill(content: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
