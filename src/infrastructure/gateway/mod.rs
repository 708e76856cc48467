//! Gateways: whoever moves the money. A new one is a file here that implements
//! [`crate::application::ports::Gateway`], a `kind` in the settings, and a line in the daemon.

mod http;
mod simulator;

#[cfg(feature = "tls")]
pub use http::TlsError;
pub use http::{HttpGateway, HttpGatewayError, HttpOptions, TokenError};
pub use simulator::{Simulator, Weather};
