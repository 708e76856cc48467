//! TLS to a payd on another machine: its certificate must be one that this machine trusts, or that of
//! `--cacert`, and for the name that was typed. It never goes on without.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Secures a connection to the host of this name.
pub(super) async fn secure(
    stream: TcpStream,
    name: &str,
    cacert: Option<&Path>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let roots = match cacert {
        Some(file) => of_file(file)?,
        None => of_machine()?,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

fn of_file(file: &Path) -> io::Result<RootCertStore> {
    let failed = |error: &dyn std::fmt::Display| {
        io::Error::other(format!(
            "the certificates in {} cannot be used: {error}",
            file.display()
        ))
    };
    let mut roots = RootCertStore::empty();
    let read = CertificateDer::pem_file_iter(file).map_err(|error| failed(&error))?;
    for certificate in read {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() {
        return Err(failed(&"there is none in it"));
    }
    Ok(roots)
}

fn of_machine() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some of what machines keep is too odd for anyone to use; the rest is as good as ever.
    let (used, _) = roots.add_parsable_certificates(found.certs);
    match (used, found.errors.into_iter().next()) {
        (0, Some(error)) => Err(io::Error::other(error)),
        (0, None) => Err(io::Error::other(
            "this machine has no certificates to trust; name some with --cacert",
        )),
        _ => Ok(roots),
    }
}
