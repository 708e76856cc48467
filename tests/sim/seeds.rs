//! Seeds, many of them, on all cores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::play::{How, Played, play};
use super::world::Counted;

/// Seeds where none are asked for: a second or two in a debug build.
const SEEDS: u64 = 300;

/// Lines of a trace that a failure shows.
const TRACE_SHOWN: usize = 200;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

/// Plays a seed as it is its turn: most plainly, a few beside the real store, a few twice.
fn one(seed: u64) -> Played {
    match seed % 500 {
        7 => {
            let directory = tempfile::tempdir().unwrap();
            let real = Some(directory.path());
            play(
                seed,
                How {
                    real,
                    ..How::default()
                },
            )
        }
        77 => {
            let (mut one, two) = (play(seed, How::default()), play(seed, How::default()));
            if one.digest != two.digest || one.counted != two.counted {
                let why = "the same seed gave another run".to_owned();
                one.failure = one.failure.or(Some(why));
            }
            one
        }
        _ => play(seed, How::default()),
    }
}

fn replay(seed: u64) -> String {
    format!("PAYD_SIM_SEED={seed} cargo test --test sim -- --nocapture every_seed")
}

#[test]
fn every_seed_holds_every_invariant() {
    if let Some(seed) = number("PAYD_SIM_SEED") {
        let played = play(
            seed,
            How {
                traced: true,
                ..How::default()
            },
        );
        #[expect(clippy::print_stderr)]
        for line in &played.trace {
            eprintln!("{line}");
        }
        assert_eq!(played.failure, None, "seed {seed}");
        return;
    }
    let from = number("PAYD_SIM_FROM").unwrap_or(0);
    let seeds = number("PAYD_SIM_SEEDS").unwrap_or(SEEDS);
    let started = Instant::now();
    let next = AtomicU64::new(from);
    let failed = AtomicBool::new(false);
    let failures = Mutex::new(BTreeMap::new());
    let total = Mutex::new(Counted::default());
    let threads = thread::available_parallelism().map_or(1, |it| it.get());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut counted = Counted::default();
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        break;
                    }
                    let played = one(seed);
                    counted.add(&played.counted);
                    if let Some(failure) = played.failure {
                        failed.store(true, Ordering::Relaxed);
                        failures.lock().unwrap().insert(seed, failure);
                    }
                }
                total.lock().unwrap().add(&counted);
            });
        }
    });
    #[expect(clippy::print_stderr)]
    {
        eprintln!(
            "{seeds} seeds from {from} in {:.1?}: {:?}",
            started.elapsed(),
            total.lock().unwrap()
        );
    }
    let failures = failures.into_inner().unwrap();
    if let Some((seed, failure)) = failures.first_key_value() {
        let trace = play(
            *seed,
            How {
                traced: true,
                ..How::default()
            },
        )
        .trace;
        let shown = trace.len().saturating_sub(TRACE_SHOWN);
        panic!(
            "{}\n\nseed {seed} fails: {failure}\nreplay it with\n  {}\n",
            trace[shown..].join("\n"),
            replay(*seed)
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let traced = How {
        traced: true,
        ..How::default()
    };
    for seed in 0..20 {
        let (one, two) = (play(seed, traced), play(seed, traced));
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!(one.digest, two.digest, "seed {seed}");
    }
}

#[test]
fn the_model_of_the_store_does_what_sqlite_does() {
    for seed in 0..number("PAYD_SIM_REAL").unwrap_or(10) {
        let directory = tempfile::tempdir().unwrap();
        let played = play(
            seed,
            How {
                real: Some(directory.path()),
                ..How::default()
            },
        );
        assert_eq!(played.failure, None, "seed {seed}");
    }
}
