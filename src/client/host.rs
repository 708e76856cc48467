//! Where payd is: what `--host` says, else the first of the usual places that has a socket
//! (`DESIGN.md`, sections 5 and 6). It looks, and never opens anything.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use directories::BaseDirs;

use super::Error;

/// The socket's name in whatever directory it lies.
const SOCKET: &str = "payd.sock";
/// The admin's token in payd's data directory.
const TOKEN: &str = "token";
/// The ports of HTTP without and with TLS, as in every URL without one.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// One place where payd listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    Tcp { name: String, port: u16, tls: bool },
}

impl Host {
    /// Whether what is sent there could be read on the way: over a network, without TLS.
    pub(crate) fn is_in_the_clear(&self) -> bool {
        matches!(self, Host::Tcp { tls: false, .. }) && !self.is_on_this_machine()
    }

    /// Whether it is this machine's, by its name alone.
    pub(crate) fn is_on_this_machine(&self) -> bool {
        match self {
            Host::Unix(_) => true,
            Host::Tcp { name, .. } => {
                let address = name.parse::<std::net::IpAddr>();
                name.eq_ignore_ascii_case("localhost")
                    || address.is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// Reads `unix:///path`, `http://name:port` or `https://name:port`. The error says what would be right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(
                    "the path of a socket starts with /: unix:///run/payd/payd.sock".into(),
                );
            }
            return Ok(Host::Unix(PathBuf::from(path)));
        }
        if text.starts_with('/') {
            return Ok(Host::Unix(PathBuf::from(text)));
        }
        let (tls, authority) = match text.strip_prefix("https://") {
            Some(_) if !cfg!(feature = "tls") => {
                return Err("this payctl was built without TLS: use http:// on the same machine, or the socket".into());
            }
            Some(authority) => (true, Some(authority)),
            None => (false, text.strip_prefix("http://")),
        };
        let Some(authority) = authority else {
            return Err("a host is unix:///run/payd/payd.sock or http://127.0.0.1:8080".to_owned());
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#', '@']) || authority.is_empty() {
            return Err("a host is a name and a port, nothing more: http://127.0.0.1:8080".into());
        }
        let (name, port) = match authority.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                (name, port.ok_or("a port is a number from 1 to 65535")?)
            }
            _ if tls => (authority, HTTPS_PORT),
            _ => (authority, HTTP_PORT),
        };
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        let name = match bare {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            None if !name.is_empty() && !name.contains([':', '[', ']']) => name,
            _ => {
                return Err(
                    "the name of the host is not one; IPv6 goes in brackets: http://[::1]:8080"
                        .into(),
                );
            }
        };
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable {
            return Err("the name of the host has characters that no host name has".into());
        }
        Ok(Host::Tcp {
            name: name.to_owned(),
            port,
            tls,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Unix(path) => write!(f, "unix://{}", path.display()),
            Host::Tcp { name, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                write!(f, "{scheme}://{}", authority(name, *port))
            }
        }
    }
}

/// The one place that was named, or the usual ones in order.
#[derive(Debug, Clone)]
pub(crate) enum Hosts {
    Named(Host),
    Usual(Vec<PathBuf>),
}

impl Hosts {
    /// The place to connect to: the first that has a socket. A place that this user may not even
    /// look into counts only if no other has one.
    pub(super) fn choose(&self) -> Result<Host, Error> {
        let paths = match self {
            Hosts::Named(host) => return Ok(host.clone()),
            Hosts::Usual(paths) => paths,
        };
        let mut denied = None;
        for path in paths {
            match path.symlink_metadata() {
                Ok(_) => return Ok(Host::Unix(path.clone())),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    denied = denied.or(Some((path, error)));
                }
                Err(_) => {}
            }
        }
        match denied {
            Some((path, source)) => Err(Error::Denied {
                path: path.clone(),
                source,
            }),
            None => Err(Error::Absent {
                tried: paths.clone(),
            }),
        }
    }

    /// For messages, when no connection has said which place it was.
    pub(super) fn name(&self) -> String {
        match self.choose() {
            Ok(host) => host.to_string(),
            Err(_) => "its socket".to_owned(),
        }
    }

    /// The `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Hosts::Named(Host::Tcp { name, port, .. }) => authority(name, *port),
            _ => "localhost".to_owned(),
        }
    }
}

fn authority(name: &str, port: u16) -> String {
    if name.contains(':') {
        format!("[{name}]:{port}")
    } else {
        format!("{name}:{port}")
    }
}

/// What the usual places depend on.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// systemd's `RUNTIME_DIRECTORY`, a list with colons.
    pub(crate) runtime_directory: Option<OsString>,
    /// systemd's `STATE_DIRECTORY`, a list with colons.
    pub(crate) state_directory: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub(crate) xdg_runtime: Option<PathBuf>,
    /// `XDG_DATA_HOME`, or its default.
    pub(crate) xdg_data: Option<PathBuf>,
}

impl Environment {
    /// As it is.
    pub(crate) fn read() -> Self {
        let dirs = BaseDirs::new();
        Self {
            runtime_directory: env::var_os("RUNTIME_DIRECTORY"),
            state_directory: env::var_os("STATE_DIRECTORY"),
            xdg_runtime: dirs
                .as_ref()
                .and_then(|dirs| dirs.runtime_dir().map(Path::to_path_buf)),
            xdg_data: dirs.map(|dirs| dirs.data_dir().to_path_buf()),
        }
    }

    /// Where payd's socket may lie, likeliest first: the order in which payd itself chooses.
    pub(crate) fn places(&self) -> Hosts {
        let mut places = Vec::new();
        if let Some(directory) = first(self.runtime_directory.as_ref()) {
            places.push(directory.join(SOCKET));
        }
        if let Some(directory) = &self.xdg_runtime {
            places.push(directory.join("payd").join(SOCKET));
        }
        places.push(Path::new("/run/payd").join(SOCKET));
        if let Some(directory) = first(self.state_directory.as_ref()) {
            places.push(directory.join(SOCKET));
        } else if let Some(directory) = &self.xdg_data {
            places.push(directory.join("payd").join(SOCKET));
        }
        places.dedup();
        Hosts::Usual(places)
    }

    /// Where the admin's token may lie: payd's data directory, and last that of a system's payd.
    pub(crate) fn tokens(&self) -> Vec<PathBuf> {
        let mut places = Vec::new();
        if let Some(directory) = first(self.state_directory.as_ref()) {
            places.push(directory.join(TOKEN));
        } else if let Some(directory) = &self.xdg_data {
            places.push(directory.join("payd").join(TOKEN));
        }
        places.push(Path::new("/var/lib/payd").join(TOKEN));
        places
    }
}

fn first(list: Option<&OsString>) -> Option<PathBuf> {
    let first = env::split_paths(list?).next()?;
    (!first.as_os_str().is_empty()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_socket_or_a_name_and_a_port() {
        let tcp = |name: &str, port| Host::Tcp {
            name: name.to_owned(),
            port,
            tls: false,
        };
        let tls = |name: &str, port| Host::Tcp {
            name: name.to_owned(),
            port,
            tls: true,
        };
        let cases = [
            (
                "unix:///run/payd/payd.sock",
                Host::Unix("/run/payd/payd.sock".into()),
            ),
            ("/tmp/p.sock", Host::Unix("/tmp/p.sock".into())),
            ("http://127.0.0.1:8080", tcp("127.0.0.1", 8080)),
            ("http://localhost:8080/", tcp("localhost", 8080)),
            ("http://[::1]:8080", tcp("::1", 8080)),
            ("http://[::1]", tcp("::1", 80)),
            ("http://payd", tcp("payd", 80)),
            ("https://payd.example", tls("payd.example", 443)),
            ("https://[::1]:8443", tls("::1", 8443)),
        ];
        for (text, host) in cases {
            assert_eq!(Host::parse(text), Ok(host), "{text}");
        }
        for (text, clear) in [
            ("http://127.0.0.1:1", false),
            ("http://127.9.9.9:1", false),
            ("http://[::1]:1", false),
            ("http://LOCALHOST:1", false),
            ("/tmp/p.sock", false),
            ("https://payd.example", false),
            ("http://payd.example", true),
            ("http://localhost.example", true),
            ("http://10.0.0.1:1", true),
        ] {
            assert_eq!(
                Host::parse(text).unwrap().is_in_the_clear(),
                clear,
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_would_be_right() {
        let cases = [
            ("https://", "nothing more"),
            ("unix://run/payd.sock", "starts with /"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://", "nothing more"),
            ("http://h:0", "1 to 65535"),
            ("http://h:65536", "1 to 65535"),
            ("http://h:", "1 to 65535"),
            ("http://u@h:1", "nothing more"),
            ("http://h:1/x", "nothing more"),
            ("http://::1:8080", "brackets"),
            ("http://h\u{7}", "no host name"),
        ];
        for (text, expected) in cases {
            let message = Host::parse(text).expect_err(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn the_usual_places_come_in_payds_order() {
        let environment = Environment {
            runtime_directory: Some("/run/one:/run/two".into()),
            state_directory: None,
            xdg_runtime: Some("/run/user/7".into()),
            xdg_data: Some("/home/x/.local/share".into()),
        };
        let Hosts::Usual(places) = environment.places() else {
            panic!("no place was named");
        };
        let expected = [
            "/run/one/payd.sock",
            "/run/user/7/payd/payd.sock",
            "/run/payd/payd.sock",
            "/home/x/.local/share/payd/payd.sock",
        ];
        assert_eq!(places, expected.map(PathBuf::from));
    }

    #[test]
    fn systemd_gives_the_data_directory_too() {
        let environment = Environment {
            state_directory: Some("/var/lib/payd".into()),
            xdg_data: Some("/home/x/.local/share".into()),
            ..Environment::default()
        };
        let Hosts::Usual(places) = environment.places() else {
            panic!("no place was named");
        };
        assert_eq!(
            places.last(),
            Some(&PathBuf::from("/var/lib/payd/payd.sock"))
        );
    }
}
