//! The mark: a small file beside the database that says how far it had come when it was last
//! acknowledged, so that a database which has lost commits is not taken for a whole one.
//!
//! SQLite cannot know that commits are missing: where its log is cut off, removed or damaged at its
//! end, and where an older copy of the database is put in its place, it opens what is there. payd would
//! then send payments again of which it has forgotten that they were sent.
//!
//! It is written after every commit and never synced: that costs a microsecond, and outlives every crash
//! of payd. A power cut may leave an older mark, which proves less and accuses nobody; it never leaves
//! one that is ahead of what was synced before it. Nothing is ever decided by it but to refuse a start.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::domain::StoreId;

/// The mark's name in the data directory.
pub(super) const MARK: &str = "payd.head";

/// How far a database has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// Whose events they are. A restore changes it: the mark of before does not hold any more.
    pub(super) source: StoreId,
    /// The newest event.
    pub(super) sequence: u64,
    /// Its digest.
    pub(super) digest: [u8; 32],
    /// Commits that had no event, such as claims.
    pub(super) quiet: u64,
}

impl Position {
    /// Whether a database that stands at `now` has lost what this one had.
    pub(super) fn is_lost_in(&self, now: &Self) -> bool {
        let forked = self.sequence == now.sequence && self.digest != now.digest;
        self.source == now.source
            && (self.sequence > now.sequence || self.quiet > now.quiet || forked)
    }

    /// One line of always the same length, so that it is overwritten in place, whole.
    fn encode(&self) -> String {
        let mut line = format!(
            "payd.head 1 {} {:020} {:020} ",
            self.source, self.sequence, self.quiet
        );
        write_hex(&mut line, &self.digest);
        line.push(' ');
        let check = Sha256::digest(line.as_bytes());
        write_hex(&mut line, &check[..8]);
        line.push('\n');
        line
    }

    fn decode(line: &str) -> Option<Self> {
        let mut words = line.trim_end().split(' ').skip(2);
        let source = StoreId::parse(words.next()?).ok()?;
        let sequence = words.next()?.parse().ok()?;
        let quiet = words.next()?.parse().ok()?;
        let hex = words.next()?;
        let mut digest = [0; 32];
        for (n, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok()?;
        }
        let position = Self {
            source,
            sequence,
            digest,
            quiet,
        };
        // The check is over the rest: what encodes to the same text is what was written.
        (position.encode() == line).then_some(position)
    }
}

fn write_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

/// The file, open to be overwritten.
pub(super) struct Mark {
    file: Option<File>,
    position: Position,
    failed: bool,
}

impl Mark {
    /// What the file says. `None`: there is none, or a power cut has torn it.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn read(path: &Path) -> io::Result<Option<Position>> {
        /// Longer than a line ever is.
        const BYTES_MAX: u64 = 1024;
        let mut text = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(BYTES_MAX).read_to_end(&mut text)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let position = std::str::from_utf8(&text).ok().and_then(Position::decode);
        if position.is_none() {
            tracing::warn!(path = %path.display(), "the mark cannot be read, as after a power cut; it is written anew");
        }
        Ok(position)
    }

    /// Starts to keep it. A file that cannot be written is told once and done without: it only guards.
    pub(super) fn keep(path: &Path, position: Position) -> Self {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path);
        let mut mark = Self {
            file: None,
            position,
            failed: false,
        };
        match file {
            Ok(file) => mark.file = Some(file),
            Err(error) => mark.tell(&error),
        }
        mark.write();
        mark
    }

    /// Notes a commit: of events up to this one, or of none.
    pub(super) fn advance(&mut self, newest: Option<(u64, [u8; 32])>) {
        match newest {
            Some((sequence, digest)) => {
                self.position.sequence = sequence;
                self.position.digest = digest;
            }
            None => self.position.quiet += 1,
        }
        self.write();
    }

    fn write(&mut self) {
        let Some(file) = &self.file else { return };
        match file.write_all_at(self.position.encode().as_bytes(), 0) {
            Ok(()) => self.failed = false,
            Err(error) => self.tell(&error),
        }
    }

    fn tell(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!(%error, "the mark {MARK} cannot be written; until it can, lost commits may go unnoticed at a start");
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn position(sequence: u64, quiet: u64) -> Position {
        Position {
            source: StoreId::from_uuid(Uuid::from_u128(7)),
            sequence,
            digest: [sequence.to_le_bytes()[0]; 32],
            quiet,
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_or_not_at_all() {
        let line = position(42, 7).encode();
        assert_eq!(Position::decode(&line), Some(position(42, 7)));
        assert_eq!(
            line.len(),
            position(u64::MAX, u64::MAX).encode().len(),
            "overwritten in place"
        );
        for at in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[at] ^= 1;
            let read = String::from_utf8(bytes)
                .ok()
                .and_then(|it| Position::decode(&it));
            assert_eq!(read, None, "byte {at}");
            assert_eq!(Position::decode(&line[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn only_what_the_database_had_can_be_lost() {
        let mut forked = position(42, 7);
        forked.digest = [0; 32];
        let mut restored = position(1, 1);
        restored.source = StoreId::from_uuid(Uuid::from_u128(8));
        for (now, lost) in [
            (position(42, 7), false),
            (position(43, 7), false),
            (position(42, 8), false),
            (position(41, 7), true),
            (position(42, 6), true),
            (forked, true),
            (restored, false),
        ] {
            assert_eq!(position(42, 7).is_lost_in(&now), lost, "{now:?}");
        }
    }

    #[test]
    fn it_is_kept_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(MARK);
        assert_eq!(Mark::read(&path).unwrap(), None);
        let mut mark = Mark::keep(&path, position(1, 0));
        mark.advance(Some((2, [2; 32])));
        mark.advance(None);
        assert_eq!(Mark::read(&path).unwrap(), Some(position(2, 1)));
        std::fs::write(&path, "payd.head 1 torn").unwrap();
        assert_eq!(Mark::read(&path).unwrap(), None);
    }
}
