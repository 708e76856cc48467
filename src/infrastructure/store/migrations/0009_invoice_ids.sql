-- Invoice ids in no order belonged anywhere in one index of all of them: a page of sixty, read, logged and written back
-- for one id alone. They are now found by a hash, in a table of its own that takes hundreds of thousands at a time and
-- in its own order (invoice_ids.rs). The newest are not in it yet: payd has them in memory, and reads them at a start.
-- Up to where it is complete is noted in `late`, and the greatest id of those up to there in `meta`, with its hash.
-- The hash stands beside the id as well, so that neither can be changed by damage and be taken for another's.
-- That no two invoices have one id is seen to by the one writer, which looks before it adds.

-- Entries go into such a table in the order of their hashes, up to the one of the row `moving_to`: those up to the
-- hash `moved_to` are there. What stands there is checked by a digest of it, since an entry that it says is there is
-- looked for nowhere else.
ALTER TABLE late ADD COLUMN moving_to INTEGER;
ALTER TABLE late ADD COLUMN moved_to INTEGER;
ALTER TABLE late ADD COLUMN digest INTEGER;

CREATE TABLE invoice_ids (
  hash INTEGER NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (hash, n)
) STRICT, WITHOUT ROWID;

INSERT INTO invoice_ids SELECT invoice_hash(id), n FROM invoices ORDER BY 1, 2;
INSERT INTO late (name, until) SELECT 'invoice_ids', coalesce(max(n), 0) FROM invoices;
UPDATE late SET digest = late_digest(name, until, NULL, NULL) WHERE name IN ('invoice_ids', 'answer_keys');
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
