//! `payctl token`: the commands about tokens, and how a token is shown. What makes it one is printed
//! once, by `create`, and is never part of a message.

mod create;
mod list;
mod revoke;

use clap::Subcommand;
use jiff::Timestamp;

use crate::api::Token;
use crate::cli::context::Context;
use crate::cli::failure::Outcome;
use crate::cli::table::{Cell, Column};
use crate::cli::text::relative;

/// Make, list and revoke the tokens that others show over TCP
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Arguments),
    List(list::Arguments),
    Revoke(revoke::Arguments),
}

/// Runs the one that was typed.
pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Outcome {
    match arguments.command {
        Command::Create(arguments) => create::run(arguments, context).await,
        Command::List(arguments) => list::run(arguments, context).await,
        Command::Revoke(arguments) => revoke::run(arguments, context).await,
    }
}

const COLUMNS: &[Column] = &[
    Column::new("NAME"),
    Column::new("ID").leaves(1),
    Column::new("SCOPES"),
    Column::new("STATE"),
    Column::new("CREATED").leaves(2),
    Column::new("BY").leaves(3),
];

fn row(token: &Token<'_>, now: Timestamp) -> Vec<Cell> {
    vec![
        Cell::new(&token.name),
        Cell::new(&token.id),
        Cell::new(&token.scopes.join(",")),
        Cell::new(&state(token, now)),
        Cell::new(&relative(now, &token.created_at)),
        Cell::new(&token.created_by),
    ]
}

/// Whether it is good, and until when.
fn state(token: &Token<'_>, now: Timestamp) -> String {
    if let (Some(at), Some(by)) = (&token.revoked_at, &token.revoked_by) {
        return format!("revoked {} by {by}", relative(now, at));
    }
    let Some(at) = &token.expires_at else {
        return "good".to_owned();
    };
    match at.parse::<Timestamp>() {
        Ok(time) if time <= now => format!("expired {}", relative(now, at)),
        _ => format!("good, expires {}", relative(now, at)),
    }
}
