//! How things read on a terminal: money, times, statuses, and text from outside made harmless.
//! Pure; what time it is comes in as an argument.

use std::borrow::Cow;

use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use iso_currency::Currency;
use jiff::Timestamp;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Text from outside without what steers a terminal: control characters and those that turn the
/// direction of writing. Line ends and tabs become spaces.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() || steers(c)) {
        return Cow::Borrowed(text);
    }
    let harmless = text.chars().filter_map(|c| match c {
        '\n' | '\t' => Some(' '),
        c if c.is_control() || steers(c) => None,
        c => Some(c),
    });
    Cow::Owned(harmless.collect())
}

/// The bidi controls (Unicode UAX #9) and the separators that some terminals break lines at.
fn steers(c: char) -> bool {
    matches!(c,
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}'
        | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// An amount in minor units as people write it: `10.00 USD`, `10 JPY`, `1.000 KWD`.
pub(crate) fn money(amount: u64, currency: &str) -> String {
    let currency = clean(currency);
    match exponent(&currency) {
        None => format!("{amount} minor units of {currency}"),
        Some(exponent) => format!("{} {currency}", decimal(amount, exponent)),
    }
}

fn decimal(amount: u64, exponent: usize) -> String {
    let digits = format!("{amount:0width$}", width = exponent + 1);
    let (whole, fraction) = digits.split_at(digits.len() - exponent);
    if exponent == 0 {
        return whole.to_owned();
    }
    format!("{whole}.{fraction}")
}

/// How many digits of the currency are behind the point (ISO 4217).
fn exponent(currency: &str) -> Option<usize> {
    Currency::from_code(currency)?.exponent().map(usize::from)
}

/// The number of minor units that was meant by `10.00`; `None` if it is no such number.
pub(crate) fn minor_units(text: &str, currency: &str) -> Option<u64> {
    let exponent = exponent(currency)?;
    let (whole, fraction) = text.split_once('.')?;
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    // 10.000 USD is 10 dollars all the same.
    let significant = fraction.trim_end_matches('0');
    if significant.len() > exponent {
        return None;
    }
    format!("{whole}{significant:0<exponent$}").parse().ok()
}

/// How long ago, or how soon: `3 min ago`, `in 2 s`. What cannot be read is shown as it came.
pub(crate) fn relative(now: Timestamp, time: &str) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return clean(time).into_owned();
    };
    let millis = time.as_millisecond().saturating_sub(now.as_millisecond());
    let seconds = rounded(millis.unsigned_abs(), 1000);
    let span = match seconds {
        0 => return "now".to_owned(),
        s @ 1..=59 => format!("{s} s"),
        s @ 60..=3_599 => format!("{} min", rounded(s, 60)),
        s @ 3_600..=172_799 => format!("{} h", rounded(s, 3_600)),
        s @ 172_800..=5_183_999 => format!("{} d", rounded(s, 86_400)),
        _ => return time.strftime("%Y-%m-%d").to_string(),
    };
    if millis < 0 {
        format!("{span} ago")
    } else {
        format!("in {span}")
    }
}

/// How many units, to the nearest.
fn rounded(number: u64, unit: u64) -> u64 {
    number.saturating_add(unit / 2) / unit
}

/// A time on its own, to the second: `2026-01-02 03:04:05Z`.
pub(crate) fn clock(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => clean(time).into_owned(),
    }
}

/// The colour of an invoice's or a payment's status.
pub(crate) fn status_style(status: &str) -> Style {
    match status {
        "PAID" | "SUCCEEDED" => AnsiColor::Green.on_default(),
        "FAILED" => AnsiColor::Red.on_default(),
        "UNKNOWN" | "REVIEW" => AnsiColor::Magenta.on_default().bold(),
        "PROCESSING" | "REQUESTED" | "SENDING" | "ACCEPTED" => AnsiColor::Yellow.on_default(),
        "CANCELED" => Style::new().dimmed(),
        _ => Style::new(),
    }
}

/// The text in a style, cleaned.
pub(crate) fn styled(text: &str, style: Style) -> String {
    format!("{style}{}{style:#}", clean(text))
}

/// Breaks text into lines of at most this width at its spaces; the lines after the first begin
/// with the indent. A word that is too long stays whole, since it is there to be copied: an id, a path. Where it is
/// not ASCII it is prose of a language that writes without spaces.
pub(crate) fn wrap(text: &str, width: Option<usize>, indent: &str) -> Vec<String> {
    broken(text, width, indent, false)
}

/// The same for prose from outside: of that, a word that is too long is broken, too.
pub(crate) fn wrap_prose(text: &str, width: Option<usize>, indent: &str) -> Vec<String> {
    broken(text, width, indent, true)
}

fn broken(text: &str, width: Option<usize>, indent: &str, words_too: bool) -> Vec<String> {
    let Some(width) = width else {
        return vec![text.to_owned()];
    };
    let lead: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut lines = Vec::new();
    let mut line = lead.clone();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && seen(&line) + 1 + seen(word) > width {
            lines.push(std::mem::replace(&mut line, indent.to_owned()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        empty = false;
        let whole = !words_too && word.is_ascii();
        if whole || seen(&line) + seen(word) <= width {
            line.push_str(word);
            continue;
        }
        // However narrow it is, a line has one character.
        let mut fresh = true;
        for c in word.chars() {
            if !fresh && seen(&line) + c.width().unwrap_or(0) > width {
                lines.push(std::mem::replace(&mut line, indent.to_owned()));
            }
            line.push(c);
            fresh = false;
        }
    }
    lines.push(line);
    lines
}

/// How many columns text takes, without its colours.
fn seen(text: &str) -> usize {
    strip_str(text).to_string().as_str().width()
}

/// A count with its noun: `1 line`, `2 lines`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_digits_of_their_currency() {
        let cases = [
            (1000, "USD", "10.00 USD"),
            (5, "USD", "0.05 USD"),
            (1000, "JPY", "1000 JPY"),
            (1, "KWD", "0.001 KWD"),
            (1234, "KWD", "1.234 KWD"),
            ((1 << 53) - 1, "EUR", "90071992547409.91 EUR"),
            (7, "???", "7 minor units of ???"),
        ];
        for (amount, currency, expected) in cases {
            assert_eq!(money(amount, currency), expected);
        }
    }

    #[test]
    fn the_number_that_was_meant_is_exact_or_absent() {
        let cases = [
            ("10.00", "USD", Some(1000)),
            ("10.5", "USD", Some(1050)),
            ("10.000", "USD", Some(1000)),
            ("10.", "USD", Some(1000)),
            ("10.00", "JPY", Some(10)),
            ("10.00", "KWD", Some(10_000)),
            ("0.005", "KWD", Some(5)),
            ("10.005", "USD", None),
            (".5", "USD", None),
            ("1,000.00", "USD", None),
            ("99999999999999999999.00", "USD", None),
            ("10.00", "XXX?", None),
        ];
        for (text, currency, expected) in cases {
            assert_eq!(minor_units(text, currency), expected, "{text} {currency}");
        }
    }

    #[test]
    fn times_are_told_as_people_do() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let cases = [
            ("2026-01-02T12:00:00.4Z", "now"),
            ("2026-01-05T11:59:58Z", "in 3 d"),
            ("2026-01-02T11:57:00Z", "3 min ago"),
            ("2026-01-02T12:00:02Z", "in 2 s"),
            ("2026-01-01T12:00:00Z", "24 h ago"),
            ("2025-12-30T12:00:00Z", "3 d ago"),
            ("2025-01-01T00:00:00Z", "2025-01-01"),
            ("soon\u{1b}[31m", "soon[31m"),
        ];
        for (time, expected) in cases {
            assert_eq!(relative(now, time), expected);
        }
    }

    #[test]
    fn long_sentences_break_at_spaces() {
        let wrapped = wrap("  one two three", Some(9), "    ");
        assert_eq!(wrapped, ["  one two", "    three"]);
        assert_eq!(wrap("  a b", None, ""), ["  a b"]);
        assert_eq!(wrap("abcdefgh i", Some(4), "  "), ["abcdefgh", "  i"]);
        let prose = wrap_prose("  a bcdefgh ij", Some(5), "  ");
        assert_eq!(prose, ["  a", "  bcd", "  efg", "  h", "  ij"]);
        assert_eq!(wrap_prose("漢漢漢", Some(4), ""), ["漢漢", "漢"]);
        assert_eq!(wrap_prose("abc", Some(1), "  "), ["a", "  b", "  c"]);
    }

    #[test]
    fn what_steers_a_terminal_is_gone() {
        assert_eq!(clean("plain é 漢"), "plain é 漢");
        assert_eq!(clean("a\u{1b}[2Jb\u{9b}c\u{7f}"), "a[2Jbc");
        assert_eq!(clean("x\u{202e}y\u{2066}z"), "xyz");
        assert_eq!(clean("two\nlines\tand\r"), "two lines and");
    }
}
