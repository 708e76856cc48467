//! The end of a backup file: behind the pages of the database, a line with the digest of all of them.
//!
//! SQLite reads as many pages as its header says and never sees it; so a backup opens with any SQLite,
//! and yet a bit that flipped anywhere in it shows, and so does an end that is missing.

use std::fmt::Write;

/// How the line begins; the number is that of this format.
const PREFIX: &str = "payd-backup 1 sha256 ";

/// Bytes of the line, its end included. No page is this short, so a sealed file is told by its length.
pub const SEAL_LEN: usize = PREFIX.len() + 64 + 1;

/// The line for a database of this SHA-256.
#[must_use]
pub fn seal(digest: &[u8; 32]) -> String {
    let mut line = String::with_capacity(SEAL_LEN);
    line.push_str(PREFIX);
    for byte in digest {
        // Writing to a string cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

/// Whether these bytes are the line for a database of this SHA-256.
#[must_use]
pub fn is_seal_of(bytes: &[u8], digest: &[u8; 32]) -> bool {
    bytes == seal(digest).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_its_length_and_is_of_one_digest() {
        let line = seal(&[0xab; 32]);
        assert_eq!(line.len(), SEAL_LEN);
        const { assert!(SEAL_LEN < 512, "shorter than any page") };
        assert!(is_seal_of(line.as_bytes(), &[0xab; 32]));
        assert!(!is_seal_of(line.as_bytes(), &[0xac; 32]));
        assert!(!is_seal_of(&line.as_bytes()[1..], &[0xab; 32]));
    }
}
