-- What records are looked for by; all of it stands in the text, too, which is what is hashed. Null where the text has none.
ALTER TABLE audit
    ADD COLUMN at BIGINT,
    ADD COLUMN ticket TEXT,
    ADD COLUMN operation TEXT,
    ADD COLUMN caller TEXT,
    ADD COLUMN configuration TEXT;

UPDATE audit SET
    at = (EXTRACT(EPOCH FROM (text::JSONB ->> 'at')::TIMESTAMPTZ) * 1000000)::BIGINT,
    ticket = text::JSONB ->> 'ticket',
    operation = text::JSONB ->> 'operation',
    caller = text::JSONB ->> 'caller',
    configuration = text::JSONB ->> 'configuration';

CREATE INDEX audit_by_time ON audit (at, position);
CREATE INDEX audit_by_ticket ON audit (ticket, position) WHERE ticket IS NOT NULL;
CREATE INDEX audit_by_operation ON audit (operation, position) WHERE operation IS NOT NULL;
CREATE INDEX audit_by_caller ON audit (caller, position) WHERE caller IS NOT NULL;
CREATE INDEX audit_by_configuration ON audit (configuration, position) WHERE configuration IS NOT NULL;

-- How far the trail was delivered to each sink, and who delivers to it now.
CREATE TABLE deliveries (
    sink TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    owner TEXT,
    lease_until TIMESTAMPTZ
);
