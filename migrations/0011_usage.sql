-- What usage and billing are read from: the ledger, and its sums by periods of UTC.

create table ledger (
  tenant_id bigint not null,
  build integer not null,
  -- The event that the line is of, and its place there. The settled charges of an event are its first lines.
  position bigint not null,
  entry bigint not null,
  -- When it counts: the time of its event, but for the few lines that are late.
  at timestamptz not null,
  late bigint not null,
  -- On a bill: usage, rating or adjustment. Beside it: unconfirmed, withdrawn, call, rated, session or agent.
  line text collate "C" not null,
  -- model, compute, storage or orchestration
  category text collate "C",
  user_id text collate "C" not null,
  session_id text collate "C" not null,
  agent_id text collate "C",
  task_id text collate "C",
  model text collate "C",
  quantity numeric,
  unit text collate "C",
  -- In units of the currency, for so many units; null where there was no price.
  price_amount numeric,
  price_per bigint,
  rate_card text collate "C",
  -- In units of the currency, exact.
  cost numeric not null,
  -- The charge that an adjustment corrects.
  corrects_position bigint,
  corrects_entry bigint,
  -- When that was used which a rating gives its price.
  used_at timestamptz,
  -- Calls to a model that it counts, and those that are unrated from it on.
  calls bigint not null,
  unrated_calls bigint not null,
  primary key (tenant_id, build, position, entry)
);
-- Times follow positions in the log, so lines that are not late are found by their positions, and by whom they are of
-- through event_subjects. These indexes are for whoever states their condition.
create index ledger_late on ledger (tenant_id, build, at) where late = 1;
create index ledger_by_category on ledger (tenant_id, build, category, position, entry) where position > 0;
create index ledger_by_model on ledger (tenant_id, build, model, position, entry)
  where model is not null and position > 0;

-- Rows of the present period change with every append: there is room on their page for their next versions.
create table usage_totals (
  tenant_id bigint not null,
  build integer not null,
  -- month, day, hour or minute
  grain text collate "C" not null,
  start timestamptz not null,
  -- Empty in the row that counts sessions and agents.
  category text collate "C" not null,
  model text collate "C" not null,
  cost numeric not null,
  unconfirmed numeric not null,
  gb_hours numeric not null,
  entries bigint not null,
  calls bigint not null,
  input_tokens bigint not null,
  output_tokens bigint not null,
  cache_read_tokens bigint not null,
  cache_write_tokens bigint not null,
  compute_ms bigint not null,
  orchestration_ms bigint not null,
  unrated_calls bigint not null,
  unrated_input_tokens bigint not null,
  unrated_output_tokens bigint not null,
  sessions bigint not null,
  agents bigint not null,
  primary key (tenant_id, build, grain, start, category, model)
) with (fillfactor = 60);

create table usage_by_user (
  tenant_id bigint not null,
  build integer not null,
  -- month, ten_days or day
  grain text collate "C" not null,
  start timestamptz not null,
  user_id text collate "C" not null,
  cost numeric not null,
  entries bigint not null,
  sessions bigint not null,
  agents bigint not null,
  primary key (tenant_id, build, grain, start, user_id)
) with (fillfactor = 60);

create table usage_by_agent (
  tenant_id bigint not null,
  build integer not null,
  -- month, ten_days, day, hour or minute
  grain text collate "C" not null,
  start timestamptz not null,
  user_id text collate "C" not null,
  session_id text collate "C" not null,
  -- Empty where it is no agent's.
  agent_id text collate "C" not null,
  cost numeric not null,
  entries bigint not null,
  sessions bigint not null,
  agents bigint not null,
  primary key (tenant_id, build, grain, start, user_id, session_id, agent_id)
) with (fillfactor = 70);

do $$
declare name text;
begin
  foreach name in array array['ledger', 'usage_totals', 'usage_by_user', 'usage_by_agent'] loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy tenant_wall on %I using (tenant_id = current_tenant())', name);
    execute format('grant select, insert, update, delete on %I to theazo_serve', name);
  end loop;
end $$;
