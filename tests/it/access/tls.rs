//! TLS on payd's own listener, and payctl's side of it.

#![cfg(feature = "tls")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustix::process::Signal;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::admin_token;
use crate::payctl::{err, exits};
use crate::support::daemon::{Daemon, command, until};
use crate::support::http::Host;
use crate::support::scripted::payctl;

/// A certificate of its own making, and its key, in a directory.
fn certify(directory: &Path, names: &[&str]) -> (PathBuf, PathBuf) {
    let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    // The key first: a reader of both must not find the new certificate with the old key for long.
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::write(&cert, made.cert.pem()).unwrap();
    (cert, key)
}

/// What a library prints of its own values is not for operators.
fn assert_no_debug(said: &str) {
    for debug in ["Other(", "InvalidCertificate", "Error(", "Os {", "{ ", "::"] {
        assert!(!said.contains(debug), "{debug}: {said}");
    }
}

/// The same as `openssl req -x509` makes it: of itself it says that it is an authority's.
fn certify_as_openssl_does(directory: &Path, until: i32) -> (PathBuf, PathBuf) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    let (cert, file) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&file, key.serialize_pem()).unwrap();
    fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
    (cert, file)
}

struct Secured {
    daemon: Daemon,
    files: tempfile::TempDir,
    cert: PathBuf,
}

impl Secured {
    fn start(names: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (cert, key) = certify(files.path(), names);
        Self::start_with(files, cert, &key)
    }

    fn start_with(files: tempfile::TempDir, cert: PathBuf, key: &Path) -> Self {
        let daemon = Daemon::with(&[
            ("PAYD_SERVER__TLS_CERT", cert.to_str().unwrap()),
            ("PAYD_SERVER__TLS_KEY", key.to_str().unwrap()),
        ]);
        Self {
            daemon,
            files,
            cert,
        }
    }

    fn address(&self) -> SocketAddr {
        match self.daemon.tcp {
            Host::Tcp(address, _) => address,
            Host::Unix(_) => unreachable!(),
        }
    }

    /// payctl over https, which trusts these certificates and no others.
    fn payctl(&self, name: &str, cacert: &Path, args: &[&str]) -> Output {
        payctl()
            .env("STATE_DIRECTORY", self.daemon.directory().join("data"))
            .env(
                "PAYD_HOST",
                format!("https://{name}:{}", self.address().port()),
            )
            .env("PAYD_CACERT", cacert)
            .args(args)
            .output()
            .unwrap()
    }

    /// What comes back for a GET that names this host.
    fn get(&self, sni: &str, host: &str) -> String {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&self.cert).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let wire = TcpStream::connect(self.address()).unwrap();
        let mut wire = StreamOwned::new(connection, wire);
        let token = admin_token(&self.daemon);
        let request = format!(
            "GET /admin/status HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        wire.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // Whether it takes leave as TLS wants is not what is asked here.
        let _ = wire.read_to_string(&mut answer);
        answer
    }
}

#[test]
fn payctl_and_payd_speak_tls() {
    let secured = Secured::start(&["localhost", "payd.example"]);
    assert!(
        secured.daemon.banner.contains("https://127.0.0.1:"),
        "{}",
        secured.daemon.banner
    );
    let cert = secured.cert.clone();
    exits(
        &secured.payctl(
            "localhost",
            &cert,
            &["invoice", "create", "inv-1", "--amount", "1000"],
        ),
        0,
    );
    exits(&secured.payctl("localhost", &cert, &["pay", "inv-1"]), 0);
    exits(&secured.payctl("localhost", &cert, &["events", "tail"]), 0);

    // Another name, other certificates to trust, none at all: it does not go on.
    let other = tempfile::tempdir().unwrap();
    let (theirs, _) = certify(other.path(), &["localhost"]);
    let rubbish = other.path().join("rubbish.pem");
    fs::write(&rubbish, "-----BEGIN CERTIFICATE-----\n????\n").unwrap();
    for (name, cacert, says, to_do) in [
        (
            "127.0.0.1",
            &cert,
            "not for 127.0.0.1, but for localhost, payd.example",
            "IP:127.0.0.1",
        ),
        (
            "localhost",
            &theirs,
            "from nobody who is trusted",
            "--cacert",
        ),
        (
            "localhost",
            &other.path().join("none"),
            "No such file",
            "--cacert",
        ),
        ("localhost", &rubbish, "cannot be used", "PEM"),
    ] {
        let output = secured.payctl(name, cacert, &["status"]);
        exits(&output, 3);
        let said = err(&output);
        for part in ["no secure connection", says, "tip: ", to_do] {
            assert!(said.contains(part), "{name}: {part} is not in {said}");
        }
        assert_no_debug(&said);
    }
    // Without TLS there is nobody.
    let mut plain = TcpStream::connect(secured.address()).unwrap();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(b"HTTP"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[test]
fn a_certificate_that_is_given_byte_for_byte_is_trusted_also_if_it_says_ca() {
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = certify_as_openssl_does(files.path(), 4000);
    let secured = Secured::start_with(files, cert.clone(), &key);
    exits(&secured.payctl("localhost", &cert, &["status"]), 0);

    // Another of the same kind is not it; and it is for its own name only.
    let other = tempfile::tempdir().unwrap();
    let (theirs, _) = certify_as_openssl_does(other.path(), 4000);
    for (name, cacert, says, to_do) in [
        ("localhost", &theirs, "CA:TRUE", "--cacert"),
        (
            "127.0.0.1",
            &cert,
            "not for 127.0.0.1, but for localhost",
            "IP:127.0.0.1",
        ),
    ] {
        let output = secured.payctl(name, cacert, &["status"]);
        exits(&output, 3);
        let said = err(&output);
        assert!(said.contains(says) && said.contains(to_do), "{said}");
        assert_no_debug(&said);
    }

    let files = tempfile::tempdir().unwrap();
    let (cert, key) = certify_as_openssl_does(files.path(), 2020);
    let expired = Secured::start_with(files, cert.clone(), &key);
    let output = expired.payctl("localhost", &cert, &["status"]);
    exits(&output, 3);
    let said = err(&output);
    assert!(
        said.contains("good until 2020-01-01") && said.contains("renewed"),
        "{said}"
    );
}

#[test]
fn what_speaks_no_tls_is_told_in_a_sentence() {
    let daemon = Daemon::start();
    let Host::Tcp(address, _) = daemon.tcp else {
        unreachable!()
    };
    let output = payctl()
        .env("PAYD_HOST", format!("https://localhost:{}", address.port()))
        .arg("status")
        .output()
        .unwrap();
    exits(&output, 3);
    let said = err(&output);
    assert!(said.contains("does not speak TLS"), "{said}");
    assert!(said.contains("http://"), "{said}");
    assert_no_debug(&said);
}

#[test]
fn the_names_of_the_certificate_are_payds_and_no_others() {
    let secured = Secured::start(&["localhost", "payd.example"]);
    let port = secured.address().port();
    for (host, status) in [
        ("payd.example".to_owned(), "200"),
        (format!("payd.example:{port}"), "200"),
        ("localhost".to_owned(), "200"),
        ("127.0.0.1".to_owned(), "200"),
        ("evil.example".to_owned(), "421"),
        ("payd.example.evil.example".to_owned(), "421"),
    ] {
        let answer = secured.get("payd.example", &host);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host}: {answer:.200}"
        );
    }
}

#[test]
fn a_renewed_certificate_is_read_on_sighup_and_a_wrong_one_is_not() {
    let secured = Secured::start(&["localhost"]);
    let old = secured.files.path().join("old.pem");
    fs::copy(&secured.cert, &old).unwrap();
    let status = |cacert: &Path| {
        secured
            .payctl("localhost", cacert, &["status"])
            .status
            .code()
    };
    assert_eq!(status(&old), Some(0));
    certify(secured.files.path(), &["localhost"]);
    assert_eq!(status(&old), Some(0), "nobody has said that it changed");
    secured.daemon.signal(Signal::HUP);
    until("the new one is shown", || status(&secured.cert) == Some(0));
    assert_eq!(status(&old), Some(3));
    let new = secured.files.path().join("new.pem");
    fs::copy(&secured.cert, &new).unwrap();
    fs::write(&secured.cert, "nonsense").unwrap();
    secured.daemon.signal(Signal::HUP);
    until("it says so", || {
        secured.daemon.log().contains("stay as they were")
    });
    assert_eq!(status(&new), Some(0));
}

#[test]
fn half_a_handshake_holds_up_nobody_and_ends() {
    let secured = Secured::start(&["localhost"]);
    let cert = secured.cert.clone();
    let start = Instant::now();
    let mut silent: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(secured.address()).unwrap())
        .collect();
    // The first bytes of a handshake record, and no more.
    for wire in silent.iter_mut().step_by(2) {
        wire.write_all(&[0x16, 0x03, 0x01]).unwrap();
    }
    exits(&secured.payctl("localhost", &cert, &["status"]), 0);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    for mut wire in silent {
        wire.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut rest = Vec::new();
        // Closed, with or without an alert: no error of a timeout.
        if let Err(error) = wire.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
}

#[test]
fn what_others_can_reach_is_refused_without_tls_and_served_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = certify(directory.path(), &["localhost"]);
    let check = |settings: &[(&str, &str)]| {
        let mut check = command(directory.path());
        check
            .envs(settings.iter().copied())
            .env("PAYD_SERVER__LISTEN", "0.0.0.0:0");
        check.args(["config", "check"]).output().unwrap()
    };
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let refused = check(&[]);
    exits(&refused, 2);
    assert!(
        err(&refused).contains("server.tls_cert"),
        "{}",
        err(&refused)
    );
    let tls = [
        ("PAYD_SERVER__TLS_CERT", cert),
        ("PAYD_SERVER__TLS_KEY", key),
    ];
    exits(&check(&tls), 0);
    let open = [tls[0], tls[1], ("PAYD_SERVER__AUTH", "none")];
    exits(&check(&open), 2);
    let swapped = [
        ("PAYD_SERVER__TLS_CERT", key),
        ("PAYD_SERVER__TLS_KEY", cert),
    ];
    let refused = check(&swapped);
    exits(&refused, 2);
    assert!(err(&refused).contains("server.tls_"), "{}", err(&refused));
}
