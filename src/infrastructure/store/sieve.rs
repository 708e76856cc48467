//! A Bloom filter for each run of an index (runs.rs), side by side.
//!
//! There are up to thirty-two, and whoever looks for something asks them all. So a word has the bits that all of them have at
//! one place, and a look reads a few words of one page of memory, where filters one after the other would be a page each.
//! Where merges are behind, after many stops in the middle of one, there may be some more runs: those have words of their
//! own.
//!
//! What it must never do: say that a run does not have what it has.

/// Bits of a filter for each entry of a run, and how many of them are looked at: of four hundred that are not there, it lets
/// one through.
const BITS: usize = 13;
const LOOKS: u32 = 6;

/// Words among which those of one hash are: a page of memory.
const BLOCK: usize = 1 << BLOCK_BITS;
const BLOCK_BITS: u32 = 10;

/// The place of a run in the words. One that comes when all are taken has none, and may have whatever is looked for.
pub(super) type Slot = Option<u32>;

/// The filters of thirty-two runs.
#[derive(Debug, Default)]
struct Layer {
    /// None, where there is no run.
    words: Vec<u32>,
    /// Slots that are taken.
    taken: u32,
}

/// The filters of all runs.
#[derive(Debug)]
pub(super) struct Sieve {
    blocks: usize,
    layers: [Layer; 2],
}

/// Where a slot is.
fn place(slot: u32) -> (usize, u32) {
    ((slot / u32::BITS) as usize, 1 << (slot % u32::BITS))
}

impl Sieve {
    /// For runs of so many entries; larger ones let more through. It has none yet, and of no entries never will.
    pub(super) fn new(entries: usize) -> Self {
        Self {
            blocks: (entries * BITS).div_ceil(BLOCK),
            layers: Default::default(),
        }
    }

    /// A slot for a run.
    pub(super) fn take(&mut self) -> Slot {
        let mut slots = 0..u64::BITS;
        let is_free = |slot: &u32| {
            let (layer, bit) = place(*slot);
            self.layers[layer].taken & bit == 0
        };
        let slot = slots.find(is_free).filter(|_| self.blocks > 0)?;
        let (layer, bit) = place(slot);
        let layer = &mut self.layers[layer];
        layer.words.resize(self.blocks * BLOCK, 0);
        layer.taken |= bit;
        Some(slot)
    }

    /// These runs are gone. All words are gone through, once.
    pub(super) fn release(&mut self, slots: impl IntoIterator<Item = Slot>) {
        let mut gone = [0; 2];
        for (layer, bit) in slots.into_iter().flatten().map(place) {
            gone[layer] |= bit;
        }
        for (layer, gone) in self.layers.iter_mut().zip(gone) {
            layer.taken &= !gone;
            if layer.taken == 0 {
                layer.words = Vec::new();
            } else if gone != 0 {
                layer.words.iter_mut().for_each(|word| *word &= !gone);
            }
        }
    }

    /// The run has this hash.
    pub(super) fn add(&mut self, slot: Slot, hash: i64) {
        if let Some((layer, bit)) = slot.map(place) {
            for place in self.places(hash) {
                self.layers[layer].words[place] |= bit;
            }
        }
    }

    /// The slots of runs that may have a hash, a bit for each.
    pub(super) fn look(&self, hash: i64) -> u64 {
        let found = |layer: &Layer| {
            if layer.taken == 0 {
                return 0;
            }
            let places = self.places(hash);
            places.fold(layer.taken, |slots, place| slots & layer.words[place])
        };
        let [first, second] = &self.layers;
        u64::from(found(first)) | u64::from(found(second)) << u32::BITS
    }

    /// Hashes are as good as random; those of one block begin alike.
    fn places(&self, hash: i64) -> impl Iterator<Item = usize> + use<> {
        let high = (hash.cast_unsigned() >> 32) as usize;
        let block = (high * self.blocks) >> 32;
        let mixed = hash.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4;
        (0..LOOKS).map(move |look| {
            let place = (mixed >> (BLOCK_BITS * look)) as usize & (BLOCK - 1);
            block * BLOCK + place
        })
    }
}

/// Whether a run may have what was looked for.
pub(super) fn may_have(found: u64, slot: Slot) -> bool {
    slot.is_none_or(|slot| found >> slot & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::testing::Chance;
    use super::*;

    const ENTRIES: u64 = 2000;

    fn fill(sieve: &mut Sieve, chance: &mut Chance) -> (Slot, BTreeSet<i64>) {
        let slot = sieve.take();
        let hashes = chance.hashes(ENTRIES);
        hashes.iter().for_each(|hash| sieve.add(slot, *hash));
        (slot, hashes)
    }

    /// As runs come and go.
    #[test]
    fn it_misses_nothing_and_lets_few_others_through() {
        let mut sieve = Sieve::new(2000);
        let mut chance = Chance(31);
        assert_eq!(sieve.look(7), 0);
        let mut runs = Vec::new();
        for round in 0..230 {
            runs.push(fill(&mut sieve, &mut chance));
            for (slot, hashes) in &runs {
                assert!(hashes.iter().all(|hash| may_have(sieve.look(*hash), *slot)));
            }
            if round % 3 == 0 && round < 200 {
                let (slot, _) = runs.remove(chance.place(runs.len() as u64));
                let more = runs.pop().map(|it| it.0);
                sieve.release([slot].into_iter().chain(more));
                let bits = sieve.layers.iter().map(|it| (it.taken, &it.words));
                for (taken, words) in bits {
                    assert!(words.iter().all(|word| word & !taken == 0));
                }
            }
        }
        let with_slot = runs.iter().filter(|it| it.0.is_some()).count();
        assert!(runs.len() > 70 && with_slot == 64, "{with_slot}");
        let others = (0..10_000).map(|_| sieve.look(chance.hash()).count_ones());
        let others: u32 = others.sum();
        // Of 640,000.
        assert!((1..3200).contains(&others), "{others}");
        assert_eq!(Sieve::new(0).take(), None);
        // What has no slot may have anything, and what is gone has nothing.
        assert!(may_have(0, None) && !may_have(0, Some(3)) && !may_have(!8, Some(3)));
        sieve.release(runs.iter().map(|it| it.0));
        assert!(sieve.layers.iter().all(|it| it.words.is_empty()));
    }
}
