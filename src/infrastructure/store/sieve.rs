//! A filter of each run of an index (runs.rs), side by side.
//!
//! There are up to thirty-two, and whoever looks for something asks them all. So a word has the bits that all of them have at
//! one place, and a look reads three places in memory, where filters one after the other would be as many for each of them.
//! Where there are more runs, those have words of their own.
//!
//! Each is a binary fuse filter (Graf and Lemire, 2022): a hash has three slots, near each other, whose bits together give
//! its print. It is made by taking away, again and again, a hash that has a slot to itself; what is left of a slot's bits
//! is free then to make its print right. A few hashes may be left over, none of which has one: those are kept as they are, and
//! so are those of a run that has no more.
//!
//! What it must never do: say that a run does not have what it has.

use std::collections::HashSet;

use foldhash::fast::RandomState;

/// Bits of a print: of two thousand that are not there, a filter lets one through.
const PLANES: usize = 11;

/// Words of a slot, a plane each.
type Row = [u32; PLANES];

/// Hashes of a run that may be left over.
const ODD: usize = 32;

/// What the filter of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slots {
    /// It has none, and may have whatever is looked for.
    Any,
    /// Its places in the words, a bit each: one, or none where it has nothing, or several where it is larger than others.
    Of(u64),
}

/// The filters of thirty-two runs.
#[derive(Debug, Default)]
struct Layer {
    /// None, where no run has many.
    rows: Vec<Row>,
    /// Slots that are taken.
    taken: u32,
    /// Hashes that were left over, and whose, in order.
    odd: Vec<(i64, u32)>,
}

/// The filters of all runs.
#[derive(Debug)]
pub(super) struct Sieve {
    /// Hashes that a filter has room for.
    entries: usize,
    shape: Shape,
    layers: [Layer; 2],
}

/// How many slots a filter has: segments, of a power of two each. Those of a hash are in three that follow each other.
#[derive(Debug, Clone, Copy)]
struct Shape {
    segment: usize,
    segments: usize,
}

impl Shape {
    /// A fifth more than hashes, as the paper has it for as many as a run has; for few it takes more.
    const fn new(entries: usize) -> Self {
        let part = entries / 24;
        let mut segment = 64;
        while segment * 2 <= part {
            segment *= 2;
        }
        let slots = if entries < 10_000 {
            entries * 8 / 5
        } else {
            entries * 6 / 5
        };
        let segments = slots.div_ceil(segment);
        Self {
            segment,
            segments: if segments < 3 { 3 } else { segments },
        }
    }

    const fn slots(self) -> usize {
        self.segment * self.segments
    }

    /// Hashes are as good as random, and come in order: so do their slots.
    const fn of(self, hash: i64) -> [usize; 3] {
        let hash = hash.cast_unsigned() ^ (1 << 63);
        let firsts = (self.slots() - 2 * self.segment) as u64;
        let first = (((hash >> 32) * firsts) >> 32) as usize;
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let within = self.segment - 1;
        [
            first,
            (first + self.segment) ^ (mixed >> 40) as usize & within,
            (first + 2 * self.segment) ^ (mixed >> 20) as usize & within,
        ]
    }

    /// The prints of slots, of which those of each of these hashes make its own; and those hashes that were left over.
    fn solve(self, hashes: impl ExactSizeIterator<Item = i64> + Clone) -> (Vec<u16>, Vec<i64>) {
        // Of each slot, how many hashes have it, and all of them in one. All of this is small: at a start it is made for each run.
        let mut counts = vec![0_u32; self.slots()];
        let mut all = vec![0_i64; self.slots()];
        for hash in hashes.clone() {
            for slot in self.of(hash) {
                counts[slot] += 1;
                all[slot] ^= hash;
            }
        }
        let mut alone: Vec<u32> = (0..)
            .zip(&counts)
            .filter(|(_, count)| **count == 1)
            .map(|(slot, _)| slot)
            .collect();
        let mut taken: Vec<u32> = Vec::with_capacity(hashes.len());
        while let Some(number) = alone.pop() {
            let slot = number as usize;
            if counts[slot] != 1 {
                continue;
            }
            // It stays in its slot, and leaves the others.
            taken.push(number);
            counts[slot] = 0;
            let hash = all[slot];
            for other in self.of(hash).into_iter().filter(|it| *it != slot) {
                counts[other] -= 1;
                all[other] ^= hash;
                if counts[other] == 1 {
                    alone.extend(u32::try_from(other));
                }
            }
        }
        drop((alone, counts));
        let mut odd = Vec::new();
        if taken.len() < hashes.len() {
            let taken = taken.iter().map(|it| all[*it as usize]);
            let taken: HashSet<i64, RandomState> = taken.collect();
            odd.extend(hashes.filter(|hash| !taken.contains(hash)));
        }
        let mut prints = vec![0; all.len()];
        for slot in taken.into_iter().rev() {
            let slot = slot as usize;
            let hash = all[slot];
            let others = self.of(hash).map(|it| prints[it]);
            prints[slot] ^= others.into_iter().fold(print(hash), |all, it| all ^ it);
        }
        (prints, odd)
    }
}

/// The print of a hash.
const fn print(hash: i64) -> u16 {
    (hash.cast_unsigned().wrapping_mul(0xd6e8_feb8_6659_fd93) >> 48) as u16
}

/// Where a slot is.
const fn place(slot: u32) -> (usize, u32) {
    ((slot / u32::BITS) as usize, 1 << (slot % u32::BITS))
}

impl Sieve {
    /// For runs of so many entries: larger ones take several places. It has none yet, and of no entries never will.
    pub(super) fn new(entries: usize) -> Self {
        Self {
            entries,
            shape: Shape::new(entries),
            layers: Default::default(),
        }
    }

    /// A run has these hashes, which are in order.
    pub(super) fn add(&mut self, hashes: &[i64]) -> Slots {
        if self.entries == 0 {
            return Slots::Any;
        }
        let count = hashes.len().div_ceil(self.entries);
        let mut slots = 0;
        for first in 0..count {
            let some = hashes.iter().copied().skip(first).step_by(count);
            let Some(slot) = self.add_some(some) else {
                self.release([Slots::Of(slots)]);
                return Slots::Any;
            };
            slots |= 1 << slot;
        }
        Slots::Of(slots)
    }

    fn add_some(&mut self, hashes: impl ExactSizeIterator<Item = i64> + Clone) -> Option<u32> {
        let is_free = |slot: &u32| {
            let (layer, bit) = place(*slot);
            self.layers[layer].taken & bit == 0
        };
        let slot = (0..u64::BITS).find(is_free)?;
        let (prints, mut odd) = if hashes.len() > ODD {
            self.shape.solve(hashes)
        } else {
            (Vec::new(), hashes.collect())
        };
        odd.dedup();
        if odd.len() > ODD {
            return None;
        }
        let (layer, bit) = place(slot);
        let layer = &mut self.layers[layer];
        layer.taken |= bit;
        layer.odd.extend(odd.iter().map(|hash| (*hash, bit)));
        layer.odd.sort_unstable();
        if layer.rows.is_empty() {
            layer.rows.resize(prints.len(), [0; PLANES]);
        }
        for (row, print) in layer.rows.iter_mut().zip(prints) {
            for (plane, word) in row.iter_mut().enumerate() {
                *word |= bit & mask(print, plane);
            }
        }
        Some(slot)
    }

    /// These runs are gone. All words are gone through, once.
    pub(super) fn release(&mut self, slots: impl IntoIterator<Item = Slots>) {
        let all = slots.into_iter().fold(0, |all, slots| match slots {
            Slots::Any => all,
            Slots::Of(slots) => all | slots,
        });
        let halves = [all & u64::from(u32::MAX), all >> u32::BITS];
        for (layer, gone) in self.layers.iter_mut().zip(halves) {
            let gone = u32::try_from(gone).unwrap_or(u32::MAX);
            layer.taken &= !gone;
            layer.odd.retain(|(_, bit)| bit & gone == 0);
            if layer.taken == 0 {
                *layer = Layer::default();
            } else if gone != 0 {
                let words = layer.rows.as_flattened_mut().iter_mut();
                words.for_each(|word| *word &= !gone);
            }
        }
    }

    /// Whether any run has so many hashes that it takes memory.
    pub(super) fn is_large(&self) -> bool {
        self.layers.iter().any(|layer| !layer.rows.is_empty())
    }

    /// Reads what looks for these are about to read, all of it at once.
    pub(super) fn touch(&self, hashes: &[i64]) {
        for layer in self.layers.iter().filter(|it| !it.rows.is_empty()) {
            let rows = hashes.iter().flat_map(|hash| self.shape.of(*hash));
            let words = rows.map(|place| layer.rows[place][0]);
            std::hint::black_box(words.fold(0, |all, word| all ^ word));
        }
    }

    /// The slots of runs that may have a hash, a bit for each.
    pub(super) fn look(&self, hash: i64) -> u64 {
        let places = self.shape.of(hash);
        let print = print(hash);
        let found = |layer: &Layer| {
            let after = &layer.odd[layer.odd.partition_point(|it| it.0 < hash)..];
            let odd = after.iter().take_while(|it| it.0 == hash);
            let odd = odd.fold(0, |found, (_, bit)| found | bit);
            if layer.rows.is_empty() {
                return odd;
            }
            let [one, two, three] = places.map(|place| &layer.rows[place]);
            let planes = one.iter().zip(two).zip(three).enumerate();
            planes.fold(layer.taken, |left, (plane, ((one, two), three))| {
                left & !(one ^ two ^ three ^ mask(print, plane))
            }) | odd
        };
        let [first, second] = &self.layers;
        u64::from(found(first)) | u64::from(found(second)) << u32::BITS
    }
}

/// All bits, where a print has this one.
const fn mask(print: u16, bit: usize) -> u32 {
    0_u32.wrapping_sub((print >> bit & 1) as u32)
}

/// Whether a run may have what was looked for.
pub(super) const fn may_have(found: u64, slots: Slots) -> bool {
    match slots {
        Slots::Any => true,
        Slots::Of(slots) => found & slots != 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::testing::Chance;
    use super::*;

    const ENTRIES: u64 = 300;

    fn fill(sieve: &mut Sieve, hashes: &BTreeSet<i64>) -> Slots {
        sieve.add(&hashes.iter().copied().collect::<Vec<_>>())
    }

    /// As runs come and go.
    #[test]
    fn it_misses_nothing_and_lets_few_others_through() {
        let mut sieve = Sieve::new(300);
        let mut chance = Chance(31);
        assert_eq!(sieve.look(7), 0);
        let mut runs = Vec::new();
        for round in 0..170 {
            let hashes = chance.hashes(ENTRIES);
            runs.push((fill(&mut sieve, &hashes), hashes));
            for (slot, hashes) in &runs {
                assert!(hashes.iter().all(|hash| may_have(sieve.look(*hash), *slot)));
            }
            if round % 3 == 0 && round < 100 {
                let (slot, _) = runs.remove(chance.place(runs.len() as u64));
                let more = runs.pop().map(|it| it.0);
                sieve.release([slot].into_iter().chain(more));
                for layer in &sieve.layers {
                    let words = layer.rows.as_flattened().iter();
                    let bits = words.chain(layer.odd.iter().map(|(_, bit)| bit));
                    assert!(bits.into_iter().all(|bits| bits & !layer.taken == 0));
                }
            }
        }
        let with_slot = runs.iter().filter(|it| it.0 != Slots::Any).count();
        assert!(runs.len() > 70 && with_slot == 64, "{with_slot}");
        let others = (0..10_000).map(|_| sieve.look(chance.hash()).count_ones());
        let others: u32 = others.sum();
        // Of 640,000.
        assert!((220..450).contains(&others), "{others}");
        // What has no slot may have anything, and what is gone has nothing.
        assert!(
            may_have(0, Slots::Any) && !may_have(0, Slots::Of(8)) && !may_have(!8, Slots::Of(8))
        );
        sieve.release(runs.iter().map(|it| it.0));
        assert!(
            sieve
                .layers
                .iter()
                .all(|it| it.rows.is_empty() && it.odd.is_empty())
        );
    }

    #[test]
    fn a_run_of_nothing_has_nothing_and_a_large_one_has_several_places() {
        let mut sieve = Sieve::new(2000);
        let mut chance = Chance(32);
        let nothing = sieve.add(&[]);
        assert!(nothing == Slots::Of(0) && !may_have(sieve.look(5), nothing));
        assert!(sieve.layers.iter().all(|it| it.rows.is_empty()));
        let hashes = chance.hashes(5500);
        let large = fill(&mut sieve, &hashes);
        assert_eq!(large, Slots::Of(7));
        assert!(hashes.iter().all(|hash| may_have(sieve.look(*hash), large)));
        let others = (0..10_000).filter(|_| may_have(sieve.look(chance.hash()), large));
        let others = others.count();
        assert!((3..35).contains(&others), "{others}");
        assert_eq!(Sieve::new(0).add(&[5]), Slots::Any);
        sieve.release([nothing, large]);
        assert_eq!(sieve.layers[0].taken, 0);
    }

    /// Such that have the same slots, or the same hash, as two ids may have: none has a slot to itself.
    #[test]
    fn hashes_that_are_left_over_are_kept_as_they_are() {
        let mut sieve = Sieve::new(2000);
        let mut chance = Chance(33);
        let twice = [5, 7, 7, 9, 9, 9];
        let few = sieve.add(&twice);
        assert_eq!(sieve.layers[0].odd, [(5, 1), (7, 1), (9, 1)]);
        assert!(!sieve.is_large());
        assert!(twice.iter().all(|hash| may_have(sieve.look(*hash), few)));
        assert!((0..1000).all(|_| !may_have(sieve.look(chance.hash()), few)));
        let others = chance.hashes(50);
        let twice: Vec<_> = twice.into_iter().chain(others).collect();
        let slots = sieve.add(&twice);
        assert_eq!(
            sieve.layers[0].odd,
            [(5, 1), (7, 1), (7, 2), (9, 1), (9, 2)]
        );
        assert!(sieve.is_large());
        assert!(twice.iter().all(|hash| may_have(sieve.look(*hash), slots)));
        // Those of the first one, of which no word says anything.
        assert!(
            [5, 7, 9]
                .iter()
                .all(|hash| may_have(sieve.look(*hash), few))
        );
        let others = (0..1000).filter(|_| may_have(sieve.look(chance.hash()), slots));
        assert!(others.count() < 8);
        // More of them than are kept: nothing is known of the run, and no place taken.
        let many: Vec<i64> = chance.hashes(ODD as u64 + 1).into_iter().collect();
        let many: Vec<i64> = many.iter().flat_map(|hash| [*hash; 2]).collect();
        assert_eq!(sieve.add(&many), Slots::Any);
        assert_eq!(sieve.layers[0].taken, 3);
        sieve.release([slots]);
        assert_eq!(sieve.look(7), 1);
        sieve.release([few]);
        assert_eq!(sieve.look(7), 0);
    }

    #[test]
    fn the_slots_of_a_hash_are_three_and_within_the_filter() {
        let mut chance = Chance(34);
        for entries in [1, 100, 300, 2000, 59_500] {
            let shape = Shape::new(entries);
            assert!(shape.slots() >= entries * 6 / 5 && shape.slots() <= entries * 8 / 5 + 192);
            let ends = [i64::MIN, i64::MAX, 0, -1];
            for hash in (0..500).map(|_| chance.hash()).chain(ends) {
                let [one, two, three] = shape.of(hash);
                let segment = |slot| slot / shape.segment;
                let follow = [segment(one), segment(two) - 1, segment(three) - 2];
                assert!(follow.iter().all(|it| *it == follow[0]), "{hash}");
                assert!(three < shape.slots(), "{hash}");
            }
        }
        // A fifth of 59,500 entries more.
        assert_eq!(Shape::new(59_500).slots(), 35 * 2048);
    }
}
