//! The clients: each wants some things, one after the other, and asks until it has an answer, under
//! the same key. They outlive payd's crashes, repeat, race for the same invoices, and hold payd to
//! what it has acknowledged.

use std::sync::Arc;
use std::time::Duration;

use payd::application::ports::{ChargeRequest, Gateway};
use payd::application::request::{
    Action, Answer, Caller, Idempotency, Kept, Outcome, Reply, StoredAnswer, SubmitError,
};
use payd::application::{Bus, EngineHandle};
use payd::domain::{
    Amount, Command, Currency, InvoiceId, InvoiceStatus, Money, NewInvoice, PaymentState, Refusal,
    ResolveAs,
};
use tokio::time::sleep;

use super::canary::Canary;
use super::check::{self, AGAIN};
use super::gateway;
use super::random::Stream;
use super::weather::Weather;
use super::world::{Place, State, World};

/// How often a client asks before it gives a wish up.
const TRIES_MAX: u32 = 8;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The content differs with the variant.
    Create {
        invoice: u64,
        variant: u64,
    },
    Pay {
        invoice: u64,
        method: Option<u64>,
        twice: bool,
    },
    Cancel {
        invoice: u64,
    },
    /// The same key as the wish before, for something else.
    ReuseKey {
        invoice: u64,
    },
    /// An operator says how a payment ended that waits for it.
    Resolve,
    Pause(bool),
    /// An answer of the gateway comes by another way, and then again.
    Deliver,
    /// Old answers may go.
    Expire,
    /// Reads the log from where it was.
    Read,
}

/// A client. It is what it remembers; its task ends with each life of payd.
#[derive(Debug)]
pub(crate) struct Client {
    wishes: Vec<(Wish, bool)>,
    at: usize,
    tries: u32,
    /// The current wish was acknowledged so, and is asked for once more.
    acknowledged: bool,
}

impl Client {
    pub(crate) fn new(weather: &Weather, draw: &mut Stream) -> Self {
        let mut wishes = Vec::new();
        // Everybody makes what they want paid; most agree on what that is.
        for invoice in 1..=weather.invoices {
            if draw.often(6_000) {
                let variant = u64::from(draw.often(500));
                wishes.push((Wish::Create { invoice, variant }, draw.often(5_000)));
            }
        }
        for _ in 0..weather.wishes {
            let invoice = draw.within(1, weather.invoices);
            let wish = match draw.within(0, 99) {
                0..3 => Wish::Create {
                    invoice,
                    variant: draw.within(0, 1),
                },
                3..60 => Wish::Pay {
                    invoice,
                    method: draw.often(3_000).then(|| draw.within(0, 1)),
                    twice: draw.often(1_500),
                },
                60..67 => Wish::Cancel { invoice },
                67..71 => Wish::ReuseKey { invoice },
                71..80 => Wish::Resolve,
                80..84 => {
                    wishes.push((Wish::Pause(true), false));
                    Wish::Pause(false)
                }
                84..95 => Wish::Deliver,
                95..97 => Wish::Expire,
                _ => Wish::Read,
            };
            wishes.push((wish, draw.often(6_000)));
        }
        Self {
            wishes,
            at: 0,
            tries: 0,
            acknowledged: false,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.wishes.len()
    }

    fn done(&mut self) {
        self.at += 1;
        self.tries = 0;
        self.acknowledged = false;
    }
}

/// One client, for one life of payd.
pub(crate) struct Task {
    pub(crate) world: Arc<World>,
    pub(crate) engine: EngineHandle,
    pub(crate) bus: Bus,
    pub(crate) gateway: Arc<dyn Gateway>,
    pub(crate) me: usize,
}

impl Task {
    pub(crate) async fn run(self) {
        loop {
            let next = self.world.with(|state| {
                let gap = if state.storm {
                    state.weather.gap_ms
                } else {
                    1_000
                };
                let pause = state.chance.clients.spread_ms(gap);
                let client = &state.clients[self.me];
                client
                    .wishes
                    .get(client.at)
                    .cloned()
                    .map(|(wish, keyed)| (wish, keyed, pause))
            });
            let Some((wish, keyed, pause)) = next else {
                break;
            };
            sleep(Duration::from_millis(pause)).await;
            self.world.step(Place::Asked).await;
            let answered = self.ask(&wish, keyed).await;
            self.world.with(|state| {
                let again = !state.clients[self.me].acknowledged
                    && state.storm
                    && state.chance.clients.often(2_000);
                let client = &mut state.clients[self.me];
                client.tries += 1;
                if answered && again {
                    client.acknowledged = true;
                } else if answered || client.tries >= TRIES_MAX {
                    client.done();
                }
            });
        }
        self.world.with(|state| {
            state.clients_done = state.clients.iter().all(Client::is_done);
            if !state.storm && check::is_settled(state) {
                state.settled = true;
            }
        });
    }

    /// Asks once. Says whether there was an answer.
    async fn ask(&self, wish: &Wish, keyed: bool) -> bool {
        self.world.with(|state| {
            let head = *self.bus.head().borrow();
            let durable = state.disk.log.len() as u64;
            state.must(head <= durable && !state.disk.is_open(), || {
                format!("the bus tells of event {head}, the log has {durable}")
            });
        });
        let key = |at: usize| format!("client-{}-wish-{at}", self.me);
        let at = self.world.with(|state| state.clients[self.me].at);
        match wish {
            Wish::Create { invoice, variant } => {
                let new = content(*invoice, *variant);
                let action = || Action::Create(vec![new.clone().into()]);
                self.submit(action, keyed.then(|| key(at)), at, false).await
            }
            Wish::Pay {
                invoice,
                method,
                twice,
            } => {
                let command = Command::Pay {
                    method: method.map(|it| format!("method-{it}")),
                };
                let action = || Action::OnInvoice(id(*invoice), command.clone());
                self.submit(action, keyed.then(|| key(at)), at, *twice)
                    .await
            }
            Wish::Cancel { invoice } => {
                let command = Command::Cancel {
                    reason: Some("changed my mind".to_owned()),
                };
                let action = || Action::OnInvoice(id(*invoice), command.clone());
                self.submit(action, keyed.then(|| key(at)), at, false).await
            }
            Wish::ReuseKey { invoice } => {
                let action = || Action::OnInvoice(id(*invoice), Command::Pay { method: None });
                self.submit(action, Some(key(at.saturating_sub(1))), at, false)
                    .await
            }
            Wish::Resolve => self.resolve().await,
            Wish::Pause(paused) => self
                .engine
                .submit(self.caller(), Action::Pause(*paused), None)
                .await
                .is_ok(),
            Wish::Deliver => {
                self.go_behind_its_back().await;
                self.deliver().await
            }
            Wish::Expire => {
                let lived = Duration::from_secs(3600);
                self.engine
                    .submit(self.caller(), Action::ExpireAnswers { lived }, None)
                    .await
                    .is_ok()
            }
            Wish::Read => true,
        }
    }

    fn caller(&self) -> Caller {
        Caller {
            actor: format!("client:{}", self.me).into(),
            traceparent: None,
        }
    }

    async fn submit(
        &self,
        action: impl Fn() -> Action,
        key: Option<String>,
        at: usize,
        twice: bool,
    ) -> bool {
        let request = |key: &Option<String>| {
            let caller = self.caller();
            let idempotency = key
                .clone()
                .map(|key| Idempotency::new(&caller.actor, key, fingerprint(at), Box::new(encode)));
            self.engine.submit(caller, action(), idempotency)
        };
        let kept_before = key.as_ref().and_then(|key| self.kept(key));
        self.world.with(|state| {
            state.tell(|| format!("client {} asks: {:?} key {key:?}", self.me, action()));
        });
        let answers = if twice {
            // Both wait in the queue at once.
            let (one, two) = tokio::join!(request(&key), request(&key));
            vec![one, two]
        } else {
            vec![request(&key).await]
        };
        let mut answered = false;
        let mut kept_before = kept_before;
        for answer in answers {
            if matches!(answer, Err(SubmitError::Stopping)) {
                // payd is gone: there is no answer, and this client will ask again.
                std::future::pending::<()>().await;
            }
            answered = answer.is_ok();
            self.world.with(|state| {
                state.tell(|| format!("client {} hears: {answer:?}", self.me));
                let asked = (key.as_deref(), at, twice);
                self.hold(state, &answer, asked, kept_before.as_ref());
            });
            // Of two that ask at once, the second may be the first to be heard.
            if answered {
                kept_before = key.as_ref().and_then(|key| self.kept(key));
            }
        }
        answered
    }

    fn kept(&self, key: &str) -> Option<StoredAnswer> {
        let name = (self.caller().actor.to_string(), key.to_owned());
        self.world.with(|state| {
            let kept = state.disk.answers.get(&name);
            kept.map(|(stored, _)| stored.clone())
        })
    }

    /// Invariant 2: what is acknowledged is on the disk. Section 4: a key has one answer.
    fn hold(
        &self,
        state: &mut State,
        answer: &Result<Outcome, SubmitError>,
        (key, at, twice): (Option<&str>, usize, bool),
        kept_before: Option<&StoredAnswer>,
    ) {
        let name = key.map(|key| (self.caller().actor.to_string(), key.to_owned()));
        let kept = name
            .as_ref()
            .and_then(|name| state.disk.answers.get(name))
            .map(|(stored, _)| stored.clone());
        let name = name.unwrap_or_default();
        match answer {
            Ok(Outcome::Fresh(result, told)) => {
                state.must(kept_before.is_none(), || {
                    format!("{key:?} was decided anew, though an answer was kept")
                });
                let written = key.and_then(|_| encode(result));
                let same = match kept.map(|kept| kept.kept) {
                    Some(Kept::Whole(kept)) => told.as_ref() == Some(&kept),
                    // Its answer is written of the result, now as later.
                    Some(Kept::Events { first, last }) => {
                        told.is_none() && written.is_some() && first <= last
                    }
                    None => told.is_none() && written.is_none(),
                };
                state.must(same, || {
                    format!("the answer under {key:?} is not kept as it was told")
                });
                if let Some(written) = written {
                    state.witness.told.insert(name, written);
                }
                acknowledged(state, result);
            }
            Ok(Outcome::Replayed(told)) => {
                let same = kept_before.is_some_and(|before| {
                    let kept = match &before.kept {
                        Kept::Whole(kept) => kept == told,
                        // Where nobody heard the first answer, this is the first that is heard.
                        Kept::Events { .. } => {
                            let first = state.witness.told.entry(name);
                            first.or_insert_with(|| told.clone()) == told
                        }
                    };
                    kept && before.fingerprint == fingerprint(at)
                });
                state.must(same, || {
                    format!("{key:?} is replayed as {told:?}, and kept was {kept_before:?}")
                });
            }
            Ok(Outcome::KeyReused) => {
                let other = kept_before.is_some_and(|it| it.fingerprint != fingerprint(at));
                state.must(other, || {
                    format!("{key:?} is called used for something else")
                });
            }
            Err(error) => {
                // Where two ask at once, the other may have been heard.
                let nothing = twice || kept_before.is_some() || kept.is_none();
                state.must(nothing, || {
                    format!("{error}: and yet an answer was kept under {key:?}")
                });
            }
        }
    }

    /// An operator looks at the gateway's books, and says what is in them. In a lying world, whatever.
    async fn resolve(&self) -> bool {
        let word = self.world.with(|state| {
            gateway::catch_up(state);
            let waiting: Vec<_> = state
                .disk
                .payments()
                .filter(|(_, it)| matches!(it.state, PaymentState::Unknown | PaymentState::Review))
                .map(|(_, it)| (it.id, it.key.as_str().to_owned()))
                .collect();
            if waiting.is_empty() {
                return None;
            }
            let draw = &mut state.chance.clients;
            let at = draw.within(0, waiting.len() as u64 - 1);
            let (payment, key) = waiting.into_iter().nth(usize::try_from(at).unwrap_or(0))?;
            let succeeded = if state.weather.lying {
                draw.often(5_000)
            } else {
                state.ledger.truth(&key)?
            };
            let resolve_as = if succeeded {
                ResolveAs::Succeeded
            } else {
                ResolveAs::Failed
            };
            state.tell(|| format!("operator says that {key} {resolve_as:?}"));
            state
                .witness
                .resolved
                .entry(payment)
                .or_default()
                .push(resolve_as);
            Some((payment, resolve_as))
        });
        let Some((payment, resolve_as)) = word else {
            return true;
        };
        let command = Command::Resolve {
            payment,
            resolve_as,
            reason: "seen in the books".to_owned(),
            reference: None,
            actor: "operator".to_owned(),
        };
        let answer = self
            .engine
            .submit(
                self.caller(),
                Action::OnPayment(payment, None, command),
                None,
            )
            .await;
        if let Ok(Outcome::Fresh(result, _)) = &answer {
            self.world.with(|state| acknowledged(state, result));
        }
        answer.is_ok()
    }

    /// A canary: sends what is only requested, without the engine.
    async fn go_behind_its_back(&self) {
        let request = self.world.with(|state| {
            if state.canary != Some(Canary::SendsUnclaimed) {
                return None;
            }
            let mut payments = state.disk.payments();
            let (row, payment) =
                payments.find(|(_, payment)| payment.state == PaymentState::Requested)?;
            Some(ChargeRequest {
                invoice: row.invoice.content.clone(),
                payment: payment.id,
                attempt: payment.attempt,
                key: payment.key.clone(),
                method: payment.method.clone(),
                send: payment.work.epoch + 1,
                sent_at: payment.requested_at,
                traceparent: None,
            })
        });
        if let Some(request) = request {
            self.gateway.charge(&request).await;
        }
    }

    /// Invariant 10. The first delivery may be news; every other must change nothing.
    async fn deliver(&self) -> bool {
        let (chosen, first) = self.world.with(|state| {
            let life = state.lives;
            let alive = |it: &check::Deliverable| it.life.is_none_or(|it| it == life);
            let draw = &mut state.chance.clients;
            let old = draw.often(4_000);
            let from = if old {
                &state.witness.delivered
            } else {
                &state.witness.deliverable
            };
            let usable: Vec<_> = from.iter().filter(|it| alive(it)).collect();
            if usable.is_empty() {
                return (None, false);
            }
            let at = draw.within(0, usable.len() as u64 - 1);
            let chosen = usable[usize::try_from(at).unwrap_or(0)].clone();
            (Some(chosen), !old)
        });
        let Some(chosen) = chosen else {
            return true;
        };
        let rounds = if first {
            vec!["late", AGAIN]
        } else {
            vec![AGAIN]
        };
        for actor in rounds {
            self.world
                .with(|state| state.tell(|| format!("{actor}: {:?}", chosen.command)));
            let caller = Caller {
                actor: actor.into(),
                traceparent: None,
            };
            let action = Action::OnPayment(chosen.payment, None, chosen.command.clone());
            match self.engine.submit(caller, action, None).await {
                Ok(_) if actor == AGAIN => {}
                Ok(_) => self
                    .world
                    .with(|state| state.witness.delivered.push(chosen.clone())),
                Err(_) => return true,
            }
        }
        true
    }
}

/// What payd has told is on the disk.
fn acknowledged(state: &mut State, result: &Result<Reply, Refusal>) {
    let open = state.disk.is_open();
    state.must(!open, || "an answer was given before the commit".to_owned());
    let Ok(reply) = result else {
        return;
    };
    let holds = match reply {
        Reply::Created(each) => each.iter().flatten().all(|(view, _)| {
            let row = state.disk.find(view.invoice.id());
            row.is_some_and(|row| state.disk.rows[row].invoice.content == view.invoice.content)
        }),
        Reply::Payment { payment, .. } => {
            let told = &payment.payment;
            state.disk.by_id(told.id).is_some_and(|(_, stored)| {
                let decided = !told.state.is_open();
                stored.key == told.key && (!decided || stored.state == told.state)
            })
        }
        Reply::Invoice(view) => {
            let row = state.disk.find(view.invoice.id());
            row.is_some_and(|row| {
                let stored = &state.disk.rows[row].invoice;
                stored.status == view.invoice.status
                    || stored.cancel_requested
                    || stored.status == InvoiceStatus::Canceled
            })
        }
        _ => true,
    };
    state.must(holds, || {
        format!("invariant 2: acknowledged, and not on the disk: {reply:?}")
    });
}

fn id(invoice: u64) -> InvoiceId {
    InvoiceId::parse(&format!("inv-{invoice}")).unwrap()
}

fn content(invoice: u64, variant: u64) -> NewInvoice {
    NewInvoice {
        id: id(invoice),
        money: Money {
            amount: Amount::new(1_000 + variant).unwrap(),
            currency: Currency::DEFAULT,
        },
        description: None,
        metadata: [("order".to_owned(), invoice.to_string())].into(),
        payment_method: Some("method-0".to_owned()),
        due_at: None,
    }
}

fn fingerprint(at: usize) -> [u8; 32] {
    [u8::try_from(at).unwrap_or(255); 32]
}

/// As HTTP does: what was done and what is in conflict is kept, the rest is not.
fn encode(result: &Result<Reply, Refusal>) -> Option<Answer> {
    let (status, body) = match result {
        Ok(Reply::Payment { payment, fresh }) => {
            (if *fresh { 202 } else { 200 }, format!("{payment:?}"))
        }
        Ok(Reply::Created(each)) => match each.first() {
            Some(Ok((view, created))) => (if *created { 201 } else { 200 }, format!("{view:?}")),
            _ => (409, "exists".to_owned()),
        },
        Ok(Reply::Invoice(view)) => (200, view.invoice.status.as_str().to_owned()),
        Ok(_) => (200, String::new()),
        Err(Refusal::InvoiceCanceled | Refusal::InvoicePaid | Refusal::InvoiceExists) => {
            (409, "conflict".to_owned())
        }
        Err(_) => return None,
    };
    Some(Answer {
        status,
        location: None,
        body: body.into_bytes(),
    })
}
