//! `GET /events` as a stream without end: from any cursor, with no gap and no duplicate, for 32 at a
//! time, whoever is slow.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{NDJSON, assert_problem, make, make_and_pay, make_paid, refused};
use crate::support::daemon::{Daemon, until};
use crate::support::http::{Host, Stream};

const LINES: (&str, &str) = ("Accept", "application/x-ndjson");
const SSE: (&str, &str) = ("Accept", "text/event-stream");

fn open(host: &Host, path: &str, headers: &[(&str, &str)]) -> Stream {
    let stream = host.open("GET", path, headers, b"").unwrap();
    assert_eq!(stream.status, 200, "{path}");
    stream
}

/// The next so many events, in either format. A heartbeat instead of one fails.
fn take(stream: &mut Stream, count: usize) -> Vec<Value> {
    let sse = stream.header("content-type") == Some("text/event-stream");
    (0..count)
        .map(|_| {
            if sse {
                next_frame(stream)
            } else {
                next_line(stream)
            }
        })
        .collect()
}

fn next_line(stream: &mut Stream) -> Value {
    let line = stream.line().unwrap().expect("an event");
    assert!(!line.is_empty(), "nothing came for long");
    serde_json::from_str(&line).unwrap()
}

fn next_frame(stream: &mut Stream) -> Value {
    let (mut id, mut data) = (String::new(), None);
    loop {
        let line = stream.line().unwrap().expect("an event");
        assert!(!line.starts_with(':'), "nothing came for long");
        if let Some(value) = line.strip_prefix("id:") {
            value.trim().clone_into(&mut id);
        } else if let Some(value) = line.strip_prefix("data:") {
            data = Some(serde_json::from_str::<Value>(value).unwrap());
        } else if let (true, Some(event)) = (line.is_empty(), data.take()) {
            assert_eq!(event["id"], id, "the id of the frame is the event's");
            return event;
        }
    }
}

fn sequences(events: &[Value]) -> Vec<usize> {
    events
        .iter()
        .map(|it| it["id"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// So many invoices more, each with a description of so many bytes.
fn create(daemon: &Daemon, count: usize, size: usize) {
    let line = format!(
        "{{\"amount\":1,\"description\":\"{}\"}}\n",
        "x".repeat(size)
    );
    for _ in 0..count / 500 {
        let answer = daemon
            .unix
            .post_with("/invoices", &[NDJSON], &line.repeat(500));
        assert_eq!(answer.status, 200);
    }
    for _ in 0..count % 500 {
        daemon.unix.post("/invoices", &line).expect(201);
    }
}

#[test]
fn a_stream_says_what_it_is() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    let stored = daemon.unix.get("/events").text();
    for (_, host) in daemon.hosts() {
        let mut sse = open(host, "/events", &[SSE]);
        assert_eq!(sse.header("content-type"), Some("text/event-stream"));
        assert!(
            sse.header("cache-control")
                .is_some_and(|it| it.contains("no-"))
        );
        let mut frame = Vec::new();
        loop {
            let line = sse.line().unwrap().unwrap();
            if line.is_empty() && !frame.is_empty() {
                break;
            }
            frame.push(line);
        }
        // Anything but id, data and comments would change what a browser hands on, and how.
        assert!(frame.iter().all(|line| line.starts_with("id:")
            || line.starts_with("data:")
            || line.starts_with(':')));
        assert!(
            frame
                .iter()
                .any(|line| line.strip_prefix("id:").is_some_and(|id| id.trim() == "1"))
        );
        let data = frame
            .iter()
            .find_map(|line| line.strip_prefix("data:"))
            .unwrap()
            .trim();
        assert!(stored.contains(data), "the bytes are those of the log");

        let mut lines = open(host, "/events", &[LINES]);
        assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(lines.line().unwrap().unwrap(), data);
    }
}

#[test]
fn a_stream_resumes_at_any_cursor() {
    let daemon = Daemon::start();
    make_paid(&daemon, "inv-1");
    make_and_pay(&daemon, "inv-2", "sim:decline-then-approve");
    daemon.until_invoice("inv-2", "PAID");
    let whole = daemon.events();
    let end = whole.len();
    for cursor in 0..=end {
        for (n, (_, host)) in daemon.hosts().into_iter().enumerate() {
            let format = [LINES, SSE][(cursor + n) % 2];
            let path = format!("/events?after={cursor}");
            let mut by_query = open(host, &path, &[format]);
            assert_eq!(take(&mut by_query, end - cursor), whole[cursor..]);
            let last = cursor.to_string();
            // It wins over `after`, which may even be worse.
            for after in ["/events", "/events?after=0", "/events?after=now"] {
                let mut by_header = open(host, after, &[format, ("Last-Event-ID", &last)]);
                assert_eq!(
                    take(&mut by_header, end - cursor),
                    whole[cursor..],
                    "{after} {cursor}"
                );
            }
        }
    }
    let mut open_streams: Vec<Stream> = daemon
        .hosts()
        .iter()
        .flat_map(|(_, host)| [(host, LINES), (host, SSE)])
        .map(|(host, format)| open(host, &format!("/events?after={end}"), &[format]))
        .collect();
    make(&daemon, "inv-3", "sim:approve");
    for stream in &mut open_streams {
        assert_eq!(
            sequences(&take(stream, 1)),
            [end + 1],
            "and goes on with what comes"
        );
    }
    for (cursor, field) in [
        ("x", "Last-Event-ID"),
        ("-1", "Last-Event-ID"),
        ("999", "after"),
    ] {
        let answer = refused(&daemon.tcp, "/events", &[SSE, ("Last-Event-ID", cursor)]);
        assert_eq!(answer.status, 422, "{cursor}");
        let problem = answer.problem(422, "invalid_request");
        let named = problem["errors"][0]["field"].as_str().unwrap();
        assert!(named == field || named == "Last-Event-ID", "{problem}");
    }
}

#[test]
fn from_now_on_is_from_the_end() {
    let daemon = Daemon::start();
    create(&daemon, 5, 1);
    for format in [LINES, SSE] {
        for (_, host) in daemon.hosts() {
            let end = daemon.events().len();
            let mut stream = open(host, "/events?after=now", &[format]);
            make_paid(&daemon, &format!("inv-{end}"));
            assert_eq!(
                sequences(&take(&mut stream, 3)),
                [end + 1, end + 2, end + 3]
            );
        }
    }
}

#[test]
fn filters_hold_in_streams_too() {
    let daemon = Daemon::start();
    let path = "/events?type=PaymentSucceeded&type=InvoiceCreated&invoice=inv-2";
    let mut early = open(&daemon.unix, path, &[SSE]);
    for id in ["inv-1", "inv-2", "inv-3"] {
        make_paid(&daemon, id);
    }
    let mut late = open(&daemon.tcp, path, &[LINES]);
    for stream in [&mut early, &mut late] {
        let events = take(stream, 2);
        assert!(events.iter().all(|it| it["subject"] == "inv-2"));
        assert_eq!(
            super::types(&events),
            ["InvoiceCreated", "PaymentSucceeded"]
        );
    }
}

/// What is committed while a stream is being opened is on it, at once: not with the next event.
#[test]
fn nothing_falls_between_the_opening_of_a_stream_and_its_first_wait() {
    let daemon = Daemon::start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Load of another kind, so that threads change places at odd moments.
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    daemon.unix.get("/invoices?limit=1").expect(200);
                }
            });
        }
        for round in 0..300_usize {
            let (_, host) = daemon.hosts()[round % 2];
            let opening =
                scope.spawn(move || open(host, &format!("/events?after={round}"), &[LINES]));
            make(&daemon, &format!("inv-{round}"), "sim:approve");
            let line = opening.join().unwrap().line().unwrap().unwrap();
            stop.store(line.is_empty(), Ordering::Relaxed);
            assert!(
                !line.is_empty(),
                "round {round}: a heartbeat, and the event is not there"
            );
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(sequences(&[event]), [round + 1]);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn readers_that_come_back_miss_nothing_over_restarts_of_the_daemon() {
    let mut daemon = Daemon::start();
    let mut seen: Vec<usize> = Vec::new();
    for round in 0..4 {
        create(&daemon, 30, 10);
        make_paid(&daemon, &format!("inv-{round}"));
        let (_, host) = daemon.hosts()[round % 2];
        let last = seen.len().to_string();
        let mut stream = if round % 2 == 0 {
            open(host, "/events?after=0", &[SSE, ("Last-Event-ID", &last)])
        } else {
            open(host, &format!("/events?after={last}"), &[LINES])
        };
        // Not all there is, so that something is left for the next time.
        seen.extend(sequences(&take(&mut stream, 20 + round)));
        if round % 2 == 0 {
            daemon.kill();
        } else {
            assert!(daemon.stop().success());
        }
        daemon.start_again();
    }
    let end = daemon.events().len();
    let mut stream = open(
        &daemon.tcp,
        &format!("/events?after={}", seen.len()),
        &[LINES],
    );
    seen.extend(sequences(&take(&mut stream, end - seen.len())));
    assert_eq!(seen, (1..=end).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_reads_nothing_slows_nobody_down() {
    const EVENTS: usize = 6000;
    let daemon = Daemon::start();
    // Some for each format and transport, which take nothing for now.
    let mut slow: Vec<Stream> = Vec::new();
    for n in 0..8 {
        let (_, host) = daemon.hosts()[n % 2];
        slow.push(open(host, "/events", &[[LINES, SSE][n / 2 % 2]]));
    }
    let mut quick = open(&daemon.unix, "/events", &[SSE]);
    let start = Instant::now();
    // Some six megabytes, which no buffer on the way holds.
    create(&daemon, EVENTS, 900);
    assert_eq!(
        sequences(&take(&mut quick, EVENTS)),
        (1..=EVENTS).collect::<Vec<_>>()
    );
    daemon.tcp.get("/events?limit=1").expect(200);
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    // Neither did they lose anything.
    for stream in &mut slow {
        assert_eq!(
            sequences(&take(stream, EVENTS)),
            (1..=EVENTS).collect::<Vec<_>>()
        );
    }
}

#[test]
fn thirty_two_streams_and_no_more() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    let mut streams: Vec<Stream> = (0..32)
        .map(|n| {
            open(
                daemon.hosts()[n % 2].1,
                "/events",
                &[[LINES, SSE][n / 2 % 2]],
            )
        })
        .collect();
    for stream in &mut streams {
        assert_eq!(sequences(&take(stream, 1)), [1]);
    }
    for (_, host) in daemon.hosts() {
        let answer = refused(host, "/events", &[SSE]);
        assert_problem(&answer, 503, "unavailable", &[]);
        // Pages and all the rest are there as ever.
        host.get("/events").expect(200);
        host.get("/invoices/inv-1").expect(200);
        let export = host.request("GET", "/invoices", &[LINES], b"").unwrap();
        assert_eq!(
            export.lines().len(),
            1,
            "an export has an end: it takes no place"
        );
    }
    // A wrong one takes no place, and neither does one whose reader has gone.
    drop(streams.pop());
    until("a place is free", || {
        let stream = daemon.tcp.open("GET", "/events", &[LINES], b"").unwrap();
        stream.status == 200
    });
    make(&daemon, "inv-2", "sim:approve");
    for stream in &mut streams {
        assert_eq!(sequences(&take(stream, 1)), [2]);
    }
}

#[test]
fn refused_streams_take_no_place() {
    let daemon = Daemon::start();
    for _ in 0..40 {
        for path in ["/events?after=7", "/events?limit=x"] {
            assert_eq!(refused(&daemon.tcp, path, &[SSE]).status, 422);
        }
        let head = daemon.tcp.request("HEAD", "/healthz", &[], b"");
        drop(head);
    }
    make(&daemon, "inv-1", "sim:approve");
    assert_eq!(
        sequences(&take(&mut open(&daemon.tcp, "/events", &[SSE]), 1)),
        [1]
    );
}

#[test]
fn streams_end_when_payd_does_and_not_in_the_middle_of_an_event() {
    let mut daemon = Daemon::start();
    create(&daemon, 1000, 900);
    let mut streams: Vec<Stream> = (0..8)
        .map(|n| {
            open(
                daemon.hosts()[n % 2].1,
                "/events",
                &[[LINES, SSE][n / 2 % 2]],
            )
        })
        .collect();
    for (n, stream) in streams.iter_mut().enumerate() {
        // Some have read a little, some all, and wait.
        take(stream, if n < 4 { 1 } else { 1000 });
    }
    // And two that never read again, with more on its way than any buffer holds.
    let stalled: Vec<Stream> = [LINES, SSE]
        .iter()
        .map(|format| open(&daemon.unix, "/events", &[*format]))
        .collect();
    let start = Instant::now();
    daemon.signal(rustix::process::Signal::TERM);
    let ends: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            std::thread::spawn(move || {
                let mut rest = String::new();
                // The body ends as bodies do; a break would be an error here.
                stream.read_to_string(&mut rest).unwrap();
                rest
            })
        })
        .collect();
    for end in ends {
        let rest = end.join().unwrap();
        assert!(
            rest.is_empty() || rest.ends_with('\n'),
            "{:?}",
            &rest[rest.len().saturating_sub(80)..]
        );
    }
    assert!(daemon.wait().success());
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "nobody waits for streams: {:?}",
        start.elapsed()
    );
    drop(stalled);
}

/// The one test that waits for a heartbeat: some 15 s.
#[test]
fn a_silent_stream_gives_a_sign_of_life() {
    let daemon = Daemon::start();
    make(&daemon, "inv-1", "sim:approve");
    let beats: Vec<_> = [SSE, LINES]
        .into_iter()
        .zip(daemon.hosts())
        .map(|(format, (_, host))| {
            let host = host.clone();
            std::thread::spawn(move || {
                let mut stream = open(&host, "/events", &[format]);
                assert_eq!(sequences(&take(&mut stream, 1)), [1]);
                let start = Instant::now();
                let mut line = stream.line().unwrap().unwrap();
                if format == SSE && line.is_empty() {
                    line = stream.line().unwrap().unwrap();
                }
                // A comment is none of an EventSource's business; an empty line none of a reader's.
                assert!(
                    if format == SSE {
                        line.starts_with(':')
                    } else {
                        line.is_empty()
                    },
                    "{line:?}"
                );
                (start.elapsed(), stream)
            })
        })
        .collect();
    // What a filter leaves out is silence too, however much of it there is.
    let busy = Daemon::start();
    let filtered = busy
        .tcp
        .open("GET", "/events?invoice=none", &[LINES], b"")
        .unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    busy.unix.post("/invoices", r#"{"amount":1}"#).expect(201);
                }
            });
        }
        let mut filtered = filtered;
        let start = Instant::now();
        let line = filtered.line();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(line.unwrap().as_deref(), Some(""));
        let after = start.elapsed();
        assert!(
            (Duration::from_secs(12)..Duration::from_secs(25)).contains(&after),
            "{after:?}"
        );
    });
    let mut streams = Vec::new();
    for beat in beats {
        let (after, stream) = beat.join().unwrap();
        assert!(
            (Duration::from_secs(12)..Duration::from_secs(25)).contains(&after),
            "{after:?}"
        );
        streams.push(stream);
    }
    make(&daemon, "inv-2", "sim:approve");
    for stream in &mut streams {
        assert_eq!(sequences(&take(stream, 1)), [2], "and goes on");
    }
}
