//! What a running payd finds about itself and its surroundings, and what to do about each. It looks and
//! changes nothing; the one thing that it does outside is to ask the gateway whether it answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{PaymentState, Timestamp};

use super::app::App;
use super::gate::{Closure, Shut};
use super::ports::{Gateway, Probe, Reader, StoreError, Tally};
use super::upkeep::Measures;

/// Less room than this is about to stop payd.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// A write-ahead log above this is not moved into the database: somebody holds an old snapshot.
const WAL_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// payd's time may be so far from the wall clock before somebody should look.
const CLOCK_APART_MAX: Duration = Duration::from_secs(5);

/// An outcome that is unknown for so long will not be known by waiting.
const UNKNOWN_MAX: Duration = Duration::from_secs(3600);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// payd works, and somebody should look.
    Warn,
    /// Something does not work.
    Fail,
}

impl Verdict {
    /// As the API says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What: `database`, `disk`, …
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it, where it is not ok.
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            detail: detail.into(),
            advice: None,
        }
    }

    fn bad(
        name: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            advice: Some(advice.into()),
        }
    }
}

/// Reads the settings anew; the file that was read, or what is wrong.
type Reread = Box<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What to look at besides the store: passed in, as it touches the world.
pub struct Surroundings {
    /// The gateway.
    pub gateway: Arc<dyn Gateway>,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Reads the settings anew.
    pub reread: Reread,
    /// What the wall clock says.
    pub wall: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl App {
    /// Looks at everything that may keep payd from its work.
    pub async fn examine(&self) -> Vec<Check> {
        let now = self.now();
        let figures = move |reader: &dyn Reader| -> Result<(Tally, Measures), StoreError> {
            Ok((reader.tally(now)?, reader.upkeep().measure()?))
        };
        let mut checks = Vec::new();
        match self.read(figures).await {
            Ok((tally, measures)) => {
                checks.push(database(self.engine().is_writable(), measures));
                checks.push(disk(measures, &self.overview().data_dir));
                checks.push(permissions(measures, &self.overview().data_dir));
                checks.push(payments(&tally, now));
                checks.push(attention(&tally));
            }
            Err(error) => checks.push(Check::bad(
                "database",
                Verdict::Fail,
                error.to_string(),
                "look at payd's log; `payd verify` says what is wrong, and `payd restore` takes a backup",
            )),
        }
        if let Some(around) = self.surroundings() {
            checks.push(clock(now, (around.wall)()));
            checks.push(settings((around.reread)()));
            checks.push(self.gateway(around).await);
        }
        checks.push(self.sending());
        checks
    }

    async fn gateway(&self, around: &Surroundings) -> Check {
        let name = around.gateway.name();
        let probe = tokio::time::timeout(around.timeout, around.gateway.probe()).await;
        match probe {
            Ok(Probe::Usable) => answers(name, self.engine().closure().as_ref()),
            Ok(Probe::Refused { reason }) => Check::bad(
                "gateway",
                Verdict::Fail,
                format!("{name} does not let payd in: {reason}"),
                "see to payd's token there (gateway.http.token_file); sending goes on by itself then",
            ),
            Ok(Probe::Unreachable { reason }) => unreachable(name, &reason),
            Err(_) => unreachable(name, &format!("no answer within {:?}", around.timeout)),
        }
    }

    fn sending(&self) -> Check {
        if self.engine().is_paused() {
            return Check::bad(
                "sending",
                Verdict::Warn,
                "an operator has paused it: payments wait",
                format!("{} goes on", self.resume()),
            );
        }
        match self.engine().closure() {
            None => Check::ok("sending", "payments are sent when they are due"),
            Some(closure) => {
                let why = match closure.why {
                    Shut::Refused => "the gateway did not let payd in",
                    Shut::Unreachable => "the gateway did not answer",
                };
                Check::bad(
                    "sending",
                    Verdict::Fail,
                    format!("held back since {}: {why}", closure.since),
                    format!(
                        "payd asks the gateway again within a minute; {} sends at once",
                        self.resume()
                    ),
                )
            }
        }
    }

    /// The command that lets payments go on.
    fn resume(&self) -> String {
        let socket = self.overview().listeners.iter();
        match socket.filter_map(|url| url.strip_prefix("unix://")).next() {
            Some(path) => format!(
                "`curl -X POST --unix-socket '{}' http://localhost/admin/resume`",
                path.replace('\'', r"'\''")
            ),
            None => "POST /admin/resume".to_owned(),
        }
    }
}

/// A gateway that answers a question. Where sending is held back all the same, the two are not told as if they
/// knew nothing of each other.
fn answers(name: &str, closure: Option<&Closure>) -> Check {
    let Some(closure) = closure else {
        return Check::ok("gateway", format!("{name} answers"));
    };
    let reason = &closure.reason;
    match closure.why {
        Shut::Refused => Check::bad(
            "gateway",
            Verdict::Fail,
            format!("{name} answers a question now, but did not let payd in before: {reason}"),
            "see to what payd's token may do there (gateway.http.token_file): asking may be allowed, and charging not",
        ),
        Shut::Unreachable => Check::bad(
            "gateway",
            Verdict::Warn,
            format!("{name} answers a question now, but gave payments no answer before: {reason}"),
            "where it goes on so, see to the gateway: it may answer questions, and no charges",
        ),
    }
}

fn unreachable(name: &str, reason: &str) -> Check {
    Check::bad(
        "gateway",
        Verdict::Fail,
        format!("{name} does not answer: {reason}"),
        "look at gateway.http.url, the network and the gateway; payments wait under their keys meanwhile",
    )
}

fn database(writable: bool, measures: Measures) -> Check {
    let detail = format!(
        "{} and a log of {}",
        mib(measures.database_bytes),
        mib(measures.wal_bytes)
    );
    if !writable {
        return Check::bad(
            "database",
            Verdict::Fail,
            format!("{detail}; it cannot be written"),
            "make room, or make the file system writable: payd goes on by itself",
        );
    }
    if measures.wal_bytes > WAL_BYTES_MAX {
        return Check::bad(
            "database",
            Verdict::Warn,
            detail,
            "the log grows while something reads an old state: a backup, a check, a sqlite3 shell. End it",
        );
    }
    Check::ok("database", detail)
}

fn disk(measures: Measures, data_dir: &str) -> Check {
    let free = mib(measures.free_bytes);
    let needed = measures
        .database_bytes
        .saturating_add(measures.wal_bytes)
        .saturating_add(FREE_BYTES_MIN);
    let detail = format!("{free} free at {}", Path::new(data_dir).display());
    if measures.free_bytes < FREE_BYTES_MIN {
        let advice = "make room now: without, nothing can be written and requests are refused";
        return Check::bad("disk", Verdict::Fail, detail, advice);
    }
    if measures.free_bytes < needed {
        let advice =
            "there is no room for a backup through payd, nor for the copy before an upgrade";
        return Check::bad("disk", Verdict::Warn, detail, advice);
    }
    Check::ok("disk", detail)
}

fn permissions(measures: Measures, data_dir: &str) -> Check {
    if measures.open_to_others {
        return Check::bad(
            "permissions",
            Verdict::Fail,
            format!("every user of this machine may read {data_dir}"),
            format!("chmod -R o= {data_dir}"),
        );
    }
    Check::ok("permissions", "the data is not everybody's to read")
}

fn payments(tally: &Tally, now: Timestamp) -> Check {
    let unknown = tally
        .open_payments
        .iter()
        .find(|(state, _)| *state == PaymentState::Unknown)
        .map_or(0, |(_, count)| *count);
    let old = tally
        .unknown_since
        .is_some_and(|since| now.since(since) > UNKNOWN_MAX);
    let detail = match tally.unknown_since {
        Some(since) => format!("{unknown} unknown, the oldest since {since}"),
        None => "no outcome is unknown".to_owned(),
    };
    if old {
        let advice = "ask the gateway's operator; `payctl explain INVOICE` says what is known, `payctl payment resolve` ends it";
        return Check::bad("payments", Verdict::Warn, detail, advice);
    }
    Check::ok("payments", detail)
}

fn attention(tally: &Tally) -> Check {
    match tally.needs_attention {
        0 => Check::ok("attention", "no invoice needs an operator"),
        count => Check::bad(
            "attention",
            Verdict::Warn,
            format!("{count} invoices need an operator"),
            "`payctl events tail --after beginning --type InvoiceAttentionRequired --type PaymentReviewRequired --type PaymentContradicted` names them, `payctl explain INVOICE` says why",
        ),
    }
}

fn clock(now: Timestamp, wall: Timestamp) -> Check {
    let (ahead, behind) = (now.since(wall), wall.since(now));
    let apart = ahead.max(behind);
    if apart > CLOCK_APART_MAX {
        let side = if ahead > behind { "ahead of" } else { "behind" };
        return Check::bad(
            "clock",
            Verdict::Warn,
            format!(
                "payd's time is {} s {side} the wall clock, which has jumped",
                apart.as_secs()
            ),
            "see to the machine's clock (NTP); payments are safe, and a restart of payd takes the clock over where that is not backwards",
        );
    }
    Check::ok("clock", "payd's time is the wall clock's")
}

fn settings(read: Result<String, String>) -> Check {
    match read {
        Ok(file) => Check::ok("config", file),
        Err(wrong) => Check::bad(
            "config",
            Verdict::Fail,
            wrong,
            "correct it: payd would not start again. `payd config check` says the same",
        ),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1024 * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn what_is_not_as_it_should_be_says_what_to_do() {
        let sound = Measures {
            database_bytes: MIB,
            wal_bytes: 4 * MIB,
            free_bytes: 4096 * MIB,
            open_to_others: false,
        };
        let at = Timestamp::from_millis;
        let (ok, warn, fail) = (Verdict::Ok, Verdict::Warn, Verdict::Fail);
        let long = Tally {
            unknown_since: Some(at(0)),
            needs_attention: 2,
            ..Tally::default()
        };
        let shut = |why| Closure {
            why,
            reason: "401".to_owned(),
            since: at(0),
        };
        let rows = [
            (database(true, sound), ok),
            (database(false, sound), fail),
            (
                database(
                    true,
                    Measures {
                        wal_bytes: 300 * MIB,
                        ..sound
                    },
                ),
                warn,
            ),
            (disk(sound, "/d"), ok),
            (
                disk(
                    Measures {
                        free_bytes: MIB,
                        ..sound
                    },
                    "/d",
                ),
                fail,
            ),
            (
                disk(
                    Measures {
                        free_bytes: 66 * MIB,
                        ..sound
                    },
                    "/d",
                ),
                warn,
            ),
            (permissions(sound, "/d"), ok),
            (
                permissions(
                    Measures {
                        open_to_others: true,
                        ..sound
                    },
                    "/d",
                ),
                fail,
            ),
            (payments(&Tally::default(), at(0)), ok),
            (payments(&long, at(3_599_000)), ok),
            (payments(&long, at(3_601_000)), warn),
            (attention(&Tally::default()), ok),
            (attention(&long), warn),
            (clock(at(4_000), at(0)), ok),
            (clock(at(6_000), at(0)), warn),
            (clock(at(0), at(6_000)), warn),
            (settings(Ok("f".to_owned())), ok),
            (answers("http", None), ok),
            (answers("http", Some(&shut(Shut::Refused))), fail),
            (answers("http", Some(&shut(Shut::Unreachable))), warn),
            (settings(Err("line 3".to_owned())), fail),
        ];
        for (check, verdict) in rows {
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert_eq!(check.advice.is_some(), verdict != ok, "{check:?}");
        }
    }
}
