-- When what an operation did is to be undone; null as soon as that is settled, one way or another.
ALTER TABLE operations ADD COLUMN until_at INTEGER;
-- How it was settled; null where nothing is.
ALTER TABLE operations ADD COLUMN until_state TEXT;
-- The operation that this one undoes.
ALTER TABLE operations ADD COLUMN reverts TEXT;

CREATE INDEX operations_until ON operations (until_at, id) WHERE until_at IS NOT NULL;
CREATE INDEX operations_reverting ON operations (reverts, position) WHERE reverts IS NOT NULL;
