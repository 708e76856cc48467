//! Reads the write-ahead log before SQLite does, to see whether commits have been damaged in it.
//!
//! SQLite takes the log up to the first frame that does not fit its checksum, and forgets the rest
//! without a word: that is right for the torn end that a power cut leaves, and wrong for a bit that
//! flipped in the middle, behind which acknowledged commits lie. The two can be told apart. payd syncs
//! every commit (`synchronous=FULL`), so nothing is ever written behind a commit that is not whole on
//! disk: a bad frame with a commit behind it, and something chained to that commit, is damage.
//!
//! It only reads. What it cannot know is whether the very last commit was whole once; for that there is
//! the [mark](super::mark).
//!
//! The format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

/// Bytes of the file's header.
const HEADER_LEN: usize = 32;

/// Bytes of a frame's header, before its page.
const FRAME_HEADER_LEN: usize = 24;

/// The file's first word; its lowest bit says that checksums read words as big-endian.
const MAGIC: u32 = 0x377f_0682;

/// The only version there is.
const VERSION: u32 = 3_007_000;

/// What is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WalDamage {
    /// The header is not one, though there are frames behind it. SQLite would drop all of them.
    #[error("its header is damaged, and there are commits behind it")]
    Header,
    /// A frame does not fit its checksum, and commits follow. SQLite would drop them.
    #[error("frame {frame}, at byte {offset}, is damaged, and there are commits behind it")]
    Frame {
        /// From 1.
        frame: u64,
        /// Where it starts in the file.
        offset: u64,
    },
}

/// Examines the log at `path`. No file is a sound one.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn examine(path: &Path) -> io::Result<Result<(), WalDamage>> {
    match File::open(path) {
        Ok(file) => examine_from(BufReader::with_capacity(1 << 16, file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Ok(())),
        Err(error) => Err(error),
    }
}

fn examine_from(mut wal: impl Read) -> io::Result<Result<(), WalDamage>> {
    let mut header = [0; HEADER_LEN];
    if !fill(&mut wal, &mut header)? {
        return Ok(Ok(())); // no frame was ever written
    }
    let Some(rules) = Rules::read(&header) else {
        // The header is synced before the first frame is written. Only where no frame was, the space
        // may be there without what was to be in it.
        let empty = header.iter().all(|byte| *byte == 0) && all_zero(wal)?;
        return Ok(if empty {
            Ok(())
        } else {
            Err(WalDamage::Header)
        });
    };
    let mut frame = vec![0; FRAME_HEADER_LEN + rules.page_len];
    let mut before = rules.sum;
    // The first frame that does not fit, and whether the frame before this one is a commit beyond it.
    let mut bad: Option<u64> = None;
    let mut behind_commit = false;
    for number in 1.. {
        if !fill(&mut wal, &mut frame)? {
            break;
        }
        let fits = rules.fits(&frame, before);
        match bad {
            Some(bad) if fits && behind_commit => {
                let len = (FRAME_HEADER_LEN + rules.page_len) as u64;
                let offset = HEADER_LEN as u64 + (bad - 1) * len;
                return Ok(Err(WalDamage::Frame { frame: bad, offset }));
            }
            None if !fits => bad = Some(number),
            _ => {}
        }
        behind_commit = rules.is_ours(&frame) && word(&frame, 4) != 0;
        // The sum as it is stored: a frame that is whole fits the one before it, damaged or not.
        before = [word(&frame, 16), word(&frame, 20)];
    }
    Ok(Ok(()))
}

/// What holds for all frames of one log.
struct Rules {
    page_len: usize,
    salts: [u32; 2],
    sum: [u32; 2],
    big_endian: bool,
}

impl Rules {
    fn read(header: &[u8; HEADER_LEN]) -> Option<Self> {
        let (magic, page_len) = (word(header, 0), word(header, 8));
        let big_endian = magic & 1 == 1;
        let sum = checksum(big_endian, [0, 0], &header[..24]);
        let stored = [word(header, 24), word(header, 28)];
        let sound = magic & !1 == MAGIC
            && word(header, 4) == VERSION
            && page_len.is_power_of_two()
            && (512..=65_536).contains(&page_len)
            && sum == stored;
        sound.then(|| Self {
            page_len: page_len as usize,
            salts: [word(header, 16), word(header, 20)],
            sum,
            big_endian,
        })
    }

    /// Of this log, and not left over from before it was last reset.
    fn is_ours(&self, frame: &[u8]) -> bool {
        [word(frame, 8), word(frame, 12)] == self.salts
    }

    fn fits(&self, frame: &[u8], before: [u32; 2]) -> bool {
        let sum = checksum(self.big_endian, before, &frame[..8]);
        let sum = checksum(self.big_endian, sum, &frame[FRAME_HEADER_LEN..]);
        self.is_ours(frame) && sum == [word(frame, 16), word(frame, 20)]
    }
}

/// The checksum of section 4.2 of the format; `bytes` is a multiple of 8 long.
fn checksum(big_endian: bool, mut sum: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    for pair in bytes.chunks_exact(8) {
        let [a, b] = [0, 4].map(|at| {
            let word = word(pair, at);
            if big_endian { word } else { word.swap_bytes() }
        });
        sum[0] = sum[0].wrapping_add(a).wrapping_add(sum[1]);
        sum[1] = sum[1].wrapping_add(b).wrapping_add(sum[0]);
    }
    sum
}

/// The big-endian word at a place. The callers' places are within what they pass.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// Whether there was enough to fill it.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn all_zero(mut from: impl Read) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(true),
            read if buffer[..read].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    use super::*;

    const FRAME_LEN: usize = FRAME_HEADER_LEN + 4096;

    /// A log of SQLite's own, of so many commits; and where each ends, in frames.
    fn log(commits: usize) -> (Vec<u8>, Vec<usize>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (x); CREATE TABLE u (x)")
            .unwrap();
        let wal = directory.path().join("t.db-wal");
        let frames = || (std::fs::read(&wal).unwrap().len() - HEADER_LEN) / FRAME_LEN;
        let mut ends = vec![frames()];
        for _ in 0..commits {
            connection
                .execute_batch(
                    "BEGIN; INSERT INTO t VALUES (randomblob(9000)); INSERT INTO u VALUES (1); COMMIT",
                )
                .unwrap();
            ends.push(frames());
        }
        (std::fs::read(&wal).unwrap(), ends)
    }

    fn verdict(bytes: &[u8]) -> Result<(), WalDamage> {
        examine_from(bytes).unwrap()
    }

    #[test]
    fn a_log_as_sqlite_writes_it_is_sound_wherever_it_is_cut_off() {
        let (log, _) = log(4);
        for len in (0..=log.len()).step_by(97).chain([log.len()]) {
            assert_eq!(verdict(&log[..len]), Ok(()), "{len}");
        }
        assert_eq!(verdict(&vec![0; 9000]), Ok(()), "space, and nothing in it");
    }

    #[test]
    fn a_bit_that_flipped_before_a_later_commit_is_found_wherever_it_is() {
        let (log, ends) = log(4);
        // Two commits follow every frame of these.
        let last = HEADER_LEN + ends[2] * FRAME_LEN;
        for at in (0..last).step_by(61).chain(0..HEADER_LEN) {
            let mut damaged = log.clone();
            damaged[at] ^= 1 << (at % 8);
            let want = if at < HEADER_LEN {
                WalDamage::Header
            } else {
                let frame = ((at - HEADER_LEN) / FRAME_LEN) as u64;
                WalDamage::Frame {
                    frame: frame + 1,
                    offset: HEADER_LEN as u64 + frame * FRAME_LEN as u64,
                }
            };
            assert_eq!(verdict(&damaged), Err(want), "byte {at}");
        }
    }

    #[test]
    fn what_a_power_cut_may_leave_is_no_damage() {
        let (log, ends) = log(4);
        let frame = |n: usize| HEADER_LEN + n * FRAME_LEN..HEADER_LEN + (n + 1) * FRAME_LEN;
        // Within the last commit, which was not synced, any page may be missing.
        for lost in ends[3]..ends[4] {
            let mut torn = log.clone();
            torn[frame(lost)].fill(0);
            assert_eq!(verdict(&torn), Ok(()), "frame {lost}");
        }
        // A rollback of much, or a reset, leaves frames behind that no longer fit.
        let mut reset = log.clone();
        let (other, _) = self::log(1);
        reset[..other.len()].copy_from_slice(&other);
        assert_eq!(verdict(&reset), Ok(()));
    }
}
