-- Sets that the lane's writes have replaced lately, since Graph may still show one of them: for how many milliseconds from
-- then on each of them is not believed.
ALTER TABLE lanes ADD COLUMN replaced_sets TEXT;
ALTER TABLE lanes ADD COLUMN replaced_at TIMESTAMPTZ;
