//! `payctl payment show`.

use crate::api::Payment;
use crate::cli::arguments::PaymentId;
use crate::cli::context::{Context, read};
use crate::cli::failure::{Exit, Outcome};

/// Show a payment
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The payment's id
    #[arg(value_name = "ID", value_parser = PaymentId::parse)]
    id: PaymentId,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let answer = context.get(&arguments.id.path("")).await?;
    let payment: Payment<'static> = read(&answer.body, "payment")?;
    let now = context.now();
    super::print(&mut context.out, &answer, &payment, now)?;
    Ok(Exit::Done)
}
