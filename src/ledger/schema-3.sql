-- The audit log: what happened and at whose hand, each row chained to the one before by its hash.
-- AUTOINCREMENT keeps the highest number that was ever given, so that a row taken off the end is missed.

CREATE TABLE audit (
  number    INTEGER PRIMARY KEY AUTOINCREMENT,
  event     TEXT NOT NULL,          -- JSON; the hash is of these bytes
  previous  TEXT NOT NULL,          -- the hash of the row before, in hexadecimal
  hash      TEXT NOT NULL
) STRICT;

-- Every command asks for the newest event of an action.
CREATE INDEX audit_by_action ON audit (event ->> '$.action', number);

CREATE TRIGGER audit_is_not_edited BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_is_not_shortened BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

PRAGMA user_version = 3;
