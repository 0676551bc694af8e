-- What records are looked for by; all of it stands in the text, too, which is what is hashed. Null where the text has none.
ALTER TABLE audit ADD COLUMN at INTEGER;
ALTER TABLE audit ADD COLUMN ticket TEXT;
ALTER TABLE audit ADD COLUMN operation TEXT;
ALTER TABLE audit ADD COLUMN caller TEXT;
ALTER TABLE audit ADD COLUMN configuration TEXT;

-- To the millisecond, which is as exact as a search for old records need be.
UPDATE audit SET
    at = CAST(round(unixepoch(json_extract(text, '$.at'), 'subsec') * 1000) AS INTEGER) * 1000,
    ticket = json_extract(text, '$.ticket'),
    operation = json_extract(text, '$.operation'),
    caller = json_extract(text, '$.caller'),
    configuration = json_extract(text, '$.configuration')
WHERE json_valid(text);

CREATE INDEX audit_by_time ON audit (at, position);
CREATE INDEX audit_by_ticket ON audit (ticket, position) WHERE ticket IS NOT NULL;
CREATE INDEX audit_by_operation ON audit (operation, position) WHERE operation IS NOT NULL;
CREATE INDEX audit_by_caller ON audit (caller, position) WHERE caller IS NOT NULL;
CREATE INDEX audit_by_configuration ON audit (configuration, position) WHERE configuration IS NOT NULL;

-- How far the trail was delivered to each sink, and who delivers to it now.
CREATE TABLE deliveries (
    sink TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    owner TEXT,
    lease_until INTEGER
) STRICT, WITHOUT ROWID;
