//! One event in words. Pure, and not cleaned yet: whoever prints it does that.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::Event;
use crate::cli::text::relative;

/// One event in words. Not cleaned yet.
pub(super) fn sentence(event: &Event<'_>, data: &Value) -> String {
    let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    let attempt = data.get("attempt").and_then(Value::as_u64).unwrap_or(0);
    let because = |prefix: &str| match text("reason") {
        "" => String::new(),
        reason => format!("{prefix}{reason}"),
    };
    let by = match event.actor.as_deref() {
        None | Some("payd" | "") => String::new(),
        Some(actor) => format!(" by {actor}"),
    };
    match &*event.kind {
        "InvoiceCreated" => format!("The invoice was created{by}."),
        "PaymentRequested" => {
            let due_then = due(text("due_at"), &event.time);
            match text("cause") {
                "retry" => format!("Payment {attempt} was planned as a retry, due {due_then}."),
                "manual" => {
                    format!("Payment {attempt} was asked for{by}, after the invoice had failed.")
                }
                "not_sent" => format!(
                    "The gateway did not execute payment {attempt}; it goes there again, \
                     under the same key, {due_then}."
                ),
                "not_received" => format!(
                    "The gateway never had payment {attempt}; it goes there again, under the \
                     same key, {due_then}."
                ),
                _ => format!("Payment {attempt} was asked for{by}."),
            }
        }
        "PaymentSucceeded" => {
            let reference = match text("gateway_reference") {
                "" => String::new(),
                reference => format!(", reference {reference}"),
            };
            let gateway = match text("gateway") {
                "" => String::new(),
                gateway => format!(" at gateway {gateway}"),
            };
            format!("Payment {attempt} succeeded{gateway}{reference}.")
        }
        "PaymentFailed" => {
            let field = |name: &str| {
                let value = data.get("failure").and_then(|failure| failure.get(name));
                value.and_then(Value::as_str).unwrap_or_default()
            };
            let message = match field("message") {
                "" => String::new(),
                message => format!(" ({})", message.trim_end_matches('.')),
            };
            let again = data.get("will_retry").and_then(Value::as_bool);
            let then = if again == Some(true) {
                "It will be tried again."
            } else {
                "It is not tried again."
            };
            format!(
                "Payment {attempt} failed: {}{message}. {then}",
                field("code")
            )
        }
        "PaymentUnknown" => format!(
            "Payment {attempt} was sent, and its outcome is unknown{}.",
            because(": ")
        ),
        "PaymentAccepted" => format!(
            "The gateway accepted payment {attempt} and will decide later{}.",
            because(": ")
        ),
        "PaymentReviewRequired" => {
            format!("Payment {attempt} needs a review{}.", because(": "))
        }
        "PaymentCanceled" => format!("Payment {attempt} was canceled{}.", because(": ")),
        "PaymentResolved" => {
            let actor = match text("actor") {
                "" => event.actor.as_deref().unwrap_or("an operator"),
                actor => actor,
            };
            format!(
                "{actor} resolved payment {attempt} as {}{}.",
                text("as"),
                because(": ")
            )
        }
        "PaymentContradicted" => {
            let evidence = match data.get("evidence") {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => "no evidence given".to_owned(),
            };
            format!(
                "The gateway says otherwise about payment {attempt}, which was decided: \
                 {evidence}."
            )
        }
        "InvoiceCancelRequested" => format!(
            "A cancel was asked for{by}; the outcome of the payment decides{}.",
            because(": ")
        ),
        "InvoiceCanceled" => format!("The invoice was canceled{by}{}.", because(": ")),
        "InvoiceAttentionRequired" => format!("An operator was called{}.", because(": ")),
        other => format!("{other}{}.", because(": ")),
    }
}

/// When something was due, as told at the time of the event.
fn due(due: &str, event: &str) -> String {
    match (due.parse::<Timestamp>(), event.parse::<Timestamp>()) {
        (Ok(due), Ok(event)) if due.duration_since(event).as_secs() < 1 => "at once".to_owned(),
        (Ok(_), Ok(event)) => format!("{} after that", relative(event, due).replace("in ", "")),
        _ => "at once".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_type_of_event_has_its_sentence() {
        let table = [
            (
                "InvoiceCreated",
                json!({}),
                "The invoice was created by uid:7.",
            ),
            (
                "PaymentRequested",
                json!({"attempt": 1, "cause": "api"}),
                "Payment 1 was asked for by uid:7.",
            ),
            (
                "PaymentRequested",
                json!({"attempt": 2, "cause": "retry", "due_at": "2026-01-02T03:04:08Z"}),
                "Payment 2 was planned as a retry, due 3 s after that.",
            ),
            (
                "PaymentRequested",
                json!({"attempt": 2, "cause": "not_sent", "due_at": "2026-01-02T03:04:05Z"}),
                "The gateway did not execute payment 2; it goes there again, under the same key, \
                 at once.",
            ),
            (
                "PaymentFailed",
                json!({"attempt": 1, "failure": {"code": "lost_card", "message": "Gone."}}),
                "Payment 1 failed: lost_card (Gone). It is not tried again.",
            ),
            (
                "PaymentUnknown",
                json!({"attempt": 1, "reason": "no answer"}),
                "Payment 1 was sent, and its outcome is unknown: no answer.",
            ),
            (
                "PaymentResolved",
                json!({"attempt": 1, "actor": "uid:9", "as": "failed", "reason": "seen"}),
                "uid:9 resolved payment 1 as failed: seen.",
            ),
            (
                "PaymentContradicted",
                json!({"attempt": 1, "evidence": "approved"}),
                "The gateway says otherwise about payment 1, which was decided: approved.",
            ),
            ("BrandNew", json!({}), "BrandNew."),
        ];
        for (kind, data, expected) in table {
            let event = json!({
                "specversion": "1.0", "id": "1", "source": "/payd/s", "type": kind,
                "subject": "inv-1", "time": "2026-01-02T03:04:05Z", "actor": "uid:7",
                "datacontenttype": "application/json", "data": data,
            });
            let event: Event<'static> = serde_json::from_str(&event.to_string()).unwrap();
            assert_eq!(sentence(&event, &data), expected, "{kind}");
        }
        for kind in crate::domain::EventType::ALL {
            let event = json!({
                "specversion": "1.0", "id": "1", "source": "/payd/s", "type": kind.as_str(),
                "subject": "inv-1", "time": "2026-01-02T03:04:05Z",
                "datacontenttype": "application/json", "data": {},
            });
            let event: Event<'static> = serde_json::from_str(&event.to_string()).unwrap();
            let fallback = format!("{}.", kind.as_str());
            assert_ne!(sentence(&event, &Value::Null), fallback);
        }
    }
}
