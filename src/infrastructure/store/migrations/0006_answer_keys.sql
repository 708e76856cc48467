-- Idempotency keys are mostly random, so each belonged anywhere in one index of all of them: a page, read, logged and
-- written back for it alone. Their index is now a table of its own, by a hash of actor and key, that takes them
-- thousands at a time and in its own order (answer_keys.rs). The newest are not in it yet: payd has them in memory,
-- and reads them at a start. Up to where it is complete is noted in `late`.

CREATE TABLE answer_keys (
  hash INTEGER NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (hash, n)
) STRICT, WITHOUT ROWID;

INSERT INTO answer_keys SELECT answer_hash(actor, key), n FROM answers ORDER BY 1, 2;
INSERT INTO late SELECT 'answer_keys', coalesce(max(n), 0) FROM answers;

CREATE TABLE answers_in_order (
  n INTEGER PRIMARY KEY,
  actor TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
  status INTEGER NOT NULL,
  location TEXT,
  body BLOB NOT NULL,
  born_at_age INTEGER NOT NULL,
  first_event INTEGER,
  last_event INTEGER
) STRICT;

INSERT INTO answers_in_order
SELECT n, actor, key, fingerprint, status, location, body, born_at_age, first_event, last_event FROM answers;

DROP TABLE answers;
ALTER TABLE answers_in_order RENAME TO answers;
