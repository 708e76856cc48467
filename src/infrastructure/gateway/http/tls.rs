//! TLS to the gateway: rustls with ring, and the roots that the operating system trusts.

use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;

use super::socket::Socket;
use crate::trust::{Trusted, Why, explain};

/// What to do about a certificate that nobody vouches for.
const TRUST: &str = "where it is the right one, put it, or its authority's, among those that this machine trusts, \
                     or into the file that SSL_CERT_FILE names in payd's environment";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The host cannot stand in a certificate.
    #[error("{0:?} is not a name that a certificate can be for")]
    Name(String),
    /// Nobody is trusted.
    #[error(
        "the system has no certificates of authorities that payd could trust (SSL_CERT_FILE names others){0}"
    )]
    NoRoots(String),
    /// The library refuses.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Makes a connection a TLS connection to one host.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Loads the certificates that the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    ///
    /// # Errors
    /// Where there are none, or the host is not one.
    pub(super) fn new(host: &str) -> Result<Self, TlsError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        let loaded = rustls_native_certs::load_native_certs();
        let mut trusted = Trusted::nobody();
        for certificate in loaded.certs {
            // Some systems carry roots that rustls does not read; the others will do.
            let _ = trusted.add(certificate);
        }
        if trusted.is_empty() {
            let why: Vec<String> = loaded.errors.iter().map(|it| format!("; {it}")).collect();
            return Err(TlsError::NoRoots(why.concat()));
        }
        Ok(Self {
            connector: TlsConnector::from(Arc::new(trusted.config()?)),
            name,
        })
    }

    pub(super) async fn wrap(&self, socket: Socket) -> Result<TlsStream<Socket>, Why> {
        self.connector
            .connect(self.name.clone(), socket)
            .await
            .map_err(|error| explain(&error, TRUST))
    }
}
