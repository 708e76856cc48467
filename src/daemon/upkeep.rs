//! `payd backup`, `payd restore` and `payd verify`: on the database itself, with progress where somebody
//! watches, and without a trace where they are interrupted.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{BackupArgs, RestoreArgs, StoreArgs};
use super::commands::{complain, fail, say, settings};
use super::serve::new_uuid;
use super::signals::Signals;
use crate::application::{Progress, Report, UpkeepError, Watch, verify_watched};
use crate::domain::Timestamp;
use crate::infrastructure::clock::SystemClock;
use crate::infrastructure::directories::Places;
use crate::infrastructure::lock;
use crate::infrastructure::store::{self, RestoredStore, Restoring, SqliteCheck};

/// 128 and SIGINT's number, as shells do it.
const EXIT_INTERRUPTED: u8 = 130;

pub(super) fn backup(args: &BackupArgs) -> ExitCode {
    let places = match places(&args.store) {
        Ok(places) => places,
        Err(code) => return code,
    };
    let (source, target) = (places.database(), args.file.clone());
    let done = watched(move |watch| store::backup(&source, &target, wall(), watch));
    match done {
        Ok(written) => say(format!(
            "ok: {} holds {} events and {} invoices, verified, in {} bytes\n",
            args.file.display(),
            written.report.events,
            written.report.invoices,
            written.bytes
        )),
        Err(error) => failed("no backup was made", &error),
    }
}

pub(super) fn restore(args: &RestoreArgs) -> ExitCode {
    let places = match places(&args.store) {
        Ok(places) => places,
        Err(code) => return code,
    };
    // Before anything is made for it.
    if let Err(error) = std::fs::File::open(&args.file) {
        return fail(format_args!(
            "nothing was restored: the backup {} cannot be read: {error}",
            args.file.display()
        ));
    }
    let there = places.data_dir.path.exists();
    if let Err(error) = places.make() {
        return fail(error);
    }
    // Held until the end: no daemon may start on half a database.
    let lock = lock::acquire(&places.lock(), std::process::id(), jiff::Timestamp::now());
    let lock = match lock {
        Ok(lock) => lock,
        Err(error) => {
            leave(&places, there);
            return fail(format_args!("nothing was restored: {error}"));
        }
    };
    let how = Restoring {
        now: wall(),
        source: new_uuid(&SystemClock::start(i64::MIN)),
        pause: args.pause,
        keep_tokens: args.keep_tokens,
    };
    let (file, target) = (args.file.clone(), places.database());
    match watched(move |watch| store::restore(&file, &target, how, watch)) {
        Ok(restored) => {
            if !restored.sealed {
                complain(format_args!(
                    "{} was not made by `payd backup`: its events and tables were checked, but not every byte",
                    args.file.display()
                ));
            }
            let tokens = tokens(&restored, args.keep_tokens, &places.token());
            say(told(&restored, &places) + &tokens)
        }
        Err(error) => {
            // The directory is as it was.
            if let Err(left) = lock.undo() {
                complain(format_args!("{} stays: {left}", places.lock().display()));
            }
            leave(&places, there);
            failed("nothing was restored", &error)
        }
    }
}

/// Removes a directory that was made for nothing.
fn leave(places: &Places, there: bool) {
    if !there {
        // Only if it is empty: where it is not, it is not ours alone.
        let _ = std::fs::remove_dir(&places.data_dir.path);
    }
}

/// What was restored, and what comes next.
fn told(restored: &RestoredStore, places: &Places) -> String {
    let made = match restored.backup_at {
        Some(at) => format!(" of {at}"),
        None => String::new(),
    };
    let next = match restored.paused {
        true => {
            "Sending is paused: start payd, cancel again what was canceled since, and POST /admin/resume goes on."
        }
        false => "Start payd to go on.",
    };
    format!(
        "ok: {} is restored from a backup{made}: {} events, {} invoices\n\
         {} open payments are looked up at the gateway before anything is sent, and their invoices need attention until then.\n\
         {next}\n",
        places.database().display(),
        restored.report.events,
        restored.report.invoices,
        restored.open_payments,
    )
}

/// What became of the tokens. Those are revoked that were good in the backup; so is the admin's, whose file is
/// then good for nothing: it goes, and payd writes another when it starts.
fn tokens(restored: &RestoredStore, kept: bool, file: &Path) -> String {
    let names = match restored.tokens.is_empty() {
        true => "there was none".to_owned(),
        false => restored.tokens.join(", "),
    };
    if kept {
        return format!(
            "TOKENS ARE AS GOOD AS THEY WERE in the backup ({names}): revoke anew which were revoked since (`payctl token revoke`).\n"
        );
    }
    let admin = match std::fs::remove_file(file) {
        Ok(()) => {
            " The admin's file is removed, and payd writes another when it starts.".to_owned()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => format!(
            " Remove {}, which is good for nothing now ({error}): payd writes another when it starts.",
            file.display()
        ),
    };
    format!(
        "ALL TOKENS OF THE BACKUP ARE REVOKED ({names}): one that was revoked since would be good again. Make new \
         ones (`payctl token create`); --keep-tokens leaves them as they were.{admin}\n"
    )
}

pub(super) fn verify(args: &StoreArgs) -> ExitCode {
    let places = match places(args) {
        Ok(places) => places,
        Err(code) => return code,
    };
    let path = places.database();
    let database = path.clone();
    let done = watched(move |watch| verify_file(&database, watch));
    match done {
        Ok(report) => tell(&path, &report),
        Err(UpkeepError::Stopped) => ExitCode::from(EXIT_INTERRUPTED),
        Err(error) => {
            let (path, error) = (path.display().to_string(), error.to_string());
            // Where it names the file itself, once is enough.
            match error.contains(&path) {
                true => fail(format_args!("nothing was verified: {error}")),
                false => fail(format_args!("{path} was not verified: {error}")),
            }
        }
    }
}

fn verify_file(path: &Path, watch: Watch<'_>) -> Result<Report, UpkeepError> {
    let report = verify_watched(&SqliteCheck::open(path)?, watch)?;
    if report.complete {
        Ok(report)
    } else {
        Err(UpkeepError::Stopped)
    }
}

fn tell(path: &Path, report: &Report) -> ExitCode {
    if report.found == 0 {
        return say(format!(
            "ok: {} events in an unbroken chain; {} invoices as the events say, {} tokens\n",
            report.events, report.invoices, report.tokens
        ));
    }
    for finding in &report.findings {
        complain(finding);
    }
    let untold = report.found.saturating_sub(report.findings.len() as u64);
    if untold > 0 {
        complain(format_args!("and {untold} more"));
    }
    fail(format_args!(
        "{} is not what payd wrote: {} findings in {} events and {} invoices. Keep a copy of it, and restore a backup",
        path.display(),
        report.found,
        report.events,
        report.invoices
    ))
}

fn places(args: &StoreArgs) -> Result<Places, ExitCode> {
    settings(args.config.as_deref(), args.flags()).map(|(_, places)| places)
}

fn failed(what: &str, error: &UpkeepError) -> ExitCode {
    match error {
        UpkeepError::Stopped => {
            complain(format_args!("interrupted; {what}"));
            ExitCode::from(EXIT_INTERRUPTED)
        }
        error => fail(format_args!("{what}: {error}")),
    }
}

fn wall() -> Timestamp {
    Timestamp::from_millis(SystemClock::start(i64::MIN).now_ms())
}

/// Does it, and shows how far it is. A signal stops it where that leaves nothing half done.
fn watched<T: Send + 'static>(
    work: impl FnOnce(Watch<'_>) -> Result<T, UpkeepError> + Send + 'static,
) -> Result<T, UpkeepError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| UpkeepError::Failed(format!("the runtime does not start: {error}")))?;
    runtime.block_on(async {
        let mut signals = Signals::listen()
            .map_err(|error| UpkeepError::Failed(format!("no signals: {error}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let bar = bar();
        let mut working = tokio::task::spawn_blocking(move || {
            let watch = |progress: Progress| {
                bar.set_message(progress.stage.as_str());
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                if asked.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let result = work(&watch);
            bar.finish_and_clear();
            result
        });
        loop {
            tokio::select! {
                done = &mut working => {
                    return done.unwrap_or_else(|error| Err(UpkeepError::Failed(error.to_string())));
                }
                _ = signals.next() => stop.store(true, Ordering::Relaxed),
            }
        }
    })
}

fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg:20} {wide_bar} {percent:>3} %") {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar
}
