//! A filter of hashes that is made at once: Dillinger and Walzer's ribbon filter (2021).
//!
//! Each hash is an equation: of the 64 slots from its place on, those that its row has must together give its print. A slot
//! has a bit for each plane, and so has a print. Of what is none of the hashes, a filter of eight planes lets one in 256
//! through, with nine bits for each hash that it has; a Bloom filter takes twelve for that. And it may be cut to
//! fewer planes at any time: what they say is right, they only let more through.
//!
//! Hashes come in order, and so do their places: the equations are gone through once, each in what is at hand. It takes
//! some 25 ns a hash.
//!
//! What it must never do: say that it does not have what it was made of. Where the equations have no solution, there is no
//! filter.

/// Slots that a row speaks of, from its place on.
const WIDTH: usize = 64;

/// Slots of a filter are a multiple of this.
pub(super) const GROUP: usize = 64;

/// In how many ways rows and prints are made of hashes: where one has no solution, another will.
pub(super) const WAYS: u32 = 4;

/// What a filter says: a word for each plane of a group of slots.
pub(super) type Groups<const PLANES: usize> = Box<[[u64; PLANES]]>;

/// Which hashes a filter is about, and how they are made equations of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About {
    first: i64,
    /// By how many bits the distance to the first is shifted: then that of the last fills a word.
    shift: u32,
    /// The greater half of that of the last, and one.
    over: u64,
    way: u32,
}

/// What a hash says of a filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Equation {
    /// The first slot that it speaks of, and the others from there on that it does: the first is the lowest bit.
    place: usize,
    row: u64,
    /// Sixteen bits, of which the lowest is of the first plane.
    print: u64,
}

impl About {
    /// The hashes from the first to the last, in one of the [`WAYS`].
    pub(super) const fn new((first, last): (i64, i64), way: u32) -> Self {
        let distance = last.wrapping_sub(first).cast_unsigned();
        let shift = distance.leading_zeros() % 64;
        Self {
            first,
            shift,
            over: (distance << shift >> 32) + 1,
            way,
        }
    }

    /// Of a hash that it is about, in so many groups.
    pub(super) fn equation(&self, hash: i64, groups: usize) -> Equation {
        let distance = hash.wrapping_sub(self.first).cast_unsigned() << self.shift;
        let places = (groups * GROUP).saturating_sub(WIDTH - 1) as u64;
        let place = (distance >> 32) * places / self.over;
        let seed = u64::from(self.way).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mixed = (hash.cast_unsigned() ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let row = (mixed ^ (mixed >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let print = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Equation {
            // Where it is beyond all, it is about something else.
            place: usize::try_from(place).unwrap_or(usize::MAX),
            row: (row ^ (row >> 29)) | 1,
            print: print >> 48,
        }
    }
}

impl Equation {
    /// Whether it holds, as far as these planes go.
    pub(super) fn holds<const PLANES: usize>(&self, groups: &[[u64; PLANES]]) -> bool {
        let (group, shift) = (self.place / GROUP, self.place % GROUP);
        let low = self.row << shift;
        // What is beyond the group; none, where the shift is.
        let high = self.row >> 1 >> (GROUP - 1 - shift);
        // A hash that it is not about.
        let Some(one) = groups.get(group) else {
            return true;
        };
        let next = groups.get(group + 1).unwrap_or(one);
        let mut terms = [0; PLANES];
        for ((term, one), next) in terms.iter_mut().zip(one).zip(next) {
            *term = (one & low) ^ (next & high);
        }
        (sums(&terms) ^ self.print) & ((1 << PLANES) - 1) == 0
    }

    /// Reads what it is about, so that it is at hand soon: what comes of it is nobody's.
    pub(super) fn touch<const PLANES: usize>(&self, groups: &[[u64; PLANES]]) -> u64 {
        let group = self.place / GROUP;
        let first = |at| groups.get(at).map_or(0, |it: &[u64; PLANES]| it[0]);
        first(group) ^ first(group + 1)
    }
}

/// Whether of each word the number of bits is odd, a bit for each word. Most processors have an instruction that counts the
/// bits of a word, of which those that payd is built for need not know; so words are folded together, eight at a time: what is
/// left is a byte of each, and then a bit.
fn sums(words: &[u64]) -> u64 {
    const fn fold(low: u64, high: u64, by: u32, lower: u64) -> u64 {
        ((low ^ (low >> by)) & lower) | ((high ^ (high << by)) & !lower)
    }
    let mut sums = 0;
    for (number, chunk) in words.chunks(8).enumerate() {
        let word = |at: usize| chunk.get(at).copied().unwrap_or(0);
        let halves = |at| fold(word(at), word(at + 4), 32, 0x0000_0000_ffff_ffff);
        let quarters = |at| fold(halves(at), halves(at + 2), 16, 0x0000_ffff_0000_ffff);
        let mut bytes = fold(quarters(0), quarters(1), 8, 0x00ff_00ff_00ff_00ff);
        for by in [4, 2, 1] {
            bytes ^= bytes >> by;
        }
        // The lowest bits of eight bytes, side by side.
        let bits = (bytes & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        sums |= bits << (8 * number);
    }
    sums
}

/// Makes a filter of so many groups, if it can be made: of equations in the order of their places, some of which may be the
/// same.
pub(super) fn solve<const PLANES: usize>(
    groups: usize,
    equations: impl Iterator<Item = Equation>,
) -> Option<Groups<PLANES>> {
    let prints = (1 << PLANES) - 1;
    // By the first slot that it still speaks of. None, where the row is 0.
    let mut solved = vec![(0_u64, 0_u64); groups * GROUP];
    for equation in equations {
        let (mut place, mut row, mut print) = (equation.place, equation.row, equation.print);
        while row != 0 {
            let (other, others) = solved.get_mut(place)?;
            if *other == 0 {
                (*other, *others) = (row, print & prints);
                break;
            }
            row ^= *other;
            print ^= *others;
            place += row.trailing_zeros() as usize;
            row = row.checked_shr(row.trailing_zeros()).unwrap_or(0);
        }
        if row == 0 && print & prints != 0 {
            return None;
        }
    }
    let mut made = vec![[0; PLANES]; groups].into_boxed_slice();
    // The slots after the one at hand, the nearest in the lowest bit.
    let mut after = [0_u64; PLANES];
    for (group, slots) in made.iter_mut().zip(solved.chunks(GROUP)).rev() {
        for (row, print) in slots.iter().rev() {
            let mut terms = [0; PLANES];
            for (term, after) in terms.iter_mut().zip(&mut after) {
                *after <<= 1;
                *term = *after & row;
            }
            let bits = sums(&terms) ^ print;
            // A slot of which nobody speaks first is 0.
            for (plane, after) in after.iter_mut().enumerate() {
                *after |= (bits >> plane) & row & 1;
            }
        }
        *group = after;
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Chance;
    use super::*;

    fn made(hashes: &[i64], about: impl Fn(u32) -> About, groups: usize) -> (About, Groups<8>) {
        let try_way = |way| {
            let about = about(way);
            let equations = hashes.iter().map(|it| about.equation(*it, groups));
            Some((about, solve(groups, equations)?))
        };
        (0..WAYS).find_map(try_way).unwrap()
    }

    #[test]
    fn sums_are_those_of_each_word() {
        let mut chance = Chance(40);
        for count in [0, 1, 3, 4, 8, 11, 16] {
            let words: Vec<u64> = (0..count).map(|_| chance.hash().cast_unsigned()).collect();
            let bits = words.iter().map(|word| u64::from(word.count_ones() & 1));
            let expected = bits.zip(0..).fold(0, |all, (bit, at)| all | bit << at);
            assert_eq!(sums(&words), expected, "{words:?}");
        }
    }

    #[test]
    fn it_has_all_that_it_was_made_of_and_few_others() {
        let mut chance = Chance(41);
        for count in [0, 1, 2, 50, 58, 59, 200, 1800, 3600, 20_000] {
            let hashes: Vec<_> = chance.hashes(count).into_iter().collect();
            let groups = (hashes.len() * 11 / 10).div_ceil(GROUP).max(1);
            let all = |way| About::new((i64::MIN, i64::MAX), way);
            let (about, filter) = made(&hashes, all, groups);
            let has = |hash| about.equation(hash, groups).holds(&filter);
            assert!(hashes.iter().all(|hash| has(*hash)), "{count}");
            let fewer: Box<[[u64; 3]]> = filter.iter().map(|it| [it[0], it[1], it[2]]).collect();
            let may_have = |hash| about.equation(hash, groups).holds(&fewer);
            assert!(hashes.iter().all(|hash| may_have(*hash)), "{count}");
            let others: Vec<_> = (0..25_600).map(|_| chance.hash()).collect();
            let through = others.iter().filter(|it| has(**it)).count();
            assert!((50..180).contains(&through), "{count}: {through}");
            let through = others.iter().filter(|it| may_have(**it)).count();
            assert!((2800..3600).contains(&through), "{count}: {through}");
        }
    }

    #[test]
    fn places_are_in_the_order_of_hashes_and_within_the_filter() {
        let mut chance = Chance(42);
        for round in 0..200 {
            let (one, other) = (chance.hash(), chance.hash() >> (round % 64));
            let (first, last) = match round {
                0 => (i64::MIN, i64::MAX),
                1 => (5, 5),
                2 => (i64::MAX - 1, i64::MAX),
                _ => (one.min(other), one.max(other)),
            };
            let about = About::new((first, last), 0);
            let groups = 1 + chance.place(70);
            let distance = last.abs_diff(first);
            let step = |n: u64| distance / 50 * n + distance % 50 * n / 50;
            let hashes = (0..=50).map(|n| first.wrapping_add_unsigned(step(n)));
            let places: Vec<_> = hashes.map(|it| about.equation(it, groups).place).collect();
            assert!(places.is_sorted(), "{round}: {places:?}");
            let most = groups * GROUP - WIDTH;
            assert!(places[50] <= most && places[0] == 0, "{round}: {places:?}");
            assert!(distance < 1000 || places[50] + 1 >= most, "{round}");
        }
    }

    /// More equations than slots, all of one place, and twice the same.
    #[test]
    fn what_has_no_solution_is_not_made() {
        let mut chance = Chance(43);
        let about = About::new((i64::MIN, i64::MAX), 0);
        let hashes: Vec<_> = chance.hashes(300).into_iter().collect();
        let equations = |groups| hashes.iter().map(move |it| about.equation(*it, groups));
        assert!(solve::<8>(4, equations(4)).is_none());
        assert!(solve::<8>(6, equations(6)).is_some());
        let near = (0..70).map(|n| about.equation(n, 6));
        assert!(solve::<8>(6, near).is_none());
        let twice = hashes.iter().flat_map(|it| [about.equation(*it, 6); 2]);
        assert_eq!(solve::<8>(6, twice), solve::<8>(6, equations(6)));
        assert!(solve::<8>(0, equations(1)).is_none());
    }

    /// What databases have.
    #[test]
    fn an_equation_stays_what_it_is() {
        let about = About::new((-5_000_000_000, 7_000_000_000), 1);
        let it = about.equation(123_456_789, 62);
        assert_eq!(
            (it.place, it.row, it.print),
            (1667, 7_839_066_254_764_443_527, 50_310)
        );
    }
}
