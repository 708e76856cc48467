-- An index by hashes had a row for each entry: 27 bytes, of which two hundred came on a page, and a statement's work to put
-- it there. Now some hundreds of entries lie in a leaf, in order, twelve bytes each, and those that are merged go into a
-- leaf all at once (leaves.rs). A leaf has a check of what was written.

-- By its last hash, so that a look takes one page.
CREATE TABLE invoice_id_leaves (last INTEGER PRIMARY KEY, entries BLOB NOT NULL) STRICT;
CREATE TABLE answer_key_leaves (last INTEGER PRIMARY KEY, entries BLOB NOT NULL) STRICT;

-- payd fills them in this migration, from the tables of rows, and drops those.
