//! Which of the numbers of a stretch are meant, a bit for each.
//!
//! A late index (late.rs) of few kinds has one row for each kind and stretch, where it would have an entry for each row of its
//! table: of ten million invoices that are paid, 120,000 rows instead of forty million.

use std::ops::RangeInclusive;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// Numbers of a stretch. Those of the first are 0 to this, and there is no row 0.
pub(super) const SPAN: i64 = 1024;

/// Words of 64 bits.
const WORDS: usize = 16;
const _: () = assert!(SPAN == 64 * WORDS as i64);

/// The stretch that a number is in.
pub(super) const fn stretch(number: i64) -> i64 {
    number.div_euclid(SPAN)
}

/// The numbers of a stretch.
pub(super) const fn numbers(stretch: i64) -> RangeInclusive<i64> {
    let first = stretch.saturating_mul(SPAN);
    first..=first.saturating_add(SPAN - 1)
}

/// The last number of the stretches that end at this one or before it, where they begin with 1; 0: of none.
pub(super) const fn whole_to(number: i64) -> i64 {
    let next = number.saturating_add(1);
    let end = next - next.rem_euclid(SPAN) - 1;
    if end < 0 { 0 } else { end }
}

/// Those that are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Places([u64; WORDS]);

/// The word of a number's place, and its bit there.
const fn place(number: i64) -> (usize, u64) {
    let place = number.rem_euclid(SPAN).unsigned_abs();
    let word = (place / 64) as usize;
    (word, 1 << (place % 64))
}

impl Places {
    pub(super) const fn add(&mut self, number: i64) {
        let (word, bit) = place(number);
        self.0[word] |= bit;
    }

    pub(super) const fn remove(&mut self, number: i64) {
        let (word, bit) = place(number);
        self.0[word] &= !bit;
    }

    #[cfg(test)]
    const fn has(&self, number: i64) -> bool {
        let (word, bit) = place(number);
        self.0[word] & bit != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn count(&self) -> i64 {
        self.0.iter().map(|word| i64::from(word.count_ones())).sum()
    }

    /// Those that both have.
    pub(super) fn both(&self, other: &Self) -> Self {
        let mut both = *self;
        for (word, other) in both.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        both
    }

    /// Those that either has.
    pub(super) fn either(&self, other: &Self) -> Self {
        let mut either = *self;
        for (word, other) in either.0.iter_mut().zip(other.0) {
            *word |= other;
        }
        either
    }

    /// Those of this stretch between these two numbers, as first and last of what follows each other; in order.
    pub(super) fn runs(&self, of: i64, (first, last): (i64, i64)) -> Vec<(i64, i64)> {
        let mut runs: Vec<(i64, i64)> = Vec::new();
        let mut number = *numbers(of).start();
        for word in self.0 {
            let (mut bits, begin) = (word, number);
            number = number.saturating_add(64);
            while bits != 0 {
                let number = begin.saturating_add(i64::from(bits.trailing_zeros()));
                bits &= bits - 1;
                if !(first..=last).contains(&number) {
                    continue;
                }
                match runs.last_mut() {
                    Some((_, last)) if *last == number - 1 => *last = number,
                    _ => runs.push((number, number)),
                }
            }
        }
        runs
    }
}

impl ToSql for Places {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let bytes = self.0.iter().flat_map(|word| word.to_le_bytes());
        Ok(bytes.collect::<Vec<u8>>().into())
    }
}

impl FromSql for Places {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        let (words, rest) = bytes.as_chunks();
        let words: &[[u8; 8]; WORDS] = words
            .try_into()
            .ok()
            .filter(|_| rest.is_empty())
            .ok_or(FromSqlError::InvalidType)?;
        Ok(Self(words.map(u64::from_le_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::testing::Chance;
    use super::*;

    #[test]
    fn stretches_are_whole_and_follow_each_other() {
        for (number, expected) in [
            (0, 0),
            (1, 0),
            (1022, 0),
            (1023, 1023),
            (1024, 1023),
            (2046, 1023),
            (2047, 2047),
            (i64::MAX, i64::MAX - 1024),
        ] {
            assert_eq!(whole_to(number), expected, "{number}");
        }
        for number in [1, 1023, 1024, 5000] {
            assert!(numbers(stretch(number)).contains(&number));
            assert_eq!(stretch(whole_to(number) + 1), stretch(number + 1));
        }
        assert_eq!(numbers(2), 2048..=3071);
    }

    #[test]
    fn it_has_what_was_added_and_not_removed_and_is_read_back() {
        let mut chance = Chance(50);
        let mut places = Places::default();
        let mut expected = BTreeSet::new();
        assert!(places.is_empty());
        for _ in 0..3000 {
            let number = 7 * SPAN + i64::try_from(chance.below(1024)).unwrap();
            if chance.below(3) == 0 {
                places.remove(number);
                expected.remove(&number);
            } else {
                places.add(number);
                expected.insert(number);
            }
        }
        assert_eq!(places.count(), i64::try_from(expected.len()).unwrap());
        assert!(numbers(7).all(|number| places.has(number) == expected.contains(&number)));
        for range in [(0, i64::MAX), (7 * SPAN + 100, 7 * SPAN + 300), (0, 7)] {
            let runs = places.runs(7, range);
            let all = runs.iter().flat_map(|(first, last)| *first..=*last);
            let within = expected.iter().copied();
            let within = within.filter(|it| (range.0..=range.1).contains(it));
            assert!(all.eq(within), "{range:?}");
            assert!(runs.windows(2).all(|two| two[0].1 + 1 < two[1].0));
        }
        let ToSqlOutput::Owned(rusqlite::types::Value::Blob(bytes)) = places.to_sql().unwrap()
        else {
            panic!("it is bytes");
        };
        assert_eq!(Places::column_result(ValueRef::Blob(&bytes)), Ok(places));
        assert!(Places::column_result(ValueRef::Blob(&bytes[1..])).is_err());
        assert!(Places::column_result(ValueRef::Blob(&[bytes.as_slice(), &[0]].concat())).is_err());
        // What databases have.
        let mut few = Places::default();
        few.add(SPAN);
        few.add(SPAN + 9);
        few.add(2 * SPAN - 1);
        let ToSqlOutput::Owned(rusqlite::types::Value::Blob(bytes)) = few.to_sql().unwrap() else {
            panic!("it is bytes");
        };
        assert_eq!(
            (bytes.len(), bytes[0], bytes[1], bytes[127]),
            (128, 1, 2, 128)
        );
        assert_eq!(bytes.iter().filter(|it| **it != 0).count(), 3);
        assert_eq!(
            few.both(&places).count(),
            i64::from(expected.contains(&(7 * SPAN)))
                + i64::from(expected.contains(&(7 * SPAN + 9)))
                + i64::from(expected.contains(&(8 * SPAN - 1)))
        );
    }
}
