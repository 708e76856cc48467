//! The store as an operator sees it through a running payd.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::application::ports::StoreError;
use crate::application::{Backup, Measures, Report, Upkeep, UpkeepError, Watch, verify_watched};
use crate::domain::Timestamp;

use super::backup::{COMPANIONS, backup_unnamed, beside, free_bytes};
use super::check::SqliteCheck;
use super::reader::SqliteReader;

/// What is appended to the database's name while it is copied for somebody. It has no name any more by
/// the time that it is sent.
const COPY: &str = ".backup-partial";

/// Permissions for others than the owner and the group.
const OTHERS: u32 = 0o007;

/// Removes what a payd that was killed in the middle of a backup has left beside its database. The caller
/// holds the lock that keeps other daemons out.
pub fn remove_leftovers(database: &Path) {
    for suffix in ["", COMPANIONS[0], COMPANIONS[1], COMPANIONS[2]] {
        let left = beside(&beside(database, COPY), suffix);
        // Where it stays it only takes room, until the next backup.
        let _ = std::fs::remove_file(left);
    }
}

impl Upkeep for SqliteReader {
    fn backup(&self, now: Timestamp, watch: Watch<'_>) -> Result<Backup, UpkeepError> {
        let partial = beside(&self.path, COPY);
        let (file, written) = backup_unnamed(&self.path, &partial, now, watch)?;
        Ok(Backup {
            content: Box::new(file),
            bytes: written.bytes,
            report: written.report,
        })
    }

    fn verify(&self, watch: Watch<'_>) -> Result<Report, UpkeepError> {
        let report = verify_watched(&SqliteCheck::open(&self.path)?, watch)?;
        if report.complete {
            Ok(report)
        } else {
            Err(UpkeepError::Stopped)
        }
    }

    fn measure(&self) -> Result<Measures, StoreError> {
        let failed = |error: std::io::Error| StoreError::Fatal(error.to_string());
        let database = std::fs::metadata(&self.path).map_err(failed)?;
        let wal = std::fs::metadata(beside(&self.path, "-wal"));
        let directory = self.path.parent().map(std::fs::metadata).transpose();
        let mode = directory.map_err(failed)?.map(|it| it.permissions().mode());
        Ok(Measures {
            database_bytes: database.len(),
            wal_bytes: wal.map_or(0, |it| it.len()),
            free_bytes: free_bytes(&self.path).map_err(failed)?,
            open_to_others: mode.is_some_and(|mode| mode & OTHERS != 0)
                && database.permissions().mode() & OTHERS != 0,
        })
    }
}
