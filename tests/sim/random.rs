//! Chance that a seed fixes.

/// A stream of numbers: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Debug, Clone)]
pub(crate) struct Stream(u64);

impl Stream {
    /// The stream of a seed for one purpose. Streams of different purposes are independent, so that
    /// one more draw here moves nothing there.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut stream = Self(seed ^ purpose.wrapping_mul(0xd134_2543_de82_ef95));
        stream.0 = stream.next();
        stream
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True so many times in 10,000.
    pub(crate) fn often(&mut self, per_10_000: u32) -> bool {
        self.next() % 10_000 < u64::from(per_10_000)
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = self.within(0, of.len() as u64 - 1);
        of[usize::try_from(at).unwrap_or(0)]
    }

    /// Milliseconds: short ones are as likely as long ones, in the sense of their digits.
    pub(crate) fn spread_ms(&mut self, up_to: u64) -> u64 {
        let digits = 64 - u64::from(up_to.max(1).leading_zeros());
        let bits = self.within(0, digits);
        (self.next() & ((1_u64 << bits) - 1)).min(up_to)
    }
}
