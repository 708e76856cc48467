//! Events in fewer bytes.
//!
//! Of an event's JSON most are names that every event has, words of payd's, ids in sixty characters where sixteen bytes
//! say the same, and what it has said before: its invoice three times, its time as often. All of that is written, synced,
//! moved into the database and kept for good. Packed, an event takes a quarter of it.
//!
//! What is read back is the JSON to the byte, which the hash chain is over: an event is unpacked once before it is stored,
//! and stored as it is if it were another then, as for one of a shape that is not known here.
//!
//! A packed event is an object: pairs of a name (its place in [`NAMES`], from 1) and a value, and 0 after the last. A value
//! begins with a byte:
//!
//! | byte | value |
//! |---|---|
//! | 0x00 to 0x7f | so many bytes of JSON follow |
//! | 0x80 to 0xbf | one of [`WORDS`] |
//! | 0xc0 to 0xcf | the text that was new as so manieth |
//! | 0xd0 to 0xd3 | a text of one of [`PREFIXES`] and a UUID, of which the 16 bytes follow |
//! | 0xe0 | a time: its 17 digits follow, two in a byte |
//! | 0xe1 | an object follows |
//! | 0xe2 | four bytes follow, the least first, that say how many bytes of JSON come after them |

use rusqlite::Row;
use rusqlite::types::Type;

/// Makes [`NAMES`], and [`FIELDS`] of them.
macro_rules! names {
    ($($name:literal),* $(,)?) => {
        /// The names, in the order in which they were first needed. They are in databases: others come after them.
        const NAMES: &[&[u8]] = &[$($name.as_bytes()),*];

        /// What stands before a value that has one of them, behind another value.
        const FIELDS: &[&[u8]] = &[$(concat!(",\"", $name, "\":").as_bytes()),*];
    };
}

names!(
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "traceparent",
    "actor",
    "data",
    "invoice_id",
    "invoice_status",
    "payment_id",
    "attempt",
    "amount",
    "currency",
    "status",
    "description",
    "metadata",
    "payment_method",
    "due_at",
    "attempts",
    "needs_attention",
    "cancel_requested",
    "next_attempt_at",
    "created_at",
    "updated_at",
    "paid_at",
    "cause",
    "idempotency_key",
    "reason",
    "gateway",
    "gateway_reference",
    "as",
    "failure",
    "kind",
    "code",
    "message",
    "retryable",
    "will_retry",
    "evidence",
    "restored",
);

/// Values that are common, as in JSON, 64 at most. They are in databases: others come after them.
const WORDS: &[&[u8]] = &[
    b"null",
    b"false",
    b"true",
    b"0",
    b"1",
    b"{}",
    b"\"1.0\"",
    b"\"application/json\"",
    b"\"payd\"",
    b"\"tcp\"",
    b"\"EUR\"",
    b"\"USD\"",
    b"\"GBP\"",
    b"\"PENDING\"",
    b"\"PROCESSING\"",
    b"\"PAID\"",
    b"\"FAILED\"",
    b"\"CANCELED\"",
    b"\"InvoiceCreated\"",
    b"\"PaymentRequested\"",
    b"\"PaymentAccepted\"",
    b"\"PaymentUnknown\"",
    b"\"PaymentReviewRequired\"",
    b"\"PaymentResolved\"",
    b"\"PaymentSucceeded\"",
    b"\"PaymentFailed\"",
    b"\"PaymentCanceled\"",
    b"\"PaymentContradicted\"",
    b"\"InvoiceCancelRequested\"",
    b"\"InvoiceCanceled\"",
    b"\"InvoiceAttentionRequired\"",
    b"\"api\"",
    b"\"retry\"",
    b"\"manual\"",
    b"\"not_sent\"",
    b"\"not_received\"",
    b"\"simulator\"",
    b"\"http\"",
    b"\"declined\"",
    b"\"rejected\"",
];

/// What stands before a UUID. At most four.
const PREFIXES: &[&[u8]] = &[b"", b"inv_", b"pay_", b"/payd/"];

const END: u8 = 0;
const WORD: u8 = 0x80;
const AGAIN: u8 = 0xc0;
const UUID: u8 = 0xd0;
const TIME: u8 = 0xe0;
const OBJECT: u8 = 0xe1;
const LONG: u8 = 0xe2;

/// Of the form on disk, as are the two that follow: texts that an event may refer back to, the first so many that are long enough.
const AGAIN_MAX: usize = 16;
/// Bytes of such a text, in JSON.
const AGAIN_LEN: usize = 8;

/// Objects within objects, the event among them: its data, and a failure there.
const DEPTH_MAX: usize = 3;

/// Bytes that no event has, unpacked: a damaged one may say the same again and again.
const BYTES_MAX: usize = 16 << 20;

/// Bytes of most events, unpacked.
const USUAL_BYTES: usize = 1024;

/// Places of a list by what stands there, found without a comparison for each: 0 for none, else the place from 1 on.
struct Lookup {
    list: &'static [&'static [u8]],
    slots: [u8; 256],
}

impl Lookup {
    const fn new(list: &'static [&'static [u8]]) -> Self {
        let mut slots = [0; 256];
        let mut place = 0;
        while place < list.len() {
            let mut slot = Self::slot(list[place]);
            while slots[slot as usize] != 0 {
                slot = slot.wrapping_add(1);
            }
            place += 1;
            #[expect(clippy::cast_possible_truncation)] // lists are shorter
            let number = place as u8;
            slots[slot as usize] = number;
        }
        Self { list, slots }
    }

    /// Where to begin to look. Of a value, the first and the last are quotation marks, as a rule.
    const fn slot(of: &[u8]) -> u8 {
        let len = of.len();
        if len < 3 {
            return of[0];
        }
        #[expect(clippy::cast_possible_truncation)] // a longer one is none of these
        let mixed = (len as u8).wrapping_mul(37);
        mixed
            .wrapping_add(of[1].wrapping_mul(29))
            .wrapping_add(of[len - 2].wrapping_mul(11))
            .wrapping_add(of[len / 2].wrapping_mul(5))
    }

    /// Its place, from 1 on.
    fn find(&self, what: &[u8]) -> Option<u8> {
        if what.is_empty() {
            return None;
        }
        let mut slot = Self::slot(what);
        loop {
            match self.slots[usize::from(slot)] {
                0 => return None,
                place if self.list[usize::from(place) - 1] == what => return Some(place),
                _ => slot = slot.wrapping_add(1),
            }
        }
    }
}

static NAME_PLACES: Lookup = Lookup::new(NAMES);
static WORD_PLACES: Lookup = Lookup::new(WORDS);

/// An event's JSON in fewer bytes; none if it is not read back as it was.
pub(super) fn pack(json: &str) -> Option<Vec<u8>> {
    let json = json.as_bytes();
    let mut packing = Packing {
        json,
        at: 0,
        into: Vec::with_capacity(256),
        again: Texts::default(),
        name: 0,
    };
    packing.object(1)?;
    let packed = packing.into;
    let mut unpacking = Unpacking::new(&packed, Same { json, at: 0 });
    unpacking.whole()?;
    (unpacking.into.at == json.len()).then_some(packed)
}

/// An event's JSON; none if this is not what [`pack`] made of one.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut unpacking = Unpacking::new(packed, Vec::with_capacity(USUAL_BYTES));
    unpacking.whole()?;
    Some(unpacking.into)
}

/// An event's JSON from a row with it, and with the packed one: one of the two says something.
///
/// # Errors
/// Where neither is an event that was written here.
pub(super) fn event(row: &Row<'_>, json: usize, packed: usize) -> rusqlite::Result<Vec<u8>> {
    let text = row.get_ref(json)?.as_bytes()?;
    if !text.is_empty() {
        return Ok(text.to_vec());
    }
    row.get_ref(packed)?
        .as_bytes_or_null()?
        .and_then(unpack)
        .ok_or_else(|| {
            let why = "it is not what payd wrote";
            rusqlite::Error::FromSqlConversionFailure(packed, Type::Blob, why.into())
        })
}

/// Places in the JSON of the texts that may be referred to: what packs and what unpacks must count the same ones.
#[derive(Default)]
struct Texts {
    places: [(usize, usize); AGAIN_MAX],
    count: usize,
}

impl Texts {
    /// Whether a value is one that may be referred to.
    fn takes(value: &[u8]) -> bool {
        value.len() >= AGAIN_LEN && value[0] == b'"'
    }

    fn known(&self) -> &[(usize, usize)] {
        &self.places[..self.count]
    }

    /// Takes the value there, if it is such a one and there is room.
    fn note(&mut self, json: &[u8], from: usize, to: usize) {
        if Self::takes(&json[from..to]) && self.count < AGAIN_MAX {
            self.places[self.count] = (from, to);
            self.count += 1;
        }
    }
}

/// JSON that is read and packed.
struct Packing<'a> {
    json: &'a [u8],
    at: usize,
    into: Vec<u8>,
    again: Texts,
    /// The place of the newest name, from 1 on: most are followed by the next one.
    name: u8,
}

impl Packing<'_> {
    /// Goes on behind this byte, if it is there.
    fn pass(&mut self, byte: u8) -> Option<()> {
        (*self.json.get(self.at)? == byte).then(|| self.at += 1)
    }

    /// A name's place, from 1 on; behind it and its colon.
    fn name(&mut self) -> Option<u8> {
        let rest = self.json.get(self.at..)?;
        // Without the comma.
        let next = FIELDS.get(usize::from(self.name)).map(|it| &it[1..]);
        if let Some(next) = next.filter(|it| rest.starts_with(it)) {
            self.at += next.len();
            self.name += 1;
            return Some(self.name);
        }
        self.pass(b'"')?;
        let rest = &self.json[self.at..];
        let len = quote_or_backslash(rest)?;
        self.name = NAME_PLACES.find(&rest[..len])?;
        self.at += len + 1;
        self.pass(b':')?;
        Some(self.name)
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.pass(b'{')?;
        loop {
            let name = self.name()?;
            self.into.push(name);
            let opens = matches!(NAMES[usize::from(name) - 1], b"data" | b"failure");
            if opens && depth < DEPTH_MAX && self.json.get(self.at) == Some(&b'{') {
                self.into.push(OBJECT);
                self.object(depth + 1)?;
            } else {
                self.value()?;
            }
            if self.pass(b',').is_none() {
                self.pass(b'}')?;
                self.into.push(END);
                return Some(());
            }
        }
    }

    fn value(&mut self) -> Option<()> {
        let start = self.at;
        self.at += value_len(&self.json[start..])?;
        let value = &self.json[start..self.at];
        if let Some(word) = WORD_PLACES.find(value) {
            self.into.push(WORD + word - 1);
            return Some(());
        }
        if Texts::takes(value) {
            // Most differ in their ends, which is seen without going through them.
            let end = value.last_chunk::<AGAIN_LEN>();
            let same = |(from, to): &(usize, usize)| {
                let other = &self.json[*from..*to];
                other.last_chunk() == end && other == value
            };
            if let Some(place) = self.again.known().iter().position(same) {
                self.into.push(AGAIN + u8::try_from(place).ok()?);
                return Some(());
            }
            self.again.note(self.json, start, self.at);
            let text = &value[1..value.len() - 1];
            if let Some((prefix, uuid)) = uuid_of(text) {
                self.into.push(UUID + prefix);
                self.into.extend_from_slice(&uuid);
                return Some(());
            }
            if let Some(digits) = digits_of(text) {
                self.into.push(TIME);
                self.into.extend_from_slice(&digits);
                return Some(());
            }
        }
        match u8::try_from(value.len()) {
            Ok(len) if len < WORD => self.into.push(len),
            _ => {
                self.into.push(LONG);
                let len = u32::try_from(value.len()).ok()?;
                self.into.extend_from_slice(&len.to_le_bytes());
            }
        }
        self.into.extend_from_slice(value);
        Some(())
    }
}

/// How many bytes the value has that JSON begins with.
fn value_len(json: &[u8]) -> Option<usize> {
    match json.first()? {
        b'"' => text_len(json),
        b'{' | b'[' => {
            let (mut at, mut open) = (0, 0_usize);
            loop {
                match json.get(at)? {
                    b'"' => {
                        at += text_len(&json[at..])?;
                        continue;
                    }
                    b'{' | b'[' => open += 1,
                    b'}' | b']' => open -= 1,
                    _ => {}
                }
                at += 1;
                if open == 0 {
                    return Some(at);
                }
            }
        }
        _ => json.iter().position(|byte| matches!(byte, b',' | b'}')),
    }
}

/// Where the first quotation mark or backslash is, looked for in eight bytes at a time.
fn quote_or_backslash(json: &[u8]) -> Option<usize> {
    /// A byte in each of eight.
    const ONES: u64 = u64::MAX / 0xff;
    // The lowest bit that this sets is that of a zero byte; above it others may be set too.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let (words, rest) = json.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zero(word ^ (ONES * u64::from(b'"'))) | zero(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return Some(place * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let in_rest = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(words.len() * 8 + in_rest)
}

/// The same of a text, with its quotation marks.
fn text_len(json: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += quote_or_backslash(json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Which prefix a text has, and the UUID that is all that follows.
fn uuid_of(text: &[u8]) -> Option<(u8, [u8; 16])> {
    let (prefix, hyphenated) = text.split_at_checked(text.len().checked_sub(36)?)?;
    let prefix = PREFIXES.iter().position(|it| *it == prefix)?;
    if hyphenated.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let uuid = uuid::Uuid::try_parse_ascii(hyphenated).ok()?;
    Some((u8::try_from(prefix).ok()?, uuid.into_bytes()))
}

/// Where a time has what is no digit, and what that is.
const MARKS: [(usize, u8); 7] = [
    (4, b'-'),
    (7, b'-'),
    (10, b'T'),
    (13, b':'),
    (16, b':'),
    (19, b'.'),
    (23, b'Z'),
];
/// Where the digits are.
const DIGITS: [usize; 17] = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 22];

/// The digits of `2026-01-02T03:04:05.678Z`, two in a byte.
fn digits_of(text: &[u8]) -> Option<[u8; 9]> {
    let text: &[u8; 24] = text.try_into().ok()?;
    if MARKS.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let mut packed = [0; 9];
    for (place, at) in DIGITS.into_iter().enumerate() {
        let digit = text[at].wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        packed[place / 2] |= digit << (4 * (place % 2));
    }
    Some(packed)
}

/// Where JSON goes that is unpacked.
trait Into {
    /// Takes these, if that is all right.
    fn put(&mut self, bytes: &[u8]) -> Option<()>;

    /// Takes what is there from the first up to the second place again.
    fn again(&mut self, from: usize, to: usize) -> Option<()>;

    /// What is there already.
    fn there(&self) -> &[u8];
}

impl Into for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.extend_from_slice(bytes);
        Some(())
    }

    fn again(&mut self, from: usize, to: usize) -> Option<()> {
        self.extend_from_within(from..to);
        Some(())
    }

    fn there(&self) -> &[u8] {
        self
    }
}

/// JSON that is known, and is to be the same.
struct Same<'a> {
    json: &'a [u8],
    /// Up to where it is.
    at: usize,
}

impl Into for Same<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.json.get(self.at..)?.strip_prefix(bytes)?;
        self.at += bytes.len();
        Some(())
    }

    fn again(&mut self, from: usize, to: usize) -> Option<()> {
        self.put(&self.json[from..to])
    }

    fn there(&self) -> &[u8] {
        &self.json[..self.at]
    }
}

/// A packed event that is read.
struct Unpacking<'a, I> {
    packed: &'a [u8],
    into: I,
    again: Texts,
}

impl<'a, I: Into> Unpacking<'a, I> {
    fn new(packed: &'a [u8], into: I) -> Self {
        Self {
            packed,
            into,
            again: Texts::default(),
        }
    }

    /// An event, and nothing after it.
    fn whole(&mut self) -> Option<()> {
        self.object(1)?;
        self.packed.is_empty().then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.packed.split_first()?;
        self.packed = rest;
        Some(*byte)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.packed.split_at_checked(len)?;
        self.packed = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        let mut is_first = true;
        loop {
            if self.into.there().len() > BYTES_MAX {
                return None;
            }
            let field = match self.byte()? {
                END => break,
                place => FIELDS.get(usize::from(place) - 1)?,
            };
            if is_first {
                self.into.put(b"{")?;
                self.into.put(&field[1..])?;
            } else {
                self.into.put(field)?;
            }
            self.value(depth)?;
            is_first = false;
        }
        // None of payd's is empty.
        if is_first {
            return None;
        }
        self.into.put(b"}")
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let start = self.into.there().len();
        let tag = self.byte()?;
        match tag {
            OBJECT => {
                return (depth < DEPTH_MAX)
                    .then_some(())
                    .and_then(|()| self.object(depth + 1));
            }
            0..WORD => {
                let json = self.bytes(usize::from(tag))?;
                self.into.put(json)?;
            }
            WORD..AGAIN => {
                let word = WORDS.get(usize::from(tag - WORD))?;
                return self.into.put(word);
            }
            AGAIN..UUID => {
                let (from, to) = *self.again.known().get(usize::from(tag - AGAIN))?;
                return self.into.again(from, to);
            }
            UUID..TIME => {
                let prefix = PREFIXES.get(usize::from(tag - UUID))?;
                let uuid = uuid::Uuid::from_bytes(self.array()?);
                self.into.put(b"\"")?;
                self.into.put(prefix)?;
                let mut text = [b'"'; uuid::fmt::Hyphenated::LENGTH + 1];
                uuid.hyphenated().encode_lower(&mut text);
                self.into.put(&text)?;
            }
            TIME => {
                let digits: [u8; 9] = self.array()?;
                let mut text = [b'"'; 26];
                for (at, mark) in MARKS {
                    text[1 + at] = mark;
                }
                // The eighteenth half is none's.
                let half = |place: usize| digits[place / 2] >> (4 * (place % 2)) & 15;
                for (place, at) in DIGITS.into_iter().enumerate() {
                    text[1 + at] = b'0' + half(place);
                }
                if half(DIGITS.len()) != 0 {
                    return None;
                }
                self.into.put(&text)?;
            }
            LONG => {
                let len = u32::from_le_bytes(self.array()?);
                let json = self.bytes(usize::try_from(len).ok()?)?;
                self.into.put(json)?;
            }
            _ => return None,
        }
        let there = self.into.there();
        self.again.note(there, start, there.len());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::application::ports::StoreError;
    use crate::infrastructure::store::error::sort_row;
    use crate::infrastructure::store::testing;
    use crate::infrastructure::store::together::{EventRow, Waiting};

    const CREATED: &str = r#"{"specversion":"1.0","id":"1234567","source":"/payd/0197f3a1-0000-7000-8000-00000000abcd","type":"InvoiceCreated","subject":"inv_0197f3a1-0000-7000-8000-00000000abce","time":"2026-11-28T23:29:33.123Z","datacontenttype":"application/json","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","actor":"uid:1000","data":{"invoice_id":"inv_0197f3a1-0000-7000-8000-00000000abce","invoice_status":"PENDING","id":"inv_0197f3a1-0000-7000-8000-00000000abce","amount":1200,"currency":"EUR","status":"PENDING","description":null,"metadata":{"a":"}\\\"{","b":""},"payment_method":"tok_visa","due_at":null,"attempts":0,"needs_attention":false,"cancel_requested":false,"next_attempt_at":null,"created_at":"2026-11-28T23:29:33.123Z","updated_at":"2026-11-28T23:29:33.123Z","paid_at":null}}"#;
    const FAILED: &str = r#"{"specversion":"1.0","id":"7","source":"/payd/0197f3a1-0000-7000-8000-00000000abcd","type":"PaymentFailed","subject":"inv-1","time":"2026-11-28T23:29:33.123Z","datacontenttype":"application/json","actor":"payd","data":{"invoice_id":"inv-1","invoice_status":"PROCESSING","payment_id":"pay_0197f3a1-0000-7000-8000-00000000abce","attempt":2,"amount":1200,"currency":"XXX","failure":{"kind":"declined","code":"insufficient_funds","message":"nö","retryable":true},"will_retry":true,"next_attempt_at":"2026-11-28T23:29:35.000Z","gateway":"simulator"}}"#;

    #[test]
    fn an_event_is_small_and_read_back_to_the_byte() {
        for (json, bytes) in [(CREATED, 210), (FAILED, 155)] {
            let packed = pack(json).unwrap();
            assert!(packed.len() <= bytes, "{}: {}", packed.len(), json.len());
            assert_eq!(unpack(&packed).unwrap(), json.as_bytes());
        }
    }

    /// Where a part of one is another than payd writes it, or than a short form can say, nothing is lost.
    #[test]
    fn what_has_no_short_form_is_kept_as_it_is() {
        let long = format!("\"{}\"", "x".repeat(70_000));
        let values = [
            "\"0197f3a1-0000-7000-8000-00000000abcd\"",
            "\"0197F3A1-0000-7000-8000-00000000abcd\"",
            "\"0197f3a1000070008000-00000000abcd1234\"",
            "\"{0197f3a1-0000-7000-8000-00000000abc}\"",
            "\"abc_0197f3a1-0000-7000-8000-00000000abcd\"",
            "\"2026-11-28T23:29:33.123Z\"",
            "\"2026-11-28t23:29:33.123Z\"",
            "\"2026-11-28T23:29:3a.123Z\"",
            "\"9999-99-99T99:99:99.999Z\"",
            "\"+12026-11-28T23:29:33.123Z\"",
            "\"\"",
            "\"\\\\\"",
            "\"\\\"\\\\\\\"abcdefghi\\\"\"",
            "18446744073709551615",
            "1.50",
            "[]",
            "[{\"a\":[\"]\"]}]",
            "{\"data\":{\"data\":1}}",
            &"1".repeat(127),
            &"1".repeat(128),
            &long,
        ];
        for value in values {
            // Once and again, in what is opened and in what is not.
            for json in [
                format!("{{\"id\":{value},\"type\":{value},\"data\":{value},\"time\":{value}}}"),
                format!(
                    "{{\"data\":{{\"failure\":{{\"data\":{value},\"code\":{value}}},\"as\":{value}}}}}"
                ),
            ] {
                // What begins as an object that is opened has other names in it: then it has no short form at all.
                if let Some(packed) = pack(&json) {
                    assert_eq!(unpack(&packed).unwrap(), json.as_bytes());
                } else {
                    assert!(value.starts_with('{'), "{json:.200}");
                }
            }
        }
        let others = [
            "",
            "{}",
            "[]",
            "{",
            "{\"id\":1",
            "{\"id\":1}}",
            "{\"id\":1} ",
            "{\"id\": 1}",
            "{\"id\":}",
            "{\"other\":1}",
            "{\"id\":\"",
            "{\"id\":\"\\",
            "{\"data\":{}}",
            "{\"id\":{\"a\":1",
            "{\"\":1}",
        ];
        for json in others {
            let back = pack(json).map(|packed| unpack(&packed).unwrap());
            assert!(back.is_none_or(|it| it == json.as_bytes()), "{json}");
        }
    }

    /// They are in databases: who changes or moves one cannot read those any more.
    #[test]
    fn what_stands_in_databases_stands_there_for_good() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
        let digest = |list: &[&[u8]]| hex(&Sha256::digest(list.join(&b'\n'))[..8]);
        // Where one is added at the end, the list up to there is as it was.
        assert_eq!(digest(&NAMES[..42]), "db2b189704311577");
        assert_eq!(digest(&WORDS[..40]), "08e7e9de0f10d6ff");
        assert_eq!(digest(PREFIXES), "4351e242aaef3e79");
        assert!(NAMES.len() < 256 && WORDS.len() <= usize::from(AGAIN - WORD));
        for (list, lookup) in [(NAMES, &NAME_PLACES), (WORDS, &WORD_PLACES)] {
            for (place, it) in (1..).zip(list) {
                assert_eq!(lookup.find(it), Some(place), "one of them is there twice");
            }
        }
        assert_eq!((AGAIN_MAX, AGAIN_LEN, DEPTH_MAX), (16, 8, 3));
        assert_eq!(BYTES_MAX, 16 << 20);
        let packed = hex(&pack(FAILED).unwrap());
        assert_eq!(
            packed,
            "0186020322372203d30197f3a100007000800000000000abcd0499050722696e762d312206e0026211823292332103078709880ae10b0722696e762d31220c8e0dd20197f3a100007000800000000000abce0e01320f04313230301005225858582223e124a6251422696e73756666696369656e745f66756e6473222605226ec3b622278200288219e002621182329253000020a40000"
        );
    }

    #[test]
    fn what_is_damaged_is_never_more_than_wrong() {
        for json in [CREATED, FAILED] {
            let packed = pack(json).unwrap();
            for len in 0..packed.len() {
                assert_eq!(unpack(&packed[..len]), None, "cut at {len}");
            }
            for at in 0..packed.len() {
                for bit in 0..8 {
                    let mut other = packed.clone();
                    other[at] ^= 1 << bit;
                    assert_ne!(
                        unpack(&other).as_deref(),
                        Some(json.as_bytes()),
                        "{at}, {bit}"
                    );
                }
            }
            let longer = [packed.as_slice(), &[END]].concat();
            assert_eq!(unpack(&longer), None);
        }
        // A long text that is said again as often as there is room to.
        let text = format!("\"{}\"", "x".repeat(100_000));
        let mut bomb = pack(&format!("{{\"id\":{text}}}")).unwrap();
        bomb.pop();
        bomb.extend([1, AGAIN].repeat(1000));
        bomb.push(END);
        assert_eq!(unpack(&bomb), None);
    }

    /// One of a shape that is not known here is stored as it is, and one whose bytes are neither is an error.
    #[test]
    fn a_row_has_one_or_the_other() {
        let connection = testing::in_memory();
        connection
            .pragma_update(None, "foreign_keys", false)
            .unwrap();
        let mut waiting = Waiting::new();
        let unknown = r#"{"unknown":1}"#;
        for (sequence, json) in [(1, CREATED), (2, unknown), (3, FAILED)] {
            let row = EventRow {
                sequence,
                invoice: 1,
                kind: 0,
                json: json.to_owned(),
                packed: pack(json),
                digest: [0; 32],
                previous: 0,
            };
            waiting.events.add(&connection, row).unwrap();
        }
        waiting.write(&connection).unwrap();
        let read = |sequence: i64| {
            let sql = "SELECT json, packed FROM events WHERE sequence = ?1";
            connection.query_row(sql, [sequence], |row| event(row, 0, 1))
        };
        for (sequence, json) in [(1, CREATED), (2, unknown), (3, FAILED)] {
            assert_eq!(read(sequence).unwrap(), json.as_bytes());
        }
        let texts = "SELECT group_concat(length(json)) FROM events";
        let texts: String = connection.query_row(texts, [], |row| row.get(0)).unwrap();
        assert_eq!(texts, "0,13,0");
        connection
            .execute_batch(
                "DROP TRIGGER events_never_change; UPDATE events SET packed = x'ff' WHERE sequence = 1;
                 UPDATE events SET packed = NULL WHERE sequence = 3",
            )
            .unwrap();
        for sequence in [1, 3] {
            let error = sort_row(read(sequence).unwrap_err());
            assert!(matches!(error, StoreError::BadRow(_)), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_read_back_as_something_else(
            parts in prop::collection::vec((0..NAMES.len(), r#"(null|[0-9]{1,20}|"([^"\\]|\\["\\u]){0,60}"|\{"a":"[a-z{}]{0,5}"\})"#), 1..30),
        ) {
            let fields: Vec<String> = parts
                .iter()
                .map(|(name, value)| format!("\"{}\":{value}", String::from_utf8_lossy(NAMES[*name])))
                .collect();
            let json = format!("{{{}}}", fields.join(","));
            if let Some(packed) = pack(&json) {
                prop_assert_eq!(unpack(&packed).unwrap(), json.as_bytes());
            } else {
                // An object that would be opened and has another name in it.
                let opened = parts.iter().any(|(_, value)| value.starts_with('{'));
                prop_assert!(opened);
            }
        }

        #[test]
        fn any_text_and_any_bytes_may_come(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let back = pack(&text).map(|packed| unpack(&packed).unwrap());
            prop_assert!(back.is_none_or(|it| it == text.as_bytes()));
            let _ = unpack(&bytes);
        }

        #[test]
        fn the_end_of_a_text_is_where_it_is(text in r#"([a-zö]|\\["\\]){0,40}"#, rest in ".{0,20}") {
            let json = format!("\"{text}\"{rest}");
            prop_assert_eq!(text_len(json.as_bytes()), Some(text.len() + 2));
        }
    }
}
