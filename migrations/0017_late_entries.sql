-- Lines that count before their event are read in pages like the others, in the order of their events.
create index ledger_late_newest on ledger (tenant_id, build, position, entry) where late = 1;
create index ledger_late_of_agent on ledger (tenant_id, build, agent_id, position, entry) where late = 1;
