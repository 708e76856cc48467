//! `payctl status`: whatever payd says about itself.
//!
//! It shows any JSON object, so that it stays true as payd has more to say.

use serde_json::Value;

use crate::cli::context::{Context, read};
use crate::cli::failure::{Exit, Outcome};
use crate::cli::output::Format;
use crate::cli::table::{Cell, pairs};

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
            let mut rows = Vec::new();
            flatten("", &value, &mut rows);
            let rows: Vec<(&str, Cell)> = rows
                .iter()
                .map(|(name, value)| (name.as_str(), Cell::new(value)))
                .collect();
            context.out.lines(&pairs(&rows))?;
        }
    }
    Ok(Exit::Done)
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
}
