-- An answer that tells of what was made is written from the events of its request, which never change, instead of
-- being kept as well: invoices that were made, or a payment that was requested. Then these say which events, the
-- body is empty and the status 0.

ALTER TABLE answers ADD COLUMN first_event INTEGER;
ALTER TABLE answers ADD COLUMN last_event INTEGER;
