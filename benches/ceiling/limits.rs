//! What has no ceiling but a limit: memory, starts, pages, event streams, the write-ahead log, payctl.
//! One figure a line, its limit beside it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncReadExt;

use crate::arguments::{Growth, Kind, Limit, Limits};
use crate::compare::measure;
use crate::figures::{Figures, load_average, median, medians, ratio};
use crate::load::{self, Load};
use crate::readers::{self, subscribe};
use crate::seed::{End, seed};
use crate::server::{self, GatewayStub, Server, with};
use crate::wire::{Wire, get};

/// Open invoices at the time of the SIGKILL.
const OPEN: u64 = 100_000;

/// One line of the report.
pub(crate) fn line(what: &str, value: f64, unit: &str, limit: &str) {
    println!(
        "{what:<58} {value:>10.2} {unit:<5} {limit:<16} load {:.1}",
        load_average()
    );
    std::io::stdout().flush().unwrap();
}

pub(crate) fn limits(arguments: &Limits) {
    let payd = arguments.payd.clone().unwrap_or_else(server::payd);
    for part in &arguments.only {
        match part {
            Limit::Sizes => sizes(&payd),
            Limit::Idle => idle(&payd),
            Limit::Commands => commands(&payd, arguments.rounds),
            Limit::Stream => stream(&payd, arguments.events),
            Limit::Readers => readers::readers(&payd, arguments),
            Limit::Sustained => {
                let directory = server::directory();
                let seconds = (arguments.sustained, arguments.seconds);
                sustained(&payd, directory.path(), seconds, None);
            }
            Limit::Crash => crash(&payd, server::directory().path(), false),
        }
    }
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

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn catch_up(socket: &Path, events: u64) -> f64 {
    block_on(async {
        let mut stream = subscribe(socket, "0", "application/x-ndjson").await;
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

pub(crate) fn load(kind: Kind, seconds: f64, connections: usize) -> Load {
    let measured = Duration::from_secs_f64(seconds);
    Load {
        kind,
        connections,
        warm_up: measured / 2,
        measured,
        lines: 100,
        keys: true,
        random_ids: false,
        first: first_now(),
        existing: 0,
    }
}

/// A long load: what it does to memory, to the write-ahead log and to the slowest.
fn sustained(payd: &Path, directory: &Path, seconds: (f64, f64), full: Option<&Growth>) {
    let stub = GatewayStub::start();
    let server = Server::payd_in(payd, directory, Some(stub.port));
    let wal = with(&directory.join("payd.db"), "-wal");
    let random_ids = full.is_some_and(|it| it.random_ids);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let watching = std::thread::spawn(move || {
        let mut largest = 0;
        while stopped.try_recv().is_err() {
            largest = std::fs::metadata(&wal).map_or(largest, |it| largest.max(it.len()));
            std::thread::sleep(Duration::from_millis(20));
        }
        largest
    });
    let mut long = load(Kind::Create, seconds.0, 64);
    long.random_ids = random_ids;
    long.warm_up = Duration::from_secs(1);
    let (measured, ..) = block_on(load::run(&server.peer, long, || ()));
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
    let slow = commits_above_50_ms(&server);
    line("commits then above 50 ms", slow, "/1000", "at most 1");
    let mut pay = load(Kind::Pay, seconds.1, 256);
    pay.random_ids = random_ids;
    let figures = measure(&server, pay);
    line(
        "memory, 256 connections that pay",
        figures.memory_mib,
        "MiB",
        "at most 64",
    );
    if let Some(full) = full {
        let mut show = load(Kind::Show, seconds.1, 256);
        (show.random_ids, show.existing) = (random_ids, full.invoices);
        let figures = measure(&server, show);
        line("shown then, a second", figures.rate, "/s", "");
        let memory = figures.memory_mib;
        line("memory, after 256 that read", memory, "MiB", "at most 64");
        // payd rests ten seconds after the last request.
        std::thread::sleep(Duration::from_secs(12));
        line("memory, at rest then", resident(&server), "MiB", "");
    }
    server.stop();
}

/// In a thousand, by payd's own figures. What it does between two commits is not in them.
fn commits_above_50_ms(server: &Server) -> f64 {
    let text = block_on(async {
        let mut wire = Wire::open(&server.socket).await.unwrap();
        let answer = wire.send(&get("/metrics")).await.unwrap();
        String::from_utf8_lossy(answer.body).into_owned()
    });
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    let all = value("payd_commit_duration_seconds_count");
    let fast = value("payd_commit_duration_seconds_bucket{le=\"0.05\"}");
    (all - fast) / all * 1000.0
}

/// A SIGKILL with many open invoices, and the start after it.
fn crash(payd: &Path, directory: &Path, random_ids: bool) {
    seed(directory, first_now(), OPEN, random_ids, End::Open);
    let server = Server::payd_in(payd, directory, None);
    server.signal(Signal::KILL);
    drop(server);
    let since = Instant::now();
    let server = Server::payd_in(payd, directory, None);
    let took = since.elapsed().as_secs_f64();
    line(
        "ready after a SIGKILL with 100,000 open invoices",
        took,
        "s",
        "at most 2",
    );
    server.stop();
    let since = Instant::now();
    let server = Server::payd_in(payd, directory, None);
    line(
        "ready after a restart",
        since.elapsed().as_secs_f64(),
        "s",
        "at most 1",
    );
    // What comes next is not to be measured beside a hundred thousand payments.
    block_on(async {
        let mut wire = Wire::open(&server.socket).await.unwrap();
        let open = get("/invoices?status=PROCESSING&limit=1");
        while !wire
            .send(&open)
            .await
            .unwrap()
            .body
            .starts_with(b"{\"invoices\":[]")
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    server.stop();
}

/// Where the ids of a load begin that no earlier one has used, though the store be kept: a load makes
/// fewer than 2^24 a second.
fn first_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs() << 24
}

/// The same load on a store with many invoices and on an empty one, in turn.
pub(crate) fn growth(arguments: &Growth) {
    let payd = arguments.payd.clone().unwrap_or_else(server::payd);
    let stub = GatewayStub::start();
    let temporary = arguments.store.is_none().then(server::directory);
    let full = match (&arguments.store, &temporary) {
        (Some(kept), _) => kept.as_path(),
        (None, Some(temporary)) => temporary.path(),
        (None, None) => unreachable!(),
    };
    if !full.join("payd.db").exists() {
        std::fs::create_dir_all(full).unwrap();
        seed(full, 0, arguments.invoices, arguments.random_ids, End::Paid);
    }
    if arguments.seed_only {
        return;
    }
    let bytes: u64 = std::fs::read_dir(full)
        .unwrap()
        .filter_map(|it| it.ok()?.metadata().ok())
        .map(|it| it.len())
        .sum();
    line("the store", bytes as f64 / 1024.0 / 1024.0, "MiB", "");
    let since = Instant::now();
    let server = Server::payd_in(&payd, full, Some(stub.port));
    line(
        "ready after a start",
        since.elapsed().as_secs_f64(),
        "s",
        "at most 1",
    );
    line("memory, idle", resident(&server), "MiB", "at most 20");
    pages(&server);
    server.stop();
    for kind in [Kind::Create, Kind::Pay] {
        let one = |server: &Server| {
            let mut load = load(kind, arguments.seconds, 64);
            load.random_ids = arguments.random_ids;
            measure(server, load)
        };
        // Of the large one the first round tells what a start costs, until what payd knows of filters is in memory. The
        // other one would not be empty twice.
        let server = Server::payd_in(&payd, full, Some(stub.port));
        let (large, empty): (Vec<Figures>, Vec<Figures>) = (0..arguments.rounds)
            .map(|_| {
                let full = one(&server);
                let directory = server::directory();
                let other = Server::payd_in(&payd, directory.path(), Some(stub.port));
                let empty = one(&other);
                other.stop();
                (full, empty)
            })
            .unzip();
        server.stop();
        let first = large.first().map_or(0.0, |it| it.rate);
        let what = format!("{} a second, first round after a start", kind.as_str());
        line(&what, first, "/s", "");
        compare(kind, &large, &empty, arguments.random_ids);
    }
    sustained(
        &payd,
        full,
        (arguments.sustained, arguments.seconds),
        Some(arguments),
    );
    crash(&payd, full, arguments.random_ids);
}

fn compare(kind: Kind, full: &[Figures], empty: &[Figures], random_ids: bool) {
    let kind = kind.as_str();
    let limit = if random_ids {
        "at least 0.6"
    } else {
        "at least 0.8"
    };
    let rate = ratio(full, empty, |it| it.rate);
    line(&format!("{kind}, full / empty"), rate, "", limit);
    for (store, it) in [("full", medians(full)), ("empty", medians(empty))] {
        line(
            &format!("{kind} a second, {store} store"),
            it.rate,
            "/s",
            "",
        );
        line(&format!("{kind} p99, {store} store"), it.p99_ms, "ms", "");
        println!(
            "{:<58} CPU s/10k {:.2}, calls that read {:.1}, that write {:.1}, batch {:.0}, {:.0} MiB",
            format!("{kind}, each, {store} store"),
            it.cpu_per_10k,
            it.reads,
            it.writes,
            it.batch,
            it.memory_mib
        );
    }
}
