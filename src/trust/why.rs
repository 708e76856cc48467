//! Why there is no TLS, in sentences, and what to do about it. The library's own words are for whoever wrote it.

use std::fmt;
use std::io;

use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

/// What is wrong, and what to do. Both go on after a colon or stand alone, without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) what: String,
    pub(crate) to_do: String,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.to_do)
    }
}

impl std::error::Error for Why {}

impl Why {
    /// Both, as they are.
    pub(crate) fn new(what: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            to_do: to_do.into(),
        }
    }
}

/// Why a handshake failed. `trust` says how whoever reads it has a certificate trusted: "name it with …".
pub(crate) fn explain(error: &io::Error, trust: &str) -> Why {
    let inner = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(wrong)) => certificate(wrong, trust),
        Some(Error::InvalidMessage(_)) => Why::new(
            "what listens there does not speak TLS",
            "look at the address and its port, or is it http://?",
        ),
        Some(Error::PeerIncompatible(_)) => Why::new(
            "it offers no TLS 1.2 or 1.3 with a cipher that is safe",
            "have TLS 1.2 or later enabled there",
        ),
        Some(Error::AlertReceived(alert)) => refused(*alert),
        Some(Error::NoCertificatesPresented) => Why::new(
            "it shows no certificate",
            "set up its certificate, or look at the address and its port",
        ),
        Some(other) => Why::new(
            format!("it does not keep to TLS ({other})"),
            "look at the address and its port, and at what stands between",
        ),
        None if is_closed(error) => Why::new(
            "it closed the connection in the middle of the handshake",
            "look at its log; is it TLS that it speaks?",
        ),
        None => Why::new(
            error.to_string(),
            "look at the network, and at what listens there",
        ),
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}

fn refused(alert: AlertDescription) -> Why {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::AccessDenied => Why::new(
            "it asks for a certificate of the client's, and there is none",
            "have it take a bearer token instead",
        ),
        AlertDescription::UnrecognisedName => Why::new(
            "it does not answer to this name",
            "use the name that its certificate is for",
        ),
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => Why::new(
            "it takes no TLS 1.2 or 1.3 with a cipher that is safe",
            "have TLS 1.2 or later enabled there",
        ),
        other => Why::new(
            format!("it broke off the handshake ({other:?})"),
            "its log says why",
        ),
    }
}

fn certificate(wrong: &CertificateError, trust: &str) -> Why {
    match wrong {
        CertificateError::UnknownIssuer => {
            Why::new("its certificate is from nobody who is trusted here", trust)
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => not_for(expected, presented),
        CertificateError::ExpiredContext { not_after, .. } => Why::new(
            format!("its certificate was good until {}", day(*not_after)),
            "have it renewed; where it is good, this machine's clock is wrong",
        ),
        CertificateError::NotValidYetContext { not_before, .. } => Why::new(
            format!("its certificate is good from {} on", day(*not_before)),
            "see to this machine's clock; where that is right, wait or have another made",
        ),
        // Certificates of one's own making have one name, often.
        CertificateError::BadSignature => Why::new(
            "its certificate is from nobody who is trusted here, but from another of the same name",
            trust,
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Why::new(
                "its certificate is not for servers",
                "have one made for the purpose serverAuth",
            )
        }
        // What rustls has no name for: its words are the name in webpki's code.
        CertificateError::Other(other) if other.0.to_string() == "CaUsedAsEndEntity" => Why::new(
            "its certificate is an authority's (CA:TRUE), and not itself one of those that are trusted",
            trust,
        ),
        CertificateError::Other(other) => Why::new(
            format!("its certificate cannot be used ({})", other.0),
            "have another one made: X.509 version 3, with a subjectAltName",
        ),
        other => Why::new(
            format!("its certificate cannot be used ({other})"),
            "have another one made: X.509 version 3, with a subjectAltName",
        ),
    }
}

fn not_for(expected: &ServerName<'_>, presented: &[String]) -> Why {
    let expected = expected.to_str();
    let kind = match expected.parse::<std::net::IpAddr>() {
        Ok(_) => "IP",
        Err(_) => "DNS",
    };
    let make = format!("subjectAltName {kind}:{expected}");
    if presented.is_empty() {
        return Why::new(
            format!(
                "its certificate is for no host (it has no subjectAltName), so not for {expected}"
            ),
            format!("have one made with {make}"),
        );
    }
    // They come as DnsName("a") and IpAddress(1.2.3.4).
    let name = |text: &String| {
        let inner = text.split_once('(').map_or(text.as_str(), |(_, rest)| rest);
        inner.trim_end_matches(')').trim_matches('"').to_owned()
    };
    let names: Vec<String> = presented.iter().map(name).collect();
    let one = if names.len() == 1 {
        "that name"
    } else {
        "one of them"
    };
    Why::new(
        format!(
            "its certificate is not for {expected}, but for {}",
            names.join(", ")
        ),
        format!("use {one} in the address, or have a certificate made with {make}"),
    )
}

fn day(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%MZ").to_string(),
        Err(_) => format!("{seconds} s after 1970"),
    }
}
