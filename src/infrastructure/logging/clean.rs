//! Nothing from outside breaks a line, plays with a terminal or fills the disk: what could is escaped,
//! and what is long is cut.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Characters of one field, or of the message. What payd says itself is shorter.
const FIELD_CHARS_MAX: usize = 500;

/// Stands for what was cut.
const CUT: char = '…';

/// Controls; line and paragraph separators; what turns the direction of writing (Unicode TR 9).
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A field on its way into a line of text: at most [`FIELD_CHARS_MAX`] of it, with everything escaped
/// that could break the line or play with a terminal.
pub(super) struct Field<W> {
    into: W,
    left: usize,
}

impl<W: fmt::Write> Field<W> {
    pub(super) const fn new(into: W) -> Self {
        Self {
            into,
            left: FIELD_CHARS_MAX,
        }
    }
}

impl<W: fmt::Write> fmt::Write for Field<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            if self.left == 0 {
                self.into.write_char(CUT)?;
            } else if is_unsafe(c) {
                write!(self.into, "{}", c.escape_default())?;
            } else {
                self.into.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// A line of JSON as written by a serializer: strings are cut to [`FIELD_CHARS_MAX`], and what a
/// serializer leaves though a terminal would obey it is escaped. It stays the same JSON otherwise.
pub(super) fn json(line: &str) -> Cow<'_, [u8]> {
    if is_plain(line) {
        return Cow::Borrowed(line.as_bytes());
    }
    let mut clean = String::with_capacity(line.len());
    // How many characters of the string that we are in have been seen.
    let mut seen: Option<usize> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let Some(count) = &mut seen else {
            if c == '"' {
                seen = Some(0);
            }
            clean.push(c);
            continue;
        };
        if c == '"' {
            seen = None;
            clean.push(c);
            continue;
        }
        *count += 1;
        let keep = *count < FIELD_CHARS_MAX;
        if *count == FIELD_CHARS_MAX {
            clean.push(CUT);
        }
        // An escape is one character, and is kept or cut whole.
        let escaped = (c == '\\').then(|| chars.next()).flatten();
        let digits = if escaped == Some('u') { 4 } else { 0 };
        let digits: String = chars.by_ref().take(digits).collect();
        if !keep {
            continue;
        }
        if is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String cannot fail.
                let _ = write!(clean, "\\u{unit:04x}");
            }
        } else {
            clean.push(c);
            clean.extend(escaped);
            clean.push_str(&digits);
        }
    }
    Cow::Owned(clean.into_bytes())
}

/// Whether a line of JSON has nothing in it that could have to be escaped or cut: the most of them.
fn is_plain(line: &str) -> bool {
    let printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'\\';
    line.trim_ascii_end().bytes().all(printable)
        && line.split('"').all(|part| part.len() < FIELD_CHARS_MAX)
}

/// Text is clean when it gets here.
pub(super) fn text(line: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_the_same_but_for_its_looks() {
        for text in [
            "",
            "plain",
            "a\"b\\c/d\n\t\r",
            "\u{1b}[31m \u{7f} \u{9b}",
            "\u{202e}turned \u{2066}\u{2069}\u{61c}\u{2028}",
            "ключ 鍵 🔑",
            "\\u0041",
        ] {
            let line =
                serde_json::json!({"n": 1, text: [text, {"x": text}], "e": null}).to_string();
            let cleaned = String::from_utf8(json(&line).into_owned()).unwrap();
            let (was, is): (serde_json::Value, serde_json::Value) = (
                serde_json::from_str(&line).unwrap(),
                serde_json::from_str(&cleaned).unwrap(),
            );
            assert_eq!(was, is);
            assert!(!cleaned.chars().any(is_unsafe), "{cleaned:?}");
        }
        assert_eq!(&*json("{\"a\":1}\n"), b"{\"a\":1}\n");
    }

    #[test]
    fn what_is_long_is_cut_whole() {
        for part in ["x", "\n", "\u{1}", "\"", "🔑", "\u{202e}"] {
            for extra in 0..3 {
                let text = part.repeat(FIELD_CHARS_MAX - 2 + extra);
                let line = serde_json::json!({"text": text, "n": 7}).to_string();
                let cleaned: serde_json::Value = serde_json::from_slice(&json(&line)).unwrap();
                let kept = cleaned["text"].as_str().unwrap();
                assert!(kept.chars().count() <= FIELD_CHARS_MAX, "{part:?} {extra}");
                assert_eq!(kept == text, extra < 2, "{part:?} {extra}");
                assert_eq!(kept.ends_with(CUT), extra == 2, "{part:?} {extra}");
                assert_eq!(cleaned["n"], 7);
            }
        }
        let mut field = Field::new(String::new());
        for _ in 0..10 {
            field.write_str(&"y\n".repeat(FIELD_CHARS_MAX)).unwrap();
        }
        assert!(field.into.ends_with(CUT));
        assert!(
            field.into.len() <= FIELD_CHARS_MAX * 2,
            "{}",
            field.into.len()
        );
    }
}
