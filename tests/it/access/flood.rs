//! A flood on TCP does nothing to the Unix socket: it answers, and payd stays small.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType};
use serde_json::json;

use super::admin_token;
use crate::support::daemon::Daemon;
use crate::support::http::Host;

/// What payd may hold in memory, at its most (issue 4); a debug build's frames and buffers are larger.
const MEMORY_MAX_KIB: u64 = if cfg!(debug_assertions) { 96 } else { 64 } * 1024;

/// Far more than the socket needs on any machine, however busy; the bench has the real figure.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A connection from one of many peers: all of 127/8 is this machine.
fn connect(to: SocketAddr, peer: u8) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, peer), 0);
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

fn memory_peak_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|it| it.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn exports_that_nobody_reads_take_few_places_and_none_of_the_sockets() {
    let daemon = Daemon::start();
    let Host::Tcp(address, _) = daemon.tcp else {
        panic!("TCP")
    };
    let text = "x".repeat(900);
    for batch in 0..10 {
        let lines: Vec<String> = (0..900)
            .map(|n| {
                json!({"id": format!("i-{batch}-{n}"), "amount": 1, "description": text})
                    .to_string()
            })
            .collect();
        let host = &daemon.unix;
        let headers = [("content-type", "application/x-ndjson")];
        let sent = host.request("POST", "/invoices", &headers, lines.join("\n").as_bytes());
        assert_eq!(sent.unwrap().status, 200);
    }
    let token = admin_token(&daemon);
    let ask = format!(
        "GET /invoices HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nAccept: application/x-ndjson\r\n\r\n"
    );
    // More than the kernel buffers for one connection: none of these comes to its end.
    let mut held = Vec::new();
    let mut answers = Vec::new();
    for _ in 0..12 {
        let mut wire = connect(address, 2).unwrap();
        wire.write_all(ask.as_bytes()).unwrap();
        let mut head = [0; 12];
        wire.read_exact(&mut head).unwrap();
        answers.push(String::from_utf8_lossy(&head[9..]).into_owned());
        held.push(wire);
    }
    let refused = answers.iter().filter(|it| *it == "503").count();
    assert_eq!(refused, 4, "{answers:?}");
    let all = daemon
        .unix
        .request(
            "GET",
            "/invoices",
            &[("accept", "application/x-ndjson")],
            b"",
        )
        .unwrap();
    assert_eq!(all.body.iter().filter(|it| **it == b'\n').count(), 9000);
}

#[test]
fn the_socket_answers_and_payd_stays_small_whatever_comes_over_tcp() {
    let daemon = Daemon::start();
    let Host::Tcp(address, _) = daemon.tcp else {
        unreachable!()
    };
    let token = admin_token(&daemon);
    // A log of large events, for streams that nobody reads.
    let text = "x".repeat(15_000);
    for n in 0..400 {
        let body = json!({"id": format!("inv-{n}"), "amount": 1, "description": text});
        daemon.unix.post("/invoices", &body.to_string()).expect(201);
    }
    let stop = AtomicBool::new(false);
    let made = AtomicUsize::new(0);
    let slowest = std::thread::scope(|scope| {
        let head = format!("Host: localhost\r\nAuthorization: Bearer {token}\r\n");
        let stream = format!("GET /events HTTP/1.1\r\n{head}Accept: application/x-ndjson\r\n\r\n");
        // Streams that nobody reads.
        let mut held: Vec<TcpStream> = (0..32)
            .map(|_| {
                let mut wire = connect(address, 1).unwrap();
                wire.write_all(stream.as_bytes()).unwrap();
                wire
            })
            .collect();
        // Half-sent requests: heads up to their limit, and bodies of those who may send one.
        let long = format!(
            "GET /invoices HTTP/1.1\r\n{head}X-Long: {}",
            "x".repeat(15_000)
        );
        let body = format!(
            "POST /invoices HTTP/1.1\r\n{head}Content-Type: application/json\r\nContent-Length: 65000\r\n\r\n{}",
            "x".repeat(64_000)
        );
        for peer in 2..10 {
            for n in 0..60 {
                if let Ok(mut wire) = connect(address, peer) {
                    let half = if n % 2 == 0 { &long } else { &body };
                    let _ = wire.set_nonblocking(true);
                    let _ = wire.write(half.as_bytes());
                    held.push(wire);
                }
            }
        }
        // And those who come and come again, with nonsense and without tokens.
        for peer in 10..14 {
            let (stop, made) = (&stop, &made);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut wire) = connect(address, peer) else {
                        continue;
                    };
                    made.fetch_add(1, Ordering::Relaxed);
                    let _ = wire.set_read_timeout(Some(Duration::from_millis(20)));
                    let asks: &[u8] = if peer % 2 == 0 {
                        b"nonsense\r\n\r\n"
                    } else {
                        b"GET /invoices HTTP/1.1\r\nHost: localhost\r\n\r\n"
                    };
                    let _ = wire.write_all(asks);
                    let _ = wire.read(&mut [0; 64]);
                }
            });
        }
        let mut slowest = Duration::ZERO;
        let mut n = 0;
        // Until the flood has come in, and on for as many requests again.
        while n < 200 || made.load(Ordering::Relaxed) < 50 {
            let start = Instant::now();
            let answer = match n % 4 {
                0 => daemon.unix.post("/invoices", r#"{"amount":1}"#),
                1 => daemon.unix.get("/invoices/inv-1"),
                2 => daemon.unix.get("/events?limit=1"),
                _ => daemon.unix.get("/admin/status"),
            };
            assert!(answer.status < 300, "{}", answer.text());
            slowest = slowest.max(start.elapsed());
            n += 1;
        }
        stop.store(true, Ordering::Relaxed);
        drop(held);
        slowest
    });
    let peak = memory_peak_kib(&daemon);
    assert!(slowest < ANSWER_MAX, "the socket took {slowest:?}");
    assert!(peak < MEMORY_MAX_KIB, "payd took {peak} KiB");
    #[expect(clippy::print_stdout)]
    {
        println!("slowest on the socket: {slowest:?}; peak: {peak} KiB");
    }
    // When it is over, TCP is there again.
    crate::support::daemon::until("TCP answers", || {
        daemon
            .tcp
            .request("GET", "/invoices", &[], b"")
            .is_ok_and(|it| it.status == 200)
    });
}
