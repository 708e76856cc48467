//! The model of a gateway, with books of its own, and all the bad manners.
//!
//! Its books are the truth about money. It keeps its contract (section 7): a key is executed once,
//! the same key with the same body gets the same result, and a "not found" that comes later than
//! its lag after the last send of a key is final. All else may happen to a request or an answer.
//! In lying seeds it breaks even that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use payd::application::ports::{BoxFuture, ChargeRequest, Gateway, Probe};
use payd::domain::{
    Command, Failure, FailureKind, Finding, InvoiceStatus, NewInvoice, Outcome, PaymentId,
    PaymentState,
};
use tokio::time::sleep;

use super::canary::Canary;
use super::check::{Said, What};
use super::random::Stream;
use super::world::{Place, State, World};

/// The gateway, and one that may take its place in the settings. They keep the same books: that a key
/// is never known to both is checked.
pub(crate) const NAME: &str = "model";
pub(crate) const OTHER: &str = "other";

/// The gateway's books.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// What it knows, by key.
    pub(crate) charges: BTreeMap<String, Charge>,
    /// Requests that are on their way.
    pub(crate) in_flight: Vec<Arrival>,
    /// The first byte of every send, by key: the body, and when the last of them was.
    pub(crate) sends: BTreeMap<String, Sends>,
    /// It is not there until then.
    outage_until_ms: i64,
    /// It does not let payd in until then.
    refuses_until_ms: i64,
}

/// What a request says, but for what is not in its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) invoice: Arc<NewInvoice>,
    pub(crate) payment: PaymentId,
    pub(crate) attempt: u32,
    pub(crate) method: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Sends {
    pub(crate) body: Body,
    /// The only gateway that may ever see the key.
    pub(crate) gateway: &'static str,
    pub(crate) last_ms: i64,
}

/// A key that has arrived.
#[derive(Debug, Clone)]
pub(crate) struct Charge {
    body: Body,
    pub(crate) verdict: Verdict,
    /// How often money was moved.
    pub(crate) executed: u32,
    /// Lookups do not see it before.
    visible_ms: i64,
    /// A lie: it says that it declined.
    denied: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Approved,
    Declined { retryable: bool },
    Pending { until_ms: i64, then_approved: bool },
}

/// A request that will arrive.
#[derive(Debug)]
pub(crate) struct Arrival {
    at_ms: i64,
    key: String,
    body: Body,
    visible_ms: i64,
}

impl Ledger {
    /// What is true of a key and will stay so, as far as that can be known.
    pub(crate) fn truth(&self, key: &str) -> Option<bool> {
        if self.in_flight.iter().any(|arrival| arrival.key == key) {
            return None;
        }
        match self.charges.get(key).map(|charge| charge.verdict) {
            None | Some(Verdict::Declined { .. }) => Some(false),
            Some(Verdict::Approved) => Some(true),
            Some(Verdict::Pending { .. }) => None,
        }
    }
}

/// Lets everything happen at the gateway that has happened by now.
pub(crate) fn catch_up(state: &mut State) {
    let now = state.now_ms();
    until(state, now);
}

/// Lets everything happen that is on its way, whenever that is.
pub(crate) fn finish(state: &mut State) {
    until(state, i64::MAX);
}

fn until(state: &mut State, now: i64) {
    while let Some(next) = state
        .ledger
        .in_flight
        .iter()
        .enumerate()
        .filter(|(_, it)| it.at_ms <= now)
        .min_by_key(|(place, it)| (it.at_ms, *place))
        .map(|(place, _)| place)
    {
        let arrival = state.ledger.in_flight.remove(next);
        arrive(state, arrival);
    }
    let decided: Vec<(String, bool)> = state
        .ledger
        .charges
        .iter()
        .filter_map(|(key, charge)| match charge.verdict {
            Verdict::Pending {
                until_ms,
                then_approved,
            } if until_ms <= now => Some((key.clone(), then_approved)),
            _ => None,
        })
        .collect();
    for (key, approved) in decided {
        decide(state, &key, approved);
    }
}

fn decide(state: &mut State, key: &str, approved: bool) {
    if let Some(charge) = state.ledger.charges.get_mut(key) {
        charge.verdict = if approved {
            Verdict::Approved
        } else {
            Verdict::Declined { retryable: false }
        };
    }
    state.tell(|| format!("  gateway decides {key}: approved={approved}"));
    if approved {
        execute(state, key);
    }
}

fn arrive(state: &mut State, arrival: Arrival) {
    let Arrival {
        key,
        body,
        visible_ms,
        ..
    } = arrival;
    if let Some(standing) = state.ledger.charges.get(&key) {
        let (same, approved) = (standing.body == body, standing.verdict == Verdict::Approved);
        state.must(same, || {
            format!("invariant 6: {key} came with another body")
        });
        // The same key again is the same charge.
        if state.canary == Some(Canary::GatewayForgetsKeys) && approved {
            execute(state, &key);
        }
        return;
    }
    let now = state.now_ms();
    let (declines, pending) = if state.storm {
        (state.weather.declines, state.weather.pending)
    } else {
        (1_000, 0)
    };
    let lying = (state.weather.lying || state.canary == Some(Canary::GatewayLies)) && state.storm;
    let draw = &mut state.chance.gateway;
    let approves = !draw.often(declines);
    let verdict = if draw.often(pending) {
        Verdict::Pending {
            until_ms: now + signed(draw.spread_ms(7_200_000)),
            then_approved: approves,
        }
    } else if approves {
        Verdict::Approved
    } else {
        Verdict::Declined {
            retryable: draw.often(7_000),
        }
    };
    let denied = lying && verdict == Verdict::Approved && draw.often(2_000);
    let hidden = lying && draw.often(1_000);
    let visible_ms = if hidden { i64::MAX } else { visible_ms };
    state.tell(|| {
        format!("  {key} arrives at the gateway: {verdict:?} denied={denied} hidden={hidden}")
    });
    state.ledger.charges.insert(
        key.clone(),
        Charge {
            body,
            verdict,
            executed: 0,
            visible_ms,
            denied,
        },
    );
    if verdict == Verdict::Approved {
        execute(state, &key);
    }
}

/// Money moves.
fn execute(state: &mut State, key: &str) {
    let Some(charge) = state.ledger.charges.get_mut(key) else {
        return;
    };
    charge.executed += 1;
    let body = charge.body.clone();
    if state.weather.lying {
        return;
    }
    let id = &body.invoice.id;
    let of_invoice: u32 = state
        .ledger
        .charges
        .values()
        .filter(|it| it.body.invoice.id == *id)
        .map(|it| it.executed)
        .sum();
    state.must(of_invoice == 1, || {
        format!("invariant 1: {id} is charged {of_invoice} times, now under {key}")
    });
    let Some((row, payment)) = state.disk.by_key(key) else {
        return state.fail(|| format!("invariant 2: {key} is charged, and nobody knows the key"));
    };
    let open = matches!(
        payment.state,
        PaymentState::Sending
            | PaymentState::Unknown
            | PaymentState::Accepted
            | PaymentState::Review
    );
    let exact = row.invoice.content.money == body.invoice.money;
    let (stands, status) = (payment.state, row.invoice.status);
    state.must(exact, || {
        format!("invariant 1: {key} is charged another amount than {id} is for")
    });
    state.must(open && status == InvoiceStatus::Processing, || {
        format!("invariant 2: {key} is charged while its payment is {stands:?} and {id} {status:?}")
    });
}

/// What the books say about a key, to who sent it.
fn outcome_of(charge: &Charge, draw: &mut Stream) -> (Outcome, What) {
    let reference = draw.often(8_000).then(|| "ch_1".to_owned());
    match charge.verdict {
        Verdict::Approved if charge.denied => (
            Outcome::Declined {
                failure: failure(true),
                retry_after: None,
            },
            What::Declined,
        ),
        Verdict::Approved => (Outcome::Approved { reference }, What::Approved),
        Verdict::Declined { retryable } => (
            Outcome::Declined {
                failure: failure(retryable),
                retry_after: retry_after(draw),
            },
            What::Declined,
        ),
        Verdict::Pending { .. } => (
            Outcome::Accepted {
                reference,
                reason: None,
            },
            What::Pending,
        ),
    }
}

fn failure(retryable: bool) -> Failure {
    Failure {
        kind: FailureKind::Declined,
        code: "insufficient_funds".to_owned(),
        message: None,
        retryable,
    }
}

fn retry_after(draw: &mut Stream) -> Option<Duration> {
    draw.often(1_000)
        .then(|| Duration::from_millis(draw.spread_ms(7_200_000)))
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// How a send goes.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// When it arrives, from the first byte. `None`: it never does.
    arrives: Option<u64>,
    /// It arrives once more.
    twice: Option<u64>,
    /// How long the answer takes after that.
    answers: u64,
    word: Word,
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// What the books say.
    Truth,
    /// Nothing, ever.
    Silence,
    /// A reset, a 5xx, something that is no answer.
    Garbage,
    /// No byte of it has left.
    NotSent,
    /// 401: nothing was executed.
    Refused,
    /// 429: nothing was executed.
    NotExecuted,
}

fn manner(state: &mut State) -> Manner {
    let now = state.now_ms();
    let storm = state.storm;
    let weather = &state.weather;
    let lag = weather.lag_ms;
    let draw = &mut state.chance.gateway;
    let quick = draw.spread_ms(200.min(lag / 2));
    let good = Manner {
        arrives: Some(quick),
        twice: None,
        answers: draw.spread_ms(100),
        word: Word::Truth,
    };
    if !storm {
        return good;
    }
    if draw.often(weather.outage) {
        state.ledger.outage_until_ms = now + signed(draw.spread_ms(600_000));
    }
    let lost = Manner {
        arrives: None,
        ..good
    };
    if draw.often(weather.outage / 2) {
        state.ledger.refuses_until_ms = now + signed(draw.spread_ms(600_000));
    }
    if now < state.ledger.refuses_until_ms {
        return Manner {
            word: Word::Refused,
            ..lost
        };
    }
    if now < state.ledger.outage_until_ms {
        let word = draw.pick(&[Word::NotSent, Word::NotSent, Word::Silence, Word::Garbage]);
        return Manner { word, ..lost };
    }
    if !draw.often(weather.gateway_fails) {
        return good;
    }
    // Sooner than the lag, perhaps later than the sender waits.
    // A canary takes its time.
    let lags = if state.canary == Some(Canary::GatewayLags) {
        4
    } else {
        1
    };
    let late = Some(draw.within(0, lags * lag - 1));
    match draw.within(0, 13) {
        0..3 => Manner {
            word: Word::Silence,
            ..good
        },
        3..5 => Manner {
            word: Word::Garbage,
            ..good
        },
        5 => Manner {
            arrives: late,
            ..good
        },
        6 => Manner {
            arrives: late,
            word: Word::Garbage,
            ..good
        },
        7 => Manner {
            twice: late,
            ..good
        },
        8 => Manner {
            answers: draw.spread_ms(20_000),
            ..good
        },
        9 => Manner {
            word: Word::Silence,
            ..lost
        },
        10 => Manner {
            word: Word::Garbage,
            ..lost
        },
        11 => Manner {
            word: Word::NotSent,
            ..lost
        },
        12 => Manner {
            word: Word::NotExecuted,
            ..lost
        },
        _ => Manner {
            word: Word::Refused,
            ..lost
        },
    }
}

/// See the module.
pub(crate) struct ModelGateway {
    pub(crate) world: Arc<World>,
    pub(crate) name: &'static str,
    pub(crate) lag: Duration,
}

impl ModelGateway {
    async fn send(&self, request: &ChargeRequest) -> Outcome {
        let key = request.key.as_str();
        let manner = self.world.with(|state| {
            catch_up(state);
            let manner = manner(state);
            state.counted.sends += 1;
            state.tell(|| format!("  POST {key} send {} {manner:?}", request.send));
            if manner.word != Word::NotSent {
                super::check::first_byte(state, request);
            }
            if let Some(after) = manner.arrives {
                post(state, request, after);
            }
            if let Some(after) = manner.twice {
                post(state, request, after);
            }
            manner
        });
        self.world.step(Place::Sent).await;
        if let Some(after) = manner.arrives {
            sleep(Duration::from_millis(after)).await;
            self.world.with(catch_up);
            self.world.step(Place::Sent).await;
        }
        if manner.word == Word::Silence {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(manner.answers)).await;
        let outcome = self.world.with(|state| {
            catch_up(state);
            let (outcome, what) = answer(state, key, manner.word);
            state.tell(|| format!("  answer to {key} send {}: {outcome:?}", request.send));
            let now = state.now_ms();
            state.witness.heard(
                key,
                Said {
                    what,
                    send: request.send,
                    asked_ms: now,
                },
            );
            let settle = Command::Settle {
                payment: request.payment,
                epoch: request.send,
                outcome: outcome.clone(),
            };
            state.witness.deliverable(request.payment, settle);
            outcome
        });
        self.world.step(Place::Answered).await;
        outcome
    }

    async fn ask(&self, request: &ChargeRequest) -> Finding {
        let key = request.key.as_str();
        let (asked_ms, asked_at) = self.world.with(|state| {
            catch_up(state);
            state.counted.lookups += 1;
            super::check::asked(state, key);
            (state.now_ms(), state.payd_now())
        });
        let (delay, silent) = self.world.with(|state| {
            let draw = &mut state.chance.gateway;
            let silent = state.storm && draw.often(state.weather.gateway_fails / 8);
            (draw.spread_ms(300), silent)
        });
        self.world.step(Place::Looking).await;
        if silent {
            std::future::pending::<()>().await;
        }
        // The books are read now, the answer takes a while: it may be old when it comes.
        let (finding, what) = self.world.with(|state| {
            let found = look(state, key);
            state.tell(|| format!("  GET {key} send {}: {:?}", request.send, found.0));
            found
        });
        sleep(Duration::from_millis(delay)).await;
        self.world.with(|state| {
            state.witness.heard(
                key,
                Said {
                    what,
                    send: request.send,
                    asked_ms,
                },
            );
            let found = Command::Found {
                payment: request.payment,
                epoch: request.send,
                asked_at,
                finding: finding.clone(),
            };
            let life = state.lives;
            state.witness.deliverable_in(life, request.payment, found);
        });
        self.world.step(Place::Answered).await;
        finding
    }
}

/// Puts a request on its way.
fn post(state: &mut State, request: &ChargeRequest, after: u64) {
    let now = state.now_ms();
    let lag = signed(state.weather.lag_ms);
    let at_ms = now + signed(after);
    let left = u64::try_from(now + lag - at_ms).unwrap_or(0);
    let visible_ms = at_ms + signed(state.chance.gateway.spread_ms(left.saturating_sub(1)));
    state.ledger.in_flight.push(Arrival {
        at_ms,
        key: request.key.as_str().to_owned(),
        body: Body::of(request),
        visible_ms,
    });
}

fn answer(state: &mut State, key: &str, word: Word) -> (Outcome, What) {
    let draw = &mut state.chance.gateway;
    match word {
        Word::Truth => match state.ledger.charges.get(key) {
            Some(charge) => outcome_of(charge, draw),
            None => (unknown("no answer"), What::Unknown),
        },
        Word::Silence | Word::Garbage => {
            let reason = draw.pick(&["connection reset", "500", "not JSON", "another amount"]);
            (unknown(reason), What::Unknown)
        }
        Word::NotSent => (
            Outcome::NotSent {
                reason: "connection refused".to_owned(),
            },
            What::NotExecuted,
        ),
        Word::Refused => (
            Outcome::Refused {
                reason: "401".to_owned(),
            },
            What::NotExecuted,
        ),
        Word::NotExecuted => (
            Outcome::NotExecuted {
                reason: "429".to_owned(),
                retry_after: retry_after(draw),
            },
            What::NotExecuted,
        ),
    }
}

fn unknown(reason: &str) -> Outcome {
    Outcome::Unknown {
        reason: reason.to_owned(),
    }
}

fn look(state: &mut State, key: &str) -> (Finding, What) {
    let now = state.now_ms();
    let weather = &state.weather;
    let draw = &mut state.chance.gateway;
    let inconclusive = |draw: &mut Stream| Finding::Inconclusive {
        reason: "503".to_owned(),
        retry_after: retry_after(draw),
    };
    if now < state.ledger.outage_until_ms {
        return (inconclusive(draw), What::Unknown);
    }
    if now < state.ledger.refuses_until_ms {
        let reason = "403".to_owned();
        return (Finding::Refused { reason }, What::Unknown);
    }
    if state.storm && draw.often(weather.gateway_fails / 2) {
        return match draw.within(0, 19) {
            0 => (
                Finding::Mismatch {
                    reason: "another amount".to_owned(),
                },
                What::Mismatch,
            ),
            1..5 => (
                Finding::Refused {
                    reason: "403".to_owned(),
                },
                What::Unknown,
            ),
            _ => (inconclusive(draw), What::Unknown),
        };
    }
    let Some(charge) = state
        .ledger
        .charges
        .get(key)
        .filter(|charge| charge.visible_ms <= now)
    else {
        return (Finding::NotFound, What::NotFound);
    };
    let (outcome, what) = outcome_of(charge, draw);
    let finding = match outcome {
        Outcome::Approved { reference } => Finding::Approved { reference },
        Outcome::Declined {
            failure,
            retry_after,
        } => Finding::Declined {
            failure,
            retry_after,
        },
        Outcome::Accepted { reference, .. } => Finding::Pending { reference },
        _ => inconclusive(draw),
    };
    (finding, what)
}

impl Body {
    pub(crate) fn of(request: &ChargeRequest) -> Self {
        Self {
            invoice: request.invoice.clone(),
            payment: request.payment,
            attempt: request.attempt,
            method: request.method.clone(),
        }
    }
}

impl Gateway for ModelGateway {
    fn name(&self) -> &str {
        self.name
    }

    fn lookup_lag(&self) -> Duration {
        self.lag
    }

    fn charge<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Outcome> {
        Box::pin(self.send(request))
    }

    fn lookup<'a>(&'a self, request: &'a ChargeRequest) -> BoxFuture<'a, Finding> {
        Box::pin(self.ask(request))
    }

    fn probe(&self) -> BoxFuture<'_, Probe> {
        Box::pin(async {
            let (delay, probe) = self.world.with(|state| {
                let now = state.now_ms();
                let fails = state.weather.gateway_fails / 4;
                let wrong = state.storm && state.chance.gateway.often(fails);
                let probe = if now < state.ledger.refuses_until_ms {
                    Some(Probe::Refused {
                        reason: "401".to_owned(),
                    })
                } else if now < state.ledger.outage_until_ms || wrong {
                    let reason = "nobody there".to_owned();
                    let says = state.chance.gateway.often(5_000);
                    says.then_some(Probe::Unreachable { reason })
                } else {
                    Some(Probe::Usable)
                };
                state.tell(|| format!("  probe: {probe:?}"));
                (state.chance.gateway.spread_ms(100), probe)
            });
            sleep(Duration::from_millis(delay)).await;
            match probe {
                Some(probe) => probe,
                None => std::future::pending().await,
            }
        })
    }
}
