-- Late lines by when they were written, for servers that keep what ended periods came to: these alone change it. Nothing
-- else states both conditions, so nothing else is led to it.
create index ledger_late_written on ledger (tenant_id, build, position) where late = 1 and entry >= 0;
-- Of a period only those late lines are looked up that stand on the page.
drop index ledger_late;
create index ledger_late on ledger (tenant_id, build, at, position) where late = 1;
