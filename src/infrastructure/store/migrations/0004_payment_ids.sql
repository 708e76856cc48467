-- Payment ids are digests. One index of all of them takes each new one at a place of its own, on a page that has
-- to be read, logged and written back for it alone; the more payments, the more so. Here each run of payments has
-- a stretch of the index to itself: the one that grows is small and stays in memory, and the others are at rest. To
-- find a payment by its id alone, each run is asked, the newest first: see `runs` in rows.rs.
-- That no two payments are the same is held by (invoice, attempt), of which the id is made.

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

CREATE INDEX payments_by_id ON payments (n >> 16, id);

-- As before.
CREATE UNIQUE INDEX payments_one_open ON payments (invoice) WHERE state < 5;
CREATE UNIQUE INDEX payments_one_succeeded ON payments (invoice) WHERE state = 5;
CREATE INDEX payments_due ON payments (due_at) WHERE state = 0;
CREATE INDEX payments_leases ON payments (lease_until) WHERE state = 1;
CREATE INDEX payments_lookups ON payments (next_lookup_at) WHERE state IN (2, 3);
CREATE INDEX payments_review ON payments (n) WHERE state = 4;
