//! An event in one line, for people. Pure.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::cli::text::{clean, money, relative, styled};

/// What of an event is needed to show it.
#[derive(Deserialize)]
pub(super) struct Shown<'a> {
    pub(super) id: Cow<'a, str>,
    #[serde(rename = "type")]
    pub(super) kind: Cow<'a, str>,
    pub(super) subject: Cow<'a, str>,
    pub(super) time: Cow<'a, str>,
    #[serde(default)]
    pub(super) data: Value,
}

/// An event in one line: when, which, what, whose, and how; in two where the terminal is too
/// narrow for that.
pub(super) fn human(event: &Shown<'_>, now: Timestamp, width: Option<usize>) -> Vec<String> {
    let time = match event.time.parse::<Timestamp>() {
        Ok(time) if same_day(time, now) => time.strftime("%H:%M:%S").to_string(),
        Ok(time) => time.strftime("%m-%d %H:%M").to_string(),
        Err(_) => clean(&event.time).into_owned(),
    };
    let dim = Style::new().dimmed();
    let kind = format!("{:<16}", clean(&event.kind));
    let plain = format!("{time}  {:>4}  {kind}  ", clean(&event.id)).width();
    let first = format!(
        "{}  {:>4}  {}  {}",
        styled(&time, dim),
        clean(&event.id),
        styled(&kind, style(&event.kind)),
        clean(&event.subject),
    );
    let details = details(&event.kind, &event.data, now);
    let details = clean(&details);
    let needed = plain + event.subject.width() + 2 + details.width();
    if width.is_some_and(|width| needed > width) {
        return vec![first, format!("{:plain$}{details}", "")];
    }
    vec![format!("{first}  {details}")]
}

fn same_day(one: Timestamp, other: Timestamp) -> bool {
    one.as_second().div_euclid(86_400) == other.as_second().div_euclid(86_400)
}

fn style(kind: &str) -> Style {
    match kind {
        "PaymentSucceeded" => AnsiColor::Green.on_default(),
        "PaymentFailed" => AnsiColor::Red.on_default(),
        "PaymentUnknown" => AnsiColor::Magenta.on_default(),
        "PaymentReviewRequired" | "PaymentContradicted" | "InvoiceAttentionRequired" => {
            AnsiColor::Magenta.on_default().bold()
        }
        "PaymentRequested" | "PaymentAccepted" => AnsiColor::Yellow.on_default(),
        "PaymentCanceled" | "InvoiceCanceled" => Style::new().dimmed(),
        _ => Style::new(),
    }
}

/// What sets the event apart, in a few words. Not cleaned yet.
fn details(kind: &str, data: &Value, now: Timestamp) -> String {
    let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut parts: Vec<String> = Vec::new();
    if let Some(attempt) = data.get("attempt").and_then(Value::as_u64) {
        parts.push(format!("#{attempt}"));
    }
    let amount = data.get("amount").and_then(Value::as_u64).unwrap_or(0);
    match kind {
        "InvoiceCreated" | "PaymentSucceeded" => parts.push(money(amount, text("currency"))),
        "PaymentRequested" => {
            parts.push(text("cause").to_owned());
            let due = relative(now, text("due_at"));
            if due.starts_with("in ") {
                parts.push(format!("due {due}"));
            }
        }
        "PaymentFailed" => {
            let code = data.pointer("/failure/code").and_then(Value::as_str);
            parts.push(code.unwrap_or("failed").to_owned());
            let again = data.get("will_retry").and_then(Value::as_bool);
            parts.push(if again == Some(true) {
                let next = relative(now, text("next_attempt_at"));
                if next.starts_with("in ") {
                    format!("again {next}")
                } else {
                    "tried again".to_owned()
                }
            } else {
                "for good".to_owned()
            });
        }
        "PaymentResolved" => {
            parts.push(format!("as {} by {}:", text("as"), text("actor")));
            parts.push(text("reason").to_owned());
        }
        "PaymentContradicted" => {
            let evidence = data.get("evidence");
            parts.push(match evidence {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            });
        }
        _ => parts.push(text("reason").to_owned()),
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_an_event_and_cannot_harm_a_terminal() {
        let now: Timestamp = "2026-01-02T03:04:06Z".parse().unwrap();
        let event = serde_json::json!({
            "id": "42", "type": "PaymentFailed", "subject": "inv-1",
            "time": "2026-01-02T03:04:05.678Z",
            "data": {
                "attempt": 1, "will_retry": true, "next_attempt_at": "2026-01-02T03:04:10Z",
                "failure": {"code": "soft\u{1b}[2J"},
            },
        });
        let text = event.to_string();
        let shown: Shown<'_> = serde_json::from_str(&text).unwrap();
        let plain = |width| {
            let lines = human(&shown, now, width).join("\n");
            anstream::adapter::strip_str(&lines).to_string()
        };
        let narrow = plain(Some(50));
        assert_eq!(
            narrow.lines().nth(1),
            Some(&*format!("{:34}#1 soft[2J again in 4 s", ""))
        );
        assert_eq!(
            plain(Some(80)),
            "03:04:05    42  PaymentFailed     inv-1  #1 soft[2J again in 4 s"
        );
    }
}
