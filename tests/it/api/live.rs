//! Live streams under load: whoever reads for them, and whoever of them stops for a while, each sees
//! every event once, in order, in the bytes of the log.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{NDJSON, make_paid};
use crate::support::daemon::{Daemon, until};
use crate::support::http::{Host, Stream};

const LINES: (&str, &str) = ("Accept", "application/x-ndjson");
const SSE: (&str, &str) = ("Accept", "text/event-stream");

/// Invoices a request, and how many requests: some 6 MB of events, more than payd and the kernel keep.
const BULK: usize = 100;
const BULKS: usize = 40;

/// The next event's sequence, and its bytes as they are in the log. `None`: the stream has ended.
fn next(stream: &mut Stream) -> Option<(usize, String)> {
    let mut id = None;
    loop {
        let line = stream.line().unwrap()?;
        if let Some(value) = line.strip_prefix("id: ") {
            id = Some(value.to_owned());
            continue;
        }
        let event = line.strip_prefix("data: ").unwrap_or(&line);
        // Heartbeats, and what stands between frames.
        if !event.starts_with('{') {
            continue;
        }
        let (_, rest) = event.split_once("\"id\":\"").unwrap();
        let (sequence, _) = rest.split_once('"').unwrap();
        if let Some(id) = id {
            assert_eq!(id, sequence, "the id of the frame is the event's");
        }
        return Some((sequence.parse().unwrap(), event.to_owned()));
    }
}

/// What a reader has seen: where it begins, and all events from there.
struct Seen {
    who: String,
    events: Vec<(usize, String)>,
}

impl Seen {
    fn read(&mut self, stream: &mut Stream, until: impl Fn(usize) -> bool) {
        loop {
            let Some((sequence, event)) = next(stream) else {
                panic!("{}: ended after {} events", self.who, self.events.len());
            };
            self.events.push((sequence, event));
            if until(sequence) {
                return;
            }
        }
    }

    #[track_caller]
    fn assert_is(&self, log: &[(usize, String)]) {
        for (n, (seen, want)) in self.events.iter().zip(log).enumerate() {
            assert_eq!(seen, want, "{}: event {n}", self.who);
        }
        assert_eq!(self.events.len(), log.len(), "{}", self.who);
    }
}

fn open(host: &Host, path: &str, format: (&str, &str)) -> Stream {
    let stream = host.open("GET", path, &[format], b"").unwrap();
    assert_eq!(stream.status, 200, "{path}");
    stream
}

fn head(daemon: &Daemon) -> usize {
    let page = daemon.unix.get("/events?after=now").expect(200);
    page["next"].as_str().unwrap().parse().unwrap()
}

#[test]
fn every_live_reader_sees_all_once_in_order_also_one_that_stops_and_goes_on() {
    let daemon = &Daemon::start();
    make_paid(daemon, "before");
    let begin = head(daemon);
    let end = begin + BULK * BULKS;
    let line = format!("{{\"amount\":1,\"description\":\"{}\"}}\n", "x".repeat(900));
    // How many readers are live, and so may be written for; and how many bulks are written.
    let (live, written) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
    const EARLY: usize = 10;
    thread::scope(|scope| {
        // A filter that leaves nothing out: this one reads for itself, whatever the others do.
        let all = "/events?type=InvoiceCreated,PaymentRequested,PaymentSucceeded";
        let log = scope.spawn(move || {
            let mut seen = Seen {
                who: "the log".to_owned(),
                events: Vec::new(),
            };
            seen.read(&mut open(&daemon.unix, all, LINES), |it| it == end);
            seen.events
        });
        let mut readers = Vec::new();
        for n in 0..EARLY {
            let (_, host) = daemon.hosts()[n % 2];
            let format = [LINES, SSE][n / 2 % 2];
            let stops = n >= EARLY - 3;
            let (path, from) = match n % 3 {
                0 => ("/events?after=now".to_owned(), begin),
                1 => (format!("/events?after={begin}"), begin),
                _ => ("/events".to_owned(), 0),
            };
            let reader = scope.spawn(move || {
                let mut stream = open(host, &path, format);
                live.fetch_add(1, Ordering::Relaxed);
                let mut seen = Seen {
                    who: format!("reader {n}, {path}, {}", format.1),
                    events: Vec::new(),
                };
                if stops {
                    seen.read(&mut stream, |it| it > begin);
                    until("all is written", || {
                        written.load(Ordering::Relaxed) == BULKS
                    });
                }
                seen.read(&mut stream, |it| it == end);
                (seen, from)
            });
            readers.push(reader);
        }
        scope.spawn(move || {
            until("all are there", || live.load(Ordering::Relaxed) == EARLY);
            for n in 1..=BULKS {
                let bulk = line.repeat(BULK);
                let answer = daemon.unix.post_with("/invoices", &[NDJSON], &bulk);
                assert_eq!(answer.status, 200);
                written.store(n, Ordering::Relaxed);
            }
        });
        // And some that come in the middle of it: from there, from long before, and for a while only.
        until("some are written", || written.load(Ordering::Relaxed) > 5);
        let mut late = Vec::new();
        for n in 0..4 {
            let (_, host) = daemon.hosts()[n % 2];
            let format = [SSE, LINES][n / 2];
            late.push(scope.spawn(move || {
                let (least, after) = (head(daemon), begin + 137 * (n + 1));
                let mut now = open(host, "/events?after=now", format);
                let most = head(daemon);
                let mut middle = open(host, &format!("/events?after={after}"), format);
                let mut seen = Seen {
                    who: format!("late reader {n}, after={after}"),
                    events: Vec::new(),
                };
                seen.read(&mut middle, |it| it == end);
                let mut from_now = Seen {
                    who: format!("late reader {n}, from now on"),
                    events: Vec::new(),
                };
                if most < end {
                    from_now.read(&mut now, |it| it == end);
                    let from = from_now.events[0].0 - 1;
                    assert!((least..=most).contains(&from), "{least} {from} {most}");
                }
                (seen, after, from_now)
            }));
        }
        let log = log.join().unwrap();
        assert_eq!(
            log.iter().map(|it| it.0).collect::<Vec<_>>(),
            (1..=end).collect::<Vec<_>>()
        );
        for reader in readers {
            let (seen, from) = reader.join().unwrap();
            seen.assert_is(&log[from..]);
        }
        for reader in late {
            let (seen, from, from_now) = reader.join().unwrap();
            seen.assert_is(&log[from..]);
            from_now.assert_is(&log[end - from_now.events.len()..]);
        }
    });
}

#[test]
fn a_live_stream_ends_where_its_limit_is() {
    let daemon = &Daemon::start();
    make_paid(daemon, "inv-1");
    let begin = head(daemon);
    // One that stays, so that the others end in the middle of what is read for it.
    let mut stays = open(&daemon.unix, "/events?after=now", LINES);
    let mut streams = Vec::new();
    for (n, limit) in [1, 2, 7, 50, 199, 200].into_iter().enumerate() {
        let (_, host) = daemon.hosts()[n % 2];
        let format = [LINES, SSE][n / 2 % 2];
        let path = format!("/events?after=now&limit={limit}");
        streams.push((limit, open(host, &path, format)));
    }
    for _ in 0..2 {
        let bulk = "{\"amount\":1}\n".repeat(100);
        let answer = daemon.unix.post_with("/invoices", &[NDJSON], &bulk);
        assert_eq!(answer.status, 200);
    }
    for (limit, mut stream) in streams {
        let mut seen = Vec::new();
        while let Some((sequence, _)) = next(&mut stream) {
            seen.push(sequence);
        }
        assert_eq!(seen, (begin + 1..=begin + limit).collect::<Vec<_>>());
    }
    for n in 1..=200 {
        assert_eq!(next(&mut stays).unwrap().0, begin + n);
    }
}

/// What gathers for a moment, before it is sent, is not lost where payd ends in that moment.
#[test]
fn what_was_answered_before_the_end_is_on_live_streams() {
    let mut daemon = Daemon::start();
    let mut streams: Vec<Stream> = (0..8)
        .map(|n| open(daemon.hosts()[n % 2].1, "/events", [LINES, SSE][n / 2 % 2]))
        .collect();
    let mut sequence = 0;
    let mut make = |count: usize| {
        for _ in 0..count {
            daemon.unix.post("/invoices", "{\"amount\":1}").expect(201);
        }
        sequence += count;
        sequence
    };
    // The first is sent at once, and those behind it a little later.
    let live = make(1);
    for stream in &mut streams {
        assert_eq!(next(stream).unwrap().0, live);
    }
    let end = make(3);
    daemon.signal(rustix::process::Signal::TERM);
    for stream in &mut streams {
        for n in live + 1..=end {
            assert_eq!(next(stream).map(|it| it.0), Some(n));
        }
        assert!(next(stream).is_none(), "and then it ends as bodies do");
    }
    assert!(daemon.wait().success());
}
