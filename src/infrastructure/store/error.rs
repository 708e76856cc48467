//! What a failure of SQLite means for payd.

use rusqlite::ErrorCode;

use crate::application::ports::StoreError;

/// Sorts an error by what may be done about it. Whatever is not surely harmless is fatal: after a
/// failed sync nobody knows what is on disk (invariant 11).
#[expect(clippy::needless_pass_by_value)] // for `map_err(sort)`
pub(super) fn sort(error: rusqlite::Error) -> StoreError {
    let why = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => StoreError::Constraint(why),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy(why),
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly) => StoreError::NoRoom(why),
        Some(_) => StoreError::Fatal(why),
        None => match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => StoreError::BadRow(why),
            _ => StoreError::Fatal(why),
        },
    }
}
