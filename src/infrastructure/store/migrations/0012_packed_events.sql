-- An event is 600 to 800 bytes of JSON, most of it names, and ids that it has said before. Beside many small rows that was most
-- of what payd wrote. It is stored packed now (packed.rs), in a quarter of that, and is the same JSON, to the byte, for
-- whoever reads it: the digest is over that. Such a row has no text in `json`. What was written before stays as it is.

ALTER TABLE events ADD COLUMN packed BLOB;
