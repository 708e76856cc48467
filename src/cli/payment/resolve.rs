//! `payctl payment resolve`.

use clap::ValueEnum;
use serde::Serialize;

use crate::api::Payment;
use crate::cli::arguments::PaymentId;
use crate::cli::context::{Context, new_key, read};
use crate::cli::failure::{Exit, Failure, Outcome};

/// Decide a payment whose outcome payd cannot find out
///
/// Only for a payment in UNKNOWN or REVIEW, and only with proof: look at the gateway for the
/// payment's idempotency key (`payctl payment show ID`) first. `succeeded` makes the invoice
/// PAID, `failed` makes it FAILED; payd retries neither by itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The payment's id
    #[arg(value_name = "ID", value_parser = PaymentId::parse)]
    id: PaymentId,

    /// What the gateway's books say
    #[arg(long = "as", value_enum, value_name = "OUTCOME")]
    outcome: Resolution,

    /// How you know; it is kept in the log with your name
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// The gateway's own id of the charge
    #[arg(long, value_name = "ID")]
    gateway_reference: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Resolution {
    /// The money moved
    Succeeded,
    /// No money moved, and none will
    Failed,
}

#[derive(Serialize)]
struct Body<'a> {
    r#as: Resolution,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway_reference: Option<&'a str>,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let body = Body {
        r#as: arguments.outcome,
        reason: &arguments.reason,
        gateway_reference: arguments.gateway_reference.as_deref(),
    };
    let body = serde_json::to_vec(&body)
        .map_err(|error| Failure::unexpected(format!("the request cannot be written: {error}")))?;
    let target = arguments.id.path("/resolve");
    let answer = context.post(&target, body, &new_key()?).await?;
    let payment: Payment<'static> = read(&answer.body, "payment")?;
    let now = context.now();
    super::print(&mut context.out, &answer, &payment, now)?;
    Ok(Exit::Done)
}
