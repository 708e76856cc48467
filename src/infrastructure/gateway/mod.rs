//! Gateways: whoever moves the money. A new one is a file here that implements
//! [`crate::application::ports::Gateway`], a `kind` in the settings, and a line in the daemon.
//!
//! The `http` gateway (`DESIGN.md`, section 7) will stand beside the simulator.

mod simulator;

pub use simulator::{Simulator, Weather};
