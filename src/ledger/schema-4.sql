-- Tokens for the daemon's HTTP interface. Of a secret only its SHA-256 is here. Rows stay when a
-- token is revoked, so that the audit log's names mean something.

CREATE TABLE tokens (
  id            TEXT PRIMARY KEY,
  name          TEXT NOT NULL,
  role          TEXT NOT NULL,
  database      TEXT,               -- its name in PostgreSQL; NULL: bound to none
  secret        TEXT NOT NULL,      -- SHA-256, in hexadecimal
  created_at    TEXT NOT NULL,
  expires_at    TEXT,               -- NULL: never
  revoked_at    TEXT,
  last_used_at  TEXT
) STRICT;

-- A name is given again only when its token is revoked.
CREATE UNIQUE INDEX tokens_by_name ON tokens (name) WHERE revoked_at IS NULL;

PRAGMA user_version = 4;
