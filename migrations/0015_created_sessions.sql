-- When a session was created is told by the listing of sessions: neither the ledger nor the sums by agent hold it. A server
-- of the version before still writes this column, until the read models are those of a newer one.
alter table usage_by_agent alter column sessions set default 0;
