//! `payctl completion`, and the invoice ids that a shell completes.
//!
//! A shell that completes must never wait and never see an error: whatever goes wrong here gives
//! no candidates.

use std::ffi::OsStr;
use std::time::Duration;

use clap::ValueEnum;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::api::InvoicePage;
use crate::cli::context::client_for;
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Output;
use crate::cli::text::money;
use crate::client::Request;

/// How long a shell waits for ids, at most: what people still take for at once.
const COMPLETION_MAX: Duration = Duration::from_millis(200);
/// The route with the ids to offer: the latest.
const RECENT: &str = "/invoices?limit=1000";
/// The environment variable by which a shell asks.
const VARIABLE: &str = "COMPLETE";

/// Print the completion script of a shell
///
/// bash: payctl completion bash > ~/.local/share/bash-completion/completions/payctl
///
/// zsh:  payctl completion zsh > DIR/_payctl, where DIR is in $fpath
///
/// fish: payctl completion fish > ~/.config/fish/completions/payctl.fish
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, out: &mut Output) -> Outcome {
    let shell = match arguments.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let script = script(shell)
        .ok_or_else(|| Failure::unexpected(format!("no completion script for {shell}")))?;
    out.raw(&script)?;
    Ok(Exit::Done)
}

/// What the library's scripts lack, in the language of each: bash breaks ids at their colons, and zsh asks once
/// in vain.
const BASH: &str = include_str!("completion.bash");
const ZSH: &str = include_str!("completion.zsh");

/// payctl's completion script for `bash`, `zsh` or `fish`; `None` for another shell. It asks payctl itself for
/// candidates.
#[must_use]
pub fn script(shell: &str) -> Option<Vec<u8>> {
    let bin = "payctl";
    let completer: &dyn EnvCompleter = match shell {
        "bash" => &Bash,
        "zsh" => &Zsh,
        "fish" => &Fish,
        _ => return None,
    };
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, bin, bin, bin, &mut script)
        .ok()?;
    let script = String::from_utf8(script).ok()?;
    let script = match shell {
        // Asked by way of ours.
        "bash" => {
            let ours = script.replace("-F _clap_complete_payctl", "-F _payctl");
            // Where the library names it otherwise, the tests say so.
            format!("{BASH}{ours}")
        }
        "zsh" => format!("{script}{ZSH}"),
        _ => script,
    };
    Some(script.into_bytes())
}

/// The ids of the latest invoices that begin with what was typed.
pub(crate) fn invoices(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else {
        return Vec::new();
    };
    let Some(page) = recent() else {
        return Vec::new();
    };
    page.invoices
        .iter()
        .filter(|invoice| invoice.id.starts_with(typed))
        .map(|invoice| {
            let help = format!(
                "{} {}",
                invoice.status,
                money(invoice.amount, &invoice.currency)
            );
            CompletionCandidate::new(&*invoice.id).help(Some(help.into()))
        })
        .collect()
}

fn recent() -> Option<InvoicePage<'static>> {
    let mut client = client_for(host().as_deref())?;
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime
        .block_on(async { timeout(COMPLETION_MAX, client.send(&Request::get(RECENT))).await });
    let page = serde_json::from_slice(&answer.ok()?.ok()?.body).ok();
    // A name that is still being looked up must not hold up the shell.
    runtime.shutdown_background();
    page
}

/// `--host` on the line that is being completed, else PAYD_HOST.
fn host() -> Option<String> {
    let words: Vec<String> = std::env::args_os()
        .filter_map(|word| word.into_string().ok())
        .collect();
    for (index, word) in words.iter().enumerate() {
        if word == "--host" {
            return words.get(index + 1).cloned();
        }
        if let Some(host) = word.strip_prefix("--host=") {
            return Some(host.to_owned());
        }
    }
    std::env::var("PAYD_HOST").ok()
}
