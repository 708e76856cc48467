-- Most ids and keys that are looked for are new, and in an index by hashes of ten million each of them took a page to
-- itself, for nothing. A filter says of most that they are not there (filters.rs). It is made as entries are merged:
-- what has none yet is looked for in the table, as before.

-- A block tells of the hashes from the first one that it names up to `last`. By its last, so that a look takes one page:
-- SQLite finds the page of what is next.
CREATE TABLE invoice_id_filters (last INTEGER PRIMARY KEY, bits BLOB NOT NULL) STRICT;
CREATE TABLE answer_key_filters (last INTEGER PRIMARY KEY, bits BLOB NOT NULL) STRICT;
