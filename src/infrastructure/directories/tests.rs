//! Tables of surroundings and the places that follow from them.

use super::*;

fn around(variables: &[(&str, &str)], home: Option<&str>, root: bool) -> Surroundings {
    let environment = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    Surroundings {
        environment,
        home: home.map(PathBuf::from),
        root,
    }
}

#[test]
fn where_things_lie() {
    const SYSTEMD: &[(&str, &str)] = &[
        ("STATE_DIRECTORY", "/var/lib/payd:/var/lib/other"),
        ("RUNTIME_DIRECTORY", "/run/payd"),
        ("LOGS_DIRECTORY", "/var/log/payd"),
        ("XDG_DATA_HOME", "/xdg"),
        ("XDG_RUNTIME_DIR", "/run/user/0"),
    ];
    let home = Some("/home/a");
    for (around, given, data_dir, socket, log_dir) in [
        (
            around(SYSTEMD, home, true),
            Given::default(),
            "/var/lib/payd",
            "/run/payd/payd.sock",
            Some("/var/log/payd"),
        ),
        (
            around(
                &[
                    ("XDG_DATA_HOME", "/xdg"),
                    ("XDG_RUNTIME_DIR", "/run/user/7"),
                ],
                home,
                false,
            ),
            Given::default(),
            "/xdg/payd",
            "/run/user/7/payd/payd.sock",
            None,
        ),
        (
            around(
                &[
                    ("XDG_DATA_HOME", "rel"),
                    ("XDG_RUNTIME_DIR", ""),
                    ("STATE_DIRECTORY", ""),
                ],
                home,
                false,
            ),
            Given::default(),
            "/home/a/.local/share/payd",
            "/home/a/.local/share/payd/payd.sock",
            None,
        ),
        (
            around(&[], home, true),
            Given::default(),
            "/home/a/.local/share/payd",
            "/run/payd/payd.sock",
            None,
        ),
        (
            around(&[], None, false),
            Given {
                data_dir: Some(Path::new("/d")),
                ..Given::default()
            },
            "/d",
            "/d/payd.sock",
            None,
        ),
        (
            around(SYSTEMD, home, true),
            Given {
                data_dir: Some(Path::new("/d")),
                socket: None,
                log_dir: Some(Path::new("/l")),
            },
            "/d",
            "/run/payd/payd.sock",
            Some("/l"),
        ),
        (
            around(SYSTEMD, home, true),
            Given {
                socket: Some(Path::new("/s/x")),
                ..Given::default()
            },
            "/var/lib/payd",
            "/s/x",
            Some("/var/log/payd"),
        ),
    ] {
        let places = find(given, &around).unwrap();
        assert_eq!(places.data_dir.path, Path::new(data_dir), "{around:?}");
        assert_eq!(places.socket.path, Path::new(socket), "{around:?}");
        assert_eq!(
            places.log_dir.as_ref().map(|dir| dir.path.as_path()),
            log_dir.map(Path::new),
            "{around:?}"
        );
        assert_eq!(places.database(), Path::new(data_dir).join("payd.db"));
    }
}

#[test]
fn without_a_home_a_place_must_be_given() {
    let error = find(Given::default(), &around(&[], None, true)).unwrap_err();
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

#[test]
fn relative_paths_are_from_here() {
    let given = Given {
        data_dir: Some(Path::new("d")),
        ..Given::default()
    };
    let places = find(given, &Surroundings::default()).unwrap();
    assert_eq!(
        places.data_dir.path,
        std::env::current_dir().unwrap().join("d")
    );
}

#[test]
fn credentials() {
    let data = [("STATE_DIRECTORY", "/d"), ("CREDENTIALS_DIRECTORY", "/c")];
    let with = find(Given::default(), &around(&data, None, false)).unwrap();
    let without = find(Given::default(), &around(&data[..1], None, false)).unwrap();
    assert_eq!(
        with.credential(Path::new("token")).unwrap(),
        Path::new("/c/token")
    );
    assert_eq!(
        with.credential(Path::new("/x/token")).unwrap(),
        Path::new("/x/token")
    );
    assert!(
        without
            .credential(Path::new("token"))
            .unwrap()
            .is_absolute()
    );
}

#[test]
fn directories_are_made_tight_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let data_dir = dir.path().join("a/b");
    for (socket, expected) in [
        (dir.path().join("s"), 0o700),
        (data_dir.join("payd.sock"), 0o750),
    ] {
        let given = Given {
            data_dir: Some(&data_dir),
            socket: Some(&socket),
            log_dir: None,
        };
        let places = find(given, &Surroundings::default()).unwrap();
        places.make().unwrap();
        assert_eq!(mode(&data_dir), expected);
        std::fs::set_permissions(&data_dir, PermissionsExt::from_mode(0o755)).unwrap();
        places.make().unwrap();
        assert_eq!(mode(&data_dir), 0o755);
        std::fs::remove_dir(&data_dir).unwrap();
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(
        make(&file, SHARED_MODE),
        Err(DirectoriesError::NotMade { .. })
    ));
}
