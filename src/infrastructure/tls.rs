//! TLS of payd's own listener: certificate and key from files, as rustls takes them.
//!
//! It never prints a key, and never serves with a key that does not belong to the certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{self, ServerConfig};

/// What a listener needs.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Certificate, key, versions and ciphers: rustls's defaults, HTTP/1.1 only.
    pub config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl ServerTls {
    /// Whether the certificate is for this name.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        let (Ok(parsed), Ok(name)) = (
            ParsedCertificate::try_from(&self.certificate),
            ServerName::try_from(name),
        ) else {
            return false;
        };
        verify_server_name(&parsed, &name).is_ok()
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has nothing of the kind in it.
    #[error("{what} {} cannot be read: {source}", path.display())]
    File {
        /// Which.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("server.tls_cert {} has no certificate in it; it must be PEM, with the chain behind payd's own", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// They do not fit.
    #[error("server.tls_cert and server.tls_key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Reads certificate chain and key, both PEM.
///
/// # Errors
/// [`TlsError`].
pub fn load(cert: &Path, key: &Path) -> Result<ServerTls, TlsError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed("server.tls_cert", cert))?;
    let Some(certificate) = chain.first().cloned() else {
        return Err(TlsError::Empty {
            path: cert.to_owned(),
        });
    };
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed("server.tls_key", key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(ServerTls {
        config: Arc::new(config),
        certificate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_must_be_of_its_certificate_and_a_name_of_it_too() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let names = ["payd.example".to_owned(), "*.pay.example".to_owned()];
        let one = rcgen::generate_simple_self_signed(names).unwrap();
        let other = rcgen::generate_simple_self_signed(["x.example".to_owned()]).unwrap();
        std::fs::write(at("cert"), one.cert.pem()).unwrap();
        std::fs::write(at("key"), one.signing_key.serialize_pem()).unwrap();
        std::fs::write(at("other"), other.signing_key.serialize_pem()).unwrap();
        std::fs::write(at("empty"), "").unwrap();
        let tls = load(&at("cert"), &at("key")).unwrap();
        for (name, covered) in [
            ("payd.example", true),
            ("PAYD.example", true),
            ("a.pay.example", true),
            ("a.b.pay.example", false),
            ("x.example", false),
            ("", false),
            ("payd.example:1", false),
        ] {
            assert_eq!(tls.covers(name), covered, "{name}");
        }
        let says = |cert: &str, key: &str| load(&at(cert), &at(key)).unwrap_err().to_string();
        assert!(says("none", "key").contains("tls_cert"));
        assert!(says("empty", "key").contains("no certificate"));
        assert!(says("cert", "empty").contains("tls_key"));
        assert!(says("cert", "other").contains("cannot be used"));
    }
}
