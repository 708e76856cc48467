//! Binding and leaving places in the file system and on TCP.

use std::os::unix::net::{UnixDatagram, UnixStream};

use super::*;

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn binds_serves_and_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/payd.sock");
    let socket = bind_unix(&path).unwrap();
    assert_eq!(mode(&path), 0o660);
    assert_eq!(mode(path.parent().unwrap()), 0o750);
    assert_eq!(socket.file.url(), format!("unix://{}", path.display()));
    let _client = UnixStream::connect(&path).unwrap();
    socket.listener.accept().unwrap();
    assert_eq!(
        socket.listener.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_live_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payd.sock");
    let _first = bind_unix(&path).unwrap();
    let error = bind_unix(&path).unwrap_err();
    let ListenError::Live { holder, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*holder, i32::try_from(std::process::id()).ok());
    assert!(error.to_string().contains("--socket"), "{error}");
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_live_socket_with_a_full_queue_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payd.sock");
    let socket = unix_socket().unwrap();
    let address = SocketAddrUnix::new(&path).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let waiting: Vec<_> = (0..4).map(|_| unix_socket().unwrap()).collect();
    let full = waiting
        .iter()
        .any(|client| rustix::net::connect(client, &address) == Err(Errno::AGAIN));
    assert!(full);
    assert!(matches!(bind_unix(&path), Err(ListenError::Live { .. })));
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payd.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = bind_unix(&path).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn anything_else_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), "precious").unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    drop(UnixListener::bind(at("stale")).unwrap());
    std::os::unix::fs::symlink(at("stale"), at("link")).unwrap();
    std::os::unix::fs::symlink(at("nowhere"), at("dangling")).unwrap();
    let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
    for name in ["file", "directory", "link", "dangling", "datagrams"] {
        let error = bind_unix(&at(name)).unwrap_err();
        assert!(
            matches!(error, ListenError::Occupied { .. }),
            "{name}: {error:?}"
        );
        assert!(at(name).symlink_metadata().is_ok(), "{name} is gone");
    }
    assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "precious");
    assert!(at("stale").exists());
}

#[test]
fn only_our_own_file_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payd.sock");
    let UnixSocket { listener, file } = bind_unix(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    drop(listener); // and with it the inode, but for the handle that the file keeps
    let other = UnixListener::bind(&path).unwrap();
    drop(file);
    assert!(path.exists(), "another's socket was removed");
    drop(other);

    let path = dir.path().join("gone.sock");
    let socket = bind_unix(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    drop(socket);
}

#[test]
fn many_at_once_make_one() {
    /// Enough that a missing lock on the directory shows: tried without it, every run failed.
    const ROUNDS: usize = 200;
    const AT_ONCE: usize = 4;
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("payd.sock");
        drop(UnixListener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(AT_ONCE);
        let bound: Vec<_> = std::thread::scope(|scope| {
            let bind = || {
                start.wait();
                bind_unix(&path)
            };
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(bind)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let made = bound.iter().filter(|bound| bound.is_ok()).count();
        assert_eq!(made, 1, "{bound:?}");
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn paths_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(108));
    assert!(matches!(bind_unix(&long), Err(ListenError::TooLong { .. })));
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = bind_unix(&dir.path().join("file/payd.sock")).unwrap_err();
    assert!(matches!(error, ListenError::Directory(_)), "{error:?}");
    assert!(error.to_string().contains("--socket"), "{error}");
}

#[test]
fn tcp_tells_its_real_port_and_what_to_do() {
    let first = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    assert_ne!(first.address.port(), 0);
    assert_eq!(
        first.url(false),
        format!("http://127.0.0.1:{}", first.address.port())
    );
    assert_eq!(
        first.listener.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    let error = bind_tcp(first.address).unwrap_err();
    assert!(matches!(error, ListenError::InUse { .. }), "{error:?}");
    for hint in ["--listen", "127.0.0.1:0", "none"] {
        assert!(error.to_string().contains(hint), "{error}");
    }
}
