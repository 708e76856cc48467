//! payd and a sketch, or another payd, in turn under the same load, and their ratios.

use std::time::Duration;

use serde_json::json;

use crate::arguments::{Compare, Kind, Other, Via};
use crate::figures::{Figures, load_average, medians, ratio};
use crate::load::{self, Load};
use crate::server::{self, GatewayStub, Server};

pub(crate) fn run(arguments: &Compare) {
    let mut arguments = arguments.clone();
    if arguments.quick {
        (arguments.rounds, arguments.seconds) = (1, 0.5);
    }
    let stub = (arguments.gateway == Via::Http).then(GatewayStub::start);
    let port = stub.as_ref().map(|stub| stub.port);
    println!(
        "{} rounds of {} s, payd / what it is compared with; load average {:.1} at the start",
        arguments.rounds,
        arguments.seconds,
        load_average()
    );
    println!(
        "{:>6} {:>5} | {:>7} {:>7} {:>5} | {:>6} {:>6} {:>5} | {:>6} {:>6} {:>5} | {:>5} {:>5} {:>5} | {:>5} {:>5} | {:>5} {:>5} | {:>4} | with",
        "kind",
        "conns",
        "/s",
        "other",
        "ratio",
        "p50 ms",
        "other",
        "ratio",
        "p99 ms",
        "other",
        "ratio",
        "CPU s",
        "other",
        "ratio",
        "MiB",
        "other",
        "batch",
        "other",
        "load",
    );
    let mut rows = Vec::new();
    for kind in &arguments.only {
        for connections in &arguments.connections {
            let (ours, others) = all(&arguments, *kind, *connections, port);
            for (with, theirs) in &others {
                print(*kind, *connections, &ours, with, theirs);
            }
            let others: Vec<_> = others
                .iter()
                .map(|(with, theirs)| json!({ "with": with.to_string(), "figures": theirs }))
                .collect();
            rows.push(json!({
                "kind": kind.as_str(), "connections": connections, "load_average": load_average(),
                "payd": ours, "others": others,
            }));
        }
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows).unwrap()).unwrap();
    }
}

/// All rounds: payd's figures, and those of each that it is compared with. Who begins changes with each round.
fn all(
    arguments: &Compare,
    kind: Kind,
    connections: usize,
    gateway: Option<u16>,
) -> (Vec<Figures>, Vec<(Other, Vec<Figures>)>) {
    let over = arguments.over;
    let payd = arguments.payd.clone().unwrap_or_else(server::payd);
    let mut sides = vec![(Other::Payd(payd), Vec::new())];
    sides.extend(arguments.against.iter().cloned().map(|it| (it, Vec::new())));
    let count = sides.len();
    for round in 0..arguments.rounds {
        for turn in 0..count {
            let (side, figures) = &mut sides[(round + turn) % count];
            let server = match side {
                Other::Payd(binary) => Server::payd_over(over, binary, gateway),
                Other::Sketch(which) => Server::sketch(*which, over, gateway),
            };
            figures.push(one(arguments, kind, connections, server));
        }
    }
    let (_, ours) = sides.remove(0);
    (ours, sides)
}

fn one(arguments: &Compare, kind: Kind, connections: usize, server: Server) -> Figures {
    let measured = Duration::from_secs_f64(arguments.seconds);
    let load = Load {
        kind,
        connections,
        warm_up: measured / 2,
        measured,
        lines: arguments.lines,
        keys: !arguments.no_keys,
        random_ids: arguments.random_ids,
        first: 0,
        existing: 0,
    };
    let figures = measure(&server, load);
    server.stop();
    figures
}

/// Puts a load on a server and takes its figures.
pub(crate) fn measure(server: &Server, load: Load) -> Figures {
    let writes = match load.kind {
        Kind::Create => 1.0,
        Kind::Bulk => 1.0 / load.lines as f64,
        Kind::Pay => 3.0,
        Kind::Show => 0.0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (measured, begin, end) = runtime.block_on(load::run(&server.peer, load, || server.mark()));
    if let Some(error) = &measured.first_error {
        eprintln!("{} errors, the first: {error}", measured.errors);
    }
    let count = measured.count as f64;
    let ms = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1000.0;
    let commits = end.commits.wrapping_sub(begin.commits);
    Figures {
        rate: count / measured.elapsed.as_secs_f64(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        cpu_per_10k: (end.cpu - begin.cpu) / count * 10_000.0,
        memory_mib: server.memory_peak() as f64 / 1024.0,
        batch: count * writes / f64::from(commits),
        reads: (end.calls[0] - begin.calls[0]) / count,
        writes: (end.calls[1] - begin.calls[1]) / count,
        errors: measured.errors,
    }
}

fn print(kind: Kind, connections: usize, ours: &[Figures], with: &Other, theirs: &[Figures]) {
    let (us, them) = (medians(ours), medians(theirs));
    println!(
        "{:>6} {connections:>5} | {:>7.0} {:>7.0} {:>5.2} | {:>6.2} {:>6.2} {:>5.2} | {:>6.1} {:>6.1} {:>5.2} | {:>5.2} {:>5.2} {:>5.2} | {:>5.1} {:>5.1} | {:>5.1} {:>5.1} | {:>4.1} | {with}",
        kind.as_str(),
        us.rate,
        them.rate,
        ratio(ours, theirs, |it| it.rate),
        us.p50_ms,
        them.p50_ms,
        ratio(ours, theirs, |it| it.p50_ms),
        us.p99_ms,
        them.p99_ms,
        ratio(ours, theirs, |it| it.p99_ms),
        us.cpu_per_10k,
        them.cpu_per_10k,
        ratio(ours, theirs, |it| it.cpu_per_10k),
        us.memory_mib,
        them.memory_mib,
        us.batch,
        them.batch,
        load_average(),
    );
    if us.errors + them.errors > 0 {
        println!(
            "             errors: payd {}, {with} {}",
            us.errors, them.errors
        );
    }
}
