//! What has no ceiling but a limit: memory, starts, pages, event streams, the write-ahead log, payctl.
//! One figure a line, its limit beside it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncReadExt;

use crate::arguments::{Growth, Kind, Limits};
use crate::compare::measure;
use crate::figures::{Figures, load_average, median, medians, ratio};
use crate::load::{self, Load};
use crate::seed::{End, seed};
use crate::server::{self, GatewayStub, Server, with};
use crate::wire::{Wire, get};

/// Open invoices at the time of the SIGKILL.
const OPEN: u64 = 100_000;

/// Readers of the log while payments are made.
const READERS: usize = 32;

/// Where ids of loads begin, beyond those of any seed.
const FIRST: u64 = 1 << 40;

/// One line of the report.
fn line(what: &str, value: f64, unit: &str, limit: &str) {
    println!(
        "{what:<58} {value:>10.2} {unit:<5} {limit:<16} load {:.1}",
        load_average()
    );
    std::io::stdout().flush().unwrap();
}

pub(crate) fn limits(arguments: &Limits) {
    let payd = arguments.payd.clone().unwrap_or_else(server::payd);
    sizes(&payd);
    idle(&payd);
    commands(&payd, arguments.rounds);
    stream(&payd, arguments.events);
    readers(&payd, arguments);
    sustained(&payd, arguments);
    crash(&payd);
}

fn sizes(payd: &Path) {
    let payctl = payd.with_file_name("payctl");
    for (name, path) in [("payd", payd), ("payctl", payctl.as_path())] {
        if let Ok(metadata) = std::fs::metadata(path) {
            let size = metadata.len() as f64 / 1024.0 / 1024.0;
            line(&format!("size of {name}"), size, "MiB", "");
        }
    }
}

fn idle(payd: &Path) {
    let directory = server::directory();
    let server = Server::payd_in(payd, directory.path(), None);
    line(
        "memory, idle, empty store",
        resident(&server),
        "MiB",
        "at most 20",
    );
    server.stop();
}

fn resident(server: &Server) -> f64 {
    server.memory("VmRSS") as f64 / 1024.0
}

/// payctl from its start to its end.
fn commands(payd: &Path, rounds: usize) {
    let payctl = payd.with_file_name("payctl");
    let server = Server::payd(payd, None);
    let host = format!("unix://{}", server.socket.display());
    let run = |args: &[&str]| {
        let mut command = Command::new(&payctl);
        command
            .env_clear()
            .env("PAYD_HOST", &host)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let since = Instant::now();
        assert!(command.status().unwrap().success(), "{args:?}");
        since.elapsed().as_secs_f64() * 1000.0
    };
    run(&["invoice", "create", "inv-1", "--amount", "1000", "-q"]);
    for (args, limit) in [
        (["invoice", "show", "inv-1"].as_slice(), "at most 8"),
        (["--help"].as_slice(), "at most 4"),
    ] {
        let took = median((0..rounds * 5).map(|_| run(args)));
        line(
            &format!("payctl {}, p50", args.join(" ")),
            took,
            "ms",
            limit,
        );
    }
    server.stop();
}

/// One reader catches up with a log, and is timed by what it has read.
fn stream(payd: &Path, events: u64) {
    let directory = server::directory();
    let invoices = events / 3;
    seed(directory.path(), 0, invoices, false, End::Paid);
    let server = Server::payd_in(payd, directory.path(), None);
    let rate = median((0..3).map(|_| catch_up(&server.socket, invoices * 3)));
    line(
        "events to one reader that catches up",
        rate,
        "/s",
        "at least 200000",
    );
    line("memory, after that", resident(&server), "MiB", "");
    pages(&server);
    server.stop();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn catch_up(socket: &Path, events: u64) -> f64 {
    block_on(async {
        let mut stream = subscribe(socket, "0").await;
        let since = Instant::now();
        let mut buffer = vec![0; 256 * 1024];
        let mut seen = 0;
        while seen < events {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the stream ended after {seen} events");
            // A line each; lines of chunks and headers end in a carriage return as well.
            seen += buffer[..read].windows(2).filter(|it| *it == b"}\n").count() as u64;
        }
        seen as f64 / since.elapsed().as_secs_f64()
    })
}

async fn subscribe(socket: &Path, after: &str) -> tokio::net::UnixStream {
    use tokio::io::AsyncWriteExt;
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let request = format!(
        "GET /events?after={after} HTTP/1.1\r\nhost: localhost\r\naccept: application/x-ndjson\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// The slowest of a few looks at each kind of page.
fn pages(server: &Server) {
    for target in [
        "/invoices",
        "/invoices?limit=1000",
        "/invoices?status=PAID",
        "/invoices?status=PENDING",
        "/invoices?status=FAILED",
        "/invoices?order=asc&status=PAID",
        "/events",
        "/events?type=PaymentSucceeded",
        "/events?type=PaymentFailed&type=InvoiceCreated",
        "/events?invoice=order-0000000000000001",
        "/admin/status",
    ] {
        let (p50, worst) = page(&server.socket, target);
        line(&format!("GET {target}, p50"), p50, "ms", "at most 5");
        line(&format!("GET {target}, slowest of 50"), worst, "ms", "");
    }
}

fn page(socket: &Path, target: &str) -> (f64, f64) {
    block_on(async {
        let mut wire = Wire::open(socket).await.unwrap();
        let request = get(target);
        let mut times = Vec::new();
        for _ in 0..50 {
            let since = Instant::now();
            let answer = wire.send(&request).await.unwrap();
            let body = String::from_utf8_lossy(answer.body).into_owned();
            assert_eq!(answer.status, 200, "{target}: {body}");
            times.push(since.elapsed().as_secs_f64() * 1000.0);
        }
        let worst = times.iter().copied().fold(0.0, f64::max);
        (median(times), worst)
    })
}

fn load(kind: Kind, seconds: f64, connections: usize) -> Load {
    let measured = Duration::from_secs_f64(seconds);
    Load {
        kind,
        connections,
        warm_up: measured / 2,
        measured,
        lines: 100,
        keys: true,
        random_ids: false,
        first: FIRST,
    }
}

/// Payments with and without live readers of the log, in turn.
fn readers(payd: &Path, arguments: &Limits) {
    let stub = GatewayStub::start();
    let one = |count: usize| {
        let server = Server::payd(payd, Some(stub.port));
        let socket = server.socket.clone();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        // Their own thread; what they cost the machine, they cost.
        let reading = std::thread::spawn(move || {
            block_on(async {
                for _ in 0..count {
                    let mut stream = subscribe(&socket, "0").await;
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 64 * 1024];
                        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                    });
                }
                while stopped.try_recv().is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        });
        let figures = measure(&server, load(Kind::Pay, arguments.seconds, 64));
        stop.send(()).unwrap();
        reading.join().unwrap();
        server.stop();
        figures
    };
    let (with, without): (Vec<Figures>, Vec<Figures>) = (0..arguments.rounds)
        .map(|_| (one(READERS), one(0)))
        .unzip();
    let what = format!("payments with {READERS} readers / without");
    line(
        &what,
        ratio(&with, &without, |it| it.rate),
        "",
        "at least 0.9",
    );
}

/// A long load: what it does to memory, to the write-ahead log and to the slowest.
fn sustained(payd: &Path, arguments: &Limits) {
    let stub = GatewayStub::start();
    let directory = server::directory();
    let server = Server::payd_in(payd, directory.path(), Some(stub.port));
    let wal = with(&directory.path().join("payd.db"), "-wal");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let watching = std::thread::spawn(move || {
        let mut largest = 0;
        while stopped.try_recv().is_err() {
            largest = std::fs::metadata(&wal).map_or(largest, |it| largest.max(it.len()));
            std::thread::sleep(Duration::from_millis(20));
        }
        largest
    });
    let mut long = load(Kind::Create, arguments.sustained, 64);
    long.warm_up = Duration::from_secs(1);
    let (measured, ..) = block_on(load::run(&server.socket, long, || ()));
    stop.send(()).unwrap();
    let largest = watching.join().unwrap() as f64 / 1024.0 / 1024.0;
    let ms = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1000.0;
    line(
        "the write-ahead log under sustained creates, largest",
        largest,
        "MiB",
        "bounded",
    );
    line("a create then, p99.9", ms(0.999), "ms", "");
    line("a create then, slowest", ms(1.0), "ms", "");
    let figures = measure(&server, {
        let mut pay = load(Kind::Pay, arguments.seconds, 256);
        pay.first = FIRST * 2;
        pay
    });
    line(
        "memory, 256 connections that pay",
        figures.memory_mib,
        "MiB",
        "at most 64",
    );
    server.stop();
}

/// A SIGKILL with many open invoices, and the start after it.
fn crash(payd: &Path) {
    let directory = server::directory();
    seed(directory.path(), 0, OPEN, false, End::Open);
    let server = Server::payd_in(payd, directory.path(), None);
    server.signal(Signal::KILL);
    drop(server);
    let since = Instant::now();
    let server = Server::payd_in(payd, directory.path(), None);
    let took = since.elapsed().as_secs_f64();
    line(
        "ready after a SIGKILL with 100,000 open invoices",
        took,
        "s",
        "at most 2",
    );
    server.stop();
    let since = Instant::now();
    let server = Server::payd_in(payd, directory.path(), None);
    line(
        "ready after a restart",
        since.elapsed().as_secs_f64(),
        "s",
        "at most 1",
    );
    server.stop();
}

/// The same load on a store with many invoices and on an empty one, in turn.
pub(crate) fn growth(arguments: &Growth) {
    let payd = arguments.payd.clone().unwrap_or_else(server::payd);
    let stub = GatewayStub::start();
    let full = server::directory();
    seed(
        full.path(),
        0,
        arguments.invoices,
        arguments.random_ids,
        End::Paid,
    );
    let bytes: u64 = std::fs::read_dir(full.path())
        .unwrap()
        .filter_map(|it| it.ok()?.metadata().ok())
        .map(|it| it.len())
        .sum();
    line("the store", bytes as f64 / 1024.0 / 1024.0, "MiB", "");
    let since = Instant::now();
    let server = Server::payd_in(&payd, full.path(), Some(stub.port));
    line(
        "ready after a start",
        since.elapsed().as_secs_f64(),
        "s",
        "at most 1",
    );
    line("memory, idle", resident(&server), "MiB", "at most 20");
    pages(&server);
    server.stop();
    let mut first = FIRST;
    for kind in [Kind::Create, Kind::Pay] {
        let mut one = |directory: &Path| {
            let server = Server::payd_in(&payd, directory, Some(stub.port));
            let mut load = load(kind, arguments.seconds, 64);
            load.random_ids = arguments.random_ids;
            load.first = first;
            first += FIRST;
            let figures = measure(&server, load);
            server.stop();
            figures
        };
        let (large, empty): (Vec<Figures>, Vec<Figures>) = (0..arguments.rounds)
            .map(|_| (one(full.path()), one(server::directory().path())))
            .unzip();
        let (a, b) = (medians(&large), medians(&empty));
        let limit = if arguments.random_ids {
            "at least 0.6"
        } else {
            "at least 0.8"
        };
        line(
            &format!("{} a second, full store", kind.as_str()),
            a.rate,
            "/s",
            "",
        );
        line(
            &format!("{} a second, empty store", kind.as_str()),
            b.rate,
            "/s",
            "",
        );
        line(
            &format!("{}, full / empty", kind.as_str()),
            ratio(&large, &empty, |it| it.rate),
            "",
            limit,
        );
        line(&format!("{} p99, full", kind.as_str()), a.p99_ms, "ms", "");
        line(&format!("{} p99, empty", kind.as_str()), b.p99_ms, "ms", "");
    }
}
