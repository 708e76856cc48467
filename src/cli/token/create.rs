//! `payctl token create`.

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde::Serialize;

use crate::api::{NewToken, Scope};
use crate::cli::arguments::due;
use crate::cli::context::{Context, read, succeeded};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::text::clean;
use crate::client::Request;

/// Make a token, and print it: this once
///
/// payd keeps no more than a digest of it. Give each integration one of its own, with the scopes
/// that it needs; events and logs name it as the actor of what it does. Its holder puts it into a
/// file that nobody else may read, for `payctl --token-file` or `Authorization: Bearer`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  (umask 077; payctl token create --name shop --scope create --scope pay > shop.token)
  payctl token create --name prometheus --scope metrics --expires 365d")]
pub(crate) struct Arguments {
    /// What it is good for; may be given more than once, or with commas
    #[arg(
        long = "scope",
        value_enum,
        value_name = "SCOPE",
        required = true,
        value_delimiter = ','
    )]
    scopes: Vec<Given>,

    /// Who it is for, as events and logs name it: 1 to 64 of A-Z a-z 0-9 . _ -
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// From when on it is no good any more: 30d, 12h, or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
}

/// A scope, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given(Scope);

impl ValueEnum for Given {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: &[Given] = &[
            Given(Scope::Read),
            Given(Scope::Create),
            Given(Scope::Pay),
            Given(Scope::Admin),
            Given(Scope::Metrics),
        ];
        ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.as_str()).help(self.0.what()))
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    scopes: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    if context.out.format == Format::Name {
        let message = "-o name would not print the token itself, and nobody would have it";
        return Err(Failure::usage(message));
    }
    let now = context.now();
    let expires_at = match &arguments.expires {
        Some(text) => {
            Some(due(text, now).map_err(|error| Failure::usage(format!("--expires: {error}")))?)
        }
        None => None,
    };
    let body = Body {
        name: arguments.name.as_deref(),
        scopes: arguments.scopes.iter().map(|it| it.0.as_str()).collect(),
        expires_at: expires_at.map(|at| format!("{at:.3}")),
    };
    let body = serde_json::to_vec(&body)
        .map_err(|error| Failure::unexpected(format!("the request cannot be written: {error}")))?;
    // Sent once: an answer that got lost cannot be had again, since payd does not keep the token.
    let request = Request::post_once("/admin/tokens", body);
    let answer = succeeded(context.client.send(&request).await?)?;
    let made: NewToken<'static> = read(&answer.body, "token")?;
    let name = clean(&made.known.name);
    match context.out.format {
        Format::Json => context.out.raw(&answer.body)?,
        Format::Jsonl => context.out.compact(&answer.body)?,
        Format::Name | Format::Table => {
            context
                .out
                .line(&clean(made.token.as_deref().unwrap_or_default()))?;
            context.out.note(&format!(
                "token {name} ({}), {}; it is not shown again. `payctl token revoke {name}` ends it",
                made.known.scopes.join(", "),
                super::state(&made.known, now),
            ));
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_can_be_typed() {
        let typed: Vec<_> = Given::value_variants().iter().map(|it| it.0).collect();
        assert_eq!(typed, Scope::ALL);
    }
}
