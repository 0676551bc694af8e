-- When an operation ended, so that those that ended long ago can be found and removed. Null as long as it has not.
ALTER TABLE operations ADD COLUMN ended_at INTEGER;

-- To the second, which is enough for what is kept for days.
UPDATE operations SET ended_at = unixepoch(json_extract(fate, '$.ended_at')) * 1000000
WHERE state NOT IN ('queued', 'running');

CREATE INDEX operations_ended ON operations (ended_at) WHERE ended_at IS NOT NULL;

CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);
-- Whether a key stands for an operation.
CREATE INDEX idempotency_keys_by_operation ON idempotency_keys (operation);
