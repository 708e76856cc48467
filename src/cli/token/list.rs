//! `payctl token list`.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api::Token;
use crate::cli::context::{Context, read};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::table::Table;
use crate::cli::text::clean;

/// List the tokens, oldest first
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// With those that are revoked
    #[arg(long)]
    all: bool,
}

/// A page whose tokens stay the bytes that they are.
#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    tokens: Vec<&'a RawValue>,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    let answer = context.get("/admin/tokens").await?;
    if context.out.format == Format::Json {
        context.out.raw(&answer.body)?;
        return Ok(Exit::Done);
    }
    let page: RawPage<'_> = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::unreadable("list of tokens", &error))?;
    let mut rows = Vec::new();
    for raw in page.tokens {
        let bytes = raw.get().as_bytes();
        let token: Token<'static> = read(bytes, "token")?;
        if token.revoked_at.is_some() && !arguments.all {
            continue;
        }
        match context.out.format {
            Format::Json | Format::Jsonl => context.out.compact(bytes)?,
            Format::Name => context.out.line(&clean(&token.name))?,
            Format::Table => rows.push(super::row(&token, context.now())),
        }
    }
    if context.out.format == Format::Table {
        let lines = Table::new(super::COLUMNS, context.out.width()).lines(&rows);
        context.out.lines(&lines)?;
    }
    Ok(Exit::Done)
}
