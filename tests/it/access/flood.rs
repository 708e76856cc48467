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

/// What payd may hold in memory, at its most (issue 4).
const MEMORY_MAX_KIB: u64 = 64 * 1024;

/// Far more than the socket needs on any machine, however busy; the bench has the real figure.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A connection from one of many peers: all of 127/8 is this machine.
fn connect(to: SocketAddr, peer: u8) -> std::io::Result<TcpStream> {
    connect_with(to, peer, None)
}

/// The same with so many bytes of buffer for what is not read.
fn connect_with(to: SocketAddr, peer: u8, buffer: Option<usize>) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    if let Some(buffer) = buffer {
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, buffer)?;
    }
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, peer), 0);
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

#[test]
fn lists_that_nobody_reads_take_few_places_for_a_while_and_none_of_the_sockets() {
    let daemon = Daemon::start();
    let Host::Tcp(address, _) = daemon.tcp else {
        panic!("TCP")
    };
    // So large that the kernel's buffers do not hold a page.
    let text = "x".repeat(9_000);
    for batch in 0..12 {
        let lines: Vec<String> = (0..100)
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
    let head = format!("HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
    // Exports, and pages of both kinds: none of these comes to its end.
    let asks = [
        format!("GET /invoices {head}Accept: application/x-ndjson\r\n\r\n"),
        format!("GET /invoices?limit=1000 {head}\r\n"),
        format!("GET /events?limit=1000 {head}\r\n"),
    ];
    let mut held: Vec<TcpStream> = (0..60)
        .map(|n| {
            let mut wire = connect_with(address, 2, Some(4096)).unwrap();
            wire.write_all(asks[n % asks.len()].as_bytes()).unwrap();
            wire
        })
        .collect();
    let answers: Vec<String> = held.iter_mut().map(status_of).collect();
    let refused = answers.iter().filter(|it| *it == "503").count();
    assert_eq!(refused, 60 - 32, "{answers:?}");
    // What is small needs no place, and the socket has its own.
    daemon.tcp.get("/invoices?limit=1").expect(200);
    daemon.tcp.get("/healthz").expect(200);
    let lines = [("accept", "application/x-ndjson")];
    let all = daemon
        .unix
        .request("GET", "/invoices", &lines, b"")
        .unwrap();
    assert_eq!(all.body.iter().filter(|it| **it == b'\n').count(), 1200);
    let page = daemon.unix.get("/invoices?limit=1000").expect(200);
    assert_eq!(page["invoices"].as_array().unwrap().len(), 1000);
    // Who does not read is not waited for: the places are free again, though nobody has gone.
    crate::support::daemon::until("a list is sent over TCP", || {
        daemon.tcp.get("/invoices?limit=1000").status == 200
    });
    drop(held);
}

/// The status of an answer of which nothing more is read.
fn status_of(wire: &mut TcpStream) -> String {
    let mut head = [0; 12];
    wire.read_exact(&mut head).unwrap();
    String::from_utf8_lossy(&head[9..]).into_owned()
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
                let mut wire = connect_with(address, 1, Some(4096)).unwrap();
                wire.write_all(stream.as_bytes()).unwrap();
                wire
            })
            .collect();
        // Lists and large answers that nobody reads, many more than there are places.
        let asks = [
            "/invoices?limit=1000",
            "/events?limit=1000",
            "/openapi.json",
            "/invoices/inv-1",
        ];
        for n in 0..120 {
            let mut wire = connect_with(address, 14 + n / 60, Some(4096)).unwrap();
            let path = asks[usize::from(n) % asks.len()];
            let ask = format!("GET {path} HTTP/1.1\r\n{head}\r\n");
            wire.write_all(ask.as_bytes()).unwrap();
            held.push(wire);
        }
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
    let peak = daemon.memory_kib("VmHWM");
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
