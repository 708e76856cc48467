//! One test binary: the real daemon, the real payctl, real sockets; and the engine on the real store
//! with virtual time.

mod engine;
mod layers;
