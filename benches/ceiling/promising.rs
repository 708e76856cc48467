//! A promising sketch: the ordinary one with what payd promises of a create and a payment that go well, in its plainest
//! form. Answers kept under idempotency keys, events that are whole and hash-chained, the rows of payd with plain
//! indexes in SQL for what it finds by them, a claim with an epoch and a lease, checks of what comes in and of states, a
//! token over TCP, log lines, counters. Like the ordinary one it has text for ids and states, JSON by serde, and three commits a payment.
//!
//! No bulk, no declines, no retries, no lookups, no recovery, no streams: a payment of which the gateway does not say that
//! it succeeded stays as it is. It must never be used for anything else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use iso_currency::Currency;
use jiff::Timestamp;
use prometheus::IntCounter;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::arguments::Sketch;
use crate::ordinary::{self, Pool, json_of, pool};
use crate::sketch::{execute, serve};

/// Amounts are exact in JSON up to here.
const AMOUNT_MAX: i64 = (1 << 53) - 1;

/// How long a payment is claimed for.
const LEASE_MS: i64 = 30_000;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
CREATE TABLE invoices (
  id TEXT PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
  amount INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
  currency TEXT NOT NULL CHECK (length(currency) = 3),
  description TEXT, metadata TEXT NOT NULL, payment_method TEXT, due_at INTEGER,
  status TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, attempts_before_round INTEGER NOT NULL DEFAULT 0,
  needs_attention INTEGER NOT NULL DEFAULT 0, contradicted_attempt INTEGER,
  cancel_requested INTEGER NOT NULL DEFAULT 0, cancel_reason TEXT,
  created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, paid_at INTEGER,
  CHECK ((status = 'PAID') = (paid_at IS NOT NULL))
) STRICT;
CREATE INDEX invoices_by_status ON invoices (status);
CREATE INDEX invoices_that_need_attention ON invoices (id) WHERE needs_attention = 1;
CREATE TABLE payments (
  id TEXT PRIMARY KEY, invoice_id TEXT NOT NULL REFERENCES invoices (id),
  attempt INTEGER NOT NULL CHECK (attempt >= 1), idempotency_key TEXT NOT NULL, payment_method TEXT,
  status TEXT NOT NULL, gateway TEXT, gateway_reference TEXT, failure TEXT,
  requested_at INTEGER NOT NULL, due_at INTEGER NOT NULL, sent_at INTEGER, finished_at INTEGER,
  resends INTEGER NOT NULL DEFAULT 0, contradicted INTEGER NOT NULL DEFAULT 0,
  epoch INTEGER NOT NULL, lease_until INTEGER, open_since INTEGER,
  lookups INTEGER NOT NULL DEFAULT 0, next_lookup_at INTEGER,
  UNIQUE (invoice_id, attempt),
  CHECK ((status = 'SENDING') = (lease_until IS NOT NULL)),
  CHECK ((status = 'FAILED') = (failure IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX payments_one_open ON payments (invoice_id)
  WHERE status IN ('REQUESTED', 'SENDING', 'ACCEPTED', 'UNKNOWN', 'REVIEW');
CREATE UNIQUE INDEX payments_one_succeeded ON payments (invoice_id) WHERE status = 'SUCCEEDED';
CREATE INDEX payments_due ON payments (due_at) WHERE status = 'REQUESTED';
CREATE INDEX payments_leases ON payments (lease_until) WHERE status = 'SENDING';
CREATE INDEX payments_lookups ON payments (next_lookup_at) WHERE status IN ('ACCEPTED', 'UNKNOWN');
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY, invoice_id TEXT NOT NULL REFERENCES invoices (id),
  type TEXT NOT NULL, json TEXT NOT NULL, digest BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;
CREATE INDEX events_by_invoice ON events (invoice_id);
CREATE TABLE answers (
  actor TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
  status INTEGER NOT NULL, location TEXT, body BLOB NOT NULL, created_at INTEGER NOT NULL,
  UNIQUE (actor, key)
) STRICT;
";

/// Milliseconds since the Unix epoch; in JSON a time of RFC 3339.
#[derive(Clone, Copy, Default)]
struct Time(i64);

impl Time {
    fn now() -> Self {
        Self(Timestamp::now().as_millisecond())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = Timestamp::from_millisecond(self.0).unwrap();
        serializer.collect_str(&format_args!("{time:.3}"))
    }
}

/// An invoice as it is asked for.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    #[serde(default = "own_id")]
    id: String,
    amount: i64,
    #[serde(default = "euro")]
    currency: String,
    description: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    payment_method: Option<String>,
}

fn own_id() -> String {
    format!("inv_{}", id_of_now())
}

fn euro() -> String {
    "EUR".to_owned()
}

#[derive(Default, Serialize)]
struct Invoice {
    #[serde(flatten)]
    new: New,
    status: String,
    due_at: Option<Time>,
    attempts: i64,
    needs_attention: bool,
    cancel_requested: bool,
    next_attempt_at: Option<Time>,
    created_at: Time,
    updated_at: Time,
    paid_at: Option<Time>,
}

#[derive(Default, Serialize)]
struct Payment {
    id: String,
    invoice_id: String,
    attempt: i64,
    amount: i64,
    currency: String,
    status: String,
    gateway: Option<String>,
    gateway_reference: Option<String>,
    idempotency_key: String,
    failure: Option<String>,
    requested_at: Time,
    due_at: Time,
    sent_at: Option<Time>,
    finished_at: Option<Time>,
    #[serde(skip)]
    payment_method: Option<String>,
    /// Of its claim: who settles it must still have it.
    #[serde(skip)]
    epoch: i64,
}

impl Payment {
    fn change(&self, kind: &'static str, status: &'static str, actor: &'static str) -> Change {
        Change {
            kind,
            actor,
            invoice_id: self.invoice_id.clone(),
            invoice_status: status,
            payment_id: Some(self.id.clone()),
            attempt: Some(self.attempt),
            ..Change::default()
        }
    }
}

/// An event as it is kept and told.
#[derive(Serialize)]
struct Event<'a, D> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: &'static str,
    subject: &'a str,
    time: Time,
    datacontenttype: &'static str,
    actor: &'static str,
    data: Data<'a, D>,
}

#[derive(Serialize)]
struct Data<'a, D> {
    #[serde(flatten)]
    change: &'a Change,
    #[serde(flatten)]
    more: D,
}

/// What each event says, for the log too once it is committed.
#[derive(Default, Serialize)]
struct Change {
    #[serde(skip)]
    kind: &'static str,
    #[serde(skip)]
    actor: &'static str,
    #[serde(skip)]
    sequence: i64,
    invoice_id: String,
    invoice_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<i64>,
}

impl Change {
    fn log(&self) {
        tracing::info!(
            target: "sketch::event",
            sequence = self.sequence,
            invoice = self.invoice_id,
            status = self.invoice_status,
            payment = self.payment_id,
            attempt = self.attempt,
            actor = self.actor,
            "{}",
            self.kind,
        );
    }
}

/// What the gateway says.
#[derive(Deserialize)]
struct Charged {
    id: String,
    reference: String,
    amount: i64,
    currency: String,
    status: String,
}

/// Why a request is not carried out: a status and a code.
struct Refused(u16, &'static str);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0).unwrap();
        json_of(status, &json!({ "code": self.1 }))
    }
}

/// Who asks, and under which key.
struct Asked {
    actor: &'static str,
    key: Option<String>,
    fingerprint: [u8; 32],
}

/// What is answered, and kept under a key: a status, a location and a body.
struct Answer(u16, String, Vec<u8>);

impl Answer {
    fn response(self, replayed: bool) -> Response {
        let status = StatusCode::from_u16(self.0).unwrap();
        let kind = [(CONTENT_TYPE, "application/json")];
        let mut response = (status, kind, self.2).into_response();
        let headers = response.headers_mut();
        headers.insert(LOCATION, HeaderValue::try_from(self.1).unwrap());
        if replayed {
            headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

/// The answer, and what has been done unless it is a replay.
type Told<T> = Result<(Answer, Option<T>), Refused>;

/// Done in a transaction; what it returns is done after the commit.
type Command = Box<dyn FnOnce(&mut Writer, &Connection) -> Box<dyn FnOnce()> + Send>;

/// What the writer knows beside the database.
struct Writer {
    store: Uuid,
    source: String,
    /// Of the last event.
    sequence: i64,
    digest: [u8; 32],
}

impl Writer {
    fn create(&mut self, database: &Connection, asked: &Asked, new: New) -> Told<Change> {
        if let Some(answer) = kept(database, asked)? {
            return Ok((answer, None));
        }
        let now = Time::now();
        let metadata = serde_json::to_string(&new.metadata).unwrap();
        let (amount, currency, method) = (new.amount, &new.currency, &new.payment_method);
        let (id, text) = (&new.id, &new.description);
        execute(
            database,
            "INSERT INTO invoices (id, amount, currency, description, metadata, payment_method, status, \
             created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'PENDING', ?7, ?7) ON CONFLICT (id) DO NOTHING",
            params![id, amount, currency, text, metadata, method, now.0],
        );
        if database.changes() == 0 {
            return Err(Refused(409, "invoice_exists"));
        }
        let invoice = Invoice {
            new,
            status: "PENDING".to_owned(),
            created_at: now,
            updated_at: now,
            ..Invoice::default()
        };
        let mut change = Change {
            kind: "InvoiceCreated",
            actor: asked.actor,
            invoice_id: invoice.new.id.clone(),
            invoice_status: "PENDING",
            ..Change::default()
        };
        self.append(database, now, &mut change, &invoice);
        let location = format!("/invoices/{}", invoice.new.id);
        let answer = keep(database, asked, 201, location, &invoice);
        Ok((answer, Some(change)))
    }

    /// Requests a payment and claims it, in one commit. What is kept under the key is the answer before any waiting.
    fn pay(&mut self, database: &Connection, asked: &Asked, id: &str) -> Told<(Change, Payment)> {
        if let Some(answer) = kept(database, asked)? {
            return Ok((answer, None));
        }
        let found = find_invoice(database, id).ok_or(Refused(404, "invoice_not_found"))?;
        if found.status != "PENDING" {
            return Err(Refused(409, "invoice_not_pending"));
        }
        let now = Time::now();
        let attempt = found.attempts + 1;
        let mut payment = Payment {
            id: format!("pay_{}", id_of_now()),
            idempotency_key: self.key(&found.new, attempt),
            invoice_id: found.new.id,
            attempt,
            amount: found.new.amount,
            currency: found.new.currency,
            status: "REQUESTED".to_owned(),
            requested_at: now,
            due_at: now,
            payment_method: found.new.payment_method,
            epoch: 1,
            ..Payment::default()
        };
        let (id, invoice, epoch) = (&payment.id, &payment.invoice_id, payment.epoch);
        let (key, method) = (&payment.idempotency_key, &payment.payment_method);
        let lease = now.0 + LEASE_MS;
        execute(
            database,
            "INSERT INTO payments (id, invoice_id, attempt, idempotency_key, payment_method, status, requested_at, \
             due_at, sent_at, epoch, lease_until, open_since) \
             VALUES (?1, ?2, ?3, ?4, ?5, 'SENDING', ?6, ?6, ?6, ?7, ?8, ?6)",
            params![id, invoice, attempt, key, method, now.0, epoch, lease],
        );
        execute(
            database,
            "UPDATE invoices SET status = 'PROCESSING', attempts = ?2, attempts_before_round = ?2 - 1, \
             updated_at = ?3 WHERE id = ?1",
            params![invoice, attempt, now.0],
        );
        let more = json!({
            "amount": payment.amount,
            "currency": payment.currency,
            "due_at": now,
            "cause": "api",
            "payment_method": method,
            "idempotency_key": key,
        });
        let mut change = payment.change("PaymentRequested", "PROCESSING", asked.actor);
        self.append(database, now, &mut change, more);
        let location = format!("/payments/{}", payment.id);
        let answer = keep(database, asked, 202, location, &payment);
        payment.status = "SENDING".to_owned();
        payment.sent_at = Some(now);
        Ok((answer, Some((change, payment))))
    }

    /// A payment has succeeded, unless somebody else has claimed it since.
    fn settle(&mut self, database: &Connection, mut it: Payment) -> Option<(Change, Payment)> {
        let now = Time::now();
        it.status = "SUCCEEDED".to_owned();
        it.finished_at = Some(now);
        execute(
            database,
            "UPDATE payments SET status = 'SUCCEEDED', gateway = ?3, gateway_reference = ?4, finished_at = ?5, \
             lease_until = NULL, open_since = NULL WHERE id = ?1 AND epoch = ?2 AND status = 'SENDING'",
            params![it.id, it.epoch, it.gateway, it.gateway_reference, now.0],
        );
        if database.changes() == 0 {
            return None;
        }
        execute(
            database,
            "UPDATE invoices SET status = 'PAID', updated_at = ?2, paid_at = ?2 WHERE id = ?1",
            params![it.invoice_id, now.0],
        );
        let more = json!({
            "amount": it.amount,
            "currency": it.currency,
            "gateway": it.gateway,
            "gateway_reference": it.gateway_reference,
        });
        let mut change = it.change("PaymentSucceeded", "PAID", "sketch");
        self.append(database, now, &mut change, more);
        Some((change, it))
    }

    /// An event at the end of the log, and of the chain.
    fn append(&mut self, database: &Connection, now: Time, it: &mut Change, more: impl Serialize) {
        self.sequence += 1;
        it.sequence = self.sequence;
        let event = Event {
            specversion: "1.0",
            id: self.sequence.to_string(),
            source: &self.source,
            r#type: it.kind,
            subject: &it.invoice_id,
            time: now,
            datacontenttype: "application/json",
            actor: it.actor,
            data: Data { change: it, more },
        };
        let json = serde_json::to_string(&event).unwrap();
        let digest = Sha256::new().chain_update(self.digest).chain_update(&json);
        self.digest = digest.finalize().into();
        execute(
            database,
            "INSERT INTO events (sequence, invoice_id, type, json, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![it.sequence, it.invoice_id, it.kind, json, self.digest],
        );
    }

    /// The gateway's key for an attempt: the same whenever it is made.
    fn key(&self, of: &New, attempt: i64) -> String {
        let (store, id, amount, currency) = (self.store, &of.id, of.amount, &of.currency);
        let digest = Sha256::digest(format!("{store}\n{id}\n{attempt}\n{amount}\n{currency}"));
        format!("payd_{}", Uuid::from_slice(&digest[..16]).unwrap().simple())
    }
}

/// The answer that is kept under a key, if that was used for this request; refused if for another one.
fn kept(database: &Connection, asked: &Asked) -> Result<Option<Answer>, Refused> {
    let Some(key) = &asked.key else {
        return Ok(None);
    };
    let found: Option<([u8; 32], Answer)> = database
        .prepare_cached(
            "SELECT fingerprint, status, location, body FROM answers WHERE actor = ?1 AND key = ?2",
        )
        .unwrap()
        .query_row([asked.actor, key], |row| {
            let answer = Answer(row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, answer))
        })
        .optional()
        .unwrap();
    match found {
        Some((fingerprint, _)) if fingerprint != asked.fingerprint => {
            Err(Refused(422, "idempotency_key_reused"))
        }
        found => Ok(found.map(|(_, answer)| answer)),
    }
}

/// The answer, kept if there is a key.
fn keep(
    database: &Connection,
    asked: &Asked,
    status: u16,
    location: String,
    body: &impl Serialize,
) -> Answer {
    let body = serde_json::to_vec(body).unwrap();
    if let Some(key) = &asked.key {
        let (actor, print, now) = (asked.actor, asked.fingerprint, Time::now().0);
        execute(
            database,
            "INSERT INTO answers (actor, key, fingerprint, status, location, body, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![actor, key, print, status, location, body, now],
        );
    }
    Answer(status, location, body)
}

fn find_invoice(database: &Connection, id: &str) -> Option<Invoice> {
    database
        .prepare_cached(
            "SELECT id, amount, currency, description, metadata, payment_method, status, due_at, attempts, \
             needs_attention, cancel_requested, created_at, updated_at, paid_at FROM invoices WHERE id = ?1",
        )
        .unwrap()
        .query_row([id], |row| {
            let new = New {
                id: row.get(0)?,
                amount: row.get(1)?,
                currency: row.get(2)?,
                description: row.get(3)?,
                metadata: serde_json::from_str(row.get_ref(4)?.as_str()?).unwrap(),
                payment_method: row.get(5)?,
            };
            Ok(Invoice {
                new,
                status: row.get(6)?,
                due_at: row.get::<_, Option<i64>>(7)?.map(Time),
                attempts: row.get(8)?,
                needs_attention: row.get(9)?,
                cancel_requested: row.get(10)?,
                next_attempt_at: None,
                created_at: Time(row.get(11)?),
                updated_at: Time(row.get(12)?),
                paid_at: row.get::<_, Option<i64>>(13)?.map(Time),
            })
        })
        .optional()
        .unwrap()
}

/// A UUIDv7.
fn id_of_now() -> Uuid {
    let mut random = [0; 10];
    getrandom::fill(&mut random).unwrap();
    let now = u64::try_from(Time::now().0).unwrap();
    uuid::Builder::from_unix_timestamp_millis(now, &random).into_uuid()
}

struct Service {
    writer: mpsc::Sender<Command>,
    client: Pool,
    gateway: Option<String>,
    /// The digest of the token that is asked for, if any.
    token: Option<[u8; 32]>,
    processed: IntCounter,
    succeeded: IntCounter,
}

pub(crate) fn run(arguments: &Sketch) {
    let log = tracing_appender::rolling::never(arguments.database.parent().unwrap(), "sketch.log");
    let (log, _written_at_the_end) = tracing_appender::non_blocking(log);
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(tracing::Level::INFO)
        .with_writer(log)
        .init();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (writer, commands) = mpsc::channel::<Command>(4096);
    let database = Connection::open(&arguments.database).unwrap();
    database.execute_batch(SCHEMA).unwrap();
    database.set_prepared_statement_cache_capacity(64);
    let store = id_of_now();
    let mut writing = Writer {
        store,
        source: format!("/payd/{store}"),
        sequence: 0,
        digest: [0; 32],
    };
    let write = move |database: &Connection, command: Command| command(&mut writing, database);
    std::thread::spawn(move || ordinary::write(&database, commands, write));
    let url = |port| format!("http://127.0.0.1:{port}/charges");
    let digest = |token: &String| Sha256::digest(token).into();
    let service = Arc::new(Service {
        writer,
        client: pool(),
        gateway: arguments.gateway.map(url),
        token: arguments.token.as_ref().map(digest),
        processed: IntCounter::new("payments_processed_total", "Attempts decided").unwrap(),
        succeeded: IntCounter::new("payments_succeeded_total", "Those that succeeded").unwrap(),
    });
    let router = Router::new()
        .route("/invoices", post(create))
        .route("/invoices/{id}/pay", post(pay))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), guard))
        .with_state(service);
    runtime.block_on(serve(arguments, router));
}

/// Lets in who shows the token, where one is asked for; each answer has an id.
async fn guard(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let mut response = if service.lets_in(request.headers()) {
        next.run(request).await
    } else {
        Refused(401, "unauthenticated").into_response()
    };
    let id = HeaderValue::try_from(id_of_now().to_string()).unwrap();
    response.headers_mut().insert("x-request-id", id);
    response
}

impl Service {
    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(it) = &self.token else { return true };
        let shown = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
        let token = shown.and_then(|it| it.strip_prefix("Bearer "));
        token.is_some_and(|token| Sha256::digest(token).as_slice().ct_eq(it).into())
    }

    fn asked(&self, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Asked, Refused> {
        let mut asked = Asked {
            actor: self.token.as_ref().map_or("local", |_| "token"),
            key: None,
            fingerprint: [0; 32],
        };
        if let Some(key) = headers.get("idempotency-key") {
            let key = key.to_str().unwrap_or_default();
            if !(1..=255).contains(&key.len()) {
                return Err(Refused(400, "malformed_request"));
            }
            asked.key = Some(key.to_owned());
            let path = Sha256::new().chain_update(uri.path()).chain_update("\n");
            asked.fingerprint = path.chain_update(body).finalize().into();
        }
        Ok(asked)
    }

    /// Has something done in the next transaction, and says what came of it once that is committed.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer, &Connection) -> T + Send + 'static,
    ) -> T {
        let (done, wait) = oneshot::channel();
        let command: Command = Box::new(move |writer, database| {
            let told = work(writer, database);
            // A client that is gone is no reason to stop.
            Box::new(move || drop(done.send(told)))
        });
        self.writer.send(command).await.unwrap();
        wait.await.unwrap()
    }

    /// What the gateway says, if it can be read.
    async fn send(&self, payment: &Payment) -> Option<Charged> {
        let key = &payment.idempotency_key;
        let mut body = json!({
            "reference": key,
            "payment_id": payment.id,
            "invoice_id": payment.invoice_id,
            "amount": payment.amount,
            "currency": payment.currency,
            "payment_method": payment.payment_method,
        });
        let Some(gateway) = &self.gateway else {
            body["id"] = json!(format!("ch_{key}"));
            body["status"] = json!("succeeded");
            return serde_json::from_value(body).ok();
        };
        let body = ordinary::send(&self.client, gateway, key, body.to_string()).await;
        serde_json::from_slice(&body).ok()
    }
}

async fn create(
    State(service): State<Arc<Service>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let kind = headers.get(CONTENT_TYPE);
    if kind.is_some_and(|it| it != "application/json") {
        return Err(Refused(415, "unsupported_media_type"));
    }
    let asked = service.asked(&uri, &headers, &body)?;
    let new = parse(&body)?;
    let told = service.ask(move |writer, database| writer.create(database, &asked, new));
    let (answer, change) = told.await?;
    change.iter().for_each(Change::log);
    Ok(answer.response(change.is_none()))
}

fn parse(json: &[u8]) -> Result<New, Refused> {
    let new: New = serde_json::from_slice(json).map_err(|_| Refused(400, "malformed_request"))?;
    let allowed = |it: u8| it.is_ascii_alphanumeric() || b"._:-".contains(&it);
    let named = (1..=64).contains(&new.id.len()) && new.id.bytes().all(allowed);
    let priced = (1..=AMOUNT_MAX).contains(&new.amount);
    if named && priced && Currency::from_code(&new.currency).is_some() {
        return Ok(new);
    }
    Err(Refused(422, "invalid_request"))
}

async fn pay(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let asked = service.asked(&uri, &headers, &body)?;
    let told = service.ask(move |writer, database| writer.pay(database, &asked, &id));
    let (answer, done) = told.await?;
    let Some((change, payment)) = done else {
        return Ok(answer.response(true));
    };
    change.log();
    // It goes on, whether anybody waits for it or not.
    let charge = tokio::spawn(charge(service, payment));
    let Some(seconds) = wait_of(&headers) else {
        return Ok(answer.response(false));
    };
    let decided = tokio::time::timeout(Duration::from_secs(seconds), charge).await;
    let mut response = match decided {
        Ok(Ok(Some(payment))) => json_of(StatusCode::OK, &payment),
        _ => answer.response(false),
    };
    let applied = HeaderValue::try_from(format!("wait={seconds}")).unwrap();
    response.headers_mut().insert("preference-applied", applied);
    Ok(response)
}

/// The seconds of `Prefer: wait`; 30 where it does not say.
fn wait_of(headers: &HeaderMap) -> Option<u64> {
    let wait = headers.get("prefer")?.to_str().ok()?.strip_prefix("wait")?;
    let seconds = wait.strip_prefix('=').and_then(|it| it.parse().ok());
    Some(seconds.unwrap_or(30))
}

/// Sends a claimed payment and settles it. None: it did not clearly succeed, or somebody else has claimed it since.
async fn charge(service: Arc<Service>, mut payment: Payment) -> Option<Payment> {
    let charged = service.send(&payment).await.filter(|it| {
        it.status == "succeeded"
            && it.reference == payment.idempotency_key
            && (it.amount, &it.currency) == (payment.amount, &payment.currency)
    });
    let Some(charged) = charged else {
        tracing::error!(payment = payment.id, "it has not clearly succeeded");
        return None;
    };
    let gateway = service.gateway.as_ref().map_or("simulator", |_| "http");
    payment.gateway = Some(gateway.to_owned());
    payment.gateway_reference = Some(charged.id);
    let told = service.ask(move |writer, database| writer.settle(database, payment));
    let (change, payment) = told.await?;
    change.log();
    service.processed.inc();
    service.succeeded.inc();
    Some(payment)
}
