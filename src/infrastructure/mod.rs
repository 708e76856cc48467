//! What payd takes from the machine that it runs on, behind the ports that the application declares.
//!
//! Nothing here decides about money, and nothing here reads settings: what it needs comes in as arguments.

pub mod clock;
pub mod directories;
pub mod listen;
pub mod lock;
pub mod logging;
