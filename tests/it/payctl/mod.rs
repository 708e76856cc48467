//! payctl against a scripted payd: every promise about exit codes, output and repetition.

mod batch;
mod bench;
mod create;
mod events;
mod operator;
mod output;
mod pay;
mod reach;
mod real;
mod screens;
mod shells;

use std::process::Output;

use serde_json::{Value, json};

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
pub(crate) fn exits(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        out(output),
        err(output)
    );
}

pub(crate) const PAY_1: &str = "pay_01890a5d-ac96-774b-bcce-b302099a8057";

pub(crate) fn invoice(id: &str, status: &str, attempts: u32) -> Value {
    json!({
        "id": id, "amount": 1000, "currency": "USD", "status": status, "description": null,
        "metadata": {}, "payment_method": null, "due_at": null, "attempts": attempts,
        "needs_attention": false, "cancel_requested": false, "next_attempt_at": null,
        "created_at": "2026-01-02T03:04:05.678Z", "updated_at": "2026-01-02T03:04:05.678Z",
        "paid_at": null,
    })
}

pub(crate) fn payment(status: &str) -> Value {
    let decided = matches!(status, "SUCCEEDED" | "FAILED" | "CANCELED");
    let failure = json!({
        "kind": "declined", "code": "do_not_honor", "message": "No", "retryable": false,
    });
    json!({
        "id": PAY_1, "invoice_id": "inv-1", "attempt": 1, "amount": 1000, "currency": "USD",
        "status": status, "gateway": "simulator", "gateway_reference": null,
        "idempotency_key": "k1", "failure": if status == "FAILED" { failure } else { Value::Null },
        "requested_at": "2026-01-02T03:04:05.678Z", "due_at": "2026-01-02T03:04:05.678Z",
        "sent_at": null, "finished_at": if decided { json!("2026-01-02T03:04:06Z") } else { Value::Null },
    })
}

pub(crate) fn event(sequence: u64, kind: &str) -> String {
    json!({
        "specversion": "1.0", "id": sequence.to_string(), "source": "/payd/s", "type": kind,
        "subject": "inv-1", "time": "2026-01-02T03:04:05.678Z",
        "datacontenttype": "application/json",
        "data": {"invoice_id": "inv-1", "invoice_status": "PAID", "attempt": 1, "amount": 1000,
                 "currency": "USD", "payment_id": PAY_1},
    })
    .to_string()
}
