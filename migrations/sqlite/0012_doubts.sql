-- What writes that cannot be told of any more may have done for operations that have not ended, as an object in JSON by their ids; null
-- where there are none.
ALTER TABLE lanes ADD COLUMN doubts TEXT;
