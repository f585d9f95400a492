-- The log: what happened, in one order a tenant. Everything else in this database is a fold of it, lies beside it,
-- or says who may look.
--
-- Two walls stand between tenants. The first is in the program: every statement takes the tenant. The second is
-- here: row-level security on every table of a tenant, forced on the owner too. A transaction names its one tenant
-- with set_config('theazo.tenant', …, true); where none is named, nothing is seen and nothing can be written.

-- The role that serves. It owns nothing, so it cannot lift the walls, and it may not change what has happened.
do $$ begin create role theazo_serve nologin; exception when duplicate_object or unique_violation then null; end $$;
-- The role that finds the tenant of a credential, before a tenant is known. Only functions run as it.
do $$ begin create role theazo_lookup nologin; exception when duplicate_object or unique_violation then null; end $$;
do $$ begin execute format('grant theazo_serve, theazo_lookup to %I', session_user); exception when others then
  if not pg_has_role(session_user, 'theazo_lookup', 'member') then raise; end if; end $$;
grant usage on schema public to theazo_serve, theazo_lookup;

-- The tenant that the present transaction is for; null where it named none.
create function current_tenant() returns bigint language sql stable parallel safe
  as $$ select nullif(current_setting('theazo.tenant', true), '')::bigint $$;

-- A tenant is an organization in one mode. This registry gives it the number that every other table begins with.
create table tenants (
  tenant_id bigint generated always as identity primary key,
  -- org_…: the same in both modes.
  organization_id text collate "C" not null,
  -- The two modes share nothing but the organization's id.
  mode text not null check (mode in ('live', 'test')),
  created_at timestamptz not null default now(),
  unique (organization_id, mode)
);

-- Where each log ends. Its row is the lock of the log: whoever appends holds it, so appends have one order.
create table heads (
  tenant_id bigint primary key references tenants,
  -- The position of the last event; 0 where there is none.
  position bigint not null default 0,
  -- The time of the last event: the next one's is never before it.
  last_at timestamptz not null default 'epoch',
  -- The RFC 6962 tree over the leaf hashes 1 to position, as the roots of its full subtrees, largest first, 32
  -- bytes each: all that appending a leaf needs.
  frontier bytea not null default '',
  -- The root of that tree: the hash of the whole log.
  root bytea not null default sha256(''),
  -- The set of projections that are kept up with this log. A server of a lower one must not append.
  projection_epoch integer not null default 0,
  -- Goes up whenever the builds of this tenant's projections change, so that an appender reads them again.
  builds_revision bigint not null default 0
) with (fillfactor = 50); -- room for the new version of the row on the same page, at every append

-- Moves the head of a log, and holds its lock until the transaction ends, if the log still ends where the caller thinks
-- it does, under the same read models. Else nothing of the transaction may be done: what it writes was decided on a
-- state that is not the log's.
create function move_head(tenant bigint, from_position bigint, epoch integer, revision bigint, to_position bigint,
    moment timestamptz, new_frontier bytea, new_root bytea) returns void language plpgsql as $$
begin
  update heads h set position = to_position, last_at = moment, frontier = new_frontier, root = new_root
    where h.tenant_id = tenant and h.position = from_position and h.projection_epoch = epoch
      and h.builds_revision = revision;
  if not found then
    raise exception 'the log has moved' using errcode = 'TH001';
  end if;
end $$;

-- What happened. Rows are written once and never again.
create table events (
  tenant_id bigint not null,
  -- 1, 2, 3 … without a gap, in the order of commits: given under the lock of the head.
  position bigint not null,
  -- evt_…, drawn before the append: by it a server whose connection broke in the commit finds out how it ended.
  event_id text collate "C" not null,
  -- What kind of thing happened, such as session.created.
  type text collate "C" not null,
  -- The format of data; older ones are read through upcasters.
  version smallint not null,
  -- The ids it is about. The same pairs stand in event_subjects, to be found by.
  subjects text[] collate "C" not null,
  -- json, not jsonb: these very bytes are hashed.
  data json not null,
  -- Who asked, in which request, with which idempotency key, because of which event.
  metadata json not null,
  -- When, to the millisecond; never before the event ahead of it.
  at timestamptz not null,
  -- SHA-256 of 0x00 and the canonical bytes of all of the above: a leaf of the tenant's tree.
  leaf_hash bytea not null,
  primary key (tenant_id, position)
);
-- Its condition is always true; whoever wants this index states it. So a look-up of one event by its whole key can use
-- no index but the primary one, however little the planner knows of a table that is filling up.
create index events_by_type on events (tenant_id, type, position) where position > 0;

-- The last position of a log whose time is before a moment; 0 where there is none. Times follow positions, so it
-- halves its way there and needs no index on the time.
create function position_before(tenant bigint, moment timestamptz) returns bigint language plpgsql stable as $$
declare
  low bigint := 0;
  high bigint := coalesce((select h.position from heads h where h.tenant_id = tenant), 0);
  middle bigint;
begin
  while low < high loop
    middle := (low + high + 1) / 2;
    if (select e.at from events e where e.tenant_id = tenant and e.position = middle) < moment then
      low := middle;
    else
      high := middle - 1;
    end if;
  end loop;
  return low;
end $$;

-- Which events each subject has. An event belongs to every subject that it names.
create table event_subjects (
  tenant_id bigint not null,
  subject text collate "C" not null,
  position bigint not null,
  primary key (tenant_id, subject, position)
);

-- What is personal, beside the log: written in the transaction of its event, which holds the row's id and a digest.
-- Erasing a person deletes rows here, and every hash of the log still verifies.
create table content (
  tenant_id bigint not null,
  -- cnt_…
  content_id text collate "C" not null,
  -- The position of the event that refers to it.
  position bigint not null,
  -- Whose it is (usr_…), so that a person can be erased; null where it is nobody's in particular.
  user_id text collate "C",
  -- Random, so that nobody who guesses the body can prove the guess by the digest once this row is gone.
  salt bytea not null,
  -- The content itself: text or JSON.
  body text not null,
  primary key (tenant_id, content_id)
);
create index content_by_user on content (tenant_id, user_id) where user_id is not null;

-- The one table that knows the caller's own userId. Everywhere else the person is usr_….
create table end_users (
  tenant_id bigint not null,
  user_id text collate "C" not null,
  -- Compared byte for byte.
  external_id text collate "C" not null,
  primary key (tenant_id, user_id),
  unique (tenant_id, external_id)
);

-- Folded states of long-lived aggregates, so that loading one does not read its whole history.
create table snapshots (
  tenant_id bigint not null,
  subject text collate "C" not null,
  -- The last event of the log that is in the state.
  position bigint not null,
  -- The format of the state; one of another format is ignored and folded anew.
  format integer not null,
  state json not null,
  primary key (tenant_id, subject)
);

-- The first answers of requests that carried an Idempotency-Key, written in the transaction of their work.
create table idempotency (
  tenant_id bigint not null,
  -- Keyed digest of the caller's key and of whose it is.
  key_digest bytea not null,
  -- Keyed digest of method, path, query and body: another request under the same key is refused.
  fingerprint bytea not null,
  -- Status and body, encrypted, since some show a secret once.
  answer bytea not null,
  created_at timestamptz not null,
  primary key (tenant_id, key_digest)
);
create index idempotency_by_age on idempotency (tenant_id, created_at) where created_at > 'epoch';

-- The versions of each read model that exist for a tenant. Rows of a read model carry the number of their build.
create table projection_builds (
  tenant_id bigint not null,
  projection text collate "C" not null,
  build integer not null,
  -- The version of the fold that made it.
  version integer not null,
  -- live: served, and kept up inside the append. beside: kept up too, to be compared and switched to.
  -- building: behind, folding from the log.
  state text not null check (state in ('live', 'beside', 'building')),
  started_at timestamptz not null default now(),
  primary key (tenant_id, projection, build)
);
create unique index one_live_build on projection_builds (tenant_id, projection) where state = 'live';

-- The build of a projection that is served. In plpgsql, which keeps its plan for as long as the connection lives: a
-- function in SQL is planned anew by every statement that calls it, which took longer than reading a row by its key.
create function live_build(tenant bigint, name text) returns integer language plpgsql stable parallel safe as $$
begin
  return (select b.build from projection_builds b
          where b.tenant_id = tenant and b.projection = name and b.state = 'live');
end $$;

-- Random keys of the server (the pepper of API keys, the key of kept answers, of cursors …), wrapped by the master
-- key. They belong to no tenant.
create table server_keys (
  name text primary key,
  -- Which master key wraps it: a public fingerprint.
  master_key_id text not null,
  wrapped bytea not null,
  created_at timestamptz not null default now()
);

-- Requests counted against each API key's rate, exact to the millisecond and shared by every server. Lost in a
-- crash of the database, when the count begins anew: hence unlogged, and cheap.
create unlogged table rate_windows (
  tenant_id bigint not null,
  key_id text collate "C" not null,
  -- The sum of the hits that lie in the window.
  used integer not null,
  -- The time of the last hit, so that a clock that steps back cannot reorder them.
  last_ms bigint not null,
  primary key (tenant_id, key_id)
) with (fillfactor = 50);
create unlogged table rate_hits (
  tenant_id bigint not null,
  key_id text collate "C" not null,
  at_ms bigint not null,
  hits integer not null,
  primary key (tenant_id, key_id, at_ms)
);

-- Counts up to `wanted` requests against a key, as many as the window of the last minute has room for.
-- `clock_ms` is the caller's clock where the database's own is not to be used.
create function rate_admit(key text, wanted integer, allowed integer, clock_ms bigint)
  returns table (admitted integer, used_before integer, oldest_ms bigint, now_ms bigint)
  language plpgsql as $$
declare
  tenant bigint := current_tenant();
  spent integer;
  expired integer;
  last bigint;
begin
  insert into rate_windows values (tenant, key, 0, 0) on conflict do nothing;
  select w.used, w.last_ms into spent, last from rate_windows w
    where w.tenant_id = tenant and w.key_id = key for update;
  now_ms := greatest(last, coalesce(clock_ms, floor(extract(epoch from clock_timestamp()) * 1000)::bigint));
  with gone as (
    delete from rate_hits h where h.tenant_id = tenant and h.key_id = key and h.at_ms <= now_ms - 60000
    returning h.hits
  ) select coalesce(sum(hits), 0) into expired from gone;
  used_before := spent - expired;
  admitted := greatest(0, least(wanted, allowed - used_before));
  if admitted > 0 then
    insert into rate_hits as h values (tenant, key, now_ms, admitted)
      on conflict (tenant_id, key_id, at_ms) do update set hits = h.hits + excluded.hits;
  end if;
  update rate_windows w set used = used_before + admitted, last_ms = now_ms
    where w.tenant_id = tenant and w.key_id = key;
  select min(h.at_ms) into oldest_ms from rate_hits h where h.tenant_id = tenant and h.key_id = key;
  return next;
end $$;

-- The walls.
do $$
declare name text;
begin
  foreach name in array array['tenants', 'heads', 'events', 'event_subjects', 'content', 'end_users', 'snapshots',
      'idempotency', 'projection_builds', 'rate_windows', 'rate_hits'] loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy tenant_wall on %I using (tenant_id = current_tenant())', name);
  end loop;
end $$;

-- The registry of tenants, by organization; of all of them where none is named. It runs before a tenant is known.
create policy lookup on tenants for select to theazo_lookup using (true);
grant select on tenants to theazo_lookup;
create function find_tenants(organization text) returns table (tenant_id bigint, organization_id text, mode text)
  language sql stable security definer set search_path = public, pg_temp
  as $$ select t.tenant_id, t.organization_id, t.mode from tenants t
        where organization is null or t.organization_id = organization order by t.tenant_id $$;
grant create on schema public to theazo_lookup;
alter function find_tenants(text) owner to theazo_lookup;
revoke create on schema public from theazo_lookup;
revoke all on function find_tenants(text) from public;
grant execute on function find_tenants(text) to theazo_serve;

-- What has happened stays: no update or delete of events, for anyone who serves.
grant select, insert on events, event_subjects to theazo_serve;
grant select on tenants, server_keys to theazo_serve;
grant select, update on heads to theazo_serve;
grant select, insert, delete on content, end_users, idempotency to theazo_serve;
grant select, insert, update, delete on snapshots, projection_builds, rate_windows, rate_hits to theazo_serve;
