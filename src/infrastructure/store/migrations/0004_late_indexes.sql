-- An index entry that belongs anywhere costs a page: read, logged and written back for it alone. Payment ids are
-- digests, so each new one belonged anywhere in one index of all of them; and each commit touched the end of every
-- event type's stretch. These two indexes, and only they, are now tables of their own that are brought up to date
-- for a thousand rows at a time (late.rs): what is newer than `late.until` is found by looking through the rows
-- themselves. Payment ids are in runs, so that a thousand new ones lie on few pages: to find a payment by its id
-- alone, each run is asked.
-- That no two payments are the same is held by (invoice, attempt), of which the id is made.

CREATE TABLE late (
  name TEXT NOT NULL PRIMARY KEY,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE payment_ids (
  run INTEGER NOT NULL,
  id BLOB NOT NULL CHECK (length(id) = 16),
  payment INTEGER NOT NULL,
  PRIMARY KEY (run, id, payment)
) STRICT, WITHOUT ROWID;

CREATE TABLE event_types (
  type INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  PRIMARY KEY (type, sequence)
) STRICT, WITHOUT ROWID;

DROP INDEX events_by_type;
INSERT INTO event_types SELECT type, sequence FROM events ORDER BY type, sequence;
INSERT INTO payment_ids SELECT n >> 14, id, n FROM payments ORDER BY n >> 14, id;
INSERT INTO late SELECT 'event_types', coalesce(max(sequence), 0) FROM events;
INSERT INTO late SELECT 'payment_ids', coalesce(max(n), 0) FROM payments;

-- Answers are kept in the order of their age already.
DROP INDEX answers_by_age;

CREATE TABLE payments_in_runs (
  n INTEGER PRIMARY KEY,
  id BLOB NOT NULL CHECK (length(id) = 16),
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
  restored INTEGER NOT NULL DEFAULT 0 CHECK (restored IN (0, 1)),
  UNIQUE (invoice, attempt),
  CHECK ((state = 1) = (lease_until IS NOT NULL)),
  CHECK ((state = 6) = (failure IS NOT NULL))
) STRICT;

INSERT INTO payments_in_runs
SELECT n, id, invoice, attempt, idempotency_key, method, state, gateway, gateway_reference, failure, requested_at,
  due_at, sent_at, finished_at, resends, contradicted, traceparent, epoch, lease_until, open_since, lookups,
  next_lookup_at, restored
FROM payments;

DROP TABLE payments;
ALTER TABLE payments_in_runs RENAME TO payments;

-- As before.
CREATE UNIQUE INDEX payments_one_open ON payments (invoice) WHERE state < 5;
CREATE UNIQUE INDEX payments_one_succeeded ON payments (invoice) WHERE state = 5;
CREATE INDEX payments_due ON payments (due_at) WHERE state = 0;
CREATE INDEX payments_leases ON payments (lease_until) WHERE state = 1;
CREATE INDEX payments_lookups ON payments (next_lookup_at) WHERE state IN (2, 3);
CREATE INDEX payments_review ON payments (n) WHERE state = 4;
