//! What drives the engine: a bounded queue in front of it, and a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::super::gate::Closure;
use super::super::ports::Store;
use super::super::request::{Action, Caller, Envelope, Idempotency, Outcome, SubmitError};
use super::super::tokens::Tokens;
use super::sealer::Sealing;
use super::teller::{Teller, Telling};
use super::{Engine, Fatal, Health};

/// Requests that may wait. At some tens of thousands a second, a full queue is a wait of well under
/// a second; beyond it callers are told to come back, and memory stays bounded.
const QUEUE_MAX: usize = 4096;

/// Requests decided in one commit: enough to fill a sync, few enough that the first does not wait
/// long for the last.
pub(super) const BATCH_MAX: usize = 512;

/// How long nobody has asked for anything, workers included, when the engine lets go of what it keeps only to be
/// faster. What it takes to have that again is less than a client that comes once in so long would notice.
const REST_AFTER: Duration = Duration::from_secs(10);

/// The engine as others see it. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    queue: mpsc::Sender<Envelope>,
    health: Arc<Health>,
    tokens: Arc<Tokens>,
}

impl EngineHandle {
    /// Submits a request from outside, at once; what comes back waits for the outcome. A full queue is an answer,
    /// not a wait.
    ///
    /// # Errors
    /// Where there is no outcome.
    pub fn submit(
        &self,
        caller: Caller,
        action: Action,
        idempotency: Option<Idempotency>,
    ) -> impl Future<Output = Result<Outcome, SubmitError>> + Send + use<> {
        let (reply, outcome) = oneshot::channel();
        // The request is not in the future, which is moved about.
        let sent = self.queue.try_send(Envelope {
            caller,
            action,
            idempotency,
            reply,
        });
        let sent = sent.map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::QueueFull,
            TrySendError::Closed(_) => SubmitError::Stopping,
        });
        async move {
            sent?;
            outcome.await.unwrap_or(Err(SubmitError::Stopping))
        }
    }

    /// Submits payd's own work, which waits for its place: there is never more of it than workers.
    ///
    /// # Errors
    /// Where there is no outcome.
    pub async fn submit_own(&self, action: Action) -> Result<Outcome, SubmitError> {
        let (reply, outcome) = oneshot::channel();
        let envelope = Envelope {
            caller: Caller::payd(),
            action,
            idempotency: None,
            reply,
        };
        let sent = match self.queue.try_send(envelope) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(envelope)) => {
                Box::pin(self.queue.send(envelope)).await.map_err(drop)
            }
            Err(TrySendError::Closed(_)) => Err(()),
        };
        match sent {
            Ok(()) => outcome.await.unwrap_or(Err(SubmitError::Stopping)),
            Err(()) => Err(SubmitError::Stopping),
        }
    }

    /// Whether the last commit went through.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.health.is_writable()
    }

    /// Whether an operator has paused sending.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.health.is_paused()
    }

    /// The tokens that are good, and those that were.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Why nothing is sent to the gateway, though nobody has paused it; `None` while it is usable.
    #[must_use]
    pub fn closure(&self) -> Option<Closure> {
        self.health.closure()
    }

    /// Requests waiting now, and how many may.
    #[must_use]
    pub fn queue(&self) -> (usize, usize) {
        (QUEUE_MAX - self.queue.capacity(), QUEUE_MAX)
    }
}

/// The engine's own loop, to be driven to its end.
pub struct Run<S> {
    engine: Engine<S>,
    queue: mpsc::Receiver<Envelope>,
}

/// Puts a queue in front of an engine.
#[must_use]
pub fn spawn<S: Store>(engine: Engine<S>) -> (EngineHandle, Run<S>) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let health = Arc::clone(engine.health());
    let tokens = Arc::clone(engine.tokens());
    let handle = EngineHandle {
        queue: sender,
        health,
        tokens,
    };
    (handle, Run { engine, queue })
}

impl<S: Store> Run<S> {
    /// From here on, what was committed is told on whichever thread runs what this gives.
    pub fn tell_elsewhere(&mut self) -> Telling {
        let (teller, telling) = Teller::apart(Arc::clone(&self.engine.metrics));
        self.engine.teller = teller;
        telling
    }

    /// [`Engine::seal_elsewhere`].
    #[must_use = "until it is run, a large batch waits for it; once it is dropped, the engine does it itself"]
    pub fn seal_elsewhere(&mut self) -> Sealing {
        self.engine.seal_elsewhere()
    }

    /// Runs until every handle is gone and everything submitted is decided. It blocks while it
    /// commits, so it belongs on a thread of its own.
    ///
    /// # Errors
    /// Where the process must end.
    pub async fn run(mut self) -> Result<(), Fatal> {
        let mut envelopes = Vec::new();
        let mut rest_at = Some(Instant::now() + REST_AFTER);
        loop {
            let wait = self.engine.sleep().unwrap_or(Duration::MAX);
            let rest = rest_at.map_or(Duration::MAX, |at| {
                at.saturating_duration_since(Instant::now())
            });
            let received = self.queue.recv_many(&mut envelopes, BATCH_MAX);
            match tokio::time::timeout(wait.min(rest), received).await {
                Ok(0) => return Ok(()),
                Err(_) if rest < wait => {
                    rest_at = None;
                    self.engine.rest();
                    continue;
                }
                // A timeout is a reason to run, too: something is due.
                Ok(_) | Err(_) => {}
            }
            if !envelopes.iter().all(|it| it.action.is_upkeep()) {
                rest_at = Some(Instant::now() + REST_AFTER);
            }
            // It grows as it has to: room for the longest would be a large allocation each time.
            self.engine.run(std::mem::take(&mut envelopes))?;
        }
    }
}
