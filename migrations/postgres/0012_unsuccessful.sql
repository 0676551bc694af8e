-- What failed or was cancelled, in the order of acceptance. It is written to when one of these ends, and neither by acceptances nor by
-- successes.
CREATE INDEX operations_unsuccessful ON operations (state, position) WHERE state IN ('failed', 'cancelled');
