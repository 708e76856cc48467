-- The index of events by their invoice took an entry for each event, in a page of each commit. Now an event has the
-- sequence of the one of its invoice before it (0: there is none), and the invoice that of its newest
-- (invoice_events.rs). Of before, events have none, and stand in an index of their own.

ALTER TABLE events ADD COLUMN previous INTEGER;
ALTER TABLE invoices ADD COLUMN newest_event INTEGER;

DROP INDEX events_by_invoice;
CREATE INDEX events_of_before ON events (invoice) WHERE previous IS NULL;
