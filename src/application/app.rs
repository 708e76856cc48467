//! The application as its edges see it: submit an action, read, wait. HTTP knows nothing else of it.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::{StoreId, Timestamp};

use super::bus::Bus;
use super::doctor::Surroundings;
use super::engine::EngineHandle;
use super::metrics::{Metrics, Standing};
use super::ports::{Clock, Random, Reader, Restored, StoreError, Tally};
use super::request::{Action, Caller, Idempotency, Outcome, SubmitError};
use super::streams::Streams;
use super::trace::Tracer;

/// How long the database's figures are shown before they are read again: scrapers come every few
/// seconds, and a flood of them must cost nothing.
const TALLY_KEPT: Duration = Duration::from_secs(1);

/// The application. Shared by all connections.
pub struct App {
    engine: EngineHandle,
    reader: Arc<dyn Reader>,
    bus: Bus,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    metrics: Arc<dyn Metrics>,
    streams: Arc<Streams>,
    /// What the database said last, and when.
    tally: tokio::sync::Mutex<Option<(tokio::time::Instant, Option<Tally>)>>,
    tracer: Option<Arc<dyn Tracer>>,
    overview: Overview,
    surroundings: Option<Surroundings>,
    in_flight: Mutex<HashMap<Arc<KeyName>, [u8; 32]>>,
}

/// An idempotency key: whose, and which.
type KeyName = (Arc<str>, String);

/// What stays the same from start to end.
#[derive(Debug, Clone)]
pub struct Overview {
    /// The store's id.
    pub store: StoreId,
    /// The source of events.
    pub source: StoreId,
    /// The gateway's name.
    pub gateway: String,
    /// When the process started.
    pub started_at: Timestamp,
    /// Where the database is.
    pub data_dir: String,
    /// Where it listens.
    pub listeners: Vec<String>,
    /// Where the store was restored from a backup.
    pub restored: Option<Restored>,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        engine: EngineHandle,
        reader: Arc<dyn Reader>,
        bus: Bus,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        metrics: Arc<dyn Metrics>,
        overview: Overview,
    ) -> Self {
        Self {
            engine,
            reader,
            bus,
            clock,
            random,
            metrics,
            streams: Arc::default(),
            tally: tokio::sync::Mutex::default(),
            tracer: None,
            overview,
            surroundings: None,
            in_flight: Mutex::default(),
        }
    }

    /// With what it takes to examine more than the store.
    #[must_use]
    pub fn with_surroundings(mut self, surroundings: Surroundings) -> Self {
        self.surroundings = Some(surroundings);
        self
    }

    pub(super) const fn surroundings(&self) -> Option<&Surroundings> {
        self.surroundings.as_ref()
    }

    /// The same, with traces.
    #[must_use]
    pub fn traced(mut self, tracer: Option<Arc<dyn Tracer>>) -> Self {
        self.tracer = tracer;
        self
    }

    /// Where spans begin; `None` where nothing is traced.
    #[must_use]
    pub fn tracer(&self) -> Option<&dyn Tracer> {
        self.tracer.as_deref()
    }

    /// Has the engine decide an action, and comes back when that is durable.
    ///
    /// # Errors
    /// Where it could not be decided. A refusal by the rules is not an error but an outcome.
    pub async fn submit(
        &self,
        caller: Caller,
        action: Action,
        idempotency: Option<Idempotency>,
    ) -> Result<Outcome, SubmitError> {
        // Held until the outcome is known: a second request with the key is told to come back.
        let _running = match &idempotency {
            Some(it) => Some(self.enter(&caller.actor, it.key(), it.fingerprint)?),
            None => None,
        };
        self.engine.submit(caller, action, idempotency).await
    }

    /// Reads, on a thread where blocking is fine.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn read<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    {
        let reader = Arc::clone(&self.reader);
        match tokio::task::spawn_blocking(move || f(reader.as_ref())).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Fatal(format!("the reader stopped: {error}"))),
        }
    }

    /// The bus, to follow the log.
    #[must_use]
    pub const fn bus(&self) -> &Bus {
        &self.bus
    }

    /// payd's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What the wall clock says; see [`Clock::wall`].
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Chance, for what must not be guessed.
    #[must_use]
    pub fn random(&self) -> &dyn Random {
        self.random.as_ref()
    }

    /// Where the edges tell what they measure.
    #[must_use]
    pub fn metrics(&self) -> &dyn Metrics {
        self.metrics.as_ref()
    }

    /// The event streams that are open.
    #[must_use]
    pub const fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// All figures, in Prometheus's text format. However often it is asked, the database is so once a
    /// second; where it cannot be read, its figures are left out.
    pub async fn exposition(&self) -> String {
        let tally = self.tally().await;
        let head = *self.bus.head().borrow();
        self.metrics.exposition(&Standing {
            now: self.now(),
            started_at: self.overview.started_at,
            gateway: self.overview.gateway.clone(),
            gateway_shut: self.engine.closure().map(|closure| closure.why),
            paused: self.engine.is_paused(),
            writable: self.engine.is_writable(),
            queue: self.engine.queue(),
            head,
            streams: self.streams.lag(head),
            tally,
        })
    }

    async fn tally(&self) -> Option<Tally> {
        // Held while it reads: of many who ask at once, one does.
        let mut kept = self.tally.lock().await;
        if let Some((at, tally)) = kept.as_ref()
            && at.elapsed() < TALLY_KEPT
        {
            return tally.clone();
        }
        let now = self.now();
        let tally = self.read(move |reader| reader.tally(now)).await;
        let tally = tally
            .inspect_err(
                |error| tracing::warn!(%error, "the figures of the database cannot be read"),
            )
            .ok();
        *kept = Some((tokio::time::Instant::now(), tally.clone()));
        tally
    }

    /// What stays the same from start to end.
    #[must_use]
    pub const fn overview(&self) -> &Overview {
        &self.overview
    }

    /// The engine's side of `payctl status`, and whether it takes writes.
    #[must_use]
    pub const fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// A new UUIDv7 (RFC 9562, section 5.7).
    #[must_use]
    pub fn new_uuid(&self) -> uuid::Uuid {
        let mut random = [0; 10];
        self.random.fill(&mut random);
        let millis = u64::try_from(self.clock.now().as_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    fn enter(
        &self,
        actor: &Arc<str>,
        key: &str,
        fingerprint: [u8; 32],
    ) -> Result<Running<'_>, SubmitError> {
        let name = Arc::new((Arc::clone(actor), key.to_owned()));
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match in_flight.entry(Arc::clone(&name)) {
            hash_map::Entry::Occupied(first) if *first.get() == fingerprint => {
                Err(SubmitError::InProgress)
            }
            hash_map::Entry::Occupied(_) => Err(SubmitError::KeyReused),
            hash_map::Entry::Vacant(place) => {
                place.insert(fingerprint);
                Ok(Running { app: self, name })
            }
        }
    }
}

/// A key whose first request is running.
struct Running<'a> {
    app: &'a App,
    name: Arc<KeyName>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.app
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}
