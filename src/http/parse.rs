//! Request bodies into what the application takes: parsed once, correct ever after. It decides
//! nothing that depends on what is stored.

use super::json::{Object, Text};
use super::problem::Reject;
use crate::domain::{Command, Currency, InvoiceId, Money, NewInvoice, ResolveAs, Timestamp};

/// What people write: any text, since the contract names no other limit than that of the body.
/// Whoever shows it strips what steers a terminal. So many characters are 64 KiB at most.
const FREE_TEXT: Text = Text {
    min: 0,
    max: 16 * 1024,
    controls: true,
};

/// Keys that an invoice's metadata may have (`DESIGN.md`, section 10).
const METADATA_KEYS_MAX: usize = 50;

const METADATA_KEY: Text = Text {
    min: 1,
    max: 64,
    controls: false,
};

const PAYMENT_METHOD: Text = Text {
    min: 1,
    max: 255,
    controls: false,
};

const REASON_REQUIRED: Text = Text {
    min: 1,
    ..FREE_TEXT
};

const GATEWAY_REFERENCE: Text = Text {
    min: 1,
    max: 255,
    controls: false,
};

/// An invoice to be made. `new_id` makes its id where the client gave none.
pub(super) fn invoice(
    body: &[u8],
    new_id: impl FnOnce() -> InvoiceId,
) -> Result<NewInvoice, Reject> {
    let known = [
        "id",
        "amount",
        "currency",
        "description",
        "metadata",
        "payment_method",
        "due_at",
    ];
    let mut object = Object::read(body, &known)?;
    let id = object.parsed("id", InvoiceId::parse);
    let amount = object.required_amount("amount");
    let currency = object.parsed("currency", Currency::parse);
    let description = object.text("description", FREE_TEXT);
    let metadata = object.map("metadata", METADATA_KEYS_MAX, METADATA_KEY, FREE_TEXT);
    let payment_method = object.text("payment_method", PAYMENT_METHOD);
    let due_at = object.parsed("due_at", Timestamp::parse);
    object.finish(|| {
        Some(NewInvoice {
            id: id.unwrap_or_else(new_id),
            money: Money {
                amount: amount?,
                currency: currency.unwrap_or(Currency::DEFAULT),
            },
            description,
            metadata,
            payment_method,
            due_at,
        })
    })
}

/// `pay`, with or without a body.
pub(super) fn pay(body: &[u8]) -> Result<Command, Reject> {
    if body.is_empty() {
        return Ok(Command::Pay { method: None });
    }
    let mut object = Object::read(body, &["payment_method"])?;
    let method = object.text("payment_method", PAYMENT_METHOD);
    object.finish(|| Some(Command::Pay { method }))
}

/// `cancel`, with or without a body.
pub(super) fn cancel(body: &[u8]) -> Result<Command, Reject> {
    if body.is_empty() {
        return Ok(Command::Cancel { reason: None });
    }
    let mut object = Object::read(body, &["reason"])?;
    let reason = object.text("reason", FREE_TEXT);
    object.finish(|| Some(Command::Cancel { reason }))
}

/// What an operator says about a payment.
pub(super) struct Resolution {
    /// How it ended.
    pub(super) resolve_as: ResolveAs,
    /// Why.
    pub(super) reason: String,
    /// The gateway's own id of the charge.
    pub(super) reference: Option<String>,
}

/// `resolve`.
pub(super) fn resolve(body: &[u8]) -> Result<Resolution, Reject> {
    let mut object = Object::read(body, &["as", "reason", "gateway_reference"])?;
    let resolve_as = object.required_parsed("as", |text| {
        ResolveAs::parse(text).ok_or("must be succeeded or failed")
    });
    let reason = object.required_text("reason", REASON_REQUIRED);
    let reference = object.text("gateway_reference", GATEWAY_REFERENCE);
    object.finish(|| {
        Some(Resolution {
            resolve_as: resolve_as?,
            reason: reason?,
            reference,
        })
    })
}

/// A body where none is needed: nothing, or an empty object.
pub(super) fn nothing(body: &[u8]) -> Result<(), Reject> {
    if body.is_empty() {
        return Ok(());
    }
    Object::read(body, &[])?.finish(|| Some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<NewInvoice, Vec<String>> {
        invoice(body.as_bytes(), || InvoiceId::parse("made").unwrap()).map_err(|reject| {
            let errors = &reject.problem().errors;
            errors.iter().map(|e| e.field.to_string()).collect()
        })
    }

    #[test]
    fn an_invoice_needs_an_amount_and_nothing_else() {
        let read = read(r#"{"amount":1000}"#).unwrap();
        assert_eq!(read.id.as_str(), "made");
        assert_eq!(read.money.amount.minor_units(), 1000);
        assert_eq!(read.money.currency.code(), "USD");
        assert!(read.metadata.is_empty());
        let nulls = r#"{"id":null,"amount":1000,"currency":null,"description":null,
            "metadata":null,"payment_method":null,"due_at":null}"#;
        assert_eq!(super::tests::read(nulls).unwrap(), read);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let many: Vec<String> = (0..51).map(|i| format!("\"k{i}\":\"v\"")).collect();
        let many = format!("{{\"amount\":1,\"metadata\":{{{}}}}}", many.join(","));
        let long = format!(
            "{{\"amount\":1,\"description\":\"{}\"}}",
            "x".repeat(16 * 1024 + 1)
        );
        #[rustfmt::skip]
        let rows: &[(&str, &[&str])] = &[
            ("{}", &["amount"]),
            (r#"{"amount":null}"#, &["amount"]),
            (r#"{"amount":1.5,"currency":"usd","id":"..","due_at":"soon","x":1,"metadata":{"a":1}}"#,
             &["x", "id", "amount", "currency", "metadata.a", "due_at"]),
            (r#"{"amount":1,"currency":1,"description":[],"payment_method":""}"#,
             &["currency", "description", "payment_method"]),
            (r#"{"amount":1,"metadata":{"a":"1","a":"2","":"x"}}"#, &["metadata.a", "metadata."]),
            (r#"{"amount":1,"metadata":{"a":null}}"#, &["metadata.a"]),
            (r#"{"amount":1,"metadata":"x"}"#, &["metadata"]),
            (r#"{"amount":1,"payment_method":"a\u0000"}"#, &["payment_method"]),
            (r#"{"amount":1,"due_at":"2026-01-02"}"#, &["due_at"]),
            (&many, &["metadata"]),
            (&long, &["description"]),
        ];
        for (body, fields) in rows {
            let got = read(body).unwrap_err();
            assert_eq!(got, *fields, "{body:.120}");
        }
    }

    #[test]
    fn a_resolution_has_a_reason() {
        let ok = resolve(br#"{"as":"failed","reason":"bank says no"}"#).unwrap();
        assert_eq!(ok.resolve_as, ResolveAs::Failed);
        for body in [
            "{}",
            r#"{"as":"failed"}"#,
            r#"{"as":"failed","reason":""}"#,
            r#"{"as":"FAILED","reason":"x"}"#,
            r#"{"as":"failed","reason":"x","gateway_reference":7}"#,
        ] {
            assert!(resolve(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn pay_and_cancel_take_no_body_too() {
        assert_eq!(pay(b"").unwrap(), Command::Pay { method: None });
        assert_eq!(pay(b"{}").unwrap(), Command::Pay { method: None });
        assert!(pay(br#"{"method":"x"}"#).is_err());
        assert_eq!(cancel(b"").unwrap(), Command::Cancel { reason: None });
        assert!(nothing(b"{}").is_ok());
        assert!(nothing(br#"{"x":1}"#).is_err());
    }
}
