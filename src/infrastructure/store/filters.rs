//! What the table of an index by hashes (hashes.rs) surely does not have.
//!
//! Most of what is looked for is new, and a table of ten million has a leaf of its own for each hash, read for nothing
//! and mostly not in memory. So there is a Bloom filter for the table, a tenth as large or less, in blocks of a page: each
//! tells of the hashes of one stretch of the table. It is part of the database. It is told of what is merged some hundreds
//! of entries at a time, while these are still in runs (hashes.rs). Blocks are made as entries are merged, which goes
//! through the whole table; of what has no block, nothing is known.
//!
//! What it must never do: say that something is not there that is. So each line of a block has a check of its own, which
//! names table, block and line; what is not what was written says nothing, and is made anew from the table.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, Statement};

use super::error::is_corrupt;
use super::hashes::Table;
use super::leaves;
use super::runs::Trouble;

/// A line: what one look reads of a block.
type Line = [u64; WORDS];

const WORDS: usize = 8;

/// The last word of a line is its check.
const CHECK: usize = WORDS - 1;

/// Lines of a block. The first is its head: the first hash that it tells of, and how many it has been told. With what
/// SQLite adds, it fits into a page of 4096 bytes.
const LINES: usize = 63;
const FIRST: usize = 0;
const COUNT: usize = 1;

/// Bits of a line that a hash has. Of a hundred that are not there, one is let through where a block is half full, and
/// seven where it is full: fewer blocks are more often in memory.
const LOOKS: u32 = 4;

/// Entries of a block: with more, it is made anew, as two. Tests go through many.
const FULL: u64 = if cfg!(test) { 96 } else { 4800 };

/// How many a new one gets.
const HALF: u64 = FULL / 2;

/// Blocks that are made at a time, at most, where a large table has none: the next merge goes on.
const MADE: usize = 8;

/// What the checks of a table's filter begin with.
pub(super) const fn seed(name: &str) -> u64 {
    // FNV-1a.
    let mut seed = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < name.len() {
        seed = (seed ^ name.as_bytes()[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    seed
}

/// A block, as it is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    seed: u64,
    last: i64,
    lines: Box<[Line; LINES]>,
}

/// The line that a hash belongs to, and its bits there. Hashes are as good as random, but those of a block begin alike.
fn place(hash: i64) -> (usize, [u64; CHECK]) {
    const BITS: u64 = 64 * CHECK as u64;
    let mixed = hash.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let line = ((mixed >> 32) * (LINES as u64 - 1)) >> 32;
    let mut rest = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut bits = [0; CHECK];
    for _ in 0..LOOKS {
        let bit = ((rest >> 48) * BITS) >> 16;
        bits[(bit >> 6) as usize] |= 1 << (bit & 63);
        rest = rest.wrapping_mul(0x94d0_49bb_1331_11eb) ^ (rest >> 31);
    }
    (line as usize + 1, bits)
}

/// What the last word of a line is.
fn check((seed, last): (u64, i64), number: usize, line: &Line) -> u64 {
    let named = seed ^ last.cast_unsigned() ^ (number as u64) << 56;
    let words = line[..CHECK].iter().copied();
    words.fold(named, leaves::step)
}

/// A line of a block, without its check, if it is what was written.
fn line(block: (u64, i64), number: usize, bytes: &[u8]) -> Option<Line> {
    const BYTES: usize = 8 * WORDS;
    let (lines, rest) = bytes.as_chunks::<BYTES>();
    let (words, _) = lines.get(number)?.as_chunks::<8>();
    let mut line = [0; WORDS];
    for (word, bytes) in line.iter_mut().zip(words) {
        *word = u64::from_be_bytes(*bytes);
    }
    let whole = rest.is_empty() && lines.len() == LINES;
    let written = std::mem::take(&mut line[CHECK]);
    (whole && written == check(block, number, &line)).then_some(line)
}

impl Block {
    /// Of the hashes from the first to the last; it has none yet.
    fn new(seed: u64, (first, last): (i64, i64)) -> Self {
        let mut lines = Box::new([[0; WORDS]; LINES]);
        lines[0][FIRST] = first.cast_unsigned();
        Self { seed, last, lines }
    }

    /// Nothing where any of it is not what was written.
    fn read(seed: u64, last: i64, bytes: &[u8]) -> Option<Self> {
        let mut lines = Box::new([[0; WORDS]; LINES]);
        for (number, place) in lines.iter_mut().enumerate() {
            *place = line((seed, last), number, bytes)?;
        }
        Some(Self { seed, last, lines })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LINES * WORDS * 8);
        for (number, line) in self.lines.iter().enumerate() {
            let words = line[..CHECK].iter().copied();
            let check = check((self.seed, self.last), number, line);
            words
                .chain([check])
                .for_each(|it| bytes.extend(it.to_be_bytes()));
        }
        bytes
    }

    fn first(&self) -> i64 {
        self.lines[0][FIRST].cast_signed()
    }

    fn count(&self) -> u64 {
        self.lines[0][COUNT]
    }

    fn add(&mut self, hash: i64) {
        let (line, bits) = place(hash);
        put_all(&mut self.lines[line], &bits);
        self.lines[0][COUNT] += 1;
    }

    /// It tells of what the other one does too, which begins where it ends.
    fn join(&mut self, other: &Self) {
        for (line, others) in self.lines.iter_mut().zip(other.lines.iter()).skip(1) {
            put_all(line, others);
        }
        self.lines[0][COUNT] += other.count();
        self.last = other.last;
    }

    fn may_have(&self, hash: i64) -> bool {
        let (line, bits) = place(hash);
        has_all(&self.lines[line], &bits)
    }

    fn write(&self, connection: &Connection, table: &Table) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(table.put_block)?;
        statement.execute((self.last, self.bytes())).map(|_| ())
    }
}

/// Puts these bits into a line.
fn put_all(line: &mut [u64], bits: &[u64]) {
    for (word, bits) in line.iter_mut().zip(bits) {
        *word |= bits;
    }
}

/// Whether a line has all of them.
fn has_all(line: &[u64], bits: &[u64]) -> bool {
    let missing = line.iter().zip(bits);
    missing.fold(0, |missing, (word, bits)| missing | (bits & !word)) == 0
}

/// Blocks that have been read, while there is work. Most of what a look costs is reading its page: of more pages than belong
/// in memory, and of others each time. As long as there is room they are known as they are in the database, and then folded.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By table and last hash.
    blocks: BTreeMap<(u64, i64), Bits>,
    /// Lines of all of them.
    lines: usize,
    /// Whether there has been no room for one that is whole: up to this one all are folded, and so is what comes.
    folded_to: Option<(u64, i64)>,
    /// Looks that found no room for what they have read.
    passed: usize,
    /// Whether there were looks since somebody asked.
    used: bool,
}

/// What is known of a block, all of which was what had been written: its first hash, and its lines without head and checks.
/// Folded, two lines are one, which has the bits of both: what is in neither is mostly not in this one, and of the rest the
/// block says more.
#[derive(Debug, PartialEq, Eq)]
struct Bits {
    first: i64,
    lines: Box<[[u64; CHECK]]>,
}

const WHOLE: usize = LINES - 1;
const FOLDED: usize = WHOLE / 2;

impl Bits {
    /// In so many lines.
    fn of(block: &Block, lines: usize) -> Self {
        let mut bits = Self {
            first: block.first(),
            lines: vec![[0; CHECK]; lines].into_boxed_slice(),
        };
        for (number, line) in block.lines[1..].iter().enumerate() {
            put_all(&mut bits.lines[number % lines], &line[..CHECK]);
        }
        bits
    }

    const fn is_whole(&self) -> bool {
        self.lines.len() == WHOLE
    }

    fn fold(&mut self) {
        let (one, other) = self.lines.split_at_mut(FOLDED);
        for (line, bits) in one.iter_mut().zip(other.iter()) {
            put_all(line, bits);
        }
        self.lines = Box::from(&*one);
    }

    fn may_have(&self, hash: i64) -> bool {
        let (line, bits) = place(hash);
        has_all(&self.lines[(line - 1) % self.lines.len()], &bits)
    }
}

/// Lines that are known at a time: 12 MiB of a payd under load, for both indexes. Those of twelve million entries, and folded
/// of twice as many.
const ROOM: usize = WHOLE * if cfg!(test) { 16 } else { 3600 };

/// Where there are more, one is let go for every so many that are read: hashes come in no order, and any block is as likely
/// to be asked next.
const PASSED: usize = 16;

impl Known {
    /// The block that tells of a hash, if it is known.
    fn at(&self, seed: u64, hash: i64) -> Option<&Bits> {
        let in_table = (seed, hash)..=(seed, i64::MAX);
        let (_, block) = self.blocks.range(in_table).next()?;
        (block.first <= hash).then_some(block)
    }

    /// In how many lines there is room for one more.
    fn room(&mut self) -> Option<usize> {
        if self.folded_to.is_none() && self.lines + WHOLE <= ROOM {
            return Some(WHOLE);
        }
        if self.lines + FOLDED <= ROOM || self.fold_one() {
            return Some(FOLDED);
        }
        self.passed += 1;
        if !self.passed.is_multiple_of(PASSED) {
            return None;
        }
        let (_, gone) = self.blocks.pop_first()?;
        self.lines -= gone.lines.len();
        Some(FOLDED)
    }

    /// Folds the next one that is whole. Once that has begun no other comes, so that each is passed once.
    fn fold_one(&mut self) -> bool {
        let from = self.folded_to.unwrap_or((0, i64::MIN));
        let mut next = self.blocks.range_mut(from..);
        let next = next.find(|(_, block)| block.is_whole());
        self.folded_to = Some(next.as_ref().map_or((u64::MAX, i64::MAX), |it| *it.0));
        let Some((_, block)) = next else {
            return false;
        };
        block.fold();
        self.lines -= FOLDED;
        true
    }

    fn keep(&mut self, block: &Block, lines: usize) {
        let key = (block.seed, block.last);
        self.lines += lines;
        if let Some(before) = self.blocks.insert(key, Bits::of(block, lines)) {
            self.lines -= before.lines.len();
        }
    }

    /// Blocks that tell of hashes between these, and the one before them, are written anew in this transaction, or may be.
    fn forget(&mut self, seed: u64, (first, last): (i64, i64)) {
        let first = first.saturating_sub(1);
        let (from, to) = ((seed, first), (seed, i64::MAX));
        let stale = self.blocks.range(from..=to);
        let stale = stale.take_while(|(_, block)| block.first <= last);
        let stale: Vec<_> = stale.map(|(key, _)| *key).collect();
        for key in stale {
            let gone = self.blocks.remove(&key);
            self.lines -= gone.map_or(0, |block| block.lines.len());
        }
    }

    /// Frees the memory, if there was no look since the last time.
    pub(super) fn rest(&mut self) {
        if !std::mem::take(&mut self.used) {
            *self = Self::default();
        }
    }
}

/// Those of these hashes that the table may have: the others it surely has not, and those are `absent`. The transaction has
/// not written to the filter.
///
/// # Errors
/// SQLite's.
pub(super) fn sift(
    connection: &Connection,
    table: &Table,
    known: &mut Known,
    hashes: Vec<i64>,
    mut absent: impl FnMut(i64),
) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(table.block)?;
    let mut left = Vec::new();
    known.used |= !hashes.is_empty();
    for hash in hashes {
        let block = known.at(table.seed, hash);
        let may_have = match block.map(|it| (it.may_have(hash), it.is_whole())) {
            Some((false, _)) => false,
            Some((true, true)) => true,
            folded => {
                let room = if folded.is_none() { known.room() } else { None };
                match may_have(&mut statement, (table.seed, known), hash, room) {
                    // Whoever looks for it in the table finds it all the same.
                    Err(error) if is_corrupt(&error) => true,
                    other => other?,
                }
            }
        };
        if may_have {
            left.push(hash);
        } else {
            absent(hash);
        }
    }
    Ok(left)
}

/// The same of one, as the database has it. Its block is known from then on, in as many lines as there are for it.
fn may_have(
    statement: &mut Statement<'_>,
    (seed, known): (u64, &mut Known),
    hash: i64,
    room: Option<usize>,
) -> rusqlite::Result<bool> {
    let mut found = statement.query([hash])?;
    let Some(row) = found.next()? else {
        return Ok(true);
    };
    let block = (seed, row.get(0)?);
    let bytes = row.get_ref(1)?.as_bytes().unwrap_or_default();
    if let Some(lines) = room
        && let Some(block) = Block::read(seed, block.1, bytes)
    {
        let may_have = hash < block.first() || block.may_have(hash);
        known.keep(&block, lines);
        return Ok(may_have);
    }
    let (number, bits) = place(hash);
    let tells = line(block, 0, bytes).is_some_and(|head| head[FIRST].cast_signed() <= hash);
    let line = tells.then(|| line(block, number, bytes)).flatten();
    Ok(line.is_none_or(|line| has_all(&line, &bits)))
}

/// The table has got these, somewhere.
///
/// # Errors
/// SQLite's.
pub(super) fn add(
    connection: &Connection,
    table: &Table,
    known: &mut Known,
    hashes: impl Iterator<Item = i64>,
) -> rusqlite::Result<()> {
    for hash in hashes {
        known.forget(table.seed, (hash, hash));
        if let At::Block(mut block) = at(connection, table, hash)? {
            block.add(hash);
            block.write(connection, table)?;
        }
    }
    Ok(())
}

/// The table has got these, in order, of all hashes after the one up to the other. Where there was no block, there is.
///
/// # Errors
/// Where they cannot be read or written.
pub(super) fn extend(
    connection: &Connection,
    table: &Table,
    known: &mut Known,
    (after, to): (Option<i64>, i64),
    hashes: &[i64],
) -> Result<(), Trouble> {
    let mut rest = hashes;
    let mut from = after.map_or(Some(i64::MIN), |it| it.checked_add(1));
    known.forget(table.seed, (from.unwrap_or(i64::MAX), to));
    while let Some(first) = from.filter(|first| *first <= to) {
        let at = at(connection, table, first)?;
        let last = match &at {
            At::Block(block) => block.last,
            At::Nothing(last) => to.min(*last),
        };
        let (these, others) = rest.split_at(rest.partition_point(|it| *it <= last));
        match at {
            At::Block(mut block) if !these.is_empty() => {
                these.iter().for_each(|hash| block.add(*hash));
                if block.count() > FULL {
                    let half = block.count().div_ceil(2);
                    build(connection, table, (block.first(), last), half)?;
                } else {
                    block.write(connection, table)?;
                }
            }
            At::Block(_) => {}
            At::Nothing(_) => {
                let first = beginning(connection, table, first)?;
                build(connection, table, (first, last), HALF)?;
            }
        }
        (rest, from) = (others, last.checked_add(1));
    }
    Ok(())
}

/// Where a block begins that is to tell of this hash, of which there is none: where the one before it does, if that ends
/// here and has room.
fn beginning(connection: &Connection, table: &Table, first: i64) -> rusqlite::Result<i64> {
    let Some(before) = first.checked_sub(1) else {
        return Ok(first);
    };
    Ok(match at(connection, table, before)? {
        At::Block(block) if block.count() < HALF => block.first(),
        _ => first,
    })
}

/// What there is at a hash.
enum At {
    /// The block that tells of it.
    Block(Block),
    /// None; nor of any up to this one.
    Nothing(i64),
}

/// What is not what was written is gone.
fn at(connection: &Connection, table: &Table, hash: i64) -> rusqlite::Result<At> {
    let mut statement = connection.prepare_cached(table.block)?;
    loop {
        let found = statement
            .query_row([hash], |row| {
                let last = row.get(0)?;
                let bytes = row.get_ref(1)?.as_bytes().unwrap_or_default();
                Ok((last, Block::read(table.seed, last, bytes)))
            })
            .optional()?;
        match found {
            None => return Ok(At::Nothing(i64::MAX)),
            Some((_, Some(block))) if block.first() <= hash => return Ok(At::Block(block)),
            Some((_, Some(block))) => return Ok(At::Nothing(block.first() - 1)),
            Some((last, None)) => {
                let index = table.name;
                tracing::error!(
                    index,
                    "the filter of an index is not what was written: payd.db is damaged, see what `payd verify` finds in it; \
                     this is made anew from the index"
                );
                remove(connection, table, (last, last))?;
            }
        }
    }
}

fn remove(connection: &Connection, table: &Table, range: (i64, i64)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(table.drop_blocks)?;
    statement.execute(range).map(|_| ())
}

/// Makes the blocks from one hash to another of what the table has there, so many entries for each.
fn build(
    connection: &Connection,
    table: &Table,
    (first, last): (i64, i64),
    each: u64,
) -> Result<(), Trouble> {
    remove(connection, table, (first, last))?;
    let mut made = Vec::with_capacity(MADE);
    let mut block = Block::new(table.seed, (first, last));
    let mut before = first;
    leaves::between(connection, table, (first, last), |(hash, _)| {
        if block.count() >= each && hash != before {
            block.last = before;
            let next = Block::new(table.seed, (before + 1, last));
            made.push(std::mem::replace(&mut block, next));
            if made.len() == MADE {
                return ControlFlow::Break(());
            }
        }
        block.add(hash);
        before = hash;
        ControlFlow::Continue(())
    })?;
    match made.last_mut() {
        // Of what follows nothing is known yet.
        Some(_) if block.count() == 0 => {}
        // Few are left over, as where others have gone.
        Some(one) if block.count() < each / 2 => one.join(&block),
        _ => made.push(block),
    }
    for block in made {
        block.write(connection, table)?;
    }
    Ok(())
}

/// What is wrong with the filter of a table, for who checks: it has of each stretch what the table has there, as far as
/// `required` says of hash and row.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn fault(
    connection: &Connection,
    table: &Table,
    required: impl Fn(i64, i64) -> bool,
) -> Result<Option<&'static str>, Trouble> {
    let mut blocks = connection.prepare_cached(table.blocks)?;
    let mut found = blocks.query([])?;
    let mut before = None;
    while let Some(row) = found.next()? {
        let last = row.get(0)?;
        let bytes = row.get_ref(1)?.as_bytes().unwrap_or_default();
        let in_order = |first| first <= last && before.is_none_or(|before| before < first);
        let block = Block::read(table.seed, last, bytes).filter(|it| in_order(it.first()));
        let Some(block) = block else {
            return Ok(Some("is not what was written"));
        };
        before = Some(last);
        let mut misses = false;
        leaves::between(connection, table, (block.first(), last), |(hash, n)| {
            misses = required(hash, n) && !block.may_have(hash);
            if misses {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if misses {
            return Ok(Some("does not have what the index has"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::invoice_ids::TABLE;
    use super::super::testing::{Chance, in_memory};
    use super::*;

    fn put(connection: &Connection, hash: i64) {
        leaves::put(connection, &TABLE, &[(hash, 1)]).unwrap();
    }

    fn has(connection: &Connection, hash: i64) -> bool {
        may_have(connection, &mut Known::default(), hash)
    }

    fn may_have(connection: &Connection, known: &mut Known, hash: i64) -> bool {
        let left = sift(connection, &TABLE, known, vec![hash], |absent| {
            assert_eq!(absent, hash);
        });
        left.unwrap() == [hash]
    }

    fn extend(
        connection: &Connection,
        range: (Option<i64>, i64),
        hashes: &[i64],
    ) -> Result<(), Trouble> {
        super::extend(connection, &TABLE, &mut Known::default(), range, hashes)
    }

    fn add(connection: &Connection, hash: i64) {
        super::add(
            connection,
            &TABLE,
            &mut Known::default(),
            [hash].into_iter(),
        )
        .unwrap();
    }

    fn known(connection: &Connection, hash: i64) -> bool {
        matches!(at(connection, &TABLE, hash).unwrap(), At::Block(_))
    }

    fn counts(connection: &Connection) -> Vec<u64> {
        let mut blocks = connection.prepare(TABLE.blocks).unwrap();
        let count = |last, bytes: Vec<u8>| Block::read(TABLE.seed, last, &bytes).unwrap().count();
        let counts = blocks.query_map([], |row| Ok(count(row.get(0)?, row.get(1)?)));
        counts.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// Merges these, and tells the filter a few at a time.
    fn merge(connection: &Connection, chance: &mut Chance, hashes: &BTreeSet<i64>) {
        merge_with(connection, &mut Known::default(), chance, hashes);
    }

    fn merge_with(
        connection: &Connection,
        known: &mut Known,
        chance: &mut Chance,
        hashes: &BTreeSet<i64>,
    ) {
        let (mut told, mut untold) = (None, Vec::new());
        let mut tell = chance.below(200);
        for &hash in hashes {
            put(connection, hash);
            untold.push(hash);
            if untold.len() as u64 > tell {
                super::extend(connection, &TABLE, known, (told, hash), &untold).unwrap();
                (told, tell) = (Some(hash), chance.below(200));
                untold.clear();
            }
        }
        super::extend(connection, &TABLE, known, (told, i64::MAX), &untold).unwrap();
    }

    #[test]
    fn it_misses_nothing_as_the_table_grows() {
        let connection = in_memory();
        let mut chance = Chance(1);
        let mut all = BTreeSet::new();
        for (n, count) in [1, 300, 0, 2000, 7, 4000].into_iter().enumerate() {
            let new = chance.hashes(count);
            merge(&connection, &mut chance, &new);
            all.extend(new);
            assert_eq!(fault(&connection, &TABLE, |_, _| true).unwrap(), None);
            assert!(all.iter().all(|hash| has(&connection, *hash)), "{n}");
        }
        let counts = counts(&connection);
        let full = counts.iter().all(|it| *it <= 2 * FULL);
        let mean = counts.iter().sum::<u64>() / counts.len() as u64;
        assert!(full && mean > HALF, "{counts:?}");
        // All hashes have a block.
        let mut ends = all.iter().map(|it| it - 1).chain([i64::MIN, i64::MAX]);
        assert!(ends.all(|hash| known(&connection, hash)));
        let longest = "SELECT max(length(bits)) FROM invoice_id_filters";
        let longest: i64 = connection.query_row(longest, [], |row| row.get(0)).unwrap();
        assert_eq!(longest, 4032);
    }

    #[test]
    fn what_the_table_had_before_is_known_once_a_merge_has_been_there() {
        let connection = in_memory();
        let mut chance = Chance(2);
        let before = chance.hashes(300);
        before.iter().for_each(|hash| put(&connection, *hash));
        assert!(has(&connection, 5));
        let new: Vec<_> = chance.hashes(60).into_iter().collect();
        let (some, others) = new.split_at(30);
        let to = some[29];
        some.iter().for_each(|hash| put(&connection, *hash));
        extend(&connection, (None, to), some).unwrap();
        let known = |hash: &i64| known(&connection, *hash);
        let all = || before.iter().chain(&new);
        assert!(all().all(|hash| known(hash) == (*hash <= to)));
        assert!(all().all(|hash| has(&connection, *hash)));
        others.iter().for_each(|hash| put(&connection, *hash));
        // Not there yet: whoever is told of one that has no block leaves it at that.
        others.iter().for_each(|hash| add(&connection, *hash));
        assert!(!known(&i64::MAX));
        extend(&connection, (Some(to), i64::MAX), others).unwrap();
        assert!(all().all(|hash| known(hash) && has(&connection, *hash)));
        assert_eq!(fault(&connection, &TABLE, |_, _| true).unwrap(), None);
        // One more, anywhere.
        let more = new[3] + 1;
        put(&connection, more);
        let missing = fault(&connection, &TABLE, |_, _| true).unwrap();
        assert_eq!(missing, Some("does not have what the index has"));
        assert_eq!(
            fault(&connection, &TABLE, |hash, _| hash != more).unwrap(),
            None
        );
        add(&connection, more);
        assert_eq!(fault(&connection, &TABLE, |_, _| true).unwrap(), None);
    }

    /// What is known of it changes with it.
    #[test]
    fn what_is_known_is_what_the_database_has() {
        let connection = in_memory();
        let mut chance = Chance(6);
        let known = &mut Known::default();
        let mut all = BTreeSet::new();
        let mut most = 0;
        let (mut kept, mut folded) = (0, 0);
        for round in 0..60 {
            if round % 10 == 0 {
                let new = chance.hashes(600);
                merge_with(&connection, known, &mut chance, &new);
                all.extend(new);
            } else {
                // A stretch.
                let (one, other) = (chance.hash(), chance.hash() >> (round % 30));
                let (from, to) = (one.min(other), one.max(other));
                let new: Vec<_> = chance.hashes(60).range(from + 1..=to).copied().collect();
                new.iter().for_each(|hash| put(&connection, *hash));
                super::extend(&connection, &TABLE, known, (Some(from), to), &new).unwrap();
                all.extend(new);
            }
            // One of those that go straight into the table.
            let one = chance.hash();
            put(&connection, one);
            super::add(&connection, &TABLE, known, [one].into_iter()).unwrap();
            all.insert(one);
            kept += known.blocks.len();
            for (key, block) in &known.blocks {
                let At::Block(written) = at(&connection, &TABLE, key.1).unwrap() else {
                    panic!("{round}: a block that is not there");
                };
                assert_eq!(*key, (TABLE.seed, written.last));
                assert_eq!(block, &Bits::of(&written, block.lines.len()));
                folded += usize::from(!block.is_whole());
            }
            let others: Vec<_> = (0..50).map(|_| chance.hash()).collect();
            for hash in all.iter().chain(&others) {
                let is = has(&connection, *hash);
                assert!(is || !all.contains(hash), "{round}");
                assert_eq!(may_have(&connection, known, *hash), is, "{round}");
            }
            let lines = known.blocks.values().map(|block| block.lines.len());
            assert_eq!(known.lines, lines.sum::<usize>(), "{round}");
            assert!(known.lines <= ROOM, "{round}");
            most = most.max(known.blocks.len());
        }
        let blocks = ROOM / WHOLE;
        assert!(counts(&connection).len() > 3 * blocks);
        assert!(
            most == 2 * blocks && kept > 60 * blocks / 2,
            "{most}, {kept}"
        );
        assert!(folded > kept / 2 && folded < kept, "{folded}, {kept}");
        // Where one that is folded says that it may have something, the block itself is asked.
        for block in known.blocks.values_mut() {
            assert!(!block.is_whole());
            block.lines.fill([u64::MAX; CHECK]);
        }
        let others = (0..200).map(|_| chance.hash());
        let absent = others.filter(|hash| {
            let is = has(&connection, *hash);
            assert_eq!(may_have(&connection, known, *hash), is);
            !is
        });
        assert!(absent.count() > 150);
        // Another table's are others.
        assert!(known.at(TABLE.seed + 1, chance.hash()).is_none());
        // It is let go once nobody has asked in a while.
        known.rest();
        assert_eq!(known.blocks.len(), 2 * blocks);
        known.rest();
        assert_eq!((known.blocks.len(), known.lines), (0, 0));
        assert_eq!(known.room(), Some(WHOLE));
    }

    #[test]
    fn of_a_large_table_a_part_becomes_known_at_a_time() {
        let connection = in_memory();
        let all = Chance(5).hashes(2000);
        all.iter().for_each(|hash| put(&connection, *hash));
        for pass in 1.. {
            extend(&connection, (None, i64::MAX), &[]).unwrap();
            assert!(all.iter().all(|hash| has(&connection, *hash)));
            let blocks = counts(&connection).len();
            assert!(blocks <= pass * MADE);
            if known(&connection, i64::MAX) {
                assert!(pass > 4 && all.iter().all(|hash| known(&connection, *hash)));
                break;
            }
        }
    }

    #[test]
    fn what_is_damaged_says_nothing_and_is_made_anew() {
        let mut chance = Chance(3);
        let connection = in_memory();
        let hashes = chance.hashes(400);
        merge(&connection, &mut chance, &hashes);
        let blocks = counts(&connection).len();
        assert!(blocks > 1);
        for n in 0..200 {
            connection.execute_batch("BEGIN").unwrap();
            let pick = (chance.below(blocks as u64)).cast_signed();
            let (last, mut bytes): (i64, Vec<u8>) = connection
                .query_row(
                    "SELECT last, bits FROM invoice_id_filters LIMIT 1 OFFSET ?1",
                    [pick],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .unwrap();
            if n % 10 == 9 {
                // The hash that it ends with is another one, and all else is as it was.
                let moved = last ^ (1 << (chance.below(40) + 20));
                let sql = "UPDATE OR REPLACE invoice_id_filters SET last = ?2 WHERE last = ?1";
                connection.execute(sql, [last, moved]).unwrap();
            } else {
                match n % 10 {
                    8 => bytes.truncate(chance.place(4032)),
                    _ => bytes[chance.place(4032)] ^= 1 << chance.below(8),
                }
                let sql = "UPDATE invoice_id_filters SET bits = ?2 WHERE last = ?1";
                connection.execute(sql, (last, bytes)).unwrap();
            }
            assert!(hashes.iter().all(|hash| has(&connection, *hash)), "{n}");
            let damaged = fault(&connection, &TABLE, |_, _| true).unwrap();
            assert_eq!(damaged, Some("is not what was written"), "{n}");
            let more = chance.hashes(30);
            merge(&connection, &mut chance, &more);
            for hash in hashes.iter().chain(&more) {
                let hash = *hash;
                assert!(known(&connection, hash) && has(&connection, hash), "{n}");
            }
            assert_eq!(
                fault(&connection, &TABLE, |_, _| true).unwrap(),
                None,
                "{n}"
            );
            connection.execute_batch("ROLLBACK").unwrap();
        }
    }

    /// What is made is half full, and what is full tells the most.
    #[test]
    fn of_what_is_not_there_little_is_let_through() {
        let mut chance = Chance(4);
        for (count, most) in [(2400, 200), (4800, 800)] {
            let mut block = Block::new(TABLE.seed, (i64::MIN, i64::MAX));
            let hashes = chance.hashes(count);
            hashes.iter().for_each(|hash| block.add(*hash));
            assert!(hashes.iter().all(|hash| block.may_have(*hash)));
            let others = (0..10_000).filter(|_| block.may_have(chance.hash()));
            let others = others.count();
            assert!((1..most).contains(&others), "{count}: {others}");
        }
    }

    /// A line's check tells of whatever word changes, and of the line's place.
    #[test]
    fn a_line_that_is_another_is_none() {
        let mut block = Block::new(5, (-99, -7));
        (0..50).for_each(|n| block.add(n));
        let bytes = block.bytes();
        assert_eq!(Block::read(5, -7, &bytes), Some(block));
        assert_eq!(Block::read(5, -6, &bytes), None);
        assert_eq!(Block::read(4, -7, &bytes), None, "of another table");
        for bit in 0..8 * 64 {
            let mut bytes = bytes.clone();
            bytes[64 * 5 + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(line((5, -7), 5, &bytes), None);
            assert!(line((5, -7), 4, &bytes).is_some());
        }
        let mut swapped = bytes.clone();
        swapped[64 * 8..64 * 10].rotate_left(64);
        assert_eq!(
            (line((5, -7), 8, &swapped), line((5, -7), 9, &swapped)),
            (None, None)
        );
    }
}
