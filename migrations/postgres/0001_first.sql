-- Times of callers are microseconds since 1970, UTC; what leases and pauses end by is the database's own time.
-- JSON columns hold what src/domain and src/store/mod.rs serialise.

CREATE TABLE operations (
    -- The order of acceptance, which is the order of merging.
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    configuration TEXT NOT NULL,
    caller TEXT NOT NULL,
    ticket TEXT,
    state TEXT NOT NULL,
    submission TEXT NOT NULL,
    fate TEXT NOT NULL
);

-- What lanes and the sweep look for; ended operations, the many, are not in it.
CREATE INDEX operations_pending ON operations (configuration, position) WHERE state IN ('queued', 'running');
CREATE INDEX operations_by_configuration ON operations (configuration, position);
CREATE INDEX operations_by_caller ON operations (caller, position);
CREATE INDEX operations_by_ticket ON operations (ticket, position) WHERE ticket IS NOT NULL;

CREATE TABLE idempotency_keys (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    -- A key goes with its operation. It is written first, so that of two replicas one gets it.
    operation TEXT NOT NULL REFERENCES operations (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    used_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);

-- For the cascade.
CREATE INDEX idempotency_keys_by_operation ON idempotency_keys (operation);

CREATE TABLE lanes (
    configuration TEXT PRIMARY KEY,
    -- Who owns the lane, until when. The fencing number grows with every claim.
    owner TEXT,
    fencing BIGINT NOT NULL DEFAULT 0,
    lease_until TIMESTAMPTZ,
    -- A lane that Graph keeps from working is parked.
    not_before TIMESTAMPTZ,
    attempts BIGINT NOT NULL DEFAULT 0,
    parked_because TEXT,
    -- Digest of the set as the last turn left it.
    left_digest TEXT,
    -- The write that was about to be sent, until it is settled.
    intent TEXT
);

CREATE TABLE audit (
    -- Within a chain it grows with the sequence. A run begins its chain while nobody else writes, so the ends of other
    -- chains that it names stand before it, and what they gain later after it.
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chain TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (chain, sequence)
);

-- One row for every chain, and how far an opening of another chain has named it.
CREATE TABLE chains (
    chain TEXT PRIMARY KEY,
    named BIGINT NOT NULL DEFAULT 0
);

-- Written by the readiness probe, to prove that writing works.
CREATE TABLE probe (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    probed_at TIMESTAMPTZ NOT NULL
);
