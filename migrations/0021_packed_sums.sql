-- What everybody used in a period that has ended, in one row: made of the sums by user and by agent as they stood at a
-- position of the log, and read instead of a row for each of them. No part of any read model: what is not there is read
-- from those.
create table packed_sums (
  tenant_id bigint not null,
  -- usage_by_user or usage_by_agent, and its build
  projection text collate "C" not null,
  build integer not null,
  -- What is of minutes is packed by the hour.
  grain text collate "C" not null,
  start timestamptz not null,
  -- Late lines behind it are not in it. The largest number of all where the period has more than is packed.
  position bigint not null,
  -- So many bytes for each row: 16 of each id, which are those of its ULID, 0 where there is none; one that says in which
  -- minute of the hour; and 28 of what was used. Null where the rows have no such thing.
  user_ids bytea not null,
  session_ids bytea,
  agent_ids bytea,
  minutes bytea,
  used bytea not null,
  primary key (tenant_id, projection, build, grain, start)
);
-- To decompress them takes longer than to read them.
do $$
declare name text;
begin
  foreach name in array array['user_ids', 'session_ids', 'agent_ids', 'minutes', 'used'] loop
    execute format('alter table packed_sums alter column %I set storage external', name);
  end loop;
end $$;
alter table packed_sums enable row level security;
alter table packed_sums force row level security;
create policy tenant_wall on packed_sums using (tenant_id = current_tenant());
grant select, insert, delete on packed_sums to theazo_serve;
