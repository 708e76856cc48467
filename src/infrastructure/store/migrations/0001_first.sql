-- What payd keeps. Amounts are minor units; times are milliseconds since the Unix epoch, UTC.
-- Codes are positions in the `ALL` lists of the domain: they are stored, so those lists only grow
-- at their ends. Text ids stand in one index each; everything else refers by integer.

CREATE TABLE meta (
  name TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE invoices (
  n INTEGER PRIMARY KEY,                    -- order of creation, and the cursor of lists
  id TEXT NOT NULL UNIQUE CHECK (length(id) BETWEEN 1 AND 64),
  amount INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
  currency TEXT NOT NULL CHECK (length(currency) = 3),
  description TEXT,
  metadata TEXT NOT NULL,                   -- JSON object of strings
  payment_method TEXT,
  due_at INTEGER,
  status INTEGER NOT NULL CHECK (status BETWEEN 0 AND 4),
  attempts INTEGER NOT NULL CHECK (attempts >= 0),
  attempts_before_round INTEGER NOT NULL CHECK (attempts_before_round BETWEEN 0 AND attempts),
  needs_attention INTEGER NOT NULL CHECK (needs_attention IN (0, 1)),
  contradicted_attempt INTEGER,             -- set: no later attempt is sent
  cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
  cancel_reason TEXT,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  paid_at INTEGER,
  CHECK ((status = 2) = (paid_at IS NOT NULL))
) STRICT;

CREATE INDEX invoices_by_status ON invoices (status, n);
CREATE INDEX invoices_that_need_attention ON invoices (n) WHERE needs_attention = 1;

CREATE TABLE payments (
  n INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
  invoice INTEGER NOT NULL REFERENCES invoices (n),
  attempt INTEGER NOT NULL CHECK (attempt >= 1),
  idempotency_key TEXT NOT NULL,
  method TEXT,
  state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 7),
  gateway TEXT,
  gateway_reference TEXT,
  failure TEXT,                             -- JSON
  requested_at INTEGER NOT NULL,
  due_at INTEGER NOT NULL,
  sent_at INTEGER,
  finished_at INTEGER,
  resends INTEGER NOT NULL,
  contradicted INTEGER NOT NULL CHECK (contradicted IN (0, 1)),
  traceparent TEXT,
  -- working state, not in the log
  epoch INTEGER NOT NULL,
  lease_until INTEGER,
  open_since INTEGER,
  lookups INTEGER NOT NULL,
  next_lookup_at INTEGER,
  UNIQUE (invoice, attempt),
  CHECK ((state = 1) = (lease_until IS NOT NULL)),
  CHECK ((state = 6) = (failure IS NOT NULL))
) STRICT;

-- Invariant 4: at most one open payment an invoice (states 0 to 4), and at most one that succeeded.
CREATE UNIQUE INDEX payments_one_open ON payments (invoice) WHERE state < 5;
CREATE UNIQUE INDEX payments_one_succeeded ON payments (invoice) WHERE state = 5;

-- Work to do: only what is open is in these.
CREATE INDEX payments_due ON payments (due_at) WHERE state = 0;
CREATE INDEX payments_leases ON payments (lease_until) WHERE state = 1;
CREATE INDEX payments_lookups ON payments (next_lookup_at) WHERE state IN (2, 3);
CREATE INDEX payments_review ON payments (n) WHERE state = 4;

CREATE TABLE events (
  sequence INTEGER PRIMARY KEY,
  invoice INTEGER NOT NULL REFERENCES invoices (n),
  type INTEGER NOT NULL CHECK (type BETWEEN 0 AND 12),
  json TEXT NOT NULL,                       -- the CloudEvent, as it is streamed
  digest BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;

CREATE INDEX events_by_invoice ON events (invoice);
CREATE INDEX events_by_type ON events (type);

CREATE TRIGGER events_never_change BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events never change'); END;
CREATE TRIGGER events_never_go BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events never go'); END;

-- Answers kept under idempotency keys. Their age counts time lived, not the clock.
CREATE TABLE answers (
  n INTEGER PRIMARY KEY,
  actor TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
  status INTEGER NOT NULL,
  location TEXT,
  body BLOB NOT NULL,
  born_at_age INTEGER NOT NULL,
  UNIQUE (key, actor)
) STRICT;

CREATE INDEX answers_by_age ON answers (born_at_age);
