//! TLS to the gateway: rustls with ring, and the roots that the operating system trusts.

use std::io;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::socket::Socket;

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
    /// Loads the system's roots; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    ///
    /// # Errors
    /// Where there are none, or the host is not one.
    pub(super) fn new(host: &str) -> Result<Self, TlsError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        let loaded = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some systems carry roots that rustls does not read; the others will do.
        let (added, _) = roots.add_parsable_certificates(loaded.certs);
        if added == 0 {
            let why: Vec<String> = loaded.errors.iter().map(|it| format!("; {it}")).collect();
            return Err(TlsError::NoRoots(why.concat()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Early data would be bytes of a request before there is a connection.
        config.enable_early_data = false;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    pub(super) async fn wrap(&self, socket: Socket) -> io::Result<TlsStream<Socket>> {
        self.connector.connect(self.name.clone(), socket).await
    }
}
