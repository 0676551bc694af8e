-- The operations that lanes have taken up, and when. A mark beside them: a lane takes up hundreds at once, which lie all over their table,
-- and to write to each of them kept everybody else waiting.
CREATE TABLE running (
    position INTEGER PRIMARY KEY,
    started_at INTEGER NOT NULL
) STRICT;

-- To the millisecond, for those that are running now; where that cannot be read, as of now.
INSERT INTO running
SELECT position, coalesce(
    CAST(round(unixepoch(json_extract(fate, '$.started_at'), 'subsec') * 1000) AS INTEGER) * 1000, unixepoch() * 1000000)
FROM operations INDEXED BY operations_pending WHERE state IN ('queued', 'running') AND state = 'running';
UPDATE operations SET state = 'queued', fate = '{"state":"queued"}' WHERE position IN (SELECT position FROM running);

DROP INDEX operations_pending;
CREATE INDEX operations_pending ON operations (configuration, position) WHERE state = 'queued';

-- Until when a key stands for an operation, or stood; null where none did. Asked of the operation itself, this needs no index of keys.
ALTER TABLE operations ADD COLUMN key_expires_at INTEGER;
UPDATE operations SET key_expires_at = keys.expires_at
FROM (SELECT operation, max(expires_at) AS expires_at FROM idempotency_keys GROUP BY operation) AS keys
WHERE operations.id = keys.operation;
DROP INDEX idempotency_keys_by_operation;

-- Held from the beginning for what is known at the end: a row that grew would have its page divided. Null once it has ended.
ALTER TABLE operations ADD COLUMN room BLOB;
