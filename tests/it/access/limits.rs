//! Limits on who asks too much, each seen from outside.

use std::time::{Duration, Instant};

use super::make_token;
use crate::support::daemon::Daemon;

#[test]
fn a_token_has_its_rate_where_one_is_set() {
    let daemon = Daemon::with(&[("PAYD_SERVER__RATE", "2/h")]);
    let (_, token) = make_token(&daemon, "shop", &["read"]);
    let shop = daemon.tcp.showing(Some(&token));
    shop.get("/invoices").expect(200);
    let answer = shop.get("/invoices");
    answer.problem(429, "rate_limited");
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1700..=1800).contains(&after), "{after}");
    // Nobody else pays for it, and the health checks are no requests of it.
    daemon.tcp.get("/invoices").expect(200);
    shop.get("/healthz").expect(200);
    for _ in 0..10 {
        daemon.unix.get("/invoices").expect(200);
    }
}

#[test]
fn guesses_are_slowed_and_good_tokens_of_the_same_peer_are_not() {
    let daemon = Daemon::start();
    let nobody = daemon.tcp.showing(Some("payd_guess"));
    let start = Instant::now();
    for _ in 0..6 {
        let answer = nobody.get("/invoices");
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    let six: u64 = [25, 50, 100, 200, 400, 800].iter().sum();
    assert!(
        start.elapsed() >= Duration::from_millis(six),
        "{:?}",
        start.elapsed()
    );
    // Many at once: some wait their second, the rest are turned away; whoever has a token is let in.
    std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..48)
            .map(|_| scope.spawn(|| nobody.get("/invoices").status))
            .collect();
        for _ in 0..5 {
            daemon.tcp.get("/invoices").expect(200);
        }
        let told: Vec<_> = guesses.into_iter().map(|it| it.join().unwrap()).collect();
        assert!(told.iter().all(|it| matches!(it, 401 | 429)), "{told:?}");
    });
    daemon.until_logged("without a valid token");
    let lines = daemon.log().matches("without a valid token").count();
    assert!((1..20).contains(&lines), "one line a second: {lines}");
}

#[test]
fn a_body_that_does_not_arrive_is_given_up_within_ten_seconds() {
    let daemon = Daemon::start();
    let start = Instant::now();
    let half = [
        ("Content-Type", "application/json"),
        ("Content-Length", "100"),
    ];
    std::thread::scope(|scope| {
        for (_, host) in daemon.hosts() {
            scope.spawn(move || {
                let answer = host.request("POST", "/invoices", &half, b"{").unwrap();
                let problem = answer.problem(408, "request_timeout");
                assert!(!problem.to_string().contains("JSON"), "{problem}");
            });
        }
    });
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    // Who has shown no token is not waited for.
    let nobody = daemon.tcp.showing(None);
    nobody
        .request("POST", "/invoices", &half, b"{")
        .unwrap()
        .problem(401, "unauthenticated");
}

#[test]
fn the_socket_has_streams_when_tcp_has_taken_all() {
    const LINES: (&str, &str) = ("Accept", "application/x-ndjson");
    let daemon = Daemon::start();
    let open =
        |host: &crate::support::http::Host| host.open("GET", "/events", &[LINES], b"").unwrap();
    let _tcp: Vec<_> = (0..32)
        .map(|_| {
            let stream = open(&daemon.tcp);
            assert_eq!(stream.status, 200);
            stream
        })
        .collect();
    assert_eq!(open(&daemon.tcp).status, 503);
    let _unix: Vec<_> = (0..4)
        .map(|_| {
            let stream = open(&daemon.unix);
            assert_eq!(stream.status, 200);
            stream
        })
        .collect();
    assert_eq!(open(&daemon.unix).status, 503);
}
