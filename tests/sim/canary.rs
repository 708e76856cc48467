//! What is broken on purpose, to show that the simulator sees it.

/// A part of the world, or of payd, that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Canary {
    /// The gateway executes a key again when it comes again.
    GatewayForgetsKeys,
    /// The store says that it has committed, and has not.
    StoreDropsCommits,
    /// A "not found" of a lookup may be wrong for three lags, not one.
    GatewayLags,
    /// payd counts a lease of an earlier life as its own: it starts without looking after it.
    NoRecovery,
    /// Half of what is declined is charged all the same.
    GatewayLies,
    /// The wall clock steps into payd's own time.
    ClockRunsBackwards,
}
