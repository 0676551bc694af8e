-- Whom the end of an operation is told to; null for nobody. The rest is null, zero or false then, too.
ALTER TABLE operations ADD COLUMN callback_destination TEXT;
-- pending, delivered or parked.
ALTER TABLE operations ADD COLUMN callback_state TEXT;
-- When the next attempt is due; while one is under way, when the right to it ends.
ALTER TABLE operations ADD COLUMN callback_due TIMESTAMPTZ;
ALTER TABLE operations ADD COLUMN callback_under_way BOOLEAN NOT NULL DEFAULT false;
-- Attempts begun so far. What came of one is noted only while this is its number.
ALTER TABLE operations ADD COLUMN callback_attempts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE operations ADD COLUMN callback_progress TEXT;

-- The outbox: whatever ends an operation puts it in here.
CREATE INDEX operations_to_call_back ON operations (callback_destination, callback_due, position)
WHERE callback_state = 'pending' AND ended_at IS NOT NULL;
