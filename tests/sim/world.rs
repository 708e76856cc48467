//! The world that payd runs in, as one value: true time, the disk, the gateway's books, what
//! everybody has said, and when payd is to crash. Everything that payd is given looks into it.
//!
//! A seed is run on one thread, so the lock is never waited for; it is there because the ports
//! want parts that can be shared.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use payd::application::ports::{Clock, Random};
use payd::domain::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::canary::Canary;
use super::check::Witness;
use super::clients::Client;
use super::gateway::{self, Ledger};
use super::random::Stream;
use super::store::Disk;
use super::weather::Weather;

/// The first moment of every world: 2026-01-02T03:04:05.678Z.
const BIRTH_MS: i64 = 1_767_323_045_678;

/// Somewhere that payd can be when it crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Any call of the store.
    Store,
    /// All is written, nothing is committed.
    BeforeCommit,
    /// It is committed, nobody knows.
    AfterCommit,
    /// The first byte to the gateway has left.
    Sent,
    /// The gateway's answer has come.
    Answered,
    /// A lookup is under way.
    Looking,
    /// A client has asked.
    Asked,
}

impl Place {
    const ALL: [Self; 7] = [
        Self::Store,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::Sent,
        Self::Answered,
        Self::Looking,
        Self::Asked,
    ];
}

pub(crate) struct State {
    pub(crate) weather: Weather,
    pub(crate) canary: Option<Canary>,
    pub(crate) disk: Disk,
    pub(crate) ledger: Ledger,
    pub(crate) witness: Witness,
    pub(crate) clients: Vec<Client>,

    /// Whether there are faults.
    pub(crate) storm: bool,
    /// The first thing that was not as it must be. The run ends.
    pub(crate) failure: Option<String>,
    /// payd is to be dropped where it stands.
    pub(crate) crash: bool,
    /// payd is asked to stop.
    pub(crate) stop: bool,
    /// In this life something went wrong with a row: its invoice may be set aside until the next.
    pub(crate) sets_aside: bool,
    /// Every client has had its say.
    pub(crate) clients_done: bool,
    /// All has come to rest.
    pub(crate) settled: bool,
    /// What the driver has been told of: failure, crash, settled, clients done.
    told: (bool, bool, bool, bool),
    /// Where the next crash is, and how many times that place is passed before.
    plan: Option<(Place, u64)>,
    crashes_left: u64,
    /// The gateway that this life sends to.
    pub(crate) gateway: &'static str,
    /// How often payd was started.
    pub(crate) lives: u64,
    /// The disk is full until then.
    pub(crate) full_until_ms: i64,

    pub(crate) chance: Chance,
    /// The true time at which this life began, and the runtime's own count since.
    life_began_ms: i64,
    epoch: Option<Instant>,
    /// How far the machine's wall clock is from the truth.
    pub(crate) wall_offset_ms: i64,
    /// payd's time at the start of this life.
    payd_began_ms: i64,

    trace: Option<Vec<String>>,
    pub(crate) counted: Counted,
}

/// What a run came across: to see that the weather reaches every corner.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) commits: u64,
    pub(crate) events: u64,
    pub(crate) sends: u64,
    pub(crate) lookups: u64,
    pub(crate) crashes: u64,
    pub(crate) faults: u64,
}

impl Counted {
    pub(crate) fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.events += other.events;
        self.sends += other.sends;
        self.lookups += other.lookups;
        self.crashes += other.crashes;
        self.faults += other.faults;
    }
}

/// One stream for each that draws.
pub(crate) struct Chance {
    pub(crate) store: Stream,
    pub(crate) gateway: Stream,
    pub(crate) clients: Stream,
    pub(crate) world: Stream,
    engine: Stream,
}

/// See the module.
pub(crate) struct World {
    state: Mutex<State>,
    /// Rings for the driver: something in the state is for it to see.
    pub(crate) bell: Notify,
}

impl World {
    pub(crate) fn new(seed: u64, canary: Option<Canary>, traced: bool) -> Arc<Self> {
        let weather = Weather::of(seed);
        let chance = Chance {
            store: Stream::new(seed, 2),
            gateway: Stream::new(seed, 3),
            clients: Stream::new(seed, 4),
            world: Stream::new(seed, 5),
            engine: Stream::new(seed, 6),
        };
        let mut draw = Stream::new(seed, 7);
        let clients = (0..weather.clients)
            .map(|_| Client::new(&weather, &mut draw))
            .collect();
        let mut state = State {
            disk: Disk::new(uuid::Builder::from_random_bytes(bytes(&mut draw)).into_uuid()),
            ledger: Ledger::default(),
            witness: Witness::default(),
            clients,
            storm: true,
            failure: None,
            crash: false,
            stop: false,
            sets_aside: false,
            clients_done: false,
            settled: false,
            told: (false, false, false, false),
            plan: None,
            crashes_left: weather.crashes,
            gateway: gateway::NAME,
            lives: 0,
            full_until_ms: i64::MIN,
            chance,
            life_began_ms: BIRTH_MS,
            epoch: None,
            wall_offset_ms: 0,
            payd_began_ms: BIRTH_MS,
            trace: traced.then(Vec::new),
            counted: Counted::default(),
            weather,
            canary,
        };
        let weather = state.weather.clone();
        state.tell(|| format!("{weather:?}"));
        Arc::new(Self {
            state: Mutex::new(state),
            bell: Notify::new(),
        })
    }

    /// Looks at the state, or changes it. Never across an await.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = f(&mut state);
        let told = (
            state.failure.is_some(),
            state.crash || state.stop,
            state.settled,
            state.clients_done,
        );
        if std::mem::replace(&mut state.told, told) != told {
            self.bell.notify_one();
        }
        result
    }

    /// Takes a step outside the engine. Where payd crashes here, this never comes back.
    pub(crate) async fn step(&self, place: Place) {
        let crash = self.with(|state| {
            if !state.passes(place) {
                return false;
            }
            // Now and then it is told to stop, and may come to an end in good order.
            let stop = place == Place::Asked && state.chance.world.often(5_000);
            state.stop |= stop;
            state.crash |= !stop;
            !stop
        });
        if crash {
            std::future::pending::<()>().await;
        }
    }
}

impl State {
    /// The true time, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        let lived = self.epoch.map_or(0, |epoch| epoch.elapsed().as_millis());
        self.life_began_ms + i64::try_from(lived).unwrap_or(i64::MAX)
    }

    /// payd's time, as `infrastructure/clock.rs` makes it: the wall clock's at the start, or the
    /// newest that is stored where that is later, and from there a clock that nobody sets.
    pub(crate) fn payd_now(&self) -> Timestamp {
        Timestamp::from_millis(self.payd_began_ms + (self.now_ms() - self.life_began_ms))
    }

    /// payd is started, within the runtime of this life.
    pub(crate) fn begin_life(&mut self, newest: Option<Timestamp>) {
        self.epoch = Some(Instant::now());
        self.lives += 1;
        let wall_ms = self.life_began_ms + self.wall_offset_ms;
        self.payd_began_ms = newest.map_or(wall_ms, |newest| newest.as_millis().max(wall_ms));
        let other = self.weather.switches && self.storm && self.chance.world.often(4_000);
        self.gateway = if other { gateway::OTHER } else { gateway::NAME };
        if self.storm && self.crashes_left > 0 {
            self.crashes_left -= 1;
            let draw = &mut self.chance.world;
            let place = draw.pick(&Place::ALL);
            let furthest = if place == Place::Store { 300 } else { 12 };
            self.plan = Some((place, draw.within(0, furthest)));
        }
        let (life, now) = (self.lives, self.payd_now());
        self.tell(|| format!("-- life {life}, payd's clock says {now}"));
    }

    /// payd is gone, and `down_ms` pass.
    pub(crate) fn end_life(&mut self, down_ms: u64) {
        self.life_began_ms = self.now_ms() + i64::try_from(down_ms).unwrap_or(0);
        self.epoch = None;
        self.crash = false;
        self.stop = false;
        self.sets_aside = false;
        self.plan = None;
        self.disk.rollback();
    }

    /// Whether payd crashes as it passes here.
    pub(crate) fn passes(&mut self, place: Place) -> bool {
        let Some((planned, left)) = &mut self.plan else {
            return false;
        };
        if *planned != place || !self.storm {
            return false;
        }
        if *left > 0 {
            *left -= 1;
            return false;
        }
        self.plan = None;
        self.tell(|| format!("CRASH at {place:?}"));
        true
    }

    /// Something is not as it must be. The first is kept.
    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.failure.is_none() {
            let what = what();
            self.tell(|| format!("FAILED: {what}"));
            self.failure = Some(what);
        }
    }

    /// Holds what must hold.
    pub(crate) fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what);
        }
    }

    /// A line of the trace, made only where somebody reads it.
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.now_ms() - BIRTH_MS;
        if let Some(trace) = &mut self.trace {
            let mut text = String::new();
            let _ = write!(text, "{:>9}.{:03} {}", now / 1000, now % 1000, line());
            trace.push(text);
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }
}

fn bytes(draw: &mut Stream) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&draw.next().to_le_bytes());
    bytes[8..].copy_from_slice(&draw.next().to_le_bytes());
    bytes
}

/// payd's clock in this world.
pub(crate) struct WorldClock(pub(crate) Arc<World>);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        self.0.with(|state| state.payd_now())
    }
}

/// payd's chance in this world.
pub(crate) struct WorldRandom(pub(crate) Arc<World>);

impl Random for WorldRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.with(|state| {
            for byte in bytes {
                *byte = state.chance.engine.next().to_le_bytes()[0];
            }
        });
    }
}
