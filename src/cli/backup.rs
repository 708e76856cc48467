//! `payctl backup`: payd's database in a file, whole and on disk, or no file.
//!
//! payd copies and verifies it; here it is written, held against its seal, synced, and only then given
//! its name. It never takes the place of a file.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueHint;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::api::{SEAL_LEN, is_seal_of};
use crate::cli::context::{Context, new_key};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::table::{Cell, pairs};
use crate::client::{Download, Request};

/// How long payd may copy and verify before its first byte. A gigabyte takes it some ten seconds.
const MAKE_MAX: Duration = Duration::from_secs(3600);
/// How long it may send nothing after that.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Copy payd's database into a file, verified, while payments go on
///
/// The copy is the database at one moment. It has its name only once it is whole, verified and on disk;
/// a file that is there already is not overwritten. It holds no secret, but all business data. `payd
/// restore` makes it a database again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  payctl backup payd-$(date +%F).db\n  payd restore FILE")]
pub(crate) struct Arguments {
    /// The file to make
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

/// Runs it.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let mut partial = Partial::claim(&arguments.file)?;
    let interrupted = tokio::signal::ctrl_c();
    let bytes = tokio::select! {
        received = receive(&mut partial, context) => received?,
        _ = interrupted => {
            context.out.note("interrupted; there is no backup");
            return Ok(Exit::Interrupted);
        }
    };
    partial.publish()?;
    let file = arguments.file.display().to_string();
    match context.out.format {
        Format::Json | Format::Jsonl => {
            let said = json!({"file": file, "bytes": bytes});
            context.out.raw(said.to_string().as_bytes())?;
        }
        Format::Name => context.out.line(&crate::cli::text::clean(&file))?,
        Format::Table => {
            let rows = [
                ("file", Cell::new(&file)),
                ("bytes", Cell::new(&bytes.to_string())),
                ("verified", Cell::new("yes")),
            ];
            let width = context.out.width();
            context.out.lines(&pairs(&rows, width))?;
        }
    }
    Ok(Exit::Done)
}

async fn receive(partial: &mut Partial, context: &mut Context) -> Outcome<u64> {
    let spinner = context.out.spinner();
    spinner.set_message("payd copies and verifies its database");
    let request = Request::post("/admin/backup", "", &new_key()?);
    let answered = context.client.download(&request, MAKE_MAX).await;
    spinner.finish_and_clear();
    let mut pieces = match answered? {
        Download::Pieces(pieces) => pieces,
        Download::Refused(answer) => return Err(Failure::refused(answer)),
    };
    let bar = context.out.progress(pieces.length());
    bar.set_message("receiving");
    while let Some(bytes) = pieces.next(IDLE_MAX).await? {
        partial.write(&bytes)?;
        bar.inc(bytes.len() as u64);
    }
    bar.finish_and_clear();
    partial.check()
}

/// A file that has not got its name yet. It goes when this is dropped before.
struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: File,
    digest: Sha256,
    /// The last bytes so far: the seal is over those before them.
    tail: Vec<u8>,
    bytes: u64,
    published: bool,
}

impl Partial {
    fn claim(target: &Path) -> Outcome<Self> {
        refuse_existing(target)?;
        let mut name = OsString::from(target);
        name.push(".partial");
        let path = PathBuf::from(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // it may be another's
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed(&path, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process writes {}", path.display());
                return Err(Failure::own(Exit::Conflict, message).with_tip("wait for it"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&path, &error)),
        }
        file.set_len(0).map_err(|error| failed(&path, &error))?;
        Ok(Self {
            target: target.to_owned(),
            path,
            file,
            digest: Sha256::new(),
            tail: Vec::new(),
            bytes: 0,
            published: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| failed(&self.path, &error))?;
        self.bytes += bytes.len() as u64;
        self.tail.extend_from_slice(bytes);
        let before = self.tail.len().saturating_sub(SEAL_LEN);
        self.digest.update(&self.tail[..before]);
        self.tail.drain(..before);
        Ok(())
    }

    /// Holds it against its seal, and syncs it. Says how long it is.
    fn check(&mut self) -> Outcome<u64> {
        let digest = std::mem::take(&mut self.digest).finalize().into();
        if !is_seal_of(&self.tail, &digest) {
            return Err(Failure::unexpected("what arrived is not a whole backup")
                .with_tip("try again; is it payd that listens there? look at --host"));
        }
        let synced = self.file.sync_all();
        synced.map_err(|error| failed(&self.path, &error))?;
        Ok(self.bytes)
    }

    /// Gives it its name, if that is still free.
    fn publish(&mut self) -> Outcome<()> {
        let renamed =
            match renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::NOREPLACE) {
                // Not every file system knows the flag.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                    refuse_existing(&self.target)?;
                    std::fs::rename(&self.path, &self.target)
                }
                Err(rustix::io::Errno::EXIST) => return refuse_existing(&self.target),
                other => other.map_err(io::Error::from),
            };
        renamed.map_err(|error| failed(&self.target, &error))?;
        self.published = true;
        let parent = self.target.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|error| failed(&self.target, &error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // What stays is overwritten by the next one.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn refuse_existing(path: &Path) -> Outcome<()> {
    match path.symlink_metadata() {
        Ok(_) => {
            let message = format!(
                "{} is there already, and is not overwritten",
                path.display()
            );
            Err(Failure::own(Exit::Conflict, message)
                .with_tip("choose another name, or move it away"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path, &error)),
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NotAllowed,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Exit::Usage,
        _ => Exit::Unexpected,
    };
    Failure::own(exit, format!("{}: {error}", path.display()))
        .with_tip("there is no backup; see to its directory and its room, and try again")
}
