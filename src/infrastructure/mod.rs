//! What touches the world: the database, gateways, the clock, chance, logs, files and sockets. It
//! implements the ports of the application, decides nothing about money and reads no settings: what
//! it needs comes in as arguments.

pub mod gateway;
pub mod store;

pub mod clock;
pub mod random;

pub mod directories;
pub mod listen;
pub mod lock;
pub mod logging;
pub mod systemd;
pub mod telemetry;

#[cfg(feature = "tls")]
pub mod tls;
pub mod token_file;
