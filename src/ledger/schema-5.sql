-- Leases of gated migrations whose command runs on another machine. Each change is written down
-- before the runner hears of it, so that a later daemon knows what an earlier one has answered.

CREATE TABLE gate_leases (
  run         TEXT PRIMARY KEY,     -- the run may not be there yet
  opening     TEXT NOT NULL UNIQUE, -- whoever opened it, and the key it gave: asked again, it is the same run
  owner       TEXT NOT NULL,        -- who may touch it besides operators
  actor       TEXT NOT NULL,        -- JSON: who that is, for the audit log
  seconds     INTEGER NOT NULL,     -- its length
  state       TEXT NOT NULL,        -- JSON: holder, output, end
  heard_at    TEXT NOT NULL         -- when the runner was last heard of
) STRICT;

PRAGMA user_version = 5;
