//! `payctl token revoke`.

use crate::api::Token;
use crate::cli::arguments::encode;
use crate::cli::context::{Context, new_key, read};
use crate::cli::failure::{Exit, Outcome};
use crate::cli::output::Format;
use crate::cli::text::clean;

/// Revoke a token: it is good for nothing from here on
///
/// Event streams that it has opened end. Its name can be given to another then, which shares its
/// idempotency keys. The admin's own token is another one after its file is removed and payd is
/// started again.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The token's name, or its id: the part after payd_
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let target = format!("/admin/tokens/{}/revoke", encode(&arguments.name));
    let answer = context.post(&target, Vec::new(), &new_key()?).await?;
    let token: Token<'static> = read(&answer.body, "token")?;
    match context.out.format {
        Format::Json => context.out.raw(&answer.body)?,
        Format::Jsonl => context.out.compact(&answer.body)?,
        Format::Name => context.out.line(&clean(&token.name))?,
        Format::Table => {
            let state = super::state(&token, context.now());
            context
                .out
                .line(&clean(&format!("{}  {state}", token.name)))?;
        }
    }
    Ok(Exit::Done)
}
