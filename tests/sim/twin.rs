//! The real store beside the model: every call goes to both, and both must say the same.

use std::fmt::Debug;
use std::mem::discriminant;

use payd::application::ports::StoreError;

/// What can be held against each other: whatever can be written down.
pub(crate) trait Same: Debug {}

impl<T: Debug> Same for T {}

/// What differs, if anything does.
pub(crate) fn difference<T: Same>(
    what: &str,
    model: &Result<T, StoreError>,
    real: &Result<T, StoreError>,
) -> Option<String> {
    let same = match (model, real) {
        (Ok(model), Ok(real)) => format!("{model:?}") == format!("{real:?}"),
        // In other words, but the same kind.
        (Err(model), Err(real)) => discriminant(model) == discriminant(real),
        _ => false,
    };
    (!same).then(|| format!("{what}: the model says {model:?}, SQLite says {real:?}"))
}
