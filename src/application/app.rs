//! The application as its edges see it: submit an action, read, wait. HTTP knows nothing else of it.

use std::collections::HashMap;
use std::collections::hash_map;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::{StoreId, Timestamp};

use super::bus::Bus;
use super::doctor::Surroundings;
use super::engine::EngineHandle;
use super::metrics::Counters;
use super::ports::{Clock, Random, Reader, Restored, StoreError};
use super::request::{Action, Caller, Idempotency, Outcome, SubmitError};

/// The application. Shared by all connections.
pub struct App {
    engine: EngineHandle,
    reader: Arc<dyn Reader>,
    bus: Bus,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    counters: Arc<Counters>,
    overview: Overview,
    surroundings: Option<Surroundings>,
    in_flight: Mutex<HashMap<KeyName, [u8; 32]>>,
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
        counters: Arc<Counters>,
        overview: Overview,
    ) -> Self {
        Self {
            engine,
            reader,
            bus,
            clock,
            random,
            counters,
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
            Some(it) => Some(self.enter(&caller.actor, &it.key, it.fingerprint)?),
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

    /// What payd has counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
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
        let name = (Arc::clone(actor), key.to_owned());
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match in_flight.entry(name.clone()) {
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
    name: KeyName,
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
