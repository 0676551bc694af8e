-- Operations that ended long ago are removed, except those whose end is ahead or whose callback is to be delivered. These may be many, and
-- are not searched each time: they enter this index once that is settled.
DROP INDEX operations_ended;
CREATE INDEX operations_to_forget ON operations (ended_at)
WHERE ended_at IS NOT NULL AND until_at IS NULL AND callback_state IS NOT 'pending';
