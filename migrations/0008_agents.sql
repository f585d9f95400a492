-- The read models of agents and their work.

create table agents (
  tenant_id bigint not null,
  build integer not null,
  agent_id text collate "C" not null,
  session_id text collate "C" not null,
  user_id text collate "C" not null,
  definition_id text collate "C",
  definition_version bigint,
  -- Instructions by their content beside the log, tools, model, compute.
  config json not null,
  provider text collate "C" not null,
  browser bigint not null,
  timeout_s bigint not null,
  -- How the provider finds the sandbox; null before it is made and once it is gone.
  sandbox text,
  ready bigint not null,
  -- requested or paused; null where it does not pause
  pause text collate "C",
  -- terminated or failed
  ending text collate "C",
  error_code text,
  error_message text,
  -- The task that is not finished.
  task_id text collate "C",
  newest_task_id text collate "C",
  stored_bytes bigint,
  position bigint not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  -- It follows from the rest, as the fold of an agent's life says (domain/agent/life.rs).
  status text collate "C" not null generated always as (
    case when ending is not null then ending
         when pause = 'paused' then 'paused'
         when pause = 'requested' then 'pausing'
         when ready = 0 then 'provisioning'
         when task_id is not null then 'running'
         else 'idle' end) stored,
  primary key (tenant_id, build, agent_id)
);
-- These indexes are for listings, which state their condition (always true).
create index agents_newest on agents (tenant_id, build, position) where position > 0;
create index agents_of_session on agents (tenant_id, build, session_id, position) where position > 0;

create table tasks (
  tenant_id bigint not null,
  build integer not null,
  task_id text collate "C" not null,
  agent_id text collate "C" not null,
  session_id text collate "C" not null,
  user_id text collate "C" not null,
  -- queued, running, completed, failed or cancelled
  status text collate "C" not null,
  -- cnt_…: what is to be done
  task_content_id text collate "C" not null,
  -- cnt_…: the model's answer that is the output
  output_content_id text collate "C",
  error_code text,
  error_message text,
  -- In units of the currency, exact: the sum of the charges that name the task.
  cost numeric not null,
  tool_calls bigint not null,
  position bigint not null,
  created_at timestamptz not null,
  started_at timestamptz,
  completed_at timestamptz,
  primary key (tenant_id, build, task_id)
);
create index tasks_of_agent on tasks (tenant_id, build, agent_id, position) where position > 0;

create table execs (
  tenant_id bigint not null,
  build integer not null,
  exec_id text collate "C" not null,
  agent_id text collate "C" not null,
  -- running, finished, timed_out, provider_error or interrupted
  status text collate "C" not null,
  -- cnt_…: what is answered
  result_content_id text collate "C",
  duration_ms bigint,
  position bigint not null,
  created_at timestamptz not null,
  primary key (tenant_id, build, exec_id)
);

-- What has to happen next.
create table work (
  tenant_id bigint not null,
  build integer not null,
  kind text collate "C" not null,
  -- What it is about: an agent, or a caller's program.
  subject text collate "C" not null,
  agent_id text collate "C" not null,
  session_id text collate "C" not null,
  task_id text collate "C",
  due_at timestamptz not null,
  primary key (tenant_id, build, kind, subject)
);
create index work_due on work (due_at);

-- Who does a piece of work. No read model: it is not in the log, and a lost row costs no more than a lease's time.
create table leases (
  tenant_id bigint not null,
  kind text collate "C" not null,
  subject text collate "C" not null,
  -- The server that has it: one name a process.
  worker text collate "C" not null,
  -- Past this another may take it.
  expires_at timestamptz not null,
  primary key (tenant_id, kind, subject)
) with (fillfactor = 50);
create index leases_by_worker on leases (worker);

do $$
declare name text;
begin
  foreach name in array array['agents', 'tasks', 'execs', 'work', 'leases'] loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy tenant_wall on %I using (tenant_id = current_tenant())', name);
    execute format('grant select, insert, update, delete on %I to theazo_serve', name);
  end loop;
end $$;

-- Work that is due, of every tenant, taken by a server. It runs before a tenant is known, so it looks over the wall, as
-- a role that may read these columns and move leases and nothing else, and tells no more than whose work it is, which
-- kind and about what.
create policy lookup on work for select to theazo_lookup using (true);
create policy lookup on leases to theazo_lookup using (true);
grant select (tenant_id, build, kind, subject, due_at) on work to theazo_lookup;
grant select, insert, update, delete on leases to theazo_lookup;

-- `at` is the caller's clock where the database's own, which all servers share, is not to be used.
create function claim_work(server text, most integer, lease_ms integer, at timestamptz)
  returns table (tenant_id bigint, kind text, subject text)
  language plpgsql security definer set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
  moment timestamptz := coalesce(at, clock_timestamp());
begin
  return query
    with due as (
      select w.tenant_id, w.kind, w.subject from work w
      left join leases l on l.tenant_id = w.tenant_id and l.kind = w.kind and l.subject = w.subject
      where w.due_at <= moment and (l.expires_at is null or l.expires_at <= moment)
        and w.build = live_build(w.tenant_id, 'work')
      order by w.due_at limit most
    ), taken as (
      insert into leases as l (tenant_id, kind, subject, worker, expires_at)
      select d.tenant_id, d.kind, d.subject, server, moment + make_interval(secs => lease_ms / 1000.0) from due d
      on conflict (tenant_id, kind, subject) do update
        set worker = excluded.worker, expires_at = excluded.expires_at
        where l.expires_at <= moment
      returning l.tenant_id, l.kind, l.subject
    ) select t.tenant_id, t.kind, t.subject from taken t;
end $$;

-- A server says that it is still at its work. What it has lost meanwhile it is not told: it learns so when it tells the
-- log what it did under a claim that another has followed.
create function renew_leases(server text, lease_ms integer, at timestamptz) returns integer
  language plpgsql security definer set search_path = public, pg_temp as $$
declare
  moment timestamptz := coalesce(at, clock_timestamp());
  renewed integer;
begin
  update leases l set expires_at = moment + make_interval(secs => lease_ms / 1000.0)
    where l.worker = server and l.expires_at > moment;
  get diagnostics renewed = row_count;
  return renewed;
end $$;

-- A server lets go of a piece of work, done or not.
create function release_lease(server text, tenant bigint, what text, about text) returns void
  language sql security definer set search_path = public, pg_temp
  as $$ delete from leases l
        where l.tenant_id = tenant and l.kind = what and l.subject = about and l.worker = server $$;

-- A server that stops hands back all that it has.
create function release_leases(server text) returns void
  language sql security definer set search_path = public, pg_temp
  as $$ delete from leases l where l.worker = server $$;

grant create on schema public to theazo_lookup;
do $$
declare name text;
begin
  foreach name in array array['claim_work(text, integer, integer, timestamptz)',
      'renew_leases(text, integer, timestamptz)', 'release_lease(text, bigint, text, text)',
      'release_leases(text)'] loop
    execute format('alter function %s owner to theazo_lookup', name);
    execute format('revoke all on function %s from public', name);
    execute format('grant execute on function %s to theazo_serve', name);
  end loop;
end $$;
revoke create on schema public from theazo_lookup;
