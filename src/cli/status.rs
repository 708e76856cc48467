//! `payctl status`: whatever payd says about itself.
//!
//! What people ask for first comes first, in their words; all the rest of the JSON object follows as it
//! is, so that it stays true as payd has more to say.

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::cli::context::{Context, read};
use crate::cli::failure::{Exit, Outcome};
use crate::cli::output::Format;
use crate::cli::table::{Cell, pairs};
use crate::cli::text::relative;

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
            context.out.lines(&pairs(&rows))?;
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

/// What is asked for first, then whatever else there is.
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
    row("store", store(&mut fields));
    row("restored", restored(&mut fields, now));
    row("gateway", gateway(&mut fields, now));
    row("backlog", backlog(&mut fields));
    row("unknown", unknown(&mut fields, now));
    let mut rest = Vec::new();
    flatten("", &Value::Object(fields), &mut rest);
    rows.extend(rest.into_iter().map(|(name, text)| Row {
        name,
        text,
        style: calm,
    }));
    rows
}

/// Version, uptime, and whether it works. `None` where payd says otherwise than this payctl knows: then
/// the fields are shown as they are. So it is with all of these.
fn version(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let version = fields.get("version")?.as_str()?.to_owned();
    let uptime = fields.get("uptime_seconds")?.as_u64()?;
    let ready = fields.get("ready")?.as_bool()?;
    let paused = fields.get("paused")?.as_bool()?;
    for name in ["version", "uptime_seconds", "ready", "paused"] {
        fields.remove(name);
    }
    let state = match (ready, paused) {
        (false, _) => "NOT READY: nothing can be written, or it is stopping",
        (true, true) => "ready, and PAUSED: nothing is sent",
        (true, false) => "ready",
    };
    Some((
        format!("{version}, up {}, {state}", span(uptime)),
        !ready || paused,
    ))
}

fn store(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let store = fields.get("store")?;
    let bytes = |name: &str| store.get(name)?.as_u64().map(mib);
    let text = format!(
        "{} and a log of {} in {}, {} free",
        bytes("database_bytes")?,
        bytes("wal_bytes")?,
        fields.get("data_dir")?.as_str()?,
        bytes("free_bytes")?,
    );
    fields.remove("store");
    fields.remove("data_dir");
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
    Some((format!("{at}, from a backup of {events} events"), false))
}

fn gateway(fields: &mut Map<String, Value>, now: Timestamp) -> Option<(String, bool)> {
    let name = fields.get("gateway")?.as_str()?.to_owned();
    let health = fields.get("gateway_health")?;
    let state = health.get("state")?.as_str()?.to_owned();
    let mut text = format!("{name}: {state}");
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

fn backlog(fields: &mut Map<String, Value>) -> Option<(String, bool)> {
    let payments = fields.get_mut("payments")?.as_object_mut()?;
    let names = ["due", "requested", "sending", "accepted", "review"];
    let counts: Vec<u64> = names
        .iter()
        .map(|name| payments.get(*name)?.as_u64())
        .collect::<Option<_>>()?;
    for name in names {
        payments.remove(name);
    }
    let text: Vec<String> = names
        .iter()
        .zip(&counts)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    Some((text.join(", "), false))
}

fn unknown(fields: &mut Map<String, Value>, now: Timestamp) -> Option<(String, bool)> {
    let payments = fields.get_mut("payments")?.as_object_mut()?;
    let count = payments.get("unknown")?.as_u64()?;
    let oldest = payments.get("oldest_unknown_at")?.as_str();
    let text = match oldest {
        Some(since) => format!("{count}, the oldest from {}", relative(now, since)),
        None => count.to_string(),
    };
    payments.remove("unknown");
    payments.remove("oldest_unknown_at");
    if payments.is_empty() {
        fields.remove("payments");
    }
    Some((text, count > 0))
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
        });
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let lines: Vec<String> = rows(value, now)
            .iter()
            .map(|row| format!("{}={}", row.name, row.text))
            .collect();
        let expected = [
            "payd=0.1.0, up 2 h 1 min, ready",
            "store=1 MiB and a log of 4 MiB in /d, 100 GiB free",
            "gateway=http: unreachable, since 4 min ago: timeout",
            "backlog=1 due, 2 requested, 3 sending, 4 accepted, 6 review",
            "unknown=5, the oldest from 1 h ago",
            "needs_attention=8",
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
