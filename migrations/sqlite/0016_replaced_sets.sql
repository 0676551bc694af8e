-- Sets that the lane's writes have replaced lately, each with when: for some seconds, Graph may still show one of them.
ALTER TABLE lanes ADD COLUMN replaced_sets TEXT;
