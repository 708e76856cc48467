//! A small language for tests that look from outside: a real daemon, real sockets, and a scripted payd.

pub(crate) mod daemon;
pub(crate) mod faults;
pub(crate) mod http;
pub(crate) mod scripted;
