-- What operations and records are looked for by. Indexes of their own tables would be written to by every commit, all over the file; these
-- tables are filled several hundred rows at a time, in their own order. What has come since is looked through.

-- Through which position rows stand there, by what they are looked for by: 'audit.ticket'.
CREATE TABLE indexed (
    of TEXT PRIMARY KEY,
    through INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE operations_index (
    what TEXT NOT NULL,
    value TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (what, value, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_index (
    what TEXT NOT NULL,
    value TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (what, value, position)
) STRICT, WITHOUT ROWID;

-- Between which times the records from one position to another happened.
CREATE TABLE audit_spans (
    last INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    earliest INTEGER,
    latest INTEGER
) STRICT;

DROP INDEX operations_by_configuration;
DROP INDEX operations_by_caller;
DROP INDEX operations_by_ticket;
DROP INDEX audit_by_time;
DROP INDEX audit_by_ticket;
DROP INDEX audit_by_operation;
DROP INDEX audit_by_caller;
DROP INDEX audit_of_turns;

CREATE TRIGGER operations_forgotten AFTER DELETE ON operations BEGIN
    DELETE FROM operations_index WHERE what = 'ticket' AND value = old.ticket AND position = old.position;
    DELETE FROM operations_index WHERE what = 'configuration' AND value = old.configuration AND position = old.position;
    DELETE FROM operations_index WHERE what = 'caller' AND value = old.caller AND position = old.position;
END;
