//! What is trusted, held against a table: the certificate, what was given, the name, the time.

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::*;

struct Made {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    params
}

fn authority(name: &str) -> Made {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    Made {
        certificate,
        issuer,
    }
}

fn signed(by: &Made, name: &str) -> Certificate {
    let key = KeyPair::generate().unwrap();
    params(name).signed_by(&key, &by.issuer).unwrap()
}

#[test]
fn a_server_is_trusted_whose_certificate_leads_to_a_given_one_or_is_it() {
    let own = authority("own");
    let twin = authority("own");
    let leaf = signed(&own, "leaf");
    let (own, twin, leaf) = (own.certificate.der(), twin.certificate.der(), leaf.der());
    let (during, before, after) = (1_780_000_000, 1_700_000_000, 1_900_000_000);
    let table = [
        (
            "an authority's leaf",
            leaf,
            own,
            "localhost",
            during,
            Ok(()),
        ),
        (
            "CA:TRUE, itself given",
            own,
            own,
            "localhost",
            during,
            Ok(()),
        ),
        (
            "a leaf, itself given",
            leaf,
            leaf,
            "localhost",
            during,
            Ok(()),
        ),
        (
            "CA:TRUE, of the same name",
            own,
            twin,
            "localhost",
            during,
            Err("CA:TRUE"),
        ),
        (
            "somebody else's leaf",
            leaf,
            twin,
            "localhost",
            during,
            Err(""),
        ),
        (
            "its authority behind a leaf",
            own,
            leaf,
            "localhost",
            during,
            Err("CA:TRUE"),
        ),
        (
            "CA:TRUE, another name",
            own,
            own,
            "evil.example",
            during,
            Err("localhost"),
        ),
        (
            "CA:TRUE, too early",
            own,
            own,
            "localhost",
            before,
            Err("good from 2026-01-01"),
        ),
        (
            "CA:TRUE, too late",
            own,
            own,
            "localhost",
            after,
            Err("good until 2027-01-01"),
        ),
        (
            "a leaf given, another name",
            leaf,
            leaf,
            "127.0.0.1",
            during,
            Err("IP:127.0.0.1"),
        ),
        (
            "a leaf given, too late",
            leaf,
            leaf,
            "localhost",
            after,
            Err("good until 2027-01-01"),
        ),
    ];
    for (what, shown, given, name, at, expected) in table {
        let mut trusted = Trusted::nobody();
        trusted.add(given.clone()).unwrap();
        let verifier = trusted
            .verifier(&Arc::new(ring::default_provider()))
            .unwrap();
        let name = ServerName::try_from(name).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        let found = verifier.verify_server_cert(shown, &[], &name, &[], now);
        match (found, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(says)) => {
                let error = std::io::Error::other(error);
                let why = explain(&error, "do as you are told").to_string();
                assert!(why.contains(says), "{what}: {why}");
                assert!(!why.contains("Other("), "{what}: {why}");
            }
            (found, _) => panic!("{what}: {found:?}"),
        }
    }
}
