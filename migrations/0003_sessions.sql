-- The read models of sessions.

create table sessions (
  tenant_id bigint not null,
  build integer not null,
  session_id text collate "C" not null,
  user_id text collate "C" not null,
  status text collate "C" not null,
  -- null where nothing is limited
  limits json,
  -- cnt_…: the caller's metadata, beside the log.
  metadata_content_id text collate "C",
  -- Of the event that created it: what listings are ordered by.
  position bigint not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  -- null for one that is open: active or paused
  terminated_at timestamptz,
  primary key (tenant_id, build, session_id)
) with (fillfactor = 60); -- room for the next version of a row on its page
-- What changes while a session is open, its status, its limits and the time of that, is in no index and in no condition
-- of one: such a change writes a row and no entry in any index (a heap-only update).
-- These indexes are for listings, which state their condition (always true); a look-up by key can use the primary one
-- only, however little the planner knows of a table that is filling up.
-- Listings run newest first by position. The time stands before it, which gives the same order (an event's time is
-- never before the one ahead of it), so that `createdAfter` ends the scan instead of filtering it.
create index sessions_newest on sessions (tenant_id, build, created_at, position) where position > 0;
create index sessions_of_user on sessions (tenant_id, build, user_id, created_at, position) where position > 0;
-- For the listings of active and of paused ones. Those of terminated ones run over all, past the open ones.
create index sessions_open on sessions (tenant_id, build, created_at, position)
  where terminated_at is null and position > 0;

create table session_usage (
  tenant_id bigint not null,
  build integer not null,
  session_id text collate "C" not null,
  -- In units of the currency, exact to the twelve places that a charge is rounded to.
  cost numeric not null,
  reserved numeric not null,
  unconfirmed numeric not null,
  compute_ms bigint not null,
  active_agents bigint not null,
  agents_created bigint not null,
  model_calls bigint not null,
  primary key (tenant_id, build, session_id)
);

do $$
declare name text;
begin
  foreach name in array array['sessions', 'session_usage'] loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy tenant_wall on %I using (tenant_id = current_tenant())', name);
    execute format('grant select, insert, update, delete on %I to theazo_serve', name);
  end loop;
end $$;
