-- The read models of rate cards, and of what is still to become known of money.

create table rate_cards (
  tenant_id bigint not null,
  build integer not null,
  version text collate "C" not null,
  -- The card in force at a moment is the one with the newest such date that is not after it; of two, the later import.
  effective_from timestamptz not null,
  sha256 text collate "C" not null,
  -- The whole card, as in the event.
  card json not null,
  position bigint not null,
  imported_at timestamptz not null,
  primary key (tenant_id, build, version)
);
create index rate_cards_by_date on rate_cards (tenant_id, build, effective_from, position);

-- Calls to models whose usage is not known, until they are reconciled.
create table unconfirmed_calls (
  tenant_id bigint not null,
  build integer not null,
  call_id text collate "C" not null,
  agent_id text collate "C" not null,
  session_id text collate "C" not null,
  user_id text collate "C" not null,
  task_id text collate "C" not null,
  model text not null,
  -- In units of the currency, exact: the worst case.
  cost numeric not null,
  reason text not null,
  -- The call's id at its vendor's.
  vendor_id text,
  position bigint not null,
  created_at timestamptz not null,
  primary key (tenant_id, build, call_id)
);
create index unconfirmed_calls_newest on unconfirmed_calls (tenant_id, build, position) where position > 0;

-- Agents with usage of models that have no price, until that is rated.
create table unrated_usage (
  tenant_id bigint not null,
  build integer not null,
  model text collate "C" not null,
  agent_id text collate "C" not null,
  position bigint not null,
  primary key (tenant_id, build, model, agent_id)
);

do $$
declare name text;
begin
  foreach name in array array['rate_cards', 'unconfirmed_calls', 'unrated_usage'] loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy tenant_wall on %I using (tenant_id = current_tenant())', name);
    execute format('grant select, insert, update, delete on %I to theazo_serve', name);
  end loop;
end $$;
