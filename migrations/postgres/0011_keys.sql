-- A key is written in the transaction that stores its operation, and an operation is removed only when no key stands for it. That a
-- constraint says so as well cost each acceptance a look and a lock more.
ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_operation_fkey;
