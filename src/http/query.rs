//! Query strings, read strictly: unknown parameters, parameters given twice and bad values are
//! told all at once, by name. It never falls back to a default where something was said.

use std::borrow::Cow;

use super::problem::Reject;
use crate::api::FieldError;

/// What a page has where nothing is said.
pub(super) const PAGE_DEFAULT: usize = 100;

/// What a page has at most.
pub(super) const PAGE_MAX: usize = 1000;

/// The largest cursor: sequences are 63 bits wide in the store.
const CURSOR_MAX: u64 = i64::MAX as u64;

/// A query string being read.
pub(super) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    errors: Vec<FieldError<'static>>,
}

impl<'a> Query<'a> {
    /// Reads a query string that has none but the known parameters, each once but for those that
    /// may repeat.
    pub(super) fn read(query: Option<&'a str>, known: &[&str], repeatable: &[&str]) -> Self {
        let mut read = Self {
            pairs: Vec::new(),
            errors: Vec::new(),
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let message = if known.is_empty() {
                    "unknown parameter; this route takes none".to_owned()
                } else {
                    format!("unknown parameter; known are {}", known.join(", "))
                };
                read.error(name.into_owned(), message);
            } else if !repeatable.contains(&name.as_ref())
                && read.pairs.iter().any(|(other, _)| *other == name)
            {
                read.error(name.into_owned(), "is given twice");
            } else {
                read.pairs.push((name, value));
            }
        }
        read
    }

    /// Notes that a parameter is at fault.
    pub(super) fn error(&mut self, name: impl Into<String>, message: impl Into<String>) {
        let (field, message) = (name.into().into(), message.into().into());
        self.errors.push(FieldError { field, message });
    }

    /// A parameter's value.
    fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_ref())
    }

    /// A parameter, read into what it stands for.
    pub(super) fn parsed<T, E: Into<String>>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(self.get(name)?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.error(name, message);
                None
            }
        }
    }

    /// A parameter that may repeat, or list its values with commas between.
    pub(super) fn list<T, E: Into<String>>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        let mut errors = Vec::new();
        let given = self.pairs.iter().filter(|(other, _)| other == name);
        for item in given.flat_map(|(_, value)| value.split(',')) {
            match parse(item) {
                Ok(value) => values.push(value),
                Err(message) => errors.push(message.into()),
            }
        }
        for message in errors {
            self.error(name, message);
        }
        values
    }

    /// `limit`, where it is said: 1 to `max`.
    pub(super) fn limit(&mut self, max: usize) -> Option<usize> {
        self.parsed("limit", |text| {
            match digits(text).map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)) {
                Some(limit) if (1..=max).contains(&limit) => Ok(limit),
                _ if max == usize::MAX => Err("must be a whole number from 1".to_owned()),
                _ => Err(format!("must be a whole number from 1 to {max}")),
            }
        })
    }

    /// What was read, if nothing was wrong with it.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Reject> {
        if self.errors.is_empty() {
            Ok(value)
        } else {
            Err(Reject::fields(self.errors))
        }
    }
}

/// A cursor: a sequence in decimal.
pub(super) fn cursor(text: &str) -> Result<u64, &'static str> {
    digits(text)
        .filter(|cursor| *cursor <= CURSOR_MAX)
        .ok_or("must be a cursor: the `next` of a page, or a whole number from 0")
}

fn digits(text: &str) -> Option<u64> {
    // `u64::from_str` would take a leading plus.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // What is too large for 64 bits is too large for every limit there is.
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_cursors_are_plain_numbers() {
        for (text, limit, after) in [
            ("1", Some(1), Some(1)),
            ("1000", Some(1000), Some(1000)),
            ("007", Some(7), Some(7)),
            ("0", None, Some(0)),
            ("1001", None, Some(1001)),
            ("9223372036854775807", None, Some(u64::MAX / 2)),
            ("9223372036854775808", None, None),
            ("99999999999999999999999", None, None),
            ("", None, None),
            ("-1", None, None),
            ("%2B1", None, None),
            ("1.0", None, None),
            ("ten", None, None),
        ] {
            let query = format!("limit={text}");
            let mut read = Query::read(Some(&query), &["limit"], &[]);
            assert_eq!(read.limit(PAGE_MAX), limit, "{text}");
            assert_eq!(read.finish(()).is_ok(), limit.is_some(), "{text}");
            assert_eq!(cursor(text).ok(), after, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_name() {
        let query = "limit=0&after=x&after=2&what=1&type=a,b&type=c";
        let mut read = Query::read(Some(query), &["limit", "after", "type"], &["type"]);
        assert_eq!(read.limit(PAGE_MAX), None);
        assert_eq!(read.parsed("after", cursor), None);
        let types = read.list("type", |text| {
            if text == "b" {
                Err("is b")
            } else {
                Ok(text.to_owned())
            }
        });
        assert_eq!(types, ["a", "c"]);
        let reject = read.finish(()).unwrap_err();
        let fields: Vec<_> = reject.problem().errors.iter().map(|e| &*e.field).collect();
        assert_eq!(fields, ["after", "what", "limit", "after", "type"]);
    }

    #[test]
    fn nothing_said_is_nothing_wrong() {
        for query in [None, Some("")] {
            let mut read = Query::read(query, &["limit"], &[]);
            assert_eq!(read.limit(PAGE_MAX), None);
            assert!(read.finish(()).is_ok());
        }
    }
}
