//! Plays a seed: payd's lives one after the other on one disk, a storm and then calm, until all has
//! come to rest.

use std::any::Any;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use payd::application::ports::{Clock, Random, Store, StoreError};
use payd::application::request::Action;
use payd::application::{
    Bus, Counters, Engine, EngineHandle, Fatal, Policy, Prober, Processor, Resolver, spawn,
};
use payd::domain::{LookupPolicy, RetryPolicy};
use payd::infrastructure::store::open_writer;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::canary::Canary;
use super::check;
use super::clients::Task;
use super::gateway::ModelGateway;
use super::store::{Crash, ModelStore};
use super::world::{Counted, State, World, WorldClock, WorldRandom};

/// A storm is over after this, whatever is still wanted.
const STORM_MAX: Duration = Duration::from_secs(12 * 3600);

/// Calm for so long, and not at rest: stuck. A payment that the gateway decides within hours, and
/// five attempts that it asks an hour's patience between, are well within.
const CALM_MAX: Duration = Duration::from_secs(3 * 24 * 3600);

/// More lives than this, and payd does not start any more.
const LIVES_MAX: u64 = 200;

/// How a life ended.
enum End {
    /// It crashed, or could not go on.
    Gone,
    /// The weather changes.
    Calm,
    /// All has come to rest, or something was found.
    Over,
}

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) failure: Option<String>,
    pub(crate) trace: Vec<String>,
    /// Over the whole log.
    pub(crate) digest: [u8; 32],
    pub(crate) counted: Counted,
}

/// How to play.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct How<'a> {
    pub(crate) canary: Option<Canary>,
    /// Keeps a trace.
    pub(crate) traced: bool,
    /// Runs the real store beside the model, in this directory.
    pub(crate) real: Option<&'a Path>,
}

/// Plays a seed to its end.
pub(crate) fn play(seed: u64, how: How<'_>) -> Played {
    let world = World::new(seed, how.canary, how.traced);
    loop {
        // Time is virtual: it moves when all wait.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let over = runtime.block_on(async {
            let end = live(&world, how).await;
            world.with(|state| between(state, &end))
        });
        drop(runtime);
        if over {
            break;
        }
    }
    world.with(|state| {
        if state.failure.is_none() {
            check::ended(state);
        }
        Played {
            failure: state.failure.clone(),
            trace: state.take_trace(),
            digest: state.disk.digest(),
            counted: state.counted,
        }
    })
}

/// A life has ended. Says whether it was the last.
fn between(state: &mut State, end: &End) -> bool {
    let gone = matches!(end, End::Gone);
    let down_ms = if gone {
        state.chance.world.spread_ms(3_600_000)
    } else {
        0
    };
    state.end_life(down_ms);
    let stuck = state.lives > LIVES_MAX;
    state.must(!stuck, || "payd does not start any more".to_owned());
    if gone && state.weather.wall_jumps {
        // An hour or ten years, forwards or backwards.
        let far = state.chance.world.pick(&[3_600_000, 315_360_000_000]);
        let way = state.chance.world.pick(&[-1, 0, 1]);
        state.wall_offset_ms += way * far;
    }
    matches!(end, End::Over) || state.failure.is_some()
}

/// One life of payd, from its start to its end.
async fn live(world: &Arc<World>, how: How<'_>) -> End {
    let real = match how.real {
        Some(directory) => {
            let store = world.with(|state| state.disk.store);
            let uuid = uuid::Uuid::parse_str(&store.to_string()).unwrap();
            Some(open_writer(&directory.join("payd.db"), uuid).unwrap())
        }
        None => None,
    };
    let mut store = ModelStore {
        world: Arc::clone(world),
        real,
    };
    // As `daemon/serve.rs` puts it together.
    let Some(info) = in_life(world, || store.info()) else {
        return End::Gone;
    };
    world.with(|state| state.begin_life(info.head.time));
    let clock: Arc<dyn Clock> = Arc::new(WorldClock(Arc::clone(world)));
    let random: Arc<dyn Random> = Arc::new(WorldRandom(Arc::clone(world)));
    let (policy, concurrency, send_timeout) = settings(world);
    let gateway = Arc::new(ModelGateway {
        world: Arc::clone(world),
        name: world.with(|state| state.gateway),
        lag: policy.lookup_lag,
    });
    let bus = Bus::new(0);
    let started = in_life(world, || {
        let metrics = Arc::new(Counters::default());
        let mut engine = Engine::new(
            store,
            policy,
            Arc::clone(&clock),
            random,
            bus.clone(),
            metrics,
        )?;
        match engine.recover() {
            Ok(_) => Ok((engine, true)),
            Err(StoreError::NoRoom(_) | StoreError::Busy(_)) => Ok((engine, false)),
            Err(error) => Err(error),
        }
    });
    let Some((engine, recovered)) = started else {
        return End::Gone;
    };
    if recovered {
        world.with(check::recovered);
    }
    let (engine, run) = spawn(engine);
    let stop = CancellationToken::new();
    let mut loop_of_engine = tokio::spawn(run.run());
    let processor = Processor {
        engine: engine.clone(),
        gateway: Arc::clone(&gateway) as Arc<_>,
        concurrency,
        timeout: send_timeout,
        stop: stop.clone(),
    };
    let resolver = Resolver {
        engine: engine.clone(),
        gateway: Arc::clone(&gateway) as Arc<_>,
        clock,
        concurrency,
        timeout: send_timeout,
        stop: stop.clone(),
    };
    let prober = Prober {
        engine: engine.clone(),
        gateway: Arc::clone(&gateway) as Arc<_>,
        timeout: send_timeout,
        stop: stop.clone(),
    };
    let mut workers = JoinSet::new();
    workers.spawn(processor.run());
    workers.spawn(resolver.run());
    workers.spawn(prober.run());
    let clients = world.with(|state| {
        state.clients_done = state.clients.iter().all(|client| client.is_done());
        if !state.storm {
            state.settled = check::is_settled(state);
        }
        state.clients.len()
    });
    let mut tasks = JoinSet::new();
    for me in 0..clients {
        let client = Task {
            world: Arc::clone(world),
            engine: engine.clone(),
            bus: bus.clone(),
            gateway: Arc::clone(&gateway) as Arc<_>,
            me,
        };
        tasks.spawn(client.run());
    }
    let mut storm = world.with(|state| state.storm);
    if !storm {
        tasks.spawn(let_go_on(Arc::clone(world), engine.clone()));
    }
    loop {
        let limit = if storm { STORM_MAX } else { CALM_MAX };
        let end = async {
            tokio::select! {
                biased;
                ended = &mut loop_of_engine => Err(ended),
                () = world.bell.notified() => Ok(()),
            }
        };
        let passed = match timeout(limit, end).await {
            Err(_) if storm => true,
            Err(_) => {
                world.with(|state| {
                    let rows = format!("{:?}", state.disk.rows);
                    state.fail(|| format!("stuck: calm for days, and not at rest: {rows}"));
                });
                return End::Over;
            }
            Ok(Err(ended)) => return gasp(world, ended).await,
            Ok(Ok(())) => false,
        };
        let now = world.with(|state| Now {
            failed: state.failure.is_some(),
            crash: state.crash,
            stop: state.stop,
            settled: state.settled,
            done: state.clients_done || passed,
        });
        if now.failed || (now.settled && !storm) {
            return End::Over;
        }
        if now.crash {
            return End::Gone;
        }
        let calm = now.done && storm;
        if calm {
            // What was set aside is so until payd starts again.
            let (again, drain) = world.with(|state| {
                state.tell(|| "-- calm".to_owned());
                state.storm = false;
                state.settled = check::is_settled(state);
                let draw = &mut state.chance.world;
                (state.sets_aside || draw.often(5_000), draw.often(5_000))
            });
            if again && !drain {
                return End::Calm;
            }
            if !again {
                storm = false;
                tasks.spawn(let_go_on(Arc::clone(world), engine.clone()));
                continue;
            }
        }
        if now.stop || calm {
            // As `daemon/serve.rs` takes it apart.
            stop.cancel();
            let grace = Duration::from_secs(20);
            let drained = timeout(grace, async {
                let _ = engine.submit_own(Action::StopClaims).await;
                while workers.join_next().await.is_some() {}
                tasks.shutdown().await;
                drop(engine);
                (&mut loop_of_engine).await
            });
            if let Ok(ended) = drained.await {
                let in_order = matches!(ended, Ok(Ok(())));
                world.with(|state| {
                    state.tell(|| format!("-- stopped, in good order: {in_order}"));
                    if in_order && !state.storm {
                        check::recovered(state);
                    }
                });
                if !in_order {
                    return gasp(world, ended).await;
                }
            }
            return if calm { End::Calm } else { End::Gone };
        }
    }
}

/// What the driver is to see.
struct Now {
    failed: bool,
    crash: bool,
    stop: bool,
    settled: bool,
    done: bool,
}

/// An operator lets sending go on, where it was paused.
async fn let_go_on(world: Arc<World>, engine: EngineHandle) {
    while world.with(|state| state.disk.paused) {
        let _ = engine.submit_own(Action::Pause(false)).await;
        sleep(Duration::from_secs(1)).await;
    }
}

/// The engine has ended. Its process has not quite: what others were told they may still act on.
async fn gasp(world: &World, ended: Result<Result<(), Fatal>, JoinError>) -> End {
    let why = match ended {
        Ok(Ok(())) => Some("the engine stopped by itself".to_owned()),
        Ok(Err(_)) => None,
        Err(error) => match error.try_into_panic() {
            Ok(panic) if panic.is::<Crash>() => None,
            Ok(panic) => Some(format!("the engine panicked: {}", text(&*panic))),
            Err(error) => Some(error.to_string()),
        },
    };
    world.with(|state| {
        state.counted.crashes += 1;
        if let Some(why) = why {
            state.fail(|| why);
        }
    });
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    End::Gone
}

/// Starts something that may crash, or fail, on the way. `None`: it did.
fn in_life<T>(world: &World, f: impl FnOnce() -> Result<T, StoreError>) -> Option<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(Ok(it)) => Some(it),
        Ok(Err(error)) => {
            world.with(|state| state.tell(|| format!("payd does not start: {error}")));
            None
        }
        Err(panic) => {
            if !panic.is::<Crash>() {
                world.with(|state| state.fail(|| format!("payd panicked: {}", text(&*panic))));
            }
            None
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text")
}

fn settings(world: &World) -> (Policy, usize, Duration) {
    world.with(|state| {
        let weather = &state.weather;
        let timeout = Duration::from_millis(weather.timeout_ms);
        let policy = Policy {
            retry: RetryPolicy {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(900),
                max_attempts: NonZeroU32::new(weather.attempts_max).unwrap_or(NonZeroU32::MIN),
            },
            lookup: LookupPolicy {
                base: Duration::from_secs(2),
                cap: Duration::from_secs(900),
                attention_after: Duration::from_secs(86_400),
            },
            lookup_lag: Duration::from_millis(weather.lag_ms),
            lease: timeout + Duration::from_secs(30),
            gateway: state.gateway.to_owned(),
        };
        (policy, weather.concurrency, timeout)
    })
}
