//! What the table of an index by hashes (hashes.rs) surely does not have.
//!
//! Most of what is looked for is new, and a table of ten million has a leaf of its own for each hash, read for nothing
//! and mostly not in memory. So there is a filter for the table (ribbon.rs), a tenth as large or less, in blocks of at most
//! a page: each tells of the hashes of one stretch of the table. It is part of the database. A merge goes through the whole
//! table, and makes each block anew of what the table then has, once it is beyond it; until then what it has merged is still
//! in runs (hashes.rs). Of what has no block, nothing is known.
//!
//! What it must never do: say that something is not there that is. So each block has a check, which names table and block;
//! what is not what was written says nothing, and is made anew from the table.

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, Statement};

use super::error::is_corrupt;
use super::hashes::Table;
use super::leaves;
use super::ribbon::{About, GROUP, Groups, WAYS, solve};
use super::runs::Trouble;
use super::{answer_keys, invoice_ids};

/// Of so many that are not there, one is let through: 2 to the power of this.
const PLANES: usize = 8;

/// As many are known where there is no room for all.
const FEWER: usize = 4;

/// Check, first hash, how many it was made of, and in which way.
const HEAD: usize = 32;

/// Groups of a block, at most: with its head and what SQLite adds, it fits into a page of 4096 bytes.
const GROUPS: usize = 62;

/// Hashes of a block: with more, there are several. Tests go through many.
const FULL: usize = if cfg!(test) { 96 } else { 3600 };

/// With fewer, it tells of what the one before it did too.
const FEW: usize = FULL / 4;

/// Hashes of which blocks are made at a time, at most, where a large table has none: the next merge goes on.
const MANY: usize = 8 * FULL;

/// The filter is not told of less, where there is no block yet.
const TOLD: usize = FULL / 2;

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
    first: i64,
    last: i64,
    /// Hashes that it was made of.
    count: u64,
    way: u32,
    /// None, where it says nothing of what it has; or it has none.
    groups: Groups<PLANES>,
}

impl Block {
    /// Of hashes in order, without any twice.
    fn of((first, last): (i64, i64), hashes: &[i64]) -> Self {
        let mut block = Self {
            first,
            last,
            count: hashes.len() as u64,
            way: 0,
            groups: Box::default(),
        };
        // With a fifteenth more slots than hashes most have a solution.
        let groups = |more: u32| (hashes.len() * (107 + 3 * more as usize) / 100).div_ceil(GROUP);
        while !hashes.is_empty() && block.way < WAYS {
            let about = About::new((first, last), block.way);
            let groups = groups(block.way).min(GROUPS);
            let equations = hashes.iter().map(|hash| about.equation(*hash, groups));
            if let Some(solved) = solve(groups, equations) {
                block.groups = solved;
                break;
            }
            block.way += 1;
        }
        block
    }

    /// Nothing where any of it is not what was written.
    fn read(seed: u64, last: i64, bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let (groups, rest) = rest.as_chunks::<{ 8 * PLANES }>();
        let word = |at: usize| head[at..].first_chunk().copied().map(u64::from_be_bytes);
        if !rest.is_empty() || word(0)? != leaves::check(seed, last, &bytes[8..]) {
            return None;
        }
        let planes = |bytes: &[u8; 8 * PLANES]| {
            let mut planes = [0; PLANES];
            for (plane, bytes) in planes.iter_mut().zip(bytes.as_chunks().0) {
                *plane = u64::from_be_bytes(*bytes);
            }
            planes
        };
        let block = Self {
            first: word(8)?.cast_signed(),
            last,
            count: word(16)?,
            way: u32::try_from(word(24)?).ok()?,
            groups: groups.iter().map(planes).collect(),
        };
        (block.first <= last).then_some(block)
    }

    fn bytes(&self, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        for word in [self.first.cast_unsigned(), self.count, u64::from(self.way)] {
            bytes.extend(word.to_be_bytes());
        }
        for word in self.groups.as_flattened() {
            bytes.extend(word.to_be_bytes());
        }
        let check = leaves::check(seed, self.last, &bytes[8..]);
        bytes[..8].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    fn write(&self, connection: &Connection, table: &Table) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(table.put_block)?;
        let bytes = self.bytes(table.seed);
        statement.execute((self.last, bytes)).map(|_| ())
    }

    const fn about(&self) -> About {
        About::new((self.first, self.last), self.way)
    }

    /// Of a hash that it tells of.
    fn may_have(&self, hash: i64) -> bool {
        let holds = || {
            self.about()
                .equation(hash, self.groups.len())
                .holds(&self.groups)
        };
        self.count > 0 && (self.groups.is_empty() || holds())
    }
}

/// Blocks that have been read, while there is work. Most of what a look costs is reading its page: of more pages than belong
/// in memory, and of others each time. As long as there is room they are known as they are in the database, and then with
/// fewer planes: what those rule out is not there, and of the rest the block says more.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Table and last hash of each, in order, and what is known of it: a look goes through these alone, which are few and near
    /// each other.
    keys: Vec<(u64, i64)>,
    #[expect(clippy::vec_box, reason = "they are moved as others come and go")]
    blocks: Vec<Box<Bits>>,
    /// Words of all of them.
    words: usize,
    /// Whether there has been no room for one that is whole: up to this one all have fewer planes, and so has what comes.
    cut_to: Option<(u64, i64)>,
    /// Looks that found no room for what they have read.
    passed: usize,
}

/// What is known of a block, all of which was what had been written.
#[derive(Debug, PartialEq, Eq)]
struct Bits {
    first: i64,
    about: About,
    planes: Planes,
}

#[derive(Debug, PartialEq, Eq)]
enum Planes {
    /// It has no hash, or may have any.
    Any(bool),
    Whole(Groups<PLANES>),
    Fewer(Groups<FEWER>),
}

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Whole,
    Fewer,
}

impl Bits {
    fn of(block: &Block, room: Room) -> Self {
        let mut bits = Self {
            first: block.first,
            about: block.about(),
            planes: match block.groups.is_empty() {
                true => Planes::Any(block.count > 0),
                false => Planes::Whole(block.groups.clone()),
            },
        };
        if room == Room::Fewer {
            bits.cut();
        }
        bits
    }

    const fn is_whole(&self) -> bool {
        !matches!(self.planes, Planes::Fewer(_))
    }

    const fn words(&self) -> usize {
        match &self.planes {
            Planes::Any(_) => 0,
            Planes::Whole(groups) => groups.len() * PLANES,
            Planes::Fewer(groups) => groups.len() * FEWER,
        }
    }

    fn cut(&mut self) {
        if let Planes::Whole(groups) = &self.planes {
            let first = |group: &[u64; PLANES]| group.first_chunk().copied();
            self.planes = Planes::Fewer(groups.iter().filter_map(first).collect());
        }
    }

    fn touch(&self, hash: i64) -> u64 {
        let equation = |groups| self.about.equation(hash, groups);
        match &self.planes {
            Planes::Any(_) => 0,
            Planes::Whole(groups) => equation(groups.len()).touch(groups),
            Planes::Fewer(groups) => equation(groups.len()).touch(groups),
        }
    }

    fn may_have(&self, hash: i64) -> bool {
        let equation = |groups| self.about.equation(hash, groups);
        match &self.planes {
            Planes::Any(may_have) => *may_have,
            Planes::Whole(groups) => equation(groups.len()).holds(groups),
            Planes::Fewer(groups) => equation(groups.len()).holds(groups),
        }
    }
}

/// Words that are known at a time: 12 MiB of a payd under load with what allocating them adds, for both indexes. Those of ten
/// million entries, and fewer planes of twice as many.
const ROOM: usize = if cfg!(test) { 16 * 16 } else { 1_480_000 };

/// Words of a block, at most: whole, and with fewer planes.
const WHOLE: usize = PLANES * if cfg!(test) { 2 } else { GROUPS };
const CUT: usize = WHOLE / PLANES * FEWER;

/// Where there are more, one is let go for every so many that are read: hashes come in no order, and any block is as likely
/// to be asked next.
const PASSED: usize = 16;

impl Known {
    /// The block that tells of a hash, if it is known.
    fn at(&self, seed: u64, hash: i64) -> Option<&Bits> {
        let place = self.place((seed, hash));
        let (of, _) = self.keys.get(place)?;
        let block = self.blocks.get(place)?;
        (*of == seed && block.first <= hash).then_some(block)
    }

    /// The place of the first that is not before this one.
    fn place(&self, key: (u64, i64)) -> usize {
        self.keys.partition_point(|it| *it < key)
    }

    fn remove(&mut self, places: std::ops::Range<usize>) {
        self.keys.drain(places.clone());
        let gone = self.blocks.drain(places);
        self.words -= gone.map(|block| block.words()).sum::<usize>();
    }

    /// Reads what a look for these is about to read, all of it at once.
    fn touch(&self, seed: u64, hashes: &[i64]) {
        let known = hashes
            .iter()
            .filter_map(|it| Some((*it, self.at(seed, *it)?)));
        let words = known.map(|(hash, block)| block.touch(hash));
        std::hint::black_box(words.fold(0, |all, word| all ^ word));
    }

    /// What there is room for of one more.
    fn room(&mut self) -> Option<Room> {
        if self.cut_to.is_none() && self.words + WHOLE <= ROOM {
            return Some(Room::Whole);
        }
        while self.words + CUT > ROOM && self.cut_one() {}
        if self.words + CUT <= ROOM {
            return Some(Room::Fewer);
        }
        self.passed += 1;
        if !self.passed.is_multiple_of(PASSED) {
            return None;
        }
        self.remove(0..self.keys.len().min(1));
        None
    }

    /// Cuts the next one that is whole. Once that has begun no other comes, so that each is passed once.
    fn cut_one(&mut self) -> bool {
        let from = self.place(self.cut_to.unwrap_or((0, i64::MIN)));
        let mut next = self.keys.iter().zip(&mut self.blocks).skip(from);
        let next = next.find(|(_, block)| matches!(block.planes, Planes::Whole(_)));
        self.cut_to = Some(next.as_ref().map_or((u64::MAX, i64::MAX), |it| *it.0));
        let Some((_, block)) = next else {
            return false;
        };
        self.words -= block.words();
        block.cut();
        self.words += block.words();
        true
    }

    fn keep(&mut self, seed: u64, block: &Block, room: Room) {
        let bits = Box::new(Bits::of(block, room));
        let key = (seed, block.last);
        let place = self.place(key);
        if self.keys.get(place) == Some(&key) {
            self.remove(place..place + 1);
        }
        self.words += bits.words();
        self.keys.insert(place, key);
        self.blocks.insert(place, bits);
    }

    /// Blocks that tell of hashes between these, and the one before them, are written anew in this transaction, or may be.
    fn forget(&mut self, seed: u64, (first, last): (i64, i64)) {
        let from = self.place((seed, first.saturating_sub(1)));
        let stale = self.keys.iter().zip(&self.blocks).skip(from);
        let stale = stale.take_while(|(key, block)| key.0 == seed && block.first <= last);
        let count = stale.count();
        self.remove(from..from + count);
    }

    /// Frees the memory.
    pub(super) fn rest(&mut self) {
        *self = Self::default();
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
    known.touch(table.seed, &hashes);
    for hash in hashes {
        let block = known.at(table.seed, hash);
        let may_have = match block.map(|it| (it.may_have(hash), it.is_whole())) {
            Some((false, _)) => false,
            Some((true, true)) => true,
            in_part => {
                let room = if in_part.is_none() {
                    known.room()
                } else {
                    None
                };
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

/// The same of one, as the database has it. Its block is known from then on, as far as there is room for it.
fn may_have(
    statement: &mut Statement<'_>,
    (seed, known): (u64, &mut Known),
    hash: i64,
    room: Option<Room>,
) -> rusqlite::Result<bool> {
    let mut found = statement.query([hash])?;
    let Some(row) = found.next()? else {
        return Ok(true);
    };
    let last = row.get(0)?;
    let bytes = row.get_ref(1)?.as_bytes().unwrap_or_default();
    let Some(block) = Block::read(seed, last, bytes) else {
        return Ok(true);
    };
    if let Some(room) = room {
        known.keep(seed, &block, room);
    }
    Ok(hash < block.first || block.may_have(hash))
}

/// The table has got these, somewhere.
///
/// # Errors
/// Where they cannot be read or written.
pub(super) fn add(
    connection: &Connection,
    table: &Table,
    known: &mut Known,
    hashes: impl Iterator<Item = i64>,
) -> Result<(), Trouble> {
    for hash in hashes {
        // Also where its block is not what was written any more.
        known.forget(table.seed, (hash, hash));
        if let At::Block(block) = at(connection, table, hash)? {
            build(connection, table, known, (block.first, block.last))?;
        }
    }
    Ok(())
}

/// How far the filter has been told what has come into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    /// Of the hashes up to this one nothing is left to be told.
    pub(super) to: Option<i64>,
    /// Where the next block ends, if that is known and there is one: it is made anew once the table has all up to there.
    pub(super) next: Option<i64>,
}

impl Told {
    /// Nothing is known of what comes after this hash.
    pub(super) const fn new(to: Option<i64>) -> Self {
        Self { to, next: None }
    }

    /// The first hash of which it has not been told.
    fn first(self) -> Option<i64> {
        self.to.map_or(Some(i64::MIN), |it| it.checked_add(1))
    }

    /// Whether it is time to tell of so many that the table has got, up to a hash.
    pub(super) fn is_due(self, to: i64, count: usize) -> bool {
        match self.next {
            Some(next) => next <= to || count >= MANY,
            None => count >= TOLD,
        }
    }
}

/// The table has got these, in order, after what the filter has been told, and all up to a hash. Where there was no block,
/// there is; where one goes on, it waits for what follows, unless they are many.
///
/// # Errors
/// Where they cannot be read or written.
pub(super) fn extend(
    connection: &Connection,
    table: &Table,
    known: &mut Known,
    (after, to): (Option<i64>, i64),
    hashes: &[i64],
) -> Result<Told, Trouble> {
    let mut rest = hashes;
    let mut told = Told::new(after);
    while let Some(first) = told.first() {
        let at = at(connection, table, first)?;
        let last = match &at {
            At::Block(block) if block.last > to && rest.len() < MANY => {
                told.next = Some(block.last);
                break;
            }
            At::Nothing(_) if first > to => break,
            // Nor for others further on.
            At::Block(_) if rest.is_empty() => to,
            At::Block(block) => block.last.min(to),
            At::Nothing(last) => to.min(*last),
        };
        let (these, others) = rest.split_at(rest.partition_point(|it| *it <= last));
        match at {
            At::Block(block) if !these.is_empty() => {
                if last < block.last {
                    // Of what follows nothing is known for now.
                    drop_blocks(connection, table, (block.last, block.last))?;
                }
                build(connection, table, known, (block.first, last))?;
            }
            At::Block(_) => {}
            At::Nothing(_) => {
                build(connection, table, known, (first, last))?;
            }
        }
        (rest, told.to) = (others, Some(last));
    }
    Ok(told)
}

/// What is to be told next, where that is known up to a hash.
///
/// # Errors
/// SQLite's.
pub(super) fn next(
    connection: &Connection,
    table: &Table,
    told_to: Option<i64>,
) -> rusqlite::Result<Told> {
    let mut told = Told::new(told_to);
    if let Some(first) = told.first()
        && let At::Block(block) = at(connection, table, first)?
    {
        told.next = Some(block.last);
    }
    Ok(told)
}

/// Makes all blocks of both indexes, as far as these are what was written: of the rest nothing is known.
///
/// # Errors
/// SQLite's.
pub(super) fn fill(connection: &Connection) -> rusqlite::Result<()> {
    for table in [&invoice_ids::TABLE, &answer_keys::TABLE] {
        let any = match leaves::any(connection, table) {
            Err(error) if is_corrupt(&error) => false,
            any => any?,
        };
        let mut first = any.then_some(i64::MIN);
        while let Some(from) = first {
            let known = &mut Known::default();
            first = match build(connection, table, known, (from, i64::MAX)) {
                Ok(made_to) => made_to.checked_add(1),
                Err(Trouble::Sqlite(error)) if !is_corrupt(&error) => return Err(error),
                Err(_) => None,
            };
        }
    }
    Ok(())
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
            Some((_, Some(block))) if block.first <= hash => return Ok(At::Block(block)),
            Some((_, Some(block))) => return Ok(At::Nothing(block.first - 1)),
            Some((last, None)) => {
                let index = table.name;
                tracing::error!(
                    index,
                    "the filter of an index is not what was written: payd.db is damaged, see what `payd verify` finds in it; \
                     this is made anew from the index"
                );
                drop_blocks(connection, table, (last, last))?;
            }
        }
    }
}

/// Those that end between two hashes.
fn drop_blocks(connection: &Connection, table: &Table, range: (i64, i64)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(table.drop_blocks)?;
    statement.execute(range).map(|_| ())
}

/// Makes the blocks from one hash to another of what the table has there, in the place of those that there were: of so many
/// as belong together, and of the rest none. Says up to which hash.
fn build(
    connection: &Connection,
    table: &Table,
    known: &mut Known,
    (mut first, last): (i64, i64),
) -> Result<i64, Trouble> {
    let mut hashes = some(connection, table, (first, last))?;
    // Few are no block, where the one before it has room for them: as where others have gone.
    if hashes.len() < FEW
        && let Some(before) = first.checked_sub(1)
        && let At::Block(block) = at(connection, table, before)?
        && block.count < TOLD as u64
    {
        first = block.first;
        hashes = some(connection, table, (first, last))?;
    }
    known.forget(table.seed, (first, last));
    drop_blocks(connection, table, (first, last))?;
    let is_all = hashes.len() <= MANY;
    if !is_all {
        hashes.truncate(MANY);
    }
    let count = hashes.len().div_ceil(FULL).max(1);
    let mut rest = &hashes[..];
    for left in (1..=count).rev() {
        let (these, others) = rest.split_at(rest.len().div_ceil(left));
        let end = match these.last() {
            Some(end) if left > 1 || !is_all => *end,
            _ => last,
        };
        Block::of((first, end), these).write(connection, table)?;
        rest = others;
        first = end.wrapping_add(1);
    }
    Ok(first.wrapping_sub(1))
}

/// The hashes that the table has from one to another, each once and in order: one more than [`MANY`] at most.
fn some(connection: &Connection, table: &Table, range: (i64, i64)) -> Result<Vec<i64>, Trouble> {
    let mut hashes = Vec::new();
    leaves::between(connection, table, range, |(hash, _)| {
        if hashes.last() != Some(&hash) {
            hashes.push(hash);
        }
        match hashes.len() > MANY {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(hashes)
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
        let in_order = |first| before.is_none_or(|before| before < first);
        let block = Block::read(table.seed, last, bytes).filter(|it| in_order(it.first));
        let Some(block) = block else {
            return Ok(Some("is not what was written"));
        };
        before = Some(last);
        let mut misses = false;
        leaves::between(connection, table, (block.first, last), |(hash, n)| {
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
    ) -> Result<Told, Trouble> {
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

    fn counts(connection: &Connection) -> Vec<usize> {
        let mut blocks = connection.prepare(TABLE.blocks).unwrap();
        let count = |last, bytes: Vec<u8>| {
            let block = Block::read(TABLE.seed, last, &bytes).unwrap();
            usize::try_from(block.count).unwrap()
        };
        let counts = blocks.query_map([], |row| Ok(count(row.get(0)?, row.get(1)?)));
        counts.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// Merges these, and tells the filter now and then.
    fn merge(connection: &Connection, chance: &mut Chance, hashes: &BTreeSet<i64>) {
        merge_with(connection, &mut Known::default(), chance, hashes);
    }

    fn merge_with(
        connection: &Connection,
        known: &mut Known,
        chance: &mut Chance,
        hashes: &BTreeSet<i64>,
    ) {
        let (mut told, mut untold) = (Told::new(None), Vec::new());
        let mut tell = |told: Told, to, untold: &mut Vec<i64>| {
            let now = super::extend(connection, &TABLE, known, (told.to, to), untold).unwrap();
            assert!(told.to <= now.to && now.to <= Some(to));
            untold.retain(|it| now.to.is_none_or(|to| *it > to));
            now
        };
        for &hash in hashes {
            put(connection, hash);
            untold.push(hash);
            // When it is time to, or at any other.
            if told.is_due(hash, untold.len()) || chance.below(300) == 0 {
                told = tell(told, hash, &mut untold);
                assert!(untold.len() < MANY && told.next.is_none_or(|next| next > hash));
            }
        }
        told = tell(told, i64::MAX, &mut untold);
        assert_eq!((told, untold), (Told::new(Some(i64::MAX)), Vec::new()));
    }

    #[test]
    fn it_misses_nothing_as_the_table_grows() {
        let connection = in_memory();
        let mut chance = Chance(1);
        let mut all = BTreeSet::new();
        for (n, count) in [1, 300, 0, 2000, 7, 4000, 2000].into_iter().enumerate() {
            let new = chance.hashes(count);
            merge(&connection, &mut chance, &new);
            all.extend(new);
            assert_eq!(fault(&connection, &TABLE, |_, _| true).unwrap(), None);
            assert!(all.iter().all(|hash| has(&connection, *hash)), "{n}");
        }
        let counts = counts(&connection);
        assert!(counts.iter().all(|it| *it <= FULL), "{counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), all.len());
        let mean = all.len() / counts.len();
        assert!(mean > FULL / 3, "{counts:?}");
        // All hashes have a block.
        let mut ends = all.iter().map(|it| it - 1).chain([i64::MIN, i64::MAX]);
        assert!(ends.all(|hash| known(&connection, hash)));
        // Of others, some of 256.
        let others = (0..25_600).filter(|_| has(&connection, chance.hash()));
        let others = others.count();
        assert!((50..200).contains(&others), "{others}");
    }

    /// A block waits until a merge is beyond it, but not for ever so many.
    #[test]
    fn a_block_is_made_anew_when_all_that_comes_to_it_is_there() {
        let connection = in_memory();
        let mut chance = Chance(8);
        let old = chance.hashes(10);
        merge(&connection, &mut chance, &old);
        assert_eq!(counts(&connection), [10]);
        let new: Vec<_> = chance.hashes(MANY as u64 + 40).into_iter().collect();
        let mut told = Told::new(None);
        for count in [1, TOLD, MANY - 1] {
            let (to, some) = (new[count - 1], &new[..count]);
            put_all(&connection, some);
            assert!(!told.is_due(to, count));
            told = extend(&connection, (None, to), some).unwrap();
            assert_eq!((told.to, told.next), (None, Some(i64::MAX)));
            assert_eq!(counts(&connection), [10]);
        }
        let (to, some) = (new[MANY - 1], &new[..MANY]);
        put_all(&connection, some);
        assert!(told.is_due(to, MANY));
        told = extend(&connection, (None, to), some).unwrap();
        assert_eq!(told, Told::new(Some(to)));
        assert!(known(&connection, new[MANY - 20]) && !known(&connection, to + 1));
        let rest = &new[MANY..];
        put_all(&connection, rest);
        told = extend(&connection, (told.to, i64::MAX), rest).unwrap();
        assert_eq!(told, Told::new(Some(i64::MAX)));
        let all = || old.iter().chain(&new);
        assert!(all().all(|hash| has(&connection, *hash)));
        // Ten of them were there before, and too many then.
        let known = all().filter(|hash| known(&connection, **hash)).count();
        assert!(known >= MANY && known < all().count(), "{known}");
        assert_eq!(counts(&connection).iter().sum::<usize>(), known);
    }

    fn put_all(connection: &Connection, hashes: &[i64]) {
        let entries: Vec<_> = hashes.iter().map(|hash| (*hash, 1)).collect();
        leaves::put(connection, &TABLE, &entries).unwrap();
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
        put_all(&connection, some);
        let told = extend(&connection, (None, to), some).unwrap();
        assert_eq!(told, Told::new(Some(to)));
        let known = |hash: &i64| known(&connection, *hash);
        let all = || before.iter().chain(&new);
        assert!(all().all(|hash| known(hash) == (*hash <= to)));
        assert!(all().all(|hash| has(&connection, *hash)));
        put_all(&connection, others);
        // Not there yet: whoever is told of one that has no block leaves it at that.
        others.iter().for_each(|hash| add(&connection, *hash));
        assert!(!known(&i64::MAX));
        extend(&connection, (Some(to), i64::MAX), others).unwrap();
        assert!(all().all(|hash| known(hash) && has(&connection, *hash)));
        assert_eq!(fault(&connection, &TABLE, |_, _| true).unwrap(), None);
        // One more, that it does not have, as most.
        let mut more = before.iter().chain(&new).map(|it| it + 1);
        let more = more.find(|it| !has(&connection, *it)).unwrap();
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

    /// Others than were there when it was made.
    #[test]
    fn where_others_have_gone_blocks_are_joined() {
        let connection = in_memory();
        let mut chance = Chance(9);
        let old = chance.hashes(1000);
        merge(&connection, &mut chance, &old);
        let many = counts(&connection).len();
        for round in 0..6 {
            let sql = "DELETE FROM invoice_id_leaves";
            connection.execute(sql, []).unwrap();
            let new = chance.hashes(100);
            merge(&connection, &mut chance, &new);
            assert!(new.iter().all(|hash| has(&connection, *hash)), "{round}");
            assert_eq!(fault(&connection, &TABLE, |_, _| true).unwrap(), None);
        }
        let few = counts(&connection).len();
        assert!(many > 10 && few <= 4, "{many}, {few}");
    }

    /// What is known of it changes with it.
    #[test]
    fn what_is_known_is_what_the_database_has() {
        let connection = in_memory();
        let mut chance = Chance(6);
        let known = &mut Known::default();
        let mut all = BTreeSet::new();
        let mut most = 0;
        let (mut kept, mut cut) = (0, 0);
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
                put_all(&connection, &new);
                let range = (Some(from), to);
                let told = super::extend(&connection, &TABLE, known, range, &new).unwrap();
                // Whoever merges goes on; here the block is told at once.
                let untold = new.iter().copied().filter(|it| Some(*it) > told.to);
                super::add(&connection, &TABLE, known, untold).unwrap();
                all.extend(new);
            }
            // One of those that go straight into the table.
            let one = chance.hash();
            put(&connection, one);
            super::add(&connection, &TABLE, known, [one].into_iter()).unwrap();
            all.insert(one);
            kept += known.blocks.len();
            for (key, block) in known.keys.iter().zip(&known.blocks) {
                let At::Block(written) = at(&connection, &TABLE, key.1).unwrap() else {
                    panic!("{round}: a block that is not there");
                };
                assert_eq!(*key, (TABLE.seed, written.last));
                let room = match block.is_whole() {
                    true => Room::Whole,
                    false => Room::Fewer,
                };
                assert_eq!(**block, Bits::of(&written, room));
                cut += usize::from(!block.is_whole());
            }
            let others: Vec<_> = (0..50).map(|_| chance.hash()).collect();
            for hash in all.iter().chain(&others) {
                let is = has(&connection, *hash);
                assert!(is || !all.contains(hash), "{round}");
                assert_eq!(may_have(&connection, known, *hash), is, "{round}");
            }
            assert!(known.keys.is_sorted() && known.keys.len() == known.blocks.len());
            let words = known.blocks.iter().map(|block| block.words());
            assert_eq!(known.words, words.sum::<usize>(), "{round}");
            assert!(known.words <= ROOM, "{round}");
            most = most.max(known.blocks.len());
        }
        let blocks = ROOM / CUT;
        let all_blocks = counts(&connection).len();
        assert!(all_blocks > 2 * blocks, "{all_blocks}");
        assert!(most >= blocks && kept > 20 * blocks, "{most}, {kept}");
        assert!(cut > kept / 2 && cut < kept, "{cut}, {kept}");
        // Where one that is cut says that it may have something, the block itself is asked.
        for block in &mut known.blocks {
            assert!(!block.is_whole());
            block.planes = Planes::Fewer(Box::default());
            assert!(block.may_have(chance.hash()));
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
        known.rest();
        assert_eq!((known.blocks.len(), known.words), (0, 0));
        assert_eq!(known.room(), Some(Room::Whole));
    }

    #[test]
    fn of_a_large_table_a_part_becomes_known_at_a_time() {
        let connection = in_memory();
        let mut chance = Chance(5);
        let mut all = chance.hashes(4000);
        put_all(&connection, &all.iter().copied().collect::<Vec<_>>());
        for pass in 1.. {
            let new = chance.hashes(3);
            merge(&connection, &mut chance, &new);
            all.extend(new);
            assert!(all.iter().all(|hash| has(&connection, *hash)));
            let known_all = all.iter().all(|hash| known(&connection, *hash));
            let of_blocks: usize = counts(&connection).iter().sum();
            assert!(of_blocks <= pass * 5 * MANY);
            if known_all {
                assert!(pass > 1);
                break;
            }
        }
    }

    #[test]
    fn what_is_put_where_a_block_is_damaged_is_not_called_absent() {
        let connection = in_memory();
        let mut chance = Chance(11);
        let hashes = chance.hashes(60);
        merge(&connection, &mut chance, &hashes);
        let known = &mut Known::default();
        let new = chance.hash();
        assert!(!may_have(&connection, known, new));
        let damage = "UPDATE invoice_id_filters SET bits = x'00'";
        connection.execute(damage, []).unwrap();
        put(&connection, new);
        super::add(&connection, &TABLE, known, [new].into_iter()).unwrap();
        assert!(may_have(&connection, known, new));
    }

    /// As a migration makes them.
    #[test]
    fn all_blocks_are_made_at_once_as_far_as_the_table_is_whole() {
        let connection = in_memory();
        fill(&connection).unwrap();
        assert_eq!(counts(&connection), Vec::<usize>::new());
        let all = Chance(10).hashes(3000);
        let hashes: Vec<_> = all.iter().copied().collect();
        put_all(&connection, &hashes);
        fill(&connection).unwrap();
        assert!(all.iter().all(|hash| known(&connection, *hash)));
        assert!(known(&connection, i64::MAX) && known(&connection, i64::MIN));
        assert_eq!(fault(&connection, &TABLE, |_, _| true).unwrap(), None);
        assert_eq!(counts(&connection).iter().sum::<usize>(), 3000);
        let damage = "DELETE FROM invoice_id_filters;
             UPDATE invoice_id_leaves SET entries = x'00' WHERE last = (SELECT max(last) FROM invoice_id_leaves)";
        connection.execute_batch(damage).unwrap();
        fill(&connection).unwrap();
        assert!(known(&connection, hashes[0]) && !known(&connection, i64::MAX));
        assert!(all.iter().all(|hash| has(&connection, *hash)));
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
                let length = bytes.len() as u64;
                match n % 10 {
                    8 => bytes.truncate(chance.place(length)),
                    _ => bytes[chance.place(length)] ^= 1 << chance.below(8),
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

    #[test]
    fn what_is_written_is_a_page_at_most_and_read_again_as_it_was() {
        let mut chance = Chance(4);
        let range = (i64::MIN, i64::MAX);
        for count in [0, 1, 2000, 3600] {
            let hashes: Vec<_> = chance.hashes(count).into_iter().collect();
            let block = Block::of(range, &hashes);
            assert!(hashes.iter().all(|hash| block.may_have(*hash)));
            let bytes = block.bytes(5);
            assert!(bytes.len() <= HEAD + 8 * PLANES * GROUPS);
            let read = Block::read(5, range.1, &bytes);
            assert_eq!(read.as_ref(), Some(&block));
            let others = (0..25_600).filter(|_| block.may_have(chance.hash()));
            let others = others.count();
            assert!(others < 200 && (others > 0) == (count > 0), "{others}");
            for seed_and_last in [(4, range.1), (5, range.1 - 1)] {
                assert_eq!(Block::read(seed_and_last.0, seed_and_last.1, &bytes), None);
            }
            let bits = 8 * bytes.len() as u64;
            for _ in 0..500 {
                let mut bytes = bytes.clone();
                let bit = chance.place(bits);
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Block::read(5, range.1, &bytes), None);
            }
        }
        // With what SQLite adds, of a page.
        assert_eq!(HEAD + 8 * PLANES * GROUPS, 4000);
    }

    /// What cannot be solved in any way may have whatever it tells of.
    #[test]
    fn a_block_without_a_filter_says_nothing() {
        let range = (0, i64::MAX);
        let near: Vec<_> = (0..200).collect();
        let block = Block::of(range, &near);
        assert_eq!((block.way, block.groups.len()), (WAYS, 0));
        for room in [Room::Whole, Room::Fewer] {
            let bits = Bits::of(&block, room);
            assert!(bits.may_have(7) && bits.may_have(1 << 50) && bits.is_whole());
            let none = Bits::of(&Block::of(range, &[]), room);
            assert!(!none.may_have(7) && none.is_whole());
        }
        assert!(block.may_have(1 << 50));
        let read = Block::read(1, range.1, &block.bytes(1));
        assert_eq!(read, Some(block));
    }
}
