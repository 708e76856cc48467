//! A small language for tests that look from outside: a real daemon, real sockets.

pub(crate) mod daemon;
pub(crate) mod http;
