//! JSON objects written straight into a buffer.
//!
//! What payd writes for each payment is the same few shapes, thousands of times a second. serde_json
//! takes each name and value through several small writes, and looks at every byte of them; here names
//! are known to need nothing, and a text is looked through once. The result is the same to the byte.

use std::fmt::{self, Display, Write as _};

/// An object under way. [`Object::end`] closes it.
#[must_use = "it is not an object before its end"]
pub struct Object<'a> {
    into: &'a mut String,
}

impl<'a> Object<'a> {
    /// Begins an object.
    pub fn begin(into: &'a mut String) -> Self {
        into.push('{');
        Self { into }
    }

    /// Ends it.
    pub fn end(self) {
        self.into.push('}');
    }

    /// What comes before a value. Names are payd's own, and need no escapes.
    fn name(&mut self, name: &'static str) {
        let before = if self.into.ends_with('{') {
            "\""
        } else {
            ",\""
        };
        self.into.push_str(before);
        self.into.push_str(name);
        self.into.push_str("\":");
    }

    /// A text.
    pub fn text(&mut self, name: &'static str, value: &str) -> &mut Self {
        self.name(name);
        self.quoted(value);
        self
    }

    /// A text, or `null`.
    pub fn text_or_null(&mut self, name: &'static str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self.null(name),
        }
    }

    /// What something looks like, as a text.
    pub fn shown(&mut self, name: &'static str, value: impl Display) -> &mut Self {
        self.name(name);
        self.into.push('"');
        let start = self.into.len();
        // Writing to a String cannot fail.
        let _ = write!(self.into, "{value}");
        if needs_escapes(&self.into[start..]) {
            let shown = self.into.split_off(start);
            escape(self.into, &shown);
        }
        self.into.push('"');
        self
    }

    /// The same, or `null`.
    pub fn shown_or_null(&mut self, name: &'static str, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.shown(name, value),
            None => self.null(name),
        }
    }

    /// A number that is not negative.
    pub fn number(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.name(name);
        self.into.push_str(itoa::Buffer::new().format(value));
        self
    }

    /// `true` or `false`.
    pub fn truth(&mut self, name: &'static str, value: bool) -> &mut Self {
        self.name(name);
        self.into.push_str(if value { "true" } else { "false" });
        self
    }

    /// `null`.
    pub fn null(&mut self, name: &'static str) -> &mut Self {
        self.name(name);
        self.into.push_str("null");
        self
    }

    /// Texts under names that come from outside.
    pub fn texts<'t>(
        &mut self,
        name: &'static str,
        entries: impl IntoIterator<Item = (&'t String, &'t String)>,
    ) -> &mut Self {
        self.name(name);
        self.into.push('{');
        for (name, value) in entries {
            if !self.into.ends_with('{') {
                self.into.push(',');
            }
            self.quoted(name);
            self.into.push(':');
            self.quoted(value);
        }
        self.into.push('}');
        self
    }

    /// An object within it.
    pub fn object(&mut self, name: &'static str) -> Object<'_> {
        self.name(name);
        Object::begin(self.into)
    }

    fn quoted(&mut self, text: &str) {
        self.into.push('"');
        if needs_escapes(text) {
            escape(self.into, text);
        } else {
            self.into.push_str(text);
        }
        self.into.push('"');
    }
}

const fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Without an early end, so that many bytes are looked at in a step.
fn needs_escapes(text: &str) -> bool {
    text.bytes()
        .fold(false, |found, byte| found | is_escaped(byte))
}

/// Writes a character as an escape of JSON (RFC 8259, section 7), in the short form where there is one.
///
/// # Errors
/// Those of what it is written into.
pub fn escape_char(c: char, into: &mut impl fmt::Write) -> fmt::Result {
    match c {
        '"' => into.write_str("\\\""),
        '\\' => into.write_str("\\\\"),
        '\n' => into.write_str("\\n"),
        '\r' => into.write_str("\\r"),
        '\t' => into.write_str("\\t"),
        '\u{8}' => into.write_str("\\b"),
        '\u{c}' => into.write_str("\\f"),
        _ => {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(into, "\\u{unit:04x}")?;
            }
            Ok(())
        }
    }
}

/// Writes a text with all escaped that has to be.
fn escape(into: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(is_escaped) {
        let (before, from) = rest.split_at(at);
        into.push_str(before);
        // Writing to a String cannot fail.
        let _ = escape_char(char::from(from.as_bytes()[0]), into);
        // What is escaped is one byte of ASCII.
        rest = &from[1..];
    }
    into.push_str(rest);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn written(write: impl FnOnce(&mut Object<'_>)) -> String {
        let mut into = String::new();
        let mut object = Object::begin(&mut into);
        write(&mut object);
        object.end();
        into
    }

    #[test]
    fn it_is_what_serde_json_writes() {
        let every_ascii: String = (0..=0x7f_u8).map(char::from).collect();
        let texts = [
            "",
            "{",
            "plain",
            "\"quoted\"",
            "back\\slash",
            "ключ 鍵 🔑\n",
            "ends with \u{7f}\u{80}\u{2028}",
            &every_ascii,
        ];
        let map: BTreeMap<String, String> = texts
            .iter()
            .map(|text| ((*text).to_owned(), text.repeat(2)))
            .collect();
        for text in texts {
            let ours = written(|object| {
                object
                    .text("text", text)
                    .text_or_null("some", Some(text))
                    .text_or_null("none", None)
                    .shown("shown", format_args!("{text}!{text}"))
                    .shown_or_null("shown_some", Some(7))
                    .shown_or_null("shown_none", None::<u8>)
                    .number("most", u64::MAX)
                    .number("zero", 0)
                    .truth("yes", true)
                    .truth("no", false)
                    .texts("map", &map)
                    .texts("empty", &BTreeMap::new());
                let mut inner = object.object("inner");
                inner.text("text", text);
                inner.end();
                object.object("nothing").end();
                object.null("null");
            });
            let quoted = serde_json::to_string(text).unwrap();
            let shown = serde_json::to_string(&format!("{text}!{text}")).unwrap();
            let map = serde_json::to_string(&map).unwrap();
            assert_eq!(
                ours,
                format!(
                    "{{\"text\":{quoted},\"some\":{quoted},\"none\":null,\"shown\":{shown},\"shown_some\":\"7\",\
                     \"shown_none\":null,\"most\":18446744073709551615,\"zero\":0,\"yes\":true,\"no\":false,\"map\":{map},\
                     \"empty\":{{}},\"inner\":{{\"text\":{quoted}}},\"nothing\":{{}},\"null\":null}}"
                )
            );
        }
        assert_eq!(written(|_| {}), "{}");
    }
}
