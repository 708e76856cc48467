//! A small language for tests that look from outside: a real daemon, real sockets, a scripted payd, and a
//! scripted gateway.

pub(crate) mod audit;
pub(crate) mod daemon;
pub(crate) mod faults;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod scripted;
pub(crate) mod stub;
pub(crate) mod terminal;
