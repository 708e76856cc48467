//! Whom payd and payctl trust over TLS, and what they say where they do not: one rule and one set of
//! sentences for `payctl --cacert` and for the gateway.
//!
//! A server is trusted whose certificate leads to one of the given certificates, or is one of them, byte for
//! byte. The second is what curl and OpenSSL do, and what whoever made a certificate with `openssl req -x509`
//! expects: that one says of itself that it is an authority's (CA:TRUE), which webpki takes from no server.
//! Name, validity and the handshake's signature are checked all the same. It never trusts without.

mod validity;
mod why;

use std::collections::HashSet;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

pub(crate) use why::{Why, explain};

/// Certificates to trust.
#[derive(Debug)]
pub(crate) struct Trusted {
    roots: RootCertStore,
    /// SHA-256 of each whole: a machine has a hundred and more, and only whether it is one of them counts.
    digests: HashSet<[u8; 32]>,
}

impl Trusted {
    /// Nobody yet.
    pub(crate) fn nobody() -> Self {
        Self {
            roots: RootCertStore::empty(),
            digests: HashSet::new(),
        }
    }

    /// Trusts one more.
    ///
    /// # Errors
    /// Where it cannot be read as a certificate.
    pub(crate) fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), Error> {
        let digest = Sha256::digest(&certificate).into();
        self.roots.add(certificate)?;
        self.digests.insert(digest);
        Ok(())
    }

    /// Whether there is nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// A client's settings for TLS that trust these, with rustls's own versions and ciphers, HTTP/1.1 only.
    ///
    /// # Errors
    /// Where there is nobody to trust.
    pub(crate) fn config(self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = self.verifier(&provider)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Early data would be bytes of a request before there is a connection.
        config.enable_early_data = false;
        Ok(config)
    }

    fn verifier(self, provider: &Arc<CryptoProvider>) -> Result<Verifier, Error> {
        let roots = Arc::new(self.roots);
        let by_path = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Verifier {
            by_path,
            digests: self.digests,
        })
    }
}

/// See the module.
#[derive(Debug)]
struct Verifier {
    by_path: Arc<WebPkiServerVerifier>,
    digests: HashSet<[u8; 32]>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self.by_path.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        // What is wrong with the path to an authority does not matter where the certificate itself was given.
        // `Other` is what rustls has no name for, CA:TRUE among it.
        let of_path = matches!(
            refused,
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer
                    | CertificateError::BadSignature
                    | CertificateError::Other(_)
            )
        );
        let digest: [u8; 32] = Sha256::digest(end_entity).into();
        if !of_path || !self.digests.contains(&digest) {
            return Err(refused);
        }
        validity::check(end_entity, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_path.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_path.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_path.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
