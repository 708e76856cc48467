//! The small language in which the tests are written.

pub(crate) mod scripted;
