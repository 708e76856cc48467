//! What touches the world: the database, gateways, the clock, chance, logs, files and sockets. It
//! implements the ports of the application and decides nothing about money.

pub mod gateway;
pub mod store;

mod random;

pub use random::SystemRandom;
