-- What is still to be delivered and what was given up: counted by this index alone.
CREATE INDEX operations_undelivered ON operations (callback_state, ended_at)
WHERE callback_state IN ('pending', 'parked') AND ended_at IS NOT NULL;
