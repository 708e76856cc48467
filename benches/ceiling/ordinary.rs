//! An ordinary sketch: what one would write in a day of a durable payment service, with the usual libraries as
//! they come. JSON by serde both ways, text for ids and states, a pooled HTTP client for the gateway. Like
//! the leaner one it has one writer thread that commits whatever waits in one transaction, three commits a
//! payment, and none of what payd has beyond that. It must never be used for anything else.
//!
//! Keyed, it has the leaner one's fourth table too.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::arguments::Sketch;
use crate::sketch::{BATCH_MAX, KEYS, execute, keep, key, serve};

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE invoices (id TEXT PRIMARY KEY, amount INTEGER NOT NULL, currency TEXT NOT NULL, status TEXT NOT NULL);
CREATE TABLE payments (id TEXT PRIMARY KEY, invoice_id TEXT NOT NULL, status TEXT NOT NULL, reference TEXT);
CREATE TABLE events (sequence INTEGER PRIMARY KEY, invoice_id TEXT NOT NULL, type TEXT NOT NULL, json TEXT NOT NULL);
";

#[derive(Clone, Serialize, Deserialize)]
struct Invoice {
    id: String,
    amount: i64,
    currency: String,
    #[serde(default = "pending")]
    status: String,
}

fn pending() -> String {
    "PENDING".to_owned()
}

#[derive(Clone, Serialize)]
struct Payment {
    id: String,
    invoice_id: String,
    amount: i64,
    currency: String,
    status: String,
    gateway_reference: Option<String>,
}

/// The pooled client for the gateway.
pub(crate) type Pool = Client<HttpConnector, Full<Bytes>>;

/// What the gateway says.
#[derive(Deserialize)]
struct Charged {
    id: String,
    status: String,
}

enum Command {
    Create(Vec<Invoice>, Option<String>, oneshot::Sender<()>),
    Pay(String, Option<String>, oneshot::Sender<Option<Payment>>),
    Settle(Payment, oneshot::Sender<()>),
}

#[derive(Clone)]
struct Service {
    writer: mpsc::Sender<Command>,
    client: Pool,
    gateway: Option<Arc<str>>,
    keyed: bool,
}

pub(crate) fn run(arguments: &Sketch) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (writer, commands) = mpsc::channel(4096);
    let database = Connection::open(&arguments.database).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    database.execute_batch(KEYS).unwrap();
    database.set_prepared_statement_cache_capacity(64);
    std::thread::spawn(move || write(&database, commands, carry_out));
    let service = Service {
        writer,
        client: pool(),
        gateway: arguments
            .gateway
            .map(|port| format!("http://127.0.0.1:{port}/charges").into()),
        keyed: arguments.which.is_keyed(),
    };
    let router = Router::new()
        .route("/invoices", post(create))
        .route("/invoices/{id}/pay", post(pay))
        .with_state(service);
    runtime.block_on(serve(arguments, router));
}

/// One transaction for all that waits, one sync, and only then the answers.
pub(crate) fn write<C>(
    database: &Connection,
    mut commands: mpsc::Receiver<C>,
    mut carry_out: impl FnMut(&Connection, C) -> Box<dyn FnOnce()>,
) {
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    while commands.blocking_recv_many(&mut waiting, BATCH_MAX) > 0 {
        execute(database, "BEGIN IMMEDIATE", []);
        let answers: Vec<Box<dyn FnOnce()>> = waiting
            .drain(..)
            .map(|command| carry_out(database, command))
            .collect();
        execute(database, "COMMIT", []);
        for answer in answers {
            answer();
        }
    }
}

/// Does it, and says how to answer it. A client that is gone is no reason to stop.
fn carry_out(database: &Connection, command: Command) -> Box<dyn FnOnce()> {
    match command {
        Command::Create(invoices, key, done) => {
            for invoice in invoices {
                execute(
                    database,
                    "INSERT INTO invoices (id, amount, currency, status) VALUES (?1, ?2, ?3, ?4)",
                    params![invoice.id, invoice.amount, invoice.currency, invoice.status],
                );
                append(database, &invoice.id, "InvoiceCreated", &json!(invoice));
            }
            keep(database, key.as_deref(), database.last_insert_rowid());
            Box::new(move || {
                let _ = done.send(());
            })
        }
        Command::Pay(id, key, done) => {
            let found = database
                .prepare_cached("SELECT amount, currency FROM invoices WHERE id = ?1")
                .unwrap()
                .query_row([&id], |row| Ok((row.get(0)?, row.get(1)?)));
            let Ok((amount, currency)) = found else {
                return Box::new(move || {
                    let _ = done.send(None);
                });
            };
            let payment = Payment {
                id: format!("pay-{id}-1"),
                invoice_id: id,
                amount,
                currency,
                status: "SENDING".to_owned(),
                gateway_reference: None,
            };
            execute(
                database,
                "INSERT INTO payments (id, invoice_id, status) VALUES (?1, ?2, ?3)",
                params![payment.id, payment.invoice_id, payment.status],
            );
            advance(database, &payment, "PROCESSING", "PaymentRequested");
            keep(database, key.as_deref(), database.last_insert_rowid());
            Box::new(move || {
                let _ = done.send(Some(payment));
            })
        }
        Command::Settle(payment, done) => {
            execute(
                database,
                "UPDATE payments SET status = ?2, reference = ?3 WHERE id = ?1",
                params![payment.id, payment.status, payment.gateway_reference],
            );
            advance(database, &payment, "PAID", "PaymentSucceeded");
            Box::new(move || {
                let _ = done.send(());
            })
        }
    }
}

/// What a payment does to its invoice, and the event that says so.
fn advance(database: &Connection, payment: &Payment, status: &str, kind: &str) {
    execute(
        database,
        "UPDATE invoices SET status = ?2 WHERE id = ?1",
        [&payment.invoice_id, status],
    );
    append(database, &payment.invoice_id, kind, &json!(payment));
}

fn append(database: &Connection, invoice: &str, kind: &str, data: &Value) {
    let event = json!({ "type": kind, "subject": invoice, "data": data }).to_string();
    execute(
        database,
        "INSERT INTO events (invoice_id, type, json) VALUES (?1, ?2, ?3)",
        [invoice, kind, &event],
    );
}

/// One invoice as JSON, or one in each line.
async fn create(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Response {
    let many = headers[CONTENT_TYPE] == "application/x-ndjson";
    let invoices: Vec<Invoice> = serde_json::Deserializer::from_slice(&body)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let (done, wait) = oneshot::channel();
    let key = key(service.keyed, &headers);
    let command = Command::Create(invoices.clone(), key, done);
    service.writer.send(command).await.unwrap();
    wait.await.unwrap();
    if !many {
        return json_of(StatusCode::CREATED, &invoices[0]);
    }
    let lines: String = invoices
        .iter()
        .map(|invoice| format!("{}\n", json!({ "status": 201, "invoice": invoice })))
        .collect();
    ([(CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

async fn pay(
    State(service): State<Service>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let (done, wait) = oneshot::channel();
    let key = key(service.keyed, &headers);
    let command = Command::Pay(id, key, done);
    service.writer.send(command).await.unwrap();
    let Some(mut payment) = wait.await.unwrap() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    payment.gateway_reference = Some(match &service.gateway {
        Some(gateway) => charge(&service.client, gateway, &payment).await,
        None => format!("ch_{}", payment.id),
    });
    payment.status = "SUCCEEDED".to_owned();
    let (done, wait) = oneshot::channel();
    let settle = Command::Settle(payment.clone(), done);
    service.writer.send(settle).await.unwrap();
    wait.await.unwrap();
    json_of(StatusCode::OK, &payment)
}

pub(crate) fn json_of(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).unwrap();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn charge(client: &Pool, gateway: &str, payment: &Payment) -> String {
    let body = json!({
        "reference": payment.id,
        "invoice_id": payment.invoice_id,
        "amount": payment.amount,
        "currency": payment.currency,
    });
    let body = send(client, gateway, &payment.id, body.to_string()).await;
    let charged: Charged = serde_json::from_slice(&body).unwrap();
    assert_eq!(charged.status, "succeeded");
    charged.id
}

pub(crate) fn pool() -> Pool {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends a charge to the gateway, and reads what it says.
pub(crate) async fn send(client: &Pool, gateway: &str, key: &str, body: String) -> Bytes {
    let request = hyper::Request::post(gateway)
        .header(CONTENT_TYPE, "application/json")
        .header("idempotency-key", key)
        .body(Full::from(body))
        .unwrap();
    let response = client.request(request).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}
