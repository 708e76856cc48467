//! The load: so many connections, each with one request at a time and the next as soon as it is answered
//! (a closed loop), on one thread. What is counted is what ended while it was being measured.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::LocalSet;

use crate::arguments::Kind;
use crate::wire::{Peer, Wire, get, post};

/// What to send, how, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Invoices in a request, where they come in bulk.
    pub(crate) lines: usize,
    /// Whether requests have an Idempotency-Key.
    pub(crate) keys: bool,
    /// Ids in no order, as clients that draw their own send them; else each is after the one before.
    pub(crate) random_ids: bool,
    /// Where ids begin, so that two loads on one store do not meet.
    pub(crate) first: u64,
    /// How many there are already, from 0 on.
    pub(crate) existing: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Invoices created, or payments that succeeded.
    pub(crate) count: u64,
    /// What went otherwise, and the first of it.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) elapsed: Duration,
    /// Microseconds from the first byte out to the last byte in; of a payment both requests together.
    pub(crate) latency: Histogram<u64>,
}

struct Shared {
    load: Load,
    /// The header of each request that says who asks, if any.
    authorization: String,
    next: Cell<u64>,
    measuring: Cell<bool>,
    stop: Cell<bool>,
    count: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    latency: RefCell<Histogram<u64>>,
}

/// Makes the load. `mark` is called where the measuring begins and where it ends.
pub(crate) async fn run<T>(peer: &Peer, load: Load, mark: impl Fn() -> T) -> (Measured, T, T) {
    let shared = Rc::new(Shared {
        next: Cell::new(load.first),
        measuring: Cell::new(false),
        stop: Cell::new(false),
        count: Cell::new(0),
        errors: Cell::new(0),
        first_error: RefCell::new(None),
        latency: RefCell::new(Histogram::new_with_bounds(1, 120_000_000, 3).unwrap()),
        load,
        authorization: peer.authorization(),
    });
    let connections = LocalSet::new();
    for _ in 0..shared.load.connections {
        let wire = peer.open().await.unwrap();
        connections.spawn_local(drive(wire, Rc::clone(&shared)));
    }
    let clock = async {
        tokio::time::sleep(shared.load.warm_up).await;
        let (begin, since) = (mark(), Instant::now());
        shared.measuring.set(true);
        tokio::time::sleep(shared.load.measured).await;
        shared.measuring.set(false);
        let (end, elapsed) = (mark(), since.elapsed());
        shared.stop.set(true);
        (begin, end, elapsed)
    };
    let (begin, end, elapsed) = connections.run_until(clock).await;
    connections.await;
    let measured = Measured {
        count: shared.count.get(),
        errors: shared.errors.get(),
        first_error: shared.first_error.borrow().clone(),
        elapsed,
        latency: shared.latency.borrow().clone(),
    };
    (measured, begin, end)
}

async fn drive(mut wire: Wire, shared: Rc<Shared>) {
    while !shared.stop.get() {
        let began = Instant::now();
        let outcome = match shared.load.kind {
            Kind::Create => create(&mut wire, &shared).await.map(|_| 1),
            Kind::Pay => pay(&mut wire, &shared).await,
            Kind::Bulk => bulk(&mut wire, &shared).await,
            Kind::Show => show(&mut wire, &shared).await,
        };
        if !shared.measuring.get() {
            continue;
        }
        match outcome {
            Ok(count) => {
                shared.count.set(shared.count.get() + count);
                let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                shared.latency.borrow_mut().saturating_record(took);
            }
            Err(error) => {
                shared.errors.set(shared.errors.get() + 1);
                shared.first_error.borrow_mut().get_or_insert(error);
            }
        }
    }
}

impl Shared {
    fn id(&self) -> String {
        let n = self.next.get();
        self.next.set(n + 1);
        id(n, self.load.random_ids)
    }

    /// The headers with a key and with who asks.
    fn headers(&self, what: &str, id: &str) -> String {
        let who = &self.authorization;
        if !self.load.keys {
            return who.clone();
        }
        format!("{who}idempotency-key: {}\r\n", key(what, id))
    }
}

/// An idempotency key in no order, as most clients draw them (UUIDv4).
pub(crate) fn key(what: &str, id: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (what, id).hash(&mut hasher);
    let n = hasher.finish();
    format!("{n:016x}{:016x}", mix(n))
}

/// SplitMix64's finalizer: a permutation, so that no two are the same.
const fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The `n`th id: one after the other, or in no order.
pub(crate) fn id(n: u64, random: bool) -> String {
    if random {
        format!("order-{:016x}", mix(n))
    } else {
        format!("order-{n:016x}")
    }
}

/// The invoice that all loads and stores are made of.
pub(crate) fn invoice(id: &str) -> String {
    format!(r#"{{"id":"{id}","amount":1000,"currency":"EUR"}}"#)
}

async fn create(wire: &mut Wire, shared: &Shared) -> Result<String, String> {
    let id = shared.id();
    let request = post(
        "/invoices",
        "application/json",
        &shared.headers("c", &id),
        &invoice(&id),
    );
    expect(wire, &request, 201, "").await?;
    Ok(id)
}

async fn pay(wire: &mut Wire, shared: &Shared) -> Result<u64, String> {
    let id = create(wire, shared).await?;
    let more = format!("prefer: wait=30\r\n{}", shared.headers("p", &id));
    let target = format!("/invoices/{id}/pay");
    let request = post(&target, "application/json", &more, "");
    expect(wire, &request, 200, "\"SUCCEEDED\"").await?;
    Ok(1)
}

async fn bulk(wire: &mut Wire, shared: &Shared) -> Result<u64, String> {
    let mut body = String::new();
    let mut first = None;
    for _ in 0..shared.load.lines {
        let id = shared.id();
        let _ = writeln!(body, "{}", invoice(&id));
        first.get_or_insert(id);
    }
    let headers = shared.headers("b", &first.unwrap_or_default());
    let request = post("/invoices", "application/x-ndjson", &headers, &body);
    expect(wire, &request, 200, "\"status\":201").await?;
    Ok(shared.load.lines as u64)
}

async fn show(wire: &mut Wire, shared: &Shared) -> Result<u64, String> {
    let n = shared.next.get();
    shared.next.set(n + 1);
    let id = id(mix(n) % shared.load.existing, shared.load.random_ids);
    expect(wire, &get(&format!("/invoices/{id}")), 200, "\"PAID\"").await?;
    Ok(1)
}

async fn expect(wire: &mut Wire, request: &[u8], status: u16, text: &str) -> Result<(), String> {
    let answer = wire
        .send(request)
        .await
        .map_err(|error| error.to_string())?;
    let body = answer.body;
    if answer.status == status && (text.is_empty() || contains(body, text.as_bytes())) {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    Err(format!("{} {body}", answer.status))
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|it| it == text)
}
