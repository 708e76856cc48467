//! Answers that are none, byte by byte, and gateways that are not there: what was provably not sent
//! is sent again, what may have been is looked up, and nothing goes out twice.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType};
use serde_json::json;

use super::{REQUESTED, SUCCEEDED, UNKNOWN, events, no_charge_was_repeated, payment, story};
use crate::support::daemon::{Daemon, until};
use crate::support::stub::{Accept, Act, Call, Stub, answer, bytes, daemon_of};

type Say = Box<dyn Fn(&Call) -> Act + Send + Sync>;

/// The lookup of what never came finds nothing.
fn know(call: &Call) -> Act {
    if call.charge.is_null() {
        answer(404, &json!({}))
    } else {
        answer(200, &call.echo("succeeded"))
    }
}

fn approval(call: &Call) -> Vec<u8> {
    call.echo("succeeded").to_string().into_bytes()
}

#[test]
fn no_broken_answer_is_taken_for_one() {
    let raw = |text: &'static str| -> Say { Box::new(|_| Act::SayAndClose(text.into())) };
    let unknown: Vec<(&str, Say)> = vec![
        ("closed without a word", raw("")),
        ("reset without a word", Box::new(|_| Act::Reset)),
        ("silent", Box::new(|_| Act::Hold(Vec::new()))),
        ("half a head", raw("HTTP/1.1 200 OK\r\nContent-Len")),
        (
            "half a head, and silent",
            Box::new(|_| Act::Hold(b"HTTP/1.1 200 OK\r\n".to_vec())),
        ),
        (
            "half a body",
            Box::new(|call| {
                let whole = bytes(200, &[], &approval(call));
                Act::SayAndClose(whole[..whole.len() - 20].to_vec())
            }),
        ),
        (
            "half a body, and silent",
            Box::new(|call| {
                let whole = bytes(200, &[], &approval(call));
                Act::Hold(whole[..whole.len() - 1].to_vec())
            }),
        ),
        (
            "half a body that ends with the connection",
            Box::new(|call| {
                let body = approval(call);
                let head: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
                Act::SayAndClose([head, &body[..body.len() - 1]].concat())
            }),
        ),
        (
            "half of a definite refusal",
            raw("HTTP/1.1 422 X\r\nContent-Length: 99\r\n\r\n{\"error\":\"no\"}"),
        ),
        (
            "half a 429",
            raw("HTTP/1.1 429 X\r\nContent-Length: 99\r\n\r\n{}"),
        ),
        (
            "an approval one byte at a time, for longer than a call may take",
            Box::new(|call| Act::Drip(bytes(200, &[], &approval(call)), Duration::from_millis(50))),
        ),
        (
            "an approval of more than 64 KiB",
            Box::new(|call| {
                let mut body = approval(call);
                body.resize(64 * 1024 + 1, b' ');
                Act::Say(bytes(200, &[], &body))
            }),
        ),
        (
            "chunks without end",
            Box::new(|_| {
                let chunk = format!("1000\r\n{}\r\n", " ".repeat(4096)).repeat(40);
                Act::Hold(
                    format!("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}").into(),
                )
            }),
        ),
        (
            "a chunk that breaks off",
            raw("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"id\""),
        ),
        (
            "a head without end",
            Box::new(|_| {
                let head = format!("HTTP/1.1 200 X\r\nX: {}", "x".repeat(200_000));
                Act::Hold(head.into())
            }),
        ),
        ("another protocol", raw("SSH-2.0-OpenSSH_9.2\r\n\r\n")),
        (
            "a body without a head",
            Box::new(|call| Act::SayAndClose(approval(call))),
        ),
        ("another version", raw("HTTP/2.0 200 OK\r\n\r\n")),
        ("no status", raw("HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n")),
        (
            "two lengths",
            raw(
                "HTTP/1.1 422 X\r\nContent-Length: 14\r\nContent-Length: 15\r\n\r\n{\"error\":\"no\"} ",
            ),
        ),
        ("100 and no more", raw("HTTP/1.1 100 Continue\r\n\r\n")),
        (
            "another protocol on this connection",
            Box::new(|_| {
                let head = "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
                Act::Hold(head.into())
            }),
        ),
    ];
    let approved: Vec<(&str, Say)> = vec![
        (
            "HTTP/1.0",
            Box::new(|call| {
                let body = approval(call);
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                Act::SayAndClose([head.as_bytes(), &body].concat())
            }),
        ),
        (
            "HTTP/1.0, up to the end of the connection",
            Box::new(|call| {
                Act::SayAndClose([b"HTTP/1.0 200 OK\r\n\r\n", approval(call).as_slice()].concat())
            }),
        ),
        (
            "chunks, with a trailer",
            Box::new(|call| {
                let mut said = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for chunk in approval(call).chunks(7) {
                    said.extend(format!("{:x};ext=1\r\n", chunk.len()).bytes());
                    said.extend(chunk);
                    said.extend(b"\r\n");
                }
                said.extend(b"0\r\nX-Sum: 1\r\n\r\n");
                Act::Say(said)
            }),
        ),
        (
            "100, 103, and then the answer",
            Box::new(|call| {
                let before = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: </>\r\n\r\n";
                Act::Say([before.as_bytes(), &bytes(200, &[], &approval(call))].concat())
            }),
        ),
        (
            "an answer of 64 KiB",
            Box::new(|call| {
                let mut body = approval(call);
                body.resize(64 * 1024, b' ');
                Act::Say(bytes(200, &[], &body))
            }),
        ),
        (
            "Connection: close",
            Box::new(|call| {
                Act::SayAndClose(bytes(200, &[("Connection", "close")], &approval(call)))
            }),
        ),
        (
            "an answer that comes slowly, and in time",
            Box::new(|call| Act::Drip(bytes(200, &[], &approval(call)), Duration::from_millis(1))),
        ),
    ];
    let (unknowns, approvals) = (unknown.len(), approved.len());
    let rows: Arc<Vec<(&str, Say)>> = Arc::new(unknown.into_iter().chain(approved).collect());
    let script = Arc::clone(&rows);
    let stub = Stub::start(move |call| {
        let n: usize = call.invoice.strip_prefix("row-").unwrap().parse().unwrap();
        match (call.method.as_str(), call.before) {
            ("POST", 0) => script[n].1(call),
            _ => know(call),
        }
    });
    let daemon = stub.daemon(&[("PAYD_GATEWAY__TIMEOUT", "3s")]);
    for n in 0..rows.len() {
        super::pay(&daemon, &format!("row-{n}"));
    }
    for (n, (what, _)) in rows.iter().enumerate() {
        let id = format!("row-{n}");
        until(&format!("{what} ({id}) is decided"), || {
            payment(&daemon, &id)["status"] == "SUCCEEDED"
        });
        let want: &[&str] = if n < unknowns {
            &[REQUESTED, UNKNOWN, SUCCEEDED]
        } else {
            &[REQUESTED, SUCCEEDED]
        };
        assert_eq!(story(&daemon, &id), want, "{what}");
        assert_eq!(stub.count("POST", &id), 1, "{what}");
        no_charge_was_repeated(&daemon, &stub, &id);
    }
    assert_eq!(unknowns + approvals, rows.len());
    daemon.verify();
}

#[test]
fn a_request_that_was_cut_in_half_is_looked_up_before_it_goes_out_again() {
    let doorman = |connection| match connection {
        0 => Accept::ResetAfter(100),
        _ => Accept::Serve,
    };
    let stub = Stub::with_doorman(doorman, |call| match call.method.as_str() {
        "POST" => answer(200, &call.echo("succeeded")),
        _ => know(call),
    });
    let daemon = stub.daemon(&[]);
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    assert_eq!(
        story(&daemon, "inv-1"),
        [REQUESTED, UNKNOWN, REQUESTED, SUCCEEDED]
    );
    let methods: Vec<String> = stub.calls().into_iter().map(|it| it.method).collect();
    assert_eq!(methods[0], "GET");
    assert_eq!(methods.iter().filter(|it| *it == "POST").count(), 1);
}

#[test]
fn a_connection_that_is_closed_before_it_is_used_charges_once() {
    let doorman = |connection| match connection {
        0..3 => Accept::Close,
        _ => Accept::Serve,
    };
    let stub = Stub::with_doorman(doorman, |call| match call.method.as_str() {
        "POST" => answer(200, &call.echo("succeeded")),
        _ => know(call),
    });
    let daemon = stub.daemon(&[]);
    super::pay(&daemon, "inv-1");
    daemon.until_invoice("inv-1", "PAID");
    // Whether payd had written before it saw the end is chance: unknown, or not sent.
    assert_eq!(stub.count("POST", "inv-1"), 1);
    no_charge_was_repeated(&daemon, &stub, "inv-1");
    daemon.verify();
}

/// Every send came to nothing before a byte left: the log has one request after the other, and no
/// outcome that would have to be looked up.
fn until_not_sent(daemon: &Daemon, id: &str, reason: &str) {
    until("it was tried twice", || events(daemon, id).len() >= 3);
    for (n, event) in events(daemon, id).iter().enumerate() {
        assert_eq!(event["type"], REQUESTED);
        let cause = if n == 0 { "api" } else { "not_sent" };
        assert_eq!(event["data"]["cause"], cause);
    }
    assert!(daemon.log().contains(reason), "{}", daemon.log());
}

/// A port that refuses for as long as nobody listens on it; nobody else gets it meanwhile.
fn reserved_port() -> (rustix::fd::OwnedFd, SocketAddr) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap();
    (socket, address.try_into().unwrap())
}

#[test]
fn a_gateway_that_is_down_is_tried_until_it_is_up_and_charges_once() {
    let (socket, address) = reserved_port();
    let daemon = daemon_of(&format!("http://{address}"), &[]);
    super::pay(&daemon, "inv-1");
    until_not_sent(&daemon, "inv-1", "refused");
    rustix::net::listen(&socket, 128).unwrap();
    let stub = Stub::on(
        TcpListener::from(socket),
        |_| Accept::Serve,
        |call| answer(200, &call.echo("succeeded")),
    );
    until("it is paid", || {
        // payd may have stopped sending meanwhile; nobody waits here for its next probe.
        daemon.unix.post("/admin/resume", "").expect(200);
        daemon.invoice("inv-1")["status"] == "PAID"
    });
    assert_eq!(stub.count("POST", "inv-1"), 1);
    let story = story(&daemon, "inv-1");
    assert_eq!(story.last().unwrap(), SUCCEEDED);
    assert!(story[..story.len() - 1].iter().all(|it| it == REQUESTED));
}

#[test]
fn a_name_that_nobody_has_is_not_sent() {
    let daemon = daemon_of(
        "http://no-such-host.invalid",
        &[("PAYD_GATEWAY__CONNECT_TIMEOUT", "500ms")],
    );
    super::pay(&daemon, "inv-1");
    // A resolver that cannot ask anyone may take longer than the time for a connection.
    until_not_sent(&daemon, "inv-1", "no-such-host.invalid");
}

#[test]
fn a_connection_that_is_not_made_in_time_is_not_sent() {
    // One place in the queue of a listener that accepts nobody: Linux drops whoever comes after.
    let (socket, address) = reserved_port();
    rustix::net::listen(&socket, 0).unwrap();
    let _queue: Vec<TcpStream> = std::iter::from_fn(|| {
        TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()
    })
    .take(100)
    .collect();
    let daemon = daemon_of(
        &format!("http://{address}"),
        &[("PAYD_GATEWAY__CONNECT_TIMEOUT", "100ms")],
    );
    super::pay(&daemon, "inv-1");
    until_not_sent(&daemon, "inv-1", "within");
}

#[test]
fn the_limit_of_the_whole_call_also_ends_connecting_and_that_is_not_sent() {
    let (socket, address) = reserved_port();
    rustix::net::listen(&socket, 0).unwrap();
    let _queue: Vec<TcpStream> = std::iter::from_fn(|| {
        TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()
    })
    .take(100)
    .collect();
    let daemon = daemon_of(
        &format!("http://{address}"),
        &[
            ("PAYD_GATEWAY__CONNECT_TIMEOUT", "30s"),
            ("PAYD_GATEWAY__TIMEOUT", "100ms"),
        ],
    );
    super::pay(&daemon, "inv-1");
    until_not_sent(&daemon, "inv-1", "no connection within 100ms");
}

#[test]
fn a_redirect_is_not_followed() {
    let other = Stub::start(|call| answer(200, &call.echo("succeeded")));
    let elsewhere = format!("{}/charges", other.url());
    let stub = Stub::start(move |call| match (call.method.as_str(), call.before) {
        ("POST", _) | ("GET", 0) => Act::Say(bytes(
            if call.invoice == "inv-307" { 307 } else { 302 },
            &[("Location", &elsewhere)],
            b"",
        )),
        _ => know(call),
    });
    let daemon = stub.daemon(&[]);
    for id in ["inv-302", "inv-307"] {
        super::pay(&daemon, id);
    }
    for id in ["inv-302", "inv-307"] {
        daemon.until_invoice(id, "PAID");
        assert_eq!(story(&daemon, id), [REQUESTED, UNKNOWN, SUCCEEDED]);
        assert_eq!(stub.count("POST", id), 1);
        assert!(stub.count("GET", id) >= 2);
    }
    assert_eq!(other.connections(), 0);
}
