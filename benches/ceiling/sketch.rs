//! The ceiling: the least that a durable payment service could be. An HTTP handler, one writer thread
//! that commits whatever waits in one transaction (write-ahead log, `synchronous=FULL`, as payd), the
//! rows of an invoice, a payment and its events at their bare minimum, and a gateway called over
//! connections that are kept. A payment is three commits, as in payd: created, about to be sent, settled.
//!
//! No checks, no state machine, no idempotency, no hash chain, no retries, no recovery, no logs, no
//! figures: what payd costs beyond this is what those cost. It must never be used for anything else.
//!
//! Keyed, it keeps the least of payd's fourth table too: a row for each idempotency key that a request carries, with
//! the event that the answer could be written from, in the commit of that event. It looks for none, so a key that
//! comes again ends it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as Segment, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rusqlite::{Connection, params};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{mpsc, oneshot};

use crate::arguments::Sketch;

/// The same as payd's.
pub(crate) const BATCH_MAX: usize = 512;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE invoices (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, amount INTEGER NOT NULL, currency TEXT NOT NULL, status INTEGER NOT NULL);
CREATE TABLE payments (n INTEGER PRIMARY KEY, invoice INTEGER NOT NULL, key TEXT NOT NULL, state INTEGER NOT NULL, reference TEXT);
CREATE TABLE events (sequence INTEGER PRIMARY KEY, invoice INTEGER NOT NULL, type INTEGER NOT NULL, json TEXT NOT NULL);
";

/// What the keyed ones have besides.
pub(crate) const KEYS: &str =
    "CREATE TABLE answers (key TEXT PRIMARY KEY, event INTEGER NOT NULL) WITHOUT ROWID;";

#[derive(Deserialize)]
struct New {
    id: String,
    amount: i64,
    currency: String,
}

/// A payment on its way to the gateway.
struct Sending {
    payment: i64,
    invoice: i64,
    id: String,
    amount: i64,
    currency: String,
    key: String,
}

enum Command {
    Create(Vec<New>, Option<String>, oneshot::Sender<()>),
    Pay(String, Option<String>, oneshot::Sender<Option<Sending>>),
    Settle {
        payment: i64,
        invoice: i64,
        id: String,
        reference: String,
        done: oneshot::Sender<()>,
    },
}

/// An answer that waits for the commit.
enum Told {
    Done(oneshot::Sender<()>),
    Send(oneshot::Sender<Option<Sending>>, Option<Sending>),
}

struct Service {
    writer: mpsc::Sender<Command>,
    gateway: Option<Gateway>,
    keyed: bool,
}

pub(crate) fn run(arguments: &Sketch) {
    let (writer, commands) = mpsc::channel(4096);
    let database = open(&arguments.database);
    std::thread::spawn(move || write(&database, commands));
    let service = Arc::new(Service {
        writer,
        gateway: arguments.gateway.map(|port| Gateway {
            port,
            idle: Mutex::default(),
        }),
        keyed: arguments.which.is_keyed(),
    });
    let router = Router::new()
        .route("/invoices", post(create))
        .route("/invoices/{id}/pay", post(pay))
        .with_state(service);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(serve(arguments, router));
}

/// Listens where it is told to.
pub(crate) async fn serve(arguments: &Sketch, router: Router) {
    let Some(socket) = &arguments.socket else {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        return axum::serve(listener, router).await.unwrap();
    };
    let listener = UnixListener::bind(socket).unwrap();
    axum::serve(listener, router).await.unwrap();
}

fn open(path: &Path) -> Connection {
    let database = Connection::open(path).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    database.execute_batch(KEYS).unwrap();
    database.set_prepared_statement_cache_capacity(64);
    database
}

/// One transaction for all that waits, one sync, and only then the answers.
fn write(database: &Connection, mut commands: mpsc::Receiver<Command>) {
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    let mut sequence: i64 = 0;
    while commands.blocking_recv_many(&mut waiting, BATCH_MAX) > 0 {
        let mut told = Vec::with_capacity(waiting.len());
        execute(database, "BEGIN IMMEDIATE", []);
        for command in waiting.drain(..) {
            told.push(carry_out(database, command, &mut sequence));
        }
        execute(database, "COMMIT", []);
        for told in told {
            // A client that is gone is no reason to stop.
            match told {
                Told::Done(done) => drop(done.send(())),
                Told::Send(done, sending) => drop(done.send(sending)),
            }
        }
    }
}

fn carry_out(database: &Connection, command: Command, sequence: &mut i64) -> Told {
    let mut append = |invoice: i64, kind: i64, id: &str| {
        *sequence += 1;
        let json = format!(r#"{{"id":"{sequence}","type":{kind},"subject":"{id}","data":{{}}}}"#);
        execute(
            database,
            "INSERT INTO events (sequence, invoice, type, json) VALUES (?1, ?2, ?3, ?4)",
            params![*sequence, invoice, kind, json],
        );
    };
    match command {
        Command::Create(invoices, key, done) => {
            for new in invoices {
                execute(
                    database,
                    "INSERT INTO invoices (id, amount, currency, status) VALUES (?1, ?2, ?3, 0)",
                    params![new.id, new.amount, new.currency],
                );
                append(database.last_insert_rowid(), 0, &new.id);
            }
            keep(database, key.as_deref(), *sequence);
            Told::Done(done)
        }
        Command::Pay(id, key, done) => {
            let found = database
                .prepare_cached("SELECT n, amount, currency FROM invoices WHERE id = ?1")
                .unwrap()
                .query_row([&id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
            let Ok((invoice, amount, currency)) = found else {
                return Told::Send(done, None);
            };
            let charge_key = format!("key_{id}_1");
            execute(
                database,
                "INSERT INTO payments (invoice, key, state) VALUES (?1, ?2, 1)",
                params![invoice, charge_key],
            );
            let payment = database.last_insert_rowid();
            execute(
                database,
                "UPDATE invoices SET status = 1 WHERE n = ?1",
                [invoice],
            );
            append(invoice, 1, &id);
            keep(database, key.as_deref(), *sequence);
            let sending = Sending {
                payment,
                invoice,
                id,
                amount,
                currency,
                key: charge_key,
            };
            Told::Send(done, Some(sending))
        }
        Command::Settle {
            payment,
            invoice,
            id,
            reference,
            done,
        } => {
            execute(
                database,
                "UPDATE payments SET state = 5, reference = ?2 WHERE n = ?1",
                params![payment, reference],
            );
            execute(
                database,
                "UPDATE invoices SET status = 2 WHERE n = ?1",
                [invoice],
            );
            append(invoice, 2, &id);
            Told::Done(done)
        }
    }
}

/// Keeps a request's key, if it has one, with its last event.
pub(crate) fn keep(database: &Connection, key: Option<&str>, event: i64) {
    if let Some(key) = key {
        let sql = "INSERT INTO answers (key, event) VALUES (?1, ?2)";
        execute(database, sql, params![key, event]);
    }
}

/// The idempotency key of a request that has one, for a sketch that keeps them.
pub(crate) fn key(keyed: bool, headers: &HeaderMap) -> Option<String> {
    let key = headers.get("idempotency-key").filter(|_| keyed)?;
    Some(key.to_str().unwrap().to_owned())
}

pub(crate) fn execute(database: &Connection, sql: &str, values: impl rusqlite::Params) {
    database
        .prepare_cached(sql)
        .unwrap()
        .execute(values)
        .unwrap();
}

async fn create(State(service): State<Arc<Service>>, headers: HeaderMap, body: Bytes) -> Response {
    let many = headers[CONTENT_TYPE] == "application/x-ndjson";
    let mut invoices: Vec<New> = Vec::new();
    let mut answer = String::new();
    for line in body.split(|byte| *byte == b'\n' && many) {
        if line.is_empty() {
            continue;
        }
        let new: New = serde_json::from_slice(line).unwrap();
        let invoice = format!(
            r#"{{"id":"{}","amount":{},"currency":"{}","status":"PENDING"}}"#,
            new.id, new.amount, new.currency
        );
        if many {
            answer.push_str(&format!("{{\"status\":201,\"invoice\":{invoice}}}\n"));
        } else {
            answer = invoice;
        }
        invoices.push(new);
    }
    let (done, wait) = oneshot::channel();
    let key = key(service.keyed, &headers);
    let command = Command::Create(invoices, key, done);
    service.writer.send(command).await.unwrap();
    wait.await.unwrap();
    let (status, kind) = if many {
        (StatusCode::OK, "application/x-ndjson")
    } else {
        (StatusCode::CREATED, "application/json")
    };
    (status, [(CONTENT_TYPE, kind)], answer).into_response()
}

async fn pay(
    State(service): State<Arc<Service>>,
    Segment(id): Segment<String>,
    headers: HeaderMap,
) -> Response {
    let (done, wait) = oneshot::channel();
    let key = key(service.keyed, &headers);
    let command = Command::Pay(id, key, done);
    service.writer.send(command).await.unwrap();
    let Some(sending) = wait.await.unwrap() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let reference = match &service.gateway {
        Some(gateway) => gateway.charge(&sending).await,
        None => format!("ch_{}", sending.key),
    };
    let answer = format!(
        r#"{{"id":"{}","invoice_id":"{}","amount":{},"status":"SUCCEEDED","gateway_reference":"{reference}"}}"#,
        sending.payment, sending.id, sending.amount
    );
    let (done, wait) = oneshot::channel();
    let settle = Command::Settle {
        payment: sending.payment,
        invoice: sending.invoice,
        id: sending.id,
        reference,
        done,
    };
    service.writer.send(settle).await.unwrap();
    wait.await.unwrap();
    (StatusCode::OK, [(CONTENT_TYPE, "application/json")], answer).into_response()
}

/// The gateway's client: connections that are kept, as many as there are payments at once.
struct Gateway {
    port: u16,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

#[derive(Deserialize)]
struct Charged {
    id: String,
    status: String,
}

impl Gateway {
    async fn charge(&self, sending: &Sending) -> String {
        let idle = self.idle.lock().unwrap().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await,
        };
        let body = format!(
            r#"{{"reference":"{}","invoice_id":"{}","amount":{},"currency":"{}"}}"#,
            sending.key, sending.id, sending.amount, sending.currency
        );
        let request = hyper::Request::post("/charges")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("idempotency-key", &sending.key)
            .body(Full::from(body))
            .unwrap();
        connection.ready().await.unwrap();
        let response = connection.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        self.idle.lock().unwrap().push(connection);
        let charged: Charged = serde_json::from_slice(&body).unwrap();
        assert_eq!(charged.status, "succeeded");
        charged.id
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}
