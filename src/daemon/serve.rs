//! `payd serve`: puts the parts together, runs them until told to stop, and takes them apart in an
//! order in which nothing that was acknowledged is lost.

use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::application::ports::{Clock, Gateway, Random, Store, StoreError};
use crate::application::request::{Action, Outcome, Reply};
use crate::application::{
    App, Bus, Engine, EngineHandle, Fatal, Metrics, Overview, Policy, Prober, Processor, Resolver,
    Run, Surroundings, spawn,
};
use crate::config::{Auth, GatewayKind, Listen, LogFormat, Settings};
use crate::domain::{LookupPolicy, RetryPolicy, Timestamp};
use crate::failpoints;
use crate::http::{self, Listener};
use crate::infrastructure::clock::SystemClock;
use crate::infrastructure::directories::Places;
use crate::infrastructure::gateway::{HttpGateway, HttpOptions, Simulator, Weather};
use crate::infrastructure::listen::{self, SocketFile};
use crate::infrastructure::lock::{self, DatabaseLock};
use crate::infrastructure::logging::{self, Format, Logs};
use crate::infrastructure::random::SystemRandom;
use crate::infrastructure::store::{SqliteReader, SqliteStore, open_writer, remove_leftovers};
use crate::infrastructure::systemd::{self, Passed};
use crate::infrastructure::telemetry::{
    Losses, MeasuredGateway, PrometheusMetrics, SpanCounts, TracedEvents,
};

use super::access;
use super::args::SettingsArgs;
use super::commands::{complain, fail, read_settings, say, settings, source};
use super::manager;
use super::signals::{self, Signals, Wish};
use super::traces::Traces;

/// How much longer a claim holds than a send may take: time to record its outcome, also when the
/// disk is full for a while.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// How much longer a call is waited for than the gateway itself waits.
const CALL_MARGIN: Duration = Duration::from_secs(1);

/// Lookups at once, beside the sends.
const LOOKUPS_MAX: usize = 16;

/// How long the last words may take.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Threads for reads that block. SQLite serves a page in well under a millisecond, and the machine
/// has few cores: more threads would only be more memory.
const READ_THREADS_MAX: usize = 16;

/// The same for what comes over TCP, which has few reads at a time; beside them a backup or a check.
const TCP_READ_THREADS_MAX: usize = 6;

/// How often kept answers are looked through for old ones.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);

/// A wall clock that is this far from payd's time is told in the log, in milliseconds.
const WALL_CLOCK_TOLERANCE_MS: i64 = 5_000;

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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(READ_THREADS_MAX)
        .thread_name("payd")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            if let Err(error) = runtime.block_on(async { signals::outlive_file_size_limit() }) {
                return fail(format_args!("SIGXFSZ cannot be handled: {error}"));
            }
            // Before any other thread has something to do.
            let parts = match prepare(&loaded.settings, &places, passed) {
                Ok(parts) => parts,
                Err(code) => return code,
            };
            let tcp = match tcp_runtime(&parts.listeners) {
                Ok(tcp) => tcp,
                Err(error) => {
                    return fail(format_args!("the runtime of TCP does not start: {error}"));
                }
            };
            let of_tcp = tcp.as_ref().unwrap_or(&runtime).handle().clone();
            let code = runtime.block_on(serve(parts, of_tcp, args));
            // What has not ended within the grace time is cut off here.
            if let Some(tcp) = tcp {
                tcp.shutdown_background();
            }
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(format_args!("the runtime does not start: {error}")),
    }
}

/// A runtime of TCP's own, where payd listens on it. All that comes over TCP, however much it is, has
/// threads that are not those of the socket and of the work on payments: those are woken when there is
/// something for them, and the kernel lets who has slept go first.
fn tcp_runtime(listeners: &Bound) -> std::io::Result<Option<Runtime>> {
    if listeners.tcp.is_none() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(TCP_READ_THREADS_MAX)
        .thread_name("payd-tcp")
        .enable_all()
        .build();
    runtime.map(Some)
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
    metrics: Arc<dyn Metrics>,
    traces: Traces,
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
    tcp: Option<Tcp>,
}

/// The TCP listener, and what is told of it.
struct Tcp {
    listener: std::net::TcpListener,
    url: String,
    #[cfg(feature = "tls")]
    tls: Option<http::Tls>,
}

fn prepare(settings: &Settings, places: &Places, passed: Passed) -> Result<Parts, ExitCode> {
    places.make().map_err(fail)?;
    let logs = logging::start(logging::Options {
        level: settings.log.level.as_str(),
        format: log_format(settings.log.format),
        dir: places.log_dir.as_ref().map(|dir| dir.path.as_path()),
    })
    .map_err(fail)?;
    logging::log_panics();
    http::tell_of_panics();
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
    remove_leftovers(&path);
    let reader = store.reader().map_err(|error| broken(&error))?;
    let info = store.info().map_err(|error| broken(&error))?;
    let newest = info.head.time.map_or(i64::MIN, |time| time.as_millis());
    let clock = SystemClock::go_on(&places.clock(), newest);
    let wall_ahead_ms = clock.wall_ahead_at_start_ms();
    if wall_ahead_ms < -WALL_CLOCK_TOLERANCE_MS {
        tracing::warn!(
            behind_ms = -wall_ahead_ms,
            "the wall clock is behind payd's time, which never goes backwards; it goes on from where it stood"
        );
    } else if wall_ahead_ms > WALL_CLOCK_TOLERANCE_MS {
        tracing::warn!(
            ahead_ms = wall_ahead_ms,
            "the wall clock was moved ahead since payd last ran, and payd does not follow it, so that nothing is retried too \
             early; where the wall clock is right now, stop payd, remove payd.clock from its data directory, and start it again"
        );
    }
    let clock: Arc<dyn Clock> = Arc::new(clock);
    let bus = Bus::new(0);
    let losses = Losses {
        log_lines: logs.dropped(),
        spans: SpanCounts::default(),
    };
    let source = info.source.to_string();
    let traces = Traces::prepare(&settings.telemetry, &source, losses.spans.clone())
        .map_err(|error| fail(format_args!("traces cannot be set up: {error}")))?;
    let metrics: Arc<dyn Metrics> = match PrometheusMetrics::new(losses) {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return Err(fail(format_args!("metrics cannot be set up: {error}"))),
    };
    let metrics = match &traces.tracer {
        Some(tracer) => Arc::new(TracedEvents::new(metrics, Arc::clone(tracer))),
        None => metrics,
    };
    let gateway: Arc<dyn Gateway> = Arc::new(MeasuredGateway::new(
        gateway(settings, places, &clock)?,
        Arc::clone(&metrics),
        traces.tracer.clone(),
    ));
    let random = Arc::new(SystemRandom);
    access::admin_token(&mut store, places, random.as_ref(), clock.wall())
        .map_err(|error| broken(&error))?;
    let mut engine = Engine::new(
        store,
        policy(settings, gateway.as_ref()),
        Arc::clone(&clock),
        random,
        bus.clone(),
        Arc::clone(&metrics),
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
        metrics,
        traces,
        reader,
        listeners,
        lock,
    })
}

fn bind(settings: &Settings, places: &Places, passed: Passed) -> Result<Bound, ExitCode> {
    let tls = access::tls::load(settings, places).map_err(fail)?;
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
        (Some(listener), _) => {
            let address = listener.local_addr().map_err(fail)?;
            let guarded = tls.is_some() && settings.server.auth == Auth::Token;
            if !address.ip().is_loopback() && !guarded {
                return Err(fail(format_args!(
                    "the socket unit hands over {address}, which other machines reach: that takes TLS (server.tls_cert, server.tls_key) and server.auth = \"token\""
                )));
            }
            Some(Tcp {
                url: listen::tcp_url(address, tls.is_some()),
                listener,
                #[cfg(feature = "tls")]
                tls,
            })
        }
        (None, Listen::None) => None,
        (None, Listen::Tcp(address)) => {
            let tcp = listen::bind_tcp(address).map_err(fail)?;
            Some(Tcp {
                url: tcp.url(tls.is_some()),
                listener: tcp.listener,
                #[cfg(feature = "tls")]
                tls,
            })
        }
    };
    Ok(Bound {
        unix,
        unix_url,
        file,
        tcp,
    })
}

async fn serve(parts: Parts, of_tcp: Handle, args: &SettingsArgs) -> ExitCode {
    let Parts {
        settings,
        places,
        logs,
        engine,
        gateway,
        bus,
        clock,
        metrics,
        mut traces,
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
        .chain(tcp.iter().map(|tcp| tcp.url.clone()))
        .collect();
    let banner = banner(&urls, &places, &settings);

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
        restored: info.restored.clone(),
    };
    let random = Arc::new(SystemRandom);
    let app = App::new(
        handle.clone(),
        Arc::new(reader),
        bus,
        Arc::clone(&clock),
        random,
        metrics,
        overview,
    )
    .traced(traces.tracer.clone());
    traces.run();
    let typed = args.clone();
    let app = app.with_surroundings(Surroundings {
        gateway: Arc::clone(&gateway),
        timeout: settings.gateway.timeout,
        reread: Box::new(move || {
            let read = read_settings(typed.config.as_deref(), typed.flags());
            read.map(|(loaded, _)| source(&loaded))
        }),
        wall: Box::new(|| Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())),
    });

    let (listeners, tls) = match to_tokio(unix, tcp, &of_tcp) {
        Ok(both) => both,
        Err(error) => return fail(format_args!("a listening socket cannot be used: {error}")),
    };
    let stop = CancellationToken::new();
    let options = access::options(&settings);
    if !options.asks_token && settings.server.listen != Listen::None {
        tracing::warn!(
            "NO TOKEN IS ASKED FOR: every user of this machine may use payd over TCP (--dev, or server.auth = \"none\")"
        );
    }
    let app = Arc::new(app);
    let serving = {
        let (app, stop) = (Arc::clone(&app), stop.clone());
        async move { http::serve(app, listeners, &of_tcp, options, stop).await }
    };
    let mut server = tokio::spawn(serving);
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
                    reload(args, &logs, tls.as_ref());
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
    if let Err(failed) = failpoints::reach("drain.begin") {
        return fail(failed);
    }
    let drained = async {
        // Workers that wait for work are told that there is none; those at the gateway finish.
        let _ = handle.submit_own(Action::StopClaims).await;
        let _ = tokio::join!(&mut server, &mut workers);
        if let Err(failed) = failpoints::reach("drain.workers_done") {
            end(&failed.to_string());
        }
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
    traces.flush().await;
    ExitCode::SUCCESS
}

/// The engine has a thread to itself, since it blocks while it commits. Where it cannot go on, the
/// process ends there and then: nothing else may reach the world (invariant 11).
fn start_engine(mut run: Run<SqliteStore>) -> oneshot::Receiver<()> {
    let (ended, wait) = oneshot::channel();
    let telling = run.tell_elsewhere();
    let teller = std::thread::Builder::new()
        .name("teller".to_owned())
        .spawn(move || telling.run())
        .unwrap_or_else(|error| end(&format!("the thread for log lines does not start: {error}")));
    let sealing = run.seal_elsewhere();
    if let Err(error) = std::thread::Builder::new()
        .name("sealer".to_owned())
        .spawn(move || sealing.run())
    {
        end(&format!(
            "the thread that links events into the log does not start: {error}"
        ));
    }
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
        // What was committed is told before payd says that it has stopped.
        if teller.join().is_err() {
            tracing::error!("the thread for log lines panicked; this is a mistake in payd");
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
    logging::flush();
    // A stderr that nobody reads must not keep the process from ending.
    let (said, wait) = std::sync::mpsc::channel();
    let why = why.to_owned();
    let speaker = std::thread::Builder::new().spawn(move || {
        complain(why);
        let _ = said.send(());
    });
    if speaker.is_ok() {
        let _ = wait.recv_timeout(LAST_WORDS_MAX);
    }
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
        timeout: call_limit(settings),
        stop: stop.clone(),
    };
    let resolver = Resolver {
        engine: engine.clone(),
        gateway: Arc::clone(gateway),
        clock: Arc::clone(clock),
        concurrency: LOOKUPS_MAX,
        timeout: call_limit(settings),
        stop: stop.clone(),
    };
    let prober = Prober {
        engine: engine.clone(),
        gateway: Arc::clone(gateway),
        timeout: call_limit(settings),
        stop: stop.clone(),
    };
    tokio::spawn(async move {
        tokio::join!(processor.run(), resolver.run(), prober.run());
    })
}

fn gateway(
    settings: &Settings,
    places: &Places,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Gateway>, ExitCode> {
    let http = match &settings.gateway.kind {
        GatewayKind::Simulator(simulator) => {
            let weather = Weather {
                latency: simulator.latency,
                decline_ppm: simulator.decline_rate.per_million(),
                timeout_ppm: simulator.timeout_rate.per_million(),
                lost_ppm: simulator.lost_rate.per_million(),
            };
            return Ok(Arc::new(Simulator::new(Arc::clone(clock), weather)));
        }
        GatewayKind::Http(http) => http,
    };
    let token_file = http.token_file.as_deref();
    let token_file = token_file.map(|file| places.credential(file)).transpose();
    let options = HttpOptions {
        url: http.url.as_str().to_owned(),
        token_file: token_file.map_err(fail)?,
        lookup_lag: http.lookup_lag,
        timeout: settings.gateway.timeout,
        connect_timeout: settings.gateway.connect_timeout,
        idle_max: settings.gateway.concurrency,
    };
    let gateway = HttpGateway::new(options).map_err(fail)?;
    if gateway.is_open_to_the_network() {
        tracing::warn!(
            url = http.url.as_str(),
            "the gateway is on another machine and its URL is not https: payments and its token cross the network in the clear"
        );
    }
    Ok(Arc::new(gateway))
}

/// How long processor, resolver and prober wait for a call. The simulator has no time limit of its own. The
/// http gateway has, and knows better what it means when it passes: whether anything was sent.
fn call_limit(settings: &Settings) -> Duration {
    let limit = settings.gateway.timeout;
    match settings.gateway.kind {
        GatewayKind::Simulator(_) => limit,
        GatewayKind::Http(_) => limit + CALL_MARGIN,
    }
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
        lease: settings.gateway.timeout + failpoints::lease_margin(LEASE_MARGIN),
        gateway: gateway.name().to_owned(),
    }
}

fn reload(args: &SettingsArgs, logs: &Logs, tls: Option<&access::tls::Source>) {
    let Ok((loaded, places)) = settings(args.config.as_deref(), args.flags()) else {
        tracing::error!("the settings have mistakes; those that held go on holding");
        return;
    };
    access::tls::reload(tls, &loaded.settings, &places);
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
    tcp: Option<Tcp>,
    of_tcp: &Handle,
) -> std::io::Result<(Vec<Listener>, Option<access::tls::Source>)> {
    let mut listeners = vec![Listener::Unix(tokio::net::UnixListener::from_std(unix)?)];
    let Some(tcp) = tcp else {
        return Ok((listeners, None));
    };
    let listener = {
        let _there = of_tcp.enter();
        tokio::net::TcpListener::from_std(tcp.listener)?
    };
    #[cfg(feature = "tls")]
    if let Some(tls) = tcp.tls {
        let (source, tls) = tokio::sync::watch::channel(tls);
        listeners.push(Listener::Tls(listener, tls));
        return Ok((listeners, Some(source)));
    }
    listeners.push(Listener::Tcp(listener));
    Ok((listeners, None))
}

/// What a newcomer wants to know: where it listens, how safe that is, and what to type next.
fn banner(urls: &[String], places: &Places, settings: &Settings) -> String {
    let mut text = format!(
        "payd {} is ready; data in {}\n",
        env!("CARGO_PKG_VERSION"),
        places.data_dir.path.display()
    );
    for url in urls {
        let who = if url.starts_with("unix:") {
            "who may open the file may use it".to_owned()
        } else if settings.server.auth == Auth::None {
            "NO TOKEN IS ASKED FOR (--dev): every user of this machine may use it".to_owned()
        } else {
            format!(
                "a token is needed; the admin's is in {}",
                places.token().display()
            )
        };
        text.push_str(&format!("  listening on {url}\n    {who}\n"));
    }
    let gateway = match &settings.gateway.kind {
        GatewayKind::Simulator(_) => "a simulator: it moves no money".to_owned(),
        GatewayKind::Http(http) => format!("{}: it moves money", http.url.as_str()),
    };
    // What moves money is nothing to try.
    let (verb, commands) = match &settings.gateway.kind {
        GatewayKind::Simulator(_) => (
            "Try",
            [
                "invoice create inv-1 --amount 1000",
                "pay inv-1",
                "events tail -f",
            ],
        ),
        GatewayKind::Http(_) => ("Look at it", ["status", "doctor", "events tail -f"]),
    };
    text.push_str(&format!(
        "The gateway is {gateway}. {verb}, in another terminal:\n"
    ));
    // payctl finds the usual places by itself.
    let host = match urls.first() {
        Some(url) if places.socket.why == "given" => format!(" --host {url}"),
        _ => String::new(),
    };
    for command in commands {
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

pub(super) fn new_uuid(clock: &SystemClock) -> uuid::Uuid {
    let mut random = [0; 10];
    SystemRandom.fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(clock.now_ms()).unwrap_or(0), &random)
        .into_uuid()
}
