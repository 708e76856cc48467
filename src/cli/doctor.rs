//! `payctl doctor`: whether everything is as it should be, from here to the gateway, and what to do where
//! it is not. What payd knows of itself it asks payd; the way to it, it looks at itself.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use anstyle::AnsiColor;
use serde::{Deserialize, Serialize};

use crate::cli::context::{Context, read, succeeded};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::output::Format;
use crate::cli::text::{clean, styled, wrap_prose};
use crate::client::Request;

/// Others than owner and group.
const OTHERS: u32 = 0o007;
/// Columns of the longest verdict.
const VERDICT: usize = 4;
/// Anybody but the owner.
const NOT_OWNER: u32 = 0o077;

/// Check everything from here to the gateway, and say what to do about it
///
/// Looks at the socket and its permissions, the token file, payd's version, settings, disk, clock and
/// database, the gateway, and what waits for an operator. Exits with 1 where something does not work, and
/// with 3 where payd cannot be reached.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  payctl doctor\n  payctl doctor -o json | jq '.checks[] | select(.verdict != \"ok\")'"
)]
pub(crate) struct Arguments {}

#[derive(Debug, Serialize, Deserialize)]
struct Check {
    name: String,
    verdict: String,
    detail: String,
    advice: Option<String>,
}

#[derive(Deserialize)]
struct Examination {
    version: String,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Report<'a> {
    checks: &'a [Check],
}

/// Runs it.
pub(crate) async fn run(_: Arguments, context: &mut Context) -> Outcome {
    let mut checks = Vec::new();
    if let Some(path) = context.client.socket() {
        checks.push(socket(&path));
    }
    if let Some(path) = &context.token_file {
        checks.push(token(path));
    }
    let mut exit = Exit::Done;
    match examination(context).await {
        Ok(examination) => {
            checks.push(version(&examination.version));
            checks.extend(examination.checks);
        }
        Err(failure) => {
            exit = failure.exit();
            let (line, more) = failure.explain();
            let more = more.join("; ");
            let advice = more.strip_prefix("tip: ").unwrap_or(&more);
            checks.push(bad("payd", "fail", line, advice));
        }
    }
    tell(&checks, context)?;
    if exit == Exit::Done && checks.iter().any(|check| check.verdict == "fail") {
        return Ok(Exit::Unexpected);
    }
    Ok(exit)
}

async fn examination(context: &mut Context) -> Outcome<Examination> {
    let answer = context.client.send(&Request::get("/admin/doctor")).await?;
    let answer = succeeded(answer)?;
    read(&answer.body, "examination")
}

fn tell(checks: &[Check], context: &mut Context) -> Outcome<()> {
    let out = &mut context.out;
    if out.format.is_json() {
        let report = serde_json::to_vec(&Report { checks })
            .map_err(|error| Failure::unreadable("report", &error))?;
        return out.raw(&report);
    }
    let width = checks.iter().map(|check| check.name.len()).max();
    let width = width.unwrap_or(0);
    let columns = out.width();
    for check in checks {
        if out.format == Format::Name {
            if check.verdict != "ok" {
                out.line(&clean(&check.name))?;
            }
            continue;
        }
        let colour = match check.verdict.as_str() {
            "ok" => AnsiColor::Green,
            "warn" => AnsiColor::Yellow,
            _ => AnsiColor::Red,
        };
        let verdict = styled(
            &format!("{:VERDICT$}", check.verdict),
            colour.on_default().bold(),
        );
        let indent = " ".repeat(VERDICT + 2 + width + 2);
        let said = |text: &str| wrap_prose(&format!("{indent}{}", clean(text)), columns, &indent);
        for (number, line) in said(&check.detail).iter().enumerate() {
            let text = line.get(indent.len()..).unwrap_or_default();
            match number {
                0 => out.line(&format!("{verdict}  {:width$}  {text}", clean(&check.name)))?,
                _ => out.line(line)?,
            }
        }
        if let Some(advice) = &check.advice {
            out.lines(&said(advice))?;
        }
    }
    Ok(())
}

fn ok(name: &str, detail: impl Into<String>) -> Check {
    Check {
        name: name.to_owned(),
        verdict: "ok".to_owned(),
        detail: detail.into(),
        advice: None,
    }
}

fn bad(name: &str, verdict: &str, detail: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        name: name.to_owned(),
        verdict: verdict.to_owned(),
        detail: detail.into(),
        advice: Some(advice.into()),
    }
}

fn socket(path: &Path) -> Check {
    let shown = path.display();
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return bad(
                "socket",
                "fail",
                format!("you may not look at {shown}"),
                "join the group of its directory, or use http:// and --token-file",
            );
        }
        Err(error) => {
            return bad(
                "socket",
                "fail",
                format!("{shown}: {error}"),
                "start payd, or say where it is with --host or PAYD_HOST",
            );
        }
    };
    if !found.file_type().is_socket() {
        return bad(
            "socket",
            "fail",
            format!("{shown} is no socket"),
            "look at --host and PAYD_HOST, and move the file away",
        );
    }
    let mode = found.permissions().mode() & 0o777;
    let who = format!(
        "{shown}, mode {mode:o}, uid {}, gid {}",
        found.uid(),
        found.gid()
    );
    let directory = path.parent().and_then(|parent| parent.metadata().ok());
    let reachable = directory.is_none_or(|it| it.permissions().mode() & OTHERS != 0);
    if mode & OTHERS != 0 && reachable {
        return bad(
            "socket",
            "fail",
            format!("{who}: every user of this machine may use it"),
            format!("chmod o= {shown}"),
        );
    }
    ok("socket", who)
}

fn token(path: &Path) -> Check {
    match path.metadata() {
        Ok(found) if found.permissions().mode() & NOT_OWNER != 0 => bad(
            "token",
            "warn",
            format!("{} is not only yours to read", path.display()),
            format!("chmod 600 {}", path.display()),
        ),
        Ok(_) => ok("token", path.display().to_string()),
        Err(error) => bad(
            "token",
            "fail",
            format!("{}: {error}", path.display()),
            "look at --token-file and PAYD_TOKEN_FILE",
        ),
    }
}

fn version(payd: &str) -> Check {
    let payctl = env!("CARGO_PKG_VERSION");
    if payd == payctl {
        return ok("version", format!("payd and payctl {payd}"));
    }
    bad(
        "version",
        "warn",
        format!("payd is {payd}, and payctl {payctl}"),
        "install both of one version, and restart payd",
    )
}
