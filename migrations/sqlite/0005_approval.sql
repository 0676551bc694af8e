-- Until when an approval can be given. Null for what needs none.
ALTER TABLE operations ADD COLUMN approval_until INTEGER;

-- What waits for approval: counted by configuration, and ended when its time is over.
CREATE INDEX operations_awaiting ON operations (configuration, approval_until) WHERE state = 'awaiting_approval';
