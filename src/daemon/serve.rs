//! `payd serve`: puts the parts together, runs them until told to stop, and takes them apart in an
//! order in which nothing that was acknowledged is lost.

use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::application::ports::{Clock, Gateway, Random, Store, StoreError};
use crate::application::request::{Action, Outcome, Reply};
use crate::application::{
    App, Bus, Counters, Engine, EngineHandle, Fatal, Overview, Policy, Prober, Processor, Resolver,
    Run, spawn,
};
use crate::config::{Auth, GatewayKind, Listen, LogFormat, Settings};
use crate::domain::{LookupPolicy, RetryPolicy};
use crate::http::{self, Listener};
use crate::infrastructure::clock::SystemClock;
use crate::infrastructure::directories::Places;
use crate::infrastructure::gateway::{Simulator, Weather};
use crate::infrastructure::listen::{self, SocketFile};
use crate::infrastructure::lock::{self, DatabaseLock};
use crate::infrastructure::logging::{self, Format, Logs};
use crate::infrastructure::random::SystemRandom;
use crate::infrastructure::store::{SqliteReader, SqliteStore, open_writer};
use crate::infrastructure::systemd::{self, Passed};

use super::args::SettingsArgs;
use super::commands::{complain, fail, say, settings};
use super::manager;
use super::signals::{Signals, Wish};

/// How much longer a claim holds than a send may take: time to record its outcome, also when the
/// disk is full for a while.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// Lookups at once, beside the sends.
const LOOKUPS_MAX: usize = 16;

/// Threads for reads that block. SQLite serves a page in well under a millisecond, and the machine
/// has few cores: more threads would only be more memory.
const READ_THREADS_MAX: usize = 16;

/// How often kept answers are looked through for old ones.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);

/// What payd may take to stop beyond the grace time, before systemd ends it.
const STOP_MARGIN: Duration = Duration::from_secs(5);

pub(super) fn run(args: &SettingsArgs) -> ExitCode {
    let (loaded, places) = match settings(args.config.as_deref(), args.flags()) {
        Ok(both) => both,
        Err(code) => return code,
    };
    // Before the first thread: it changes the environment.
    let passed = match systemd::passed() {
        Ok(passed) => passed,
        Err(error) => return fail(error),
    };
    let parts = match prepare(&loaded.settings, &places, passed) {
        Ok(parts) => parts,
        Err(code) => return code,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(READ_THREADS_MAX)
        .thread_name("payd")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(serve(parts, args));
            // What has not ended within the grace time is cut off here.
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(format_args!("the runtime does not start: {error}")),
    }
}

/// What is there before the first request: all of it, or nothing has been touched but the places.
struct Parts {
    settings: Settings,
    places: Places,
    logs: Logs,
    engine: Engine<SqliteStore>,
    gateway: Arc<dyn Gateway>,
    bus: Bus,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    reader: SqliteReader,
    listeners: Bound,
    lock: DatabaseLock,
}

/// Listening sockets. A socket file that payd has made goes when this is dropped.
struct Bound {
    unix: std::os::unix::net::UnixListener,
    unix_url: String,
    /// `None`: it is the socket unit's, and stays.
    file: Option<SocketFile>,
    tcp: Option<(std::net::TcpListener, String)>,
}

fn prepare(settings: &Settings, places: &Places, passed: Passed) -> Result<Parts, ExitCode> {
    places.make().map_err(fail)?;
    let logs = logging::start(logging::Options {
        level: settings.log.level.as_str(),
        format: log_format(settings.log.format),
        dir: places.log_dir.as_ref().map(|dir| dir.path.as_path()),
    })
    .map_err(fail)?;
    let lock =
        lock::acquire(&places.lock(), std::process::id(), jiff::Timestamp::now()).map_err(fail)?;
    let listeners = bind(settings, places, passed)?;

    let path = places.database();
    let broken = |error: &dyn std::fmt::Display| {
        fail(format_args!("the database {}: {error}", path.display()))
    };
    // Only the id of a store that is new today comes from this clock; payd's own starts below.
    let today = SystemClock::start(i64::MIN);
    let mut store = open_writer(&path, new_uuid(&today)).map_err(|error| broken(&error))?;
    let reader = SqliteReader::open(&path).map_err(|error| broken(&error))?;
    let info = store.info().map_err(|error| broken(&error))?;
    let clock = SystemClock::start(info.head.time.map_or(i64::MIN, |time| time.as_millis()));
    if clock.ahead_at_start_ms() > 0 {
        tracing::warn!(
            ahead_ms = clock.ahead_at_start_ms(),
            "the wall clock is behind what is stored; payd's time goes on from there"
        );
    }
    let clock: Arc<dyn Clock> = Arc::new(clock);
    let bus = Bus::new(0);
    let counters = Arc::new(Counters::default());
    let gateway = gateway(settings, &clock);
    let random = Arc::new(SystemRandom);
    let mut engine = Engine::new(
        store,
        policy(settings, gateway.as_ref()),
        Arc::clone(&clock),
        random,
        bus.clone(),
        Arc::clone(&counters) as Arc<_>,
    )
    .map_err(|error| broken(&error))?;
    match engine.recover() {
        Ok(0) => {}
        Ok(recovered) => tracing::warn!(
            payments = recovered,
            "payd had stopped while payments were being sent; they are looked up"
        ),
        // Reads can be served; nothing is written or sent before it has gone through.
        Err(error @ (StoreError::NoRoom(_) | StoreError::Busy(_))) => {
            tracing::error!(%error, "payments that were being sent cannot be looked after yet");
        }
        Err(error) => return Err(broken(&error)),
    }
    Ok(Parts {
        settings: settings.clone(),
        places: places.clone(),
        logs,
        engine,
        gateway,
        bus,
        clock,
        counters,
        reader,
        listeners,
        lock,
    })
}

fn bind(settings: &Settings, places: &Places, passed: Passed) -> Result<Bound, ExitCode> {
    let (unix, unix_url, file) = match passed.unix {
        Some(unix) => {
            let url = listen::unix_url(&unix);
            (unix, url, None)
        }
        None => {
            let socket = listen::bind_unix(&places.socket.path).map_err(fail)?;
            let url = socket.file.url();
            (socket.listener, url, Some(socket.file))
        }
    };
    let tcp = match (passed.tcp, settings.server.listen) {
        // What the socket unit says holds, as it does for the Unix socket.
        (Some(tcp), _) => {
            let url = listen::tcp_url(&tcp).map_err(fail)?;
            Some((tcp, url))
        }
        (None, Listen::None) => None,
        (None, Listen::Tcp(address)) => {
            let tcp = listen::bind_tcp(address).map_err(fail)?;
            let url = tcp.url();
            Some((tcp.listener, url))
        }
    };
    Ok(Bound {
        unix,
        unix_url,
        file,
        tcp,
    })
}

async fn serve(parts: Parts, args: &SettingsArgs) -> ExitCode {
    let Parts {
        settings,
        places,
        logs,
        engine,
        gateway,
        bus,
        clock,
        counters,
        reader,
        listeners,
        lock,
    } = parts;
    // The engine's thread may outlive this function by a moment: the lock goes with the process.
    std::mem::forget(lock);
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("signals cannot be received: {error}")),
    };
    let Bound {
        unix,
        unix_url,
        file: _file,
        tcp,
    } = listeners;
    let urls: Vec<String> = std::iter::once(unix_url)
        .chain(tcp.iter().map(|(_, url)| url.clone()))
        .collect();
    let banner = banner(&urls, &places, settings.server.auth);

    let info = engine.info().clone();
    let (handle, run) = spawn(engine);
    let engine_ended = start_engine(run);
    let overview = Overview {
        store: info.store,
        source: info.source,
        gateway: gateway.name().to_owned(),
        started_at: clock.now(),
        data_dir: places.data_dir.path.display().to_string(),
        listeners: urls,
    };
    let random = Arc::new(SystemRandom);
    let app = App::new(
        handle.clone(),
        Arc::new(reader),
        bus,
        Arc::clone(&clock),
        random,
        counters,
        overview,
    );

    let listeners = match to_tokio(unix, tcp) {
        Ok(listeners) => listeners,
        Err(error) => return fail(format_args!("a listening socket cannot be used: {error}")),
    };
    let stop = CancellationToken::new();
    let app = Arc::new(app);
    let mut server = tokio::spawn(http::serve(Arc::clone(&app), listeners, stop.clone()));
    let mut workers = start_workers(&settings, &handle, &gateway, &clock, &stop);
    tokio::spawn(expire_answers(handle.clone(), stop.clone()));

    tokio::spawn(manager::feed_watchdog(handle.clone(), stop.clone()));
    tokio::spawn(manager::keep_status(app, stop.clone()));

    say(banner);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), store = %info.store, events = info.head.sequence, "payd is ready");
    systemd::ready();

    let reason = loop {
        tokio::select! {
            wish = signals.next() => match wish {
                Wish::Stop(signal) => break signal,
                Wish::Reload => {
                    systemd::reloading();
                    reload(args, &logs);
                    systemd::ready();
                }
            },
            _ = &mut server => return fail("the HTTP listeners stopped by themselves"),
            _ = &mut workers => return fail("the workers stopped by themselves"),
        }
    };
    tracing::info!(signal = reason, grace = ?settings.server.grace, "stopping: no new work, and what is in flight is finished");
    systemd::stopping(settings.server.grace + STOP_MARGIN);
    stop.cancel();
    let drained = async {
        // Workers that wait for work are told that there is none; those at the gateway finish.
        let _ = handle.submit_own(Action::StopClaims).await;
        let _ = tokio::join!(&mut server, &mut workers);
        drop(handle);
        // The engine ends when the last who could ask it is gone, and everything asked is decided.
        let _ = engine_ended.await;
    };
    tokio::select! {
        () = drained => tracing::info!("stopped"),
        () = tokio::time::sleep(settings.server.grace) => {
            tracing::warn!("stopped after the grace time; what was in flight is looked up at the next start");
        }
        Wish::Stop(signal) = async { loop { let wish = signals.next().await; if wish != Wish::Reload { break wish } } } => {
            tracing::warn!(signal, "stopped at once by a second signal; what was in flight is looked up at the next start");
        }
    }
    ExitCode::SUCCESS
}

/// The engine has a thread to itself, since it blocks while it commits. Where it cannot go on, the
/// process ends there and then: nothing else may reach the world (invariant 11).
fn start_engine(run: Run<SqliteStore>) -> oneshot::Receiver<()> {
    let (ended, wait) = oneshot::channel();
    let body = move || {
        let _guard = EndOnPanic;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(run.run()),
            Err(error) => Err(Fatal(format!("the engine's timer does not start: {error}"))),
        };
        if let Err(fatal) = result {
            end(&fatal.to_string());
        }
        let _ = ended.send(());
    };
    if let Err(error) = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(body)
    {
        end(&format!("the engine's thread does not start: {error}"));
    }
    wait
}

/// An engine that panicked has an unknown state: the process must not outlive it.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            end("the engine panicked; this is a mistake in payd. What was acknowledged is on disk");
        }
    }
}

fn end(why: &str) -> ! {
    tracing::error!("{why}");
    complain(why);
    std::process::exit(1)
}

/// Lets time pass for kept answers, and drops those that are old enough. The time up to the stop
/// counts too, so that a daemon that is restarted every half hour forgets as well.
async fn expire_answers(engine: EngineHandle, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let since = tokio::time::Instant::now();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(EXPIRY_INTERVAL) => {}
        }
        let mut lived = since.elapsed();
        loop {
            match engine.submit_own(Action::ExpireAnswers { lived }).await {
                // None went: nothing is old enough.
                Ok(Outcome::Fresh(Ok(Reply::Expired(1..)), _)) if !stop.is_cancelled() => {
                    lived = Duration::ZERO;
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old answers could not be dropped; it is tried again in an hour");
                    break;
                }
            }
        }
    }
}

fn start_workers(
    settings: &Settings,
    engine: &EngineHandle,
    gateway: &Arc<dyn Gateway>,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let processor = Processor {
        engine: engine.clone(),
        gateway: Arc::clone(gateway),
        concurrency: settings.gateway.concurrency,
        timeout: settings.gateway.timeout,
        stop: stop.clone(),
    };
    let resolver = Resolver {
        engine: engine.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        concurrency: LOOKUPS_MAX,
        timeout: settings.gateway.timeout,
        stop: stop.clone(),
    };
    let prober = Prober {
        engine: engine.clone(),
        gateway: Arc::clone(gateway),
        timeout: settings.gateway.timeout,
        stop: stop.clone(),
    };
    tokio::spawn(async move {
        tokio::join!(processor.run(), resolver.run(), prober.run());
    })
}

fn gateway(settings: &Settings, clock: &Arc<dyn Clock>) -> Arc<dyn Gateway> {
    let weather = match &settings.gateway.kind {
        GatewayKind::Simulator(simulator) => Weather {
            latency: simulator.latency,
            decline_ppm: simulator.decline_rate.per_million(),
            timeout_ppm: simulator.timeout_rate.per_million(),
            lost_ppm: simulator.lost_rate.per_million(),
        },
        GatewayKind::Http(_) => unreachable!("refused with the settings"),
    };
    Arc::new(Simulator::new(Arc::clone(clock), weather))
}

fn policy(settings: &Settings, gateway: &dyn Gateway) -> Policy {
    Policy {
        retry: RetryPolicy {
            base: settings.retry.base,
            cap: settings.retry.cap,
            max_attempts: NonZeroU32::new(settings.retry.max_attempts).unwrap_or(NonZeroU32::MIN),
        },
        lookup: LookupPolicy {
            base: settings.resolver.base,
            cap: settings.resolver.cap,
            attention_after: settings.resolver.attention_after,
        },
        lookup_lag: gateway.lookup_lag(),
        lease: settings.gateway.timeout + LEASE_MARGIN,
        gateway: gateway.name().to_owned(),
    }
}

fn reload(args: &SettingsArgs, logs: &Logs) {
    let Ok((loaded, _)) = settings(args.config.as_deref(), args.flags()) else {
        tracing::error!("the settings have mistakes; those that held go on holding");
        return;
    };
    match logs.set_level(loaded.settings.log.level.as_str()) {
        Ok(()) => tracing::info!(
            level = loaded.settings.log.level.as_str(),
            "log.level was read again; other settings need a restart"
        ),
        Err(error) => tracing::error!(%error, "log.level stays as it was"),
    }
}

fn to_tokio(
    unix: std::os::unix::net::UnixListener,
    tcp: Option<(std::net::TcpListener, String)>,
) -> std::io::Result<Vec<Listener>> {
    let mut listeners = vec![Listener::Unix(tokio::net::UnixListener::from_std(unix)?)];
    if let Some((tcp, _)) = tcp {
        listeners.push(Listener::Tcp(tokio::net::TcpListener::from_std(tcp)?));
    }
    Ok(listeners)
}

/// What a newcomer wants to know: where it listens, how safe that is, and what to type next.
fn banner(urls: &[String], places: &Places, auth: Auth) -> String {
    let mut text = format!(
        "payd {} is ready; data in {}\n",
        env!("CARGO_PKG_VERSION"),
        places.data_dir.path.display()
    );
    for url in urls {
        let who = if url.starts_with("unix:") {
            "who may open the file may use it"
        } else if auth == Auth::None {
            "NO TOKEN IS ASKED FOR (--dev): every user of this machine may use it"
        } else {
            "no token is asked for yet: every user of this machine may use it"
        };
        text.push_str(&format!("  listening on {url}\n    {who}\n"));
    }
    text.push_str("The gateway is a simulator: it moves no money. Try, in another terminal:\n");
    // payctl finds the usual places by itself.
    let host = match urls.first() {
        Some(url) if places.socket.why == "given" => format!(" --host {url}"),
        _ => String::new(),
    };
    for command in [
        "invoice create inv-1 --amount 1000",
        "pay inv-1",
        "events tail -f",
    ] {
        text.push_str(&format!("  payctl{host} {command}\n"));
    }
    text
}

fn log_format(format: LogFormat) -> Format {
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match format {
        LogFormat::Text => Format::Text {
            color: color && std::io::stderr().is_terminal(),
        },
        LogFormat::Json => Format::Json,
        LogFormat::Auto => Format::auto(std::io::stderr().is_terminal(), color),
    }
}

fn new_uuid(clock: &SystemClock) -> uuid::Uuid {
    let mut random = [0; 10];
    SystemRandom.fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(clock.now_ms()).unwrap_or(0), &random)
        .into_uuid()
}
