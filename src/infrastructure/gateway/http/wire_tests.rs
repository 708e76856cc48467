use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

const REFERENCE: &str = "payd_46aedcaacc0cdf4e3ad0a000a42a3e3ec0679936";

fn sent() -> Sent<'static> {
    Sent {
        reference: REFERENCE,
        amount: 1000,
        currency: "EUR",
        secret: None,
    }
}

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status,
        body: Some(body.replace("REF", REFERENCE).into_bytes()),
        retry_after: None,
    }
}

/// A word for each outcome, with what else it says.
fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Approved { reference } => {
            format!("approved {}", reference.as_deref().unwrap_or("-"))
        }
        Outcome::Declined { failure, .. } => told(failure),
        Outcome::Accepted { reference, .. } => {
            format!("accepted {}", reference.as_deref().unwrap_or("-"))
        }
        Outcome::NotSent { .. } => "not sent".to_owned(),
        Outcome::Refused { .. } => "refused".to_owned(),
        Outcome::NotExecuted { .. } => "not executed".to_owned(),
        Outcome::Unknown { .. } => "unknown".to_owned(),
        Outcome::KeyReused { .. } => "key reused".to_owned(),
    }
}

fn found(finding: &Finding) -> String {
    match finding {
        Finding::Approved { reference } => {
            format!("approved {}", reference.as_deref().unwrap_or("-"))
        }
        Finding::Declined { failure, .. } => told(failure),
        Finding::Pending { reference } => {
            format!("pending {}", reference.as_deref().unwrap_or("-"))
        }
        Finding::NotFound => "not found".to_owned(),
        Finding::Mismatch { .. } => "mismatch".to_owned(),
        Finding::Refused { .. } => "refused".to_owned(),
        Finding::Inconclusive { .. } => "inconclusive".to_owned(),
    }
}

fn told(failure: &Failure) -> String {
    format!(
        "{} {}{}{}",
        failure.kind.as_str(),
        failure.code,
        if failure.retryable { " retryable" } else { "" },
        failure
            .message
            .as_ref()
            .map_or(String::new(), |it| format!(": {it}")),
    )
}

const SUCCEEDED: &str =
    r#"{"id":"ch_1","reference":"REF","amount":1000,"currency":"EUR","status":"succeeded"}"#;
const DECLINED: &str =
    r#"{"id":"ch_1","reference":"REF","amount":1000,"currency":"EUR","status":"declined"}"#;
const PENDING: &str =
    r#"{"id":"ch_1","reference":"REF","amount":1000,"currency":"EUR","status":"pending"}"#;
const OTHER_AMOUNT: &str =
    r#"{"id":"ch_1","reference":"REF","amount":1001,"currency":"EUR","status":"succeeded"}"#;

#[test]
fn every_answer_to_a_charge_has_one_meaning() {
    let soft = r#"{"id":"ch_1","reference":"REF","amount":1000,"currency":"EUR","status":"declined","decline_code":"insufficient_funds","message":"No money.","retryable":true}"#;
    let rows: &[(u16, &str, &str)] = &[
        // The body says it, and echoes what was sent.
        (200, SUCCEEDED, "approved ch_1"),
        (201, SUCCEEDED, "approved ch_1"),
        (200, DECLINED, "declined declined"),
        (201, DECLINED, "declined declined"),
        (
            200,
            soft,
            "declined insufficient_funds retryable: No money.",
        ),
        (200, PENDING, "accepted ch_1"),
        (201, PENDING, "accepted ch_1"),
        // 402 is for declines.
        (402, DECLINED, "declined declined"),
        (
            402,
            soft,
            "declined insufficient_funds retryable: No money.",
        ),
        (402, SUCCEEDED, "unknown"),
        (402, PENDING, "unknown"),
        (402, OTHER_AMOUNT, "unknown"),
        (402, "", "unknown"),
        (402, r#"{"error":{"code":"card_declined"}}"#, "unknown"),
        // The request itself was refused.
        (
            400,
            r#"{"error":{"code":"bad_currency","message":"No."}}"#,
            "rejected bad_currency: No.",
        ),
        (
            422,
            r#"{"error":{"code":"bad_currency"}}"#,
            "rejected bad_currency",
        ),
        (
            422,
            r#"{"error":{"message":"No."}}"#,
            "rejected http_422: No.",
        ),
        (422, r#"{"error":{"code":7}}"#, "rejected http_422"),
        (400, r#"{"error":"No."}"#, "rejected http_400: No."),
        (400, r#"{"error":{}}"#, "rejected http_400"),
        (400, r#"{"error":7}"#, "rejected http_400"),
        (400, r#"{"error":null}"#, "unknown"),
        (400, r#"{"error":false}"#, "unknown"),
        (400, r#"{"message":"No."}"#, "unknown"),
        (400, r#"{"error":{"code":"a","code":"b"}}"#, "unknown"),
        (400, r#"{"error":"a","error":"b"}"#, "unknown"),
        (400, r#"[{"error":"No."}]"#, "unknown"),
        (400, r#"["No."]"#, "unknown"),
        (400, "", "unknown"),
        (400, "<html>Bad Request</html>", "unknown"),
        (422, r#"{"error":{"code":"x"}} and more"#, "unknown"),
        (422, DECLINED, "unknown"),
        (
            404,
            r#"{"error":{"code":"no_such_method","message":"No."}}"#,
            "rejected no_such_method: No.",
        ),
        (404, r#"{"error":{"code":""}}"#, "unknown"),
        (404, r#"{"error":{"message":"No."}}"#, "unknown"),
        (404, r#"{"error":"Not found"}"#, "unknown"),
        (404, r#"{"error":{"code":404}}"#, "unknown"),
        (404, "", "unknown"),
        // The key.
        (
            409,
            r#"{"error":{"code":"idempotency_key_reused"}}"#,
            "key reused",
        ),
        (
            422,
            r#"{"error":{"code":"idempotency_key_reused"}}"#,
            "key reused",
        ),
        (
            400,
            r#"{"error":{"code":"idempotency_key_reused"}}"#,
            "key reused",
        ),
        (
            409,
            r#"{"error":{"code":"request_in_progress"}}"#,
            "unknown",
        ),
        (409, r#"{"error":"idempotency_key_reused"}"#, "unknown"),
        (409, "", "unknown"),
        (
            500,
            r#"{"error":{"code":"idempotency_key_reused"}}"#,
            "unknown",
        ),
        // Not executed.
        (401, "", "refused"),
        (401, SUCCEEDED, "refused"),
        (403, r#"{"error":{"code":"forbidden"}}"#, "refused"),
        (429, "", "not executed"),
        (429, SUCCEEDED, "not executed"),
        // All else.
        (202, SUCCEEDED, "unknown"),
        (203, SUCCEEDED, "unknown"),
        (204, "", "unknown"),
        (206, SUCCEEDED, "unknown"),
        (299, SUCCEEDED, "unknown"),
        (300, SUCCEEDED, "unknown"),
        (301, "", "unknown"),
        (302, SUCCEEDED, "unknown"),
        (303, "", "unknown"),
        (304, "", "unknown"),
        (307, "", "unknown"),
        (308, "", "unknown"),
        (405, r#"{"error":{"code":"x"}}"#, "unknown"),
        (408, r#"{"error":{"code":"x"}}"#, "unknown"),
        (410, r#"{"error":{"code":"x"}}"#, "unknown"),
        (413, r#"{"error":{"code":"x"}}"#, "unknown"),
        (415, r#"{"error":{"code":"x"}}"#, "unknown"),
        (425, r#"{"error":{"code":"x"}}"#, "unknown"),
        (451, r#"{"error":{"code":"x"}}"#, "unknown"),
        (500, r#"{"error":{"code":"x"}}"#, "unknown"),
        (500, SUCCEEDED, "unknown"),
        (502, "", "unknown"),
        (503, "", "unknown"),
        (504, "", "unknown"),
        (599, "", "unknown"),
        (999, "", "unknown"),
    ];
    for (status, body, want) in rows {
        let got = outcome(sent(), &answer(*status, body));
        assert_eq!(word(&got), *want, "{status} {body}: {got:?}");
    }
}

#[test]
fn every_answer_to_a_lookup_has_one_meaning() {
    let rows: &[(u16, &str, &str)] = &[
        (200, SUCCEEDED, "approved ch_1"),
        (200, DECLINED, "declined declined"),
        (200, PENDING, "pending ch_1"),
        (200, OTHER_AMOUNT, "mismatch"),
        (200, "", "inconclusive"),
        (200, "{}", "inconclusive"),
        (200, r#"{"error":{"code":"not_found"}}"#, "inconclusive"),
        (201, SUCCEEDED, "inconclusive"),
        (202, SUCCEEDED, "inconclusive"),
        (204, "", "inconclusive"),
        (302, SUCCEEDED, "inconclusive"),
        (400, r#"{"error":{"code":"x"}}"#, "inconclusive"),
        (401, "", "refused"),
        (402, DECLINED, "inconclusive"),
        (403, SUCCEEDED, "refused"),
        (404, "", "not found"),
        (404, r#"{"error":{"code":"not_found"}}"#, "not found"),
        (404, "<html>", "not found"),
        (
            409,
            r#"{"error":{"code":"idempotency_key_reused"}}"#,
            "inconclusive",
        ),
        (410, "", "inconclusive"),
        (422, r#"{"error":{"code":"x"}}"#, "inconclusive"),
        (429, "", "inconclusive"),
        (500, SUCCEEDED, "inconclusive"),
        (503, "", "inconclusive"),
    ];
    for (status, body, want) in rows {
        let got = finding(sent(), &answer(*status, body));
        assert_eq!(found(&got), *want, "{status} {body}: {got:?}");
    }
}

/// What a body that is almost the right one is, on a charge and on a lookup.
#[test]
fn only_an_exact_echo_counts() {
    let with = |from: &str, to: &str| {
        assert!(SUCCEEDED.contains(from), "{from}");
        SUCCEEDED.replace(from, to)
    };
    let rows: &[(String, &str, &str)] = &[
        (with("\"REF\"", "\"REF \""), "unknown", "mismatch"),
        (with("\"REF\"", "\"\""), "unknown", "mismatch"),
        (with("\"REF\"", "\"PAYD\""), "unknown", "mismatch"),
        (with("\"REF\"", "null"), "unknown", "inconclusive"),
        (with("\"REF\"", "7"), "unknown", "inconclusive"),
        (
            with("\"reference\":\"REF\",", ""),
            "unknown",
            "inconclusive",
        ),
        (with("1000", "1000.0"), "unknown", "inconclusive"),
        (with("1000", "1e3"), "unknown", "inconclusive"),
        (with("1000", "\"1000\""), "unknown", "inconclusive"),
        (with("1000", "-1000"), "unknown", "inconclusive"),
        (with("1000", "01000"), "unknown", "inconclusive"),
        (with("1000", "10"), "unknown", "mismatch"),
        (with("1000", "0"), "unknown", "mismatch"),
        (
            with("1000", "18446744073709551616"),
            "unknown",
            "inconclusive",
        ),
        (with("\"amount\":1000,", ""), "unknown", "inconclusive"),
        (
            with("\"amount\":1000,", "\"amount\":1000,\"amount\":1000,"),
            "unknown",
            "inconclusive",
        ),
        (with("EUR", "eur"), "unknown", "mismatch"),
        (with("EUR", "USD"), "unknown", "mismatch"),
        (with("\"EUR\"", "null"), "unknown", "inconclusive"),
        (with("succeeded", "Succeeded"), "unknown", "inconclusive"),
        (with("succeeded", "approved"), "unknown", "inconclusive"),
        (with("\"succeeded\"", "true"), "unknown", "inconclusive"),
        (
            with("\"succeeded\"", "{\"succeeded\":null}"),
            "unknown",
            "inconclusive",
        ),
        (
            with("\"succeeded\"", "\"succeeded\",\"status\":\"declined\""),
            "unknown",
            "inconclusive",
        ),
        (
            with(",\"status\":\"succeeded\"", ""),
            "unknown",
            "inconclusive",
        ),
        (with("\"ch_1\"", "7"), "unknown", "inconclusive"),
        (with("}", "}}"), "unknown", "inconclusive"),
        (with("}", "} {}"), "unknown", "inconclusive"),
        (with("}", ""), "unknown", "inconclusive"),
        (format!("[{SUCCEEDED}]"), "unknown", "inconclusive"),
        (
            r#"["ch_1","REF",1000,"EUR","succeeded",null,null,null]"#.to_owned(),
            "unknown",
            "inconclusive",
        ),
        (format!("\u{feff}{SUCCEEDED}"), "unknown", "inconclusive"),
        // These are exact.
        (with("}", "}\r\n"), "approved ch_1", "approved ch_1"),
        (
            with("{", " {\"more\":{\"a\":[1.5]},"),
            "approved ch_1",
            "approved ch_1",
        ),
        (with("EUR", "\\u0045UR"), "approved ch_1", "approved ch_1"),
        (
            with("}", ",\"message\":null}"),
            "approved ch_1",
            "approved ch_1",
        ),
        // What a charge is called does not say whether it stands.
        (with("\"id\":\"ch_1\",", ""), "approved -", "approved -"),
        (with("\"ch_1\"", "null"), "approved -", "approved -"),
        (with("\"ch_1\"", "\"\""), "approved -", "approved -"),
    ];
    for (body, charged, looked_up) in rows {
        let answer = answer(200, body);
        assert_eq!(word(&outcome(sent(), &answer)), *charged, "{body}");
        assert_eq!(found(&finding(sent(), &answer)), *looked_up, "{body}");
    }
}

#[test]
fn an_answer_in_a_coding_that_nobody_asked_for_says_nothing_by_its_body() {
    let rows = [
        (200, "unknown"),
        (400, "unknown"),
        (404, "unknown"),
        (429, "not executed"),
    ];
    for (status, want) in rows {
        let answer = Answer {
            body: None,
            ..answer(status, "")
        };
        assert_eq!(word(&outcome(sent(), &answer)), want, "{status}");
    }
}

#[test]
fn a_retry_after_goes_with_what_may_be_tried_again() {
    let wait = Some(Duration::from_secs(7));
    let waiting = |status, body| Answer {
        retry_after: wait,
        ..answer(status, body)
    };
    for (status, body) in [(402, DECLINED), (200, DECLINED), (429, "")] {
        let (Outcome::Declined { retry_after, .. } | Outcome::NotExecuted { retry_after, .. }) =
            outcome(sent(), &waiting(status, body))
        else {
            panic!("{status}")
        };
        assert_eq!(retry_after, wait, "{status}");
    }
    for (status, body) in [(200, DECLINED), (200, ""), (429, ""), (503, "")] {
        let (Finding::Declined { retry_after, .. } | Finding::Inconclusive { retry_after, .. }) =
            finding(sent(), &waiting(status, body))
        else {
            panic!("{status}")
        };
        assert_eq!(retry_after, wait, "{status}");
    }
}

#[test]
fn a_probe_is_about_the_gateway_and_no_payment() {
    for (status, want) in [
        (200, "usable"),
        (404, "usable"),
        (401, "refused"),
        (403, "refused"),
        (204, "unreachable"),
        (302, "unreachable"),
        (429, "unreachable"),
        (500, "unreachable"),
    ] {
        let got = match probe(None, &answer(status, "")) {
            Probe::Usable => "usable",
            Probe::Refused { .. } => "refused",
            Probe::Unreachable { .. } => "unreachable",
        };
        assert_eq!(got, want, "{status}");
    }
}

#[test]
fn text_from_outside_is_bounded_harmless_and_never_the_token() {
    let secret = Secret::of("tok_123");
    let sent = Sent {
        secret: Some(&secret),
        ..sent()
    };
    let long = "x".repeat(1000);
    let texts = [
        ("no such token: tok_123", "no such token: [token]"),
        ("to\\u0007k_1\\u001b23", "[token]"),
        ("a\\nb\\tc\\u0000d\\u0085", "a b cd"),
        ("  \\r\\n ", ""),
        (long.as_str(), &long[..500]),
    ];
    for (said, want) in texts {
        let body = DECLINED.replace('}', &format!(",\"message\":\"{said}\"}}"));
        let Outcome::Declined { failure, .. } = outcome(sent, &answer(402, &body)) else {
            panic!("{said}")
        };
        assert_eq!(failure.message.unwrap_or_default(), want);
        let error = format!(r#"{{"error":"{said}"}}"#);
        for status in [401, 429, 500] {
            let said = format!("{:?}", outcome(sent, &answer(status, &error)));
            assert!(!said.contains("tok_123"), "{said}");
        }
    }
    let body = DECLINED
        .replace("ch_1", &long)
        .replace('}', &format!(",\"decline_code\":\"{long}\"}}"));
    let Finding::Declined { failure, .. } = finding(sent, &answer(200, &body)) else {
        panic!()
    };
    assert_eq!(failure.code.len(), 100);
    let Finding::Approved { reference } =
        finding(sent, &answer(200, &body.replace("declined", "succeeded")))
    else {
        panic!()
    };
    assert_eq!(reference.unwrap().len(), 255);
    // Wherever the token may stand.
    let echoes = [
        SUCCEEDED.replace("\"REF\"", "\"tok_123\""),
        SUCCEEDED.replace("EUR", "tok_123"),
        SUCCEEDED.replace("succeeded", "tok_123"),
        SUCCEEDED.replace("ch_1", "tok_123"),
        SUCCEEDED.replace("1000", "\"tok_123\""),
        SUCCEEDED.replace('}', ",\"retryable\":\"tok_123\"}"),
    ];
    for body in echoes {
        let answer = answer(200, &body);
        let said = format!("{:?} {:?}", outcome(sent, &answer), finding(sent, &answer));
        assert!(!said.contains("tok_123"), "{said}");
    }
}

#[test]
fn the_body_has_these_fields_in_this_order() {
    use crate::domain::{
        Amount, Currency, GatewayKey, InvoiceId, Money, NewInvoice, PaymentId, Timestamp,
    };
    let mut request = ChargeRequest {
        invoice: Arc::new(NewInvoice {
            id: InvoiceId::parse("inv-1").unwrap(),
            money: Money {
                amount: Amount::new(1000).unwrap(),
                currency: Currency::parse("EUR").unwrap(),
            },
            description: None,
            metadata: BTreeMap::new(),
            payment_method: Some("of_the_invoice".to_owned()),
            due_at: None,
        }),
        payment: PaymentId::from_bytes([7; 16]),
        attempt: 1,
        key: GatewayKey::from_stored("payd_1".to_owned()),
        method: None,
        send: 1,
        sent_at: Timestamp::from_millis(0),
        traceparent: None,
    };
    let text = |request: &ChargeRequest| String::from_utf8(charge_body(request)).unwrap();
    assert_eq!(
        text(&request),
        r#"{"reference":"payd_1","payment_id":"pay_07070707-0707-0707-0707-070707070707","invoice_id":"inv-1","amount":1000,"currency":"EUR","payment_method":null,"description":null,"metadata":{}}"#
    );
    request.method = Some("tok \"1\"".to_owned());
    let invoice = Arc::make_mut(&mut request.invoice);
    invoice.description = Some("Bücher\n".to_owned());
    invoice.metadata = [("b", "2"), ("a", "1")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let full = text(&request);
    assert!(
        full.ends_with(
            r#""payment_method":"tok \"1\"","description":"Bücher\n","metadata":{"a":"1","b":"2"}}"#
        ),
        "{full}"
    );
    request.send = 9;
    request.sent_at = Timestamp::from_millis(99);
    request.traceparent = Some("00-…".to_owned());
    assert_eq!(text(&request), full, "the same bytes on every send");
}
