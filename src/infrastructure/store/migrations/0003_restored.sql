-- Payments that were open when the store was restored from a backup: no other attempt follows them by
-- itself, since one made after the backup may have been charged.

ALTER TABLE payments ADD COLUMN restored INTEGER NOT NULL DEFAULT 0 CHECK (restored IN (0, 1));
