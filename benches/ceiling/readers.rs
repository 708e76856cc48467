//! What live readers of the log cost those who pay: the same load with and without them, in turn.
//!
//! The readers take what comes and look at none of it, half of them as lines and half as server-sent
//! events, all on one thread into one buffer: they share the processors with what is measured. That they
//! were live is seen from how much they were sent, and from how far payd says that they are behind.
//!
//! The same once more with nothing but the bytes: as many a second as payd sent, through as many sockets, from a thread that
//! writes what lies ready. What that takes from the payments, no payd can spare.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::arguments::{Kind, Limits};
use crate::compare::measure;
use crate::figures::{Figures, median, medians, ratio};
use crate::limits::{block_on, line, load};
use crate::server::{GatewayStub, Server};
use crate::wire::{Wire, get};

/// Readers of the log while payments are made: as many as payd lets in.
const READERS: usize = 32;

/// What lies ready, as much as is written at a time, and the time between two times, as payd does.
static READY: [u8; 192 * 1024] = [b'.'; 192 * 1024];
const PACE: Duration = Duration::from_millis(20);

/// Between two looks at how far they are behind.
const LOOK: Duration = Duration::from_millis(250);

/// What the readers got.
#[derive(Debug, Clone, Copy)]
struct Taken {
    mib_a_second: f64,
    /// Events that the slowest was behind, at the median of the looks.
    behind: f64,
}

/// What the readers read.
#[derive(Debug, Clone)]
enum Source {
    /// The log, as this payd sends it.
    Events(PathBuf),
    /// So many MiB a second in all, which mean nothing.
    Bytes(f64),
}

/// Payments with and without live readers of the log, in turn.
pub(crate) fn readers(payd: &Path, arguments: &Limits) {
    let stub = GatewayStub::start();
    let one = |count: usize, bytes: Option<f64>| {
        let server = Server::payd(payd, Some(stub.port));
        let (stop, stopped) = channel::<()>();
        let events = Source::Events(server.socket.clone());
        let reading = start(bytes.map_or(events, Source::Bytes), count, stopped);
        let figures = measure(&server, load(Kind::Pay, arguments.seconds, 64));
        stop.send(()).unwrap();
        let taken = reading.join().unwrap();
        server.stop();
        (figures, taken)
    };
    let (mut with, mut without): (Vec<Figures>, Vec<Figures>) = (Vec::new(), Vec::new());
    let (mut takings, mut bare, mut bare_takings) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        let mut with_them = || {
            let (figures, taken) = one(READERS, None);
            with.push(figures);
            takings.push(taken);
            let (figures, bytes) = one(READERS, Some(taken.mib_a_second));
            bare.push(figures);
            bare_takings.push(bytes.mib_a_second);
        };
        if round % 2 == 0 {
            with_them();
            without.push(one(0, None).0);
        } else {
            without.push(one(0, None).0);
            with_them();
        }
    }
    let (a, b) = (medians(&with), medians(&without));
    let what = |what: &str| format!("{READERS} readers: {what}");
    line(
        &what("payments with them / without"),
        ratio(&with, &without, |it| it.rate),
        "",
        "at least 0.9",
    );
    line(&what("payments a second with them"), a.rate, "/s", "");
    line(&what("payments a second without"), b.rate, "/s", "");
    let cpu = ratio(&with, &without, |it| it.cpu_per_10k);
    line(&what("CPU a payment, payd's, with / without"), cpu, "", "");
    let p99 = ratio(&with, &without, |it| it.p99_ms);
    line(&what("p99 with them / without"), p99, "", "");
    line(&what("memory with them"), a.memory_mib, "MiB", "at most 64");
    let mib = median(takings.iter().map(|it| it.mib_a_second));
    line(&what("sent to all of them"), mib, "MiB/s", "");
    let behind = median(takings.iter().map(|it| it.behind));
    line(&what("the slowest is behind, p50"), behind, "", "");
    let what = |what: &str| format!("{READERS} sockets with nothing but the bytes: {what}");
    let rate = ratio(&bare, &without, |it| it.rate);
    line(&what("payments / without"), rate, "", "");
    let mib = median(bare_takings);
    line(&what("sent"), mib, "MiB/s", "");
}

/// Reads on a thread of its own until it is stopped.
fn start(source: Source, count: usize, stopped: Receiver<()>) -> JoinHandle<Taken> {
    std::thread::spawn(move || {
        block_on(async {
            let mut streams = Vec::new();
            match &source {
                Source::Events(socket) => {
                    for n in 0..count {
                        let media = ["application/x-ndjson", "text/event-stream"][n % 2];
                        streams.push(subscribe(socket, "now", media).await);
                    }
                }
                Source::Bytes(mib_a_second) => {
                    let pairs = (0..count).map(|_| UnixStream::pair().unwrap());
                    let (ours, others): (Vec<_>, Vec<_>) = pairs.unzip();
                    streams = ours;
                    write(others, *mib_a_second);
                }
            }
            let bytes = Rc::new(Cell::new(0_u64));
            let buffer = Rc::new(RefCell::new(vec![0; 64 * 1024]));
            let readers = LocalSet::new();
            for stream in streams {
                let (bytes, buffer) = (Rc::clone(&bytes), Rc::clone(&buffer));
                readers.spawn_local(async move {
                    let ended = take_all(&stream, &bytes, &buffer).await;
                    panic!("a reader's stream ended: {ended:?}");
                });
            }
            let watching = async {
                let mut wire = match &source {
                    Source::Events(socket) => Some(Wire::open(socket).await.unwrap()),
                    Source::Bytes(_) => None,
                };
                let (since, mut looks) = (Instant::now(), Vec::new());
                while stopped.try_recv() == Err(TryRecvError::Empty) {
                    tokio::time::sleep(LOOK).await;
                    if let Some(wire) = &mut wire {
                        looks.push(behind(wire).await);
                    }
                }
                let mib = bytes.get() as f64 / 1024.0 / 1024.0;
                Taken {
                    mib_a_second: mib / since.elapsed().as_secs_f64(),
                    behind: wire.map_or(0.0, |_| median(looks)),
                }
            };
            readers.run_until(watching).await
        })
    })
}

/// Writes until the readers are gone, on a thread of its own.
fn write(streams: Vec<UnixStream>, mib_a_second: f64) {
    let streams = streams.into_iter().map(UnixStream::into_std);
    let streams: Vec<_> = streams.collect::<Result<_, _>>().unwrap();
    let a_time = mib_a_second * 1024.0 * 1024.0 * PACE.as_secs_f64() / streams.len() as f64;
    std::thread::spawn(move || {
        block_on(async {
            let writers = LocalSet::new();
            for stream in streams {
                let mut stream = UnixStream::from_std(stream).unwrap();
                writers.spawn_local(async move {
                    let mut times = interval(PACE);
                    times.set_missed_tick_behavior(MissedTickBehavior::Burst);
                    loop {
                        times.tick().await;
                        let mut left = a_time as usize;
                        while left > 0 {
                            let piece = &READY[..left.min(READY.len())];
                            // Its reader is gone.
                            if stream.write_all(piece).await.is_err() {
                                return;
                            }
                            left -= piece.len();
                        }
                    }
                });
            }
            writers.await;
        });
    });
}

async fn take_all(
    stream: &UnixStream,
    bytes: &Cell<u64>,
    buffer: &RefCell<Vec<u8>>,
) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer.borrow_mut()) {
            Ok(0) => return Ok(()),
            Ok(read) => bytes.set(bytes.get() + read as u64),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn behind(wire: &mut Wire) -> f64 {
    let answer = wire.send(&get("/metrics")).await.unwrap();
    let text = String::from_utf8_lossy(answer.body);
    let lag = text
        .lines()
        .find_map(|line| line.strip_prefix("payd_event_stream_lag_events "));
    lag.and_then(|it| it.parse().ok()).unwrap()
}

/// A stream of the log, from a cursor on.
pub(crate) async fn subscribe(socket: &Path, after: &str, media: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request =
        format!("GET /events?after={after} HTTP/1.1\r\nhost: localhost\r\naccept: {media}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}
