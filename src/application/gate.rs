//! The gate in front of the gateway: shut while the gateway does not let payd in, or does not
//! answer, so that payments wait as they are instead of being sent into the void.
//!
//! Shut, it holds back sends only. Lookups go on at their own pace, and any answer to one opens it;
//! besides, a probe asks at growing intervals. It is about the gateway and never about a payment: it
//! lives in memory, and a payment that waits keeps its key and its attempt number.

use std::time::Duration;

use crate::domain::{Command, Finding, Outcome, Timestamp};

use super::ports::Probe;
use super::request::Action;

/// The gate shuts at so many strikes in a row. A send of which no byte left is two, one without an
/// answer is one: more of those may be about single payments.
const STRIKES_MAX: u32 = 10;
const STRIKES_NOT_SENT: u32 = 2;
const STRIKES_NO_ANSWER: u32 = 1;

/// Probes while nothing answers: the first after, and the longest interval.
const UNREACHABLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Probes while payd is not let in; that takes a person to mend.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Why the gate is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shut {
    /// The gateway does not let payd in: 401, 403.
    Refused,
    /// The gateway does not answer.
    Unreachable,
}

impl Shut {
    /// As status and metrics say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }

    const fn probes(self) -> (Duration, Duration) {
        match self {
            Self::Refused => REFUSED,
            Self::Unreachable => UNREACHABLE,
        }
    }
}

/// A shut gate, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// Why.
    pub why: Shut,
    /// What the gateway said, or what happened instead.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// What the gateway's behaviour says about the gateway.
#[derive(Clone, Copy)]
enum Word<'a> {
    Answered,
    Refused(&'a str),
    NoAnswer(&'a str, u32),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gate {
    shut: Option<(Closure, Timestamp)>,
    strikes: u32,
    /// Probes and closures since a send was last answered: a gateway that answers probes and refuses
    /// every payment is not let off with the shortest interval each time.
    tries: u32,
}

impl Gate {
    /// Whether payments may be sent.
    pub(super) const fn is_open(&self) -> bool {
        self.shut.is_none()
    }

    /// Why it is shut.
    pub(super) fn closure(&self) -> Option<&Closure> {
        self.shut.as_ref().map(|(closure, _)| closure)
    }

    /// When the next probe is.
    pub(super) fn probe_at(&self) -> Option<Timestamp> {
        self.shut.as_ref().map(|(_, at)| *at)
    }

    /// A probe begins: sets the time of the one after it, so that a probe that is lost loses nothing.
    pub(super) fn probing(&mut self, now: Timestamp) {
        let tries = self.tries;
        if let Some((closure, at)) = &mut self.shut {
            *at = now.plus(interval(closure.why, tries));
            self.tries = tries.saturating_add(1);
        }
    }

    /// Hears what an action says about the gateway. Says whether the gate has moved.
    pub(super) fn hear(&mut self, action: &Action, now: Timestamp) -> bool {
        match action {
            // An operator says that it is mended.
            Action::Pause(false) => {
                self.tries = 0;
                self.open()
            }
            Action::Probed(Probe::Usable) => self.open(),
            Action::Probed(Probe::Refused { reason }) => self.mark(Word::Refused(reason), now),
            Action::Probed(Probe::Unreachable { reason }) => {
                self.mark(Word::NoAnswer(reason, STRIKES_NOT_SENT), now)
            }
            Action::OnPayment(_, _, Command::Settle { outcome, .. }) => {
                let word = match outcome {
                    Outcome::Approved { .. }
                    | Outcome::Declined { .. }
                    | Outcome::Accepted { .. }
                    | Outcome::KeyReused { .. }
                    | Outcome::NotExecuted { .. } => {
                        self.tries = 0;
                        Word::Answered
                    }
                    Outcome::Refused { reason } => Word::Refused(reason),
                    Outcome::NotSent { reason } => Word::NoAnswer(reason, STRIKES_NOT_SENT),
                    Outcome::Unknown { reason } => Word::NoAnswer(reason, STRIKES_NO_ANSWER),
                };
                self.mark(word, now)
            }
            Action::OnPayment(_, _, Command::Found { finding, .. }) => match finding {
                Finding::Refused { reason } => self.mark(Word::Refused(reason), now),
                // A lookup that fails is no strike: its payment is not what waits.
                Finding::Inconclusive { .. } => false,
                Finding::Approved { .. }
                | Finding::Declined { .. }
                | Finding::Pending { .. }
                | Finding::NotFound
                | Finding::Mismatch { .. } => self.mark(Word::Answered, now),
            },
            _ => false,
        }
    }

    fn mark(&mut self, word: Word<'_>, now: Timestamp) -> bool {
        match word {
            Word::Answered => self.open(),
            Word::Refused(reason) => self.close(Shut::Refused, reason, now),
            Word::NoAnswer(reason, strikes) => {
                self.strikes = self.strikes.saturating_add(strikes);
                self.strikes >= STRIKES_MAX && self.close(Shut::Unreachable, reason, now)
            }
        }
    }

    fn open(&mut self) -> bool {
        self.strikes = 0;
        self.shut.take().is_some()
    }

    fn close(&mut self, why: Shut, reason: &str, now: Timestamp) -> bool {
        let standing = self.closure().map(|closure| closure.why);
        // Not being let in is the graver word: it stays until something is answered.
        if standing == Some(why) || standing == Some(Shut::Refused) {
            return false;
        }
        let closure = Closure {
            why,
            reason: reason.to_owned(),
            since: now,
        };
        self.shut = Some((closure, now.plus(interval(why, self.tries))));
        self.tries = self.tries.saturating_add(1);
        true
    }
}

/// Doubles with each try, up to the longest.
fn interval(why: Shut, tries: u32) -> Duration {
    let (first, longest) = why.probes();
    let factor = 1_u32.checked_shl(tries).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Failure, FailureKind, PaymentId};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn sent(outcome: Outcome) -> Action {
        let command = Command::Settle {
            payment: PaymentId::from_bytes([7; 16]),
            epoch: 1,
            outcome,
        };
        Action::OnPayment(PaymentId::from_bytes([7; 16]), None, command)
    }

    fn reason() -> String {
        "no".to_owned()
    }

    fn refused() -> Action {
        sent(Outcome::Refused { reason: reason() })
    }

    fn not_sent() -> Action {
        sent(Outcome::NotSent { reason: reason() })
    }

    fn unknown() -> Action {
        sent(Outcome::Unknown { reason: reason() })
    }

    fn answered() -> Action {
        sent(Outcome::Declined {
            failure: Failure {
                kind: FailureKind::Declined,
                code: "do_not_honor".to_owned(),
                message: None,
                retryable: false,
            },
            retry_after: None,
        })
    }

    #[test]
    fn one_refusal_shuts_it_and_a_probe_an_answer_or_an_operator_opens_it() {
        let openers = [
            Action::Probed(Probe::Usable),
            answered(),
            Action::Pause(false),
        ];
        for opener in openers {
            let mut gate = Gate::default();
            assert!(gate.hear(&refused(), at(0)));
            assert!(!gate.is_open());
            assert_eq!(gate.closure().map(|it| it.why), Some(Shut::Refused));
            assert!(
                !gate.hear(&refused(), at(1)),
                "those that were on their way"
            );
            assert!(gate.hear(&opener, at(2)), "{opener:?}");
            assert!(gate.is_open());
        }
    }

    #[test]
    fn only_failures_in_a_row_shut_it() {
        let mut gate = Gate::default();
        for _ in 0..STRIKES_MAX - 1 {
            assert!(!gate.hear(&unknown(), at(0)));
        }
        assert!(!gate.hear(&answered(), at(0)));
        for _ in 0..STRIKES_MAX / STRIKES_NOT_SENT - 1 {
            assert!(!gate.hear(&not_sent(), at(0)));
        }
        assert!(gate.is_open());
        assert!(gate.hear(&not_sent(), at(0)));
        assert_eq!(gate.closure().map(|it| it.why), Some(Shut::Unreachable));
        // What is graver takes its place.
        assert!(gate.hear(&refused(), at(0)));
        assert_eq!(gate.closure().map(|it| it.why), Some(Shut::Refused));
        assert!(!gate.hear(&not_sent(), at(0)));
    }

    #[test]
    fn probes_slow_down_also_over_openings_that_led_to_nothing() {
        let mut gate = Gate::default();
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..3 {
            gate.hear(&refused(), now);
            for answer in [Probe::Refused { reason: reason() }, Probe::Usable] {
                let probe_at = gate.probe_at().unwrap();
                waits.push(probe_at.since(now).as_secs());
                now = probe_at;
                gate.probing(now);
                gate.hear(&Action::Probed(answer), now);
            }
        }
        assert_eq!(waits, [5, 10, 40, 60, 60, 60]);
        gate.hear(&answered(), now);
        gate.hear(&refused(), now);
        assert_eq!(gate.probe_at().unwrap().since(now).as_secs(), 5);
    }
}
