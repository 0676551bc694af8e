-- What ended long ago is removed, but for what has an end ahead or a callback to deliver: that may be much, and is not looked through each
-- time. It comes in here as soon as that is settled.
DROP INDEX operations_ended;
CREATE INDEX operations_ended ON operations (ended_at)
WHERE ended_at IS NOT NULL AND until_at IS NULL AND callback_state IS NOT 'pending';
