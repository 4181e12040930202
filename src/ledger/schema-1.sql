-- Times are UTC as RFC 3339 text with milliseconds, so that they sort as text.
-- A process is its pid and what tells it from a later one of the same pid.

CREATE TABLE job_runs (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  kind        TEXT NOT NULL,
  database    TEXT,                 -- NULL: the job is not about one database
  started_at  TEXT NOT NULL,
  pid         INTEGER NOT NULL,
  process     TEXT NOT NULL,
  outcome     TEXT,                 -- NULL: not ended
  error       TEXT,
  subject     TEXT,                 -- the id of the snapshot made or used
  ended_at    TEXT,
  CHECK ((outcome IS NULL) = (ended_at IS NULL))
) STRICT;

CREATE INDEX job_runs_by_database ON job_runs (database, id);
CREATE INDEX job_runs_open ON job_runs (id) WHERE outcome IS NULL;

CREATE TABLE replaced_databases (
  marker             TEXT PRIMARY KEY,
  system_identifier  TEXT NOT NULL,
  oid                INTEGER NOT NULL,
  kept_name          TEXT NOT NULL,
  original_name      TEXT NOT NULL,
  replaced_at        TEXT NOT NULL,
  expires_at         TEXT NOT NULL,
  state              TEXT NOT NULL
) STRICT;

CREATE TABLE restores_in_flight (
  marker             TEXT PRIMARY KEY,
  system_identifier  TEXT NOT NULL,
  oid                INTEGER,       -- NULL: not created yet, as far as is known
  temp_name          TEXT NOT NULL,
  started_at         TEXT NOT NULL,
  pid                INTEGER NOT NULL,
  process            TEXT NOT NULL
) STRICT;

PRAGMA user_version = 1;
