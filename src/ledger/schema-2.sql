-- Gated migrations: each run, the phases it went through, the fences it raised.
-- A phase is written down before its act begins. JSON columns hold what reports and a resume need.

CREATE TABLE gate_runs (
  id          TEXT PRIMARY KEY,
  databases   TEXT NOT NULL,        -- JSON list of their names, in the order given
  command     TEXT NOT NULL,        -- JSON list of words, secrets masked
  started_at  TEXT NOT NULL,
  pid         INTEGER NOT NULL,     -- the process that walks it, or walked it last
  process     TEXT NOT NULL,
  phase       TEXT NOT NULL,        -- where it stands
  verdict     TEXT,                 -- how it ends, once that is decided
  facts       TEXT NOT NULL,        -- JSON
  output      TEXT NOT NULL DEFAULT '',
  ended_at    TEXT                  -- NULL: neither done nor held
) STRICT;

CREATE INDEX gate_runs_open ON gate_runs (id) WHERE ended_at IS NULL;

CREATE TABLE gate_phases (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  run         TEXT NOT NULL REFERENCES gate_runs (id),
  phase       TEXT NOT NULL,
  began_at    TEXT NOT NULL,
  ended_at    TEXT,                 -- NULL: its process died in it, or it goes on
  outcome     TEXT                  -- in words
) STRICT;

CREATE INDEX gate_phases_by_run ON gate_phases (run, id);

CREATE TABLE gate_fences (
  run         TEXT NOT NULL REFERENCES gate_runs (id),
  ordinal     INTEGER NOT NULL,     -- released in reverse
  undo        TEXT NOT NULL,        -- JSON: how it is released
  released_at TEXT,
  PRIMARY KEY (run, ordinal)
) STRICT;

PRAGMA user_version = 2;
