-- When an operation ended, so that those that ended long ago can be found and removed. Null as long as it has not.
ALTER TABLE operations ADD COLUMN ended_at BIGINT;

UPDATE operations SET ended_at = (EXTRACT(EPOCH FROM (fate::JSONB ->> 'ended_at')::TIMESTAMPTZ) * 1000000)::BIGINT
WHERE state NOT IN ('queued', 'running');

CREATE INDEX operations_ended ON operations (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);
