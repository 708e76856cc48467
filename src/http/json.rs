//! JSON objects, read strictly and with all that is wrong told at once: unknown fields, fields
//! given twice, wrong types. Numbers are seen as they were written, never as floats.
//!
//! It never says that JSON is not JSON: what the grammar of RFC 8259 allows is a question of
//! fields.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::Reject;
use crate::api::{Code, FieldError};
use crate::domain::Amount;

/// The members of an object in the order written, twins included; values as they were written.
struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

/// A member's name: as it stands in the text, but for escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// What a text may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    /// Characters, at least.
    pub(super) min: usize,
    /// Characters, at most.
    pub(super) max: usize,
    /// Whether it may have control characters, such as line breaks; U+0000 never, which ends texts
    /// in too many places.
    pub(super) controls: bool,
}

impl Text {
    /// What is wrong with a text, if anything.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        let len = text.chars().count();
        if len < self.min && len == 0 {
            return Err("must not be empty".to_owned());
        }
        if len < self.min || len > self.max {
            return Err(format!(
                "must have {} to {} characters; this has {len}",
                self.min, self.max
            ));
        }
        let bad = |c: char| c == '\0' || (c.is_control() && !self.controls);
        match text.chars().find(|&c| bad(c)) {
            Some(c) => Err(format!(
                "must not have the control character U+{:04X}",
                u32::from(c)
            )),
            None => Ok(()),
        }
    }
}

/// An object being read. Every reader takes one field, and notes what is wrong with it.
pub(super) struct Object<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    errors: Vec<FieldError<'static>>,
}

impl<'a> Object<'a> {
    /// Reads a body that must be an object with none but the known fields.
    pub(super) fn read(body: &'a [u8], known: &[&str]) -> Result<Self, Reject> {
        let text = std::str::from_utf8(body)
            .map_err(|_| Reject::new(Code::MalformedRequest, "The body must be JSON in UTF-8."))?;
        let members = match serde_json::from_str(text) {
            Ok(Members(members)) => members,
            Err(_) => members_or_why(text)?,
        };
        let mut object = Self {
            members: Vec::with_capacity(known.len()),
            errors: Vec::new(),
        };
        for (Name(name), value) in members {
            if !known.contains(&name.as_ref()) {
                let message = format!("unknown field; known are {}", known.join(", "));
                object.error(name, message);
            } else if object.members.iter().any(|(other, _)| *other == name) {
                object.error(name, "is given twice");
            } else {
                object.members.push((name, value));
            }
        }
        Ok(object)
    }

    /// Notes that a field is at fault.
    pub(super) fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let (field, message) = (field.into().into(), message.into().into());
        self.errors.push(FieldError { field, message });
    }

    /// A field as it was written; `None` where it is absent or null.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.members
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.get())
            .filter(|value| *value != "null")
    }

    /// Notes a required field that is not there.
    fn required(&mut self, name: &str) -> Option<&'a str> {
        let value = self.get(name);
        if value.is_none() {
            self.error(name, "is required");
        }
        value
    }

    /// A text, read by the rule.
    pub(super) fn text(&mut self, name: &str, rule: Text) -> Option<String> {
        let value = self.get(name)?;
        match string(value).and_then(|text| rule.check(&text).map(|()| text)) {
            Ok(text) => Some(text.into_owned()),
            Err(message) => {
                self.error(name, message);
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, name: &str, rule: Text) -> Option<String> {
        self.required(name)?;
        self.text(name, rule)
    }

    /// A text, read into what it stands for.
    pub(super) fn parsed<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.get(name)?;
        match string(value).and_then(|text| parse(&text).map_err(|error| error.to_string())) {
            Ok(value) => Some(value),
            Err(message) => {
                self.error(name, message);
                None
            }
        }
    }

    /// A text that must be there, read into what it stands for.
    pub(super) fn required_parsed<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.required(name)?;
        self.parsed(name, parse)
    }

    /// A list of texts that must be there and not be empty, each read into what it stands for.
    pub(super) fn required_list<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let Some(value) = self.required(name) else {
            return Vec::new();
        };
        let read = || {
            if !value.starts_with('[') {
                return Err(format!("must be a list of texts, not {}", kind(value)));
            }
            let items: Vec<&RawValue> =
                serde_json::from_str(value).map_err(|_| NOT_UNICODE.to_owned())?;
            if items.is_empty() {
                return Err("must not be empty".to_owned());
            }
            let item = |item: &&RawValue| {
                string(item.get()).and_then(|text| parse(&text).map_err(|error| error.to_string()))
            };
            items.iter().map(item).collect()
        };
        read().unwrap_or_else(|message| {
            self.error(name, message);
            Vec::new()
        })
    }

    /// An amount, which must be there.
    pub(super) fn required_amount(&mut self, name: &str) -> Option<Amount> {
        let value = self.required(name)?;
        match amount(value) {
            Ok(amount) => Some(amount),
            Err(message) => {
                self.error(name, message);
                None
            }
        }
    }

    /// An object of texts; empty where it is absent.
    pub(super) fn map(
        &mut self,
        name: &str,
        keys_max: usize,
        key_rule: Text,
        value_rule: Text,
    ) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        let Some(value) = self.get(name) else {
            return map;
        };
        if !value.starts_with('{') {
            let message = format!("must be an object of texts, not {}", kind(value));
            self.error(name, message);
            return map;
        }
        let members = match serde_json::from_str(value) {
            Ok(Members(members)) => members,
            Err(_) => {
                self.error(name, NOT_UNICODE);
                return map;
            }
        };
        if members.len() > keys_max {
            let message = format!(
                "must have at most {keys_max} keys; this has {}",
                members.len()
            );
            self.error(name, message);
            return map;
        }
        for (Name(key), value) in members {
            let field = || format!("{name}.{key}");
            if let Err(message) = key_rule.check(&key) {
                self.error(field(), format!("the key {message}"));
                continue;
            }
            match string(value.get()).and_then(|text| value_rule.check(&text).map(|()| text)) {
                Ok(_) if map.contains_key(key.as_ref()) => self.error(field(), "is given twice"),
                Ok(text) => {
                    map.insert(key.into_owned(), text.into_owned());
                }
                Err(message) => self.error(field(), message),
            }
        }
        map
    }

    /// What was read, if nothing was wrong with it. `build` gives `None` only where a reader has
    /// noted an error.
    pub(super) fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Reject> {
        if !self.errors.is_empty() {
            return Err(Reject::fields(self.errors));
        }
        build().ok_or_else(|| Reject::internal("a field was lost without an error"))
    }
}

/// The members of a body that could not be read at once. What is wrong is told of the whole first: that it
/// is not JSON, then that it is no object.
fn members_or_why(text: &str) -> Result<Vec<(Name<'_>, &RawValue)>, Reject> {
    let value: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    if !value.get().starts_with('{') {
        return Err(Reject::field(
            "",
            format!("the body must be a JSON object, not {}", kind(value.get())),
        ));
    }
    match serde_json::from_str(value.get()) {
        Ok(Members(members)) => Ok(members),
        Err(error) => Err(malformed(&error)),
    }
}

const NOT_UNICODE: &str = "must be Unicode text; an escape in it is half a surrogate pair";

fn malformed(error: &serde_json::Error) -> Reject {
    Reject::new(
        Code::MalformedRequest,
        format!("The body must be JSON, and is not: {error}."),
    )
}

/// What a value is, in words.
fn kind(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A text, which is as it stands where it has no escapes: the body was JSON, so nothing else is in it.
fn string(value: &str) -> Result<Cow<'_, str>, String> {
    let Some(rest) = value.strip_prefix('"') else {
        return Err(format!("must be text, not {}", kind(value)));
    };
    match rest.strip_suffix('"') {
        Some(text) if !text.contains('\\') => Ok(Cow::Borrowed(text)),
        _ => serde_json::from_str(value)
            .map(Cow::Owned)
            .map_err(|_| NOT_UNICODE.to_owned()),
    }
}

fn amount(value: &str) -> Result<Amount, String> {
    const WHOLE: &str = "must be a whole number of minor units";
    match value.as_bytes().first() {
        Some(b'0'..=b'9' | b'-') => {}
        Some(b'"') => return Err(format!("{WHOLE}, not text: 1000, not \"1000\"")),
        _ => return Err(format!("{WHOLE}, not {}", kind(value))),
    }
    if value.starts_with('-') {
        return Err(format!("{WHOLE}, 1 or more; this is negative"));
    }
    if !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(match meant(value) {
            Some(number) => format!(
                "{WHOLE}, and {value} is not written as one; did you mean {number}, which is \
                 {value} of a currency with two decimals?"
            ),
            None => format!("{WHOLE}, without fraction or exponent, such as 1000 for 10.00 USD"),
        });
    }
    // More digits than u64 holds are above the largest amount all the same.
    let minor_units = value.parse().unwrap_or(u64::MAX);
    Amount::new(minor_units).map_err(|error| error.to_string())
}

/// The minor units that `10.00` or `10.0` was meant to be.
fn meant(value: &str) -> Option<u64> {
    let (whole, fraction) = value.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || !matches!(fraction.len(), 1 | 2) {
        return None;
    }
    let minor_units = format!("{whole}{fraction:0<2}").parse().ok()?;
    Amount::new(minor_units).ok().map(Amount::minor_units)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(body: &str) -> (u16, Vec<String>) {
        match Object::read(body.as_bytes(), &["a", "b"]) {
            Ok(object) => match object.finish(|| Some(())) {
                Ok(()) => (200, vec![]),
                Err(reject) => told(&reject),
            },
            Err(reject) => told(&reject),
        }
    }

    fn told(reject: &Reject) -> (u16, Vec<String>) {
        let problem = reject.problem();
        let fields = problem.errors.iter().map(|e| e.field.to_string());
        (problem.status, fields.collect())
    }

    #[test]
    fn what_is_not_json_is_400_and_all_else_a_question_of_fields() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        #[rustfmt::skip]
        let rows: &[(&str, u16, &[&str])] = &[
            ("{}", 200, &[]),
            (" {\"a\": 1e400}\r\n", 200, &[]),
            ("", 400, &[]),
            ("{", 400, &[]),
            ("{} x", 400, &[]),
            ("{}{}", 400, &[]),
            ("{\"a\":01}", 400, &[]),
            ("{\"a\":1,}", 400, &[]),
            ("{'a':1}", 400, &[]),
            ("NaN", 400, &[]),
            ("[]", 422, &[""]),
            ("null", 422, &[""]),
            ("1", 422, &[""]),
            ("\"x\"", 422, &[""]),
            ("{\"a\":1,\"a\":1}", 422, &["a"]),
            ("{\"a\":1,\"\\u0061\":2}", 422, &["a"]),
            ("{\"c\":1,\"d\":null,\"a\":1,\"a\":2}", 422, &["c", "d", "a"]),
            (&deep, 200, &[]),
        ];
        for (body, status, fields) in rows {
            let (got, names) = rejected(body);
            assert_eq!(
                (got, names.as_slice()),
                (
                    *status,
                    fields
                        .iter()
                        .map(|f| (*f).to_owned())
                        .collect::<Vec<_>>()
                        .as_slice()
                ),
                "{body:.80}"
            );
        }
        assert!(Object::read(b"{\"a\":\"\xff\"}", &["a"]).is_err());
    }

    #[test]
    fn amounts_are_whole_numbers_as_written() {
        let max = ((1_u64 << 53) - 1).to_string();
        for (text, want) in [
            ("1", Ok(1)),
            ("1000", Ok(1000)),
            (max.as_str(), Ok((1 << 53) - 1)),
            ("0", Err("between 1")),
            ("9007199254740992", Err("between 1")),
            ("18446744073709551616", Err("between 1")),
            ("99999999999999999999999999999999", Err("between 1")),
            ("-1", Err("negative")),
            ("-0", Err("negative")),
            ("1e3", Err("exponent")),
            ("1E3", Err("exponent")),
            ("1e400", Err("exponent")),
            ("10.0", Err("did you mean 1000,")),
            ("10.00", Err("did you mean 1000,")),
            ("9.99", Err("did you mean 999,")),
            ("0.5", Err("did you mean 50,")),
            ("1.234", Err("fraction")),
            ("0.0", Err("fraction")),
            ("\"1000\"", Err("not text")),
            ("true", Err("not true or false")),
            ("[1]", Err("not a list")),
            ("{}", Err("not an object")),
        ] {
            match (amount(text), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.minor_units(), want),
                (Err(got), Err(want)) => assert!(got.contains(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn texts_have_bounds_and_control_characters_where_people_write() {
        let line = Text {
            min: 1,
            max: 3,
            controls: false,
        };
        let free = Text {
            min: 0,
            max: 3,
            controls: true,
        };
        for (rule, text, ok) in [
            (line, "abc", true),
            (line, "äöü", true),
            (line, "", false),
            (line, "abcd", false),
            (line, "a\0", false),
            (line, "a\n", false),
            (line, "\u{85}", false),
            (free, "", true),
            (free, "a\n\t", true),
            (free, "\r\u{1b}\u{7f}", true),
            (free, "\0", false),
        ] {
            assert_eq!(rule.check(text).is_ok(), ok, "{text:?}");
        }
        assert!(string("\"\\ud800\"").is_err());
        assert_eq!(string("\"\\ud83d\\ude00\"").as_deref(), Ok("😀"));
    }
}
