-- Ids that are made in their own order, as payd's are, belonged anywhere in an index by hashes: each was merged into a leaf
-- of its own, twenty to a page of ten million. What is newest and in order is now written as it is, some hundreds of ids
-- at a time (stretches.rs), and never again: a stretch has the hashes and numbers of all ids between its first and its last.

-- A stretch tells of all ids from its first one to that of the next. By the newest invoice in it, so that a start finds
-- those that it need not read.
CREATE TABLE invoice_id_stretches (
  n INTEGER PRIMARY KEY,
  first TEXT NOT NULL UNIQUE,
  newest INTEGER NOT NULL,
  entries BLOB NOT NULL
) STRICT;
CREATE INDEX invoice_id_stretches_by_newest ON invoice_id_stretches (newest);
