-- Two of the late indexes tell of few kinds of many rows: they have a row for each kind and stretch of 1,024 now, with a bit
-- for each row of the table (places.rs, late.rs), where they had an entry for each. What they had is taken over.

ALTER TABLE event_types RENAME TO event_types_before;
ALTER TABLE invoices_in_status RENAME TO invoices_in_status_before;

CREATE TABLE event_types (
  type INTEGER NOT NULL,
  stretch INTEGER NOT NULL,
  places BLOB NOT NULL CHECK (length(places) = 128),
  PRIMARY KEY (type, stretch)
) STRICT, WITHOUT ROWID;

CREATE TABLE invoices_in_status (
  status INTEGER NOT NULL,
  stretch INTEGER NOT NULL,
  places BLOB NOT NULL CHECK (length(places) = 128),
  PRIMARY KEY (status, stretch)
) STRICT, WITHOUT ROWID;
