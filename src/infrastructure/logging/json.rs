//! Events as lines of JSON, written once and straight into a buffer, however many places they go to.
//!
//! A line is `{"timestamp", "level", the event's fields in their order, "target", "spans"}`; `spans` are the
//! spans that it happened in, the outermost first, each with its fields and its `name`. That is the shape
//! of tracing-subscriber's own JSON with its fields flattened, at a fifth of the work: it builds maps, and wrote
//! for three lines a payment what was a tenth of all that a payment costs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::Offset;
use serde_json::value::RawValue;
use tracing::field::{Field, FieldSet, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::background::Background;
use super::clean;

/// Names that a line has of its own. A field of such a name is left out, as is the second of two of the same
/// name: of members of one name a reader may see either (RFC 8259, section 4).
static OF_A_LINE: Names = Names::new(&["timestamp", "level", "target", "spans"]);
/// And those of a span.
static OF_A_SPAN: Names = Names::new(&["name"]);

/// Room for a span, so that it is made in one piece.
const SPAN_BYTES: usize = 256;

/// Writes each event as one line to all of these.
pub(super) struct JsonLines {
    outputs: Vec<Background>,
}

/// A span, as it is in lines: a JSON object.
struct SpanText(String);

/// What a thread keeps from one line to the next.
struct Scratch {
    line: String,
    clock: Clock,
}

/// Renders the time. The most of it is the same for a second.
struct Clock {
    second: i64,
    text: String,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

impl JsonLines {
    pub(super) const fn new(outputs: Vec<Background>) -> Self {
        Self { outputs }
    }

    fn write<S>(&self, scratch: &mut Scratch, event: &Event<'_>, context: &Context<'_, S>)
    where
        S: Subscriber + for<'l> LookupSpan<'l>,
    {
        let Scratch { line, clock } = scratch;
        // A panic in what was to be logged has left half a line.
        line.clear();
        line.push_str("{\"timestamp\":\"");
        clock.write(SystemTime::now(), line);
        let metadata = event.metadata();
        line.push_str("\",\"level\":\"");
        line.push_str(metadata.level().as_str());
        line.push_str("\",");
        event.record(&mut Fields::new(line, metadata, &OF_A_LINE));
        line.push_str("\"target\":");
        string(line, metadata.target());
        if let Some(scope) = context.event_scope(event) {
            line.push_str(",\"spans\":[");
            for (number, span) in scope.from_root().enumerate() {
                if number > 0 {
                    line.push(',');
                }
                match span.extensions().get::<SpanText>() {
                    Some(text) => line.push_str(&text.0),
                    // It is older than the log.
                    None => end_span(line, span.metadata()),
                }
            }
            line.push(']');
        }
        line.push_str("}\n");
        for output in &self.outputs {
            output.put(line.as_bytes());
        }
    }
}

impl<S> Layer<S> for JsonLines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        let mut text = String::with_capacity(SPAN_BYTES);
        text.push('{');
        attributes.record(&mut Fields::new(&mut text, span.metadata(), &OF_A_SPAN));
        end_span(&mut text, span.metadata());
        span.extensions_mut().replace(SpanText(text));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        // What is recorded is made before the span is locked: that may log, in this very span.
        let mut news = String::from("{");
        values.record(&mut Fields::new(&mut news, span.metadata(), &OF_A_SPAN));
        end_span(&mut news, span.metadata());
        let mut extensions = span.extensions_mut();
        if let Some(text) = extensions.get_mut::<SpanText>() {
            text.0 = renewed(span.metadata(), &text.0, &news);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let written = SCRATCH.try_with(|mine| {
            let mut mine = mine.try_borrow_mut().ok()?;
            self.write(&mut mine, event, &context);
            Some(())
        });
        // Logged by what is being logged, or by what ends with its thread.
        if !matches!(written, Ok(Some(()))) {
            self.write(&mut Scratch::new(), event, &context);
        }
    }
}

/// A span's object with some of its fields anew, in the order in which they are declared. Rare: nothing
/// of payd does it.
fn renewed(metadata: &Metadata<'_>, old: &str, new: &str) -> String {
    let parse = |text| serde_json::from_str::<BTreeMap<String, &RawValue>>(text);
    // Both were written here, so they can be read.
    let (Ok(mut fields), Ok(new)) = (parse(old), parse(new)) else {
        return old.to_owned();
    };
    fields.extend(new);
    let mut text = String::from("{");
    for field in metadata.fields() {
        let name = key(&field);
        // What is written is gone, lest it be written twice.
        if let Some(value) = fields
            .remove(name)
            .filter(|_| !OF_A_SPAN.all.contains(&name))
        {
            string(&mut text, name);
            text.push(':');
            text.push_str(value.get());
            text.push(',');
        }
    }
    end_span(&mut text, metadata);
    text
}

fn end_span(text: &mut String, metadata: &Metadata<'_>) {
    text.push_str("\"name\":");
    string(text, metadata.name());
    text.push('}');
}

impl Scratch {
    const fn new() -> Self {
        Self {
            line: String::new(),
            clock: Clock {
                second: i64::MIN,
                text: String::new(),
            },
        }
    }
}

impl Clock {
    /// As RFC 3339 has it, in UTC, with microseconds.
    fn write(&mut self, now: SystemTime, line: &mut String) {
        let (second, mut micros) = match now.duration_since(UNIX_EPOCH) {
            Ok(since) => (since.as_secs().cast_signed(), since.subsec_micros()),
            // A clock that was never set: whole seconds will do.
            Err(error) => (error.duration().as_secs().cast_signed().wrapping_neg(), 0),
        };
        if second != self.second {
            // Beyond the year 9999 no clock means what it says.
            let time = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
            self.second = second;
            self.text = Offset::UTC.to_datetime(time).to_string();
        }
        line.push_str(&self.text);
        let mut fraction = *b".000000Z";
        for digit in fraction[1..7].iter_mut().rev() {
            *digit += (micros % 10) as u8;
            micros /= 10;
        }
        line.extend(fraction.map(char::from));
    }
}

/// Names that are taken from the start.
struct Names {
    all: &'static [&'static str],
    marks: u64,
}

impl Names {
    const fn new(all: &'static [&'static str]) -> Self {
        let mut marks = 0;
        let mut at = 0;
        while at < all.len() {
            marks |= mark(all[at]);
            at += 1;
        }
        Self { all, marks }
    }
}

/// One bit for a name. Names of different marks differ, which spares comparing them: payd's own in one line
/// have each their own.
const fn mark(name: &str) -> u64 {
    let sum = match name.as_bytes() {
        [] => 0,
        [only] => *only as usize,
        [first, .., last] => *first as usize * 2 + *last as usize + name.len(),
    };
    1 << (sum % 64)
}

/// Members of an object, each with a comma after it.
struct Fields<'a> {
    line: &'a mut String,
    fields: &'a FieldSet,
    own: &'static Names,
    /// Marks of the names that are taken.
    taken: u64,
}

impl<'a> Fields<'a> {
    fn new(line: &'a mut String, metadata: &'a Metadata<'_>, own: &'static Names) -> Self {
        Self {
            line,
            fields: metadata.fields(),
            own,
            taken: own.marks,
        }
    }

    /// Writes the name, and says whether there is to be a value.
    fn begin(&mut self, field: &Field) -> bool {
        let name = key(field);
        let mark = mark(name);
        if self.taken & mark != 0 && self.is_taken(field, name) {
            return false;
        }
        self.taken |= mark;
        string(self.line, name);
        self.line.push(':');
        true
    }

    fn is_taken(&self, field: &Field, name: &str) -> bool {
        let mut earlier = self.fields.iter().take(field.index());
        self.own.all.contains(&name) || earlier.any(|it| key(&it) == name)
    }

    fn raw(&mut self, field: &Field, value: impl fmt::Display) {
        if self.begin(field) {
            // Writing to a String cannot fail.
            let _ = write!(self.line, "{value},");
        }
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no others; and Rust's Debug of these is JSON.
        if value.is_finite() {
            self.raw(field, format_args!("{value:?}"));
        } else {
            self.raw(field, "null");
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.raw(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.raw(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.raw(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.begin(field) {
            string(self.line, value);
            self.line.push(',');
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.begin(field) {
            self.line.push('"');
            let mut inside = clean::Field::<_, clean::Json>::new(&mut *self.line);
            // What a value cannot say of itself must not cost the line.
            let _ = write!(inside, "{value:?}");
            self.line.push_str("\",");
        }
    }
}

/// Names that are words of Rust are written `r#type`.
fn key(field: &Field) -> &'static str {
    let name = field.name();
    name.strip_prefix("r#").unwrap_or(name)
}

fn string(line: &mut String, text: &str) {
    line.push('"');
    // Writing to a String cannot fail.
    let _ = clean::Field::<_, clean::Json>::new(&mut *line).write_str(text);
    line.push('"');
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::time::Duration;

    use serde_json::Value;
    use tracing::field::{Empty, display};
    use tracing::{debug, error, info, info_span, trace, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::tests::Captured;
    use super::*;

    /// What is logged by `events`: by payd, and by tracing-subscriber. Times are looked at and taken out.
    fn logged_twice(events: impl FnOnce()) -> (String, String) {
        let (ours, theirs) = (Captured::default(), Captured::default());
        let output = Background::start("test", ours.clone()).unwrap();
        let theirs_too = theirs.clone();
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_writer(move || theirs_too.clone());
        let subscriber = tracing_subscriber::registry()
            .with(JsonLines::new(vec![output.clone()]))
            .with(layer);
        tracing::subscriber::with_default(subscriber, events);
        output.flush(Duration::from_secs(60));
        (without_times(&ours.text()), without_times(&theirs.text()))
    }

    fn logged(events: impl FnOnce()) -> String {
        let ours = Captured::default();
        let output = Background::start("test", ours.clone()).unwrap();
        let subscriber = tracing_subscriber::registry().with(JsonLines::new(vec![output.clone()]));
        tracing::subscriber::with_default(subscriber, events);
        output.flush(Duration::from_secs(60));
        without_times(&ours.text())
    }

    fn without_times(text: &str) -> String {
        const BEGIN: &str = "{\"timestamp\":\"";
        let mut lines = String::new();
        for line in text.split_inclusive('\n') {
            let (time, rest) = line.strip_prefix(BEGIN).unwrap().split_once('"').unwrap();
            assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len(), "{time}");
            let age = Timestamp::now().as_second() - time.parse::<Timestamp>().unwrap().as_second();
            assert!((0..300).contains(&age), "{time}");
            lines.push('{');
            lines.push_str(rest.strip_prefix(',').unwrap());
        }
        lines
    }

    fn values(lines: &str) -> Vec<Value> {
        let lines = lines.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the outer: {0}")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug)]
    #[expect(dead_code, reason = "seen by Debug")]
    struct Nested {
        text: &'static str,
        list: Vec<Option<u8>>,
    }

    #[test]
    fn a_line_means_what_tracing_subscribers_would() {
        let events = || {
            info!("");
            info!("plain");
            info!("{} and {:?}", 7, "seven \"times\"\n");
            trace!(at = "trace");
            debug!(target: "some::where \"else\"", "said");
            warn!(
                small = i64::MIN,
                large = u64::MAX,
                byte = 0_u8,
                minus = -1_i8
            );
            warn!(
                larger = u128::MAX,
                smallest = i128::MIN,
                yes = true,
                no = false
            );
            error!(
                nan = f64::NAN,
                inf = f64::INFINITY,
                minus = f64::NEG_INFINITY,
                half = 0.5,
                none = 0.0,
                negative = -0.0,
                whole = 1.0,
                great = 1e300,
                least = f64::MIN_POSITIVE,
                tenth = 0.1_f32,
                long = 0.333_333_333_333_333_3,
            );
            let outer = Outer(std::io::Error::other("the inner"));
            error!(error = &outer as &dyn Error, shown = %outer, all = ?outer, "failed");
            let nested = Nested {
                text: "a\tb",
                list: vec![Some(1), None],
            };
            info!(
                ?nested,
                pretty = format!("{nested:#?}"),
                bytes = &b"\x00\xff"[..]
            );
            info!(
                some = Some(7),
                none = None::<u64>,
                text = Some("x"),
                empty = Empty
            );
            info!(shown = Some(display(7)), c = %'c', "quoted name" = 1, dotted.name = 2);
            for text in ["\u{1b}[31m\u{7f}\u{9b}\u{202e}\u{2028}", "鍵 🔑 \\ \" /"] {
                info!(text, shown = %text, all = ?text, "{text}");
            }
            let outer = info_span!("outer", number = 1, text = "a\"b\n", later = Empty, x = ?"x");
            let _in_outer = outer.enter();
            info!(number = 2, "inside");
            outer.record("later", u64::MAX);
            outer.record("text", display("anew \u{202e}"));
            info!("recorded");
            let inner = info_span!("inner \"quoted\"", a = f64::NAN, b = true, c = i128::MAX);
            inner.in_scope(|| info!("further inside"));
            let bare = info_span!("bare", late = Empty);
            let _in_bare = bare.enter();
            info!("nothing yet");
            bare.record("late", -5);
            bare.record("late", false);
            info!("now");
        };
        let (ours, theirs) = logged_twice(events);
        let (mine, others) = (values(&ours), values(&theirs));
        assert_eq!(mine.len(), 19);
        for (mine, other) in mine.iter().zip(&others) {
            assert_eq!(mine, other);
        }
        assert_eq!(mine.len(), others.len());
        // To the byte, but for the order within spans, what is escaped for a terminal's sake, and how powers of ten look.
        let plain = |lines: &str| {
            let lines = lines.lines().map(str::to_owned);
            let plain =
                lines.filter(|line| !["spans", "[31m", "nan"].iter().any(|it| line.contains(it)));
            plain.collect::<Vec<_>>()
        };
        assert_eq!(plain(&ours), plain(&theirs));
    }

    #[test]
    fn members_have_their_order_and_no_name_comes_twice() {
        let lines = logged(|| {
            info!(target: "payd::event", sequence = 7, status = "PAID", r#type = 1, "said");
            let span = info_span!("s", z = 1, name = "mine", y = Empty, a = 2, z = 3);
            let _entered = span.enter();
            info!(message = "own", a = 1, level = "high", "said {}", 2);
            span.record("y", "later");
            span.record("name", "mine");
            info!(target: "t", timestamp = 1, target = 2, spans = 3, r#a = 4, a = 5, b = 6);
        });
        let want = [
            r#"{"level":"INFO","message":"said","sequence":7,"status":"PAID","type":1,"target":"payd::event"}"#,
            r#"{"level":"INFO","message":"said 2","a":1,"target":"payd::infrastructure::logging::json::tests","spans":[{"z":1,"a":2,"name":"s"}]}"#,
            r#"{"level":"INFO","a":4,"b":6,"target":"t","spans":[{"z":1,"y":"later","a":2,"name":"s"}]}"#,
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn spans_are_those_of_the_event() {
        let lines = logged(|| {
            let (one, other) = (info_span!("one"), info_span!("other"));
            let _entered = one.enter();
            info!(parent: &other, "elsewhere");
            info!(parent: None, "nowhere");
            info_span!("two").in_scope(|| info!("in both"));
        });
        let spans: Vec<_> = values(&lines)
            .iter()
            .map(|line| line["spans"].to_string())
            .collect();
        let both = r#"[{"name":"one"},{"name":"two"}]"#;
        assert_eq!(spans, [r#"[{"name":"other"}]"#, "null", both]);
    }

    /// Numbers that look random, the same each time (xorshift).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: u32) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            u32::try_from(self.0 >> 33).unwrap() % end
        }

        /// Of all of Unicode, and more of what is special.
        fn char(&mut self) -> char {
            let code = match self.below(6) {
                0 => self.below(0x20),
                1 => 0x7f + self.below(0x30),
                2 => 0x2000 + self.below(0x80),
                3 => u32::from(b"\"\\/{}[]:,u"[self.below(10) as usize]),
                4 => b' '.into(),
                _ => self.below(0x0011_0000),
            };
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    }

    #[test]
    fn whatever_is_logged_a_line_is_json_and_says_it_or_its_beginning() {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for round in 0..3000 {
            // About the limit, and mostly short.
            let length = match round % 3 {
                0 => 495 + numbers.below(10),
                _ => numbers.below(40),
            };
            let text: String = (0..length).map(|_| numbers.char()).collect();
            let lines = logged(|| {
                let _span = info_span!("s", text, shown = %text).entered();
                info!(text, shown = %text, all = ?text, "{text}");
            });
            assert_eq!(lines.find('\n'), Some(lines.len() - 1), "{lines:?}");
            let is_clean = !lines.trim_end().chars().any(clean::is_unsafe);
            assert!(is_clean, "{lines:?}");
            let line = &values(&lines)[0];
            let cut = |text: &str| match text.chars().count() {
                ..500 => text.to_owned(),
                _ => text.chars().take(499).chain(['…']).collect(),
            };
            let span = &line["spans"][0];
            for said in [&line["text"], &line["shown"], &line["message"]] {
                assert_eq!(said, &cut(&text));
            }
            assert_eq!([&span["text"], &span["shown"]], [&cut(&text); 2]);
            assert_eq!(line["all"], cut(&format!("{text:?}")));
        }
    }

    /// Does as it is told while it is being logged.
    struct Does(fn(&mut fmt::Formatter<'_>) -> fmt::Result);

    impl fmt::Display for Does {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            (self.0)(formatter)
        }
    }

    #[test]
    fn what_is_logged_may_log_fail_or_panic() {
        let lines = logged(|| {
            let fails = Does(|formatter| {
                formatter.write_str("half")?;
                Err(fmt::Error)
            });
            let panics = Does(|_| std::panic::resume_unwind(Box::new("panics")));
            info!(%fails, "told");
            let told = || info!(%panics, "never");
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(told)).unwrap_err();
            // As from within a value: there tracing lets it through in a daemon, though not in a test.
            SCRATCH.with_borrow_mut(|_| info!("within"));
            info!("after");
        });
        let lines = values(&lines);
        let said: Vec<_> = lines
            .iter()
            .map(|line| line["message"].as_str().unwrap())
            .collect();
        assert_eq!(said, ["told", "within", "after"]);
        assert_eq!(lines[0]["fails"], "half");
    }

    #[test]
    fn times_are_what_they_are() {
        let mut clock = Scratch::new().clock;
        let mut numbers = Numbers(7);
        let near = [0, 1, 999_999, 951_782_399_999_999, 951_868_800_000_000];
        let any = (0..10_000).map(|_| i64::from(numbers.below(1 << 31)) * 2_000_003);
        for micros in near.into_iter().chain(any) {
            let since = Duration::from_micros(micros.cast_unsigned());
            let mut line = String::new();
            // Twice: the second is remembered.
            for _ in 0..2 {
                line.clear();
                clock.write(UNIX_EPOCH + since, &mut line);
                let want = Timestamp::from_microsecond(micros).unwrap();
                assert_eq!(line, format!("{want:.6}"));
            }
        }
        for (time, want) in [
            (
                UNIX_EPOCH - Duration::from_millis(1500),
                "1969-12-31T23:59:59.000000Z",
            ),
            (
                UNIX_EPOCH + Duration::from_secs(1 << 50),
                "1970-01-01T00:00:00.000000Z",
            ),
        ] {
            let mut line = String::new();
            clock.write(time, &mut line);
            assert_eq!(line, want);
        }
    }
}
