-- Times are microseconds since 1970, UTC. JSON columns hold what src/domain and src/store/mod.rs serialise.

CREATE TABLE operations (
    -- The order of acceptance, which is the order of merging.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    configuration TEXT NOT NULL,
    caller TEXT NOT NULL,
    ticket TEXT,
    state TEXT NOT NULL,
    submission TEXT NOT NULL,
    fate TEXT NOT NULL
) STRICT;

-- What lanes and the sweep look for; ended operations, the many, are not in it.
CREATE INDEX operations_pending ON operations (configuration, position) WHERE state IN ('queued', 'running');
CREATE INDEX operations_by_configuration ON operations (configuration, position);
CREATE INDEX operations_by_caller ON operations (caller, position);
CREATE INDEX operations_by_ticket ON operations (ticket, position) WHERE ticket IS NOT NULL;

CREATE TABLE idempotency_keys (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    operation TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE lanes (
    configuration TEXT PRIMARY KEY,
    -- Who owns the lane, until when. The fencing number grows with every claim.
    owner TEXT,
    fencing INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER,
    -- A lane that Graph keeps from working is parked.
    not_before INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    parked_because TEXT,
    -- Digest of the set as the last turn left it.
    left_digest TEXT,
    -- The write that was about to be sent, until it is settled.
    intent TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    chain TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (chain, sequence)
) STRICT;

-- Written by the readiness probe, to prove that writing works.
CREATE TABLE probe (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    probed_at INTEGER NOT NULL
) STRICT;
