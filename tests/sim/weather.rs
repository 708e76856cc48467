//! How bad it is in a seed's world: drawn once, from the seed.

use super::random::Stream;

/// Rates are in 10,000, per chance that there is.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    pub(crate) invoices: u64,
    pub(crate) clients: u64,
    /// Things that each client wants.
    pub(crate) wishes: u64,
    /// How long clients wait between two wishes, at most.
    pub(crate) gap_ms: u64,

    /// How long a send may take.
    pub(crate) timeout_ms: u64,
    /// After this a "not found" is the truth.
    pub(crate) lag_ms: u64,
    pub(crate) attempts_max: u32,
    pub(crate) concurrency: usize,

    /// A call of the store fails.
    pub(crate) store_fails: u32,
    /// Of those failures, so many end the process.
    pub(crate) store_fatal: u32,
    /// The disk is full for a while.
    pub(crate) disk_full: u32,
    /// How often payd crashes at most.
    pub(crate) crashes: u64,
    /// The wall clock jumps while payd is down.
    pub(crate) wall_jumps: bool,

    /// Charges that are declined.
    pub(crate) declines: u32,
    /// Charges that the gateway decides later.
    pub(crate) pending: u32,
    /// Sends and lookups that do not go as they should.
    pub(crate) gateway_fails: u32,
    /// The gateway is not there for a while.
    pub(crate) outage: u32,
    /// The gateway breaks its own contract, and operators say what is not so.
    pub(crate) lying: bool,
    /// The settings name another gateway now and then.
    pub(crate) switches: bool,
}

impl Weather {
    pub(crate) fn of(seed: u64) -> Self {
        let mut draw = Stream::new(seed, 1);
        let kind = draw.within(0, 99);
        // A part of each: all calm, one thing bad, everything bad, lies.
        let (store, crash, gateway, lying) = match kind {
            0..10 => (false, false, false, false),
            10..20 => (true, false, false, false),
            20..35 => (false, true, false, false),
            35..55 => (false, false, true, false),
            55..92 => (true, true, true, false),
            _ => (draw.often(3000), draw.often(3000), true, true),
        };
        let some = |draw: &mut Stream, on: bool, up_to: u64| {
            let rate = if on { draw.spread_ms(up_to) } else { 0 };
            u32::try_from(rate).unwrap_or(0)
        };
        Self {
            invoices: 1 + draw.within(0, 3) * draw.within(0, 1) + draw.within(0, 1),
            clients: draw.within(1, 4),
            wishes: draw.within(2, 10),
            gap_ms: draw.pick(&[0, 100, 5_000, 5_000, 60_000, 3_600_000]),
            timeout_ms: draw.pick(&[500, 2_000, 10_000]),
            lag_ms: draw.pick(&[1_000, 5_000, 30_000]),
            attempts_max: draw.pick(&[1, 2, 3, 5]),
            concurrency: draw.pick(&[1, 2, 64]),
            store_fails: some(&mut draw, store, 400),
            store_fatal: draw.pick(&[0, 2_000, 5_000]),
            disk_full: some(&mut draw, store, 100),
            crashes: if crash { draw.within(1, 5) } else { 0 },
            wall_jumps: draw.often(3000),
            declines: draw.pick(&[500, 3_000, 6_000]),
            pending: draw.pick(&[0, 500, 3_000]),
            gateway_fails: if gateway {
                draw.pick(&[500, 3_000, 6_000])
            } else {
                0
            },
            outage: some(&mut draw, gateway, 1_000),
            lying,
            switches: draw.often(800),
        }
    }
}
