-- By their configuration only the records of a lane's turn are looked for, which name many operations; those of one operation are
-- found by that.
DROP INDEX audit_by_configuration;
CREATE INDEX audit_of_turns ON audit (configuration, position) WHERE configuration IS NOT NULL AND operation IS NULL;
