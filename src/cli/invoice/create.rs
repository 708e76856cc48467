//! `payctl invoice create`: one invoice, or many from a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;
use hyper::StatusCode;
use serde::Serialize;

use super::batch;
use crate::api::Invoice;
use crate::cli::arguments::{self, InvoiceId};
use crate::cli::context::{Context, new_key, read};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::pay::{self, Plan};
use crate::cli::text::{minor_units, money};

/// The currency that payd takes where none is named.
const CURRENCY_DEFAULT: &str = "USD";
/// The longest key that leaves room for what tells the payment's from the invoice's.
const PAY_KEY_BYTES_MAX: usize = 250;
/// The largest amount: 2^53 - 1.
const AMOUNT_MAX: u64 = (1 << 53) - 1;

/// Create an invoice, or many from a file
///
/// The same id with the same content again is no error and changes nothing; with other content it
/// is a conflict (exit 6).
///
/// With --file every line is an invoice as JSON:
///
///   {"id":"inv-1","amount":1000,"currency":"USD","metadata":{"order":"7"}}
///
/// Lines are sent up to 1,000 at a time. A bad line is reported with its number and hurts no
/// other; the exit code is then 1. A run that broke off can be run again: lines with an id are
/// created once in any case, and lines without one if it is given the same --idempotency-key.
#[derive(Debug, clap::Args)]
#[command(override_usage = "\
payctl invoice create [ID] --amount N [OPTIONS]
       payctl invoice create --file FILE|- [OPTIONS]")]
pub(crate) struct Arguments {
    /// The invoice's id: 1 to 64 of A-Z a-z 0-9 . _ : -. payd makes one where none is given
    #[arg(value_name = "ID", value_parser = InvoiceId::parse)]
    id: Option<InvoiceId>,

    /// The amount in minor units: 1000 for 10.00 USD
    #[arg(
        long,
        value_name = "N",
        required_unless_present = "file",
        allow_negative_numbers = true
    )]
    amount: Option<String>,

    /// ISO 4217 code; USD where none is given
    #[arg(long, value_name = "CODE")]
    currency: Option<String>,

    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// A key and a value of your own; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = metadata)]
    metadata: Vec<(String, String)>,

    /// The payment method that `pay` will use
    #[arg(long, value_name = "TOKEN")]
    method: Option<String>,

    /// When it is due: 2026-12-24T18:00:00Z, 2026-12-24 (UTC), 3d, 12h
    #[arg(long, value_name = "WHEN")]
    due: Option<String>,

    /// Then pay it, and wait as `payctl pay` does
    #[arg(long)]
    pay: bool,

    /// With --pay: how long to wait until it is decided
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        value_parser = arguments::timeout,
        requires = "pay"
    )]
    timeout: Duration,

    /// With --pay: do not wait until it is decided
    #[arg(long, requires = "pay")]
    no_wait: bool,

    /// Invoices from a file, one JSON object a line; - is stdin
    #[arg(
        short,
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = [
            "id", "amount", "currency", "description", "metadata", "method", "due", "pay"
        ]
    )]
    file: Option<PathBuf>,

    /// The key under which payd knows a repetition; made here where none is given
    #[arg(long, value_name = "KEY", value_parser = arguments::key)]
    idempotency_key: Option<String>,
}

/// The request. What was not given is not sent.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    amount: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let key = match &arguments.idempotency_key {
        Some(key) => key.clone(),
        None => new_key()?,
    };
    if let Some(file) = &arguments.file {
        return batch::run(file, &key, context).await;
    }
    if arguments.pay && key.len() > PAY_KEY_BYTES_MAX {
        return Err(Failure::usage(format!(
            "--idempotency-key with --pay has at most {PAY_KEY_BYTES_MAX} characters"
        )));
    }
    let body = body(&arguments, context)?;
    let json = serde_json::to_vec(&body)
        .map_err(|error| Failure::unexpected(format!("the request cannot be written: {error}")))?;
    let answer = match context.post("/invoices", json, &key).await {
        Ok(answer) => answer,
        Err(Failure::Transport(error)) if error.may_have_arrived() => {
            let message = format!("it is not known whether the invoice was created: {error}");
            let tip = format!("the same again with --idempotency-key '{key}' creates it once");
            return Err(Failure::own(Exit::Unreachable, message).with_tip(tip));
        }
        Err(failure) => return Err(failure),
    };
    let invoice: Invoice<'static> = read(&answer.body, "invoice")?;
    if arguments.pay {
        let id = InvoiceId::parse(&invoice.id).map_err(Failure::unexpected)?;
        context.out.note(&format!("invoice {id} created"));
        let plan = Plan {
            id,
            method: None,
            timeout: arguments.timeout,
            no_wait: arguments.no_wait,
            // Another request than the creation, so another key; the same one on a repetition.
            key: format!("{key}/pay"),
        };
        return pay::carry_out(&plan, context).await;
    }
    if answer.status == StatusCode::OK && !answer.headers.contains_key("idempotent-replayed") {
        context.out.note(&format!(
            "{} was there already, with the same content",
            invoice.id
        ));
    }
    let now = context.now();
    super::print_short(&mut context.out, &answer, &invoice, now)?;
    Ok(Exit::Done)
}

/// What was typed, as what is meant.
fn body<'a>(arguments: &'a Arguments, context: &Context) -> Outcome<Body<'a>> {
    let currency = arguments.currency.as_deref();
    let text = arguments.amount.as_deref().unwrap_or_default();
    let mut metadata = BTreeMap::new();
    for (key, value) in &arguments.metadata {
        if metadata.insert(key.as_str(), value.as_str()).is_some() {
            return Err(Failure::usage(format!("--metadata {key} is given twice")));
        }
    }
    let due_at = match &arguments.due {
        Some(text) => {
            let due = arguments::due(text, context.now())
                .map_err(|message| Failure::usage(format!("--due: {message}")))?;
            Some(due.to_string())
        }
        None => None,
    };
    Ok(Body {
        id: arguments.id.as_ref().map(InvoiceId::as_str),
        amount: amount(text, currency.unwrap_or(CURRENCY_DEFAULT))?,
        currency,
        description: arguments.description.as_deref(),
        metadata,
        payment_method: arguments.method.as_deref(),
        due_at,
    })
}

/// Minor units and nothing else: whoever writes 10.00 means something, and is asked to say it.
fn amount(text: &str, currency: &str) -> Outcome<u64> {
    let number = text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    if let Some(amount) = number.filter(|number| (1..=AMOUNT_MAX).contains(number)) {
        return Ok(amount);
    }
    let currency = currency.to_ascii_uppercase();
    let failure = Failure::usage(format!(
        "--amount {text}: an amount is a whole number of minor units, from 1 to {AMOUNT_MAX}"
    ));
    let meant = minor_units(text, &currency).filter(|meant| (1..=AMOUNT_MAX).contains(meant));
    Err(match meant {
        Some(meant) => failure.with_tip(format!(
            "for {}, write --amount {meant}",
            money(meant, &currency)
        )),
        None => failure.with_tip(format!("1000 is {}", money(1000, &currency))),
    })
}

fn metadata(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, as in --metadata order=7".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_minor_units() {
        assert!(matches!(amount("1000", "USD"), Ok(1000)));
        assert!(matches!(amount("9007199254740991", "USD"), Ok(AMOUNT_MAX)));
        for bad in [
            "0",
            "-5",
            "+5",
            "9007199254740992",
            "",
            "ten",
            "1e3",
            "1_000",
        ] {
            assert!(amount(bad, "USD").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_decimal_is_refused_with_the_number_that_was_meant() {
        for (text, currency, meant) in [
            ("10.00", "USD", "--amount 1000"),
            ("10.00", "usd", "--amount 1000"),
            ("10.00", "JPY", "--amount 10"),
            ("1.5", "KWD", "--amount 1500"),
        ] {
            let failure = amount(text, currency).unwrap_err();
            let (_, more) = failure.explain();
            assert!(more[0].ends_with(meant), "{text} {currency}: {more:?}");
        }
    }
}
