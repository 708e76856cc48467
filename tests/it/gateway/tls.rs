//! The gateway over TLS: with a certificate that is trusted it is charged, with any other nothing
//! is sent.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{self, ServerConfig, ServerConnection, StreamOwned};

use super::{REQUESTED, events, story};
use crate::support::daemon::{Daemon, until};
use crate::support::http::Wire;
use crate::support::stub::{Accept, Stub, answer, daemon_of};

/// An authority of the test's own, and its certificate in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A gateway that shows a certificate for this name.
    fn gateway(&self, name: &str) -> Stub {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self::showing(certificate.der().clone(), &key)
    }

    /// A gateway that shows the authority's own certificate, as `openssl req -x509` makes them.
    fn itself(&self) -> Stub {
        Self::showing(self.issuer.der().clone(), self.issuer.key())
    }

    fn showing(certificate: CertificateDer<'static>, key: &KeyPair) -> Stub {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let config = Arc::new(config);
        Stub::over(
            TcpListener::bind("127.0.0.1:0").unwrap(),
            |_| Accept::Serve,
            move |mut tcp| {
                let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                while tls.is_handshaking() {
                    tls.complete_io(&mut tcp).ok()?;
                }
                Some(Box::new(StreamOwned::new(tls, tcp)) as Box<dyn Wire>)
            },
            |call| answer(200, &call.echo("succeeded")),
        )
    }

    /// A payd that trusts this authority and no other.
    fn daemon(&self, port: u16) -> Daemon {
        daemon_of(
            &format!("https://localhost:{port}"),
            &[("SSL_CERT_FILE", self.file().to_str().unwrap())],
        )
    }
}

/// It was tried, and no outcome has to be looked up.
fn until_not_sent(daemon: &Daemon, id: &str) {
    until("it was tried twice", || events(daemon, id).len() >= 3);
    assert!(story(daemon, id).iter().all(|it| it == REQUESTED));
    daemon.until_logged("TLS handshake");
}

#[test]
fn a_gateway_with_a_certificate_that_is_trusted_is_charged() {
    const PAYMENTS: usize = 10;
    let authority = Authority::new();
    let stub = authority.gateway("localhost");
    let daemon = authority.daemon(stub.address.port());
    for n in 0..PAYMENTS {
        let id = format!("inv-{n}");
        super::pay(&daemon, &id);
        daemon.until_invoice(&id, "PAID");
        assert_eq!(stub.count("POST", &id), 1);
    }
    // Connections are kept here, too.
    assert!(stub.connections() < PAYMENTS, "{}", stub.connections());
    let host = format!("localhost:{}", stub.address.port());
    assert_eq!(stub.calls()[0].header("host"), Some(host.as_str()));
}

#[test]
fn a_gateway_whose_own_certificate_is_given_is_charged_also_if_it_says_ca() {
    let authority = Authority::new();
    let stub = authority.itself();
    let daemon = authority.daemon(stub.address.port());
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    assert_eq!(stub.count("POST", "inv-1"), 1);
    // Another one's is refused, in words that say what to do.
    let daemon = Authority::new().daemon(stub.address.port());
    super::pay(&daemon, "inv-2");
    until_not_sent(&daemon, "inv-2");
    daemon.until_logged("CA:TRUE");
    daemon.until_logged("SSL_CERT_FILE");
    assert_eq!(stub.count("POST", "inv-2"), 0);
}

#[test]
fn a_gateway_with_a_certificate_for_another_name_is_sent_nothing() {
    let authority = Authority::new();
    let stub = authority.gateway("gateway.example");
    let daemon = authority.daemon(stub.address.port());
    super::pay(&daemon, "inv-1");
    until_not_sent(&daemon, "inv-1");
    assert_eq!(stub.calls().len(), 0);
}

#[test]
fn a_gateway_that_nobody_vouches_for_is_sent_nothing() {
    let stub = Authority::new().gateway("localhost");
    let daemon = Authority::new().daemon(stub.address.port());
    super::pay(&daemon, "inv-1");
    until_not_sent(&daemon, "inv-1");
    assert_eq!(stub.calls().len(), 0);
}

#[test]
fn a_port_that_speaks_no_tls_is_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let daemon = Authority::new().daemon(port);
    super::pay(&daemon, "inv-1");
    until_not_sent(&daemon, "inv-1");
}
