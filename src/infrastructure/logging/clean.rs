//! Nothing from outside breaks a line, plays with a terminal or fills the disk: what could is escaped,
//! and what is long is cut. That is done while it is written, and nothing looks at a line again.

use std::fmt;
use std::marker::PhantomData;

use crate::api;

/// Characters of one field, or of the message. What payd says itself is shorter.
const FIELD_CHARS_MAX: usize = 500;

/// Stands for what was cut.
const CUT: char = '…';

/// Controls; line and paragraph separators; what turns the direction of writing (Unicode TR 9).
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What a kind of line does not take as it is.
pub(super) trait Escape {
    /// For each byte, whether it is a character that stands for itself. Others are looked at as characters.
    const PLAIN: [bool; 256];

    /// Writes a character that does not stand for itself.
    fn escape(c: char, into: &mut impl fmt::Write) -> fmt::Result;
}

/// Printable ASCII but for these.
const fn plain_but(special: &[u8]) -> [bool; 256] {
    let mut plain = [false; 256];
    let mut byte = b' ' as usize;
    while byte <= b'~' as usize {
        plain[byte] = true;
        byte += 1;
    }
    let mut at = 0;
    while at < special.len() {
        plain[special[at] as usize] = false;
        at += 1;
    }
    plain
}

/// For people, escaped as Rust does.
pub(super) struct Text;

impl Escape for Text {
    const PLAIN: [bool; 256] = plain_but(b"");

    fn escape(c: char, into: &mut impl fmt::Write) -> fmt::Result {
        write!(into, "{}", c.escape_default())
    }
}

/// The inside of a JSON string (RFC 8259, section 7).
pub(super) struct Json;

impl Escape for Json {
    const PLAIN: [bool; 256] = plain_but(b"\"\\");

    fn escape(c: char, into: &mut impl fmt::Write) -> fmt::Result {
        api::escape_char(c, into)
    }
}

/// A field on its way into a line: at most [`FIELD_CHARS_MAX`] of it, with everything escaped that could
/// break the line or play with a terminal. An escape is one character, and is kept or cut whole.
pub(super) struct Field<W, E> {
    into: W,
    left: usize,
    kind: PhantomData<E>,
}

impl<W: fmt::Write, E: Escape> Field<W, E> {
    pub(super) const fn new(into: W) -> Self {
        Self {
            into,
            left: FIELD_CHARS_MAX,
            kind: PhantomData,
        }
    }

    fn cut(&mut self) -> fmt::Result {
        self.left = 0;
        self.into.write_char(CUT)
    }
}

impl<W: fmt::Write, E: Escape> fmt::Write for Field<W, E> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while self.left > 0 {
            let is_plain = |byte: &u8| E::PLAIN[usize::from(*byte)];
            let plain = rest.bytes().take_while(is_plain).count();
            // The last place is kept for the mark of a cut.
            let kept = plain.min(self.left - 1);
            self.into.write_str(&rest[..kept])?;
            self.left -= kept;
            if kept < plain {
                return self.cut();
            }
            rest = &rest[plain..];
            let Some(c) = rest.chars().next() else {
                break;
            };
            if self.left == 1 {
                return self.cut();
            }
            self.left -= 1;
            if c.is_ascii() || is_unsafe(c) {
                E::escape(c, &mut self.into)?;
            } else {
                self.into.write_char(c)?;
            }
            rest = &rest[c.len_utf8()..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn written<E: Escape>(pieces: &[&str]) -> String {
        let mut field = Field::<_, E>::new(String::new());
        for piece in pieces {
            field.write_str(piece).unwrap();
        }
        field.into
    }

    fn read(inside: &str) -> String {
        serde_json::from_str(&format!("\"{inside}\"")).unwrap()
    }

    #[test]
    fn what_breaks_lines_or_plays_with_terminals_is_escaped_and_nothing_else() {
        for (part, text, json) in [
            ("", "", ""),
            ("plain ~", "plain ~", "plain ~"),
            ("a\"b\\c/d", "a\"b\\c/d", "a\\\"b\\\\c/d"),
            ("\n\t\r", "\\n\\t\\r", "\\n\\t\\r"),
            ("\u{8}\u{c}", "\\u{8}\\u{c}", "\\b\\f"),
            ("\0\u{1b}[31m", "\\u{0}\\u{1b}[31m", "\\u0000\\u001b[31m"),
            ("\u{7f}\u{9b}", "\\u{7f}\\u{9b}", "\\u007f\\u009b"),
            (
                "\u{202e}\u{2066}\u{2069}\u{61c}\u{2028}",
                "\\u{202e}\\u{2066}\\u{2069}\\u{61c}\\u{2028}",
                "\\u202e\\u2066\\u2069\\u061c\\u2028",
            ),
            ("ключ 鍵 🔑", "ключ 鍵 🔑", "ключ 鍵 🔑"),
            ("\\u0041", "\\u0041", "\\\\u0041"),
        ] {
            assert_eq!(written::<Text>(&[part]), text);
            assert_eq!(written::<Json>(&[part]), json);
            assert_eq!(read(json), part);
        }
    }

    #[test]
    fn what_is_long_is_cut_whole() {
        for part in ["x", "\n", "\u{1}", "\"", "鍵", "🔑", "\u{202e}"] {
            for extra in 0..3 {
                let text = part.repeat(FIELD_CHARS_MAX - 2 + extra);
                let kept = read(&written::<Json>(&[&text]));
                assert!(kept.chars().count() <= FIELD_CHARS_MAX, "{part:?} {extra}");
                assert_eq!(kept == text, extra < 2, "{part:?} {extra}");
                assert_eq!(kept.ends_with(CUT), extra == 2, "{part:?} {extra}");
                // In whatever pieces it comes.
                let pieces: Vec<_> = text.split_inclusive(part).collect();
                assert_eq!(read(&written::<Json>(&pieces)), kept, "{part:?} {extra}");
            }
        }
        let long = "y\n".repeat(FIELD_CHARS_MAX);
        let text = written::<Text>(&[long.as_str(); 10]);
        assert!(text.ends_with(CUT));
        assert_eq!(text.matches(CUT).count(), 1);
        assert_eq!(text.replace("\\n", "n").chars().count(), FIELD_CHARS_MAX);
    }
}
