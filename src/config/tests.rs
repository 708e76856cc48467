//! Settings from the outside: what is said goes in, what holds or what is wrong comes out.

use std::time::Duration;

use super::*;

/// Inputs with nothing in them, whose files are in a directory of their own.
struct Case {
    dir: tempfile::TempDir,
    inputs: Inputs,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inputs = Inputs {
            home: Some(dir.path().join("home")),
            system_file: dir.path().join("etc/payd.toml"),
            ..Inputs::default()
        };
        Self { dir, inputs }
    }

    fn file(mut self, text: &str) -> Self {
        self.inputs.config_file = Some(self.write("payd.toml", text));
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.inputs.environment.insert(name.into(), value.into());
        self
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load(&self) -> Loaded {
        load(&self.inputs).unwrap()
    }

    /// The errors, a line each, with the directory's name cut out.
    fn errors(&self) -> String {
        let errors = load(&self.inputs)
            .map(|loaded| loaded.to_toml())
            .unwrap_err();
        errors
            .to_string()
            .replace(&format!("{}/", self.dir.path().display()), "")
    }
}

#[test]
fn defaults_are_the_contracts() {
    let settings = Case::new().load().settings;
    assert_eq!(
        settings,
        Settings {
            server: Server {
                listen: Listen::Tcp("127.0.0.1:8080".parse().unwrap()),
                socket: None,
                grace: Duration::from_secs(20),
                auth: Auth::Token,
                tls: None,
                rate: None,
            },
            store: Store { data_dir: None },
            gateway: Gateway {
                concurrency: 64,
                timeout: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(2),
                kind: GatewayKind::Simulator(Simulator {
                    latency: Duration::ZERO,
                    decline_rate: Rate::default(),
                    timeout_rate: Rate::default(),
                    lost_rate: Rate::default(),
                }),
            },
            retry: Retry {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(900),
                max_attempts: 5,
            },
            resolver: Resolver {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(900),
                attention_after: Duration::from_secs(86_400),
            },
            log: Log {
                level: LogLevel::default(),
                format: LogFormat::Auto,
                dir: None
            },
        }
    );
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let mut case = Case::new()
        .file("[server]\ngrace = \"1s\"\nlisten = \"127.0.0.1:1\"\nsocket = \"/file\"\n")
        .env("PAYD_SERVER__LISTEN", "127.0.0.1:2")
        .env("PAYD_SERVER__SOCKET", "/env")
        .env("PAYD_RETRY__BASE", "100ms")
        .env("PAYD_GATEWAY__SIMULATOR__LATENCY", "50ms");
    case.inputs.flags = Flags {
        listen: Some("none".into()),
        dev: true,
        ..Flags::default()
    };
    let loaded = case.load();
    let settings = &loaded.settings;
    assert_eq!(settings.server.listen, Listen::None);
    assert_eq!(settings.server.socket, Some("/env".into()));
    assert_eq!(settings.server.grace, Duration::from_secs(1));
    assert_eq!(settings.server.auth, Auth::None);
    assert_eq!(settings.retry.base, Duration::from_millis(100));
    let GatewayKind::Simulator(simulator) = &settings.gateway.kind else {
        panic!("{settings:?}")
    };
    assert_eq!(simulator.latency, Duration::from_millis(50));
    let file = case.inputs.config_file.clone().unwrap();
    for (key, origin) in [
        ("server.listen", Origin::Flag("--listen")),
        ("server.auth", Origin::Flag("--dev")),
        (
            "server.socket",
            Origin::Environment("PAYD_SERVER__SOCKET".into()),
        ),
        (
            "server.grace",
            Origin::File {
                path: file.clone(),
                line: 2,
            },
        ),
        ("retry.cap", Origin::Default),
    ] {
        assert_eq!(loaded.origin(key), Some(&origin), "{key}");
    }
    assert_eq!(loaded.file, Some(file));
}

#[test]
fn which_file_is_read() {
    let grace = |case: &Case| case.load().settings.server.grace.as_secs();
    let text = |seconds: u32| format!("server.grace = \"{seconds}s\"");

    let mut case = Case::new();
    assert_eq!(case.load().file, None);
    case.write("etc/payd.toml", &text(1));
    assert_eq!(grace(&case), 1);
    case.write("home/.config/payd/payd.toml", &text(2));
    assert_eq!(grace(&case), 2);
    let case_of = case.write("xdg/payd/payd.toml", &text(3));
    case = case.env("XDG_CONFIG_HOME", "relative/is/ignored");
    assert_eq!(grace(&case), 2);
    let xdg = case_of.parent().and_then(Path::parent).unwrap().to_owned();
    case = case.env("XDG_CONFIG_HOME", xdg.to_str().unwrap());
    assert_eq!(grace(&case), 3);
    case = case.file(&text(4));
    assert_eq!(grace(&case), 4);
    case.inputs.config_file = Some(case.dir.path().join("none.toml"));
    assert_eq!(
        case.errors(),
        "none.toml: there is no such settings file; check what --config names"
    );
    case.inputs.config_file = Some(case.dir.path().to_owned());
    assert!(case.errors().contains("cannot be read"));
}

#[test]
fn what_is_wrong_in_a_file() {
    for (text, expected) in [
        (
            "[retry]\nbsae = \"1s\"",
            "payd.toml:2: retry.bsae: unknown key; did you mean retry.base?",
        ),
        (
            "listen = \"none\"",
            "payd.toml:1: listen: unknown key; did you mean server.listen?",
        ),
        (
            "\n[retries]\nbase = \"1s\"",
            "payd.toml:3: retries.base: unknown key; did you mean retry.base?",
        ),
        (
            "[retry]\n\"a.b\" = 1",
            "payd.toml:2: retry.\"a.b\": unknown key",
        ),
        (
            "\"retry.base\" = \"1s\"",
            "payd.toml:1: \"retry.base\": unknown key; did you mean retry.base?",
        ),
        ("\"a\\nb\" = 1", "payd.toml:1: a\\nb: unknown key"),
        ("\n[nothing]\n", "payd.toml:2: [nothing]: unknown section"),
        (
            "[server.listen]\n",
            "payd.toml:1: server.listen: a table is not a value for it",
        ),
        (
            "retry = 5",
            "payd.toml:1: retry: is a section; write [retry] and its keys beneath it",
        ),
        (
            "[retry]\nbase = 5",
            "payd.toml:2: retry.base: 5 has no unit; write \"5s\" if seconds are meant, \"5ms\" if milliseconds",
        ),
        (
            "[retry]\nmax_attempts = 0",
            "payd.toml:2: retry.max_attempts: 0 is out of range; write 1 to 1000",
        ),
        (
            "[gateway]\nconcurrency = 0x2711",
            "payd.toml:2: gateway.concurrency: 10001 is out of range; write 1 to 10000",
        ),
        (
            "[gateway]\ntimeout = \"0s\"",
            "payd.toml:2: gateway.timeout: \"0s\" is out of range; write \"1ms\" to \"1h\"",
        ),
        (
            "[log]\nformat = true",
            "payd.toml:2: log.format: a boolean is not text; write it in double quotes",
        ),
        (
            "[gateway]\nkind = \"htpp\"",
            "payd.toml:2: gateway.kind: \"htpp\" is not known; write one of simulator, http",
        ),
        (
            "[gateway]\nkind = \"http\"",
            "payd.toml:2: gateway.http.url: is needed where gateway.kind is \"http\"; write the gateway's base URL",
        ),
        (
            "[retry]\nbase = \"2s\"\ncap = \"1s\"",
            "payd.toml:2: retry.base: 2s is longer than retry.cap, 1s; lower the one or raise the other",
        ),
        (
            "[resolver]\nbase = \"20m\"",
            "payd.toml:2: resolver.base: 20m is longer than resolver.cap, 15m; lower the one or raise the other",
        ),
        (
            "[gateway.simulator]\ndecline_rate = 0.5\nlost_rate = 0.500001",
            "payd.toml:3: gateway.simulator: decline_rate 0.5, timeout_rate 0.0 and lost_rate 0.500001 together \
             are more than 1; each charge has one outcome",
        ),
    ] {
        assert_eq!(Case::new().file(text).errors(), expected, "{text}");
    }
}

#[test]
fn broken_toml_is_told_with_its_line_only() {
    for text in [
        "[retry]\nbase = \n",
        "[log]\nlevel = \"info\"\nlevel = \"warn\"\n",
        "[retry\n",
        "a = \"\u{1b}\"",
    ] {
        let errors = Case::new().file(text).errors();
        assert!(
            errors.lines().all(|line| line.starts_with("payd.toml:")),
            "{errors}"
        );
        assert!(errors.contains("is not valid TOML"), "{errors}");
        assert!(!errors.contains('\u{1b}'), "{errors}");
    }
}

#[test]
fn what_is_wrong_in_the_environment() {
    for (name, value, expected) in [
        (
            "PAYD_RETRY__BSAE",
            "1s",
            "environment PAYD_RETRY__BSAE: unknown setting; did you mean PAYD_RETRY__BASE?",
        ),
        (
            "PAYD_retry__base",
            "1s",
            "environment PAYD_retry__base: unknown setting; did you mean PAYD_RETRY__BASE?",
        ),
        (
            "PAYD_X__Y",
            "secret",
            "environment PAYD_X__Y: unknown setting",
        ),
        (
            "PAYD_RETRY__BASE",
            "100",
            "environment PAYD_RETRY__BASE: retry.base: \"100\" has no unit; write \"100s\" if seconds are meant, \
             \"100ms\" if milliseconds",
        ),
        (
            "PAYD_GATEWAY__HTTP__URL",
            "http://user:hunter2@example",
            "environment PAYD_GATEWAY__HTTP__URL: gateway.http.url: the value has a user or password in it; put \
             the secret into a file and name that in gateway.http.token_file",
        ),
    ] {
        assert_eq!(Case::new().env(name, value).errors(), expected);
    }
}

#[test]
fn other_variables_are_none_of_ours() {
    Case::new()
        .env("PAYD_HOST", "unix:///x")
        .env("PAYD_TOKEN_FILE", "x")
        .env("RUST_LOG", "trace")
        .env("OTHER__THING", "x")
        .load();
}

#[test]
fn all_errors_at_once_in_order() {
    let mut case = Case::new()
        .file("[retry]\nbase = 5\nmax_attempts = \"x\"\n[log]\nlevel = \"inof\"\n")
        .env("PAYD_RETRY__CAP", "never")
        .env("PAYD_RETRY__BASE", "1s"); // overrides the file's, whose mistake shows all the same
    case.inputs.flags.listen = Some("0.0.0.0:80".into());
    let errors = case.errors();
    let starts: Vec<_> = errors
        .lines()
        .map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": "))
        .collect();
    assert_eq!(
        starts,
        [
            "payd.toml:2: retry.base",
            "payd.toml:3: retry.max_attempts",
            "payd.toml:5: log.level",
            "environment PAYD_RETRY__CAP: retry.cap",
            "flag --listen: server.listen",
        ]
    );
}

#[test]
fn what_others_can_reach_needs_tokens_and_tls() {
    let case = |listen: &str, rest: &str| {
        Case::new().file(&format!("[server]\nlisten = {listen:?}\n{rest}"))
    };
    let tls = "tls_cert = \"c\"\ntls_key = \"k\"\n";
    let none = "auth = \"none\"\n";
    for (listen, rest) in [
        ("127.0.0.1:1", ""),
        ("[::1]:1", none),
        ("127.9.9.9:1", tls),
        ("0.0.0.0:1", tls),
        ("[::]:1", tls),
        ("none", none),
    ] {
        case(listen, rest).load();
    }
    for (listen, rest, said) in [
        (
            "0.0.0.0:1",
            "",
            "server.listen: 0.0.0.0:1 is not a loopback address, and without TLS",
        ),
        ("[::]:1", "", "not a loopback"),
        ("[::ffff:127.0.0.1]:1", "", "not a loopback"),
        ("192.0.2.1:80", "", "or write \"127.0.0.1:80\""),
        (
            "192.0.2.1:80",
            &format!("{none}{tls}"),
            "server.auth: is \"none\"",
        ),
        ("192.0.2.1:80", none, "server.auth: is \"none\""),
        (
            "127.0.0.1:1",
            "tls_key = \"k\"\n",
            "server.tls_cert: is needed where server.tls_key is set",
        ),
        (
            "127.0.0.1:1",
            "tls_cert = \"c\"\n",
            "server.tls_key: is needed",
        ),
    ] {
        let errors = case(listen, rest).errors();
        assert!(errors.contains(said), "{listen} {rest}: {errors}");
    }
    let mut dev = case("0.0.0.0:1", tls);
    dev.inputs.flags.dev = true;
    assert!(dev.errors().contains("server.auth"), "{}", dev.errors());
}

#[test]
fn http_gateway() {
    let case = Case::new()
        .file("[gateway]\nkind = \"http\"\n[gateway.http]\nurl = \"https://gateway.example/\"\n")
        .env("PAYD_GATEWAY__HTTP__LOOKUP_LAG", "1m")
        .env("PAYD_GATEWAY__HTTP__TOKEN_FILE", "token");
    let GatewayKind::Http(http) = case.load().settings.gateway.kind else {
        panic!("not http")
    };
    assert_eq!(http.url.as_str(), "https://gateway.example");
    assert_eq!(http.token_file, Some("token".into()));
    assert_eq!(http.lookup_lag, Duration::from_secs(60));
}

#[test]
fn a_lower_cap_takes_the_default_base_with_it() {
    let loaded = Case::new().env("PAYD_RETRY__CAP", "1s").load();
    assert_eq!(loaded.settings.retry.base, Duration::from_secs(1));
    assert!(
        loaded
            .to_toml()
            .contains("base = \"1s\"  # default, lowered to retry.cap\n")
    );
}

#[test]
fn shown_settings_load_to_the_same_settings() {
    let mut case = Case::new()
        .file(
            "[server]\nsocket = \"/a \\\"b\\\"/\\u007f\"\n[gateway.simulator]\nlost_rate = 0.25\n",
        )
        .env("PAYD_LOG__LEVEL", "info,payd=debug");
    case.inputs.flags.listen = Some("[::1]:0".into());
    let mut loaded = case.load();
    let shown = loaded.to_toml();
    assert_eq!(Case::new().file(&shown).load().settings, loaded.settings);
    for line in [
        "[gateway.simulator]",
        "listen = \"[::1]:0\"  # flag --listen",
        "level = \"info,payd=debug\"  # environment PAYD_LOG__LEVEL",
        "grace = \"20s\"  # default",
        "# data_dir is not set  # default",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "{line} is not in\n{shown}"
        );
    }
    assert!(shown.contains("lost_rate = 0.25  # /"), "{shown}");
    assert!(shown.contains("payd.toml:4\n"), "{shown}");

    loaded.derive("store.data_dir", Path::new("/data"), "STATE_DIRECTORY");
    loaded.derive("server.socket", Path::new("/never"), "never");
    let shown = loaded.to_toml();
    assert!(
        shown.contains("data_dir = \"/data\"  # default, STATE_DIRECTORY\n"),
        "{shown}"
    );
    assert!(!shown.contains("never"), "{shown}");
}

/// `packaging/payd.toml` says what the defaults are; this holds it to them.
#[test]
fn the_sample_file_is_the_defaults() {
    let sample = include_str!("../../packaging/payd.toml");
    let is_setting = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let uncommented: Vec<_> = sample
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| is_setting(rest))
                .unwrap_or(line)
        })
        .collect();
    let defaults = Case::new().load();
    assert_eq!(Case::new().file(sample).load().settings, defaults.settings);
    let loaded = Case::new().file(&uncommented.join("\n")).load();
    // Settings without a default stand there with an example.
    for (said, default) in loaded.entries.iter().zip(&defaults.entries) {
        assert!(
            matches!(said.origin, Origin::File { .. }),
            "{} is not in the sample",
            said.key
        );
        if default.toml.is_some() {
            assert_eq!(said.toml, default.toml, "{}", said.key);
        }
    }
}
