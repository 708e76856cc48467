-- Invoice ids in no order belonged anywhere in one index of all of them: a page of sixty, read, logged and written back
-- for one id alone. They are now found by a hash, as idempotency keys are: the newest are in memory, which payd reads at
-- a start; then they are in sorted runs, until eight of those are merged into the table in its own order (hashes.rs).
-- The hash stands beside the id as well, so that neither can be changed by damage and be taken for another's.
-- That no two invoices have one id is seen to by the one writer, which looks before it adds. The greatest id that there
-- may be is noted in `meta`, with its hash.

-- What is merged is in the table up to the hash `merged_to`, of rows up to `merging_to`. What stands there is checked by
-- a digest of it, since an entry that it says is there is looked for nowhere else.
ALTER TABLE late ADD COLUMN merging_to INTEGER;
ALTER TABLE late ADD COLUMN merged_to INTEGER;
ALTER TABLE late ADD COLUMN digest INTEGER;

-- Parts of runs, by the run's number and their own.
CREATE TABLE invoice_id_runs (n INTEGER PRIMARY KEY, entries BLOB NOT NULL) STRICT;
CREATE TABLE answer_key_runs (n INTEGER PRIMARY KEY, entries BLOB NOT NULL) STRICT;

CREATE TABLE invoice_ids (
  hash INTEGER NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (hash, n)
) STRICT, WITHOUT ROWID;

INSERT INTO invoice_ids SELECT invoice_hash(id), n FROM invoices ORDER BY 1, 2;
INSERT INTO late (name, until) SELECT 'invoice_ids', coalesce(max(n), 0) FROM invoices;
UPDATE late SET digest = late_digest(name, until) WHERE name IN ('invoice_ids', 'answer_keys');
INSERT INTO meta
SELECT 'greatest_invoice_id', printf('%016x %s', invoice_hash(greatest), greatest)
FROM (SELECT coalesce(max(id), '') AS greatest FROM invoices);

-- Others refer to invoices by number, which stay what they are: foreign keys are off meanwhile.
CREATE TABLE invoices_by_number (
  n INTEGER PRIMARY KEY,                    -- order of creation, and the cursor of lists
  id TEXT NOT NULL CHECK (length(id) BETWEEN 1 AND 64),
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
  newest_event INTEGER,                     -- the newest of its events (invoice_events.rs)
  id_hash INTEGER NOT NULL,
  CHECK ((status = 2) = (paid_at IS NOT NULL))
) STRICT;

INSERT INTO invoices_by_number
SELECT n, id, amount, currency, description, metadata, payment_method, due_at, status, attempts, attempts_before_round,
  needs_attention, contradicted_attempt, cancel_requested, cancel_reason, created_at, updated_at, paid_at, newest_event,
  invoice_hash(id)
FROM invoices ORDER BY n;

DROP TABLE invoices;
ALTER TABLE invoices_by_number RENAME TO invoices;

CREATE INDEX invoices_that_need_attention ON invoices (n) WHERE needs_attention = 1;
