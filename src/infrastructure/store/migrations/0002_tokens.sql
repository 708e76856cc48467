-- Bearer tokens: what is kept of them is no secret. They are never deleted, so that who did what
-- stays known; a name is free again once its token is revoked.

CREATE TABLE tokens (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE CHECK (length(id) = 8),
  name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
  digest BLOB NOT NULL CHECK (length(digest) = 32),   -- SHA-256 of the token
  scopes INTEGER NOT NULL,                            -- a bit for each position in `Scope::ALL`
  created_at INTEGER NOT NULL,
  created_by TEXT NOT NULL,
  expires_at INTEGER,
  revoked_at INTEGER,
  revoked_by TEXT,
  CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
) STRICT;

CREATE UNIQUE INDEX tokens_by_name ON tokens (name) WHERE revoked_at IS NULL;
