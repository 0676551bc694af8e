-- What operations and records are looked for by. Indexes of their own tables would be written to by every commit, all over the file; these
-- tables are filled a few hundred rows at a time, in their own order. What has come since is looked through.

-- How far rows stand in these tables.
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

-- Rows that do not stand there yet, and what they are looked for by.
CREATE VIEW operations_to_index AS
    SELECT position, ticket, configuration, caller FROM operations
    WHERE position > (SELECT through FROM indexed WHERE of = 'operations');
CREATE VIEW audit_to_index AS
    SELECT position, at, ticket, operation, caller, configuration FROM audit
    WHERE position > (SELECT through FROM indexed WHERE of = 'audit');

INSERT INTO indexed VALUES ('operations', 0), ('audit', 0);
INSERT INTO operations_index
    SELECT 'ticket', ticket, position FROM operations_to_index WHERE ticket IS NOT NULL
    UNION ALL SELECT 'configuration', configuration, position FROM operations_to_index
    UNION ALL SELECT 'caller', caller, position FROM operations_to_index
    ORDER BY 1, 2, 3;
INSERT INTO audit_index
    SELECT 'ticket', ticket, position FROM audit_to_index WHERE ticket IS NOT NULL
    UNION ALL SELECT 'operation', operation, position FROM audit_to_index WHERE operation IS NOT NULL
    UNION ALL SELECT 'caller', caller, position FROM audit_to_index WHERE caller IS NOT NULL
    -- Records of a lane's turn name many operations.
    UNION ALL SELECT 'turn', configuration, position FROM audit_to_index
        WHERE configuration IS NOT NULL AND operation IS NULL
    ORDER BY 1, 2, 3;
INSERT INTO audit_spans
    SELECT max(position), min(position), min(at), max(at) FROM audit_to_index GROUP BY position / 500;
UPDATE indexed SET through = (SELECT coalesce(max(position), 0) FROM operations) WHERE of = 'operations';
UPDATE indexed SET through = (SELECT coalesce(max(position), 0) FROM audit) WHERE of = 'audit';

CREATE TRIGGER operations_forgotten AFTER DELETE ON operations BEGIN
    DELETE FROM operations_index WHERE what = 'ticket' AND value = old.ticket AND position = old.position;
    DELETE FROM operations_index WHERE what = 'configuration' AND value = old.configuration AND position = old.position;
    DELETE FROM operations_index WHERE what = 'caller' AND value = old.caller AND position = old.position;
END;
