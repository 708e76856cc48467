//! The figures of one run, their medians over many, and the ratio of two sides.

use serde::Serialize;

/// One run of one side.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figures {
    /// Invoices or payments a second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Seconds of CPU that 10,000 cost, the server's alone.
    pub(crate) cpu_per_10k: f64,
    pub(crate) memory_mib: f64,
    /// Writes (creates, claims, outcomes) in a commit, on average.
    pub(crate) batch: f64,
    /// System calls for each that read, and that write, of files and sockets alike. The more of the store a request
    /// touches at random, the more they are, on every machine.
    pub(crate) reads: f64,
    pub(crate) writes: f64,
    pub(crate) errors: u64,
}

/// The value in the middle; of an even number the mean of the two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (n, middle) = (values.len(), values.len() / 2);
    match n {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Each figure's median.
pub(crate) fn medians(runs: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median(runs.iter().map(figure));
    Figures {
        rate: of(|it| it.rate),
        p50_ms: of(|it| it.p50_ms),
        p99_ms: of(|it| it.p99_ms),
        cpu_per_10k: of(|it| it.cpu_per_10k),
        memory_mib: of(|it| it.memory_mib),
        batch: of(|it| it.batch),
        reads: of(|it| it.reads),
        writes: of(|it| it.writes),
        errors: runs.iter().map(|it| it.errors).sum(),
    }
}

/// The median, over the rounds, of payd's figure by the ceiling's in the same round: what disturbs a
/// machine for a while disturbs both sides of a round.
pub(crate) fn ratio(ours: &[Figures], theirs: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    median(
        ours.iter()
            .zip(theirs)
            .map(|(ours, theirs)| figure(ours) / figure(theirs)),
    )
}

/// The machine's load average over the last minute.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|it| it.parse().ok())
        .unwrap_or(f64::NAN)
}
