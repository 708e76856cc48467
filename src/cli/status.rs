//! `payctl status`: whatever payd says about itself.
//!
//! What people ask for first comes first, in their words and red where it wants somebody; a field that this
//! payctl does not know follows as it is, so that the table stays true as payd has more to say.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::cli::context::{Context, read};
use crate::cli::failure::{Exit, Outcome};
use crate::cli::output::Format;
use crate::cli::table::{Cell, pairs};
use crate::cli::text::{clock, count, relative};

/// Show how payd is
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// Runs it.
pub(crate) async fn run(_: Arguments, context: &mut Context) -> Outcome {
    let answer = context.get("/admin/status").await?;
    match context.out.format {
        Format::Json => context.out.raw(&answer.body)?,
        Format::Jsonl => context.out.compact(&answer.body)?,
        Format::Name | Format::Table => {
            let value: Value = read(&answer.body, "status")?;
            if context.out.format == Format::Name {
                let id = value
                    .get("store_id")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                context.out.line(&crate::cli::text::clean(id))?;
                return Ok(Exit::Done);
            }
            let rows = rows(value, context.now());
            let rows: Vec<(&str, Cell)> = rows
                .iter()
                .map(|row| (row.name.as_str(), Cell::styled(&row.text, row.style)))
                .collect();
            let width = context.out.width();
            context.out.lines(&pairs(&rows, width))?;
        }
    }
    Ok(Exit::Done)
}

/// A line of the table.
struct Row {
    name: String,
    text: String,
    style: Style,
}

/// What is asked for first, then whatever else there is. Each reader of a line gives `None` where payd says
/// otherwise than this payctl knows, and takes nothing out then: the fields are shown as they are.
fn rows(value: Value, now: Timestamp) -> Vec<Row> {
    let Value::Object(mut fields) = value else {
        return Vec::new();
    };
    let mut rows = Vec::new();
    let alarm = AnsiColor::Red.on_default().bold();
    let calm = Style::new();
    let mut row = |name: &str, text: Option<(String, bool)>| {
        if let Some((text, wrong)) = text {
            rows.push(Row {
                name: name.to_owned(),
                text,
                style: if wrong { alarm } else { calm },
            });
        }
    };
    row("payd", version(&mut fields));
    row("gateway", gateway(&mut fields, now));
    row("payments", payments(&mut fields));
    row("unknown", unknown(&mut fields, now));
    row("attention", attention(&mut fields));
    row("requests", requests(&mut fields));
    let listeners = listeners(&mut fields).unwrap_or_default();
    for (number, listener) in listeners.into_iter().enumerate() {
        row(
            if number == 0 { "listens on" } else { "" },
            Some((listener, false)),
        );
    }
    row("database", database(&mut fields));
    row("log", log(&mut fields));
    row("restored", restored(&mut fields, now));
    let mut rest = Vec::new();
    flatten("", &Value::Object(fields), &mut rest);
    rows.extend(rest.into_iter().map(|(name, text)| Row {
        name,
        text,
        style: calm,
    }));
    rows
}

/// Version, uptime, and whether it works.
fn version(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let version = fields.get("version")?.as_str()?.to_owned();
    let uptime = fields.get("uptime_seconds")?.as_u64()?;
    let ready = fields.get("ready")?.as_bool()?;
    let paused = fields.get("paused")?.as_bool()?;
    // A gateway that does not let payd in counts as a pause, and has its own line.
    let by_gateway = fields
        .get("gateway_health")
        .and_then(|health| health.get("state"))
        .is_some_and(|state| state == "refused");
    let started = fields.get("started_at").and_then(Value::as_str);
    let started = started.map_or(String::new(), |at| format!(", since {}", clock(at)));
    for name in ["version", "uptime_seconds", "ready", "paused", "started_at"] {
        fields.remove(name);
    }
    let state = match (ready, paused) {
        (false, _) => "NOT READY: nothing can be written, or it is stopping",
        (true, true) if by_gateway => "ready, but nothing is sent: see the gateway",
        (true, true) => "ready, and PAUSED: nothing is sent",
        (true, false) => "ready",
    };
    Some((
        format!("{version}, {state}; up {}{started}", span(uptime)),
        !ready || paused,
    ))
}

fn gateway(fields: &mut Map<String, Value>, now: Timestamp) -> Option<(String, bool)> {
    let name = fields.get("gateway")?.as_str()?.to_owned();
    let health = fields.get("gateway_health")?;
    let state = health.get("state")?.as_str()?.to_owned();
    let said = match &*state {
        "ok" => "ok",
        "refused" => "does not let payd in",
        "unreachable" => "does not answer",
        other => other,
    };
    let mut text = format!("{name}: {said}");
    if let Some(since) = health.get("since").and_then(Value::as_str) {
        text.push_str(&format!(", since {}", relative(now, since)));
    }
    if let Some(reason) = health.get("reason").and_then(Value::as_str) {
        text.push_str(&format!(": {reason}"));
    }
    fields.remove("gateway");
    fields.remove("gateway_health");
    Some((text, state != "ok"))
}

fn payments(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let payments = fields.get_mut("payments")?.as_object_mut()?;
    let count = |name: &str| payments.get(name)?.as_u64();
    let (due, requested) = (count("due")?, count("requested")?);
    let (sending, accepted) = (count("sending")?, count("accepted")?);
    let review = count("review")?;
    for name in ["due", "requested", "sending", "accepted", "review"] {
        payments.remove(name);
    }
    // Those that are due are among the requested.
    let parts = [
        (due, "due now"),
        (requested.saturating_sub(due), "due later"),
        (sending, "being sent"),
        (accepted, "accepted, to be decided by the gateway"),
        (review, "to be REVIEWED by you"),
    ];
    let told: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let text = match told.is_empty() {
        true => "none waits".to_owned(),
        false => told.join(", "),
    };
    Some((text, review > 0))
}

fn unknown(fields: &mut Map<String, Value>, now: Timestamp) -> Option<(String, bool)> {
    let payments = fields.get_mut("payments")?.as_object_mut()?;
    let count = payments.get("unknown")?.as_u64()?;
    let oldest = payments.get("oldest_unknown_at")?.as_str();
    let text = match (count, oldest) {
        (0, _) => "no outcome".to_owned(),
        (_, Some(since)) => format!(
            "{}, the oldest from {}: looked up until known",
            outcomes(count),
            relative(now, since)
        ),
        (_, None) => outcomes(count),
    };
    payments.remove("unknown");
    payments.remove("oldest_unknown_at");
    if payments.is_empty() {
        fields.remove("payments");
    }
    Some((text, count > 0))
}

fn outcomes(number: u64) -> String {
    count(number, "outcome")
}

fn attention(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let number = fields.get("needs_attention")?.as_u64()?;
    fields.remove("needs_attention");
    Some(match number {
        0 => ("no invoice needs an operator".to_owned(), false),
        1 => (
            "1 invoice needs an operator: payctl doctor".to_owned(),
            true,
        ),
        _ => (
            format!("{number} invoices need an operator: payctl doctor"),
            true,
        ),
    })
}

fn requests(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let queue = fields.get("queue")?.as_object()?;
    let (depth, capacity) = (
        queue.get("depth")?.as_u64()?,
        queue.get("capacity")?.as_u64()?,
    );
    if queue.len() == 2 {
        fields.remove("queue");
    }
    // Beyond the last place payd answers 503.
    let full = depth.saturating_mul(2) > capacity;
    Some((format!("{depth} waiting, room for {capacity}"), full))
}

fn listeners(fields: &mut Map<String, Value>) -> Option<Vec<String>> {
    let listeners = fields.get("listeners")?.as_array()?;
    let texts: Option<Vec<String>> = listeners
        .iter()
        .map(|each| each.as_str().map(str::to_owned))
        .collect();
    let texts = texts?;
    fields.remove("listeners");
    Some(texts)
}

fn database(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let store = fields.get("store")?;
    let bytes = |name: &str| store.get(name)?.as_u64().map(mib);
    let text = format!(
        "{} and a write-ahead log of {}, in {}; {} free there",
        bytes("database_bytes")?,
        bytes("wal_bytes")?,
        fields.get("data_dir")?.as_str()?,
        bytes("free_bytes")?,
    );
    fields.remove("store");
    fields.remove("data_dir");
    Some((text, false))
}

fn log(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let events = fields.get("events")?.as_object()?;
    let head = events.get("head")?.as_u64()?;
    let store = fields.get("store_id")?.as_str()?;
    let text = format!("{}, of store {store}", count(head, "event"));
    if events.len() == 1 {
        fields.remove("events");
    }
    fields.remove("store_id");
    Some((text, false))
}

fn restored(fields: &mut Map<String, Value>, now: Timestamp) -> Option<(String, bool)> {
    let restored = fields.get("restored")?;
    if restored.is_null() {
        fields.remove("restored");
        return None;
    }
    let at = relative(now, restored.get("at")?.as_str()?);
    let events = restored.get("events")?.as_u64()?;
    fields.remove("restored");
    Some((
        format!("{at}, from a backup of {}", count(events, "event")),
        false,
    ))
}

/// A span of time in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn mib(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes.div_ceil(MIB) {
        mib @ 0..10_240 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib / 1024),
    }
}

/// Nested objects as names with dots; lists of plain values in one line.
fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |part: &str| {
        if name.is_empty() {
            part.to_owned()
        } else {
            format!("{name}.{part}")
        }
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&below(key), value, rows);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&below(&index.to_string()), item, rows);
            }
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            rows.push((name.to_owned(), items.join(", ")));
        }
        value => rows.push((name.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_object_becomes_names_and_values() {
        let value = serde_json::json!({
            "ready": true, "queue": {"depth": 0}, "listeners": ["unix", "tcp"],
            "gateway": null, "nodes": [{"id": 1}],
        });
        let mut rows = Vec::new();
        flatten("", &value, &mut rows);
        let rows: Vec<String> = rows.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let expected = [
            "gateway=-",
            "listeners=unix, tcp",
            "nodes.0.id=1",
            "queue.depth=0",
            "ready=yes",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn what_people_ask_for_comes_first_and_nothing_is_left_out() {
        let value = serde_json::json!({
            "version": "0.1.0", "uptime_seconds": 7_265, "ready": true, "paused": false,
            "gateway": "http", "gateway_health": {"state": "unreachable", "reason": "timeout",
            "since": "2026-01-02T03:00:00Z"}, "payments": {"due": 1, "requested": 2, "sending": 3,
            "accepted": 4, "unknown": 5, "review": 6, "oldest_unknown_at": "2026-01-02T02:04:05Z",
            "brand_new": 7}, "needs_attention": 8, "data_dir": "/d", "restored": null,
            "store": {"database_bytes": 1, "wal_bytes": 4_194_304, "free_bytes": 107_374_182_400_u64},
            "queue": {"depth": 3, "capacity": 4096}, "listeners": ["unix:///s", "http://h"],
            "started_at": "2026-01-02T01:03:00Z", "store_id": "s", "events": {"head": 1},
        });
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let lines: Vec<String> = rows(value, now)
            .iter()
            .map(|row| format!("{}={}", row.name, row.text))
            .collect();
        let expected = [
            "payd=0.1.0, ready; up 2 h 1 min, since 2026-01-02 01:03:00Z",
            "gateway=http: does not answer, since 4 min ago: timeout",
            "payments=1 due now, 1 due later, 3 being sent, 4 accepted, to be decided by the gateway, 6 to be REVIEWED by you",
            "unknown=5 outcomes, the oldest from 1 h ago: looked up until known",
            "attention=8 invoices need an operator: payctl doctor",
            "requests=3 waiting, room for 4096",
            "listens on=unix:///s",
            "=http://h",
            "database=1 MiB and a write-ahead log of 4 MiB, in /d; 100 GiB free there",
            "log=1 event, of store s",
            "payments.brand_new=7",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_payctl_does_not_know_is_shown_as_it_is() {
        let value = serde_json::json!({"version": 7, "gateway": {"name": "x"}});
        let lines: Vec<String> = rows(value, Timestamp::UNIX_EPOCH)
            .iter()
            .map(|row| format!("{}={}", row.name, row.text))
            .collect();
        assert_eq!(lines, ["gateway.name=x", "version=7"]);
    }
}
