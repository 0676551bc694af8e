-- Which operations of a configuration have been reverted since another was accepted. Only reversals are in it.
CREATE INDEX operations_reversals ON operations (configuration, position) WHERE reverts IS NOT NULL;
