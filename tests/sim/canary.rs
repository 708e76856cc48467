//! What is broken on purpose, to show that the simulator sees it.

use super::play::{How, play};

/// A part of the world that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Canary {
    /// The gateway executes a key again when it comes again.
    GatewayForgetsKeys,
    /// Requests arrive up to four times as late as the gateway says that they can.
    GatewayLags,
    /// The gateway says that it declined, or never had, what it has charged.
    GatewayLies,
    /// The store says that it has committed, and has not.
    StoreDropsCommits,
    /// A changed payment is not written.
    StoreForgetsRows,
    /// An answer under a key is not written.
    StoreForgetsAnswers,
    /// Nobody is told when a lookup is due.
    StoreForgetsTimers,
    /// A payment is sent that was never claimed.
    SendsUnclaimed,
}

/// Seeds that each canary gets to be seen in.
const SEEDS: u64 = 3_000;

/// Every canary, and one of the words in which it must be told of.
const CANARIES: [(Canary, &[&str]); 8] = [
    (Canary::GatewayForgetsKeys, &["invariant 1"]),
    (Canary::GatewayLags, &["invariant 2", "nobody has said so"]),
    (
        Canary::GatewayLies,
        &[
            "nobody has said so",
            "invariant 1",
            "invariant 2",
            "invariant 5",
        ],
    ),
    (Canary::StoreDropsCommits, &["invariant", "is not kept"]),
    (Canary::StoreForgetsRows, &["invariant"]),
    (
        Canary::StoreForgetsAnswers,
        &["is not kept", "decided anew"],
    ),
    (Canary::StoreForgetsTimers, &["stuck"]),
    (Canary::SendsUnclaimed, &["invariant 7"]),
];

#[test]
fn what_is_broken_on_purpose_is_seen() {
    for (canary, words) in CANARIES {
        let how = How {
            canary: Some(canary),
            ..How::default()
        };
        let seen = (0..SEEDS).find_map(|seed| play(seed, how).failure.map(|it| (seed, it)));
        let Some((seed, failure)) = seen else {
            panic!("{canary:?} is not seen in {SEEDS} seeds");
        };
        #[expect(clippy::print_stderr)]
        {
            eprintln!("{canary:?} is seen in seed {seed}: {:.100}", failure);
        }
        assert!(
            words.iter().any(|word| failure.contains(word)),
            "{canary:?} is told of as {failure}"
        );
    }
}
