//! TLS to a payd on another machine: its certificate must be one that this machine trusts, or that of
//! `--cacert`, and for the name that was typed. It never goes on without.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use crate::trust::{Trusted, Why, explain};

/// What to do about a certificate that nobody vouches for.
const TRUST: &str = "where it is the right one, give it, or its authority's, with --cacert";

/// Secures a connection to the host of this name.
pub(super) async fn secure(
    stream: TcpStream,
    name: &str,
    cacert: Option<&Path>,
) -> Result<TlsStream<TcpStream>, Why> {
    let name = ServerName::try_from(name.to_owned()).map_err(|_| {
        Why::new(
            format!("{name} is not a name that a certificate can be for"),
            "use a name of letters, digits, dots and hyphens, or an IP address",
        )
    })?;
    let trusted = match cacert {
        Some(file) => of_file(file)?,
        None => of_machine()?,
    };
    let config = trusted
        .config()
        .map_err(|error| Why::new(error.to_string(), TRUST))?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| explain(&error, TRUST))
}

fn of_file(file: &Path) -> Result<Trusted, Why> {
    let failed = |what: String| {
        let what = format!(
            "the certificates in {} cannot be used: {what}",
            file.display()
        );
        Why::new(
            what,
            "--cacert names a PEM file: BEGIN CERTIFICATE, base64, END CERTIFICATE",
        )
    };
    let unread = |error: pem::Error| match error {
        pem::Error::Io(error) => failed(error.to_string()),
        other => failed(other.to_string()),
    };
    let mut trusted = Trusted::nobody();
    for certificate in CertificateDer::pem_file_iter(file).map_err(unread)? {
        trusted
            .add(certificate.map_err(unread)?)
            .map_err(|_| failed("one of them is not an X.509 certificate".to_owned()))?;
    }
    if trusted.is_empty() {
        return Err(failed("there is none in it".to_owned()));
    }
    Ok(trusted)
}

fn of_machine() -> Result<Trusted, Why> {
    let found = rustls_native_certs::load_native_certs();
    let mut trusted = Trusted::nobody();
    for certificate in found.certs {
        // Some of what machines keep is too odd for anyone to use; the rest is as good as ever.
        let _ = trusted.add(certificate);
    }
    if !trusted.is_empty() {
        return Ok(trusted);
    }
    let why = found.errors.first().map(|error| format!(": {error}"));
    Err(Why::new(
        format!(
            "this machine has no certificates to trust{}",
            why.unwrap_or_default()
        ),
        "install its package ca-certificates, or name some with --cacert",
    ))
}
